//! Loosely typed option values, what each type of option accepts, and ranges.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use nsq_protocol::{StartAt, go_duration};

use super::duration;

/// A value for [`Config::set`](super::Config::set): text, a number, a switch or a duration.
#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    /// Text, which is parsed as the option's type.
    Text(String),
    /// A whole number; milliseconds if the option is a duration.
    Int(i64),
    /// Any other number; milliseconds if the option is a duration.
    Float(f64),
    /// A switch: true is on.
    Bool(bool),
    /// A duration.
    Duration(Duration),
}

impl fmt::Display for OptionValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OptionValue::Text(text) => f.write_str(text),
            OptionValue::Int(number) => number.fmt(f),
            OptionValue::Float(number) => number.fmt(f),
            OptionValue::Bool(switch) => switch.fmt(f),
            OptionValue::Duration(duration) => write!(f, "{duration:?}"),
        }
    }
}

macro_rules! option_value_from {
    ($($type:ty => $variant:ident),* $(,)?) => {
        $( impl From<$type> for OptionValue {
            fn from(value: $type) -> Self {
                OptionValue::$variant(value.into())
            }
        } )*
    };
}

option_value_from! {
    &str => Text, String => Text, i64 => Int, i32 => Int, u32 => Int, u16 => Int, f64 => Float, bool => Bool,
    Duration => Duration,
}

/// How the pauses of a backoff grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BackoffStrategy {
    /// The pause at level n is `backoff_multiplier` times 2 to the n.
    Exponential,
    /// The pause is random between a tenth of the exponential pause and all of it, so that consumers do not retry
    /// simultaneously.
    FullJitter,
}

/// An interval that has a default in nsqd and can be turned off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interval {
    /// Use nsqd's default.
    ServerDefault,
    /// Turn it off.
    Off,
    /// Use this interval.
    Every(Duration),
}

impl Interval {
    /// The value in IDENTIFY: none, -1, or milliseconds.
    pub(crate) fn to_wire(self) -> Option<i64> {
        match self {
            Interval::ServerDefault => None,
            Interval::Off => Some(-1),
            Interval::Every(interval) => Some(i64::try_from(interval.as_millis()).unwrap_or(i64::MAX)),
        }
    }
}

impl From<Duration> for Interval {
    fn from(interval: Duration) -> Self {
        Interval::Every(interval)
    }
}

/// The lowest TLS version to accept, as the option `tls_min_version` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// `ssl3.0`
    Ssl30,
    /// `tls1.0`
    Tls10,
    /// `tls1.1`
    Tls11,
    /// `tls1.2`
    Tls12,
    /// `tls1.3`
    Tls13,
}

/// The allowed values of an option.
pub(super) enum Range {
    Any,
    Ints(i64, i64),
    Floats(f64, f64),
    Durations(Duration, Duration),
}

/// A type that an option can have.
pub(super) trait FromOption: Sized {
    /// Describes valid values in error messages.
    const EXPECTED: &'static str;

    fn from_option(value: &OptionValue) -> Option<Self>;

    /// The value as text that [`FromOption::from_option`] reads; empty if there is none or it is secret.
    fn to_text(&self) -> String;

    /// Returns the range as text if the value is outside of it.
    fn check(&self, _range: &Range) -> Result<(), String> {
        Ok(())
    }
}

impl FromOption for Duration {
    const EXPECTED: &'static str = "a duration such as 250ms or 1m30s, or milliseconds";

    fn to_text(&self) -> String {
        go_duration::format(*self)
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Duration(duration) => Some(*duration),
            OptionValue::Int(ms) => u64::try_from(*ms).ok().map(Duration::from_millis),
            OptionValue::Float(ms) => Duration::try_from_secs_f64(ms / 1000.0).ok(),
            OptionValue::Text(text) => duration::parse(text),
            OptionValue::Bool(_) => None,
        }
    }

    fn check(&self, range: &Range) -> Result<(), String> {
        match range {
            Range::Durations(min, max) if self < min || self > max => Err(format!("{min:?} to {max:?}")),
            _ => Ok(()),
        }
    }
}

impl FromOption for Interval {
    const EXPECTED: &'static str = "a duration such as 250ms, milliseconds, or -1 for off";

    fn to_text(&self) -> String {
        match self {
            Interval::ServerDefault => String::new(),
            Interval::Off => "-1".to_owned(),
            Interval::Every(interval) => interval.to_text(),
        }
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Int(-1) => Some(Interval::Off),
            OptionValue::Text(text) if text == "-1" || text == "-1ms" => Some(Interval::Off),
            other => match Duration::from_option(other)? {
                Duration::ZERO => Some(Interval::ServerDefault),
                interval => Some(Interval::Every(interval)),
            },
        }
    }

    fn check(&self, range: &Range) -> Result<(), String> {
        match self {
            Interval::Every(interval) => interval.check(range),
            Interval::ServerDefault | Interval::Off => Ok(()),
        }
    }
}

impl FromOption for bool {
    const EXPECTED: &'static str = "true or false";

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Bool(switch) => Some(*switch),
            OptionValue::Int(number) => Some(*number != 0),
            OptionValue::Text(text) => match text.as_str() {
                "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
                "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
                _ => None,
            },
            OptionValue::Float(_) | OptionValue::Duration(_) => None,
        }
    }
}

impl FromOption for f64 {
    const EXPECTED: &'static str = "a number";

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value {
            OptionValue::Float(number) => Some(*number),
            OptionValue::Int(number) => Some(*number as f64),
            OptionValue::Text(text) => text.parse().ok(),
            OptionValue::Bool(_) | OptionValue::Duration(_) => None,
        }
    }

    fn check(&self, range: &Range) -> Result<(), String> {
        match range {
            // Written so that a NaN is outside of every range.
            Range::Floats(min, max) if !(*min..=*max).contains(self) => Err(format!("{min} to {max}")),
            _ => Ok(()),
        }
    }
}

fn whole_number(value: &OptionValue) -> Option<i64> {
    match value {
        OptionValue::Int(number) => Some(*number),
        OptionValue::Text(text) => text.parse().ok(),
        OptionValue::Bool(_) | OptionValue::Float(_) | OptionValue::Duration(_) => None,
    }
}

macro_rules! whole_number_options {
    ($($type:ty: $expected:literal;)*) => {
        $( impl FromOption for $type {
            const EXPECTED: &'static str = $expected;

            fn to_text(&self) -> String {
                self.to_string()
            }

            fn from_option(value: &OptionValue) -> Option<Self> {
                <$type>::try_from(whole_number(value)?).ok()
            }

            fn check(&self, range: &Range) -> Result<(), String> {
                match range {
                    Range::Ints(min, max) if !(*min..=*max).contains(&i64::from(*self)) => {
                        Err(format!("{min} to {max}"))
                    }
                    _ => Ok(()),
                }
            }
        } )*
    };
}

whole_number_options! {
    u8: "a whole number from 0 to 255";
    u16: "a whole number from 0 to 65535";
    u32: "a whole number from 0 to 4294967295";
    i64: "a whole number";
}

impl FromOption for String {
    const EXPECTED: &'static str = "text";

    fn to_text(&self) -> String {
        self.clone()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        Some(value.to_string())
    }
}

impl FromOption for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn to_text(&self) -> String {
        self.display().to_string()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        Some(PathBuf::from(value.to_string()))
    }
}

impl FromOption for IpAddr {
    const EXPECTED: &'static str = "an IP address";

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        let text = value.to_string();
        // The Go client accepts `address:port` here. The port of a source address has no use.
        text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::SocketAddr| address.ip()))
    }
}

impl<T: FromOption> FromOption for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn to_text(&self) -> String {
        self.as_ref().map(T::to_text).unwrap_or_default()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        T::from_option(value).map(Some)
    }

    fn check(&self, range: &Range) -> Result<(), String> {
        self.as_ref().map_or(Ok(()), |value| value.check(range))
    }
}

impl FromOption for StartAt {
    const EXPECTED: &'static str = "earliest, latest, an RFC 3339 or Unix time, seq:NUMBER or id:MESSAGE-ID";

    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        value.to_string().parse().ok()
    }
}

impl FromOption for BackoffStrategy {
    const EXPECTED: &'static str = "exponential or full_jitter";

    fn to_text(&self) -> String {
        match self {
            BackoffStrategy::Exponential => "exponential".to_owned(),
            BackoffStrategy::FullJitter => "full_jitter".to_owned(),
        }
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value.to_string().as_str() {
            "" | "exponential" => Some(BackoffStrategy::Exponential),
            "full_jitter" => Some(BackoffStrategy::FullJitter),
            _ => None,
        }
    }
}

impl FromOption for TlsVersion {
    const EXPECTED: &'static str = "ssl3.0, tls1.0, tls1.1, tls1.2 or tls1.3";

    fn to_text(&self) -> String {
        let text = match self {
            TlsVersion::Ssl30 => "ssl3.0",
            TlsVersion::Tls10 => "tls1.0",
            TlsVersion::Tls11 => "tls1.1",
            TlsVersion::Tls12 => "tls1.2",
            TlsVersion::Tls13 => "tls1.3",
        };
        text.to_owned()
    }

    fn from_option(value: &OptionValue) -> Option<Self> {
        match value.to_string().as_str() {
            "ssl3.0" => Some(TlsVersion::Ssl30),
            "tls1.0" => Some(TlsVersion::Tls10),
            "tls1.1" => Some(TlsVersion::Tls11),
            "tls1.2" => Some(TlsVersion::Tls12),
            "tls1.3" => Some(TlsVersion::Tls13),
            _ => None,
        }
    }
}
