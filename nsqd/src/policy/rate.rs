//! Pure: rates, such as `100/s`, `10/m total` or `5/h`.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::clock::Nanos;

/// How many messages a channel hands out in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: NonZeroU64,
    pub period: Period,
    /// It is the rate of all nodes that carry the topic together.
    pub is_total: bool,
}

/// See [`Rate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Period {
    Second,
    Minute,
    Hour,
}

/// How fast a channel hands out messages, and how many at a time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    pub rate: Option<Rate>,
    /// Most messages handed out at once after a pause; 0 for [`Rate::default_burst`].
    pub burst: u64,
    /// Most messages in flight, to all consumers together; 0 for no limit.
    pub max_in_flight: u64,
}

/// Why a text is not a rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    #[error("it is not NUMBER/UNIT")]
    Form,
    #[error("{0:?} is not a number from 1 to {MOST_PER_PERIOD}")]
    Number(String),
    #[error("{0:?} is not s, m or h")]
    Unit(String),
}

/// The largest number in a rate.
const MOST_PER_PERIOD: u64 = 1_000_000_000;
/// A rate without a burst hands out at once what it allows in this part of a second.
const BURSTS_PER_SECOND: u64 = 10;

impl Period {
    pub fn nanos(self) -> Nanos {
        match self {
            Period::Second => 1_000_000_000,
            Period::Minute => 60_000_000_000,
            Period::Hour => 3_600_000_000_000,
        }
    }
}

impl Rate {
    /// What a setting takes, as a phrase.
    pub const EXPECTED: &str =
        "NUMBER/s, NUMBER/m or NUMBER/h, with total for all nodes of the topic together, or 0 for no limit";

    /// The burst of a rate that names none: what it allows in 100 ms, at least 1. A timer that is late by less loses no
    /// messages, and in 10 s the burst adds at most 1 % to the rate.
    pub fn default_burst(self) -> u64 {
        (self.count.get() * 1_000_000_000 / self.period.nanos() / BURSTS_PER_SECOND).max(1)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.period {
            Period::Second => "s",
            Period::Minute => "m",
            Period::Hour => "h",
        };
        write!(f, "{}/{unit}{}", self.count, if self.is_total { " total" } else { "" })
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let text = text.trim();
        let (text, is_total) = match text.strip_suffix("total") {
            Some(rate) if rate.ends_with(' ') => (rate.trim_end(), true),
            _ => (text, false),
        };
        let (number, unit) = text.split_once('/').ok_or(InvalidRate::Form)?;
        let period = match unit.trim() {
            "s" => Period::Second,
            "m" => Period::Minute,
            "h" => Period::Hour,
            unit => return Err(InvalidRate::Unit(unit.to_owned())),
        };
        let count =
            number.trim().parse().ok().filter(|count| *count <= MOST_PER_PERIOD).and_then(NonZeroU64::new);
        let count = count.ok_or_else(|| InvalidRate::Number(number.trim().to_owned()))?;
        Ok(Rate { count, period, is_total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_convert_to_values_and_back() {
        for text in ["100/s", "7/m total", "1/h"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        assert_eq!(" 5 / s total ".parse::<Rate>().unwrap().to_string(), "5/s total");
        let refused = |text: &str| text.parse::<Rate>().unwrap_err().to_string();
        assert_eq!(refused("100"), "it is not NUMBER/UNIT");
        assert_eq!(refused("0/s"), "\"0\" is not a number from 1 to 1000000000");
        assert_eq!(refused("5/d"), "\"d\" is not s, m or h");
        assert_eq!(refused("5/stotal"), "\"stotal\" is not s, m or h");
    }

    #[test]
    fn default_burst_is_a_tenth_of_a_second() {
        let burst = |text: &str| text.parse::<Rate>().unwrap().default_burst();
        assert_eq!([burst("1/s"), burst("1000/s"), burst("60000/m"), burst("5/h")], [1, 100, 100, 1]);
        assert_eq!(burst("1000000000/s"), 100_000_000);
    }
}
