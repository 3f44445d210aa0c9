//! Every check of every command, and properties that hold for any bytes.

use super::*;
use proptest::prelude::*;

fn limits() -> Limits {
    Limits { max_msg_size: 100, max_body_size: 1000, ..Limits::default() }
}

fn command(buf: &[u8]) -> Command<'_> {
    match decode(buf, &limits()) {
        Decoded::Command { command, consumed } => {
            assert_eq!(consumed, buf.len(), "{}", buf.escape_ascii());
            command
        }
        other => panic!("{} gave {other:?}", buf.escape_ascii()),
    }
}

#[track_caller]
fn check_error(buf: &[u8], expected: &str) {
    match decode(buf, &limits()) {
        Decoded::Invalid { verb, error, consumed } => {
            assert_eq!(
                error.frame_data().escape_ascii().to_string(),
                expected.as_bytes().escape_ascii().to_string()
            );
            let line = memchr(b'\n', buf).unwrap() + 1;
            assert_eq!(consumed, line);
            assert_eq!(verb, Verb::from_name(command_name(buf, &limits()).unwrap()));
        }
        other => panic!("{} gave {other:?}", buf.escape_ascii()),
    }
}

#[track_caller]
fn check_needed(buf: &[u8], verb: Option<Verb>, needed: usize, claimed: usize) {
    let Decoded::Incomplete { verb: seen, needed: n, claimed: c, .. } = decode(buf, &limits()) else {
        panic!("{} is not incomplete", buf.escape_ascii());
    };
    assert_eq!((seen, n, c), (verb, needed, claimed));
}

#[track_caller]
fn check_truncated(buf: &[u8], expected: Option<&str>) {
    let error = truncated(buf, &limits()).map(|error| error.to_string());
    assert_eq!(error.as_deref(), expected);
}

const ID: MessageId = MessageId(*b"18a1d53483a69000");

#[test]
fn lines_are_split_into_name_and_parameters() {
    assert_eq!(command(b"NOP\n"), Command::Nop);
    assert_eq!(command(b"NOP\r\n"), Command::Nop);
    assert_eq!(command(b"NOP extra words\n"), Command::Nop);
    assert_eq!(command(b"CLS\n"), Command::Cls);
    check_error(b"NOP\r\r\n", "E_INVALID invalid command NOP\r");
    check_error(b"pub t\n", "E_INVALID invalid command pub");
    check_error(b"BAD a b\n", "E_INVALID invalid command BAD");
    check_error(b"\n", "E_INVALID invalid command ");
    check_error(b"\r\n", "E_INVALID invalid command ");
    check_error(b" PUB t\n", "E_INVALID invalid command ");
    match decode(b"\xff\0\n", &limits()) {
        Decoded::Invalid { verb: None, error, .. } => {
            assert_eq!(error.frame_data(), b"E_INVALID invalid command \xff\0");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn line_length_is_limited() {
    let max = Limits::default().max_line_bytes;
    let mut line = b"NOP ".to_vec();
    line.resize(max - 1, b'x');
    check_needed(&line, None, max, max);
    line.push(b'\n');
    assert_eq!(command(&line), Command::Nop);
    line[max - 1] = b'x';
    assert_eq!(decode(&line, &limits()), Decoded::LineTooLong);
    line.push(b'\n');
    assert_eq!(decode(&line, &limits()), Decoded::LineTooLong);
}

#[test]
fn pub_checks() {
    assert_eq!(command(b"PUB t\n\0\0\0\x01x"), Command::Pub { topic: "t", body: b"x" });
    assert_eq!(command(b"PUB t extra\r\n\0\0\0\x01\n"), Command::Pub { topic: "t", body: b"\n" });
    check_error(b"PUB\n", "E_INVALID PUB insufficient number of parameters");
    check_error(b"PUB \n", r#"E_BAD_TOPIC PUB topic name "" is not valid"#);
    check_error(b"PUB a:\"\xe9\n", "E_BAD_TOPIC PUB topic name \"a:\\\"\\xe9\" is not valid");
    check_error(b"PUB t\n\0\0\0\0", "E_BAD_MESSAGE PUB invalid message body size 0");
    check_error(b"PUB t\n\xff\xff\xff\xff", "E_BAD_MESSAGE PUB invalid message body size -1");
    check_error(b"PUB t\n\x80\0\0\0", "E_BAD_MESSAGE PUB invalid message body size -2147483648");
    check_error(b"PUB t\n\0\0\0\x65", "E_BAD_MESSAGE PUB message too big 101 > 100");
    check_needed(b"PUB t\n\0\0\0", Some(Verb::Pub), 10, 10);
    check_needed(b"PUB t\n\0\0\0\x64abc", Some(Verb::Pub), 110, 110);
    check_truncated(b"PUB t\n\0\0", Some("E_BAD_MESSAGE PUB failed to read message body size"));
    check_truncated(b"PUB t\n\0\0\0\x02x", Some("E_BAD_MESSAGE PUB failed to read message body"));
    check_truncated(b"PUB t", None);
    check_truncated(b"", None);
}

#[test]
fn dpub_checks() {
    let dpub = |delay_ms| Command::Dpub { topic: "t", delay_ms, body: b"x" };
    assert_eq!(command(b"DPUB t 700\n\0\0\0\x01x"), dpub(700));
    assert_eq!(command(b"DPUB t 3600000\n\0\0\0\x01x"), dpub(3_600_000));
    assert_eq!(command(b"DPUB t \n\0\0\0\x01x"), dpub(0));
    check_error(b"DPUB t\n", "E_INVALID DPUB insufficient number of parameters");
    check_error(b"DPUB a:b -1\n", r#"E_BAD_TOPIC DPUB topic name "a:b" is not valid"#);
    check_error(b"DPUB t -1\n", "E_INVALID DPUB could not parse timeout -1");
    check_error(b"DPUB t x\n", "E_INVALID DPUB could not parse timeout x");
    check_error(b"DPUB t 3600001\n", "E_INVALID DPUB timeout 3600001 out of range 0-3600000");
    check_error(
        b"DPUB t 18446744073709551616\n",
        "E_INVALID DPUB timeout 18446744073709551615 out of range 0-3600000",
    );
    check_error(b"DPUB t 1\n\0\0\0\0", "E_BAD_MESSAGE DPUB invalid message body size 0");
    check_error(b"DPUB t 1\n\0\0\0\x65", "E_BAD_MESSAGE DPUB message too big 101 > 100");
    check_truncated(b"DPUB t 1\n", Some("E_BAD_MESSAGE DPUB failed to read message body size"));
    check_truncated(b"DPUB t 1\n\0\0\0\x01", Some("E_BAD_MESSAGE DPUB failed to read message body"));
}

#[test]
fn mpub_checks() {
    let Command::Mpub { topic: "t", messages } =
        command(b"MPUB t\n\0\0\0\x0f\0\0\0\x02\0\0\0\x01x\0\0\0\x02yy")
    else {
        panic!("not an MPUB");
    };
    assert_eq!(messages.iter().collect::<Vec<_>>(), [&b"x"[..], b"yy"]);
    check_error(b"MPUB\n", "E_INVALID MPUB insufficient number of parameters");
    check_error(b"MPUB a:b\n", r#"E_BAD_TOPIC E_BAD_TOPIC MPUB topic name "a:b" is not valid"#);
    check_error(b"MPUB t\n\0\0\0\0", "E_BAD_BODY MPUB invalid body size 0");
    check_error(b"MPUB t\n\xff\xff\xff\xff", "E_BAD_BODY MPUB invalid body size -1");
    check_error(b"MPUB t\n\0\0\x03\xe9", "E_BAD_BODY MPUB body too big 1001 > 1000");
    check_error(b"MPUB t\n\0\0\0\x09\0\0\0\0", "E_BAD_BODY MPUB invalid message count 0");
    check_error(b"MPUB t\n\0\0\0\x09\xff\xff\xff\xff", "E_BAD_BODY MPUB invalid message count -1");
    check_error(b"MPUB t\n\0\0\0\x09\0\0\0\xc8", "E_BAD_BODY MPUB invalid message count 200");
    check_needed(b"MPUB t\n\0\0", Some(Verb::Mpub), 7 + 4, 7 + 4);
    check_needed(b"MPUB t\n\0\0\0\x64\0", Some(Verb::Mpub), 7 + 8, 7 + 4 + 100);
    check_needed(b"MPUB t\n\0\0\0\x09\0\0\0\xc7", Some(Verb::Mpub), 7 + 12, 7 + 12 + 1);
    check_needed(b"MPUB t\n\0\0\0\x12\0\0\0\x02\0\0\0\x03x", Some(Verb::Mpub), 7 + 19, 7 + 22);
    check_needed(b"MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x03x", Some(Verb::Mpub), 7 + 15, 7 + 15);
    check_error(
        b"MPUB t\n\0\0\0\x09\0\0\0\x02\0\0\0\x01x\0\0\0\0",
        "E_BAD_MESSAGE MPUB invalid message(1) body size 0",
    );
    check_error(b"MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x65", "E_BAD_MESSAGE MPUB message too big 101 > 100");
    check_truncated(b"MPUB t\n\0", Some("E_BAD_BODY MPUB failed to read body size"));
    check_truncated(b"MPUB t\n\0\0\0\x09\0\0\0", Some("E_BAD_BODY MPUB failed to read message count"));
    check_truncated(
        b"MPUB t\n\0\0\0\x09\0\0\0\x02\0\0\0\x01x\0",
        Some("E_BAD_MESSAGE MPUB failed to read message(1) body size"),
    );
    check_truncated(
        b"MPUB t\n\0\0\0\x09\0\0\0\x01\0\0\0\x02x",
        Some("E_BAD_MESSAGE MPUB failed to read message body"),
    );
}

#[test]
fn pub_ext_and_dpub_ext_checks() {
    let sized = |line: &str, message: &[u8]| {
        [line.as_bytes(), b"\n", &(message.len() as u32).to_be_bytes(), message].concat()
    };
    let message = b"\0\x09{\"a\":\"b\"}body";
    assert_eq!(command(&sized("PUB_EXT t", message)), Command::PubExt { topic: "t", message });
    let dpub = Command::DpubExt { topic: "t", delay_ms: 700, message };
    assert_eq!(command(&sized("DPUB_EXT t 700", message)), dpub);
    for line in ["PUB_EXT t", "DPUB_EXT t 0"] {
        let verb = line.split(' ').next().unwrap();
        let refused = |message: &[u8], reason: &str| {
            check_error(&sized(line, message), &format!("E_BAD_MESSAGE {verb} {reason}"));
        };
        refused(b"", "invalid message body size 0");
        refused(b"\0\x09{\"a\":\"b\"}", "invalid message body size 0");
        refused(b"\0\x09{\"a\":1 }  body", "headers are not a JSON object of strings");
        refused(b"\0", "headers are cut off");
        refused(b"\0\x0a{\"a\":\"b\"}", "headers are cut off");
        refused(b"\0\x08{\"\":\"b\"}x", "header name \"\" is not 1 to 256 characters of a-z A-Z 0-9 . _ - #");
        refused(b"\0\x11{\"a\":\"b\",\"a\":\"\"} x", "header \"a\" is given twice");
        refused(&[b'x'; 101], "message too big 101 > 100");
        let line_end = format!("{line}\n");
        check_truncated(
            line_end.as_bytes(),
            Some(&format!("E_BAD_MESSAGE {verb} failed to read message body size")),
        );
        let part = sized(line, message);
        check_truncated(
            &part[..part.len() - 1],
            Some(&format!("E_BAD_MESSAGE {verb} failed to read message body")),
        );
    }
    check_error(b"PUB_EXT\n", "E_INVALID PUB_EXT insufficient number of parameters");
    check_error(b"PUB_EXT a:b\n", r#"E_BAD_TOPIC PUB_EXT topic name "a:b" is not valid"#);
    check_error(b"DPUB_EXT t x\n", "E_INVALID DPUB_EXT could not parse timeout x");
    check_error(b"DPUB_EXT t 3600001\n", "E_INVALID DPUB_EXT timeout 3600001 out of range 0-3600000");
}

#[test]
fn mpub_ext_checks() {
    let batch = |messages: &[&[u8]]| {
        let mut out = b"MPUB_EXT t\n\0\0\0\x40".to_vec();
        MessageBatch::encode_bodies(messages, &mut out);
        out
    };
    let sent = batch(&[b"\0\x02{}x", b"\0\x02{}yy"]);
    let Command::MpubExt { topic: "t", messages } = command(&sent) else { panic!("not an MPUB_EXT") };
    assert_eq!(messages.iter().collect::<Vec<_>>(), [&b"\0\x02{}x"[..], b"\0\x02{}yy"]);
    check_error(b"MPUB_EXT a:b\n", r#"E_BAD_TOPIC MPUB_EXT topic name "a:b" is not valid"#);
    check_error(b"MPUB_EXT t\n\0\0\0\0", "E_BAD_BODY MPUB_EXT invalid body size 0");
    check_error(b"MPUB_EXT t\n\0\0\0\x09\0\0\0\0", "E_BAD_BODY MPUB_EXT invalid message count 0");
    let refused = |messages: &[&[u8]], error: &str| check_error(&batch(messages), error);
    refused(&[b"\0\x02{}x", b"\0\x02{}"], "E_BAD_MESSAGE MPUB_EXT invalid message(1) body size 0");
    refused(&[b"x"], "E_BAD_MESSAGE MPUB_EXT invalid message(0) headers are cut off");
    // A batch in pieces is checked as a whole, too.
    let sent = batch(&[b"\0\x02[]x", b"\0\x02{}y"]);
    let Decoded::Incomplete { checked, .. } = decode(&sent[..sent.len() - 1], &limits()) else { panic!() };
    assert!(matches!(decode_from(&sent, checked, &limits()), Decoded::Invalid { .. }));
    check_truncated(&sent[..17], Some("E_BAD_BODY MPUB_EXT failed to read message count"));
    check_truncated(&sent[..sent.len() - 1], Some("E_BAD_MESSAGE MPUB_EXT failed to read message body"));
}

#[test]
fn size_before_a_batch_does_not_delimit_it() {
    for claimed in [1u8, 8, 9, 10, 100] {
        let mut buf = b"MPUB t\n\0\0\0".to_vec();
        buf.push(claimed);
        buf.extend_from_slice(b"\0\0\0\x01\0\0\0\x01xNOP\n");
        let Decoded::Command { consumed, .. } = decode(&buf, &limits()) else {
            panic!("not a command");
        };
        assert_eq!(command(&buf[consumed..]), Command::Nop);
    }
}

#[test]
fn default_batch_count_limit_is_nsqs() {
    assert_eq!(Limits::default().max_batch_count(), 1_048_575);
}

#[test]
fn sub_checks() {
    let topic = TopicName::new("t").unwrap();
    let channel = ChannelName::new("c").unwrap();
    assert_eq!(command(b"SUB t c extra\n"), Command::Sub { topic, channel });
    check_error(b"SUB\n", "E_INVALID SUB insufficient number of parameters");
    check_error(b"SUB t\n", "E_INVALID SUB insufficient number of parameters");
    check_error(b"SUB  t c\n", r#"E_BAD_TOPIC SUB topic name "" is not valid"#);
    check_error(b"SUB t \n", r#"E_BAD_CHANNEL SUB channel name "" is not valid"#);
    check_error(b"SUB t a\tb\n", r#"E_BAD_CHANNEL SUB channel name "a\tb" is not valid"#);
}

#[test]
fn rdy_checks() {
    for (line, count) in
        [("RDY", 1), ("RDY ", 0), ("RDY 0", 0), ("RDY 007", 7), ("RDY 2500", 2500), ("RDY 1 x", 1)]
    {
        assert_eq!(command(format!("{line}\n").as_bytes()), Command::Rdy { count });
    }
    check_error(b"RDY 2501\n", "E_INVALID RDY count 2501 out of range 0-2500");
    check_error(
        b"RDY 18446744073709551617\n",
        "E_INVALID RDY count 18446744073709551615 out of range 0-2500",
    );
    for raw in ["-1", "+1", "1.5", "x", "1e3"] {
        check_error(format!("RDY {raw}\n").as_bytes(), &format!("E_INVALID RDY could not parse count {raw}"));
    }
}

#[test]
fn fin_and_touch_checks() {
    assert_eq!(command(b"FIN 18a1d53483a69000\n"), Command::Fin { id: ID });
    assert_eq!(command(b"FIN 18a1d53483a69000\r\n"), Command::Fin { id: ID });
    assert_eq!(command(b"FIN 18a1d53483a69000 extra\n"), Command::Fin { id: ID });
    assert_eq!(command(b"TOUCH 18a1d53483a69000\n"), Command::Touch { id: ID });
    let odd = MessageId(*b"\0\xff\tx\rabcdefghijk");
    assert_eq!(command(b"FIN \0\xff\tx\rabcdefghijk\n"), Command::Fin { id: odd });
    for name in ["FIN", "TOUCH"] {
        let check = |rest: &str, expected: &str| check_error(format!("{name}{rest}\n").as_bytes(), expected);
        check("", &format!("E_INVALID {name} insufficient number of params"));
        check(" ", "E_INVALID invalid message ID");
        check(" 18a1d53483a6900", "E_INVALID invalid message ID");
        check(" 18a1d53483a690000", "E_INVALID invalid message ID");
        check(" 18a1d534 83a6900", "E_INVALID invalid message ID");
    }
    // As long as an ordinary FIN, but CR and LF are not part of an id.
    check_error(b"FIN 18a1d53483a6900\r\n", "E_INVALID invalid message ID");
    assert_eq!(decode(b"FIN 18a1d5\nNOP\nNOP\n\n\n", &limits()), decode(b"FIN 18a1d5\n", &limits()));
}

#[test]
fn req_checks() {
    assert_eq!(command(b"REQ 18a1d53483a69000 5\n"), Command::Req { id: ID, delay_ms: 5 });
    assert_eq!(command(b"REQ 18a1d53483a69000 \n"), Command::Req { id: ID, delay_ms: 0 });
    for huge in ["18446744073709551615", "18446744073709551616", "99999999999999999999999"] {
        let line = format!("REQ 18a1d53483a69000 {huge}\n");
        assert_eq!(command(line.as_bytes()), Command::Req { id: ID, delay_ms: u64::MAX });
    }
    let rej = |reason| Command::Rej { id: ID, reason };
    assert_eq!(command(b"REJ 18a1d53483a69000\n"), rej(""));
    assert_eq!(command(b"REJ 18a1d53483a69000  \r\n"), rej(""));
    assert_eq!(command(b"REJ 18a1d53483a69000 no such tenant: \xc3\xa4 \n"), rej("no such tenant: ä"));
    let longest = "x".repeat(1024);
    assert_eq!(command(format!("REJ 18a1d53483a69000 {longest}\n").as_bytes()), rej(&longest));
    check_error(b"REJ\n", "E_INVALID REJ insufficient number of params");
    check_error(b"REJ x y\n", "E_INVALID invalid message ID");
    check_error(b"REJ 18a1d53483a69000 \xff\n", "E_INVALID REJ reason is not UTF-8");
    check_error(b"REJ 18a1d53483a69000 a\tb\n", "E_INVALID REJ reason contains a control character");
    let longer = format!("REJ 18a1d53483a69000 {longest}x\n");
    check_error(longer.as_bytes(), "E_INVALID REJ reason too big 1025 > 1024");
    check_error(b"REQ\n", "E_INVALID REQ insufficient number of params");
    check_error(b"REQ x\n", "E_INVALID REQ insufficient number of params");
    check_error(b"REQ x -1\n", "E_INVALID invalid message ID");
    check_error(b"REQ 18a1d53483a69000 -1\n", "E_INVALID REQ could not parse timeout -1");
}

#[test]
fn identify_and_auth_checks() {
    assert_eq!(command(b"IDENTIFY extra\n\0\0\0\x02{}"), Command::Identify { body: b"{}" });
    assert_eq!(command(b"AUTH\r\n\0\0\0\x02 s"), Command::Auth { secret: b" s" });
    check_error(b"AUTH \n", "E_INVALID AUTH invalid number of parameters");
    check_error(b"AUTH x\n", "E_INVALID AUTH invalid number of parameters");
    for name in ["IDENTIFY", "AUTH"] {
        let with = |size: &[u8]| [name.as_bytes(), b"\n", size].concat();
        check_error(&with(b"\0\0\0\0"), &format!("E_BAD_BODY {name} invalid body size 0"));
        check_error(&with(b"\xff\xff\xff\xfe"), &format!("E_BAD_BODY {name} invalid body size -2"));
        check_error(&with(b"\0\0\x03\xe9"), &format!("E_BAD_BODY {name} body too big 1001 > 1000"));
        check_truncated(&with(b"\0\0"), Some(&format!("E_BAD_BODY {name} failed to read body size")));
        check_truncated(&with(b"\0\0\0\x01"), Some(&format!("E_BAD_BODY {name} failed to read body")));
    }
}

#[test]
fn complete_or_invalid_commands_are_not_truncated() {
    check_truncated(b"NOP\n", None);
    check_truncated(b"BAD\n", None);
    check_truncated(b"PUB t\n\0\0\0\0", None);
}

#[test]
fn topic_of_a_batch_is_known_before_its_body() {
    let topic = |buf| mpub_topic(buf, &Limits::default());
    assert_eq!(topic(b"MPUB t\n"), Some("t"));
    assert_eq!(topic(b"MPUB t\n\0\0\0\0"), Some("t"));
    assert_eq!(topic(b"MPUB_EXT t\n"), Some("t"));
    assert_eq!(topic(b"MPUB a:b\n"), None);
    assert_eq!(topic(b"MPUB\n"), None);
    assert_eq!(topic(b"PUB t\n"), None);
    assert_eq!(topic(b"MPUB t"), None);
}

/// Lines and bodies that are almost valid.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "PUB", "MPUB", "DPUB", "PUB_EXT", "MPUB_EXT", "DPUB_EXT", "FIN", "REQ", "REJ", "TOUCH", "RDY", "SUB",
        "CLS", "NOP", "IDENTIFY", "AUTH", "x", "",
    ]);
    let param = prop_oneof![
        Just("t".to_owned()),
        Just(String::new()),
        "[0-9]{1,4}",
        "[a-f0-9]{15,17}",
        "[a-z:#\\r]{1,5}",
    ];
    let line_end = prop::sample::select(vec![&b"\n"[..], b"\r\n", b""]);
    let bytes = prop::collection::vec(prop_oneof![5 => 0u8..4, 1 => any::<u8>()], 0..40);
    (name, prop::collection::vec(param, 0..4), line_end, bytes).prop_map(|(name, params, line_end, bytes)| {
        let line = params.iter().fold(name.to_owned(), |line, param| line + " " + param);
        [line.as_bytes(), line_end, &bytes].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// However the bytes arrive, the result is the same, and it comes as early as possible.
    #[test]
    fn result_does_not_depend_on_following_bytes(buf in noise()) {
        let limits = Limits { max_msg_size: 20, max_body_size: 30, max_line_bytes: 40, ..Limits::default() };
        let most = limits.max_line_bytes + 8 + limits.max_batch_bytes();
        let whole = decode(&buf, &limits);
        for len in 0..=buf.len() {
            match decode(&buf[..len], &limits) {
                Decoded::Incomplete { needed, .. } => {
                    prop_assert!(needed > len && needed <= most);
                    // Nothing is decided before `needed` bytes have arrived.
                    let next = needed.min(buf.len() + 1) - 1;
                    let before = matches!(decode(&buf[..next], &limits), Decoded::Incomplete { .. });
                    prop_assert!(before, "{} of {needed}", next);
                }
                Decoded::Command { command, consumed } => {
                    prop_assert_eq!(consumed, len);
                    prop_assert_eq!(&Decoded::Command { command, consumed }, &whole);
                    break;
                }
                early => {
                    prop_assert_eq!(&early, &whole);
                    break;
                }
            }
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(buf in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = Limits::default();
        decode(&buf, &limits);
        truncated(&buf, &limits);
        command_name(&buf, &limits);
        mpub_topic(&buf, &limits);
    }

    #[test]
    fn error_is_a_valid_frame(buf in noise()) {
        if let Decoded::Invalid { error, consumed, .. } = decode(&buf, &limits()) {
            prop_assert!(error.is_fatal());
            prop_assert!(error.frame_data().starts_with(b"E_"));
            prop_assert!(consumed <= buf.len());
        }
    }
}
