use super::*;
use proptest::prelude::*;

fn decode(buf: &[u8], identified: bool) -> LookupDecoded {
    decode_lookup(buf, identified, &LookupLimits::default())
}

fn command(buf: &[u8]) -> LookupCommand {
    match decode(buf, !buf.starts_with(b"IDENTIFY")) {
        LookupDecoded::Command { command, consumed } => {
            assert_eq!(consumed, buf.len());
            command
        }
        other => panic!("{} gave {other:?}", buf.escape_ascii()),
    }
}

#[track_caller]
fn check_error(buf: &[u8], identified: bool, expected: &str) {
    match decode(buf, identified) {
        LookupDecoded::Invalid { error, .. } => assert_eq!(error.to_string(), expected),
        other => panic!("{} gave {other:?}", buf.escape_ascii()),
    }
}

fn identify(json: &str) -> Vec<u8> {
    let mut buf = b"IDENTIFY\n".to_vec();
    put_lookup_response(&mut buf, json.as_bytes());
    buf
}

fn info() -> PeerInfo {
    PeerInfo {
        broadcast_address: "bcast".into(),
        heartbeat_stats: 0,
        hostname: "vm".into(),
        http_port: 4151,
        tcp_port: 4150,
        topology_region: "r1".into(),
        topology_zone: "z1".into(),
        version: "1.3.0".into(),
    }
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn channel(name: &str) -> Option<ChannelName> {
    Some(ChannelName::new(name).unwrap())
}

#[test]
fn identify_as_nsqd_writes_it() {
    let mut buf = Vec::new();
    LookupCommand::Identify(info()).encode(&mut buf);
    let json = concat!(
        r#"{"broadcast_address":"bcast","hostname":"vm","http_port":4151,"tcp_port":4150,"#,
        r#""topology_region":"r1","topology_zone":"z1","version":"1.3.0"}"#
    );
    assert_eq!(buf, identify(json));
    assert_eq!(command(&buf), LookupCommand::Identify(info()));
}

#[test]
fn heartbeat_statistics_are_negotiated_by_an_additional_field() {
    let mut buf = Vec::new();
    LookupCommand::Identify(PeerInfo { heartbeat_stats: 1, ..info() }).encode(&mut buf);
    assert!(buf.windows(19).any(|part| part == br#""heartbeat_stats":1"#));
    let LookupCommand::Identify(read) = command(&buf) else { panic!("not IDENTIFY") };
    assert_eq!(read.heartbeat_stats, 1);
    let of = |json: &str| LookupdInfo::parse(json.as_bytes()).unwrap().heartbeat_stats;
    assert_eq!((of("{}"), of(r#"{"heartbeat_stats":1}"#), of(r#"{"heartbeat_stats":null}"#)), (0, 1, 0));
}

#[test]
fn registrations_are_decoded() {
    let (t, c) = (topic("t"), channel("c"));
    assert_eq!(command(b"REGISTER t c\n"), LookupCommand::Register { topic: t.clone(), channel: c.clone() });
    assert_eq!(
        command(b"REGISTER t c x\n"),
        LookupCommand::Register { topic: t.clone(), channel: c.clone() }
    );
    for line in ["REGISTER t", "REGISTER t ", "REGISTER t\r", " \tREGISTER t", "REGISTER t  c"] {
        let expected = LookupCommand::Register { topic: t.clone(), channel: None };
        assert_eq!(command(format!("{line}\n").as_bytes()), expected, "{line}");
    }
    assert_eq!(command(b"UNREGISTER t c\n"), LookupCommand::Unregister { topic: t, channel: c });
}

#[test]
fn ping_needs_no_identify() {
    assert_eq!(
        decode(b"PING\n", false),
        LookupDecoded::Command { command: LookupCommand::Ping, consumed: 5 }
    );
    assert_eq!(command(b"PING x\r\n"), LookupCommand::Ping);
}

#[test]
fn invalid_lines_are_rejected() {
    check_error(b"\n", true, "E_INVALID invalid command ");
    check_error(b"ping\n", true, "E_INVALID invalid command ping");
    check_error(b"BAD x\n", true, "E_INVALID invalid command BAD");
    check_error(b"REGISTER\n", false, "E_INVALID client must IDENTIFY");
    check_error(b"UNREGISTER t\n", false, "E_INVALID client must IDENTIFY");
    check_error(b"IDENTIFY\n", true, "E_INVALID cannot IDENTIFY again");
    check_error(b"REGISTER \n", true, "E_INVALID REGISTER insufficient number of params");
    check_error(b"UNREGISTER\n", true, "E_INVALID UNREGISTER insufficient number of params");
    check_error(b"REGISTER a:b\n", true, "E_BAD_TOPIC REGISTER topic name 'a:b' is not valid");
    check_error(b"REGISTER  t\n", true, "E_BAD_TOPIC REGISTER topic name '' is not valid");
    check_error(b"UNREGISTER t a:b\n", true, "E_BAD_CHANNEL UNREGISTER channel name 'a:b' is not valid");
}

#[test]
fn invalid_bodies_are_rejected() {
    let not_json = "E_BAD_BODY IDENTIFY failed to decode JSON body";
    let missing = "E_BAD_BODY IDENTIFY missing fields";
    for (json, expected) in [
        ("", not_json),
        ("x", not_json),
        (r#"{"tcp_port":"4150"}"#, not_json),
        (r#"{"tcp_port":70000}"#, not_json),
        ("{}", missing),
        ("null", missing),
        (r#"{"broadcast_address":"b","tcp_port":1,"http_port":0,"version":"1"}"#, missing),
        (r#"{"broadcast_address":"","tcp_port":1,"http_port":1,"version":"1"}"#, missing),
        (r#"{"broadcast_address":"b","tcp_port":1,"http_port":1}"#, missing),
    ] {
        check_error(&identify(json), false, expected);
    }
    let minimal = r#"{"Broadcast_Address":"b","tcp_port":1,"http_port":1,"version":"1","remote_address":5}"#;
    assert!(matches!(command(&identify(minimal)), LookupCommand::Identify(_)));
}

#[test]
fn sizes_are_checked_before_bodies_arrive() {
    check_error(b"IDENTIFY\n\xff\xff\xff\xff", false, "E_BAD_BODY IDENTIFY invalid body size -1");
    check_error(b"STATS\n\xff\xff\xff\xff", true, "E_BAD_BODY STATS invalid body size -1");
    check_error(b"STATS\n\0\x10\0\x01", true, "E_BAD_BODY STATS body too big 1048577 > 1048576");
    check_error(b"STATS\n\0\0\0\0", false, "E_INVALID client must IDENTIFY");
    check_error(b"IDENTIFY\n\0\x01\0\x01", false, "E_BAD_BODY IDENTIFY body too big 65537 > 65536");
    assert_eq!(decode(b"IDENTIFY\n\0\x01\0\0", false), LookupDecoded::Incomplete);
    let mut line = vec![b'x'; 16 << 10];
    check_error(&line, true, "E_INVALID command line longer than 16384 bytes");
    line.pop();
    assert_eq!(decode(&line, true), LookupDecoded::Incomplete);
}

#[test]
fn incomplete_bodies_get_an_error() {
    let error =
        |buf: &[u8]| lookup_truncated(buf, false, &LookupLimits::default()).map(|error| error.to_string());
    assert_eq!(error(b"IDENTIFY\n\0").as_deref(), Some("E_BAD_BODY IDENTIFY failed to read body size"));
    assert_eq!(error(b"IDENTIFY\n\0\0\0\x02{").as_deref(), Some("E_BAD_BODY IDENTIFY failed to read body"));
    let error =
        |buf: &[u8]| lookup_truncated(buf, true, &LookupLimits::default()).map(|error| error.to_string());
    assert_eq!(error(b"STATS\n\0\0\0\x02x").as_deref(), Some("E_BAD_BODY STATS failed to read body"));
    assert_eq!(error(b"PIN"), None);
    assert_eq!(error(b"PING\n"), None);
}

#[test]
fn responses_are_encoded_and_decoded() {
    let mut buf = Vec::new();
    put_lookup_response(&mut buf, b"OK");
    assert_eq!(buf, b"\0\0\0\x02OK");
    buf.push(b'x');
    assert_eq!(decode_lookup_response(&buf, 2), Ok(Some((&b"OK"[..], 6))));
    assert_eq!(decode_lookup_response(&buf[..5], 2), Ok(None));
    assert_eq!(decode_lookup_response(&buf[..3], 2), Ok(None));
    assert_eq!(decode_lookup_response(&buf, 1), Err(LookupError::ResponseSize { size: 2, max: 1 }));
    let negative = decode_lookup_response(b"\xff\xff\xff\xff", 10);
    assert_eq!(negative, Err(LookupError::ResponseSize { size: -1, max: 10 }));
}

#[test]
fn response_to_identify_is_parsed() {
    let json = r#"{"broadcast_address":"127.0.0.1","hostname":"vm","http_port":4161,"tcp_port":4160,"version":"1.3.0"}"#;
    let lookupd = LookupdInfo::parse(json.as_bytes()).unwrap();
    assert_eq!(lookupd.http_port, 4161);
    assert_eq!(to_json(&lookupd).unwrap(), json.as_bytes());
    assert_eq!(LookupdInfo::parse(b"E_INVALID"), Err(LookupError::NotJson));
    assert_eq!(LookupdInfo::parse(b"{}").unwrap().broadcast_address, "");
}

fn commands() -> impl Strategy<Value = LookupCommand> {
    let names = ("[a-zA-Z0-9._-]{1,54}(#ephemeral)?", prop::option::of("[a-z]{1,64}"));
    let names = names.prop_map(|(topic, channel)| {
        (TopicName::new(topic).unwrap(), channel.map(|name| ChannelName::new(name).unwrap()))
    });
    let info = (".+", any::<String>(), 1u16.., 1u16.., any::<String>()).prop_map(
        |(broadcast_address, hostname, http_port, tcp_port, topology_zone)| PeerInfo {
            broadcast_address,
            hostname,
            http_port,
            tcp_port,
            topology_zone,
            ..info()
        },
    );
    prop_oneof![
        info.prop_map(LookupCommand::Identify),
        names.clone().prop_map(|(topic, channel)| LookupCommand::Register { topic, channel }),
        names.prop_map(|(topic, channel)| LookupCommand::Unregister { topic, channel }),
        Just(LookupCommand::Ping),
        prop::collection::vec(any::<u8>(), 0..100).prop_map(LookupCommand::Stats),
    ]
}

proptest! {
    #[test]
    fn commands_survive_any_split(command in commands()) {
        let identified = !matches!(command, LookupCommand::Identify(_));
        let mut buf = Vec::new();
        command.encode(&mut buf);
        for len in 0..buf.len() {
            prop_assert_eq!(decode(&buf[..len], identified), LookupDecoded::Incomplete);
        }
        let consumed = buf.len();
        buf.extend_from_slice(b"rest");
        prop_assert_eq!(decode(&buf, identified), LookupDecoded::Command { command, consumed });
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), identified: bool) {
        let limits = LookupLimits::default();
        let _ = decode_lookup(&bytes, identified, &limits);
        let _ = lookup_truncated(&bytes, identified, &limits);
        let _ = decode_lookup_response(&bytes, 50);
        let _ = PeerInfo::parse(&bytes);
        for name in [&b"IDENTIFY\n"[..], b"REGISTER ", b"STATS\n"] {
            let _ = decode_lookup(&[name, &bytes].concat(), identified, &limits);
        }
    }
}
