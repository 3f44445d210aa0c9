//! Pure: when a condition is a problem. Read from the table `[problems]` of a TOML file.

use std::time::Duration;

use thiserror::Error;

/// The thresholds of all rules.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)] // See the table below.
pub struct Thresholds {
    pub no_consumers_for: Duration,
    pub consumer_gap_for: Duration,
    pub stuck_for: Duration,
    pub disk_full_within: Duration,
    pub disk_free_percent: f64,
    pub falling_behind_for: Duration,
    pub falling_behind_crit: Duration,
    pub falling_behind_percent: f64,
    pub backing_off_for: Duration,
    pub old_message: Duration,
    pub requeue_percent: f64,
    pub requeue_for: Duration,
    pub timeout_percent: f64,
    pub timeout_for: Duration,
    pub least_rate: f64,
    pub dead_letters_stuck_for: Duration,
    pub no_channel_for: Duration,
    pub lookupd_disagree_for: Duration,
    pub clock_skew: Duration,
    pub paused_warn: Duration,
    pub throttled_for: Duration,
    pub spilling_for: Duration,
    pub recent: Duration,
    pub restarted_within: Duration,
}

/// A threshold is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ThresholdError {
    /// The file is not TOML.
    #[error("invalid TOML: {0}")]
    Syntax(String),
    /// There is no such key.
    #[error("unknown key {key:?} in [problems]; known keys: {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// All keys.
        known: String,
    },
    /// The value has the wrong type or is out of range.
    #[error("{key} = {value} in [problems]: expected {expected}")]
    InvalidValue {
        /// The key.
        key: String,
        /// The value, as written.
        value: String,
        /// The allowed range, with an example.
        expected: String,
    },
}

/// What a key allows.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Time(Duration, Duration),
    Number(f64, f64),
}

/// A key of the table.
struct Setting {
    key: &'static str,
    default: &'static str,
    kind: Kind,
    set: fn(&mut Thresholds, Value),
}

#[derive(Debug, Clone, Copy)]
enum Value {
    Time(Duration),
    Number(f64),
}

impl Value {
    fn time(self) -> Duration {
        match self {
            Value::Time(time) => time,
            Value::Number(seconds) => Duration::from_secs_f64(seconds),
        }
    }

    fn number(self) -> f64 {
        match self {
            Value::Time(time) => time.as_secs_f64(),
            Value::Number(number) => number,
        }
    }
}

const ZERO: Duration = Duration::ZERO;
const DAY: Duration = Duration::from_secs(24 * 3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

macro_rules! settings {
    (times: $($time:ident $time_default:literal $most:ident)*; numbers: $($number:ident $number_default:literal $least_number:literal $most_number:literal)*) => {
        const SETTINGS: &[Setting] = &[
            $(Setting {
                key: stringify!($time),
                default: $time_default,
                kind: Kind::Time(ZERO, $most),
                set: |thresholds, value| thresholds.$time = value.time(),
            },)*
            $(Setting {
                key: stringify!($number),
                default: stringify!($number_default),
                kind: Kind::Number($least_number, $most_number),
                set: |thresholds, value| thresholds.$number = value.number(),
            },)*
        ];

        const UNSET: Thresholds = Thresholds { $($time: ZERO,)* $($number: 0.0,)* };
    };
}

settings! {
    times:
        no_consumers_for "1m" DAY
        consumer_gap_for "5s" DAY
        stuck_for "1m" DAY
        disk_full_within "4h" MONTH
        falling_behind_for "30s" DAY
        falling_behind_crit "10m" DAY
        backing_off_for "10s" DAY
        old_message "15m" MONTH
        requeue_for "30s" DAY
        timeout_for "30s" DAY
        dead_letters_stuck_for "1m" DAY
        no_channel_for "1m" DAY
        lookupd_disagree_for "2m" DAY
        clock_skew "5s" DAY
        paused_warn "1h" MONTH
        throttled_for "1m" DAY
        spilling_for "1m" DAY
        recent "10m" DAY
        restarted_within "10m" DAY;
    numbers:
        disk_free_percent 5 0.0 100.0
        falling_behind_percent 5 0.0 1000.0
        requeue_percent 10 0.0 100.0
        timeout_percent 1 0.0 100.0
        least_rate 1 0.0 1000000000.0
}

impl Default for Thresholds {
    fn default() -> Self {
        let mut thresholds = UNSET;
        for setting in SETTINGS {
            if let Some(value) = setting.parse(setting.default) {
                (setting.set)(&mut thresholds, value);
            }
        }
        thresholds
    }
}

impl Setting {
    fn parse(&self, text: &str) -> Option<Value> {
        match self.kind {
            Kind::Time(least, most) => {
                let time = nsq_protocol::go_duration::parse(text).ok()?;
                (least..=most).contains(&time).then_some(Value::Time(time))
            }
            Kind::Number(least, most) => {
                let number: f64 = text.parse().ok()?;
                (least..=most).contains(&number).then_some(Value::Number(number))
            }
        }
    }

    fn expected(&self) -> String {
        match self.kind {
            Kind::Time(_, most) => {
                format!(
                    "a time in quotes from 0s to {}h, such as \"{}\"",
                    most.as_secs() / 3600,
                    self.default
                )
            }
            Kind::Number(least, most) => {
                format!("a number from {least} to {most}, such as {}", self.default)
            }
        }
    }
}

impl Thresholds {
    /// Reads the table `[problems]` of a TOML file. Keys that are missing keep their default; other tables are ignored.
    pub fn from_toml(text: &str) -> Result<Self, ThresholdError> {
        let file: toml::Table =
            text.parse().map_err(|e: toml::de::Error| ThresholdError::Syntax(e.to_string()))?;
        match file.get("problems") {
            None => Ok(Self::default()),
            Some(toml::Value::Table(table)) => Self::from_table(table),
            Some(other) => Err(ThresholdError::Syntax(format!("problems must be a table, not {other}"))),
        }
    }

    fn from_table(table: &toml::Table) -> Result<Self, ThresholdError> {
        let mut thresholds = Self::default();
        for (key, value) in table {
            let text = match value {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            thresholds.set(key, &text, value.is_str())?;
        }
        Ok(thresholds)
    }

    /// Sets one threshold, such as `paused_warn` to `2h`.
    pub fn set_text(&mut self, key: &str, value: &str) -> Result<(), ThresholdError> {
        let is_time = SETTINGS.iter().any(|s| s.key == key && matches!(s.kind, Kind::Time(..)));
        self.set(key, value, is_time)
    }

    fn set(&mut self, key: &str, text: &str, is_string: bool) -> Result<(), ThresholdError> {
        let Some(setting) = SETTINGS.iter().find(|setting| setting.key == key) else {
            let known: Vec<&str> = Self::keys().map(|(key, _)| key).collect();
            return Err(ThresholdError::UnknownKey { key: key.to_owned(), known: known.join(", ") });
        };
        let fits = is_string == matches!(setting.kind, Kind::Time(..));
        let Some(value) = setting.parse(text).filter(|_| fits) else {
            let value = if is_string { format!("{text:?}") } else { text.to_owned() };
            return Err(ThresholdError::InvalidValue {
                key: key.to_owned(),
                value,
                expected: setting.expected(),
            });
        };
        (setting.set)(self, value);
        Ok(())
    }

    /// All keys with their defaults.
    pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        SETTINGS.iter().map(|setting| (setting.key, setting.default))
    }

    /// The same thresholds, but a condition counts at once, however short it lasts. For a single check, which a
    /// monitoring system repeats before it alerts.
    #[must_use]
    pub fn at_once(self) -> Self {
        Thresholds {
            no_consumers_for: ZERO,
            consumer_gap_for: ZERO,
            stuck_for: ZERO,
            falling_behind_for: ZERO,
            backing_off_for: ZERO,
            requeue_for: ZERO,
            timeout_for: ZERO,
            dead_letters_stuck_for: ZERO,
            no_channel_for: ZERO,
            lookupd_disagree_for: ZERO,
            throttled_for: ZERO,
            spilling_for: ZERO,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_within_its_range() {
        for setting in SETTINGS {
            assert!(setting.parse(setting.default).is_some(), "{}", setting.key);
        }
        let thresholds = Thresholds::default();
        assert_eq!(thresholds.no_consumers_for, Duration::from_secs(60));
        assert_eq!(thresholds.timeout_percent, 1.0);
    }

    #[test]
    fn file_changes_only_what_it_names() {
        let text = "[other]\nx = 1\n[problems]\nold_message = \"1h\"\nrequeue_percent = 20.5\n";
        let thresholds = Thresholds::from_toml(text).unwrap();
        let expected = Thresholds {
            old_message: Duration::from_secs(3600),
            requeue_percent: 20.5,
            ..Thresholds::default()
        };
        assert_eq!(thresholds, expected);
        assert_eq!(Thresholds::from_toml("").unwrap(), Thresholds::default());
    }

    #[test]
    fn invalid_values_name_key_value_range_and_an_example() {
        for (text, error) in [
            (
                "[problems]\nold_message = \"40000h\"",
                "old_message = \"40000h\" in [problems]: expected a time in quotes from 0s to 720h, such as \"15m\"",
            ),
            (
                "[problems]\nold_message = 15",
                "old_message = 15 in [problems]: expected a time in quotes from 0s to 720h, such as \"15m\"",
            ),
            (
                "[problems]\nrequeue_percent = 101",
                "requeue_percent = 101 in [problems]: expected a number from 0 to 100, such as 10",
            ),
            (
                "[problems]\nrequeue_percent = \"5\"",
                "requeue_percent = \"5\" in [problems]: expected a number from 0 to 100, such as 10",
            ),
        ] {
            assert_eq!(Thresholds::from_toml(text).unwrap_err().to_string(), error);
        }
        let unknown = Thresholds::from_toml("[problems]\nold = \"1s\"").unwrap_err().to_string();
        assert!(
            unknown.starts_with("unknown key \"old\" in [problems]; known keys: no_consumers_for, "),
            "{unknown}"
        );
        assert!(matches!(Thresholds::from_toml("problems = 1"), Err(ThresholdError::Syntax(_))));
        assert!(matches!(Thresholds::from_toml("[problems"), Err(ThresholdError::Syntax(_))));
    }
}
