//! Both directions of a node's connection to nsqlookupd.

use nsq_fuzz::edit::{Input, split};
use nsq_fuzz::{BYTE_RUNS, fuzz};
use nsq_protocol::heartbeat::StatsReport;
use nsq_protocol::{
    ChannelName, LookupCommand, LookupDecoded, LookupLimits, LookupdInfo, PeerInfo, TopicName, decode_lookup,
    decode_lookup_response, json, lookup_truncated, put_lookup_response,
};

fn limits() -> LookupLimits {
    LookupLimits { max_line_bytes: 100, max_body_size: 400, max_report_bytes: 300 }
}

fn peer() -> PeerInfo {
    PeerInfo {
        broadcast_address: "node <1>".to_owned(),
        heartbeat_stats: 1,
        hostname: "h".to_owned(),
        http_port: 4151,
        tcp_port: 4150,
        topology_region: "r".to_owned(),
        topology_zone: "z".to_owned(),
        version: "1.3.0".to_owned(),
    }
}

fn samples() -> Vec<Vec<u8>> {
    let topic = || TopicName::new("orders").expect("valid");
    let channel = Some(ChannelName::new("billing").expect("valid"));
    let commands = [
        LookupCommand::Identify(peer()),
        LookupCommand::Register { topic: topic(), channel: None },
        LookupCommand::Register { topic: topic(), channel: channel.clone() },
        LookupCommand::Unregister { topic: topic(), channel },
        LookupCommand::Ping,
        LookupCommand::Stats(StatsReport::default().encode()),
    ];
    let mut samples: Vec<Vec<u8>> = commands.iter().map(encoded).collect();
    samples.push(b" REGISTER a  \r\nPING extra\n".to_vec());
    samples
}

fn encoded(command: &LookupCommand) -> Vec<u8> {
    let mut out = Vec::new();
    command.encode(&mut out);
    out
}

/// A node's input: decodes as far as bytes have arrived.
#[derive(Debug, Default, PartialEq)]
struct Connection {
    seen: Vec<LookupDecoded>,
    at: usize,
    identified: bool,
}

impl Connection {
    fn receive(&mut self, received: &[u8]) {
        // nsqlookupd closes the connection after an invalid command.
        while !matches!(self.seen.last(), Some(LookupDecoded::Invalid { .. })) {
            let buf = &received[self.at..];
            let decoded = decode_lookup(buf, self.identified, &limits());
            let (LookupDecoded::Command { consumed, .. } | LookupDecoded::Invalid { consumed, .. }) = decoded
            else {
                let most = limits().max_line_bytes + 4 + limits().max_body_size;
                assert!(buf.len() < most, "{} bytes are no complete command", buf.len());
                return;
            };
            assert!(consumed > 0 && consumed <= buf.len(), "consumed {consumed} of {}", buf.len());
            if let LookupDecoded::Command { command, .. } = &decoded {
                check_command(command, self.identified);
                self.identified |= matches!(command, LookupCommand::Identify(_));
            }
            self.at += consumed;
            self.seen.push(decoded);
        }
    }
}

/// The command's wire form decodes to the same command.
fn check_command(command: &LookupCommand, identified: bool) {
    let wire = encoded(command);
    // JSON may be longer than it was, because some characters are escaped.
    let roomy = LookupLimits { max_line_bytes: 1 << 10, max_body_size: 1 << 16, max_report_bytes: 1 << 16 };
    let again = decode_lookup(&wire, identified, &roomy);
    assert_eq!(again, LookupDecoded::Command { command: command.clone(), consumed: wire.len() });
}

fn check_input(bytes: &[u8], at: u16, identified: bool) {
    let mut whole = Connection { identified, ..Connection::default() };
    whole.receive(bytes);
    let mut in_pieces = Connection { identified, ..Connection::default() };
    in_pieces.receive(split(bytes, at).0);
    in_pieces.receive(bytes);
    assert_eq!(in_pieces, whole);
    let rest = &bytes[whole.at..];
    if lookup_truncated(rest, whole.identified, &limits()).is_some() {
        assert_eq!(decode_lookup(rest, whole.identified, &limits()), LookupDecoded::Incomplete);
    }
}

/// nsqlookupd takes no more bytes than there are, stays within its limits, and does not depend on how they arrive.
#[test]
fn nsqlookupd_commands() {
    let samples = samples();
    for sample in &samples {
        for identified in [false, true] {
            (0..=sample.len()).for_each(|at| check_input(sample, at as u16, identified));
        }
    }
    fuzz!((Input, u16, bool), BYTE_RUNS, |(input, at, identified)| {
        check_input(&input.bytes(&samples), *at, *identified);
    },);
}

/// nsqd reads the same responses however they arrive, and only within its limit.
#[test]
fn nsqlookupd_responses() {
    let info =
        LookupdInfo { broadcast_address: "lookupd".to_owned(), http_port: 4161, ..LookupdInfo::default() };
    let mut samples = vec![Vec::new(), Vec::new(), Vec::new()];
    put_lookup_response(&mut samples[0], b"OK");
    put_lookup_response(&mut samples[1], &json::to_json(&info).expect("JSON"));
    put_lookup_response(&mut samples[2], b"REFRESH 7");
    fuzz!((Input, u16), BYTE_RUNS, |(input, at)| {
        const MAX: usize = 100;
        let bytes = input.bytes(&samples);
        let whole = decode_lookup_response(&bytes, MAX);
        let part = split(&bytes, *at).0;
        match whole {
            Ok(Some((data, consumed))) => {
                assert!(data.len() <= MAX && consumed <= bytes.len());
                let mut again = Vec::new();
                put_lookup_response(&mut again, data);
                assert_eq!(again, bytes[..consumed]);
                let expected = (part.len() >= consumed).then_some((data, consumed));
                assert_eq!(decode_lookup_response(part, MAX), Ok(expected));
                if let Ok(info) = LookupdInfo::parse(data) {
                    let text = json::to_json(&info).expect("JSON");
                    assert_eq!(LookupdInfo::parse(&text), Ok(info));
                }
            }
            Ok(None) => {
                assert!(bytes.len() < 4 + MAX);
                assert_eq!(decode_lookup_response(part, MAX), Ok(None));
            }
            Err(error) => {
                let expected = if part.len() >= 4 { Err(error) } else { Ok(None) };
                assert_eq!(decode_lookup_response(part, MAX), expected);
            }
        }
    });
}
