//! Durations as NSQ's tools write them: `1m30s`, `250ms`, `1.5h`, or a bare number of milliseconds.

use std::time::Duration;

/// Returns `None` for any other text, and for negative and overflowing durations.
pub(super) fn parse(text: &str) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(Duration::from_millis);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| c != '.' && !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        let seconds = number.parse::<f64>().ok()? * unit_seconds(unit)?;
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = after;
    }
    Some(total)
}

fn unit_seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_parsed() {
        for (text, ms) in [
            ("0", 0),
            ("1500", 1500),
            ("250ms", 250),
            ("1m30s", 90_000),
            ("1m0s", 60_000),
            ("1.5h", 5_400_000),
            ("2h45m30.5s", 9_930_500),
            ("1000us", 1),
            ("+3s", 3000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn malformed_durations_are_rejected() {
        for text in
            ["", "-1", "-5s", "1x", "s", "1.2.3s", "5 s", "1s2", "99999999999999999999", "1e400s", "+"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
