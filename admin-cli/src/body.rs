//! JSON forms of a message's fields: the body as text or base64, times in RFC 3339. Pure.

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
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) as usize & 63;
            text.push(if digit <= group.len() { char::from(DIGITS[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_in_its_rfc() {
        let cases = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (text, encoded) in cases {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    #[test]
    fn times_are_formatted_as_rfc3339() {
        assert_eq!(rfc3339(1_795_000_000_123_456_789), "2026-11-18T11:06:40.123456789Z");
        assert_eq!(rfc3339(i64::MAX), "2262-04-11T23:47:16.854775807Z");
    }
}
