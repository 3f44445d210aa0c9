//! Format of a log line. Pure.

use std::borrow::Cow;
use std::fmt;

use nsq_protocol::printable;
use time::OffsetDateTime;

use super::{Field, Format, Level};

/// Properties shared by all lines of one logger.
#[derive(Debug)]
pub(super) struct Style {
    /// Written before every line, including its trailing blank.
    pub(super) prefix: String,
    pub(super) format: Format,
}

impl Style {
    /// Returns the line without its line end.
    pub(super) fn line(
        &self,
        at: OffsetDateTime,
        level: Level,
        fields: &[(&str, Field<'_>)],
        text: fmt::Arguments<'_>,
    ) -> String {
        match self.format {
            Format::Text => text_line(&self.prefix, at, level, text),
            Format::Json => json_line(&self.prefix, at, level, fields, text),
        }
    }
}

/// A line in NSQ's format. Control characters, which may come from the network, are escaped, as are characters that
/// reverse the text direction. So one log line stays one line.
fn text_line(prefix: &str, at: OffsetDateTime, level: Level, text: fmt::Arguments<'_>) -> String {
    let mut line = format!(
        "{prefix}{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{:06} {}: ",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond(),
        level.label(),
    );
    let head = line.len();
    // Fails only if one of our `Display` implementations fails: the line then holds the text written so far.
    let _ = fmt::Write::write_fmt(&mut line, text);
    let escaped = match printable(&line[head..]) {
        Cow::Borrowed(_) => return line,
        Cow::Owned(escaped) => escaped,
    };
    line.truncate(head);
    line.push_str(&escaped);
    line
}

/// The same as a JSON object. The time is RFC 3339 with microseconds.
fn json_line(
    prefix: &str,
    at: OffsetDateTime,
    level: Level,
    fields: &[(&str, Field<'_>)],
    text: fmt::Arguments<'_>,
) -> String {
    let time = at.format(TIME_WITH_MICROSECONDS).unwrap_or_default();
    let mut line = format!("{{\"time\":\"{time}\",\"level\":\"{}\"", level.word());
    let mut member = |key: &str, value: serde_json::Value| {
        line.push_str(&format!(",{}:{value}", serde_json::Value::from(key)));
    };
    let prefix = prefix.trim();
    if !prefix.is_empty() {
        member("prefix", prefix.into());
    }
    member("message", text.to_string().into());
    for (key, field) in fields {
        match field {
            Field::Number(number) if number.fract() == 0.0 => member(key, (*number as i64).into()),
            Field::Number(number) => member(key, (*number).into()),
            Field::Text(text) => member(key, text.to_string().into()),
        }
    }
    line.push('}');
    line
}

const TIME_WITH_MICROSECONDS: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6][offset_hour sign:mandatory]:[offset_minute]"
);

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn line_has_nsqs_format() {
        let at = datetime!(2026-01-02 03:04:05.000067 +1);
        let text = text_line("[nsqd] ", at, Level::Warn, format_args!("TOPIC({}): created", "t1"));
        assert_eq!(text, "[nsqd] 2026/01/02 03:04:05.000067 WARNING: TOPIC(t1): created");
    }

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let at = datetime!(2026-01-02 03:04:05 UTC);
        let text = text_line("", at, Level::Info, format_args!("µ {}", "a\nb\r\u{1b}[0m\u{202e}c"));
        assert!(text.ends_with("INFO: µ a\\nb\\r\\u{1b}[0m\\u{202e}c"), "{text}");
    }

    #[test]
    fn json_line_has_prefix_message_and_fields() {
        let at = datetime!(2026-01-02 03:04:05.000067 +1);
        let fields = [
            ("status", Field::Number(200.0)),
            ("seconds", Field::Number(0.5)),
            ("who", Field::Text(&"a\"b")),
        ];
        let line = json_line("[nsqd] ", at, Level::Warn, &fields, format_args!("a \"{}\"\n", "µ"));
        assert_eq!(
            line,
            r#"{"time":"2026-01-02T03:04:05.000067+01:00","level":"warn","prefix":"[nsqd]","message":"a \"µ\"\n","status":200,"seconds":0.5,"who":"a\"b"}"#
        );
        let line = json_line("", at, Level::Info, &[], format_args!("x"));
        assert_eq!(line, r#"{"time":"2026-01-02T03:04:05.000067+01:00","level":"info","message":"x"}"#);
    }
}
