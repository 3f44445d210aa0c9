//! Pure: retry schedules, which tell how long a failed message waits before its next delivery.
//!
//! ```text
//! exponential 1s..15m x2 jitter 20%    1s, 2s, 4s, ... at most 15m, each 20 % more or less
//! linear 1s..15m                       1s, 2s, 3s, ... at most 15m
//! list 1s,10s,1m                       1s, 10s, 1m, 1m, ...
//! ```
//!
//! Jitter depends on the message and its attempt only, so that a replay of the same events computes the same delays.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use nsq_daemon::go_duration;

/// The longest delay that a schedule may contain.
pub const MAX_DELAY: Duration = Duration::from_secs(365 * 24 * 3600);
/// The most delays that a list may contain.
const MAX_LIST: usize = 64;
/// The factor of an exponential schedule that names none, in thousandths.
const DEFAULT_FACTOR: u32 = 2000;
/// The largest factor, in thousandths.
const MAX_FACTOR: u32 = 100_000;

/// A retry schedule; see the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    growth: Growth,
    /// Delays vary by up to this many percent in both directions.
    jitter_percent: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Growth {
    Exponential {
        first: Duration,
        most: Duration,
        /// In thousandths; more than 1000.
        factor: u32,
    },
    Linear {
        first: Duration,
        most: Duration,
    },
    /// Not empty. The last one repeats.
    List(Vec<Duration>),
}

/// Why a text is not a retry schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRetry {
    /// It does not begin with a known word.
    #[error("{0:?} is not exponential, linear or list")]
    Kind(String),
    /// A word at a place where none or another one is expected.
    #[error("unexpected {0:?}")]
    Unexpected(String),
    /// Not `FIRST..LONGEST`.
    #[error("{0:?} is not a range of delays such as 1s..15m")]
    Range(String),
    /// A delay is not a duration, is 0, or is too long.
    #[error("{0:?} is not a delay from 1ms to 365d")]
    Delay(String),
    /// Not more than 1 and at most 100.
    #[error("{0:?} is not a factor above 1 and up to x100")]
    Factor(String),
    /// Not 0 to 100 percent.
    #[error("{0:?} is not a jitter from 0% to 100%")]
    Jitter(String),
    /// A list without delays, or with too many.
    #[error("a list needs 1 to {MAX_LIST} delays")]
    ListLength,
}

impl Retry {
    /// The delay after the `failures`th failure (from 1 on) of a message.
    pub fn delay(&self, message_id: u64, failures: u32) -> Duration {
        let step = failures.max(1) - 1;
        let plain = match &self.growth {
            Growth::Exponential { first, most, factor } => {
                // Above 2^62 ns every schedule has reached its longest delay.
                let grown = first.as_nanos() as f64
                    * (f64::from(*factor) / 1000.0).powi(step.min(i32::MAX as u32) as i32);
                if grown >= most.as_nanos() as f64 { *most } else { Duration::from_nanos(grown as u64) }
            }
            Growth::Linear { first, most } => first.saturating_mul(step.saturating_add(1)).min(*most),
            Growth::List(delays) => delays[(step as usize).min(delays.len() - 1)],
        };
        if self.jitter_percent == 0 {
            return plain;
        }
        let nanos = plain.as_nanos() as u64;
        let most = nanos / 100 * u64::from(self.jitter_percent);
        let offset = scrambled(message_id ^ u64::from(failures).rotate_left(48)) % (2 * most + 1);
        Duration::from_nanos(nanos - most + offset)
    }
}

/// A well mixed function of its argument (the finalizer of SplitMix64).
fn scrambled(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

impl FromStr for Retry {
    type Err = InvalidRetry;

    fn from_str(text: &str) -> Result<Self, InvalidRetry> {
        let mut words = text.split_whitespace().peekable();
        let kind = words.next().unwrap_or_default();
        let mut next = || words.next().unwrap_or_default();
        let growth = match kind {
            "exponential" => {
                let (first, most) = range(next())?;
                let factor = match words.next_if(|word| word.starts_with('x')) {
                    Some(word) => factor(word)?,
                    None => DEFAULT_FACTOR,
                };
                Growth::Exponential { first, most, factor }
            }
            "linear" => {
                let (first, most) = range(next())?;
                Growth::Linear { first, most }
            }
            "list" => {
                let delays: Vec<_> = next().split(',').map(delay).collect::<Result<_, _>>()?;
                if delays.len() > MAX_LIST {
                    return Err(InvalidRetry::ListLength);
                }
                Growth::List(delays)
            }
            other => return Err(InvalidRetry::Kind(other.to_owned())),
        };
        let jitter_percent = match words.next() {
            None => 0,
            Some("jitter") => jitter(words.next().unwrap_or_default())?,
            Some(other) => return Err(InvalidRetry::Unexpected(other.to_owned())),
        };
        match words.next() {
            None => Ok(Retry { growth, jitter_percent }),
            Some(other) => Err(InvalidRetry::Unexpected(other.to_owned())),
        }
    }
}

fn range(text: &str) -> Result<(Duration, Duration), InvalidRetry> {
    let (first, most) = text.split_once("..").ok_or_else(|| InvalidRetry::Range(text.to_owned()))?;
    let (first, most) = (delay(first)?, delay(most)?);
    if first > most {
        return Err(InvalidRetry::Range(text.to_owned()));
    }
    Ok((first, most))
}

fn delay(text: &str) -> Result<Duration, InvalidRetry> {
    let shortest = Duration::from_millis(1);
    (go_duration::parse_with_days(text).ok().filter(|delay| (shortest..=MAX_DELAY).contains(delay)))
        .ok_or_else(|| InvalidRetry::Delay(text.to_owned()))
}

/// `x2` or `x1.5`, in thousandths.
fn factor(text: &str) -> Result<u32, InvalidRetry> {
    let factor = text[1..].parse::<f64>().ok().map(|factor| (factor * 1000.0).round());
    (factor.filter(|factor| *factor > 1000.0 && *factor <= f64::from(MAX_FACTOR)).map(|factor| factor as u32))
        .ok_or_else(|| InvalidRetry::Factor(text.to_owned()))
}

fn jitter(text: &str) -> Result<u8, InvalidRetry> {
    let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
    percent.filter(|percent| *percent <= 100).ok_or_else(|| InvalidRetry::Jitter(text.to_owned()))
}

/// The text that parses to the same schedule.
impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |delay: &Duration| go_duration::format(*delay);
        match &self.growth {
            Growth::Exponential { first, most, factor } => {
                write!(f, "exponential {}..{}", text(first), text(most))?;
                if *factor != DEFAULT_FACTOR {
                    write!(f, " x{}", f64::from(*factor) / 1000.0)?;
                }
            }
            Growth::Linear { first, most } => write!(f, "linear {}..{}", text(first), text(most))?,
            Growth::List(delays) => {
                write!(f, "list {}", delays.iter().map(text).collect::<Vec<_>>().join(","))?;
            }
        }
        if self.jitter_percent > 0 {
            write!(f, " jitter {}%", self.jitter_percent)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(schedule: &str, count: u32) -> Vec<f64> {
        let retry: Retry = schedule.parse().unwrap();
        (1..=count).map(|failures| retry.delay(7, failures).as_secs_f64()).collect()
    }

    #[test]
    fn schedules_grow_as_they_say() {
        assert_eq!(seconds("exponential 1s..15s", 6), [1.0, 2.0, 4.0, 8.0, 15.0, 15.0]);
        assert_eq!(seconds("exponential 1s..1m x1.5", 3), [1.0, 1.5, 2.25]);
        assert_eq!(seconds("linear 2s..5s", 4), [2.0, 4.0, 5.0, 5.0]);
        assert_eq!(seconds("list 1s,10s,1m", 4), [1.0, 10.0, 60.0, 60.0]);
        let endless: Retry = "exponential 1s..365d x100".parse().unwrap();
        assert_eq!(endless.delay(1, u32::MAX), MAX_DELAY);
        assert_eq!(endless.delay(1, 0), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_in_its_range_and_depends_on_message_and_attempt() {
        let retry: Retry = "list 10s jitter 20%".parse().unwrap();
        let delays: Vec<_> = (0..1000).map(|id| retry.delay(id, 1).as_secs_f64()).collect();
        assert!(delays.iter().all(|delay| (8.0..=12.0).contains(delay)));
        assert!(delays.iter().any(|delay| *delay < 8.1) && delays.iter().any(|delay| *delay > 11.9));
        let average = delays.iter().sum::<f64>() / 1000.0;
        assert!((9.8..10.2).contains(&average), "{average}");
        assert_eq!(retry.delay(5, 1), retry.delay(5, 1));
        assert_ne!(retry.delay(5, 1), retry.delay(5, 2));
    }

    #[test]
    fn text_and_schedule_convert_into_each_other() {
        for text in [
            "exponential 1s..15m0s jitter 20%",
            "exponential 100ms..1h0m0s x1.5",
            "linear 1s..15m0s",
            "list 1s,10s,1m0s jitter 100%",
        ] {
            assert_eq!(text.parse::<Retry>().unwrap().to_string(), text);
        }
        assert_eq!("exponential 1s..1m x2 jitter 0%".parse::<Retry>(), "exponential 1s..60s".parse());
    }

    #[test]
    fn wrong_texts_are_refused_with_the_wrong_part() {
        for (text, error) in [
            ("", r#""" is not exponential, linear or list"#),
            ("often", r#""often" is not exponential, linear or list"#),
            ("linear", r#""" is not a range of delays such as 1s..15m"#),
            ("linear 5s..1s", r#""5s..1s" is not a range of delays such as 1s..15m"#),
            ("linear 0s..1s", r#""0s" is not a delay from 1ms to 365d"#),
            ("linear 1s..366d", r#""366d" is not a delay from 1ms to 365d"#),
            ("linear 1s..5s x2", r#"unexpected "x2""#),
            ("exponential 1s..5s x1", r#""x1" is not a factor above 1 and up to x100"#),
            ("exponential 1s..5s xfast", r#""xfast" is not a factor above 1 and up to x100"#),
            ("exponential 1s..5s jitter", r#""" is not a jitter from 0% to 100%"#),
            ("list 1s,,2s", r#""" is not a delay from 1ms to 365d"#),
            ("list 1s jitter 120%", r#""120%" is not a jitter from 0% to 100%"#),
            ("list 1s jitter 10% now", r#"unexpected "now""#),
        ] {
            assert_eq!(text.parse::<Retry>().unwrap_err().to_string(), error, "{text}");
        }
        let long = format!("list {}", vec!["1s"; 65].join(","));
        assert_eq!(long.parse::<Retry>(), Err(InvalidRetry::ListLength));
    }
}
