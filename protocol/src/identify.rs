//! IDENTIFY: what a client says about itself and asks for, and what nsqd grants.
//!
//! [`IdentifyRequest`] is what was asked, [`negotiate`] checks it against [`IdentifyLimits`] and gives
//! what holds for the connection, [`IdentifyReply`] is the answer to a client that can negotiate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, ProtocolError};
use crate::json::{JsonError, Reader, fold_key, lenient};
use crate::start_at::StartAt;

/// Longest name that is kept of what a client says about itself. The rest of a longer one is cut off.
pub const MAX_NAME_BYTES: usize = 1024;

/// Deflate level of a client that names none.
const DEFAULT_DEFLATE_LEVEL: i64 = 6;

/// The body of IDENTIFY. Every field may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct IdentifyRequest {
    /// Name of the client, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Host that the client runs on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Library and version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_agent: Option<String>,
    /// Milliseconds between heartbeats; -1 for none, 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval: Option<i64>,
    /// Bytes that nsqd may hold back; -1 for none, 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_size: Option<i64>,
    /// Milliseconds that nsqd may hold them back; -1 for no limit, 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_timeout: Option<i64>,
    /// Percent of the channel's messages that are wanted; 0 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<i64>,
    /// Milliseconds until a message in flight times out; 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_timeout: Option<i64>,
    /// Whether the client reads an [`IdentifyReply`], and the upgrades below apply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_negotiation: Option<bool>,
    /// Asks for TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_v1: Option<bool>,
    /// Asks for snappy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snappy: Option<bool>,
    /// Asks for deflate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate: Option<bool>,
    /// Level of deflate; 0 and below for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate_level: Option<i64>,
    /// Region that the client is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_region: Option<String>,
    /// Zone that the client is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_zone: Option<String>,
    /// Where a channel starts that SUB makes: see [`StartAt`]. NSQ does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_start: Option<String>,
}

impl IdentifyRequest {
    /// Reads the body of IDENTIFY. The error is the one for the client.
    pub fn parse(body: &[u8]) -> Result<Self, ProtocolError> {
        Self::read(body).map_err(|JsonError| bad_body("failed to decode JSON body"))
    }

    fn read(body: &[u8]) -> Result<Self, JsonError> {
        let mut request = Self::default();
        let mut reader = Reader::new(body);
        reader.object(|key, value| {
            match fold_key(key).as_str() {
                "client_id" => replace(&mut request.client_id, value.string()?),
                "hostname" => replace(&mut request.hostname, value.string()?),
                "user_agent" => replace(&mut request.user_agent, value.string()?),
                "heartbeat_interval" => replace(&mut request.heartbeat_interval, value.integer()?),
                "output_buffer_size" => replace(&mut request.output_buffer_size, value.integer()?),
                "output_buffer_timeout" => replace(&mut request.output_buffer_timeout, value.integer()?),
                "sample_rate" => {
                    let rate = value.integer()?;
                    // The one number of 32 bits.
                    if rate.is_some_and(|rate| i32::try_from(rate).is_err()) {
                        return Err(JsonError);
                    }
                    replace(&mut request.sample_rate, rate);
                }
                "msg_timeout" => replace(&mut request.msg_timeout, value.integer()?),
                "feature_negotiation" => replace(&mut request.feature_negotiation, value.boolean()?),
                "tls_v1" => replace(&mut request.tls_v1, value.boolean()?),
                "snappy" => replace(&mut request.snappy, value.boolean()?),
                "deflate" => replace(&mut request.deflate, value.boolean()?),
                "deflate_level" => replace(&mut request.deflate_level, value.integer()?),
                "topology_region" => replace(&mut request.topology_region, value.string()?),
                "topology_zone" => replace(&mut request.topology_zone, value.string()?),
                "channel_start" => replace(&mut request.channel_start, value.string()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(request)
    }
}

/// A `null` leaves what an earlier duplicate said.
fn replace<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

/// What nsqd grants at most, and what it gives to who asks for nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentifyLimits {
    /// Heartbeat interval by default.
    pub heartbeat_interval: Duration,
    /// Longest heartbeat interval.
    pub max_heartbeat_interval: Duration,
    /// Output buffer by default, in bytes.
    pub output_buffer_size: usize,
    /// Largest output buffer, in bytes.
    pub max_output_buffer_size: usize,
    /// Output buffer timeout by default; zero for none.
    pub output_buffer_timeout: Duration,
    /// Shortest output buffer timeout.
    pub min_output_buffer_timeout: Duration,
    /// Longest output buffer timeout.
    pub max_output_buffer_timeout: Duration,
    /// Message timeout by default.
    pub msg_timeout: Duration,
    /// Longest message timeout.
    pub max_msg_timeout: Duration,
    /// Whether there is a certificate for TLS.
    pub tls: bool,
    /// Whether snappy is enabled.
    pub snappy: bool,
    /// Whether deflate is enabled.
    pub deflate: bool,
    /// Highest deflate level.
    pub max_deflate_level: u8,
}

impl Default for IdentifyLimits {
    /// NSQ's defaults.
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(30),
            max_heartbeat_interval: Duration::from_secs(60),
            output_buffer_size: 16 << 10,
            max_output_buffer_size: 64 << 10,
            output_buffer_timeout: Duration::from_millis(250),
            min_output_buffer_timeout: Duration::from_millis(25),
            max_output_buffer_timeout: Duration::from_secs(30),
            msg_timeout: Duration::from_secs(60),
            max_msg_timeout: Duration::from_secs(15 * 60),
            tls: false,
            snappy: true,
            deflate: true,
            max_deflate_level: 6,
        }
    }
}

/// What holds for a connection after IDENTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Name of the client; empty if it gave none.
    pub client_id: String,
    /// Its host; empty if it gave none.
    pub hostname: String,
    /// Its library; empty if it gave none.
    pub user_agent: String,
    /// How often to send a heartbeat; None for never.
    pub heartbeat_interval: Option<Duration>,
    /// Bytes that may be held back; 1 for none.
    pub output_buffer_size: usize,
    /// How long they may be; None for no limit (or, with a size of 1, because there is nothing to hold).
    pub output_buffer_timeout: Option<Duration>,
    /// Percent of messages to deliver, 1 to 99; 0 for all.
    pub sample_rate: u8,
    /// When a message in flight times out.
    pub msg_timeout: Duration,
    /// Whether to answer with an [`IdentifyReply`] and not with `OK`.
    pub feature_negotiation: bool,
    /// TLS was asked for and follows.
    pub tls_v1: bool,
    /// Snappy was asked for and follows.
    pub snappy: bool,
    /// Deflate was asked for and follows; never together with snappy.
    pub deflate: bool,
    /// Level of deflate, also told when deflate does not follow.
    pub deflate_level: u8,
    /// The client's region; empty if it gave none.
    pub topology_region: String,
    /// The client's zone; empty if it gave none.
    pub topology_zone: String,
    /// Where a channel starts that SUB makes, if the client said so.
    pub channel_start: Option<StartAt>,
}

/// Checks what a client asks for, in NSQ's order, and says what it gets.
pub fn negotiate(request: &IdentifyRequest, limits: &IdentifyLimits) -> Result<Negotiated, ProtocolError> {
    let heartbeat_interval = heartbeat_interval(request.heartbeat_interval.unwrap_or(0), limits)?;
    let mut output_buffer_timeout =
        output_buffer_timeout(request.output_buffer_timeout.unwrap_or(0), limits)?;
    let output_buffer_size = output_buffer_size(request.output_buffer_size.unwrap_or(0), limits)?;
    if output_buffer_size == UNBUFFERED {
        output_buffer_timeout = None;
    }
    let sample_rate = request.sample_rate.unwrap_or(0);
    let Ok(sample_rate @ 0..=99) = u8::try_from(sample_rate) else {
        return Err(bad_body(format!("sample rate ({sample_rate}) is invalid")));
    };
    let msg_timeout = msg_timeout(request.msg_timeout.unwrap_or(0), limits)?;
    let channel_start = channel_start(request.channel_start.as_deref())?;

    let feature_negotiation = request.feature_negotiation.unwrap_or(false);
    let grant = |asked: Option<bool>, offered| feature_negotiation && offered && asked.unwrap_or(false);
    let tls_v1 = grant(request.tls_v1, limits.tls);
    let snappy = grant(request.snappy, limits.snappy);
    let deflate = grant(request.deflate, limits.deflate);
    if snappy && deflate {
        let text = "cannot enable both deflate and snappy compression";
        return Err(ProtocolError::new(ErrorCode::IdentifyFailed, text));
    }
    let asked_level = request.deflate_level.filter(|&level| deflate && level > 0);
    let deflate_level = u8::try_from(asked_level.unwrap_or(DEFAULT_DEFLATE_LEVEL))
        .unwrap_or(u8::MAX)
        .min(limits.max_deflate_level);

    Ok(Negotiated {
        client_id: kept(request.client_id.as_deref()),
        hostname: kept(request.hostname.as_deref()),
        user_agent: kept(request.user_agent.as_deref()),
        heartbeat_interval,
        output_buffer_size,
        output_buffer_timeout,
        sample_rate,
        msg_timeout,
        feature_negotiation,
        tls_v1,
        snappy,
        deflate,
        deflate_level,
        topology_region: kept(request.topology_region.as_deref()),
        topology_zone: kept(request.topology_zone.as_deref()),
        channel_start,
    })
}

/// As much of a name as is kept. Every connection holds its names, so they are bounded.
fn kept(name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// The size of an output buffer that holds nothing back.
const UNBUFFERED: usize = 1;

/// Shortest heartbeat interval and message timeout.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// Smallest output buffer but for none.
const MIN_OUTPUT_BUFFER_BYTES: usize = 64;

fn heartbeat_interval(ms: i64, limits: &IdentifyLimits) -> Result<Option<Duration>, ProtocolError> {
    match ms {
        -1 => Ok(None),
        0 => Ok(Some(limits.heartbeat_interval)),
        _ => match within(ms, ONE_SECOND, limits.max_heartbeat_interval) {
            Some(interval) => Ok(Some(interval)),
            None => Err(bad_body(format!("heartbeat interval ({ms}) is invalid"))),
        },
    }
}

fn output_buffer_timeout(ms: i64, limits: &IdentifyLimits) -> Result<Option<Duration>, ProtocolError> {
    match ms {
        -1 => Ok(None),
        0 => Ok(Some(limits.output_buffer_timeout).filter(|timeout| !timeout.is_zero())),
        _ => match within(ms, limits.min_output_buffer_timeout, limits.max_output_buffer_timeout) {
            Some(timeout) => Ok(Some(timeout)),
            None => Err(bad_body(format!("output buffer timeout ({ms}) is invalid"))),
        },
    }
}

fn output_buffer_size(bytes: i64, limits: &IdentifyLimits) -> Result<usize, ProtocolError> {
    match bytes {
        -1 => Ok(UNBUFFERED),
        0 => Ok(limits.output_buffer_size),
        _ => usize::try_from(bytes)
            .ok()
            .filter(|bytes| (MIN_OUTPUT_BUFFER_BYTES..=limits.max_output_buffer_size).contains(bytes))
            .ok_or_else(|| bad_body(format!("output buffer size ({bytes}) is invalid"))),
    }
}

fn msg_timeout(ms: i64, limits: &IdentifyLimits) -> Result<Duration, ProtocolError> {
    match ms {
        0 => Ok(limits.msg_timeout),
        _ => within(ms, ONE_SECOND, limits.max_msg_timeout)
            .ok_or_else(|| bad_body(format!("msg timeout ({ms}) is invalid"))),
    }
}

fn channel_start(text: Option<&str>) -> Result<Option<StartAt>, ProtocolError> {
    let parse = |text: &str| text.parse().map_err(|_| bad_body(format!("channel start ({text}) is invalid")));
    text.map(parse).transpose()
}

fn within(ms: i64, min: Duration, max: Duration) -> Option<Duration> {
    u64::try_from(ms).ok().map(Duration::from_millis).filter(|value| (min..=max).contains(value))
}

fn bad_body(text: impl AsRef<str>) -> ProtocolError {
    ProtocolError::new(ErrorCode::BadBody, format!("IDENTIFY {}", text.as_ref()))
}

/// The answer to IDENTIFY with feature negotiation. To be written with [`json::to_json`](crate::json::to_json);
/// read leniently, because nodes differ in what they say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentifyReply {
    /// Largest RDY count.
    #[serde(deserialize_with = "lenient")]
    pub max_rdy_count: i64,
    /// nsqd's version.
    #[serde(deserialize_with = "lenient")]
    pub version: String,
    /// Longest message timeout, in milliseconds.
    #[serde(deserialize_with = "lenient")]
    pub max_msg_timeout: i64,
    /// Message timeout of this connection, in milliseconds.
    #[serde(deserialize_with = "lenient")]
    pub msg_timeout: i64,
    /// TLS follows.
    #[serde(deserialize_with = "lenient")]
    pub tls_v1: bool,
    /// Deflate follows.
    #[serde(deserialize_with = "lenient")]
    pub deflate: bool,
    /// Its level.
    #[serde(deserialize_with = "lenient")]
    pub deflate_level: i64,
    /// Highest level of deflate.
    #[serde(deserialize_with = "lenient")]
    pub max_deflate_level: i64,
    /// Snappy follows.
    #[serde(deserialize_with = "lenient")]
    pub snappy: bool,
    /// Percent of messages delivered; 0 for all.
    #[serde(deserialize_with = "lenient")]
    pub sample_rate: i64,
    /// Whether AUTH is needed.
    #[serde(deserialize_with = "lenient")]
    pub auth_required: bool,
    /// Bytes that nsqd may hold back.
    #[serde(deserialize_with = "lenient")]
    pub output_buffer_size: i64,
    /// Milliseconds that it may hold them back.
    #[serde(deserialize_with = "lenient")]
    pub output_buffer_timeout: i64,
    /// Region that nsqd is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// Zone that nsqd is in.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Longest message; NSQ does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msg_size: Option<i64>,
    /// Longest body of MPUB; NSQ does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_size: Option<i64>,
    /// Where a channel starts that SUB makes, as it was asked for; NSQ does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_start: Option<String>,
}

impl Negotiated {
    /// The reply for this connection; what does not depend on it is taken from `daemon`.
    pub fn reply(&self, daemon: &IdentifyReply) -> IdentifyReply {
        IdentifyReply {
            msg_timeout: millis(self.msg_timeout),
            tls_v1: self.tls_v1,
            deflate: self.deflate,
            deflate_level: i64::from(self.deflate_level),
            snappy: self.snappy,
            sample_rate: i64::from(self.sample_rate),
            output_buffer_size: i64::try_from(self.output_buffer_size).unwrap_or(i64::MAX),
            output_buffer_timeout: self.output_buffer_timeout.map_or(0, millis),
            channel_start: self.channel_start.map(|start| start.to_string()),
            ..daemon.clone()
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
