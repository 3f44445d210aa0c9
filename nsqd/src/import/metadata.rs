//! Pure: reads `nsqd.dat`, NSQ's list of topics and channels, in the same way as NSQ.

use std::collections::BTreeMap;

use nsq_protocol::{ChannelName, TopicName};
use serde_json::{Map, Value};

/// A topic of `nsqd.dat`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicEntry {
    pub paused: bool,
    /// The channels, and whether they are paused.
    pub channels: BTreeMap<ChannelName, bool>,
}

/// The content of `nsqd.dat`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    pub topics: BTreeMap<TopicName, TopicEntry>,
    /// Entries that are not taken over, with the reason.
    pub skipped: Vec<Skipped>,
}

/// An entry that is not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skipped {
    /// NSQ skips it as well.
    #[error("skipping creation of invalid {0} {1}")]
    Invalid(&'static str, String),
    /// NSQ never writes such an entry, and has no messages of it on disk.
    #[error("skipping creation of ephemeral {0} {1}")]
    Ephemeral(&'static str, String),
}

/// Why `nsqd.dat` is invalid.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    #[error("too long")]
    TooLong,
    #[error("unexpected end of JSON input")]
    Truncated,
    #[error("{0}")]
    Json(serde_json::Error),
    /// A field has a value of the wrong type.
    #[error("{field} must not be {found}")]
    WrongType { field: &'static str, found: &'static str },
}

impl From<serde_json::Error> for MetadataError {
    fn from(error: serde_json::Error) -> Self {
        if error.is_eof() { MetadataError::Truncated } else { MetadataError::Json(error) }
    }
}

impl Metadata {
    /// Parses the file's text.
    pub fn parse(text: &[u8]) -> Result<Metadata, MetadataError> {
        let value: Value = serde_json::from_str(&String::from_utf8_lossy(text))?;
        let mut metadata = Metadata::default();
        let Some(fields) = object(&value, "metadata")? else { return Ok(metadata) };
        if let Some(version) = field(fields, "version").filter(|version| !version.is_string()) {
            return Err(wrong_type("version", version));
        }
        for topic in array(fields, "topics")? {
            metadata.add_topic(topic)?;
        }
        Ok(metadata)
    }

    fn add_topic(&mut self, value: &Value) -> Result<(), MetadataError> {
        let (text, paused, channels) = entry(value, "topic")?;
        // Checked before the name: a wrong type anywhere makes the whole file invalid.
        let channels = channels.iter().map(|value| entry(value, "channel")).collect::<Result<Vec<_>, _>>()?;
        let name = match TopicName::new(&text) {
            Ok(name) if !name.is_ephemeral() => name,
            result => {
                self.skip("topic", text, result.is_ok());
                return Ok(());
            }
        };
        let mut topic = self.topics.remove(&name).unwrap_or_default();
        topic.paused |= paused;
        for (text, paused, _) in channels {
            match ChannelName::new(&text) {
                Ok(name) if !name.is_ephemeral() => *topic.channels.entry(name).or_default() |= paused,
                result => self.skip("channel", text, result.is_ok()),
            }
        }
        self.topics.insert(name, topic);
        Ok(())
    }

    fn skip(&mut self, what: &'static str, name: String, is_valid: bool) {
        self.skipped.push(match is_valid {
            true => Skipped::Ephemeral(what, name),
            false => Skipped::Invalid(what, name),
        });
    }
}

/// Returns name, paused and channels. An absent or null value is empty.
fn entry<'a>(value: &'a Value, what: &'static str) -> Result<(String, bool, &'a [Value]), MetadataError> {
    let Some(fields) = object(value, what)? else { return Ok((String::new(), false, &[])) };
    let name = match field(fields, "name") {
        None => String::new(),
        Some(Value::String(name)) => name.clone(),
        Some(other) => return Err(wrong_type("name", other)),
    };
    let paused = match field(fields, "paused") {
        None => false,
        Some(Value::Bool(paused)) => *paused,
        Some(other) => return Err(wrong_type("paused", other)),
    };
    let channels = if what == "topic" { array(fields, "channels")? } else { &[] };
    Ok((name, paused, channels))
}

fn object<'a>(value: &'a Value, what: &'static str) -> Result<Option<&'a Map<String, Value>>, MetadataError> {
    match value {
        Value::Null => Ok(None),
        Value::Object(fields) => Ok(Some(fields)),
        other => Err(wrong_type(what, other)),
    }
}

fn array<'a>(fields: &'a Map<String, Value>, name: &'static str) -> Result<&'a [Value], MetadataError> {
    match field(fields, name) {
        None => Ok(&[]),
        Some(Value::Array(values)) => Ok(values),
        Some(other) => Err(wrong_type(name, other)),
    }
}

/// A field that is present and not null. Keys are compared as in Go.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let found = fields
        .get(name)
        .or_else(|| fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value));
    found.filter(|value| !value.is_null())
}

fn wrong_type(field: &'static str, value: &Value) -> MetadataError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    MetadataError::WrongType { field, found }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(text: &str) -> String {
        let metadata = Metadata::parse(text.as_bytes()).unwrap();
        let mut found = String::new();
        for (name, topic) in metadata.topics {
            found += &format!("{name}{}(", if topic.paused { "!" } else { "" });
            for (name, paused) in topic.channels {
                found += &format!("{name}{} ", if paused { "!" } else { "" });
            }
            found += ") ";
        }
        for skipped in metadata.skipped {
            found += &format!("[{skipped}] ");
        }
        found
    }

    #[test]
    fn reads_files_written_by_nsq() {
        assert_eq!(
            topics(
                r#"{"topics":[{"name":"tt","paused":false,"channels":[{"name":"ch","paused":true}]},
                {"name":"empty","paused":true,"channels":null}],"version":"1.3.0"}"#
            ),
            "empty!() tt(ch! ) "
        );
    }

    #[test]
    fn accepts_everything_that_nsq_accepts() {
        assert_eq!(topics("null"), "");
        assert_eq!(topics("{}"), "");
        assert_eq!(topics(r#"{"topics":null,"more":[1]}"#), "");
        assert_eq!(topics(r#"{"Topics":[{"NAME":"a","x":1},{"name":"a","paused":true}]}"#), "a!() ");
        assert_eq!(
            topics(
                r#"{"topics":[null,{"name":"a b","channels":[{"name":"c"}]},{"name":"..","channels":
                [{"name":""},{"name":"c#ephemeral"}]},{"name":"t#ephemeral"}]}"#
            ),
            "..() [skipping creation of invalid topic ] [skipping creation of invalid topic a b] \
             [skipping creation of invalid channel ] [skipping creation of ephemeral channel c#ephemeral] \
             [skipping creation of ephemeral topic t#ephemeral] "
        );
    }

    #[test]
    fn rejects_everything_that_nsq_rejects() {
        let error = |text: &str| Metadata::parse(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(error(""), "unexpected end of JSON input");
        assert_eq!(error("{\"topics\":["), "unexpected end of JSON input");
        assert_eq!(error("[]"), "metadata must not be an array");
        assert_eq!(error(r#"{"topics":{}}"#), "topics must not be an object");
        assert_eq!(error(r#"{"topics":[{"name":1}]}"#), "name must not be a number");
        assert_eq!(error(r#"{"topics":[{"channels":[{"paused":"no"}]}]}"#), "paused must not be a string");
        assert_eq!(error(r#"{"version":1}"#), "version must not be a number");
        assert!(error("{} x").starts_with("trailing characters"));
    }
}
