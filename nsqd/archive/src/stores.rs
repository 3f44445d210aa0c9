//! Folders and clouds, through the crate `object_store`.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use crate::objects::{Created, Listed, Objects, Remedy, StoreError};

/// A store of the crate `object_store`, below a prefix.
#[derive(Debug)]
pub(crate) struct ForeignStore<S> {
    pub store: S,
    /// What the names of all objects begin with; empty, or without a slash at its end.
    pub prefix: String,
}

impl<S: ObjectStore> ForeignStore<S> {
    fn path(&self, operation: &'static str, key: &str) -> Result<Path, StoreError> {
        let whole = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        Path::parse(whole.trim_end_matches('/')).map_err(|error| StoreError {
            operation,
            key: key.to_owned(),
            cause: error.to_string(),
            remedy: Remedy::Location,
        })
    }

    /// The name of an object without the prefix.
    fn key<'p>(&self, path: &'p Path) -> Option<&'p str> {
        let path = path.as_ref();
        if self.prefix.is_empty() { Some(path) } else { path.strip_prefix(&self.prefix)?.strip_prefix('/') }
    }
}

fn failure(operation: &'static str, key: &str, error: &Error) -> StoreError {
    let remedy = match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => Remedy::Credentials,
        Error::NotFound { .. } | Error::NotSupported { .. } | Error::NotImplemented { .. } => {
            Remedy::Location
        }
        _ => Remedy::Wait,
    };
    StoreError { operation, key: key.to_owned(), cause: error.to_string(), remedy }
}

#[async_trait]
impl<S: ObjectStore> Objects for ForeignStore<S> {
    async fn create(&self, key: &str, object: Bytes) -> Result<Created, StoreError> {
        let path = self.path("create", key)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&path, object.into(), options).await {
            Ok(_) => Ok(Created::New),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Created::Exists),
            Err(error) => Err(failure("create", key, &error)),
        }
    }

    async fn replace(&self, key: &str, object: Bytes) -> Result<(), StoreError> {
        let path = self.path("write", key)?;
        self.store.put(&path, object.into()).await.map(drop).map_err(|error| failure("write", key, &error))
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let path = self.path("read", key)?;
        let body = match self.store.get(&path).await {
            Ok(found) => found.bytes().await,
            Err(error) => Err(error),
        };
        match body {
            Ok(object) => Ok(Some(object)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failure("read", key, &error)),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let path = self.path("list", prefix)?;
        let found: Vec<_> = (self.store.list(Some(&path)).try_collect().await)
            .map_err(|error| failure("list", prefix, &error))?;
        let listed = found.iter().filter_map(|object| {
            let key = self.key(&object.location)?.to_owned();
            Some(Listed { key, bytes: object.size })
        });
        Ok(listed.collect())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path("delete", key)?;
        match self.store.delete(&path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failure("delete", key, &error)),
        }
    }
}
