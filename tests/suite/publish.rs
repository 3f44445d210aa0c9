use nsq_tests::wire::{Frame, Message, batch, bodies, command, length};
use nsq_tests::{Daemon, test};

/// Sends each sequence and a half-close on a new connection; expects that error and a close.
async fn each_refused(nsqd: &Daemon, cases: Vec<(Vec<u8>, &str)>) {
    for (bytes, error) in cases {
        eprintln!("expecting {error}");
        let mut peer = nsqd.connect().await;
        peer.send(bytes).await;
        peer.half_close().await;
        peer.refused(error).await;
    }
}

fn with_length(line: &str, length: u32) -> Vec<u8> {
    [line.as_bytes(), b"\n", &length.to_be_bytes()].concat()
}

#[test]
fn a_message_arrives_as_it_was_published() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let every_byte: Vec<u8> = (0..=255).collect();
        let before = now_ns();
        nsqd.publish("t", &every_byte).await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        assert_eq!(message.body, every_byte);
        assert_eq!(message.attempts, 1);
        assert!(message.id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{message:?}");
        assert!((before..=now_ns()).contains(&message.timestamp), "{} not since {before}", message.timestamp);
    });
}

fn now_ns() -> i64 {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970");
    i64::try_from(since_epoch.as_nanos()).expect("a time before 2262")
}

#[test]
fn the_largest_message_is_accepted_and_one_byte_more_is_not() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let largest = vec![b'x'; 1_048_576];
        let mut peer = nsqd.connect().await;
        peer.publish("t", &largest).await;
        // The error arrives although the client sends the whole body.
        peer.send(command("PUB t", vec![b'x'; 1_048_577])).await;
        peer.refused("E_BAD_MESSAGE PUB message too big 1048577 > 1048576").await;

        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(consumer.message().await.body, largest);
    });
}

#[test]
fn pub_checks_its_parameters_and_its_body() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        each_refused(
            &nsqd,
            vec![
                (b"PUB\n".to_vec(), "E_INVALID PUB insufficient number of parameters"),
                (b"PUB a:b\n".to_vec(), "E_BAD_TOPIC PUB topic name \"a:b\" is not valid"),
                (with_length("PUB t", 0), "E_BAD_MESSAGE PUB invalid message body size 0"),
                (with_length("PUB t", u32::MAX), "E_BAD_MESSAGE PUB invalid message body size -1"),
                (b"PUB t\n\0\0".to_vec(), "E_BAD_MESSAGE PUB failed to read message body size"),
                (b"PUB t\n\0\0\0\x05abc".to_vec(), "E_BAD_MESSAGE PUB failed to read message body"),
            ],
        )
        .await;
        assert!(nsqd.topics().await.is_empty(), "a refused publish creates nothing");
    });
}

#[test]
fn dpub_checks_its_parameters() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        each_refused(
            &nsqd,
            vec![
                (b"DPUB t\n".to_vec(), "E_INVALID DPUB insufficient number of parameters"),
                (b"DPUB a:b 1\n".to_vec(), "E_BAD_TOPIC DPUB topic name \"a:b\" is not valid"),
                (b"DPUB t -1\n".to_vec(), "E_INVALID DPUB could not parse timeout -1"),
                (b"DPUB t x\n".to_vec(), "E_INVALID DPUB could not parse timeout x"),
                (b"DPUB t 3600001\n".to_vec(), "E_INVALID DPUB timeout 3600001 out of range 0-3600000"),
                // The delay saturates and does not wrap around to 1.
                (
                    b"DPUB t 18446744073709551617\n".to_vec(),
                    "E_INVALID DPUB timeout 18446744073709551615 out of range 0-3600000",
                ),
                (b"DPUB t 1\n\0\0".to_vec(), "E_BAD_MESSAGE DPUB failed to read message body size"),
                (b"DPUB t 1\n\0\0\0\x05abc".to_vec(), "E_BAD_MESSAGE DPUB failed to read message body"),
                (with_length("DPUB t 5", 0), "E_BAD_MESSAGE DPUB invalid message body size 0"),
                (with_length("DPUB t 5", 1_048_577), "E_BAD_MESSAGE DPUB message too big 1048577 > 1048576"),
            ],
        )
        .await;
        assert!(nsqd.topics().await.is_empty(), "a refused publish creates nothing");

        let mut peer = nsqd.connect().await;
        peer.send(command("DPUB t 3600000", "x")).await;
        peer.ok().await;
    });
}

#[test]
fn dpub_without_a_delay_is_a_pub() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        let mut peer = nsqd.connect().await;
        for line in ["DPUB t 0", "DPUB t ", "DPUB t 000 extra"] {
            peer.send(command(line, line)).await;
            peer.ok().await;
            assert_eq!(consumer.message().await.text(), line);
        }
    });
}

#[test]
fn batch_gets_one_ok_and_keeps_its_order() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--node-id=5").start().await;
        let mut peer = nsqd.connect().await;
        peer.publish_batch("t", &["a", "bb", "ccc"]).await;
        peer.nothing().await;

        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(10).await;
        let messages = consumer.messages(3).await;
        assert_eq!(bodies(&messages), ["a", "bb", "ccc"]);
        assert!(messages.is_sorted_by(|one, next| one.id < next.id), "ids increase: {messages:?}");
        let node =
            |message: &Message| u64::from_str_radix(&message.id_text(), 16).expect("hexadecimal") >> 54;
        assert!(messages.iter().all(|message| node(message) == 5), "{messages:?}");
    });
}

#[test]
fn mpub_checks_every_part_and_publishes_all_or_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let largest_count = (5_242_880 - 4) / 5;
        let mpub = |count: u32, rest: &[u8]| {
            let body = [&count.to_be_bytes()[..], rest].concat();
            command("MPUB t", body)
        };
        let size = |size: u32| size.to_be_bytes();
        let good = [&size(1)[..], b"a"].concat();
        each_refused(
            &nsqd,
            vec![
                (b"MPUB\n".to_vec(), "E_INVALID MPUB insufficient number of parameters"),
                (b"MPUB t\n\0".to_vec(), "E_BAD_BODY MPUB failed to read body size"),
                (with_length("MPUB t", 0), "E_BAD_BODY MPUB invalid body size 0"),
                (with_length("MPUB t", u32::MAX), "E_BAD_BODY MPUB invalid body size -1"),
                (with_length("MPUB t", 5_242_881), "E_BAD_BODY MPUB body too big 5242881 > 5242880"),
                (with_length("MPUB t", 8), "E_BAD_BODY MPUB failed to read message count"),
                (mpub(0, b""), "E_BAD_BODY MPUB invalid message count 0"),
                (mpub(u32::MAX, b""), "E_BAD_BODY MPUB invalid message count -1"),
                (mpub(largest_count + 1, b""), "E_BAD_BODY MPUB invalid message count 1048576"),
                (mpub(2, &good), "E_BAD_MESSAGE MPUB failed to read message(1) body size"),
                (
                    mpub(2, &[&good[..], &size(0)].concat()),
                    "E_BAD_MESSAGE MPUB invalid message(1) body size 0",
                ),
                (
                    mpub(2, &[&good[..], &size(1_048_577)].concat()),
                    "E_BAD_MESSAGE MPUB message too big 1048577 > 1048576",
                ),
                (
                    mpub(2, &[&good[..], &size(5), b"ab"].concat()),
                    "E_BAD_MESSAGE MPUB failed to read message body",
                ),
            ],
        )
        .await;
        assert!(nsqd.topics().await.is_empty(), "a refused batch creates nothing");

        let mut peer = nsqd.connect().await;
        peer.line("MPUB a:b").await;
        peer.refused("E_BAD_TOPIC E_BAD_TOPIC MPUB topic name \"a:b\" is not valid").await;
    });
}

#[test]
fn wrong_batch_body_size_does_not_desynchronize_the_stream() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let content = batch(&["one", "two"]);
        let mut peer = nsqd.connect().await;
        for claimed in [content.len() - 3, content.len() + 1000] {
            peer.send([b"MPUB t\n", &length(claimed)[..], &content].concat()).await;
            peer.ok().await;
        }
        peer.publish("t", "three").await;
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.message_count), Some(5));
    });
}

#[test]
fn names_are_checked() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let ephemeral = |length: usize| format!("{}#ephemeral", "e".repeat(length));
        for good in ["t".repeat(64), ephemeral(54), ".".into(), "..".into(), "A-z_0.9".into(), "-".into()] {
            nsqd.connect().await.publish(&good, "x").await;
        }
        let bad: [&[u8]; 11] = [
            b"",
            b"#ephemeral",
            b"a#b",
            b"a:b",
            b"a#ephemeral#ephemeral",
            b"a/b",
            b"a\tb",
            b"\xc3\xa9",
            b"a#EPHEMERAL",
            b"a#ephemera",
            b"a\0",
        ];
        let mut bad: Vec<Vec<u8>> = bad.map(<[u8]>::to_vec).to_vec();
        bad.push("t".repeat(65).into());
        bad.push(ephemeral(55).into());
        for name in bad {
            let mut peer = nsqd.connect().await;
            peer.line([b"PUB ", &name[..]].concat()).await;
            let error = peer.error().await;
            let start = "E_BAD_TOPIC PUB topic name \"";
            assert!(error.starts_with(start) && error.ends_with("\" is not valid"), "{error}");
            peer.closed().await;
        }
    });
}

#[test]
fn bad_names_are_quoted_as_nsq_quotes_them() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (name, quoted) in [
            (&b"\xe9"[..], r"\xe9"),
            (b"a\tb", r"a\tb"),
            (b"\x01", r"\x01"),
            (b"\x7f", r"\x7f"),
            (b"a\"b", r#"a\"b"#),
            (b"a\\b", r"a\\b"),
            ("\u{e9}".as_bytes(), "\u{e9}"),
            ("\u{200b}".as_bytes(), r"\u200b"),
            ("\u{e0001}".as_bytes(), r"\U000e0001"),
            (b"\x07\x08\x0c\x0b", r"\a\b\f\v"),
        ] {
            let mut peer = nsqd.connect().await;
            peer.line([b"PUB ", name].concat()).await;
            peer.refused(&format!("E_BAD_TOPIC PUB topic name \"{quoted}\" is not valid")).await;
        }
    });
}

#[test]
fn publishing_while_the_topic_is_deleted_never_hangs() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let deleting = async {
            for _ in 0..50 {
                let status = nsqd.post("/topic/delete?topic=t", b"").await.status;
                assert!(matches!(status, 200 | 404), "{status}");
            }
        };
        let publishing = async {
            let mut peer = nsqd.connect().await;
            for n in 0..500 {
                peer.send(command("PUB t", format!("{n}"))).await;
                match peer.frame().await {
                    Frame::Response(ok) if ok == "OK" => {}
                    Frame::Error(error) if error == "E_PUB_FAILED PUB failed exiting" => {
                        peer = nsqd.connect().await;
                    }
                    other => panic!("{other:?}"),
                }
            }
        };
        tokio::join!(deleting, publishing);
        // After all deletions the topic works: nsqd accepts a message and delivers it.
        nsqd.publish("t", "after").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(2500).await;
        loop {
            let message = consumer.message().await;
            consumer.finish(&message).await;
            if message.text() == "after" {
                break;
            }
        }
    });
}
