//! Errors of the command line in words that say what to type. Pure.

use std::borrow::Cow;

use regex::{Captures, Regex};

/// What number parsers say, and what to say instead.
const NUMBERS: [(&str, &str); 6] = [
    ("invalid digit found in string", "must be a whole number"),
    ("cannot parse integer from empty string", "must be a whole number"),
    ("number too large to fit in target type", "too large"),
    ("number too small to fit in target type", "too small"),
    ("out of range integral type conversion attempted", "too large"),
    (" (ns, us, ms, s, m, h)", ": write 5s or 5m"),
];

/// The text of an error of the command line, with ranges and units spelled out.
pub fn plain(text: &str) -> String {
    let range = Regex::new(r"-?\d+ is not in (-?\d+)\.\.(=?)(\d+)").expect("a valid pattern");
    let spelled = range.replace_all(text, |found: &Captures<'_>| {
        let (low, high) = (&found[1], found[3].parse::<u64>().unwrap_or(u64::MAX));
        match &found[2] {
            "" if high >= i64::MAX as u64 => format!("must be at least {low}"),
            "" => format!("must be {low} to {}", high.saturating_sub(1)),
            _ => format!("must be {low} to {high}"),
        }
    });
    let replaced = |text: Cow<'_, str>, (from, to): &(&str, &str)| Cow::Owned(text.replace(from, to));
    NUMBERS.iter().fold(spelled, replaced).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_units_are_spelled_out() {
        for (text, expected) in [
            ("'0' for '-n': 0 is not in 1..18446744073709551615", "'0' for '-n': must be at least 1"),
            ("0 is not in 1..9223372036854775807", "must be at least 1"),
            ("0 is not in 1..=1000", "must be 1 to 1000"),
            ("-7 is not in 0..10", "must be 0 to 9"),
            ("'x': invalid digit found in string", "'x': must be a whole number"),
            (
                "missing unit in duration \"5\" (ns, us, ms, s, m, h)",
                "missing unit in duration \"5\": write 5s or 5m",
            ),
        ] {
            assert_eq!(plain(text), expected);
        }
    }
}
