//! Bytes as they were seen on the wire between NSQ and its clients, and whole conversations: what one
//! side encodes the other understands, however the bytes are cut.

use nsq_protocol::headers::{HeadersBuf, put_published};
use nsq_protocol::*;
use proptest::prelude::*;

/// Hexadecimal digits and quoted text, as in a table of samples.
fn bytes(sample: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, part) in sample.split('"').enumerate() {
        if i % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        out.extend(digits.chunks(2).map(byte));
    }
    out
}

#[test]
fn frames_from_nsqd() {
    let frame = |kind, data: &[u8]| {
        let mut out = Vec::new();
        put_frame(&mut out, kind, data);
        out
    };
    assert_eq!(frame(FrameType::Response, b"OK"), bytes("00000006 00000000 4f4b"));
    assert_eq!(frame(FrameType::Response, b"_heartbeat_"), bytes(r#"0000000f 00000000 "_heartbeat_""#));
    assert_eq!(frame(FrameType::Response, b"CLOSE_WAIT"), bytes(r#"0000000e 00000000 "CLOSE_WAIT""#));
    assert_eq!(frame(FrameType::Error, b"E_BAD_PROTOCOL"), bytes(r#"00000012 00000001 "E_BAD_PROTOCOL""#));

    let mut out = Vec::new();
    let Decoded::Invalid { error, .. } = decode(b"BAD\n", &Limits::default()) else {
        panic!("BAD is no command");
    };
    error.put_frame(&mut out);
    assert_eq!(out, bytes(r#"00000021 00000001 "E_INVALID invalid command BAD""#));
}

#[test]
fn a_message_from_nsqd() {
    let sample = bytes(r#"0000001f 00000002 18e9be1d45e13ce3 0001 "18a1d53483a69000" 78"#);
    let frame = FrameDecoder::new(1000).decode(&mut sample[..].into()).unwrap().unwrap();
    assert_eq!(frame.kind, FrameType::Message);
    let message = Message::parse(frame.data).unwrap();
    assert_eq!((message.attempts, &message.body[..]), (1, &b"x"[..]));
    let mut again = Vec::new();
    put_message_frame(&mut again, message.timestamp_ns, message.attempts, message.id, &message.body);
    assert_eq!(again, sample);
}

#[test]
fn publishes_from_clients() {
    let limits = Limits::default();
    let sample = bytes(r#""PUB t" 0a 00000001 78"#);
    let expected = Command::Pub { topic: "t", body: b"x" };
    assert_eq!(decode(&sample, &limits), Decoded::Command { command: expected, consumed: sample.len() });

    let sample = bytes(r#""MPUB t" 0a 0000000f 00000002 00000001 78 00000002 7979"#);
    let Decoded::Command { command, .. } = decode(&sample, &limits) else {
        panic!("not a command");
    };
    let mut again = Vec::new();
    command.encode(&mut again);
    assert_eq!(again, sample);
}

/// A command that owns its parts, so that it can be generated.
#[derive(Clone, Debug)]
enum Sent {
    Identify(Vec<u8>),
    Auth(Vec<u8>),
    Sub(String, String),
    Pub(String, Vec<u8>),
    Dpub(String, u64, Vec<u8>),
    Mpub(String, Vec<Vec<u8>>),
    PubExt(String, Vec<u8>),
    DpubExt(String, u64, Vec<u8>),
    MpubExt(String, Vec<Vec<u8>>),
    Rdy(u64),
    Fin([u8; 16]),
    Req([u8; 16], u64),
    Touch([u8; 16]),
    Cls,
    Nop,
}

impl Sent {
    /// Encodes it as a client does and, where there are two ways, checks that both agree.
    fn encode(&self, out: &mut Vec<u8>) {
        let mut batch = Vec::new();
        let command = match self {
            Self::Identify(body) => Command::Identify { body },
            Self::Auth(secret) => Command::Auth { secret },
            Self::Sub(topic, channel) => Command::Sub {
                topic: TopicName::new(topic).unwrap(),
                channel: ChannelName::new(channel).unwrap(),
            },
            Self::Pub(topic, body) => Command::Pub { topic, body },
            Self::Dpub(topic, delay_ms, body) => Command::Dpub { topic, delay_ms: *delay_ms, body },
            Self::Mpub(topic, bodies) => {
                MessageBatch::encode_bodies(bodies, &mut batch);
                let (messages, _) = MessageBatch::parse_binary(&batch, &Limits::default()).unwrap();
                let command = Command::Mpub { topic, messages };
                let (mut one, mut other) = (Vec::new(), Vec::new());
                command.encode(&mut one);
                put_mpub(&mut other, topic, bodies);
                assert_eq!(one, other);
                command
            }
            Self::PubExt(topic, message) => Command::PubExt { topic, message },
            Self::DpubExt(topic, delay_ms, message) => {
                Command::DpubExt { topic, delay_ms: *delay_ms, message }
            }
            Self::MpubExt(topic, messages) => {
                MessageBatch::encode_bodies(messages, &mut batch);
                let (messages, _) = MessageBatch::parse_binary(&batch, &Limits::default()).unwrap();
                Command::MpubExt { topic, messages }
            }
            Self::Rdy(count) => Command::Rdy { count: *count },
            Self::Fin(id) => Command::Fin { id: MessageId(*id) },
            Self::Req(id, delay_ms) => Command::Req { id: MessageId(*id), delay_ms: *delay_ms },
            Self::Touch(id) => Command::Touch { id: MessageId(*id) },
            Self::Cls => Command::Cls,
            Self::Nop => Command::Nop,
        };
        command.encode(out);
    }
}

fn sent() -> impl Strategy<Value = Sent> {
    let name = || "[a-zA-Z0-9._-]{1,54}(#ephemeral)?";
    let body = || prop::collection::vec(any::<u8>(), 1..80);
    let with_headers = || {
        (prop::collection::btree_map("[a-z]{1,8}", ".{0,10}", 0..3), body()).prop_map(|(headers, body)| {
            let pairs = headers.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let headers = HeadersBuf::from_pairs(pairs).unwrap();
            let mut message = Vec::new();
            put_published(&mut message, headers.as_headers(), &body);
            message
        })
    };
    // No blank and no line end, as in every id that nsqd gives out.
    let id = || prop::array::uniform16(0x21u8..=0xff);
    prop_oneof![
        body().prop_map(Sent::Identify),
        body().prop_map(Sent::Auth),
        (name(), name()).prop_map(|(topic, channel)| Sent::Sub(topic, channel)),
        (name(), body()).prop_map(|(topic, body)| Sent::Pub(topic, body)),
        (name(), 0..=3_600_000u64, body()).prop_map(|(topic, delay, body)| Sent::Dpub(topic, delay, body)),
        (name(), prop::collection::vec(body(), 1..8)).prop_map(|(topic, bodies)| Sent::Mpub(topic, bodies)),
        (name(), with_headers()).prop_map(|(topic, message)| Sent::PubExt(topic, message)),
        (name(), 0..=3_600_000u64, with_headers())
            .prop_map(|(topic, delay, message)| Sent::DpubExt(topic, delay, message)),
        (name(), prop::collection::vec(with_headers(), 1..4))
            .prop_map(|(topic, messages)| Sent::MpubExt(topic, messages)),
        (0..=2500u64).prop_map(Sent::Rdy),
        id().prop_map(Sent::Fin),
        (id(), any::<u64>()).prop_map(|(id, delay)| Sent::Req(id, delay)),
        id().prop_map(Sent::Touch),
        Just(Sent::Cls),
        Just(Sent::Nop),
    ]
}

proptest! {
    /// A client sends commands, the bytes arrive in pieces, and nsqd looks again only when what it
    /// asked for is there. Each command arrives, encodes to the same bytes, and none is held up.
    #[test]
    fn commands_survive_any_split(
        commands in prop::collection::vec(sent(), 1..8),
        steps in prop::collection::vec(1usize..60, 1..10),
    ) {
        let mut wire = Vec::new();
        let mut ends = Vec::new();
        for command in &commands {
            command.encode(&mut wire);
            ends.push(wire.len());
        }
        let limits = Limits::default();
        let (mut arrived, mut at, mut needed) = (0, 0, 0);
        let mut again = Vec::new();
        let mut seen = Vec::new();
        for step in steps.iter().cycle() {
            arrived = (arrived + step).min(wire.len());
            while arrived - at >= needed {
                match decode(&wire[at..arrived], &limits) {
                    Decoded::Command { command, consumed } => {
                        command.encode(&mut again);
                        at += consumed;
                        seen.push(at);
                        needed = 0;
                    }
                    Decoded::Incomplete { needed: more, .. } => {
                        prop_assert!(more > arrived - at);
                        needed = more;
                    }
                    wrong => prop_assert!(false, "{wrong:?}"),
                }
            }
            let whole: Vec<_> = ends.iter().copied().filter(|&end| end <= arrived).collect();
            prop_assert_eq!(&seen, &whole);
            if arrived == wire.len() {
                break;
            }
        }
        prop_assert_eq!(again, wire);
    }
}
