//! The protocol between nsqd and nsqlookupd over TCP.
//!
//! nsqd sends commands. nsqlookupd answers each with one response: `OK`, JSON, or an error after which it closes the
//! connection. Responses have a size but no type, so only its text identifies an error.
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

/// The body of IDENTIFY: what a node reports about itself. Keys are written in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerInfo {
    /// Address at which clients reach the node.
    pub broadcast_address: String,
    /// Version of the [heartbeat statistics](crate::heartbeat) that the node offers; 0 for none. Not in NSQ.
    #[serde(skip_serializing_if = "is_zero")]
    pub heartbeat_stats: u8,
    /// Host name of the node.
    pub hostname: String,
    /// HTTP port of the node.
    pub http_port: u16,
    /// TCP port of the node.
    pub tcp_port: u16,
    /// Region of the node.
    pub topology_region: String,
    /// Zone of the node.
    pub topology_zone: String,
    /// Version of the node's nsqd.
    pub version: String,
}

impl PeerInfo {
    /// Parses the body of IDENTIFY, as leniently as nsqd parses that of its clients. Address, ports and version are
    /// required.
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

/// Reads a version; one that is out of range is unknown and reads as 0.
fn version(value: &mut Reader<'_>) -> Result<Option<u8>, JsonError> {
    Ok(value.integer()?.map(|version| u8::try_from(version).unwrap_or(0)))
}

// serde passes a reference.
fn is_zero(version: &u8) -> bool {
    *version == 0
}

fn replace<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// The response of nsqlookupd to IDENTIFY. Keys are written in alphabetical order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LookupdInfo {
    /// Address for nsqd's HTTP queries; if empty, nsqd queries other nsqlookupds.
    #[serde(deserialize_with = "lenient")]
    pub broadcast_address: String,
    /// Version of the offered [heartbeat statistics](crate::heartbeat) that nsqlookupd accepts; 0 for none. Not in NSQ.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "is_zero")]
    pub heartbeat_stats: u8,
    /// Host name of nsqlookupd.
    #[serde(deserialize_with = "lenient")]
    pub hostname: String,
    /// HTTP port of nsqlookupd.
    #[serde(deserialize_with = "lenient")]
    pub http_port: u16,
    /// TCP port of nsqlookupd.
    #[serde(deserialize_with = "lenient")]
    pub tcp_port: u16,
    /// Version of nsqlookupd.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
}

impl LookupdInfo {
    /// Parses the response to IDENTIFY. An error response is not JSON, so it gives [`LookupError::NotJson`].
    pub fn parse(data: &[u8]) -> Result<Self, LookupError> {
        serde_json::from_slice(data).map_err(|_| LookupError::NotJson)
    }
}

/// Invalid data between nsqd and nsqlookupd.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// Not JSON, or not of the right types.
    #[error("failed to decode JSON body")]
    NotJson,
    /// JSON without the required fields.
    #[error("missing fields")]
    MissingFields,
    /// A response size that is negative or above the limit.
    #[error("invalid response size {size}, at most {max}")]
    ResponseSize {
        /// The size field.
        size: i32,
        /// The limit.
        max: usize,
    },
}

/// A command from nsqd to nsqlookupd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupCommand {
    /// Introduces the node. Sent once, before all other commands. Answered by [`LookupdInfo`].
    Identify(PeerInfo),
    /// Registers a topic, or a channel of it. Answered by `OK`.
    Register {
        /// The topic.
        topic: TopicName,
        /// The channel; `None` for the topic.
        channel: Option<ChannelName>,
    },
    /// Unregisters a topic, or a channel of it. Answered by `OK`.
    Unregister {
        /// The topic.
        topic: TopicName,
        /// The channel; `None` for the topic.
        channel: Option<ChannelName>,
    },
    /// A sign of life. Answered by `OK`.
    Ping,
    /// An encoded [`StatsReport`](crate::heartbeat::StatsReport), if negotiated. Answered by `OK`.
    Stats(Vec<u8>),
}

impl LookupCommand {
    /// Appends the command's wire form to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Identify(info) => {
                // Encoding strings and numbers cannot fail.
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

/// Maximum sizes of a node's commands. NSQ has no such limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupLimits {
    /// Maximum length of a line in bytes, LF included.
    pub max_line_bytes: usize,
    /// Maximum size of the body of IDENTIFY, in bytes.
    pub max_body_size: usize,
    /// Maximum size of the body of STATS, in bytes.
    pub max_report_bytes: usize,
}

impl Default for LookupLimits {
    /// 16 KiB per line, 64 KiB for IDENTIFY, which is kept, and 1 MiB for STATS.
    fn default() -> Self {
        Self { max_line_bytes: 16 << 10, max_body_size: 64 << 10, max_report_bytes: MAX_REPORT_BYTES }
    }
}

/// The result of decoding the start of nsqlookupd's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupDecoded {
    /// Valid so far, but incomplete.
    Incomplete,
    /// A complete and valid command.
    Command {
        /// The command.
        command: LookupCommand,
        /// Bytes of the buffer that the command took.
        consumed: usize,
    },
    /// An invalid command: send the error and close the connection.
    Invalid {
        /// The error response.
        error: ProtocolError,
        /// Bytes of the command's line.
        consumed: usize,
    },
}

/// Decodes the command at the start of `buf`: nsqlookupd's side. `identified` says whether this connection has sent
/// IDENTIFY.
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

/// The error response if no more bytes arrive and `buf` starts with a command whose body is incomplete. `None` if there
/// is no such command.
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

/// The body of `command` and the number of bytes it took with its size; `None` while it is incomplete.
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

/// Removes the white space at both ends.
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

/// Decodes the response at the start of `buf`: nsqd's side. Also returns the number of bytes it took; `None` while the
/// response is incomplete.
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
