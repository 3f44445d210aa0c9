//! Pure: what a peek looks at, and which messages match.

use std::fmt;
use std::str::FromStr;

use nsq_protocol::{StartAt, headers};

/// Where a look begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the oldest message.
    Head,
    /// At the newest message; goes back.
    Tail,
    /// At this sequence number.
    Sequence(u64),
    /// Before this sequence number; goes back.
    Before(u64),
    /// At the first message published at this time or later, nanoseconds since 1970.
    Time(i64),
}

/// Which messages of a channel to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeekState {
    /// Ahead of the read cursor, or waiting for redelivery.
    Waiting,
    InFlight,
    Deferred,
    DeadLetterPending,
    Finished,
}

/// What to look at.
#[derive(Debug, Clone)]
pub struct PeekRequest {
    /// `None` for all unfinished messages.
    pub state: Option<PeekState>,
    pub from: From,
    /// Maximum number of messages, at least 1.
    pub limit: usize,
    /// Only messages whose body matches.
    pub matching: Option<BodyPattern>,
    /// Only messages with these headers; without a value, any value.
    pub headers: Vec<(String, Option<String>)>,
    /// Of a topic: all messages that are stored.
    pub is_history: bool,
}

impl PeekRequest {
    /// Whether it goes from newer messages to older ones.
    pub fn is_back(&self) -> bool {
        matches!(self.from, From::Tail | From::Before(_))
    }

    /// Whether it looks at what is stored, rather than at what a channel has not finished.
    pub fn looks_at_log(&self) -> bool {
        self.is_history || self.state == Some(PeekState::Finished)
    }

    /// Whether every message matches.
    pub fn matches_all(&self) -> bool {
        self.matching.is_none() && self.headers.is_empty()
    }

    /// Whether a stored message matches.
    pub fn matches(&self, frame: &[u8]) -> bool {
        if self.matches_all() {
            return true;
        }
        let (found, body) = headers::split_stored(frame).unwrap_or((None, &[]));
        let has = |(name, value): &(String, Option<String>)| {
            let found = found.and_then(|headers| headers.get(name));
            found.is_some_and(|found| value.as_ref().is_none_or(|value| *found == **value))
        };
        self.headers.iter().all(has) && self.matching.as_ref().is_none_or(|pattern| pattern.matches(body))
    }
}

impl FromStr for From {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "head" => return Ok(From::Head),
            "tail" => return Ok(From::Tail),
            _ => {}
        }
        if let Some(number) = text.strip_prefix("before:") {
            return number.parse().map(From::Before).map_err(|_| ());
        }
        if let Some(time) = text.strip_prefix("time:") {
            return match time.parse() {
                Ok(StartAt::Time(time_ns)) => Ok(From::Time(time_ns)),
                _ => Err(()),
            };
        }
        match text.parse() {
            Ok(StartAt::Sequence(sequence)) => Ok(From::Sequence(sequence)),
            _ => Err(()),
        }
    }
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            From::Head => f.write_str("head"),
            From::Tail => f.write_str("tail"),
            From::Sequence(sequence) => write!(f, "seq:{sequence}"),
            From::Before(sequence) => write!(f, "before:{sequence}"),
            From::Time(time_ns) => write!(f, "time:{time_ns}"),
        }
    }
}

impl FromStr for PeekState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "waiting" => Ok(PeekState::Waiting),
            "in_flight" => Ok(PeekState::InFlight),
            "deferred" => Ok(PeekState::Deferred),
            "dead_letter_pending" => Ok(PeekState::DeadLetterPending),
            "finished" => Ok(PeekState::Finished),
            _ => Err(()),
        }
    }
}

/// A regular expression for bodies, whose size is limited. Matching takes time in proportion to the body.
#[derive(Debug, Clone)]
pub struct BodyPattern(regex::bytes::Regex);

/// Maximum length of a pattern, and maximum size of what it is compiled to.
const MAX_PATTERN_BYTES: usize = 1000;
const MAX_COMPILED_BYTES: usize = 1 << 20;

impl BodyPattern {
    fn matches(&self, body: &[u8]) -> bool {
        self.0.is_match(body)
    }
}

impl FromStr for BodyPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(format!("a pattern has at most {MAX_PATTERN_BYTES} bytes"));
        }
        let compiled = regex::bytes::RegexBuilder::new(text)
            .size_limit(MAX_COMPILED_BYTES)
            .dfa_size_limit(MAX_COMPILED_BYTES)
            .build();
        // The last line says what is wrong; those before it show where.
        compiled.map(BodyPattern).map_err(|error| {
            let text = error.to_string();
            text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_have_one_text_form() {
        for text in ["head", "tail", "seq:12", "before:7", "time:1700000000000000000"] {
            assert_eq!(text.parse::<From>().unwrap().to_string(), text);
        }
        let time: From = "time:2023-11-14T22:13:20Z".parse().unwrap();
        assert_eq!(time, From::Time(1_700_000_000_000_000_000));
        for text in ["", "seq:", "before:x", "time:", "time:tail", "12", "earliest", "id:0000000000000001"] {
            assert_eq!(text.parse::<From>(), Err(()), "{text}");
        }
    }

    #[test]
    fn large_and_wrong_patterns_are_refused_with_a_reason() {
        let refused = |text: &str| text.parse::<BodyPattern>().unwrap_err();
        assert_eq!(refused("(a"), "unclosed group");
        assert!(refused(&"a".repeat(1001)).contains("at most 1000 bytes"));
        assert!(
            refused("((a{100}){100}){100}").contains("size limit"),
            "{}",
            refused("((a{100}){100}){100}")
        );
        let pattern: BodyPattern = "(?i)ACME-[0-9]+".parse().unwrap();
        assert!(pattern.matches(b"\xff acme-42") && !pattern.matches(b"acme-x"));
    }
}
