//! A position in a topic in text form: where a channel starts, or is moved to.

use std::fmt;
use std::str::FromStr;

use crate::message_id::MessageId;
/// Nanoseconds since 1970 as RFC 3339 in UTC.
pub use crate::rfc3339::format as rfc3339;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A position in a topic's messages.
///
/// ```
/// use nsq_protocol::StartAt;
/// assert_eq!("earliest".parse(), Ok(StartAt::Earliest));
/// assert_eq!("1700000000".parse(), Ok(StartAt::Time(1_700_000_000_000_000_000)));
/// assert_eq!("2023-11-14T22:13:20Z".parse(), Ok(StartAt::Time(1_700_000_000_000_000_000)));
/// assert_eq!("seq:42".parse(), Ok(StartAt::Sequence(42)));
/// assert!("yesterday".parse::<StartAt>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum StartAt {
    /// `earliest`: at the oldest message that the topic retains.
    Earliest,
    /// `latest`: after all messages that were released to the channels.
    #[default]
    Latest,
    /// At the first message published at this time or later, in nanoseconds since 1970. Written as RFC 3339, or as a
    /// number of seconds (up to 11 digits), milliseconds (up to 14), microseconds (up to 17) or nanoseconds.
    Time(i64),
    /// `seq:` and a sequence number: at this message.
    Sequence(u64),
    /// `id:` and a message id: at this message, which must be on this node.
    Message(u64),
}

/// The text is not a valid position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid position {0:?}; use earliest, latest, an RFC 3339 or Unix time, seq:NUMBER or id:MESSAGE-ID"
)]
pub struct InvalidStartAt(String);

impl FromStr for StartAt {
    type Err = InvalidStartAt;

    fn from_str(text: &str) -> Result<Self, InvalidStartAt> {
        parse(text).ok_or_else(|| InvalidStartAt(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<StartAt> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "earliest" => return Some(StartAt::Earliest),
        "latest" => return Some(StartAt::Latest),
        _ => {}
    }
    if let Some(number) = text.strip_prefix("seq:") {
        return number.parse().ok().filter(|_| is_number(number)).map(StartAt::Sequence);
    }
    if let Some(id) = text.strip_prefix("id:") {
        return MessageId::from_slice(id.as_bytes())?.to_u64().map(StartAt::Message);
    }
    if is_number(text) {
        let number: i64 = text.parse().ok()?;
        let unit_ns = match text.trim_start_matches('0').len() {
            ..=11 => 1_000_000_000,
            12..=14 => 1_000_000,
            15..=17 => 1_000,
            _ => 1,
        };
        return number.checked_mul(unit_ns).map(StartAt::Time);
    }
    crate::rfc3339::parse(text).map(StartAt::Time)
}

impl fmt::Display for StartAt {
    /// Writes a form that [`FromStr`] parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartAt::Earliest => f.write_str("earliest"),
            StartAt::Latest => f.write_str("latest"),
            StartAt::Sequence(number) => write!(f, "seq:{number}"),
            StartAt::Message(id) => write!(f, "id:{}", MessageId::from_u64(*id)),
            StartAt::Time(ns) => f.write_str(&rfc3339(*ns)),
        }
    }
}

impl Serialize for StartAt {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StartAt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn number_of_digits_selects_the_unit() {
        let second = 1_700_000_000;
        for text in ["1700000000", "1700000000000", "1700000000000000", "1700000000000000000"] {
            assert_eq!(text.parse(), Ok(StartAt::Time(second * 1_000_000_000)), "{text}");
        }
        assert_eq!("0".parse(), Ok(StartAt::Time(0)));
        assert_eq!(
            "2023-11-14T23:13:20.5+01:00".parse(),
            Ok(StartAt::Time(second * 1_000_000_000 + 500_000_000))
        );
    }

    #[test]
    fn message_id_keeps_all_bits() {
        // Node 1 in the upper ten bits.
        assert_eq!("id:004000000000002a".parse(), Ok(StartAt::Message(1 << 54 | 42)));
    }

    #[test]
    fn other_texts_are_rejected() {
        for text in [
            "",
            "Earliest",
            "seq:",
            "seq:-1",
            "seq:+1",
            "id:42",
            "id:004000000000002A",
            "id:004000000000002a0",
            "-5",
            "+5",
            "1.5",
            "99999999999999999999",
            "2023-11-14",
            "seq:99999999999999999999",
        ] {
            assert!(text.parse::<StartAt>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn positions_round_trip(ns in 0..i64::MAX, number: u64) {
            for place in [StartAt::Earliest, StartAt::Latest, StartAt::Time(ns), StartAt::Sequence(number), StartAt::Message(number)] {
                prop_assert_eq!(place.to_string().parse(), Ok(place));
            }
        }

        #[test]
        fn arbitrary_text_does_not_panic(text: String) {
            let _ = text.parse::<StartAt>();
        }
    }
}
