//! JSON forms of a message's fields: the body as text or base64, times in RFC 3339. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A body in JSON: text if it is UTF-8, base64 otherwise.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Body<'a> {
    Text {
        body: &'a str,
    },
    Bytes {
        /// Base64 as in RFC 4648, with padding.
        body_base64: String,
    },
}

impl<'a> From<&'a [u8]> for Body<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(body) => Body::Text { body },
            Err(_) => Body::Bytes { body_base64: base64(bytes) },
        }
    }
}

/// Nanoseconds since 1970 as RFC 3339, in UTC.
pub fn rfc3339(timestamp_ns: i64) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(timestamp_ns.into());
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| timestamp_ns.to_string())
}

/// Base64 as in RFC 4648, with padding.
pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// The bytes of a text in base64.
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_read_and_written() {
        assert_eq!(base64(b"foob"), "Zm9vYg==");
        assert_eq!((from_base64("Zm9vYg=="), from_base64("Zm9v!")), (Some(b"foob".to_vec()), None));
    }

    #[test]
    fn times_are_formatted_as_rfc3339() {
        assert_eq!(rfc3339(1_795_000_000_123_456_789), "2026-11-18T11:06:40.123456789Z");
        assert_eq!(rfc3339(i64::MAX), "2262-04-11T23:47:16.854775807Z");
    }
}
