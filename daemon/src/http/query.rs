//! The query string, the source of all parameters.

use std::borrow::Cow;

/// A bad escape or a `;` makes the whole query string invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid query string")]
pub struct InvalidQuery;

/// A valid query string. Looking up a key allocates only to decode.
#[derive(Debug, Clone, Copy, Default)]
pub struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    /// Validates a query string (the text after `?`).
    pub fn parse(raw: &'a str) -> Result<Self, InvalidQuery> {
        let mut bytes = raw.bytes();
        while let Some(byte) = bytes.next() {
            let good = match byte {
                b';' => false,
                b'%' => is_hex(bytes.next()) && is_hex(bytes.next()),
                _ => true,
            };
            if !good {
                return Err(InvalidQuery);
            }
        }
        Ok(Self { raw })
    }

    /// The decoded value of a key. The first occurrence counts; `?key` and `?key=` are present and empty. Bytes that
    /// are not UTF-8 become replacement characters, which no valid name contains.
    ///
    /// ```
    /// # use nsq_daemon::http::Query;
    /// let query = Query::parse("topic=a%23b&topic=c&defer").unwrap();
    /// assert_eq!(query.get("topic").as_deref(), Some("a#b"));
    /// assert_eq!(query.get("defer").as_deref(), Some(""));
    /// assert_eq!(query.get("channel"), None);
    /// ```
    pub fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        self.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// All keys and values, decoded, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        self.raw.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
    }
}

fn is_hex(byte: Option<u8>) -> bool {
    byte.is_some_and(|b| b.is_ascii_hexdigit())
}

fn decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_encoding::percent_decode_str(&spaced).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(raw: &str, key: &str) -> Option<String> {
        Query::parse(raw).unwrap().get(key).map(Cow::into_owned)
    }

    #[test]
    fn first_value_counts() {
        assert_eq!(get("a=1&topic=x&topic=y", "topic").as_deref(), Some("x"));
        assert_eq!(get("topic&topic=y", "topic").as_deref(), Some(""));
        assert_eq!(get("&&=v&topic=a=b", "topic").as_deref(), Some("a=b"));
        assert_eq!(get("", "topic"), None);
        assert_eq!(get("TOPIC=x", "topic"), None);
    }

    #[test]
    fn keys_and_values_are_decoded() {
        assert_eq!(get("t%6fpic=a+b%20c%2B", "topic").as_deref(), Some("a b c+"));
        assert_eq!(get("topic=%ff", "topic").as_deref(), Some("\u{fffd}"));
        assert_eq!(get("topic=a%3Bb%26c", "topic").as_deref(), Some("a;b&c"));
    }

    #[test]
    fn one_bad_escape_or_semicolon_makes_the_query_invalid() {
        for raw in ["topic=a;b", "a=%zz&topic=x", "topic=%", "topic=%4", "%g0", "a=1;"] {
            assert_eq!(Query::parse(raw).unwrap_err(), InvalidQuery, "{raw}");
        }
    }

    proptest! {
        #[test]
        fn encoded_parameters_are_found(key in "\\PC{1,8}", value in "\\PC{0,20}") {
            use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode as encode};
            let raw = format!("first={}&{}={}", 1, encode(&key, NON_ALPHANUMERIC), encode(&value, NON_ALPHANUMERIC));
            prop_assume!(key != "first");
            prop_assert_eq!(get(&raw, &key), Some(value));
        }

        #[test]
        fn parsing_any_text_does_not_panic(raw in "\\PC{0,40}") {
            if let Ok(query) = Query::parse(&raw) {
                query.iter().count();
            }
        }
    }
}
