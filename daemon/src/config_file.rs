//! The TOML config file, turned into flags.
//!
//! A daemon passes a table of [`Key`]s. Every known key in the file becomes `--flag=value`, so one parser handles both
//! sources. NSQ silently ignores unknown keys and tables; here they are ignored with a warning. An unknown key that
//! looks like a misspelled security option is refused, since the daemon would run without the requested protection.

mod spelling;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use nsq_protocol::redact::shown_address;
use toml::{Table, Value};

/// How a TOML value becomes the text of a flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string as it is.
    String,
    /// An integer, or a string of its digits.
    Int,
    /// A boolean, or a string that spells one. An integer is inverted, as in NSQ: 0 is true.
    Bool,
    /// A string with units, or an integer number of milliseconds.
    Duration,
    /// An array of strings, or one string with commas.
    StringList,
    /// An array of numbers, or one string with commas.
    FloatList,
    /// A string or a boolean: `tls_required`.
    Word,
}

/// A key of the file and its flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The key in the file.
    pub key: &'static str,
    /// The flag's id in clap: its name with underscores.
    pub id: &'static str,
    /// How values are read.
    pub kind: Kind,
    /// Whether the key protects the daemon: without it, more people have access.
    pub is_guard: bool,
}

impl Key {
    /// A key that equals its flag's id and protects nothing: misspellings are only a warning.
    pub const fn new(id: &'static str, kind: Kind) -> Self {
        Self { key: id, id, kind, is_guard: false }
    }

    /// The same flag with another key.
    pub const fn named(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// A key that protects the daemon: misspellings are refused, and so is an empty value on the command line.
    pub const fn guard(self) -> Self {
        Self { is_guard: true, ..self }
    }

    /// The flag's name without dashes in front.
    pub fn flag(&self) -> String {
        self.id.replace('_', "-")
    }
}

/// The value that a file sets for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key as the daemon defines it.
    pub key: Key,
    /// The value as flags: several for a list, none for an empty list.
    pub flags: Vec<OsString>,
}

/// Contents of a config file.
#[derive(Debug, Default)]
pub struct Contents {
    /// One for each known key in the file.
    pub settings: Vec<Setting>,
    /// Keys that have no effect, one sentence each.
    pub warnings: Vec<String>,
}

/// Why a config file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file cannot be read.
    #[error("failed to load config file {} - {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
    /// The file is not valid TOML.
    #[error("failed to load config file {} - {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Position and reason.
        source: Box<toml::de::Error>,
    },
    /// An unknown key resembles one that protects the daemon.
    #[error("failed to load config file {} - unknown key {key}: {hint}", path.display())]
    Misspelled {
        /// The file.
        path: PathBuf,
        /// The unknown key.
        key: String,
        /// Keys that may have been meant.
        hint: String,
    },
    /// A key has a value of the wrong type.
    #[error("failed to load config file {} - {key} = {value}: {expected} expected", path.display())]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// The value in the file.
        value: String,
        /// The types that the key accepts.
        expected: &'static str,
    },
}

/// Reads a file. Only `keys` have a meaning in it.
pub fn read(path: &Path, keys: &[Key]) -> Result<Contents, ConfigFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigFileError::Unreadable { path: path.to_owned(), source })?;
    let table: Table = text
        .parse()
        .map_err(|source| ConfigFileError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
    let warnings = spelling::check(&table, keys).map_err(|(key, hint)| ConfigFileError::Misspelled {
        path: path.to_owned(),
        key,
        hint,
    })?;
    let settings = to_flags(&table, keys).map_err(|(key, value)| ConfigFileError::WrongType {
        path: path.to_owned(),
        key: key.key,
        value: shown_address(&value),
        expected: expected(key.kind),
    })?;
    let warnings =
        warnings.into_iter().map(|warning| format!("config file {}: {warning}", path.display())).collect();
    Ok(Contents { settings, warnings })
}

fn to_flags(table: &Table, keys: &[Key]) -> Result<Vec<Setting>, (Key, String)> {
    let present = keys.iter().filter_map(|key| table.get(key.key).map(|value| (*key, value)));
    present
        .map(|(key, value)| {
            let values = coerce(key.kind, value).ok_or_else(|| (key, value.to_string()))?;
            let flags = values.into_iter().map(|value| format!("--{}={value}", key.flag()).into());
            Ok(Setting { key, flags: flags.collect() })
        })
        .collect()
}

/// `None` if the type does not fit. The flag's parser validates the text itself.
fn coerce(kind: Kind, value: &Value) -> Option<Vec<String>> {
    let text = match (kind, value) {
        (Kind::StringList, Value::String(text)) => return Some(split(text)),
        (Kind::StringList, Value::Array(items)) => {
            return items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
        }
        (Kind::FloatList, Value::String(text)) => return Some(split(text)),
        (Kind::FloatList, Value::Array(items)) => return items.iter().map(number).collect(),
        (Kind::FloatList, value) => return number(value).map(|text| vec![text]),
        (Kind::Bool, Value::Integer(number)) => (*number == 0).to_string(),
        (Kind::Bool, Value::String(text)) => crate::go_flags::parse_bool(text).ok()?.to_string(),
        (Kind::Bool | Kind::Word, Value::Boolean(truth)) => truth.to_string(),
        (Kind::Int, Value::Integer(number)) => number.to_string(),
        (Kind::Duration, Value::Integer(milliseconds)) => format!("{milliseconds}ms"),
        (Kind::String | Kind::Int | Kind::Duration | Kind::Word, Value::String(text)) => text.clone(),
        _ => return None,
    };
    Some(vec![text])
}

fn split(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn number(value: &Value) -> Option<String> {
    match value {
        Value::Float(number) => Some(number.to_string()),
        Value::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::String => "a string",
        Kind::Int => "an integer",
        Kind::Bool => "true or false",
        Kind::Duration => "a duration such as \"250ms\"",
        Kind::StringList => "an array of strings",
        Kind::FloatList => "an array of numbers",
        Kind::Word => "a string or a boolean",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(kind: Kind, toml: &str) -> Option<Vec<String>> {
        let table: Table = format!("k = {toml}\nunknown = 1\n[section]\nk = 2").parse().unwrap();
        let key = Key::new("f", kind).named("k");
        let mut found = to_flags(&table, &[key, Key::new("absent", kind)]).ok()?;
        assert_eq!(found.len(), 1);
        Some(found.remove(0).flags.into_iter().map(|flag| flag.into_string().unwrap()).collect())
    }

    #[test]
    fn values_of_the_right_type_become_flags() {
        let cases: [(Kind, &str, &[&str]); 14] = [
            (Kind::String, "'a b'", &["--f=a b"]),
            (Kind::Int, "7", &["--f=7"]),
            (Kind::Int, "'7'", &["--f=7"]),
            (Kind::Bool, "true", &["--f=true"]),
            (Kind::Bool, "'F'", &["--f=false"]),
            (Kind::Duration, "'1m'", &["--f=1m"]),
            (Kind::Duration, "250", &["--f=250ms"]),
            (Kind::StringList, "['a', 'b,c']", &["--f=a", "--f=b,c"]),
            (Kind::StringList, "'a, b'", &["--f=a", "--f=b"]),
            (Kind::StringList, "[]", &[]),
            (Kind::FloatList, "[0.5, 1]", &["--f=0.5", "--f=1"]),
            (Kind::FloatList, "'0.99, 0.5'", &["--f=0.99", "--f=0.5"]),
            (Kind::Word, "'tcp-https'", &["--f=tcp-https"]),
            (Kind::Word, "true", &["--f=true"]),
        ];
        for (kind, toml, expected) in cases {
            assert_eq!(flags(kind, toml).unwrap(), expected, "{kind:?} {toml}");
        }
    }

    #[test]
    fn integer_for_a_boolean_is_inverted() {
        assert_eq!(flags(Kind::Bool, "0").unwrap(), ["--f=true"]);
        assert_eq!(flags(Kind::Bool, "1").unwrap(), ["--f=false"]);
    }

    #[test]
    fn values_of_the_wrong_type_are_refused() {
        let cases = [
            (Kind::String, "1"),
            (Kind::Int, "1.5"),
            (Kind::Bool, "'no'"),
            (Kind::Duration, "1.5"),
            (Kind::StringList, "['a', 1]"),
            (Kind::StringList, "1"),
            (Kind::FloatList, "['x']"),
            (Kind::Word, "1"),
        ];
        for (kind, toml) in cases {
            assert_eq!(flags(kind, toml), None, "{kind:?} {toml}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsqd.cfg");
        let keys = [Key::new("n", Kind::Int)];
        assert!(matches!(read(&path, &keys), Err(ConfigFileError::Unreadable { .. })));
        std::fs::write(&path, "n = ").unwrap();
        assert!(matches!(read(&path, &keys), Err(ConfigFileError::Malformed { .. })));
        std::fs::write(&path, "n = 1.5").unwrap();
        let text = read(&path, &keys).unwrap_err().to_string();
        assert_eq!(
            text,
            format!("failed to load config file {} - n = 1.5: an integer expected", path.display())
        );
    }
}
