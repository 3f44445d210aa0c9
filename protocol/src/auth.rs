//! AUTH: nsqd's response, and an auth server's response to nsqd.
//!
//! ```text
//! AUTH LF length(4) secret                     client to nsqd
//! {"identity":..,"identity_url":..,"permission_count":n}      its response
//!
//! GET http://server/auth?common_name=..&remote_ip=..&secret=..&tls=..      nsqd to the auth server
//! {"ttl":n,"identity":..,"identity_url":..,"authorizations":[               its response
//!     {"topic":pattern,"channels":[pattern..],"permissions":["subscribe","publish"]}..]}
//! ```

use serde::{Deserialize, Serialize};

use crate::json::{JsonError, Reader, fold_key, lenient};

/// The response to AUTH.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthReply {
    /// Identity that the secret belongs to.
    #[serde(deserialize_with = "lenient")]
    pub identity: String,
    /// URL of a page about the identity.
    #[serde(deserialize_with = "lenient")]
    pub identity_url: String,
    /// Number of authorizations of the secret.
    #[serde(deserialize_with = "lenient")]
    pub permission_count: i64,
}

/// The response of an auth server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthAnswer {
    /// Lifetime of the response, in seconds.
    pub ttl: i64,
    /// Identity that the secret belongs to.
    pub identity: String,
    /// URL of a page about the identity.
    pub identity_url: String,
    /// What the identity may do; may be empty.
    pub authorizations: Vec<AuthorizationEntry>,
}

/// One authorization of a secret. It applies if topic, channel and permission all match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthorizationEntry {
    /// A regular expression that must match somewhere in the topic's name.
    pub topic: String,
    /// Regular expressions; one must match somewhere in the channel's name. Publishing has no channel: one must match
    /// the empty text.
    pub channels: Vec<String>,
    /// The allowed actions: `subscribe`, `publish`.
    pub permissions: Vec<String>,
}

impl AuthAnswer {
    /// Parses a response as leniently as NSQ: keys in any case, unknown keys ignored, `null` like a missing field. A
    /// missing `ttl` reads as 0. Fails if `body` is not JSON or has wrong types.
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

/// Sets the field; `null` leaves it unchanged.
fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_parsed_like_nsq() {
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
    fn missing_fields_are_empty() {
        assert_eq!(AuthAnswer::parse(b"{}").unwrap(), AuthAnswer::default());
        let null = br#"{"ttl":1,"identity":null,"authorizations":null}"#;
        assert_eq!(AuthAnswer::parse(null).unwrap(), AuthAnswer { ttl: 1, ..AuthAnswer::default() });
    }

    #[test]
    fn invalid_responses_are_rejected() {
        for body in ["", "OK", "[]", r#"{"ttl":1.5}"#, r#"{"ttl":"1"}"#, r#"{"authorizations":{}}"#, "{} x"] {
            assert_eq!(AuthAnswer::parse(body.as_bytes()), Err(JsonError), "{body}");
        }
        let wrong = br#"{"ttl":1,"authorizations":[{"permissions":["publish",1]}]}"#;
        assert_eq!(AuthAnswer::parse(wrong), Err(JsonError));
    }

    #[test]
    fn reply_is_written_like_nsq() {
        let reply = AuthReply { identity: "a<b".into(), permission_count: 2, ..AuthReply::default() };
        let json = r#"{"identity":"a\u003cb","identity_url":"","permission_count":2}"#;
        assert_eq!(crate::json::to_json(&reply).unwrap(), json.as_bytes());
        assert_eq!(serde_json::from_str::<AuthReply>(json).unwrap(), reply);
    }
}
