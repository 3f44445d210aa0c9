//! The commands of a client, one variant each, with their wire form.
//!
//! A [`Command`] borrows from the buffer it was decoded from, so bodies are not copied. This module encodes;
//! [`command_decoder`](crate::command_decoder) decodes.

use std::borrow::Cow;

use crate::batch::MessageBatch;
use crate::headers::Form;
use crate::message_id::MessageId;
use crate::name::{ChannelName, TopicName};

/// The first four bytes of a client's connection to nsqd.
pub const MAGIC_V2: &[u8; 4] = b"  V2";

/// Maximum length of the reason of REJ, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// The name of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names are the protocol's; `Command` describes each.
pub enum Verb {
    Identify,
    Auth,
    Sub,
    Pub,
    Mpub,
    Dpub,
    PubExt,
    MpubExt,
    DpubExt,
    Rdy,
    Fin,
    Req,
    Rej,
    Touch,
    Cls,
    Nop,
}

impl Verb {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identify => "IDENTIFY",
            Self::Auth => "AUTH",
            Self::Sub => "SUB",
            Self::Pub => "PUB",
            Self::Mpub => "MPUB",
            Self::Dpub => "DPUB",
            Self::PubExt => "PUB_EXT",
            Self::MpubExt => "MPUB_EXT",
            Self::DpubExt => "DPUB_EXT",
            Self::Rdy => "RDY",
            Self::Fin => "FIN",
            Self::Req => "REQ",
            Self::Rej => "REJ",
            Self::Touch => "TOUCH",
            Self::Cls => "CLS",
            Self::Nop => "NOP",
        }
    }

    /// The command with this name; `None` if unknown. Names are upper case.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"FIN" => Self::Fin,
            b"PUB" => Self::Pub,
            b"RDY" => Self::Rdy,
            b"REQ" => Self::Req,
            b"NOP" => Self::Nop,
            b"SUB" => Self::Sub,
            b"CLS" => Self::Cls,
            b"MPUB" => Self::Mpub,
            b"DPUB" => Self::Dpub,
            b"PUB_EXT" => Self::PubExt,
            b"MPUB_EXT" => Self::MpubExt,
            b"DPUB_EXT" => Self::DpubExt,
            b"TOUCH" => Self::Touch,
            b"REJ" => Self::Rej,
            b"AUTH" => Self::Auth,
            b"IDENTIFY" => Self::Identify,
            _ => return None,
        })
    }

    /// What the bytes of its messages are; `None` if it publishes none.
    pub fn published_form(self) -> Option<Form> {
        match self {
            Self::Pub | Self::Mpub | Self::Dpub => Some(Form::Plain),
            Self::PubExt | Self::MpubExt | Self::DpubExt => Some(Form::WithHeaders),
            _ => None,
        }
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A command that is well-formed and within the limits. The connection checks whether its state allows the command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `IDENTIFY` LF length JSON. Answered by JSON or `OK`.
    Identify {
        /// The JSON, not parsed.
        body: &'a [u8],
    },
    /// `AUTH` LF length secret. Answered by JSON.
    Auth {
        /// Opaque bytes for the auth server.
        secret: &'a [u8],
    },
    /// `SUB topic channel`: makes the connection a consumer. Answered by `OK`.
    Sub {
        /// The topic, created if missing.
        topic: TopicName,
        /// The channel, created if missing.
        channel: ChannelName,
    },
    /// `PUB topic` LF length body. Answered by `OK`.
    Pub {
        /// A valid topic name.
        topic: &'a str,
        /// The message body.
        body: &'a [u8],
    },
    /// `DPUB topic delay` LF length body: publishes a deferred message. Answered by `OK`.
    Dpub {
        /// A valid topic name.
        topic: &'a str,
        /// How long to defer the message, in milliseconds; within [`Limits`](crate::Limits).
        delay_ms: u64,
        /// The message body.
        body: &'a [u8],
    },
    /// `MPUB topic` LF length count (length body)*: publishes all messages or none. Answered by one `OK`.
    Mpub {
        /// A valid topic name.
        topic: &'a str,
        /// One message or more.
        messages: MessageBatch<'a>,
    },
    /// `PUB_EXT topic` LF length message: like PUB, with headers. Answered by `OK`. Not in NSQ.
    PubExt {
        /// A valid topic name.
        topic: &'a str,
        /// Headers and body, in the form of [`split_published`](crate::headers::split_published).
        message: &'a [u8],
    },
    /// `DPUB_EXT topic delay` LF length message: like DPUB, with headers. Answered by `OK`. Not in NSQ.
    DpubExt {
        /// A valid topic name.
        topic: &'a str,
        /// How long to defer the message, in milliseconds; within [`Limits`](crate::Limits).
        delay_ms: u64,
        /// Headers and body, in the form of [`split_published`](crate::headers::split_published).
        message: &'a [u8],
    },
    /// `MPUB_EXT topic` LF length count (length message)*: like MPUB, each message with headers. Answered by one `OK`.
    /// Not in NSQ.
    MpubExt {
        /// A valid topic name.
        topic: &'a str,
        /// One message or more, each in the form of [`split_published`](crate::headers::split_published).
        messages: MessageBatch<'a>,
    },
    /// `RDY count`: how many messages may be in flight to this connection. Not answered.
    Rdy {
        /// The RDY count; within [`Limits`](crate::Limits).
        count: u64,
    },
    /// `FIN id`: finishes the message. Not answered.
    Fin {
        /// Id of a message in flight.
        id: MessageId,
    },
    /// `REQ id delay`: requeues the message. Not answered.
    Req {
        /// Id of a message in flight.
        id: MessageId,
        /// How long to defer the message, in milliseconds: the client's value without a limit, saturated at
        /// `u64::MAX`.
        delay_ms: u64,
    },
    /// `REJ id [reason]`: makes the message a dead letter at once. Not answered. Needs the feature
    /// [`REJECT`](crate::identify::REJECT). Not in NSQ.
    Rej {
        /// Id of a message in flight.
        id: MessageId,
        /// The rest of the line without blanks at its ends: at most [`MAX_REASON_BYTES`] without control characters.
        /// Empty for none.
        reason: &'a str,
    },
    /// `TOUCH id`: restarts the message's timeout. Not answered.
    Touch {
        /// Id of a message in flight.
        id: MessageId,
    },
    /// `CLS`: stops the delivery of messages. Answered by `CLOSE_WAIT`.
    Cls,
    /// `NOP`: a sign of life, sent in answer to a heartbeat. Not answered.
    Nop,
}

impl Command<'_> {
    /// The command's name.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Identify { .. } => Verb::Identify,
            Self::Auth { .. } => Verb::Auth,
            Self::Sub { .. } => Verb::Sub,
            Self::Pub { .. } => Verb::Pub,
            Self::Dpub { .. } => Verb::Dpub,
            Self::Mpub { .. } => Verb::Mpub,
            Self::PubExt { .. } => Verb::PubExt,
            Self::DpubExt { .. } => Verb::DpubExt,
            Self::MpubExt { .. } => Verb::MpubExt,
            Self::Rdy { .. } => Verb::Rdy,
            Self::Fin { .. } => Verb::Fin,
            Self::Req { .. } => Verb::Req,
            Self::Rej { .. } => Verb::Rej,
            Self::Touch { .. } => Verb::Touch,
            Self::Cls => Verb::Cls,
            Self::Nop => Verb::Nop,
        }
    }

    /// Appends the command's wire form to `out`.
    ///
    /// Does not validate the command: a body must be shorter than 2 GiB, and an id must contain no blank, CR or LF.
    /// Ids from nsqd contain none.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.verb().name().as_bytes());
        match self {
            Self::Identify { body } | Self::Auth { secret: body } => put_line_end_and_body(out, body),
            Self::Sub { topic, channel } => {
                put_param(out, topic.as_str().as_bytes());
                put_param(out, channel.as_str().as_bytes());
                out.push(b'\n');
            }
            Self::Pub { topic, body } | Self::PubExt { topic, message: body } => {
                put_param(out, topic.as_bytes());
                put_line_end_and_body(out, body);
            }
            Self::Dpub { topic, delay_ms, body } | Self::DpubExt { topic, delay_ms, message: body } => {
                put_param(out, topic.as_bytes());
                put_number(out, *delay_ms);
                put_line_end_and_body(out, body);
            }
            Self::Mpub { topic, messages } | Self::MpubExt { topic, messages } => {
                put_param(out, topic.as_bytes());
                out.push(b'\n');
                messages.put_sized(out);
            }
            Self::Rdy { count } => {
                put_number(out, *count);
                out.push(b'\n');
            }
            Self::Req { id, delay_ms } => {
                put_param(out, id.as_bytes());
                put_number(out, *delay_ms);
                out.push(b'\n');
            }
            Self::Rej { id, reason } => {
                put_param(out, id.as_bytes());
                if !reason.is_empty() {
                    put_param(out, reason.as_bytes());
                }
                out.push(b'\n');
            }
            Self::Fin { id } | Self::Touch { id } => {
                put_param(out, id.as_bytes());
                out.push(b'\n');
            }
            Self::Cls | Self::Nop => out.push(b'\n'),
        }
    }
}

/// The text as a reason that REJ takes: control characters become blanks, blanks at the ends are removed, and what
/// exceeds [`MAX_REASON_BYTES`] is cut. Borrows if nothing has to be replaced.
pub fn as_reason(text: &str) -> Cow<'_, str> {
    let text = text.trim();
    if text.contains(char::is_control) {
        return Cow::Owned(cut_reason(text.replace(char::is_control, " ").trim()).to_owned());
    }
    Cow::Borrowed(cut_reason(text))
}

fn cut_reason(text: &str) -> &str {
    let mut end = text.len().min(MAX_REASON_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].trim_end()
}

fn put_param(out: &mut Vec<u8>, param: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(param);
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    put_param(out, number.to_string().as_bytes());
}

fn put_line_end_and_body(out: &mut Vec<u8>, body: &[u8]) {
    out.reserve(5 + body.len());
    out.push(b'\n');
    out.extend_from_slice(&(body.len() as u32).to_be_bytes());
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(command: Command<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        command.encode(&mut out);
        out
    }

    #[test]
    fn commands_are_encoded_as_clients_send_them() {
        let id = MessageId(*b"18a1d53483a69000");
        let topic = TopicName::new("t").unwrap();
        let channel = ChannelName::new("c#ephemeral").unwrap();
        assert_eq!(encoded(Command::Identify { body: b"{}" }), b"IDENTIFY\n\0\0\0\x02{}");
        assert_eq!(encoded(Command::Auth { secret: b"s" }), b"AUTH\n\0\0\0\x01s");
        assert_eq!(encoded(Command::Sub { topic, channel }), b"SUB t c#ephemeral\n");
        assert_eq!(encoded(Command::Pub { topic: "t", body: b"x" }), b"PUB t\n\0\0\0\x01x");
        assert_eq!(
            encoded(Command::Dpub { topic: "t", delay_ms: 700, body: b"x" }),
            b"DPUB t 700\n\0\0\0\x01x"
        );
        let message = b"\0\x02{}x";
        assert_eq!(encoded(Command::PubExt { topic: "t", message }), b"PUB_EXT t\n\0\0\0\x05\0\x02{}x");
        assert_eq!(
            encoded(Command::DpubExt { topic: "t", delay_ms: 7, message }),
            b"DPUB_EXT t 7\n\0\0\0\x05\0\x02{}x"
        );
        assert_eq!(encoded(Command::Rdy { count: 0 }), b"RDY 0\n");
        assert_eq!(encoded(Command::Fin { id }), b"FIN 18a1d53483a69000\n");
        assert_eq!(encoded(Command::Req { id, delay_ms: 5 }), b"REQ 18a1d53483a69000 5\n");
        assert_eq!(encoded(Command::Rej { id, reason: "" }), b"REJ 18a1d53483a69000\n");
        assert_eq!(
            encoded(Command::Rej { id, reason: "no such tenant" }),
            b"REJ 18a1d53483a69000 no such tenant\n"
        );
        assert_eq!(encoded(Command::Touch { id }), b"TOUCH 18a1d53483a69000\n");
        assert_eq!(encoded(Command::Cls), b"CLS\n");
        assert_eq!(encoded(Command::Nop), b"NOP\n");
    }

    #[test]
    fn verb_names_round_trip() {
        use Verb::*;
        let publishing = [Pub, Mpub, Dpub, PubExt, MpubExt, DpubExt];
        for verb in [Identify, Auth, Sub, Rdy, Fin, Req, Rej, Touch, Cls, Nop].into_iter().chain(publishing) {
            assert_eq!(Verb::from_name(verb.name().as_bytes()), Some(verb));
            assert_eq!(verb.published_form().is_some(), publishing.contains(&verb));
        }
        assert_eq!(Verb::from_name(b"pub"), None);
        assert_eq!(Verb::from_name(b""), None);
    }

    #[test]
    fn any_text_becomes_a_reason() {
        assert!(matches!(as_reason(" no such tenant\n"), Cow::Borrowed("no such tenant")));
        assert_eq!(as_reason("line 1\r\nline 2\0"), "line 1  line 2");
        assert_eq!(as_reason("\n \t"), "");
        let long = "ä".repeat(MAX_REASON_BYTES);
        assert_eq!(as_reason(&long).len(), MAX_REASON_BYTES);
        assert_eq!(as_reason(&format!("x{long}")).len(), MAX_REASON_BYTES - 1);
        let blanks = format!("x{}y", "\n".repeat(MAX_REASON_BYTES));
        assert_eq!(as_reason(&blanks), "x");
    }
}
