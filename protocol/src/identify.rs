//! IDENTIFY: what a client reports about itself and requests, and what nsqd grants.
//!
//! [`IdentifyRequest`] is the client's request. [`negotiate`] checks it against [`IdentifyLimits`] and returns the
//! settings of the connection. [`IdentifyReply`] is the response to a client that can negotiate.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, ProtocolError};
use crate::json::{JsonError, Reader, fold_key, lenient};
use crate::start_at::StartAt;

/// Maximum length of each name that a client reports about itself, in bytes. Longer names are cut.
pub const MAX_NAME_BYTES: usize = 1024;

/// The feature that delivers messages with their [`headers`](crate::headers). Not in NSQ.
pub const HEADERS: &str = "headers";
/// The feature that answers a publish of one message with its id. Not in NSQ.
pub const PUB_IDS: &str = "pub_ids";
/// The feature that lets a consumer send [`REJ`](crate::Command::Rej). Not in NSQ.
pub const REJECT: &str = "reject";

/// Deflate level for a client that requests none.
const DEFAULT_DEFLATE_LEVEL: i64 = 6;

/// The body of IDENTIFY. Every field may be missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(default)]
pub struct IdentifyRequest {
    /// Name of the client, for display.
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
    /// Bytes that nsqd may buffer before it sends them; -1 for none, 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_size: Option<i64>,
    /// Milliseconds that nsqd may buffer output; -1 for no limit, 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_buffer_timeout: Option<i64>,
    /// Percentage of the channel's messages to deliver; 0 for all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<i64>,
    /// Milliseconds until a message in flight times out; 0 for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub msg_timeout: Option<i64>,
    /// Whether the client reads an [`IdentifyReply`]. Otherwise the upgrades below are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub feature_negotiation: Option<bool>,
    /// Requests TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_v1: Option<bool>,
    /// Requests snappy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snappy: Option<bool>,
    /// Requests deflate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate: Option<bool>,
    /// Deflate level; 0 and below for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deflate_level: Option<i64>,
    /// Region of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_region: Option<String>,
    /// Zone of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology_zone: Option<String>,
    /// Where a channel that SUB creates starts: see [`StartAt`]. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_start: Option<String>,
    /// Names of the extensions that the client requests, such as [`HEADERS`]; unknown ones are ignored. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Requests [`HEADERS`], as clients of youzan's NSQ do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_support: Option<bool>,
}

impl IdentifyRequest {
    /// Parses the body of IDENTIFY. The error is the response for the client.
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
                    // The only 32-bit number in NSQ.
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
                "features" => replace(&mut request.features, names(value)?),
                "extend_support" => replace(&mut request.extend_support, value.boolean()?),
                _ => value.skip()?,
            }
            Ok(())
        })?;
        reader.finish()?;
        Ok(request)
    }
}

/// Reads a list of strings. `None` for `null`.
fn names(value: &mut Reader<'_>) -> Result<Option<Vec<String>>, JsonError> {
    let mut names = Vec::new();
    let is_list = value.array(|element| {
        names.extend(element.string()?);
        Ok(())
    })?;
    Ok(is_list.then_some(names))
}

/// Sets the field; `null` keeps the value of an earlier duplicate.
fn replace<T>(field: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *field = value;
    }
}

/// The limits of what nsqd grants, and the defaults for a client that requests nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentifyLimits {
    /// Default heartbeat interval.
    pub heartbeat_interval: Duration,
    /// Longest heartbeat interval.
    pub max_heartbeat_interval: Duration,
    /// Default output buffer, in bytes.
    pub output_buffer_size: usize,
    /// Largest output buffer, in bytes.
    pub max_output_buffer_size: usize,
    /// Default output buffer timeout; zero for no limit.
    pub output_buffer_timeout: Duration,
    /// Shortest output buffer timeout.
    pub min_output_buffer_timeout: Duration,
    /// Longest output buffer timeout.
    pub max_output_buffer_timeout: Duration,
    /// Default message timeout.
    pub msg_timeout: Duration,
    /// Longest message timeout.
    pub max_msg_timeout: Duration,
    /// Whether TLS is available: nsqd has a certificate.
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

/// The settings of a connection after IDENTIFY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Negotiated {
    /// Name of the client; empty if not sent.
    pub client_id: String,
    /// Host of the client; empty if not sent.
    pub hostname: String,
    /// Library of the client; empty if not sent.
    pub user_agent: String,
    /// Interval between heartbeats; `None` for no heartbeats.
    pub heartbeat_interval: Option<Duration>,
    /// Bytes that may be buffered; 1 for none.
    pub output_buffer_size: usize,
    /// How long output may be buffered; `None` for no limit, and always with a buffer size of 1.
    pub output_buffer_timeout: Option<Duration>,
    /// Percentage of messages to deliver, 1 to 99; 0 for all.
    pub sample_rate: u8,
    /// Time until a message in flight times out.
    pub msg_timeout: Duration,
    /// Whether to answer with an [`IdentifyReply`] instead of `OK`.
    pub feature_negotiation: bool,
    /// Whether the connection upgrades to TLS.
    pub tls_v1: bool,
    /// Whether the connection upgrades to snappy.
    pub snappy: bool,
    /// Whether the connection upgrades to deflate; never together with snappy.
    pub deflate: bool,
    /// Deflate level, reported even without deflate.
    pub deflate_level: u8,
    /// Region of the client; empty if not sent.
    pub topology_region: String,
    /// Zone of the client; empty if not sent.
    pub topology_zone: String,
    /// Where a channel that SUB creates starts; `None` if the client did not request it.
    pub channel_start: Option<StartAt>,
    /// The extensions granted of those requested by name; `None` if the client requested none by name.
    pub features: Option<Vec<&'static str>>,
    /// Whether [`HEADERS`] was granted as `extend_support`; `None` if the client did not send it.
    pub extend_support: Option<bool>,
}

/// Checks a client's request in NSQ's order and returns the settings of the connection. The error is the response for
/// the client.
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
        features: request.features.as_ref().filter(|_| feature_negotiation).map(|names| {
            OFFERED_FEATURES.into_iter().filter(|offered| names.iter().any(|name| name == offered)).collect()
        }),
        extend_support: request.extend_support.filter(|_| feature_negotiation),
    })
}

const OFFERED_FEATURES: [&str; 3] = [HEADERS, PUB_IDS, REJECT];

/// Cuts a name to [`MAX_NAME_BYTES`]. Every connection keeps its names, so they need a limit.
fn kept(name: Option<&str>) -> String {
    let name = name.unwrap_or_default();
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].to_owned()
}

/// The size of an output buffer that means no buffering.
const UNBUFFERED: usize = 1;

/// Shortest heartbeat interval and message timeout.
const ONE_SECOND: Duration = Duration::from_secs(1);

/// Smallest output buffer, except for no buffering.
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

/// The response to IDENTIFY with feature negotiation. Write it with [`json::to_json`](crate::json::to_json). Reading is
/// lenient, because nodes differ in the fields that they send.
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
    /// Whether the connection upgrades to TLS.
    #[serde(deserialize_with = "lenient")]
    pub tls_v1: bool,
    /// Whether the connection upgrades to deflate.
    #[serde(deserialize_with = "lenient")]
    pub deflate: bool,
    /// Deflate level of this connection.
    #[serde(deserialize_with = "lenient")]
    pub deflate_level: i64,
    /// Highest deflate level.
    #[serde(deserialize_with = "lenient")]
    pub max_deflate_level: i64,
    /// Whether the connection upgrades to snappy.
    #[serde(deserialize_with = "lenient")]
    pub snappy: bool,
    /// Percentage of messages delivered; 0 for all.
    #[serde(deserialize_with = "lenient")]
    pub sample_rate: i64,
    /// Whether AUTH is needed.
    #[serde(deserialize_with = "lenient")]
    pub auth_required: bool,
    /// Bytes that nsqd may buffer before it sends them.
    #[serde(deserialize_with = "lenient")]
    pub output_buffer_size: i64,
    /// Milliseconds that nsqd may buffer output.
    #[serde(deserialize_with = "lenient")]
    pub output_buffer_timeout: i64,
    /// Region of nsqd.
    #[serde(deserialize_with = "lenient")]
    pub topology_region: String,
    /// Zone of nsqd.
    #[serde(deserialize_with = "lenient")]
    pub topology_zone: String,
    /// Maximum size of a message body, in bytes. NSQ does not send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_msg_size: Option<i64>,
    /// Maximum size of an MPUB body, in bytes. NSQ does not send it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_size: Option<i64>,
    /// Where a channel that SUB creates starts, as requested. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_start: Option<String>,
    /// The extensions granted of those requested by name. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<String>>,
    /// Whether messages are delivered with headers, if requested this way. Not in NSQ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_support: Option<bool>,
}

impl IdentifyReply {
    /// Whether nsqd granted [`HEADERS`].
    pub fn grants_headers(&self) -> bool {
        self.features.iter().flatten().any(|feature| feature == HEADERS)
    }

    /// Whether nsqd granted [`PUB_IDS`].
    pub fn grants_pub_ids(&self) -> bool {
        self.features.iter().flatten().any(|feature| feature == PUB_IDS)
    }

    /// Whether nsqd granted [`REJECT`].
    pub fn grants_reject(&self) -> bool {
        self.features.iter().flatten().any(|feature| feature == REJECT)
    }
}

impl Negotiated {
    /// Whether [`HEADERS`] is granted.
    pub fn headers(&self) -> bool {
        self.extend_support == Some(true) || self.features.iter().flatten().any(|&feature| feature == HEADERS)
    }

    /// Whether [`PUB_IDS`] is granted.
    pub fn pub_ids(&self) -> bool {
        self.features.iter().flatten().any(|&feature| feature == PUB_IDS)
    }

    /// Whether [`REJECT`] is granted.
    pub fn reject(&self) -> bool {
        self.features.iter().flatten().any(|&feature| feature == REJECT)
    }

    /// The reply for this connection; fields that do not depend on the connection come from `daemon`.
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
            features: self.features.as_ref().map(|names| names.iter().map(|&name| name.to_owned()).collect()),
            extend_support: self.extend_support,
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
