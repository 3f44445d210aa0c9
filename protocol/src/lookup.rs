//! nsqd and nsqlookupd over TCP.
//!
//! nsqd sends commands, nsqlookupd answers each with one response: `OK`, JSON, or an error after which
//! it closes. Responses have a size but no type, so an error is told by its text.
//!
//! ```text
//! command   NAME *( SP PARAM ) LF [ size(4) body ]    the line is trimmed, then split at single blanks
//! response  size(4) data(size)
//! ```

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, ProtocolError};
use crate::heartbeat::MAX_REPORT_BYTES;
use crate::json::{JsonError, Reader, fold_key, lenient, to_json};
use crate::name::{ChannelName, TopicName};

/// The first four bytes of nsqd's connection to nsqlookupd.
pub const MAGIC_V1: &[u8; 4] = b"  V1";

/// How a node introduces itself to nsqlookupd. Keys are written in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerInfo {
    /// Address that clients are to use.
    pub broadcast_address: String,
    /// Which [heartbeat statistics](crate::heartbeat) it offers; 0 for none. Not NSQ's.
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_stats: u8,
    /// The node's host.
    pub hostname: String,
    /// Port of its HTTP interface.
    pub http_port: u16,
    /// Port of its TCP interface.
    pub tcp_port: u16,
    /// Region that it is in.
    pub topology_region: String,
    /// Zone that it is in.
    pub topology_zone: String,
    /// Its version.
    pub version: String,
}

impl PeerInfo {
    /// Reads the body of IDENTIFY, as forgivingly as nsqd reads its clients'. Address, ports and
    /// version must be there.
    pub fn parse(body: &[u8]) -> Result<Self, LookupError> {
        let info = Self::read(body).map_err(|JsonError| LookupError::NotJson)?;
        let is_complete = !info.broadcast_address.is_empty()
            && info.tcp_port != 0
            && info.http_port != 0
            && !info.version.is_empty();
        if is_complete { Ok(info) } else { Err(LookupError::MissingFields) }
    }

    fn read(body: &[u8]) -> Result<Self, JsonError> {
        let mut info = Self::default();
        let mut reader = Reader::new(body);
        reader.object(|key, value| {
            match fold_key(key).as_str() {
                "broadcast_address" => replace(&mut info.broadcast_address, value.string()?),
                "heartbeat_stats" => replace(&mut info.heartbeat_stats, version(value)?),
                "hostname" => replace(&mut info.hostname, value.string()?),
                "http_port" => replace(&mut info.http_port, port(value)?),
                "tcp_port" => replace(&mut info.tcp_port, port(value)?),
                "topology_region" => replace(&mut info.topology_region, value.string()?),
                "topology_zone" => replace(&mut info.topology_zone, value.string()?),
                "version" => replace(&mut info.version, value.string()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(info)
    }
}

fn port(value: &mut Reader<'_>) -> Result<Option<u16>, JsonError> {
    value.integer()?.map(|port| u16::try_from(port).map_err(|_| JsonError)).transpose()
}

/// A version that is out of range is one that nobody knows, as any that comes after ours.
fn version(value: &mut Reader<'_>) -> Result<Option<u8>, JsonError> {
    Ok(value.integer()?.map(|version| u8::try_from(version).unwrap_or(0)))
}

// Not public, but serde calls it by reference.
fn is_zero(version: &u8) -> bool {
    *version == 0
}

fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// How nsqlookupd answers IDENTIFY. Keys are written in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupdInfo {
    /// Address that nsqd is to use for HTTP; without one it asks others.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Which [heartbeat statistics](crate::heartbeat) it wants of what it was offered; 0 for none. Not NSQ's.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub heartbeat_stats: u8,
    /// Its host.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// Port of its HTTP interface.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// Port of its TCP interface.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// Its version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
}

impl LookupdInfo {
    /// Reads the response to IDENTIFY; an error text is not JSON.
    pub fn parse(data: &[u8]) -> Result<Self, LookupError> {
        serde_json::from_slice(data).map_err(|_| LookupError::NotJson)
    }
}

/// What goes wrong between nsqd and nsqlookupd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Not JSON, or not of the right types.
    #[error("failed to decode JSON body")]
    NotJson,
    /// JSON without what must be there.
    #[error("missing fields")]
    MissingFields,
    /// A response of negative size, or above the limit.
    #[error("invalid response size {size}, at most {max}")]
    ResponseSize {
        /// The size field.
        size: i32,
        /// The limit.
        max: usize,
    },
}

/// What nsqd tells nsqlookupd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupCommand {
    /// Who I am; once, and first. Answered by [`LookupdInfo`].
    Identify(PeerInfo),
    /// I have this topic, or this channel of it. Answered by `OK`.
    Register {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: Option<ChannelName>,
    },
    /// I have it no longer. Answered by `OK`.
    Unregister {
        /// The topic.
        topic: TopicName,
        /// The channel.
        channel: Option<ChannelName>,
    },
    /// I am still here. Answered by `OK`.
    Ping,
    /// This is how I am doing: a [`StatsReport`](crate::heartbeat::StatsReport), if that was agreed on. Answered by `OK`.
    Stats(Vec<u8>),
}

impl LookupCommand {
    /// Appends the command's wire form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Identify(info) => {
                // Strings and numbers always become JSON.
                let body = to_json(info).unwrap_or_default();
                out.extend_from_slice(b"IDENTIFY\n");
                put_lookup_response(out, &body);
            }
            Self::Register { topic, channel } => put_registration(out, "REGISTER", topic, channel.as_ref()),
            Self::Unregister { topic, channel } => {
                put_registration(out, "UNREGISTER", topic, channel.as_ref())
            }
            Self::Ping => out.extend_from_slice(b"PING\n"),
            Self::Stats(report) => {
                out.extend_from_slice(b"STATS\n");
                put_lookup_response(out, report);
            }
        }
    }
}

fn put_registration(out: &mut Vec<u8>, name: &str, topic: &TopicName, channel: Option<&ChannelName>) {
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(topic.as_str().as_bytes());
    if let Some(channel) = channel {
        out.push(b' ');
        out.extend_from_slice(channel.as_str().as_bytes());
    }
    out.push(b'\n');
}

/// How much a node may send at once. NSQ has no limits here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupLimits {
    /// Longest line, LF included.
    pub max_line_bytes: usize,
    /// Longest body of IDENTIFY.
    pub max_body_size: usize,
    /// Longest body of STATS.
    pub max_report_bytes: usize,
}

impl Default for LookupLimits {
    /// 16 KiB, 64 KiB of what a node says of itself, which is kept, and 1 MiB of figures.
    fn default() -> Self {
        Self { max_line_bytes: 16 << 10, max_body_size: 64 << 10, max_report_bytes: MAX_REPORT_BYTES }
    }
}

/// What stands at the start of nsqlookupd's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupDecoded {
    /// Right so far, but not all there.
    Incomplete,
    /// A command.
    Command {
        /// The command.
        command: LookupCommand,
        /// Bytes it took.
        consumed: usize,
    },
    /// A command that is wrong: answer and close.
    Invalid {
        /// What to answer.
        error: ProtocolError,
        /// Bytes of its line.
        consumed: usize,
    },
}

/// Reads the command at the start of `buf`: nsqlookupd's side. `identified` says whether this
/// connection has sent IDENTIFY.
pub fn decode_lookup(buf: &[u8], identified: bool, limits: &LookupLimits) -> LookupDecoded {
    let window = &buf[..buf.len().min(limits.max_line_bytes)];
    let Some(end) = memchr(b'\n', window) else {
        if buf.len() < limits.max_line_bytes {
            return LookupDecoded::Incomplete;
        }
        let error = invalid(format!("command line longer than {} bytes", limits.max_line_bytes));
        return LookupDecoded::Invalid { error, consumed: window.len() };
    };
    let body_at = end + 1;
    match decode_line(trim(&buf[..end]), &buf[body_at..], identified, limits) {
        Ok(Some((command, body_bytes))) => LookupDecoded::Command { command, consumed: body_at + body_bytes },
        Ok(None) => LookupDecoded::Incomplete,
        Err(error) => LookupDecoded::Invalid { error, consumed: body_at },
    }
}

/// What to answer when nothing more will come and `buf` starts with a command whose body is not all
/// there; None when there is nothing to answer.
pub fn lookup_truncated(buf: &[u8], identified: bool, limits: &LookupLimits) -> Option<ProtocolError> {
    if decode_lookup(buf, identified, limits) != LookupDecoded::Incomplete {
        return None;
    }
    let body_at = memchr(b'\n', buf)? + 1;
    let what = if buf.len() - body_at < 4 { "body size" } else { "body" };
    let command = if trim(buf).starts_with(b"STATS") { "STATS" } else { "IDENTIFY" };
    Some(bad_body(command, format!("failed to read {what}")))
}

fn decode_line(
    line: &[u8],
    body: &[u8],
    identified: bool,
    limits: &LookupLimits,
) -> Result<Option<(LookupCommand, usize)>, ProtocolError> {
    let mut words = line.split(|&byte| byte == b' ');
    let name = words.next().unwrap_or_default();
    let command = match name {
        b"IDENTIFY" if identified => return Err(invalid("cannot IDENTIFY again")),
        b"IDENTIFY" => {
            let Some((json, consumed)) = sized("IDENTIFY", body, limits.max_body_size)? else {
                return Ok(None);
            };
            let info = PeerInfo::parse(json).map_err(|error| bad_body("IDENTIFY", error.to_string()))?;
            return Ok(Some((LookupCommand::Identify(info), consumed)));
        }
        b"STATS" if !identified => return Err(invalid("client must IDENTIFY")),
        b"STATS" => {
            let report = sized("STATS", body, limits.max_report_bytes)?;
            return Ok(report.map(|(report, consumed)| (LookupCommand::Stats(report.to_vec()), consumed)));
        }
        b"REGISTER" => {
            let (topic, channel) = registration("REGISTER", words, identified)?;
            LookupCommand::Register { topic, channel }
        }
        b"UNREGISTER" => {
            let (topic, channel) = registration("UNREGISTER", words, identified)?;
            LookupCommand::Unregister { topic, channel }
        }
        b"PING" => LookupCommand::Ping,
        _ => return Err(ProtocolError::echo(ErrorCode::Invalid, "invalid command ", name)),
    };
    Ok(Some((command, 0)))
}

/// The body of `command` with its size, once it is all there; and how many bytes that took.
fn sized<'a>(command: &str, body: &'a [u8], max: usize) -> Result<Option<(&'a [u8], usize)>, ProtocolError> {
    let Some((size, rest)) = body.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*size);
    let size =
        usize::try_from(claimed).map_err(|_| bad_body(command, format!("invalid body size {claimed}")))?;
    if size > max {
        return Err(bad_body(command, format!("body too big {size} > {max}")));
    }
    Ok(rest.get(..size).map(|data| (data, 4 + size)))
}

fn registration<'a>(
    name: &str,
    mut words: impl Iterator<Item = &'a [u8]>,
    identified: bool,
) -> Result<(TopicName, Option<ChannelName>), ProtocolError> {
    if !identified {
        return Err(invalid("client must IDENTIFY"));
    }
    let topic = words.next().ok_or_else(|| invalid(format!("{name} insufficient number of params")))?;
    let channel = words.next().filter(|channel| !channel.is_empty());
    let wrong = |code, what: &str, raw: &[u8]| {
        let text = [format!("{name} {what} name '").as_bytes(), raw, b"' is not valid"].concat();
        ProtocolError::new(code, text)
    };
    let topic = TopicName::from_bytes(topic).map_err(|_| wrong(ErrorCode::BadTopic, "topic", topic))?;
    let channel = match channel {
        Some(raw) => {
            Some(ChannelName::from_bytes(raw).map_err(|_| wrong(ErrorCode::BadChannel, "channel", raw))?)
        }
        None => None,
    };
    Ok((topic, channel))
}

/// Without the white space at both ends.
fn trim(line: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t'..=b'\r');
    let Some(start) = line.iter().position(is_text) else {
        return b"";
    };
    let end = line.iter().rposition(is_text).map_or(start, |last| last + 1);
    &line[start..end]
}

fn invalid(text: impl Into<Vec<u8>>) -> ProtocolError {
    ProtocolError::new(ErrorCode::Invalid, text)
}

fn bad_body(command: &str, text: String) -> ProtocolError {
    ProtocolError::new(ErrorCode::BadBody, format!("{command} {text}"))
}

/// Appends a response to `out`: its size, then `data`, which must be shorter than 2 GiB.
pub fn put_lookup_response(out: &mut Vec<u8>, data: &[u8]) {
    out.reserve(4 + data.len());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Reads the response at the start of `buf`, nsqd's side; also says how many bytes it took.
pub fn decode_lookup_response(buf: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, LookupError> {
    let Some((size, rest)) = buf.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*size);
    match usize::try_from(claimed) {
        Ok(size) if size <= max => Ok(rest.get(..size).map(|data| (data, 4 + size))),
        _ => Err(LookupError::ResponseSize { size: claimed, max }),
    }
}

#[cfg(test)]
#[path = "lookup_tests.rs"]
mod tests;
