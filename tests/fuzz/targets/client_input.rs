//! What a client reads from nsqd, and the JSON and MessagePack that daemons read from their peers.

use std::fmt::Debug;

use bytes::BytesMut;
use nsq_fuzz::edit::{Input, split};
use nsq_fuzz::frames;
use nsq_fuzz::{BYTE_RUNS, fuzz};
use nsq_protocol::heartbeat::{ChannelSummary, Departures, NodeSummary, StatsReport, TopicSummary};
use nsq_protocol::{
    ChannelName, Frame, FrameDecoder, FrameError, FrameType, IdentifyLimits, IdentifyReply, IdentifyRequest,
    Message, MessageView, TopicName, json, negotiate, put_frame, put_message_frame,
};

const MAX_FRAME_BYTES: usize = 200;

fn frame(kind: FrameType, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, kind, data);
    out
}

/// Decodes what `received` holds. Every frame's wire form is the bytes it was read from.
fn read_frames(buf: &mut BytesMut, read: &mut Vec<Frame>) -> Result<(), FrameError> {
    let mut decoder = FrameDecoder::new(MAX_FRAME_BYTES);
    loop {
        let before = buf.clone();
        let Some(decoded) = decoder.decode(buf).inspect_err(|_| assert_eq!(*buf, before))? else {
            assert_eq!(*buf, before);
            assert!(buf.len() < 4 + MAX_FRAME_BYTES, "{} bytes are no complete frame", buf.len());
            return Ok(());
        };
        let wire = frame(decoded.kind, &decoded.data);
        assert_eq!(wire, before[..before.len() - buf.len()]);
        if let (FrameType::Message, Some(message)) = (decoded.kind, MessageView::parse(&decoded.data)) {
            let mut again = Vec::new();
            put_message_frame(&mut again, message.timestamp_ns, message.attempts, message.id, message.body);
            assert_eq!(again, wire);
            let owned = Message::parse(decoded.data.clone()).expect("both parse the same data");
            assert_eq!((owned.id, &owned.body[..]), (message.id, message.body));
        }
        read.push(decoded);
    }
}

/// A client reads the same frames however the bytes arrive, and waits only for frames within its limit.
#[test]
fn client_frames() {
    let samples = [
        frame(FrameType::Response, b"OK"),
        frame(FrameType::Response, b"_heartbeat_"),
        frame(FrameType::Error, b"E_FIN_FAILED FIN 0123456789abcdef failed"),
        frames::run(7, 2),
    ];
    fuzz!((Input, u16), BYTE_RUNS, |(input, at)| {
        let bytes = input.bytes(&samples);
        let (mut buf, mut whole) = (BytesMut::from(&bytes[..]), Vec::new());
        let end = read_frames(&mut buf, &mut whole);
        let (first, second) = split(&bytes, *at);
        let (mut in_pieces, mut seen) = (BytesMut::from(first), Vec::new());
        let end_in_pieces = read_frames(&mut in_pieces, &mut seen).and_then(|()| {
            in_pieces.extend_from_slice(second);
            read_frames(&mut in_pieces, &mut seen)
        });
        assert_eq!((seen, end_in_pieces), (whole, end));
    });
}

/// Writing and reading gives the same value.
fn assert_stable<T: serde::Serialize + PartialEq + Debug, E: Debug>(
    value: &T,
    parse: impl Fn(&[u8]) -> Result<T, E>,
) {
    let text = json::to_json(value).expect("JSON");
    assert_eq!(parse(&text).expect("our own JSON is readable"), *value);
}

/// Whatever a client sends as IDENTIFY is refused, or read and answered with values that a client can read.
#[test]
fn identify_json() {
    let samples = [
        br#"{"client_id":"c","hostname":"h","user_agent":"u/1","heartbeat_interval":30000,"sample_rate":10}"#
            .to_vec(),
        br#"{"feature_negotiation":true,"tls_v1":true,"snappy":true,"deflate_level":6,"msg_timeout":60000}"#
            .to_vec(),
        br#" { "Output_Buffer_Size" : 16384 , "output_buffer_timeout":-1 , "x":[1,{"y":null}] } "#.to_vec(),
        br#"{"topology_region":"\ud83d\ude00\u003c","topology_zone":null,"channel_start":"oldest"}"#.to_vec(),
        br#"{"max_rdy_count":2500,"version":"1.3.0","auth_required":false,"max_msg_size":1048576}"#.to_vec(),
        [b"{\"x\":".to_vec(), vec![b'['; 9_990], vec![b']'; 9_990], b"}".to_vec()].concat(),
    ];
    let limits = IdentifyLimits { tls: true, ..IdentifyLimits::default() };
    let check_json = |text: &[u8]| {
        if let Ok(request) = IdentifyRequest::parse(text) {
            assert_stable(&request, IdentifyRequest::parse);
            if let Ok(negotiated) = negotiate(&request, &limits) {
                assert!(negotiated.msg_timeout <= limits.max_msg_timeout);
                assert!(negotiated.output_buffer_size <= limits.max_output_buffer_size);
                assert!(
                    negotiated.heartbeat_interval.is_none_or(|every| every <= limits.max_heartbeat_interval)
                );
                assert!(negotiated.client_id.len() <= nsq_protocol::identify::MAX_NAME_BYTES);
                let reply = negotiated.reply(&IdentifyReply::default());
                assert_stable(&reply, |text| serde_json::from_slice(text));
            }
        }
        if let Ok(reply) = serde_json::from_slice::<IdentifyReply>(text) {
            assert_stable(&reply, |text| serde_json::from_slice(text));
        }
    };
    samples.iter().for_each(|sample| check_json(sample));
    fuzz!(Input, BYTE_RUNS, |input| check_json(&input.bytes(&samples)));
}

fn report() -> StatsReport {
    let channel = ChannelSummary {
        channel_name: ChannelName::new("billing").expect("valid"),
        depth: 5,
        backend_depth: -1,
        in_flight_count: 300,
        deferred_count: 0,
        message_count: u64::MAX,
        zone_local_msg_count: 1 << 40,
        region_local_msg_count: 70_000,
        global_msg_count: 200,
        requeue_count: 1,
        timeout_count: 2,
        client_count: 3,
        paused: true,
        departures: Departures {
            dead_lettered_count: 4,
            expired_count: 1 << 50,
            is_full: true,
            ..Departures::default()
        },
    };
    let topic = TopicSummary {
        topic_name: TopicName::new("orders").expect("valid"),
        depth: 1,
        backend_depth: 2,
        message_count: 3,
        message_bytes: 4,
        paused: false,
        channels: vec![channel],
    };
    StatsReport {
        is_first: true,
        is_last: true,
        refresh: 9,
        node: NodeSummary { version: "1.3.0".to_owned(), health: "OK".to_owned(), ..NodeSummary::default() },
        topics: vec![topic],
        removed: vec![TopicName::new("old").expect("valid")],
        ..StatsReport::default()
    }
}

/// nsqlookupd reads a report of statistics completely or not at all, and its own form of it is read as the same.
#[test]
fn heartbeat_reports() {
    let samples = [report().encode(), StatsReport::default().encode()];
    let check_report = |bytes: &[u8]| {
        let Ok(report) = StatsReport::decode(bytes) else { return };
        assert_eq!(StatsReport::decode(&report.encode()), Ok(report.clone()));
        for topic in &report.topics {
            assert_eq!(TopicSummary::decode(&topic.encode()).as_ref(), Some(topic));
            assert!(topic.encode().len() <= topic.max_encoded_bytes());
            assert_eq!(topic.stats().channels.len() + 1, topic.entries());
        }
    };
    samples.iter().for_each(|sample| check_report(sample));
    fuzz!(Input, BYTE_RUNS, |input| check_report(&input.bytes(&samples)));
}
