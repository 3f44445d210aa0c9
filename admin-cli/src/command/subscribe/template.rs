//! `--format`: how a message of a stream is printed, as in kcat. Pure.

use std::fmt::Write as _;

use nsq::Delivery;

use super::record::fit_for_terminal;
use crate::body::{base64, rfc3339};
use crate::names::Object;

/// The directives, for help texts.
pub const DIRECTIVES: &str = "\
Directives: %t topic, %c channel, %n node, %i id, %a attempts, %T time, %T{ns} and %T{ms} since 1970, %l length of the body,
%b body, %b{hex}, %b{base64}, %b{json} (a JSON string), %h{NAME} a header, %h all headers as NAME=VALUE, %% a percent sign;
\\n \\t \\r \\0 and \\\\ are as in C.";

/// A checked format.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
    wants_headers: bool,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Topic,
    Channel,
    Node,
    Id,
    Attempts,
    Time(Time),
    Length,
    Body(Encoding),
    Header(String),
    Headers,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Time {
    Rfc3339,
    Nanoseconds,
    Milliseconds,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Encoding {
    Plain,
    Hex,
    Base64,
    Json,
}

impl Template {
    /// Parses a format. Usable as a clap value parser.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars().peekable();
        while let Some(c) = rest.next() {
            match (c, rest.peek().copied()) {
                ('\\', Some(escape)) => {
                    rest.next();
                    plain.push(match escape {
                        'n' => '\n',
                        't' => '\t',
                        'r' => '\r',
                        '0' => '\0',
                        '\\' => '\\',
                        other => {
                            return Err(format!(
                                "unknown escape \\{other}: expected \\n \\t \\r \\0 or \\\\"
                            ));
                        }
                    });
                }
                ('%', Some('%')) => {
                    rest.next();
                    plain.push('%');
                }
                ('%', Some(letter)) => {
                    rest.next();
                    let argument = match rest.peek() {
                        Some('{') => {
                            rest.next();
                            let argument: String = rest.by_ref().take_while(|c| *c != '}').collect();
                            Some(argument)
                        }
                        _ => None,
                    };
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(directive(letter, argument.as_deref())?);
                }
                ('%' | '\\', None) => return Err(format!("a {c} at the end; write it twice to print it")),
                (other, _) => plain.push(other),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let wants_headers = parts.iter().any(|part| matches!(part, Part::Header(_) | Part::Headers));
        Ok(Template { parts, wants_headers })
    }

    /// Whether nsqd must be asked for headers.
    pub fn wants_headers(&self) -> bool {
        self.wants_headers
    }

    /// The message in this format. With `escape`, nothing in it can control a terminal.
    pub fn render(&self, object: &Object, message: &Delivery, escape: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let foreign = |out: &mut Vec<u8>, bytes: &[u8]| match escape {
            true => out.extend(fit_for_terminal(bytes).into_bytes()),
            false => out.extend_from_slice(bytes),
        };
        for part in &self.parts {
            let text = match part {
                Part::Text(text) => text.clone(),
                Part::Topic => object.topic.clone(),
                Part::Channel => object.channel.clone().unwrap_or_default(),
                Part::Node => message.node().to_owned(),
                Part::Id => message.id().to_string(),
                Part::Attempts => message.attempts().to_string(),
                Part::Time(Time::Rfc3339) => rfc3339(message.timestamp_ns()),
                Part::Time(Time::Nanoseconds) => message.timestamp_ns().to_string(),
                Part::Time(Time::Milliseconds) => (message.timestamp_ns() / 1_000_000).to_string(),
                Part::Length => message.body().len().to_string(),
                Part::Body(Encoding::Hex) => hex(message.body()),
                Part::Body(Encoding::Base64) => base64(message.body()),
                // A JSON string holds no control characters but DEL.
                Part::Body(Encoding::Json) => {
                    serde_json::Value::from(String::from_utf8_lossy(message.body())).to_string()
                }
                Part::Body(Encoding::Plain) => {
                    foreign(&mut out, message.body());
                    continue;
                }
                Part::Header(name) => {
                    let headers = message.headers();
                    let value = headers
                        .as_ref()
                        .and_then(|headers| headers.get(name).map(|value| value.into_owned()))
                        .unwrap_or_default();
                    foreign(&mut out, value.as_bytes());
                    continue;
                }
                Part::Headers => {
                    let headers = message.headers();
                    let pairs = headers.iter().flat_map(|headers| headers.iter());
                    let pairs: Vec<String> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
                    foreign(&mut out, pairs.join(",").as_bytes());
                    continue;
                }
            };
            out.extend(text.into_bytes());
        }
        out
    }
}

fn directive(letter: char, argument: Option<&str>) -> Result<Part, String> {
    Ok(match (letter, argument) {
        ('t', None) => Part::Topic,
        ('c', None) => Part::Channel,
        ('n', None) => Part::Node,
        ('i', None) => Part::Id,
        ('a', None) => Part::Attempts,
        ('l', None) => Part::Length,
        ('T', None) => Part::Time(Time::Rfc3339),
        ('T', Some("ns")) => Part::Time(Time::Nanoseconds),
        ('T', Some("ms")) => Part::Time(Time::Milliseconds),
        ('b', None) => Part::Body(Encoding::Plain),
        ('x', None) | ('b', Some("hex")) => Part::Body(Encoding::Hex),
        ('b', Some("base64")) => Part::Body(Encoding::Base64),
        ('b', Some("json")) => Part::Body(Encoding::Json),
        ('h', None) => Part::Headers,
        ('h', Some(name)) if !name.is_empty() => Part::Header(name.to_owned()),
        (letter, None) => return Err(format!("unknown directive %{letter}\n{DIRECTIVES}")),
        (letter, Some(argument)) => {
            return Err(format!("unknown directive %{letter}{{{argument}}}\n{DIRECTIVES}"));
        }
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_parsed() {
        let template = Template::parse(r"%t/%c %i\t%h{tenant} 100%% %b{hex}\n").unwrap();
        let text = |text: &str| Part::Text(text.to_owned());
        assert_eq!(
            template.parts,
            [
                Part::Topic,
                text("/"),
                Part::Channel,
                text(" "),
                Part::Id,
                text("\t"),
                Part::Header("tenant".to_owned()),
                text(" 100% "),
                Part::Body(Encoding::Hex),
                text("\n"),
            ]
        );
        assert!(template.wants_headers() && !Template::parse("%b%T{ms}").unwrap().wants_headers());
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }

    #[test]
    fn wrong_formats_are_explained() {
        for (format, part) in [
            ("%q", "unknown directive %q"),
            ("%b{rot13}", "%b{rot13}"),
            ("50%", "at the end"),
            (r"\q", "unknown escape"),
            ("%h{}", "%h{}"),
        ] {
            let error = Template::parse(format).unwrap_err();
            assert!(error.contains(part), "{format}: {error}");
        }
    }
}
