use std::time::Duration;

use nsq_tests::wire::{Frame, Peer, command};
use nsq_tests::{Daemon, test, wait};

/// Sends each sequence on a new connection; expects that error and a close.
async fn each_refused(nsqd: &Daemon, cases: &[(&str, &str)]) {
    for (bytes, error) in cases {
        eprintln!("sending {bytes:?}");
        let mut peer = nsqd.connect().await;
        peer.send(bytes).await;
        peer.refused(error).await;
    }
}

#[test]
fn magic_gets_no_answer_and_can_arrive_in_pieces() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = Peer::connect_silently(nsqd.tcp()).await;
        peer.send(" ").await;
        peer.nothing().await;
        peer.send(" V2").await;
        peer.nothing().await;
        peer.publish("t", "x").await;
    });
}

#[test]
fn another_magic_is_refused_without_a_description() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for magic in ["  V1", "  v2", "GET ", "\n\n\n\n", "\0\0\0\0"] {
            let mut peer = Peer::connect_silently(nsqd.tcp()).await;
            peer.send(magic).await;
            peer.refused("E_BAD_PROTOCOL").await;
        }
    });
}

#[test]
fn close_inside_the_magic_gets_no_answer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = Peer::connect_silently(nsqd.tcp()).await;
        peer.send("  ").await;
        peer.half_close().await;
        peer.closed().await;
    });
}

#[test]
fn a_carriage_return_before_the_line_feed_is_dropped() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.send("NOP\r\n").await;
        peer.send(command("PUB t\r", "x")).await;
        peer.ok().await;
        assert!(nsqd.topic("t").await.is_some());
    });
}

#[test]
fn unknown_commands_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        each_refused(
            &nsqd,
            &[
                ("pub t\n", "E_INVALID invalid command pub"),
                ("\n", "E_INVALID invalid command "),
                (" PUB t\n", "E_INVALID invalid command "),
                ("BAD\n", "E_INVALID invalid command BAD"),
                ("PUBX t\n", "E_INVALID invalid command PUBX"),
            ],
        )
        .await;
    });
}

#[test]
fn a_line_of_16384_bytes_is_read_and_a_longer_one_ends_the_connection() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let padded = |bytes: usize| format!("{:x<bytes$}\n", "SUB t c ");

        let mut peer = nsqd.connect().await;
        peer.send(padded(16383)).await;
        peer.ok().await;

        let mut peer = nsqd.connect().await;
        peer.send(padded(16384)).await;
        peer.closed().await;
    });
}

#[test]
fn extra_parameters_are_ignored_and_every_space_separates() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.line("NOP x").await;
        peer.subscribe("t", "c extra").await;

        let mut peer = nsqd.connect().await;
        peer.line("SUB  t c").await;
        peer.refused("E_BAD_TOPIC SUB topic name \"\" is not valid").await;
    });
}

#[test]
fn pipelined_publishes_are_answered_in_order() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        let all: Vec<u8> = (0..1000).flat_map(|n| command("PUB t", format!("{n}"))).collect();
        peer.send(all).await;
        for _ in 0..1000 {
            peer.ok().await;
        }
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1000).await;
        let bodies: Vec<String> = consumer.consume(1000).await.iter().map(|message| message.text()).collect();
        let published: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
        assert_eq!(bodies, published, "first deliveries come in publishing order");
    });
}

#[test]
fn magic_identify_sub_and_rdy_work_in_one_segment() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut peer = Peer::connect_silently(nsqd.tcp()).await;
        let mut bytes = b"  V2".to_vec();
        bytes.extend(command("IDENTIFY", r#"{"client_id":"me"}"#));
        bytes.extend(b"SUB t c\nRDY 1\n");
        peer.send(bytes).await;
        peer.ok().await;
        peer.ok().await;
        assert_eq!(peer.message().await.text(), "x");
    });
}

#[test]
fn commands_before_a_half_close_are_executed_and_answered() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.send(command("PUB t", "x")).await;
        peer.half_close().await;
        peer.ok().await;
        peer.closed().await;
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.depth), Some(1));
    });
}

#[test]
fn consumer_commands_are_refused_before_sub() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        each_refused(
            &nsqd,
            &[
                ("RDY 1\n", "E_INVALID cannot RDY in current state"),
                ("FIN 0123456789abcdef\n", "E_INVALID cannot FIN in current state"),
                ("REQ 0123456789abcdef 0\n", "E_INVALID cannot REQ in current state"),
                ("TOUCH 0123456789abcdef\n", "E_INVALID cannot TOUCH in current state"),
                ("CLS\n", "E_INVALID cannot CLS in current state"),
            ],
        )
        .await;
    });
}

#[test]
fn publishing_needs_no_identify_and_works_in_every_state() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        for state in ["init", "subscribed", "closing"] {
            match state {
                "subscribed" => peer.subscribe("other", "c").await,
                "closing" => {
                    peer.line("CLS").await;
                    assert_eq!(peer.response().await, "CLOSE_WAIT");
                }
                _ => {}
            }
            peer.line("NOP").await;
            peer.publish("t", state).await;
            peer.publish_batch("t", &[state, state]).await;
            peer.publish_deferred("t", Duration::ZERO, state).await;
            peer.nothing().await;
        }
        assert_eq!(nsqd.topic("t").await.map(|topic| topic.message_count), Some(12));
    });
}

#[test]
fn sockets_use_tcp_keepalive() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.still_works().await;
        // The kernel lists nsqd's end of the connection with hexadecimal addresses and the running timer.
        let ends =
            [nsqd.tcp().port(), peer.local_address().port()].map(|port| format!("0100007F:{port:04X}"));
        let timer = || {
            let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp is readable");
            table.lines().find_map(|line| {
                let fields: Vec<&str> = line.split_whitespace().collect();
                (fields.get(1..3)? == ends).then(|| fields[5].to_owned())
            })
        };
        // 01 is the retransmission timer, 02 the keep-alive timer.
        let check =
            async || wait::when(timer(), |timer| timer.as_ref().is_some_and(|one| one.starts_with("02:")));
        wait::until("the keep-alive timer runs", check).await;
    });
}

#[test]
fn sub_identify_and_auth_are_refused_after_sub_and_after_cls() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for command in ["SUB t c\n", "IDENTIFY\n\0\0\0\x02{}", "AUTH\n\0\0\0\x01x"] {
            let verb = command.split([' ', '\n']).next().unwrap_or_default();
            for closing in [false, true] {
                let mut peer = nsqd.subscribe("t", "c").await;
                if closing {
                    peer.line("CLS").await;
                    assert_eq!(peer.response().await, "CLOSE_WAIT");
                }
                peer.send(command).await;
                peer.refused(&format!("E_INVALID cannot {verb} in current state")).await;
            }
        }
    });
}

#[test]
fn auth_is_disabled_without_an_auth_server() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.send(command("AUTH", "secret")).await;
        peer.refused("E_AUTH_DISABLED AUTH disabled").await;
    });
}

#[test]
fn after_cls_in_flight_messages_can_be_finished_and_none_are_delivered() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "first").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(10).await;
        let first = peer.message().await;

        peer.line("CLS").await;
        assert_eq!(peer.response().await, "CLOSE_WAIT");
        // After CLS, nsqd does not parse RDY.
        peer.line("RDY 99999").await;
        peer.line("RDY x").await;
        peer.publish("t", "second").await;
        peer.finish(&first).await;
        peer.nothing().await;

        let channel =
            nsqd.channel_until("t", "c", "the first message is finished", |c| c.in_flight_count == 0).await;
        let client = &channel.clients[0];
        assert_eq!((channel.depth, client.state, client.ready_count), (1, 4, 0));

        peer.line("CLS").await;
        peer.refused("E_INVALID cannot CLS in current state").await;
    });
}

#[test]
fn heartbeats_continue_after_cls() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.identify(serde_json::json!({"heartbeat_interval": 1000, "feature_negotiation": true})).await;
        peer.subscribe("t", "c").await;
        peer.line("CLS").await;
        assert_eq!(peer.response().await, "CLOSE_WAIT");
        peer.answers_heartbeats = false;
        for _ in 0..3 {
            assert_eq!(peer.response().await, "_heartbeat_");
            peer.line("NOP").await;
        }
    });
}

#[test]
fn failed_command_closes_the_connection_and_nsqd_keeps_running() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.publish("t", "kept").await;
        peer.send("PUB t\n\0\0\0\0").await;
        assert_eq!(peer.error().await, "E_BAD_MESSAGE PUB invalid message body size 0");
        peer.closed().await;

        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(consumer.message().await.text(), "kept");
    });
}

#[test]
fn stop_closes_all_connections_without_an_error() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut silent = Peer::connect_silently(nsqd.tcp()).await;
        let mut idle = nsqd.connect().await;
        idle.still_works().await;
        nsqd.publish("t", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.message().await;
        assert!(nsqd.terminate().await.success());
        for peer in [&mut silent, &mut idle, &mut consumer] {
            peer.closed().await;
        }
    });
}

#[test]
fn connections_are_released_when_clients_leave() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let open_files = || {
            let folder = format!("/proc/{}/fd", nsqd.pid());
            std::fs::read_dir(folder).expect("nsqd is alive").count()
        };
        let mut peers = Vec::new();
        for _ in 0..50 {
            peers.push(nsqd.subscribe("t", "c").await);
        }
        let all = open_files();
        assert!(all >= 50, "{all}");
        drop(peers);
        wait::until("files are closed", async || wait::when(open_files(), |files| *files <= all - 50)).await;
        nsqd.channel_until("t", "c", "no clients", |channel| channel.client_count == 0).await;
    });
}

#[test]
fn answers_before_an_invalid_command_are_sent_first() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        let mut bytes = command("PUB t", "x");
        bytes.extend(command("PUB t", "y"));
        bytes.extend(b"nonsense\n");
        peer.send(bytes).await;
        peer.ok().await;
        peer.ok().await;
        assert!(matches!(peer.frame_within(Duration::from_secs(5)).await, Ok(Frame::Error(_))));
        peer.closed().await;
    });
}
