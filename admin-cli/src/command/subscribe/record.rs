//! Formats a message: its body, a JSON object, or as a template says.

use nsq::{Delivery, Headers};
use nsq_protocol::is_printable;
use serde::Serialize;

use super::template::Template;
use crate::body::{Body, rfc3339};
use crate::exit_status::Failure;
use crate::names::Object;
use crate::output::Output;

/// What of a message is printed.
#[derive(Debug, Clone)]
pub enum Form {
    Body,
    /// JSON, in the form that the flags choose.
    Json,
    Template(Template),
}

impl Form {
    /// The form that the flags choose.
    pub fn new(output: Output, template: Option<Template>) -> Result<Self, Failure> {
        match (output.is_json(), template) {
            (true, Some(_)) => Err(Failure::usage("--format excludes --json, --jq and --output")),
            (true, None) => Ok(Form::Json),
            (false, Some(template)) => Ok(Form::Template(template)),
            (false, None) => Ok(Form::Body),
        }
    }

    /// Whether nsqd must be asked for headers.
    pub fn wants_headers(&self) -> bool {
        match self {
            Form::Body => false,
            Form::Json => true,
            Form::Template(template) => template.wants_headers(),
        }
    }
}

/// How messages are printed.
#[derive(Debug, Clone, Copy)]
pub struct Style<'a> {
    /// The channel of the messages.
    pub object: &'a Object,
    pub form: &'a Form,
    /// Whether to escape characters that could control a terminal.
    pub escape: bool,
    pub output: Output,
}

#[derive(Serialize)]
struct Record<'a> {
    topic_name: &'a str,
    channel_name: &'a str,
    node: &'a str,
    id: String,
    timestamp: String,
    attempts: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<Headers<'a>>,
    #[serde(flatten)]
    body: Body<'a>,
}

impl Style<'_> {
    /// The message, without a line feed after it; `None` if `--jq` leaves it out.
    pub fn line(&self, message: &Delivery) -> Result<Option<Vec<u8>>, Failure> {
        match self.form {
            Form::Json => self.json(message),
            Form::Body if self.escape => Ok(Some(fit_for_terminal(message.body()).into_bytes())),
            Form::Body => Ok(Some(message.body().to_vec())),
            Form::Template(template) => Ok(Some(template.render(self.object, message, self.escape))),
        }
    }

    fn json(&self, message: &Delivery) -> Result<Option<Vec<u8>>, Failure> {
        let record = Record {
            topic_name: &self.object.topic,
            channel_name: self.object.channel.as_deref().unwrap_or_default(),
            node: message.node(),
            id: message.id().to_string(),
            timestamp: rfc3339(message.timestamp_ns()),
            attempts: message.attempts(),
            headers: message.headers(),
            body: (&**message.body()).into(),
        };
        self.output.record(&record)
    }
}

/// Escapes characters that could control a terminal, except tab and line feed. Bytes that are not UTF-8 become
/// `\xNN`.
pub fn fit_for_terminal(body: &[u8]) -> String {
    let mut text = String::with_capacity(body.len());
    for chunk in body.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\t' | '\n' => text.push(c),
                c if is_printable(c) => text.push(c),
                c => text.extend(c.escape_default()),
            }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_control_characters_are_escaped() {
        assert_eq!(fit_for_terminal(b"a\tb\nc\x1b[2J\xff\xc3\xa4"), "a\tb\nc\\u{1b}[2J\\xffä");
    }
}
