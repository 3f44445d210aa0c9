//! Profiles: named clusters in a configuration file, and aliases of commands.
//!
//! In reading order: this file (what the file may hold, and changes of its text), `store` (the file itself).

pub mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;

use nsq_protocol::redact::without_user_info;
use serde::{Deserialize, Serialize};
use toml_edit::{DocumentMut, Item, Table, value};

use crate::exit_status::{ExitStatus, Failure};

/// The content of the configuration file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of the profile in use.
    pub current: Option<String>,
    #[serde(default)]
    pub profile: BTreeMap<String, Profile>,
    /// Command lines by name.
    #[serde(default)]
    pub alias: BTreeMap<String, String>,
}

/// A cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Profile {
    /// HTTP addresses of nsqlookupds.
    #[serde(deserialize_with = "one_or_many")]
    pub lookupd: Vec<String>,
    /// HTTP addresses of nsqds.
    #[serde(deserialize_with = "one_or_many")]
    pub nsqd: Vec<String>,
    /// TCP addresses of nsqds.
    #[serde(deserialize_with = "one_or_many")]
    pub nsqd_tcp: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsProfile>,
    /// File with the secret. A profile never holds the secret itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_secret_file: Option<PathBuf>,
    /// Whether destructive commands ask for the name of the profile.
    pub protected: bool,
    /// Colour of the profile's name in questions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub color: Option<Color>,
}

/// TLS for a cluster: `tls = true`, or its details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TlsProfile {
    On(bool),
    Details(TlsDetails),
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsDetails {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    pub insecure: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Color {
    /// The escape sequence that begins a text of this colour.
    pub fn escape(self) -> &'static str {
        match self {
            Color::Red => "\x1b[31m",
            Color::Green => "\x1b[32m",
            Color::Yellow => "\x1b[33m",
            Color::Blue => "\x1b[34m",
            Color::Magenta => "\x1b[35m",
            Color::Cyan => "\x1b[36m",
        }
    }
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    let addresses = match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(list) => list.split(',').map(|address| address.trim().to_owned()).collect(),
        OneOrMany::Many(addresses) => addresses,
    };
    match addresses.iter().any(|address| address.trim().is_empty()) {
        true => {
            Err(serde::de::Error::custom("an address is empty; expected HOST:PORT, such as 10.0.0.1:4161"))
        }
        false => Ok(addresses),
    }
}

/// A profile with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    pub name: String,
    pub profile: Profile,
    /// Whether a flag or the environment names it, and not only the configuration file.
    pub is_explicit: bool,
}

impl Settings {
    /// Reads the text of the file. The error says where it is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let settings: Settings =
            toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())?;
        if let Some(wrong) = settings.profile.keys().find(|name| !is_name(name)) {
            return Err(format!(
                "invalid profile name {wrong:?}: use 1 to 64 characters of a-z A-Z 0-9 . _ -"
            ));
        }
        match &settings.current {
            Some(current) if !settings.profile.contains_key(current) => {
                Err(format!("current = {current:?} names no profile; there are: {}", settings.names()))
            }
            _ => Ok(settings),
        }
    }

    /// The profile that `asked` names, or else the current one.
    pub fn choose(&self, asked: Option<&str>) -> Result<Option<Named>, Failure> {
        let Some(name) = asked.or(self.current.as_deref()) else { return Ok(None) };
        let profile = self.profile.get(name).ok_or_else(|| self.unknown(name))?;
        Ok(Some(Named { name: name.to_owned(), profile: profile.clone(), is_explicit: asked.is_some() }))
    }

    /// The failure for a name that no profile has.
    pub fn unknown(&self, name: &str) -> Failure {
        let failure =
            Failure::new(ExitStatus::NotFound, format_args!("there is no profile {name}")).target(name);
        match self.profile.is_empty() {
            true => failure.hint(format!("add it: nsq profile add {name} --lookupd HOST:4161")),
            false => failure.hint(format!("profiles: {}", self.names())),
        }
    }

    fn names(&self) -> String {
        self.profile.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// Replaces an alias at the beginning of a command line by its words. `is_command` says which words are commands: an
    /// alias never hides one.
    pub fn expand(
        &self,
        line: Vec<std::ffi::OsString>,
        is_command: impl Fn(&str) -> bool,
    ) -> Result<Vec<std::ffi::OsString>, Failure> {
        let Some(text) = line.get(1).and_then(|word| word.to_str()).filter(|word| !is_command(word)) else {
            return Ok(line);
        };
        let Some(alias) = self.alias.get(text) else { return Ok(line) };
        let words = shlex::split(alias).filter(|words| !words.is_empty()).ok_or_else(|| {
            Failure::usage(format_args!("alias {text} = {alias:?}: a quote is not closed, or it is empty"))
        })?;
        let (first, rest) = (line[..1].to_vec(), line[2..].to_vec());
        Ok(first.into_iter().chain(words.into_iter().map(Into::into)).chain(rest).collect())
    }
}

/// Whether a profile may have this name.
pub fn is_name(name: &str) -> bool {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    (1..=64).contains(&name.len()) && name.chars().all(is_fine)
}

/// The text with another profile, or with a profile replaced. Comments elsewhere are kept.
pub fn with_profile(text: &str, name: &str, profile: &Profile) -> Result<String, String> {
    let mut document = parse_for_change(text)?;
    let mut table = Table::new();
    for (key, addresses) in
        [("lookupd", &profile.lookupd), ("nsqd", &profile.nsqd), ("nsqd_tcp", &profile.nsqd_tcp)]
    {
        if !addresses.is_empty() {
            let addresses = addresses.iter().map(|address| without_user_info(address).into_owned());
            table[key] = value(addresses.collect::<toml_edit::Array>());
        }
    }
    match &profile.tls {
        Some(TlsProfile::On(is_on)) => table["tls"] = value(*is_on),
        Some(TlsProfile::Details(details)) => {
            let mut tls = toml_edit::InlineTable::new();
            for (key, path) in [("ca", &details.ca), ("cert", &details.cert), ("key", &details.key)] {
                if let Some(path) = path {
                    tls.insert(key, path.display().to_string().into());
                }
            }
            if let Some(name) = &details.server_name {
                tls.insert("server_name", name.into());
            }
            if details.insecure {
                tls.insert("insecure", true.into());
            }
            table["tls"] = value(tls);
        }
        None => {}
    }
    if let Some(path) = &profile.auth_secret_file {
        table["auth_secret_file"] = value(path.display().to_string());
    }
    if profile.protected {
        table["protected"] = value(true);
    }
    if let Some(color) = profile.color {
        let name = serde_json::to_value(color).ok();
        table["color"] = value(name.as_ref().and_then(|name| name.as_str()).unwrap_or_default());
    }
    let mut parent = Table::new();
    parent.set_implicit(true);
    let profiles = document.entry("profile").or_insert(Item::Table(parent));
    let profiles = profiles.as_table_mut().ok_or("profile is not a table")?;
    profiles.insert(name, Item::Table(table));
    checked(&document)
}

/// The text without a profile; if it was the current one, there is none.
pub fn without_profile(text: &str, name: &str) -> Result<String, String> {
    let mut document = parse_for_change(text)?;
    if let Some(profiles) = document.get_mut("profile").and_then(Item::as_table_like_mut) {
        profiles.remove(name);
    }
    if document.get("current").and_then(Item::as_str) == Some(name) {
        document.remove("current");
    }
    checked(&document)
}

/// The text with another current profile; `None` for none.
pub fn with_current(text: &str, name: Option<&str>) -> Result<String, String> {
    let mut document = parse_for_change(text)?;
    match name {
        Some(name) => document["current"] = value(name),
        None => drop(document.remove("current")),
    }
    checked(&document)
}

fn parse_for_change(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|error: toml_edit::TomlError| error.to_string())
}

/// Only a text that can be read again is written.
fn checked(document: &DocumentMut) -> Result<String, String> {
    let text = document.to_string();
    Settings::parse(&text).map(|_| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# my clusters
current = \"prod\"

[profile.prod]
lookupd = [\"a:4161\", \"b:4161\"] # two
tls = { ca = \"/etc/nsq/ca.pem\" }
protected = true
color = \"red\"

[profile.here]
nsqd = \"127.0.0.1:4151\"

[alias]
q = \"stat orders/billing --watch\"
";

    #[test]
    fn file_is_read() {
        let settings = Settings::parse(TEXT).unwrap();
        let prod = settings.choose(None).unwrap().unwrap();
        assert_eq!((prod.name.as_str(), prod.profile.lookupd.len(), prod.is_explicit), ("prod", 2, false));
        assert!(prod.profile.protected && prod.profile.color == Some(Color::Red));
        let here = settings.choose(Some("here")).unwrap().unwrap();
        assert_eq!(here.profile.nsqd, ["127.0.0.1:4151"]);
        assert!(here.is_explicit);
        let unknown = settings.choose(Some("her")).unwrap_err();
        assert_eq!(unknown.status, ExitStatus::NotFound);
        assert_eq!(unknown.hint.as_deref(), Some("profiles: here prod"));
        assert_eq!(Settings::parse("").unwrap().choose(None).unwrap(), None);
    }

    #[test]
    fn wrong_files_are_refused_with_the_reason() {
        for (text, reason) in [
            ("current = \"x\"", "names no profile"),
            ("[profile.a]\nlokupd = \"a\"", "unknown field `lokupd`"),
            ("[profile.\"a b\"]", "invalid profile name"),
            ("[profile.a]\nlookupd = \"a,,b\"", "an address is empty"),
            ("[profile.a]\ncolor = \"mauve\"", "mauve"),
            ("current =", "line 1"),
        ] {
            let error = Settings::parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn changes_keep_the_rest_of_the_text() {
        let profile = Profile {
            nsqd: vec!["user:password@n:4151".to_owned()],
            auth_secret_file: Some("/run/secret".into()),
            ..Profile::default()
        };
        let text = with_profile(TEXT, "stage", &profile).unwrap();
        assert!(text.contains("# my clusters") && text.contains("# two"), "{text}");
        assert!(text.contains("[profile.stage]") && !text.contains("password"), "{text}");
        let text = with_current(&text, Some("stage")).unwrap();
        assert_eq!(Settings::parse(&text).unwrap().current.as_deref(), Some("stage"));
        let text = without_profile(&text, "stage").unwrap();
        let settings = Settings::parse(&text).unwrap();
        assert_eq!((settings.current, settings.profile.len()), (None, 2));
        assert!(with_current(TEXT, Some("nobody")).is_err());
        assert!(with_profile("", "first", &profile).unwrap().starts_with("[profile.first]"));
    }

    #[test]
    fn aliases_replace_the_first_word_only() {
        let settings = Settings::parse(TEXT).unwrap();
        let expand = |words: &[&str]| {
            let line = words.iter().map(std::ffi::OsString::from).collect();
            settings.expand(line, |word| word == "stat").unwrap()
        };
        assert_eq!(expand(&["nsq", "q", "--json"]), ["nsq", "stat", "orders/billing", "--watch", "--json"]);
        assert_eq!(expand(&["nsq", "stat", "q"]), ["nsq", "stat", "q"]);
        assert_eq!(expand(&["nsq"]), ["nsq"]);
        let open = Settings { alias: [("x".to_owned(), "pub 'a".to_owned())].into(), ..Settings::default() };
        assert!(open.expand(vec!["nsq".into(), "x".into()], |_| false).is_err());
    }
}
