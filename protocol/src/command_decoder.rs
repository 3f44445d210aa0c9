//! Decodes commands from a growing buffer: nsqd's side.
//!
//! ```text
//! line = NAME *( SP PARAM ) [CR] LF        at most Limits::max_line_bytes
//! body = length(4, signed) bytes(length)   after the lines of IDENTIFY AUTH PUB DPUB MPUB and *_EXT
//! ```
//!
//! Every single blank separates, so doubled or trailing blanks create empty parameters. Extra parameters are ignored,
//! except for AUTH, which accepts none.
//!
//! [`decode`] keeps no state between calls and does not allocate for the commands of the data path. [`decode_from`]
//! continues a batch that arrives in pieces.
//! Within a command, checks run from front to back. The first failing check decides, as soon as its bytes have
//! arrived. Before all of them, the connection checks by the verb whether its state allows the command.

use std::fmt;

use memchr::memchr;

use crate::batch::{BatchError, Checked, MessageBatch};
use crate::command::{Command, MAX_REASON_BYTES, Verb};
use crate::error::{ErrorCode, ProtocolError, quote};
use crate::headers::split_published;
pub use crate::limits::Limits;
use crate::message_id::MessageId;
use crate::name::{ChannelName, TopicName, valid_name};

/// The result of decoding the start of a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded<'a> {
    /// Valid so far, but incomplete.
    Incomplete {
        /// Known once the line is complete and valid.
        verb: Option<Verb>,
        /// Buffer length needed for the next decision: that the line is complete, that the command is complete, or that
        /// it is invalid. With fewer bytes the result stays the same.
        needed: usize,
        /// Length that the command claims to have, as far as known; at least `needed`.
        claimed: usize,
        /// Argument for [`decode_from`] once more bytes have arrived.
        checked: Checked,
    },
    /// A complete and valid command.
    Command {
        /// The command, borrowed from the buffer.
        command: Command<'a>,
        /// Bytes of the buffer that the command took.
        consumed: usize,
    },
    /// An invalid command.
    Invalid {
        /// `None` for an unknown command.
        verb: Option<Verb>,
        /// The error response for the client.
        error: ProtocolError,
        /// Bytes of the command's line, for a connection that ignores the command.
        consumed: usize,
    },
    /// No line end within the limit: close the connection without sending a frame.
    LineTooLong,
}

/// Decodes the command at the start of `buf`.
#[inline]
pub fn decode<'a>(buf: &'a [u8], limits: &Limits) -> Decoded<'a> {
    decode_from(buf, Checked::default(), limits)
}

/// Decodes the command at the start of `buf`. If it was [`Decoded::Incomplete`] before and has more bytes now, pass
/// its `checked`, so that this part is not checked again. Pass the default for any other command.
#[inline]
pub fn decode_from<'a>(buf: &'a [u8], checked: Checked, limits: &Limits) -> Decoded<'a> {
    match plain_fin(buf) {
        Some(id) => Decoded::Command { command: Command::Fin { id }, consumed: PLAIN_FIN_BYTES },
        None => decode_any(buf, checked, limits),
    }
}

/// The name of the command at the start of `buf`, known or unknown; `None` until its line is complete.
pub fn command_name<'a>(buf: &'a [u8], limits: &Limits) -> Option<&'a [u8]> {
    let (line, _) = split_line(buf, limits).ok()?;
    Params::new(line).next()
}

/// The topic of the MPUB or MPUB_EXT at the start of `buf`, whatever its body; `None` until its line is complete and
/// valid.
///
/// These commands are authorized before their body is checked; use this when [`decode`] returns `Incomplete` or `Invalid`.
pub fn mpub_topic<'a>(buf: &'a [u8], limits: &Limits) -> Option<&'a str> {
    let (line, _) = split_line(buf, limits).ok()?;
    let mut params = Params::new(line);
    matches!(params.next()?, b"MPUB" | b"MPUB_EXT")
        .then(|| params.next())?
        .and_then(|topic| valid_name(topic).ok())
}

/// The error response for a client that sends no more bytes, or not in time, when `buf` starts with an unfinished
/// command. `None` if there is no response: the buffer ends within a line, or already holds a complete or invalid
/// command.
pub fn truncated(buf: &[u8], limits: &Limits) -> Option<ProtocolError> {
    let Decoded::Incomplete { verb: Some(verb), .. } = decode(buf, limits) else {
        return None;
    };
    let (_, body_at) = split_line(buf, limits).ok()?;
    let body = &buf[body_at..];
    let size_is_there = body.len() >= 4;
    let (code, what) = match verb {
        Verb::Mpub | Verb::MpubExt if size_is_there => {
            let error = MessageBatch::parse_binary(&body[4..], limits).err();
            return error.map(|error| error.to_protocol_error(verb));
        }
        Verb::Pub | Verb::Dpub | Verb::PubExt | Verb::DpubExt if size_is_there => {
            (ErrorCode::BadMessage, "message body")
        }
        Verb::Pub | Verb::Dpub | Verb::PubExt | Verb::DpubExt => (ErrorCode::BadMessage, "message body size"),
        _ if size_is_there => (ErrorCode::BadBody, "body"),
        _ => (ErrorCode::BadBody, "body size"),
    };
    Some(ProtocolError::new(code, format!("{verb} failed to read {what}")))
}

const PLAIN_FIN_BYTES: usize = "FIN ".len() + MessageId::BYTES + 1;

/// The id, if `buf` starts with a FIN as clients send it. FIN is the most frequent command: one per message. This
/// form needs no search for blanks and line ends.
#[inline]
fn plain_fin(buf: &[u8]) -> Option<MessageId> {
    let fin = buf.first_chunk::<PLAIN_FIN_BYTES>()?;
    let (name, rest) = fin.split_first_chunk::<4>()?;
    let (id, end) = rest.split_first_chunk::<16>()?;
    // Bytes that could end the line or the parameter earlier take the slow path.
    let is_plain = name == b"FIN " && end == b"\n" && id.iter().all(|&byte| byte > b' ');
    is_plain.then_some(MessageId(*id))
}

fn decode_any<'a>(buf: &'a [u8], checked: Checked, limits: &Limits) -> Decoded<'a> {
    let (line, body_at) = match split_line(buf, limits) {
        Ok(found) => found,
        Err(LineError::Incomplete) => {
            let needed = buf.len() + 1;
            return Decoded::Incomplete { verb: None, needed, claimed: needed, checked };
        }
        Err(LineError::TooLong) => return Decoded::LineTooLong,
    };
    let mut params = Params::new(line);
    let name = params.next().unwrap_or_default();
    let Some(verb) = Verb::from_name(name) else {
        let error = ProtocolError::echo(ErrorCode::Invalid, "invalid command ", name);
        return Decoded::Invalid { verb: None, error, consumed: body_at };
    };
    match decode_params(verb, params, &buf[body_at..], checked, limits) {
        Ok((command, body_bytes)) => Decoded::Command { command, consumed: body_at + body_bytes },
        Err(Stop::Incomplete { needed, claimed, checked }) => Decoded::Incomplete {
            verb: Some(verb),
            needed: body_at + needed,
            claimed: body_at + claimed.max(needed),
            checked,
        },
        Err(Stop::Wrong(error)) => Decoded::Invalid { verb: Some(verb), error, consumed: body_at },
    }
}

/// Why there is no command; bytes are counted from the end of the line.
enum Stop {
    Incomplete { needed: usize, claimed: usize, checked: Checked },
    Wrong(ProtocolError),
}

impl Stop {
    /// For a body that is checked as a whole.
    fn until(needed: usize) -> Self {
        Self::Incomplete { needed, claimed: needed, checked: Checked::default() }
    }
}

impl From<ProtocolError> for Stop {
    fn from(error: ProtocolError) -> Self {
        Self::Wrong(error)
    }
}

/// Decodes what follows the name; returns the command and the number of bytes of `body` that it took.
fn decode_params<'a>(
    verb: Verb,
    mut params: Params<'a>,
    body: &'a [u8],
    checked: Checked,
    limits: &Limits,
) -> Result<(Command<'a>, usize), Stop> {
    let command = match verb {
        Verb::Pub => {
            let topic = topic(verb, params.required(verb, PARAMETERS)?)?;
            let (body, consumed) = message_body(verb, body, limits)?;
            return Ok((Command::Pub { topic, body }, consumed));
        }
        Verb::Mpub => {
            let topic = topic(verb, params.required(verb, PARAMETERS)?)?;
            let (messages, consumed) = batch_body(verb, body, checked, limits)?;
            return Ok((Command::Mpub { topic, messages }, consumed));
        }
        Verb::Dpub => {
            let (topic, delay_ms) = deferred(verb, params, limits)?;
            let (body, consumed) = message_body(verb, body, limits)?;
            return Ok((Command::Dpub { topic, delay_ms, body }, consumed));
        }
        Verb::PubExt => {
            let topic = topic(verb, params.required(verb, PARAMETERS)?)?;
            let (message, consumed) = message_with_headers(verb, body, limits)?;
            return Ok((Command::PubExt { topic, message }, consumed));
        }
        Verb::DpubExt => {
            let (topic, delay_ms) = deferred(verb, params, limits)?;
            let (message, consumed) = message_with_headers(verb, body, limits)?;
            return Ok((Command::DpubExt { topic, delay_ms, message }, consumed));
        }
        Verb::MpubExt => {
            let topic = topic(verb, params.required(verb, PARAMETERS)?)?;
            let (messages, consumed) = batch_body(verb, body, checked, limits)?;
            messages.check_headers().map_err(|error| error.to_protocol_error(verb))?;
            return Ok((Command::MpubExt { topic, messages }, consumed));
        }
        Verb::Identify => {
            let (body, consumed) = control_body(verb, body, limits)?;
            return Ok((Command::Identify { body }, consumed));
        }
        Verb::Auth => {
            if params.next().is_some() {
                return Err(invalid("AUTH invalid number of parameters").into());
            }
            let (secret, consumed) = control_body(verb, body, limits)?;
            return Ok((Command::Auth { secret }, consumed));
        }
        Verb::Fin => Command::Fin { id: message_id(params.required(verb, PARAMS)?)? },
        Verb::Touch => Command::Touch { id: message_id(params.required(verb, PARAMS)?)? },
        Verb::Req => {
            let id = params.required(verb, PARAMS)?;
            let delay = params.required(verb, PARAMS)?;
            Command::Req { id: message_id(id)?, delay_ms: delay_ms(verb, delay)? }
        }
        Verb::Rej => {
            let id = message_id(params.required(verb, PARAMS)?)?;
            Command::Rej { id, reason: reason(verb, params.rest.unwrap_or_default())? }
        }
        Verb::Rdy => Command::Rdy { count: rdy_count(params.next(), limits)? },
        Verb::Sub => {
            let topic = params.required(verb, PARAMETERS)?;
            let channel = params.required(verb, PARAMETERS)?;
            Command::Sub {
                topic: TopicName::from_bytes(topic).map_err(|_| bad_topic(verb, topic))?,
                channel: ChannelName::from_bytes(channel).map_err(|_| bad_channel(channel))?,
            }
        }
        Verb::Cls => Command::Cls,
        Verb::Nop => Command::Nop,
    };
    Ok((command, 0))
}

// Lines.

enum LineError {
    Incomplete,
    TooLong,
}

/// The line at the start of `buf` without its end, and the offset of the next byte.
#[inline]
fn split_line<'a>(buf: &'a [u8], limits: &Limits) -> Result<(&'a [u8], usize), LineError> {
    let window = &buf[..buf.len().min(limits.max_line_bytes)];
    match memchr(b'\n', window) {
        Some(end) => {
            let line = &buf[..end];
            Ok((line.strip_suffix(b"\r").unwrap_or(line), end + 1))
        }
        None if buf.len() < limits.max_line_bytes => Err(LineError::Incomplete),
        None => Err(LineError::TooLong),
    }
}

/// The parts of a line, separated by single blanks.
struct Params<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Params<'a> {
    fn new(line: &'a [u8]) -> Self {
        Self { rest: Some(line) }
    }

    fn required(&mut self, verb: Verb, word: &str) -> Result<&'a [u8], ProtocolError> {
        self.next().ok_or_else(|| invalid(format!("{verb} insufficient number of {word}")))
    }
}

// NSQ uses one word for some commands and the other for the rest.
const PARAMETERS: &str = "parameters";
const PARAMS: &str = "params";

impl<'a> Iterator for Params<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        // Parameters are short, so a plain loop is faster than memchr.
        match rest.iter().position(|&byte| byte == b' ') {
            Some(end) => {
                self.rest = Some(&rest[end + 1..]);
                Some(&rest[..end])
            }
            None => self.rest.take(),
        }
    }
}

fn topic(verb: Verb, name: &[u8]) -> Result<&str, ProtocolError> {
    valid_name(name).map_err(|_| bad_topic(verb, name))
}

/// The topic and the delay of DPUB and DPUB_EXT.
fn deferred<'a>(
    verb: Verb,
    mut params: Params<'a>,
    limits: &Limits,
) -> Result<(&'a str, u64), ProtocolError> {
    let name = params.required(verb, PARAMETERS)?;
    let delay = params.required(verb, PARAMETERS)?;
    let topic = topic(verb, name)?;
    let delay_ms = delay_ms(verb, delay)?;
    let max = limits.max_req_timeout_ms;
    if delay_ms > max {
        return Err(invalid(format!("{verb} timeout {delay_ms} out of range 0-{max}")));
    }
    Ok((topic, delay_ms))
}

fn message_id(id: &[u8]) -> Result<MessageId, ProtocolError> {
    MessageId::from_slice(id).ok_or_else(|| invalid("invalid message ID"))
}

fn delay_ms(verb: Verb, delay: &[u8]) -> Result<u64, ProtocolError> {
    let wrong =
        || ProtocolError::echo(ErrorCode::Invalid, &format!("{verb} could not parse timeout "), delay);
    decimal(delay).ok_or_else(wrong)
}

/// The reason of REJ: the rest of its line.
fn reason(verb: Verb, rest: &[u8]) -> Result<&str, ProtocolError> {
    let text = std::str::from_utf8(rest).map_err(|_| invalid(format!("{verb} reason is not UTF-8")))?;
    let text = text.trim_matches(' ');
    if text.contains(char::is_control) {
        return Err(invalid(format!("{verb} reason contains a control character")));
    }
    if text.len() > MAX_REASON_BYTES {
        return Err(invalid(format!("{verb} reason too big {} > {MAX_REASON_BYTES}", text.len())));
    }
    Ok(text)
}

fn rdy_count(count: Option<&[u8]>, limits: &Limits) -> Result<u64, ProtocolError> {
    let Some(raw) = count else {
        return Ok(1);
    };
    let wrong = || ProtocolError::echo(ErrorCode::Invalid, "RDY could not parse count ", raw);
    let count = decimal(raw).ok_or_else(wrong)?;
    let max = limits.max_rdy_count;
    if count > max {
        return Err(invalid(format!("RDY count {count} out of range 0-{max}")));
    }
    Ok(count)
}

/// The number in decimal digits, saturated; no digits mean zero. `None` if there is any other byte.
fn decimal(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        Some(number.saturating_mul(10).saturating_add(digit))
    })
}

// Bodies.

/// The body of PUB or DPUB, and the number of bytes it took with its length.
#[inline]
fn message_body<'a>(verb: Verb, buf: &'a [u8], limits: &Limits) -> Result<(&'a [u8], usize), Stop> {
    let claimed = body_size(buf)?;
    let Ok(size @ 1..) = usize::try_from(claimed) else {
        return Err(bad_message(verb, format_args!("invalid message body size {claimed}")).into());
    };
    if size > limits.max_msg_size {
        return Err(
            bad_message(verb, format_args!("message too big {size} > {}", limits.max_msg_size)).into()
        );
    }
    sized(buf, size)
}

/// The headers and body of PUB_EXT or DPUB_EXT, and the number of bytes they took with their length.
fn message_with_headers<'a>(verb: Verb, buf: &'a [u8], limits: &Limits) -> Result<(&'a [u8], usize), Stop> {
    let (message, consumed) = message_body(verb, buf, limits)?;
    match split_published(message) {
        Ok((_, [])) => Err(bad_message(verb, format_args!("invalid message body size 0")).into()),
        Ok(_) => Ok((message, consumed)),
        Err(error) => Err(bad_message(verb, format_args!("{error}")).into()),
    }
}

/// The body of IDENTIFY or AUTH, and the number of bytes it took with its length.
fn control_body<'a>(verb: Verb, buf: &'a [u8], limits: &Limits) -> Result<(&'a [u8], usize), Stop> {
    let size = control_body_size(verb, buf, limits)?;
    sized(buf, size)
}

/// The batch of MPUB or MPUB_EXT, and the number of bytes it took with its length.
fn batch_body<'a>(
    verb: Verb,
    buf: &'a [u8],
    checked: Checked,
    limits: &Limits,
) -> Result<(MessageBatch<'a>, usize), Stop> {
    let size = control_body_size(verb, buf, limits)?;
    match MessageBatch::resume_binary(&buf[4..], checked, limits) {
        Ok((batch, consumed)) => Ok((batch, 4 + consumed)),
        Err(BatchError::Incomplete { needed, checked, .. }) => {
            Err(Stop::Incomplete { needed: 4 + needed, claimed: 4 + size, checked })
        }
        Err(error) => Err(error.to_protocol_error(verb).into()),
    }
}

fn control_body_size(verb: Verb, buf: &[u8], limits: &Limits) -> Result<usize, Stop> {
    let claimed = body_size(buf)?;
    let Ok(size @ 1..) = usize::try_from(claimed) else {
        let text = format!("{verb} invalid body size {claimed}");
        return Err(ProtocolError::new(ErrorCode::BadBody, text).into());
    };
    if size > limits.max_body_size {
        let text = format!("{verb} body too big {size} > {}", limits.max_body_size);
        return Err(ProtocolError::new(ErrorCode::BadBody, text).into());
    }
    Ok(size)
}

fn body_size(buf: &[u8]) -> Result<i32, Stop> {
    buf.first_chunk().map(|size| i32::from_be_bytes(*size)).ok_or(Stop::until(4))
}

fn sized(buf: &[u8], size: usize) -> Result<(&[u8], usize), Stop> {
    let end = 4 + size;
    buf.get(4..end).map(|body| (body, end)).ok_or(Stop::until(end))
}

// Errors.

fn invalid(text: impl Into<Vec<u8>>) -> ProtocolError {
    ProtocolError::new(ErrorCode::Invalid, text)
}

fn bad_message(verb: Verb, reason: fmt::Arguments<'_>) -> ProtocolError {
    ProtocolError::new(ErrorCode::BadMessage, format!("{verb} {reason}"))
}

fn bad_topic(verb: Verb, name: &[u8]) -> ProtocolError {
    // NSQ doubles the code for this command; clients that compare the whole text expect it.
    let doubled = if verb == Verb::Mpub { "E_BAD_TOPIC " } else { "" };
    let text = [format!("{doubled}{verb} topic name ").as_bytes(), &quote(name), b" is not valid"].concat();
    ProtocolError::new(ErrorCode::BadTopic, text)
}

fn bad_channel(name: &[u8]) -> ProtocolError {
    ProtocolError::new(
        ErrorCode::BadChannel,
        [b"SUB channel name ", &quote(name)[..], b" is not valid"].concat(),
    )
}

#[cfg(test)]
#[path = "command_decoder_tests.rs"]
mod tests;
