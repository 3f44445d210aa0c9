//! Opens the store of a URL.
//!
//! | URL | store |
//! |---|---|
//! | `file:///path`, `/path` | a folder, which must exist; local or shared |
//! | `memory:` | this process, for tests |
//! | `s3://bucket/prefix` | S3 and stores that speak its protocol |
//! | `az://container/prefix` | Azure Blob Storage |
//! | `gs://bucket/prefix` | Google Cloud Storage |
//!
//! Credentials, region and endpoint of the clouds come from the environment variables of each cloud, such as
//! `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `AZURE_STORAGE_ACCOUNT_NAME` and `GOOGLE_SERVICE_ACCOUNT`, or from the machine's
//! identity. They are never part of the URL.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use object_store::local::LocalFileSystem;
use url::Url;

use crate::memory::MemoryObjects;
use crate::objects::Objects;
use crate::stores::ForeignStore;

/// Where an archive is. Opening it sends nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    scheme: Scheme,
    /// A folder's path, or a bucket.
    place: String,
    /// What the names of all objects begin with, without slashes at its ends.
    prefix: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Folder,
    Memory,
    S3,
    Azure,
    Google,
}

/// Why a text is not the URL of an archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadLocation {
    #[error(
        "not a URL: {0}; use file:///path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix"
    )]
    NotAUrl(String),
    #[error(
        "{0}: is not a kind of store; use file:///path, s3://bucket/prefix, az://container/prefix or gs://bucket/prefix"
    )]
    Scheme(String),
    #[error("the URL has no bucket; use {0}://bucket/prefix")]
    NoBucket(String),
    #[error("the path of a folder must be absolute: file:///path")]
    Relative,
    #[error(
        "the URL must have no user, password, port, query or fragment; set credentials and endpoint in the environment"
    )]
    TooMuch,
    #[error("the prefix {0:?} has a part that is empty, . or ..")]
    Prefix(String),
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open the archive {location}: {cause}; create the folder, or change the URL")]
    Folder { location: Location, cause: String },
    #[error("cannot open the archive {location}: {cause}; check the environment variables of the store")]
    Cloud { location: Location, cause: String },
    #[error(
        "cannot open the archive {0}: this program was built without this kind of store; build it with the feature"
    )]
    NotBuilt(Location),
}

impl FromStr for Location {
    type Err = BadLocation;

    fn from_str(text: &str) -> Result<Self, BadLocation> {
        if text.starts_with('/') {
            return Ok(Location { scheme: Scheme::Folder, place: text.to_owned(), prefix: String::new() });
        }
        let url = Url::parse(text).map_err(|error| BadLocation::NotAUrl(error.to_string()))?;
        let has_more = url.query().is_some() || url.fragment().is_some() || url.port().is_some();
        if has_more || !url.username().is_empty() || url.password().is_some() {
            return Err(BadLocation::TooMuch);
        }
        let scheme = match url.scheme() {
            "file" => Scheme::Folder,
            "memory" => Scheme::Memory,
            "s3" => Scheme::S3,
            "az" => Scheme::Azure,
            "gs" => Scheme::Google,
            other => return Err(BadLocation::Scheme(other.to_owned())),
        };
        match scheme {
            Scheme::Memory => return Ok(Location { scheme, place: String::new(), prefix: String::new() }),
            Scheme::Folder => {
                let path = url.to_file_path().map_err(|()| BadLocation::Relative)?;
                let place = path.into_os_string().into_string().map_err(|_| BadLocation::Relative)?;
                return Ok(Location { scheme, place, prefix: String::new() });
            }
            Scheme::S3 | Scheme::Azure | Scheme::Google => {}
        }
        let Some(place) = url.host_str().filter(|host| !host.is_empty()) else {
            return Err(BadLocation::NoBucket(url.scheme().to_owned()));
        };
        // The text as typed: a URL drops dots and encodes spaces.
        let path =
            text.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        let prefix = path.trim_end_matches('/').to_owned();
        if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(BadLocation::Prefix(prefix));
        }
        Ok(Location { scheme, place: place.to_owned(), prefix })
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Folder => "file",
            Scheme::Memory => return f.write_str("memory:"),
            Scheme::S3 => "s3",
            Scheme::Azure => "az",
            Scheme::Google => "gs",
        };
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{scheme}://{}{slash}{}", self.place, self.prefix)
    }
}

impl Location {
    /// Opens the store. Reads the environment, and for a cloud the system's certificates; sends nothing.
    pub fn open(&self) -> Result<Arc<dyn Objects>, OpenError> {
        // A variable that is not UTF-8 is none of a cloud.
        let texts = std::env::vars_os().map(|(name, value)| (name.into_string(), value.into_string()));
        let settings = texts.filter_map(|(name, value)| Some((name.ok()?, value.ok()?)));
        self.open_with(&settings.collect::<Vec<_>>())
    }

    /// As [`Location::open`], with these variables instead of the environment's.
    pub fn open_with(&self, environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        match self.scheme {
            Scheme::Memory => Ok(Arc::new(MemoryObjects::default())),
            Scheme::Folder => {
                let store = LocalFileSystem::new_with_prefix(&self.place).map_err(|error| {
                    OpenError::Folder { location: self.clone(), cause: error.to_string() }
                })?;
                // Otherwise an acknowledged chunk would not survive a power failure of a local folder.
                Ok(self.below_prefix(store.with_fsync(true)))
            }
            Scheme::S3 => self.open_s3(environment),
            Scheme::Azure => self.open_azure(environment),
            Scheme::Google => self.open_google(environment),
        }
    }

    fn below_prefix(&self, store: impl object_store::ObjectStore) -> Arc<dyn Objects> {
        Arc::new(ForeignStore { store, prefix: self.prefix.clone() })
    }

    #[cfg(feature = "s3")]
    fn open_s3(&self, environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        use object_store::aws::AmazonS3Builder;
        let builder = cloud::settings(environment, &["AWS_"])
            .fold(AmazonS3Builder::new(), |builder, (key, value)| builder.with_config(key, value))
            .with_bucket_name(&self.place)
            .with_conditional_put(object_store::aws::S3ConditionalPut::ETagMatch)
            .with_http_connector(crate::http_client::SystemClient)
            .with_retry(cloud::no_retries());
        Ok(self.below_prefix(builder.build().map_err(|error| self.cloud_error(&error))?))
    }

    #[cfg(feature = "azure")]
    fn open_azure(&self, environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        use object_store::azure::MicrosoftAzureBuilder;
        let builder = cloud::settings(environment, &["AZURE_", "MSI_"])
            .fold(MicrosoftAzureBuilder::new(), |builder, (key, value)| builder.with_config(key, value))
            .with_container_name(&self.place)
            .with_http_connector(crate::http_client::SystemClient)
            .with_retry(cloud::no_retries());
        Ok(self.below_prefix(builder.build().map_err(|error| self.cloud_error(&error))?))
    }

    #[cfg(feature = "gcs")]
    fn open_google(&self, environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        use object_store::gcp::GoogleCloudStorageBuilder;
        let builder = cloud::settings(environment, &["GOOGLE_", "SERVICE_ACCOUNT"])
            .fold(GoogleCloudStorageBuilder::new(), |builder, (key, value)| builder.with_config(key, value))
            .with_bucket_name(&self.place)
            .with_http_connector(crate::http_client::SystemClient)
            .with_retry(cloud::no_retries());
        Ok(self.below_prefix(builder.build().map_err(|error| self.cloud_error(&error))?))
    }

    #[cfg(not(feature = "s3"))]
    fn open_s3(&self, _environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        Err(OpenError::NotBuilt(self.clone()))
    }

    #[cfg(not(feature = "azure"))]
    fn open_azure(&self, _environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        Err(OpenError::NotBuilt(self.clone()))
    }

    #[cfg(not(feature = "gcs"))]
    fn open_google(&self, _environment: &[(String, String)]) -> Result<Arc<dyn Objects>, OpenError> {
        Err(OpenError::NotBuilt(self.clone()))
    }

    #[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
    fn cloud_error(&self, error: &object_store::Error) -> OpenError {
        OpenError::Cloud { location: self.clone(), cause: error.to_string() }
    }
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
mod cloud {
    use std::str::FromStr;
    use std::time::Duration;

    use object_store::RetryConfig;

    /// The variables whose names begin so and that the builder of a store knows.
    pub(super) fn settings<K: FromStr>(
        environment: &[(String, String)],
        beginnings: &[&str],
    ) -> impl Iterator<Item = (K, String)> {
        environment.iter().filter_map(|(name, value)| {
            let is_of_store = beginnings.iter().any(|beginning| name.starts_with(beginning));
            let key = is_of_store.then(|| name.to_ascii_lowercase().parse().ok())??;
            Some((key, value.clone()))
        })
    }

    /// A request that may have had its effect is not simply repeated: [`crate::ownership`] asks what happened.
    pub(super) fn no_retries() -> RetryConfig {
        RetryConfig { max_retries: 0, retry_timeout: Duration::ZERO, ..RetryConfig::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn location(text: &str) -> Result<Location, BadLocation> {
        text.parse()
    }

    #[test]
    fn urls_are_read_and_shown() {
        for (text, shown) in [
            ("/var/archive", "file:///var/archive"),
            ("file:///var/archive", "file:///var/archive"),
            ("memory:", "memory:"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("az://container/a", "az://container/a"),
            ("gs://bucket/a", "gs://bucket/a"),
        ] {
            assert_eq!(location(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_way_out() {
        assert!(matches!(location("bucket"), Err(BadLocation::NotAUrl(_))));
        assert_eq!(location("ftp://a/b"), Err(BadLocation::Scheme("ftp".to_owned())));
        assert_eq!(location("s3:///a"), Err(BadLocation::NoBucket("s3".to_owned())));
        for text in
            ["s3://key:secret@bucket/a", "s3://bucket/a?region=x", "s3://bucket:9000/a", "s3://bucket/#a"]
        {
            assert_eq!(location(text), Err(BadLocation::TooMuch), "{text}");
        }
        for text in ["s3://bucket//a", "s3://bucket/a/../b", "gs://bucket/./a"] {
            assert!(matches!(location(text), Err(BadLocation::Prefix(_))), "{text}");
        }
    }

    #[test]
    fn a_missing_folder_is_reported() {
        let error = location("/nowhere/at/all").unwrap().open().unwrap_err().to_string();
        assert!(error.contains("file:///nowhere/at/all") && error.contains("create the folder"), "{error}");
    }
}
