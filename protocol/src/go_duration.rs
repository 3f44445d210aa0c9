//! Durations in Go's syntax: `1m30s`, `250ms`, `1.5h`.

use std::fmt::{self, Write as _};
use std::time::Duration;

/// Why a text is not a valid duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Neither a number with a unit nor a sequence of them.
    #[error("{0:?} is not a duration (such as 250ms or 1m30s)")]
    Malformed(String),
    /// A number without a unit; only `0` needs none.
    #[error("missing unit in duration {0:?} (ns, us, ms, s, m, h)")]
    MissingUnit(String),
    /// Less than zero.
    #[error("negative duration {0:?}")]
    Negative(String),
    /// More nanoseconds than a signed 64-bit integer holds (292 years).
    #[error("duration {0:?} is out of range")]
    OutOfRange(String),
}

const NANOSECOND: u128 = 1;
const MICROSECOND: u128 = 1_000;
const MILLISECOND: u128 = 1_000_000;
const SECOND: u128 = 1_000_000_000;
const MINUTE: u128 = 60 * SECOND;
const HOUR: u128 = 60 * MINUTE;

/// Longer names first where one is a prefix of another.
const UNITS: [(&str, u128); 8] = [
    ("ns", NANOSECOND),
    ("us", MICROSECOND),
    ("\u{b5}s", MICROSECOND),
    ("\u{3bc}s", MICROSECOND),
    ("ms", MILLISECOND),
    ("s", SECOND),
    ("m", MINUTE),
    ("h", HOUR),
];

/// Digits after the point that can matter; more digits are finer than a nanosecond even in hours, and are dropped.
const MAX_FRACTION_DIGITS: usize = 15;

/// Parses a duration. Usable as a clap value parser.
///
/// ```
/// # use std::time::Duration;
/// # use nsq_protocol::go_duration::parse;
/// assert_eq!(parse("1m30s"), Ok(Duration::from_secs(90)));
/// assert!(parse("90").is_err());
/// ```
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let malformed = || InvalidDuration::Malformed(text.to_owned());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if unsigned == "0" {
        return Ok(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return Err(malformed());
    }
    let mut rest = unsigned;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = split_digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => split_digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(malformed());
        }
        let (unit, after) = split_unit(after).ok_or_else(|| missing_unit(text, after))?;
        let out_of_range = || InvalidDuration::OutOfRange(text.to_owned());
        let nanos = term_nanos(whole, fraction, unit).ok_or_else(out_of_range)?;
        total = total.checked_add(nanos).filter(|&n| n <= i64::MAX as u128).ok_or_else(out_of_range)?;
        rest = after;
    }
    match u64::try_from(total) {
        Ok(nanos) if nanos == 0 || !negative => Ok(Duration::from_nanos(nanos)),
        Ok(_) => Err(InvalidDuration::Negative(text.to_owned())),
        Err(_) => Err(InvalidDuration::OutOfRange(text.to_owned())),
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

fn split_unit(text: &str) -> Option<(u128, &str)> {
    UNITS.iter().find_map(|(name, nanos)| {
        let rest = text.strip_prefix(name)?;
        // `1mx` must not parse as minutes followed by something else.
        let ends = rest.is_empty() || rest.starts_with(|c: char| c == '.' || c.is_ascii_digit());
        ends.then_some((*nanos, rest))
    })
}

fn missing_unit(text: &str, after: &str) -> InvalidDuration {
    if after.is_empty() {
        InvalidDuration::MissingUnit(text.to_owned())
    } else {
        InvalidDuration::Malformed(text.to_owned())
    }
}

/// `None` on overflow. `whole` and `fraction` hold digits only.
fn term_nanos(whole: &str, fraction: &str, unit: u128) -> Option<u128> {
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction = &fraction[..fraction.len().min(MAX_FRACTION_DIGITS)];
    let parts: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let scale = 10u128.pow(fraction.len() as u32);
    whole.checked_mul(unit)?.checked_add(parts * unit / scale)
}

/// Parses a duration in Go's syntax, or whole days such as `14d`.
pub fn parse_with_days(text: &str) -> Result<Duration, InvalidDuration> {
    const SECONDS_OF_DAY: u64 = 24 * 3600;
    match text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()) {
        Some(days) => {
            let seconds = days.checked_mul(SECONDS_OF_DAY);
            seconds.map(Duration::from_secs).ok_or_else(|| InvalidDuration::OutOfRange(text.to_owned()))
        }
        None => parse(text),
    }
}

/// Formats a duration as Go prints it: `1m30s`, `271.934µs`, `0s`.
///
/// ```
/// # use std::time::Duration;
/// # use nsq_protocol::go_duration::format;
/// assert_eq!(format(Duration::from_nanos(271_934)), "271.934µs");
/// ```
pub fn format(duration: Duration) -> String {
    Display(duration).to_string()
}

/// A duration that displays as [`format()`] writes it.
#[derive(Debug, Clone, Copy)]
pub struct Display(pub Duration);

impl fmt::Display for Display {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        match nanos {
            0 => f.write_str("0s"),
            n if n < MICROSECOND => write!(f, "{n}ns"),
            n if n < MILLISECOND => write_decimal(f, n, MICROSECOND).and_then(|()| f.write_str("µs")),
            n if n < SECOND => write_decimal(f, n, MILLISECOND).and_then(|()| f.write_str("ms")),
            n => {
                if n >= HOUR {
                    write!(f, "{}h", n / HOUR)?;
                }
                if n >= MINUTE {
                    write!(f, "{}m", n % HOUR / MINUTE)?;
                }
                write_decimal(f, n % MINUTE, SECOND)?;
                f.write_char('s')
            }
        }
    }
}

/// Writes `nanos / unit` without trailing zeros. `unit` is a power of ten.
fn write_decimal(f: &mut fmt::Formatter<'_>, nanos: u128, unit: u128) -> fmt::Result {
    write!(f, "{}", nanos / unit)?;
    let fraction = nanos % unit;
    if fraction == 0 {
        return Ok(());
    }
    let digits = format!("{fraction:0width$}", width = unit.ilog10() as usize);
    write!(f, ".{}", digits.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_what_go_parses() {
        let cases: [(&str, u64); 12] = [
            ("0", 0),
            ("-0s", 0),
            ("5ns", 5),
            ("3us", 3_000),
            ("3µs", 3_000),
            ("3μs", 3_000),
            ("250ms", 250_000_000),
            ("1.5s", 1_500_000_000),
            (".5m", 30_000_000_000),
            ("1.h", 3_600_000_000_000),
            ("1h2m3s", 3_723_000_000_000),
            ("+1m30s", 90_000_000_000),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn refuses_invalid_durations() {
        for text in ["", "-", "s", ".s", "1x", "1 s", "1mx", "1s2", "--1s", "1e3s", "1S"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(parse("90"), Err(InvalidDuration::MissingUnit("90".into())));
        assert_eq!(parse("-1s"), Err(InvalidDuration::Negative("-1s".into())));
        assert_eq!(parse("3000000h"), Err(InvalidDuration::OutOfRange("3000000h".into())));
        let endless = format!("{}s", "9".repeat(100));
        assert!(matches!(parse(&endless), Err(InvalidDuration::OutOfRange(_))));
    }

    #[test]
    fn formats_as_go_does() {
        let cases: [(u64, &str); 9] = [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (3_600_000_000_000, "1h0m0s"),
            (3_661_000_000_001, "1h1m1.000000001s"),
        ];
        for (nanos, text) in cases {
            assert_eq!(format(Duration::from_nanos(nanos)), text);
        }
    }

    proptest! {
        #[test]
        fn formatted_duration_parses_back(nanos in 0..i64::MAX as u64) {
            let duration = Duration::from_nanos(nanos);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn parsing_any_text_does_not_panic(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
