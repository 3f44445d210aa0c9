//! The time to live of one message: its header `nsq-ttl`.
//!
//! The value is a duration such as `30s`, `1m30s` or `14d`. A dead letter keeps the header, which has no effect there.

use std::time::Duration;

use crate::go_duration::{self, InvalidDuration};
use crate::headers::Headers;

/// The header.
pub const TTL: &str = "nsq-ttl";
/// Shortest time to live.
pub const LEAST_TTL: Duration = Duration::from_millis(1);
/// Longest time to live.
pub const MOST_TTL: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Dead letters have headers that begin with this.
const DEAD_PREFIX: &str = "nsq-dead-";

/// Why a value of [`TTL`] is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header \"nsq-ttl\" is {value:?}: {reason}; expected a duration from 1ms to 3650d, such as 30s")]
pub struct InvalidTtl {
    /// The value.
    pub value: String,
    /// What is wrong with it.
    pub reason: InvalidTtlReason,
}

/// What is wrong with a value of [`TTL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTtlReason {
    /// It is no duration.
    #[error("{0}")]
    Duration(#[from] InvalidDuration),
    /// It is shorter than [`LEAST_TTL`] or longer than [`MOST_TTL`].
    #[error("out of range")]
    OutOfRange,
}

/// Parses a value of [`TTL`].
pub fn parse(value: &str) -> Result<Duration, InvalidTtl> {
    let invalid = |reason| InvalidTtl { value: value.chars().take(100).collect(), reason };
    match go_duration::parse_with_days(value) {
        Ok(ttl) if (LEAST_TTL..=MOST_TTL).contains(&ttl) => Ok(ttl),
        Ok(_) => Err(invalid(InvalidTtlReason::OutOfRange)),
        Err(error) => Err(invalid(error.into())),
    }
}

/// The time to live of a message with these headers. `None` if it has none, if the value is not valid, or if the message is
/// a dead letter.
pub fn of_message(headers: Headers<'_>) -> Option<Duration> {
    if !may_have_ttl(headers) {
        return None;
    }
    let mut ttl = None;
    for (key, value) in headers.iter() {
        if key.starts_with(DEAD_PREFIX) {
            return None;
        }
        if key == TTL {
            ttl = parse(&value).ok();
        }
    }
    ttl
}

/// Whether a message with these headers may have a time to live. Much cheaper than [`of_message`].
pub fn may_have_ttl(headers: Headers<'_>) -> bool {
    let json = headers.as_bytes();
    // An escape in the JSON may stand for any character of the name.
    memchr::memmem::find(json, TTL.as_bytes()).is_some() || memchr::memchr(b'\\', json).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_from_a_millisecond_to_ten_years_are_valid() {
        assert_eq!(parse("1ms"), Ok(LEAST_TTL));
        assert_eq!(parse("3650d"), Ok(MOST_TTL));
        assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
        for value in ["0", "999us", "3651d", "-1s", "99999999999999999999d"] {
            assert!(parse(value).is_err(), "{value}");
        }
        assert_eq!(
            parse("5").unwrap_err().to_string(),
            "header \"nsq-ttl\" is \"5\": missing unit in duration \"5\" (ns, us, ms, s, m, h); expected a duration from \
             1ms to 3650d, such as 30s"
        );
        assert!(parse("0").unwrap_err().to_string().contains("\"0\": out of range;"));
    }

    #[test]
    fn only_valid_values_of_messages_that_are_no_dead_letters_count() {
        let of = |json: &'static str| of_message(Headers::trusted(json.as_bytes()));
        assert_eq!(of(r#"{"a":"b"}"#), None);
        assert_eq!(of(r#"{"a":"b","nsq-ttl":"5s"}"#), Some(Duration::from_secs(5)));
        assert_eq!(of(r#"{"nsq\u002dttl":"5s"}"#), Some(Duration::from_secs(5)));
        assert_eq!(of(r#"{"nsq-ttl":"soon"}"#), None);
        assert_eq!(of(r#"{"a":"nsq-ttl"}"#), None);
        assert_eq!(of(r#"{"nsq-ttl":"5s","nsq-dead-reason":"expired"}"#), None);
    }
}
