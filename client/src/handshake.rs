//! The handshake on an open byte stream: magic, IDENTIFY, upgrades, AUTH, and SUB for a consumer. Pure: frames are
//! arguments, bytes to write are results. [`Producer`](crate::Producer) and [`Consumer`](crate::Consumer) use it; a
//! program that drives its own sockets can use it too.
//!
//! ```text
//! start ─▶ Identifying ──reply──▶ Upgrading ──OK of the last──▶ Authenticating ──reply──▶ Subscribing ──OK──▶ ready
//!                                  │    ▲                                             └── (a producer) ─────▶ ready
//!                                  └─OK─┘
//! ```
//!
//! TLS comes first, then snappy or deflate. nsqd confirms each upgrade with an OK in the new form. The client sends
//! AUTH only to servers that require it.

use std::collections::VecDeque;
use std::time::Duration;

use nsq_protocol::{
    AuthReply, ChannelName, Command, Frame, FrameType, HEADERS, IdentifyReply, IdentifyRequest, MAGIC_V2,
    PUB_IDS, REJECT, StartAt, TopicName,
};

use crate::config::{Config, Secret, Upgrades, host_name};
use crate::error::{ConnectStage, Disconnect};

/// The values assumed for a server without feature negotiation.
const ASSUMED_MAX_RDY_COUNT: u64 = 2500;
const ASSUMED_MSG_TIMEOUT: Duration = Duration::from_secs(60);
const ASSUMED_MAX_MSG_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// NSQ's defaults, for servers that do not report their limits.
pub(crate) const ASSUMED_MAX_MSG_SIZE: usize = 1 << 20;
pub(crate) const ASSUMED_MAX_BODY_SIZE: usize = 5 << 20;

/// What nsqd reports about itself and the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerInfo {
    /// nsqd's version; empty if not reported.
    pub version: String,
    /// The highest RDY count that nsqd accepts.
    pub max_rdy_count: u64,
    /// How long nsqd waits for the answer to a message.
    pub msg_timeout: Duration,
    /// The longest time to which touching extends `msg_timeout`.
    pub max_msg_timeout: Duration,
    /// The maximum size of a message, in bytes; NSQ's default if not reported.
    pub max_msg_size: usize,
    /// The maximum size of a batch, in bytes; NSQ's default if not reported.
    pub max_body_size: usize,
    /// Whether nsqd reported the two sizes.
    pub sizes_known: bool,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Whether the connection is compressed with snappy.
    pub snappy: bool,
    /// Whether the connection is compressed with deflate.
    pub deflate: bool,
    /// Whether nsqd accepts headers from this producer, or delivers them to this consumer.
    pub headers: bool,
    /// Whether nsqd accepts REJ from this consumer.
    pub reject: bool,
    /// Whether nsqd requires AUTH.
    pub auth_required: bool,
    /// nsqd's reply to AUTH, if the client sent AUTH.
    pub auth: Option<AuthReply>,
}

/// An upgrade of the byte stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upgrade {
    /// TLS. The client speaks first.
    Tls,
    /// Compression with snappy in both directions.
    Snappy,
    /// Compression with deflate in both directions.
    Deflate {
        /// The level for the client's direction.
        level: u8,
    },
}

impl ServerInfo {
    pub(crate) fn assumed() -> Self {
        ServerInfo {
            version: String::new(),
            max_rdy_count: ASSUMED_MAX_RDY_COUNT,
            msg_timeout: ASSUMED_MSG_TIMEOUT,
            max_msg_timeout: ASSUMED_MAX_MSG_TIMEOUT,
            max_msg_size: ASSUMED_MAX_MSG_SIZE,
            max_body_size: ASSUMED_MAX_BODY_SIZE,
            sizes_known: false,
            tls: false,
            snappy: false,
            deflate: false,
            headers: false,
            reject: false,
            auth_required: false,
            auth: None,
        }
    }

    /// Parses the reply to IDENTIFY. Returns the information and the upgrades that follow. `asked` are the requested
    /// upgrades; the server may decline compression, but not TLS.
    fn from_reply(data: &[u8], asked: &Upgrades) -> Result<(Self, VecDeque<Upgrade>), Disconnect> {
        // Servers without feature negotiation answer `OK`.
        if data.first() != Some(&b'{') {
            return match asked.tls {
                true => Err(Disconnect::Declined("TLS")),
                false => Ok((ServerInfo::assumed(), VecDeque::new())),
            };
        }
        let reply: IdentifyReply = serde_json::from_slice(data)
            .map_err(|e| Disconnect::Protocol(format!("the reply to IDENTIFY is not valid: {e}")))?;
        if asked.tls && !reply.tls_v1 {
            return Err(Disconnect::Declined("TLS"));
        }
        let unasked = [
            (reply.tls_v1, asked.tls),
            (reply.snappy, asked.snappy),
            (reply.deflate, asked.deflate.is_some()),
        ];
        if unasked.into_iter().any(|(on, asked)| on && !asked) {
            // The following bytes would be in an encoding that the client does not expect.
            return Err(Disconnect::Protocol("nsqd enabled an encoding that was not requested".into()));
        }
        let deflate = Upgrade::Deflate { level: asked.deflate.unwrap_or_default() };
        let upgrades =
            [(reply.tls_v1, Upgrade::Tls), (reply.deflate, deflate), (reply.snappy, Upgrade::Snappy)];
        let assumed = ServerInfo::assumed();
        let count = |value: i64| u64::try_from(value).ok().filter(|count| *count > 0);
        let ms = |value: i64| count(value).map(Duration::from_millis);
        let size =
            |value: Option<i64>| value.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let server = ServerInfo {
            headers: reply.grants_headers(),
            reject: reply.grants_reject(),
            version: reply.version,
            max_rdy_count: count(reply.max_rdy_count).unwrap_or(assumed.max_rdy_count),
            msg_timeout: ms(reply.msg_timeout).unwrap_or(assumed.msg_timeout),
            max_msg_timeout: ms(reply.max_msg_timeout).unwrap_or(assumed.max_msg_timeout),
            max_msg_size: size(reply.max_msg_size).unwrap_or(assumed.max_msg_size),
            max_body_size: size(reply.max_body_size).unwrap_or(assumed.max_body_size),
            sizes_known: size(reply.max_msg_size).is_some() && size(reply.max_body_size).is_some(),
            tls: reply.tls_v1,
            snappy: reply.snappy,
            deflate: reply.deflate,
            auth_required: reply.auth_required,
            auth: None,
        };
        Ok((server, upgrades.into_iter().filter(|(on, _)| *on).map(|(_, upgrade)| upgrade).collect()))
    }
}

/// What the connection is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Publishing: the handshake ends before SUB.
    Publish,
    /// Consuming: the handshake ends with SUB.
    Subscribe {
        /// The topic to subscribe to.
        topic: TopicName,
        /// The channel to subscribe to.
        channel: ChannelName,
    },
}

/// The state of a handshake after a frame.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// Another frame is needed.
    Waiting,
    /// The byte stream must be upgraded; the next frame arrives in the new form.
    Upgrade(Upgrade),
    /// The handshake is complete.
    Ready(ServerInfo),
}

#[derive(Debug)]
enum State {
    Identifying,
    /// The OK of `present` is awaited; `others` follow.
    Upgrading {
        server: ServerInfo,
        present: Upgrade,
        others: VecDeque<Upgrade>,
    },
    Authenticating(ServerInfo),
    Subscribing(ServerInfo),
    Done,
}

/// A handshake in progress.
#[derive(Debug)]
pub struct Handshake {
    purpose: Purpose,
    asked: Upgrades,
    secret: Option<Secret>,
    state: State,
}

impl Handshake {
    /// Starts a handshake and appends its first bytes to `out`.
    pub fn start(purpose: Purpose, config: &Config, secret: Option<Secret>, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(MAGIC_V2);
        // This cannot fail, because the request contains only strings and numbers. nsqd would refuse an empty body.
        let body = serde_json::to_vec(&identify_request(&purpose, config)).unwrap_or_default();
        Command::Identify { body: &body }.encode(out);
        Handshake { purpose, asked: config.upgrades(), secret, state: State::Identifying }
    }

    /// What the next frame belongs to.
    pub fn stage(&self) -> ConnectStage {
        match self.state {
            State::Identifying => ConnectStage::Identify,
            State::Upgrading { present: Upgrade::Tls, .. } => ConnectStage::Tls,
            State::Upgrading { .. } => ConnectStage::Compress,
            State::Authenticating(_) => ConnectStage::Authenticate,
            State::Subscribing(_) | State::Done => ConnectStage::Subscribe,
        }
    }

    /// Processes a frame and appends to `out` the bytes to write before the next frame.
    pub fn on_frame(&mut self, frame: &Frame, out: &mut Vec<u8>) -> Result<Progress, Disconnect> {
        if frame.is_heartbeat() {
            Command::Nop.encode(out);
            return Ok(Progress::Waiting);
        }
        match frame.kind {
            FrameType::Error => return Err(Disconnect::refused(&frame.data)),
            FrameType::Message => return Err(Disconnect::Protocol("nsqd sent a message before RDY".into())),
            FrameType::Response => {}
        }
        match std::mem::replace(&mut self.state, State::Done) {
            State::Identifying => {
                let (server, upgrades) = ServerInfo::from_reply(&frame.data, &self.asked)?;
                if server.auth_required && self.secret.is_none() {
                    return Err(Disconnect::AuthRequired);
                }
                Ok(self.upgrade(server, upgrades, out))
            }
            State::Upgrading { server, others, .. } if &frame.data[..] == nsq_protocol::frame::OK => {
                Ok(self.upgrade(server, others, out))
            }
            State::Authenticating(mut server) => {
                let reply = serde_json::from_slice(&frame.data)
                    .map_err(|e| Disconnect::Protocol(format!("the reply to AUTH is not valid: {e}")))?;
                server.auth = Some(reply);
                Ok(self.begin(server, out))
            }
            State::Subscribing(server) if &frame.data[..] == nsq_protocol::frame::OK => {
                Ok(Progress::Ready(server))
            }
            State::Upgrading { .. } | State::Subscribing(_) | State::Done => {
                Err(Disconnect::Protocol(format!(
                    "unexpected response {:?}",
                    String::from_utf8_lossy(&frame.data[..frame.data.len().min(100)])
                )))
            }
        }
    }
}

impl Handshake {
    /// Starts the next upgrade; after the last, AUTH if the server requires it.
    fn upgrade(
        &mut self,
        server: ServerInfo,
        mut upgrades: VecDeque<Upgrade>,
        out: &mut Vec<u8>,
    ) -> Progress {
        if let Some(present) = upgrades.pop_front() {
            self.state = State::Upgrading { server, present, others: upgrades };
            return Progress::Upgrade(present);
        }
        match &self.secret {
            Some(secret) if server.auth_required => {
                Command::Auth { secret: secret.reveal().as_bytes() }.encode(out);
                self.state = State::Authenticating(server);
                Progress::Waiting
            }
            _ => self.begin(server, out),
        }
    }

    /// Completes the handshake of a producer, or sends SUB for a consumer.
    fn begin(&mut self, server: ServerInfo, out: &mut Vec<u8>) -> Progress {
        match &self.purpose {
            Purpose::Publish => Progress::Ready(server),
            Purpose::Subscribe { topic, channel } => {
                Command::Sub { topic: topic.clone(), channel: channel.clone() }.encode(out);
                self.state = State::Subscribing(server);
                Progress::Waiting
            }
        }
    }
}

fn identify_request(purpose: &Purpose, config: &Config) -> IdentifyRequest {
    // The grant tells a producer that nsqd knows the commands for headers.
    let is_producer = matches!(purpose, Purpose::Publish);
    let mut features = Vec::new();
    features.extend((is_producer || config.headers || config.trace_headers).then_some(HEADERS));
    features.extend((is_producer && config.pub_ids).then_some(PUB_IDS));
    features.extend((!is_producer).then_some(REJECT));
    let host = host_name();
    let short_host = host.split('.').next().unwrap_or_default().to_owned();
    let client_id = config.client_id.clone().unwrap_or(short_host);
    let hostname = config.hostname.clone().unwrap_or(host);
    let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    IdentifyRequest {
        client_id: Some(client_id),
        hostname: Some(hostname),
        user_agent: Some(config.user_agent.clone()),
        feature_negotiation: Some(true),
        heartbeat_interval: config.heartbeat_interval.to_wire(),
        output_buffer_size: Some(config.output_buffer_size),
        output_buffer_timeout: config.output_buffer_timeout.to_wire(),
        sample_rate: (config.sample_rate > 0).then_some(config.sample_rate.into()),
        msg_timeout: (!config.msg_timeout.is_zero()).then(|| ms(config.msg_timeout)),
        tls_v1: config.tls_v1.then_some(true),
        snappy: config.snappy.then_some(true),
        deflate: config.deflate.then_some(true),
        deflate_level: config.deflate.then_some(config.deflate_level.into()),
        topology_region: text(&config.topology_region),
        topology_zone: text(&config.topology_zone),
        features: (!features.is_empty()).then(|| features.iter().map(|&name| name.to_owned()).collect()),
        extend_support: None,
        channel_start: (config.channel_start != StartAt::Latest).then(|| config.channel_start.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use nsq_protocol::{Decoded, Limits, decode};
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: FrameType, data: &[u8]) -> Frame {
        Frame { kind, data: Bytes::copy_from_slice(data) }
    }

    fn response(data: &[u8]) -> Frame {
        frame(FrameType::Response, data)
    }

    fn subscribe() -> Purpose {
        Purpose::Subscribe {
            topic: TopicName::new("orders").unwrap(),
            channel: ChannelName::new("billing#ephemeral").unwrap(),
        }
    }

    #[test]
    fn identify_contains_the_client_and_only_options_that_are_set() {
        let config = Config::new().client_id("me".to_owned()).hostname("here".to_owned());
        let mut out = Vec::new();
        Handshake::start(Purpose::Publish, &config, None, &mut out);
        let rest = out.strip_prefix(MAGIC_V2).unwrap();
        let Decoded::Command { command: Command::Identify { body }, consumed } =
            decode(rest, &Limits::default())
        else {
            panic!("not an IDENTIFY")
        };
        assert_eq!(consumed, rest.len());
        let request = IdentifyRequest::parse(body).unwrap();
        let expected = IdentifyRequest {
            client_id: Some("me".into()),
            hostname: Some("here".into()),
            user_agent: Some(concat!("nsq-rs/", env!("CARGO_PKG_VERSION")).into()),
            feature_negotiation: Some(true),
            heartbeat_interval: Some(30_000),
            output_buffer_size: Some(16384),
            features: Some(vec!["headers".into()]),
            ..IdentifyRequest::default()
        };
        assert_eq!(request, expected);
    }

    #[test]
    fn consumer_requests_headers_only_if_configured() {
        let (plain, with_headers) = (Config::new(), Config::new().headers(true));
        assert_eq!(identify_request(&subscribe(), &plain).features, Some(vec!["reject".into()]));
        let features = identify_request(&subscribe(), &with_headers).features;
        assert_eq!(features, Some(vec!["headers".into(), "reject".into()]));
        for (reply, granted) in [
            (&br#"{"features":["headers"]}"#[..], true),
            (br#"{"features":["x"]}"#, false),
            (br#"{"features":null}"#, false),
            (b"{}", false),
            (b"OK", false),
        ] {
            let (server, _) = ServerInfo::from_reply(reply, &Upgrades::default()).unwrap();
            assert_eq!(server.headers, granted);
        }
        let (server, _) =
            ServerInfo::from_reply(br#"{"features":["reject"]}"#, &Upgrades::default()).unwrap();
        assert_eq!((server.reject, server.headers), (true, false));
    }

    #[test]
    fn producer_requests_message_ids_only_if_configured() {
        let config = Config::new().pub_ids(true);
        let expected = Some(vec!["headers".to_owned(), "pub_ids".to_owned()]);
        assert_eq!(identify_request(&Purpose::Publish, &config).features, expected);
        assert_eq!(identify_request(&subscribe(), &config).features, Some(vec!["reject".into()]));
    }

    #[test]
    fn consumer_subscribes_after_the_reply_to_identify() {
        let mut out = Vec::new();
        let mut handshake = Handshake::start(subscribe(), &Config::new(), None, &mut out);
        out.clear();
        let heartbeat = response(nsq_protocol::frame::HEARTBEAT);
        assert_eq!(handshake.on_frame(&heartbeat, &mut out).unwrap(), Progress::Waiting);
        assert_eq!(out, b"NOP\n");
        out.clear();
        let reply =
            response(br#"{"max_rdy_count":10,"version":"1.3.0","msg_timeout":1000,"max_msg_timeout":5000}"#);
        assert_eq!(handshake.on_frame(&reply, &mut out).unwrap(), Progress::Waiting);
        assert_eq!(out, b"SUB orders billing#ephemeral\n");
        let Progress::Ready(server) = handshake.on_frame(&response(b"OK"), &mut out).unwrap() else {
            panic!("not ready")
        };
        assert_eq!((server.max_rdy_count, server.msg_timeout), (10, Duration::from_secs(1)));
        assert_eq!((server.max_msg_size, server.sizes_known), (ASSUMED_MAX_MSG_SIZE, false));
    }

    #[test]
    fn replies_to_identify_are_parsed_and_checked() {
        let ready = |data: &[u8]| {
            let mut handshake = Handshake::start(Purpose::Publish, &Config::new(), None, &mut Vec::new());
            handshake.on_frame(&response(data), &mut Vec::new())
        };
        assert_eq!(ready(b"OK").unwrap(), Progress::Ready(ServerInfo::assumed()));
        let Progress::Ready(ours) = ready(br#"{"max_msg_size":5,"max_body_size":9,"x":null}"#).unwrap()
        else {
            panic!("not ready")
        };
        assert_eq!((ours.max_msg_size, ours.max_body_size, ours.sizes_known), (5, 9, true));
        assert!(matches!(ready(br#"{"auth_required":true}"#), Err(Disconnect::AuthRequired)));
        assert!(matches!(ready(br#"{"snappy":true}"#), Err(Disconnect::Protocol(_))));
        assert!(matches!(ready(b"{"), Err(Disconnect::Protocol(_))));
    }

    #[test]
    fn upgrades_follow_one_by_one_with_tls_first() {
        let config = Config::new().tls_v1(true).deflate(true).deflate_level(3u8);
        let mut out = Vec::new();
        let mut handshake = Handshake::start(subscribe(), &config, None, &mut out);
        out.clear();
        let reply = response(br#"{"tls_v1":true,"deflate":true}"#);
        assert_eq!(handshake.on_frame(&reply, &mut out).unwrap(), Progress::Upgrade(Upgrade::Tls));
        assert_eq!(handshake.stage(), ConnectStage::Tls);
        let deflate = Progress::Upgrade(Upgrade::Deflate { level: 3 });
        assert_eq!(handshake.on_frame(&response(b"OK"), &mut out).unwrap(), deflate);
        assert_eq!((handshake.stage(), out.len()), (ConnectStage::Compress, 0));
        assert_eq!(handshake.on_frame(&response(b"OK"), &mut out).unwrap(), Progress::Waiting);
        assert_eq!(out, b"SUB orders billing#ephemeral\n");
        let Progress::Ready(server) = handshake.on_frame(&response(b"OK"), &mut out).unwrap() else {
            panic!("not ready")
        };
        assert_eq!((server.tls, server.snappy, server.deflate), (true, false, true));
    }

    #[test]
    fn declined_tls_is_an_error_and_declined_compression_is_not() {
        let ready = |config: Config, data: &[u8]| {
            let mut handshake = Handshake::start(Purpose::Publish, &config, None, &mut Vec::new());
            handshake.on_frame(&response(data), &mut Vec::new())
        };
        for reply in [&b"OK"[..], b"{}", br#"{"tls_v1":false}"#] {
            let tls = ready(Config::new().tls_v1(true), reply);
            assert!(matches!(tls, Err(Disconnect::Declined("TLS"))), "{tls:?}");
            let snappy = ready(Config::new().snappy(true), reply);
            assert!(matches!(snappy, Ok(Progress::Ready(server)) if !server.snappy));
        }
    }

    #[test]
    fn secret_is_sent_only_to_servers_that_require_it() {
        let mut out = Vec::new();
        let secret = Some(Secret::from("s"));
        let mut handshake = Handshake::start(subscribe(), &Config::new(), secret.clone(), &mut out);
        out.clear();
        let reply = response(br#"{"auth_required":true}"#);
        assert_eq!(handshake.on_frame(&reply, &mut out).unwrap(), Progress::Waiting);
        assert_eq!(
            (out.as_slice(), handshake.stage()),
            (&b"AUTH\n\0\0\0\x01s"[..], ConnectStage::Authenticate)
        );
        out.clear();
        let reply = response(br#"{"identity":"me","identity_url":"","permission_count":2}"#);
        assert_eq!(handshake.on_frame(&reply, &mut out).unwrap(), Progress::Waiting);
        assert_eq!(out, b"SUB orders billing#ephemeral\n");
        let Progress::Ready(server) = handshake.on_frame(&response(b"OK"), &mut out).unwrap() else {
            panic!("not ready")
        };
        assert_eq!(server.auth.map(|auth| (auth.identity, auth.permission_count)), Some(("me".into(), 2)));

        let mut handshake = Handshake::start(Purpose::Publish, &Config::new(), secret, &mut Vec::new());
        out.clear();
        assert!(matches!(handshake.on_frame(&response(b"{}"), &mut out), Ok(Progress::Ready(_))));
        assert!(out.is_empty(), "the server does not require the secret");
    }

    #[test]
    fn errors_carry_code_and_description() {
        let mut handshake = Handshake::start(subscribe(), &Config::new(), None, &mut Vec::new());
        let error = frame(FrameType::Error, b"E_BAD_BODY IDENTIFY heartbeat interval (5) is invalid");
        match handshake.on_frame(&error, &mut Vec::new()) {
            Err(Disconnect::Refused { code, description }) => {
                assert_eq!(code, "E_BAD_BODY");
                assert_eq!(description, "IDENTIFY heartbeat interval (5) is invalid");
            }
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        /// The handshake never panics, whatever the server sends.
        #[test]
        fn arbitrary_frames_cause_no_panic(frames in prop::collection::vec(
            (0u8..3, prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                Just(b"OK".to_vec()),
                Just(b"{}".to_vec()),
                Just(b"_heartbeat_".to_vec()),
            ]), 0..6))
        {
            let mut out = Vec::new();
            let mut handshake = Handshake::start(subscribe(), &Config::new(), None, &mut out);
            for (kind, data) in frames {
                let kind = [FrameType::Response, FrameType::Error, FrameType::Message][usize::from(kind)];
                let _ = handshake.stage();
                if handshake.on_frame(&frame(kind, &data), &mut out).is_err() {
                    break;
                }
            }
        }
    }
}
