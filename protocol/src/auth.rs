//! AUTH: what nsqd answers, and what an auth server tells nsqd.
//!
//! ```text
//! AUTH LF length(4) secret                     client to nsqd
//! {"identity":..,"identity_url":..,"permission_count":n}      its answer
//!
//! GET http://server/auth?common_name=..&remote_ip=..&secret=..&tls=..      nsqd to the auth server
//! {"ttl":n,"identity":..,"identity_url":..,"authorizations":[               its answer
//!     {"topic":pattern,"channels":[pattern..],"permissions":["subscribe","publish"]}..]}
//! ```

use serde::{Deserialize, Serialize};

use crate::json::{JsonError, Reader, fold_key, lenient};

/// The response to AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthReply {
    /// Who the secret belongs to.
    #[serde(deserialize_with = "lenient")]
    pub identity: String,
    /// A page about them.
    #[serde(deserialize_with = "lenient")]
    pub identity_url: String,
    /// How many authorizations the secret has.
    #[serde(deserialize_with = "lenient")]
    pub permission_count: i64,
}

/// What an auth server answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthAnswer {
    /// Seconds for which the answer holds.
    pub ttl: i64,
    /// Who the secret belongs to.
    pub identity: String,
    /// A page about them.
    pub identity_url: String,
    /// What they may do; possibly nothing.
    pub authorizations: Vec<AuthorizationEntry>,
}

/// One of the things that a secret allows: all of its parts must fit at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationEntry {
    /// A regular expression that must match somewhere in the topic's name.
    pub topic: String,
    /// Regular expressions, one of which must match somewhere in the channel's name. Publishing has no channel: then
    /// one must match the empty text.
    pub channels: Vec<String>,
    /// The words of what is allowed.
    pub permissions: Vec<String>,
}

impl AuthAnswer {
    /// Reads an answer, as forgiving as NSQ is: keys in any case, unknown ones passed over, `null` for what is left
    /// out. A missing `ttl` reads as 0.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let mut answer = Self::default();
        let mut reader = Reader::new(body);
        reader.object(|key, value| {
            match fold_key(key).as_str() {
                "ttl" => replace(&mut answer.ttl, value.integer()?),
                "identity" => replace(&mut answer.identity, value.string()?),
                "identity_url" => replace(&mut answer.identity_url, value.string()?),
                "authorizations" => {
                    let mut entries = Vec::new();
                    value.array(|element| {
                        entries.push(AuthorizationEntry::read(element)?);
                        Ok(())
                    })?;
                    answer.authorizations = entries;
                }
                _ => value.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(answer)
    }
}

impl AuthorizationEntry {
    fn read(reader: &mut Reader<'_>) -> Result<Self, JsonError> {
        let mut entry = Self::default();
        reader.object(|key, value| {
            match fold_key(key).as_str() {
                "topic" => replace(&mut entry.topic, value.string()?),
                "channels" => entry.channels = texts(value)?,
                "permissions" => entry.permissions = texts(value)?,
                _ => value.skip()?,
            }
            Ok(())
        })?;
        Ok(entry)
    }
}

fn texts(reader: &mut Reader<'_>) -> Result<Vec<String>, JsonError> {
    let mut texts = Vec::new();
    reader.array(|element| {
        texts.push(element.string()?.unwrap_or_default());
        Ok(())
    })?;
    Ok(texts)
}

/// A `null` changes nothing.
fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_nsq_reads_it() {
        let json = br#" {"TTL": 60, "identity":"me", "identity_url":"http://x", "unknown": [{}], "Authorizations":[
            {"topic":"^a$","CHANNELS":["",".*"],"permissions":["publish"],"more":1}, {"channels":null}, null]} "#;
        let answer = AuthAnswer::parse(json).unwrap();
        assert_eq!(
            (answer.ttl, answer.identity.as_str(), answer.identity_url.as_str()),
            (60, "me", "http://x")
        );
        let first = AuthorizationEntry {
            topic: "^a$".into(),
            channels: vec![String::new(), ".*".into()],
            permissions: vec!["publish".into()],
        };
        let nothing = AuthorizationEntry::default();
        assert_eq!(answer.authorizations, [first, nothing.clone(), nothing]);
    }

    #[test]
    fn what_is_left_out_is_empty() {
        assert_eq!(AuthAnswer::parse(b"{}").unwrap(), AuthAnswer::default());
        let null = br#"{"ttl":1,"identity":null,"authorizations":null}"#;
        assert_eq!(AuthAnswer::parse(null).unwrap(), AuthAnswer { ttl: 1, ..AuthAnswer::default() });
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for body in ["", "OK", "[]", r#"{"ttl":1.5}"#, r#"{"ttl":"1"}"#, r#"{"authorizations":{}}"#, "{} x"] {
            assert_eq!(AuthAnswer::parse(body.as_bytes()), Err(JsonError), "{body}");
        }
        let wrong = br#"{"ttl":1,"authorizations":[{"permissions":["publish",1]}]}"#;
        assert_eq!(AuthAnswer::parse(wrong), Err(JsonError));
    }

    #[test]
    fn the_reply_is_nsqs() {
        let reply = AuthReply { identity: "a<b".into(), permission_count: 2, ..AuthReply::default() };
        let json = r#"{"identity":"a\u003cb","identity_url":"","permission_count":2}"#;
        assert_eq!(crate::json::to_json(&reply).unwrap(), json.as_bytes());
        assert_eq!(serde_json::from_str::<AuthReply>(json).unwrap(), reply);
    }
}
