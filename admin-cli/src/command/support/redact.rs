//! What a support bundle leaves out. Pure.

use nsq_protocol::redact::without_user_info;
use serde_json::Value;

/// Keys with any of these words hold secrets, or may.
const SECRET_WORDS: [&str; 7] =
    ["secret", "token", "password", "passwd", "private", "credential", "authorization"];
/// Keys that hold bodies of messages.
const BODY_KEYS: [&str; 2] = ["body", "body_base64"];

const REMOVED: &str = "(removed)";

/// Whether an option or field may be part of the bundle.
pub fn is_harmless(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    !SECRET_WORDS.iter().any(|word| key.contains(word))
        && !BODY_KEYS.contains(&key.as_str())
        && key != "headers"
}

/// Replaces values that may be secrets or bodies, at any depth, and users and passwords in addresses.
pub fn redact(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                if is_harmless(key) {
                    redact(value);
                } else if !value.is_null() {
                    *value = REMOVED.into();
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(redact),
        Value::String(text) => *text = without_user_info(text).into_owned(),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_and_bodies_are_removed_at_any_depth() {
        let mut value = json!({
            "auth_secret": "s3cret",
            "nested": [{"body": "hello", "headers": {"a": "b"}, "depth": 3, "API-Token": "t"}],
            "statsd_address": "http://user:pass@host:1",
            "none_secret": null,
        });
        redact(&mut value);
        let expected = json!({
            "auth_secret": "(removed)",
            "nested": [{"body": "(removed)", "headers": "(removed)", "depth": 3, "API-Token": "(removed)"}],
            "statsd_address": "http://host:1",
            "none_secret": null,
        });
        assert_eq!(value, expected);
    }
}
