//! Numbers, rates, ages and times as people read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// With thousands separators: `12,345`.
pub fn count(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// Events per second: `1.2k/s`.
pub fn rate(per_second: f32) -> String {
    format!("{}/s", short(f64::from(per_second)))
}

/// At most four characters and a unit: `1.2k`, `34M`.
pub fn short(number: f64) -> String {
    let magnitude = number.abs();
    let (scaled, unit) = match magnitude {
        m if m < 999.5 => (number, ""),
        m if m < 999_500.0 => (number / 1e3, "k"),
        m if m < 999_500_000.0 => (number / 1e6, "M"),
        _ => (number / 1e9, "G"),
    };
    let digits = match scaled.abs() {
        0.0 => 0,
        s if s < 9.95 && (s.fract() != 0.0 || !unit.is_empty()) => 1,
        _ => 0,
    };
    format!("{scaled:.digits$}{unit}")
}

/// Bytes with a binary unit: `1.5 GiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = number as f64;
    let mut unit = 0;
    while scaled >= 1023.5 && unit + 1 < UNITS.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && scaled < 9.95);
    format!("{scaled:.digits$} {}", UNITS[unit])
}

/// The two largest units: `3m12s`, `2d4h`.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{}s", seconds),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// Nanoseconds as a latency: `1.2 ms`.
pub fn latency(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 999.5 => format!("{n:.0} ns"),
        n if n < 999_500.0 => format!("{:.0} µs", n / 1e3),
        n if n < 9_995_000.0 => format!("{:.1} ms", n / 1e6),
        n if n < 999_500_000.0 => format!("{:.0} ms", n / 1e6),
        n => format!("{:.1} s", n / 1e9),
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub fn unix_millis(at: SystemTime) -> u64 {
    millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// A time in UTC: `2026-11-20T11:38:00Z`.
pub fn rfc3339(at: SystemTime) -> String {
    let nanoseconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    nsq_protocol::start_at::rfc3339(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}

/// The time of day in UTC: `11:38:00`.
pub fn clock(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() % 86_400;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Nanoseconds since 1970 as a time.
pub fn time_of_ns(nanoseconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
}

/// How long ago a time is; zero if it is to come.
pub fn since(at: SystemTime) -> Duration {
    now().duration_since(at).unwrap_or_default()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(crate::state::now_ms()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_shortened() {
        assert_eq!(
            (count(0), count(1234), count(-1_234_567)),
            ("0".into(), "1,234".into(), "-1,234,567".into())
        );
        for (number, text) in [
            (0.0, "0"),
            (0.04, "0.0"),
            (3.25, "3.2"),
            (42.0, "42"),
            (1234.0, "1.2k"),
            (45_600.0, "46k"),
            (1e7, "10M"),
        ] {
            assert_eq!(short(number), text, "{number}");
        }
        assert_eq!(rate(1200.0), "1.2k/s");
    }

    #[test]
    fn bytes_and_latencies_have_units() {
        assert_eq!(
            (bytes(0), bytes(1536), bytes(5 << 30)),
            ("0 B".into(), "1.5 KiB".into(), "5.0 GiB".into())
        );
        assert_eq!((latency(430e6), latency(45.47e9)), ("430 ms".into(), "45.5 s".into()));
    }

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in [(5, "5s"), (192, "3m12s"), (7260, "2h01m"), (190_000, "2d4h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn clock_is_utc() {
        assert_eq!(clock(UNIX_EPOCH + Duration::from_secs(86_400 + 3723)), "01:02:03");
    }
}
