//! Times as RFC 3339, such as `2023-11-14T22:13:20.5Z`, and as nanoseconds since 1970.

const NS_PER_SECOND: i128 = 1_000_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
/// Days from 0000-03-01, where the computations below begin, to 1970-01-01.
const EPOCH_DAY: i64 = 719_468;
/// Days of 400 years. The calendar repeats after them.
const DAYS_PER_ERA: i64 = 146_097;

/// Returns nanoseconds since 1970. `None` if the text is no RFC 3339 time, or the time is outside of 1677 to 2262. Digits of a
/// second beyond nanoseconds are ignored. A leap second counts as the second before it.
pub fn parse(text: &str) -> Option<i64> {
    let mut rest = text.as_bytes();
    let year = digits(&mut rest, 4)?;
    let month = digits(expect(&mut rest, b"-")?, 2)?;
    let day = digits(expect(&mut rest, b"-")?, 2)?;
    let hour = digits(expect(&mut rest, b"Tt ")?, 2)?;
    let minute = digits(expect(&mut rest, b":")?, 2)?;
    let second = digits(expect(&mut rest, b":")?, 2)?;
    let nanos = match expect(&mut rest, b".") {
        Some(rest) => fraction(rest)?,
        None => 0,
    };
    let offset_minutes = offset(&mut rest)?;
    let is_date = (1..=12).contains(&month) && day >= 1 && day <= days_of_month(year, month);
    if !rest.is_empty() || !is_date || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds_of_day = (hour * 60 + minute - offset_minutes) * 60 + second.min(59);
    let seconds = days_since_epoch(year, month, day) * SECONDS_PER_DAY + seconds_of_day;
    i64::try_from(i128::from(seconds) * NS_PER_SECOND + i128::from(nanos)).ok()
}

/// Writes nanoseconds since 1970 in UTC, with as many digits of a second as needed.
pub fn format(ns: i64) -> String {
    let (seconds, nanos) = (ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let (days, of_day) = (seconds.div_euclid(SECONDS_PER_DAY), seconds.rem_euclid(SECONDS_PER_DAY));
    let (year, month, day) = date(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if nanos > 0 {
        let digits = format!(".{nanos:09}");
        text.push_str(digits.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Takes `count` digits.
fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (digits, behind) = rest.split_at_checked(count)?;
    *rest = behind;
    let add = |number: i64, digit: &u8| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'));
    digits.iter().try_fold(0, add)
}

/// Takes one of these bytes.
fn expect<'a, 'b>(rest: &'a mut &'b [u8], bytes: &[u8]) -> Option<&'a mut &'b [u8]> {
    let (first, behind) = rest.split_first()?;
    bytes.contains(first).then(|| *rest = behind)?;
    Some(rest)
}

/// Takes at least one digit of a second, and returns nanoseconds.
fn fraction(rest: &mut &[u8]) -> Option<i64> {
    let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (mut known, behind) = rest.split_at(count);
    *rest = behind;
    let kept = count.min(9);
    let missing = u32::try_from(9 - kept).ok()?;
    (count > 0).then(|| digits(&mut known, kept))?.map(|number| number * 10_i64.pow(missing))
}

/// Takes `Z` or an offset from UTC, and returns minutes.
fn offset(rest: &mut &[u8]) -> Option<i64> {
    let (sign, behind) = rest.split_first()?;
    *rest = behind;
    let sign = match sign {
        b'Z' | b'z' => return Some(0),
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let hours = digits(rest, 2)?;
    let minutes = digits(expect(rest, b":")?, 2)?;
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 60 + minutes))
}

fn is_leap_year(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap_year(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days before a month in a year that begins in March, so that the leap day is the last one. Months count from 0.
fn days_before_month(month: i64) -> i64 {
    (153 * month + 2) / 5
}

fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    // January and February belong to the year before.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    year * 365 + leap_days + days_before_month(month) + day - 1 - EPOCH_DAY
}

/// Year, month and day of a number of days since 1970.
fn date(days: i64) -> (i64, i64, i64) {
    let (era, of_era) =
        ((days + EPOCH_DAY).div_euclid(DAYS_PER_ERA), (days + EPOCH_DAY).rem_euclid(DAYS_PER_ERA));
    // Leave out the leap days before this one: one in 4 years, none in 100, and the last day of the era.
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - days_before_month(month) + 1;
    let year = era * 400 + year_of_era;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    use super::*;

    #[test]
    fn offsets_fractions_and_separators_are_understood() {
        let at = 1_700_000_000_000_000_000;
        for (text, ns) in [
            ("2023-11-14T22:13:20Z", at),
            ("2023-11-14t22:13:20z", at),
            ("2023-11-14 23:13:20+01:00", at),
            ("2023-11-14T21:43:20.000000001-00:30", at + 1),
            ("2023-11-14T22:13:20.5Z", at + 500_000_000),
            ("2023-11-14T22:13:20.1234567899Z", at + 123_456_789),
            ("1969-12-31T23:59:60Z", -1_000_000_000),
            ("2262-04-11T23:47:16.854775807Z", i64::MAX),
        ] {
            assert_eq!(parse(text), Some(ns), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "2023-11-14",
            "2023-11-14T22:13:20",
            "2023-02-29T00:00:00Z",
            "2023-13-01T00:00:00Z",
            "2023-00-01T00:00:00Z",
            "2023-01-00T00:00:00Z",
            "2023-11-14T24:00:00Z",
            "2023-11-14T22:13:20.Z",
            "2023-11-14T22:13:20Zx",
            "2023-11-14T22:13:20+24:00",
            "2023-11-14T22:13:20+01",
            "2023-11-1éT22:13:20Z",
            "2262-04-11T23:47:16.854775808Z",
            "9999-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert!(parse("2024-02-29T00:00:00Z").is_some() && parse("2000-02-29T00:00:00Z").is_some());
        assert_eq!(parse("1900-02-29T00:00:00Z"), None);
    }

    proptest! {
        #[test]
        fn times_agree_with_another_implementation(ns: i64) {
            let time = OffsetDateTime::from_unix_timestamp_nanos(ns.into()).unwrap();
            let text = time.format(&Rfc3339).unwrap();
            prop_assert_eq!(format(ns), text.clone());
            prop_assert_eq!(parse(&text), Some(ns));
        }

        #[test]
        fn valid_dates_are_those_of_another_implementation(
            year in 1678_i64..2262, month in 0_i64..14, day in 0_i64..33, hours in 0_i64..26,
        ) {
            let text = format!("{year:04}-{month:02}-{day:02}T01:02:03+{hours:02}:30");
            let other = OffsetDateTime::parse(&text, &Rfc3339).ok();
            let other = other.and_then(|time| i64::try_from(time.unix_timestamp_nanos()).ok());
            prop_assert_eq!(parse(&text), other);
        }

        #[test]
        fn arbitrary_text_does_not_panic(text: String) {
            let _ = parse(&text);
        }
    }
}
