//! Pure: how much a topic or channel may hold, what happens beyond that, and what happens to a channel without consumers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nsq_daemon::go_duration;

/// What happens when a bound is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Publishes are refused.
    #[default]
    Reject,
    /// The oldest messages that wait are dropped.
    DropOldest,
    /// The oldest messages that wait become dead letters.
    DeadLetter,
}

/// Maximum number and bytes of unfinished messages; 0 is no limit. Bytes are those of headers and bodies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bound {
    pub max_depth: u64,
    pub max_bytes: u64,
    pub overflow: Overflow,
}

/// What happens to a channel that has had no consumer for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleExpiry {
    /// Zero for never.
    pub after: Duration,
    pub action: IdleAction,
}

/// See [`IdleExpiry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdleAction {
    /// Its messages are dropped.
    Empty,
    /// It is deleted.
    Delete,
}

/// Why a text is not an [`Overflow`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is none of them")]
pub struct InvalidOverflow;

/// Why a text is not an [`IdleExpiry`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdleExpiry {
    #[error(transparent)]
    Duration(#[from] go_duration::InvalidDuration),
    #[error("out of range")]
    OutOfRange,
    #[error("{0:?} is neither empty nor delete")]
    Action(String),
}

impl Overflow {
    /// What a setting takes, as a phrase.
    pub const EXPECTED: &str = "reject, drop_oldest or dead_letter";
}

impl Bound {
    /// Whether there is no limit.
    pub fn is_off(&self) -> bool {
        self.max_depth == 0 && self.max_bytes == 0
    }

    /// Whether it refuses publishes.
    pub fn rejects(&self) -> bool {
        !self.is_off() && self.overflow == Overflow::Reject
    }

    /// Whether it removes messages.
    pub fn sheds(&self) -> bool {
        self.overflow != Overflow::Reject && !self.is_off()
    }

    /// Whether this many messages of this many bytes exceed it.
    pub fn is_exceeded(&self, messages: u64, bytes: u64) -> bool {
        (self.max_depth > 0 && messages > self.max_depth) || (self.max_bytes > 0 && bytes > self.max_bytes)
    }

    /// Whether this many messages of this many bytes are below 95 % of it. A bound that was reached accepts messages
    /// again only then, so that producers are not refused and accepted in turns.
    pub fn has_room_again(&self, messages: u64, bytes: u64) -> bool {
        let is_below = |held: u64, most: u64| most == 0 || u128::from(held) * 100 < u128::from(most) * 95;
        is_below(messages, self.max_depth) && is_below(bytes, self.max_bytes)
    }
}

impl IdleExpiry {
    /// What a setting takes, as a phrase.
    pub const EXPECTED: &str =
        "a duration from 1s to 3650d and empty (the default) or delete, or 0 for never";
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(3650 * 24 * 3600);
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.max_depth, self.max_bytes) {
            (depth, 0) => write!(f, "max_depth={depth}"),
            (0, bytes) => write!(f, "max_bytes={bytes}"),
            (depth, bytes) => write!(f, "max_depth={depth}, max_bytes={bytes}"),
        }
    }
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Overflow::Reject => "reject",
            Overflow::DropOldest => "drop_oldest",
            Overflow::DeadLetter => "dead_letter",
        })
    }
}

impl FromStr for Overflow {
    type Err = InvalidOverflow;

    fn from_str(text: &str) -> Result<Self, InvalidOverflow> {
        match text {
            "reject" => Ok(Overflow::Reject),
            "drop_oldest" => Ok(Overflow::DropOldest),
            "dead_letter" => Ok(Overflow::DeadLetter),
            _ => Err(InvalidOverflow),
        }
    }
}

impl fmt::Display for IdleExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.after.is_zero() {
            return f.write_str("0");
        }
        let action = match self.action {
            IdleAction::Empty => "empty",
            IdleAction::Delete => "delete",
        };
        write!(f, "{} {action}", go_duration::format(self.after))
    }
}

impl FromStr for IdleExpiry {
    type Err = InvalidIdleExpiry;

    fn from_str(text: &str) -> Result<Self, InvalidIdleExpiry> {
        let (after, action) = text.split_once(' ').unwrap_or((text, "empty"));
        let after = go_duration::parse_with_days(after)?;
        if !after.is_zero() && !(Self::LEAST..=Self::MOST).contains(&after) {
            return Err(InvalidIdleExpiry::OutOfRange);
        }
        let action = match action.trim() {
            "empty" => IdleAction::Empty,
            "delete" => IdleAction::Delete,
            other => return Err(InvalidIdleExpiry::Action(other.to_owned())),
        };
        Ok(IdleExpiry { after, action })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_below_95_percent() {
        let bound = Bound { max_depth: 100, max_bytes: 0, overflow: Overflow::Reject };
        assert_eq!((bound.is_exceeded(100, u64::MAX), bound.is_exceeded(101, 0)), (false, true));
        assert_eq!((bound.has_room_again(95, u64::MAX), bound.has_room_again(94, 0)), (false, true));
        let small = Bound { max_depth: 1, ..bound };
        assert_eq!((small.has_room_again(1, 0), small.has_room_again(0, 0)), (false, true));
        let bytes = Bound { max_depth: 0, max_bytes: 1000, ..bound };
        assert_eq!((bytes.is_exceeded(u64::MAX, 1000), bytes.is_exceeded(0, 1001)), (false, true));
        assert_eq!((bytes.has_room_again(9, 950), bytes.has_room_again(9, 949)), (false, true));
        assert!(Bound { max_depth: u64::MAX, ..bound }.has_room_again(u64::MAX / 2, 0));
        assert!(Bound::default().is_off() && !Bound::default().rejects() && !Bound::default().sheds());
    }

    #[test]
    fn texts_and_values_convert_into_each_other() {
        for overflow in [Overflow::Reject, Overflow::DropOldest, Overflow::DeadLetter] {
            assert_eq!(overflow.to_string().parse(), Ok(overflow));
        }
        assert_eq!("drop".parse::<Overflow>(), Err(InvalidOverflow));
        let idle = |text: &str| text.parse::<IdleExpiry>().map(|idle| idle.to_string());
        assert_eq!(idle("7d").as_deref(), Ok("168h0m0s empty"));
        assert_eq!(idle("168h0m0s empty").as_deref(), Ok("168h0m0s empty"));
        assert_eq!(idle("90m delete").as_deref(), Ok("1h30m0s delete"));
        assert_eq!(idle("0").as_deref(), Ok("0"));
        assert_eq!(idle("1h remove"), Err(InvalidIdleExpiry::Action("remove".into())));
        assert_eq!(idle("999ms"), Err(InvalidIdleExpiry::OutOfRange));
        assert!(matches!(idle("soon"), Err(InvalidIdleExpiry::Duration(_))));
    }
}
