use nsq_tests::wire::{Frame, Peer, command};
use nsq_tests::{Daemon, test};
use serde_json::{Value, json};

/// Sends IDENTIFY with this body on a new connection; expects that error and a close.
async fn refused(nsqd: &Daemon, body: &str, error: &str) {
    eprintln!("IDENTIFY {body}");
    let mut peer = nsqd.connect().await;
    peer.send(command("IDENTIFY", body)).await;
    peer.refused(error).await;
}

/// Sends IDENTIFY with feature negotiation and one setting on a new connection; returns the reply.
async fn reply(nsqd: &Daemon, key: &str, value: Value) -> Value {
    eprintln!("IDENTIFY {key}: {value}");
    nsqd.connect().await.identify(json!({"feature_negotiation": true, key: value})).await
}

#[test]
fn without_negotiation_the_answer_is_ok() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for body in ["{}", "null", " {} ", r#"{"feature_negotiation":false,"snappy":true,"deflate":true}"#] {
            let mut peer = nsqd.connect().await;
            peer.send(command("IDENTIFY", body)).await;
            peer.ok().await;
            peer.still_works().await;
        }
    });
}

#[test]
fn reply_has_nsqs_keys_in_nsqs_order_followed_by_ours() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.send(command("IDENTIFY", r#"{"feature_negotiation":true}"#)).await;
        let text = String::from_utf8(peer.response().await.to_vec()).expect("UTF-8");
        let expected = concat!(
            r#"{"max_rdy_count":2500,"version":"1.3.0","max_msg_timeout":900000,"msg_timeout":60000,"#,
            r#""tls_v1":false,"deflate":false,"deflate_level":6,"max_deflate_level":6,"snappy":false,"#,
            r#""sample_rate":0,"auth_required":false,"output_buffer_size":16384,"output_buffer_timeout":250,"#,
            r#""topology_region":"","topology_zone":"","max_msg_size":1048576,"max_body_size":5242880}"#
        );
        assert_eq!(text, expected);
    });
}

#[test]
fn flags_show_in_the_reply() {
    test(async {
        let nsqd = Daemon::nsqd()
            .flag("--max-rdy-count=7")
            .flag("--max-msg-timeout=20s")
            .flag("--msg-timeout=5s")
            .flag("--output-buffer-timeout=40ms")
            .flag("--max-msg-size=1000")
            .flag("--max-body-size=2000")
            .flag("--topology-region=r1")
            .flag("--topology-zone=z1")
            .start()
            .await;
        let reply = nsqd
            .connect()
            .await
            .identify(json!({"feature_negotiation": true, "topology_zone": "other"}))
            .await;
        let shown = |key: &str| reply[key].clone();
        assert_eq!(shown("max_rdy_count"), 7);
        assert_eq!(shown("max_msg_timeout"), 20_000);
        assert_eq!(shown("msg_timeout"), 5000);
        assert_eq!(shown("output_buffer_timeout"), 40);
        assert_eq!(shown("max_msg_size"), 1000);
        assert_eq!(shown("max_body_size"), 2000);
        assert_eq!(shown("topology_region"), "r1");
        assert_eq!(shown("topology_zone"), "z1", "the zone of nsqd, not of the client");
    });
}

#[test]
fn heartbeat_interval_is_bounded() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for bad in [999, 60_001, -2, 1] {
            let error = format!("E_BAD_BODY IDENTIFY heartbeat interval ({bad}) is invalid");
            refused(&nsqd, &json!({"heartbeat_interval": bad}).to_string(), &error).await;
        }
        for good in [1000, 60_000, 0, -1] {
            reply(&nsqd, "heartbeat_interval", json!(good)).await;
        }
    });
}

#[test]
fn output_buffer_timeout_is_bounded() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for bad in [24, 30_001, -2] {
            let error = format!("E_BAD_BODY IDENTIFY output buffer timeout ({bad}) is invalid");
            refused(&nsqd, &json!({"output_buffer_timeout": bad}).to_string(), &error).await;
        }
        for (asked, effective) in [(25, 25), (30_000, 30_000), (0, 250), (-1, 0)] {
            let reply = reply(&nsqd, "output_buffer_timeout", json!(asked)).await;
            assert_eq!(reply["output_buffer_timeout"], effective);
        }
    });
}

#[test]
fn output_buffer_size_is_bounded() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for bad in [63, 65_537, -2] {
            let error = format!("E_BAD_BODY IDENTIFY output buffer size ({bad}) is invalid");
            refused(&nsqd, &json!({"output_buffer_size": bad}).to_string(), &error).await;
        }
        for (asked, effective) in [(64, 64), (65_536, 65_536), (0, 16_384), (-1, 1)] {
            let reply = reply(&nsqd, "output_buffer_size", json!(asked)).await;
            assert_eq!(reply["output_buffer_size"], effective);
        }
        let unbuffered =
            json!({"feature_negotiation": true, "output_buffer_size": -1, "output_buffer_timeout": 100});
        assert_eq!(nsqd.connect().await.identify(unbuffered).await["output_buffer_timeout"], 0);
    });
}

#[test]
fn sample_rate_is_bounded() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for bad in [-1, 100] {
            let error = format!("E_BAD_BODY IDENTIFY sample rate ({bad}) is invalid");
            refused(&nsqd, &json!({"sample_rate": bad}).to_string(), &error).await;
        }
        for good in [0, 1, 99] {
            assert_eq!(reply(&nsqd, "sample_rate", json!(good)).await["sample_rate"], good);
        }
    });
}

#[test]
fn msg_timeout_is_bounded() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for bad in [999, 900_001, -1] {
            let error = format!("E_BAD_BODY IDENTIFY msg timeout ({bad}) is invalid");
            refused(&nsqd, &json!({"msg_timeout": bad}).to_string(), &error).await;
        }
        for (asked, effective) in [(1000, 1000), (900_000, 900_000), (0, 60_000)] {
            assert_eq!(reply(&nsqd, "msg_timeout", json!(asked)).await["msg_timeout"], effective);
        }
    });
}

#[test]
fn first_invalid_value_in_nsqs_order_is_reported() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let order = [
            ("heartbeat_interval", "heartbeat interval (1)"),
            ("output_buffer_timeout", "output buffer timeout (1)"),
            ("output_buffer_size", "output buffer size (1)"),
            ("sample_rate", "sample rate (101)"),
            ("msg_timeout", "msg timeout (1)"),
        ];
        for first in 0..order.len() {
            // Written last to first, so that the order in the document cannot decide.
            let members: Vec<String> = order[first..]
                .iter()
                .rev()
                .map(|(key, _)| format!("\"{key}\":{}", if *key == "sample_rate" { 101 } else { 1 }))
                .collect();
            for negotiation in [true, false] {
                let body = format!("{{{},\"feature_negotiation\":{negotiation}}}", members.join(","));
                refused(&nsqd, &body, &format!("E_BAD_BODY IDENTIFY {} is invalid", order[first].1)).await;
            }
        }
    });
}

#[test]
fn json_is_decoded_as_nsq_decodes_it() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let negotiated = |member: &str| format!("{{\"feature_negotiation\":true,{member}}}");
        let accepted = [
            (r#""MSG_TIMEOUT":2000"#, 2000),
            (r#""msg_timeout":2000,"msg_timeout":3000"#, 3000),
            (r#""msg_timeout":2000,"Msg_Timeout":3000"#, 3000),
            (r#""msg_timeout":2000,"msg_timeout":null"#, 2000),
            (r#""msg_timeout":null"#, 60_000),
            (
                r#""unknown":{"nested":[1,2,{"x":null}]},"short_id":"a","long_id":"b","msg_timeout":2000"#,
                2000,
            ),
            ("\"client_id\":\"\u{e9}\\ud800\",\"msg_timeout\":2000", 2000),
        ];
        for (member, effective) in accepted {
            let mut peer = nsqd.connect().await;
            peer.send(command("IDENTIFY", negotiated(member))).await;
            let reply: Value = serde_json::from_slice(&peer.response().await).expect("JSON");
            assert_eq!(reply["msg_timeout"], effective, "{member}");
        }
        let refused_bodies = [
            r#"{"msg_timeout":1000.0}"#,
            r#"{"msg_timeout":"1000"}"#,
            r#"{"msg_timeout":1e3}"#,
            r#"{"msg_timeout":99999999999999999999}"#,
            r#"{"sample_rate":4294967297}"#,
            r#"{"client_id":1}"#,
            r#"{"feature_negotiation":1}"#,
            r#"{"feature_negotiation":"true"}"#,
            "[]",
            "\"x\"",
            "1",
            "true",
            "{",
            "{'a':1}",
            "{} x",
            r#"{"a":1,}"#,
            "\u{feff}{}",
            r#"{"a":NaN}"#,
            "{\"client_id\":\"\n\"}",
        ];
        for body in refused_bodies {
            refused(&nsqd, body, "E_BAD_BODY IDENTIFY failed to decode JSON body").await;
        }
        let nested = format!("{{\"unknown\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for body in [&*nested, " \n{ \"msg_timeout\" : 2000 }\t "] {
            let mut peer = nsqd.connect().await;
            peer.send(command("IDENTIFY", body)).await;
            peer.ok().await;
        }
        let mut invalid_utf8 = nsqd.connect().await;
        invalid_utf8.send(command("IDENTIFY", b"{\"client_id\":\"\xff\xfe\"}")).await;
        invalid_utf8.ok().await;
    });
}

#[test]
fn body_lengths_are_checked() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (length, error) in [
            (0u32, "E_BAD_BODY IDENTIFY invalid body size 0"),
            (0xffff_ffff, "E_BAD_BODY IDENTIFY invalid body size -1"),
            (0x8000_0000, "E_BAD_BODY IDENTIFY invalid body size -2147483648"),
            (5_242_881, "E_BAD_BODY IDENTIFY body too big 5242881 > 5242880"),
        ] {
            let mut peer = nsqd.connect().await;
            peer.send([b"IDENTIFY\n", &length.to_be_bytes()[..]].concat()).await;
            peer.refused(error).await;
        }
        for (bytes, error) in [
            (&b"IDENTIFY\n\0\0"[..], "E_BAD_BODY IDENTIFY failed to read body size"),
            (&b"IDENTIFY\n\0\0\0\x09{}"[..], "E_BAD_BODY IDENTIFY failed to read body"),
        ] {
            let mut peer = nsqd.connect().await;
            peer.send(bytes).await;
            peer.half_close().await;
            peer.refused(error).await;
        }
    });
}

#[test]
fn disabled_features_are_reported_off_and_the_connection_stays_open() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--snappy=false").flag("--deflate=false").start().await;
        for asked in [
            json!({"tls_v1": true}),
            json!({"snappy": true}),
            json!({"deflate": true}),
            json!({"snappy": true, "deflate": true}),
        ] {
            let mut request = asked;
            request["feature_negotiation"] = json!(true);
            let mut peer = nsqd.connect().await;
            let reply = peer.identify(request).await;
            assert_eq!(
                (&reply["tls_v1"], &reply["snappy"], &reply["deflate"]),
                (&json!(false), &json!(false), &json!(false))
            );
            // nsqd sends no OK of an upgrade.
            peer.still_works().await;
        }
    });
}

#[test]
fn client_id_and_hostname_show_in_stats() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut named = nsqd.connect().await;
        named
            .identify(json!({"feature_negotiation": true, "client_id": "me", "hostname": "host", "user_agent": "x/1"}))
            .await;
        named.subscribe("t", "named").await;
        let mut unnamed = nsqd.connect().await;
        unnamed.identify(json!({"feature_negotiation": true})).await;
        unnamed.subscribe("t", "unnamed").await;
        let _silent = nsqd.subscribe("t", "silent").await;

        let shown = async |channel: &str| {
            let client = nsqd.channel("t", channel).await.expect("a channel").clients.remove(0);
            (client.client_id, client.hostname, client.user_agent)
        };
        assert_eq!(shown("named").await, ("me".into(), "host".into(), "x/1".into()));
        assert_eq!(shown("unnamed").await, (String::new(), String::new(), String::new()));
        assert_eq!(shown("silent").await, ("127.0.0.1".into(), "127.0.0.1".into(), String::new()));
    });
}

#[test]
fn identify_can_be_repeated_before_sub_and_the_last_one_applies() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let mut peer = nsqd.connect().await;
        let first = json!({"feature_negotiation": true, "msg_timeout": 60_000, "heartbeat_interval": 60_000,
            "client_id": "first", "sample_rate": 1});
        peer.identify(first).await;
        // Settings also apply without negotiation, and extra parameters are ignored.
        let last = r#"{"msg_timeout":1000,"heartbeat_interval":1000,"client_id":"last"}"#;
        peer.send(command("IDENTIFY again", last)).await;
        peer.ok().await;
        peer.subscribe("t", "c").await;
        peer.ready(1).await;
        let client = nsqd.channel("t", "c").await.expect("the channel exists").clients.remove(0);
        assert_eq!((client.client_id, client.hostname), ("last".to_owned(), String::new()));
        assert_eq!(peer.message().await.attempts, 1, "sampling is off again");
        peer.answers_heartbeats = false;
        let mut seen = [peer.frame().await, peer.frame().await].map(|frame| match frame {
            Frame::Response(heartbeat) => String::from_utf8_lossy(&heartbeat).into_owned(),
            Frame::Message(message) => message.attempts.to_string(),
            Frame::Error(error) => panic!("{error:?}"),
        });
        seen.sort();
        assert_eq!(seen, ["2", "_heartbeat_"], "both arrive within about a second");
    });
}

#[test]
fn a_consumer_without_heartbeats_is_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        // nsqd checks this before the rest of the command.
        for line in ["SUB t c", "SUB", "SUB a:b c"] {
            let mut peer: Peer = nsqd.connect().await;
            peer.identify(json!({"feature_negotiation": true, "heartbeat_interval": -1})).await;
            peer.publish("t", "publishing works").await;
            peer.line(line).await;
            peer.refused("E_INVALID cannot SUB with heartbeats disabled").await;
        }
    });
}
