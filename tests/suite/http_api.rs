use nsq_tests::wire::{batch, bodies};
use nsq_tests::{Daemon, http, test};
use serde_json::{Value, json};

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
const VERSION_HEADER: (&str, &str) = ("x-nsq-content-type", "nsq; version=1.0");

/// Receives all messages of channel `c` of a topic, in order. Creates the channel if it is missing.
async fn drain(nsqd: &Daemon, topic: &str) -> Vec<String> {
    let mut consumer = nsqd.subscribe(topic, "c").await;
    let depth = async || {
        let topic = nsqd.topic(topic).await.expect("the topic exists");
        let channel =
            topic.channels.iter().find(|channel| channel.channel_name == "c").expect("the channel exists");
        usize::try_from(topic.depth + channel.unfinished()).expect("a small number")
    };
    consumer.ready(100).await;
    let mut seen = Vec::new();
    loop {
        let count = depth().await;
        if count == 0 {
            return seen;
        }
        seen.extend(bodies(&consumer.consume(count).await));
        consumer.barrier().await;
    }
}

// Conventions

#[test]
fn ping_is_plain_text() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let answer = nsqd.get("/ping").await.expect(200);
        assert_eq!(answer.text(), "OK");
        assert_eq!(answer.header("content-type"), Some(TEXT));
        assert_eq!(answer.header(VERSION_HEADER.0), None);
        assert!(answer.header("date").is_some());
    });
}

#[test]
fn errors_and_successes_have_nsqs_headers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let error = nsqd.post("/pub?topic=t", b"").await.expect(400);
        assert_eq!(error.header("content-type"), Some(JSON));
        assert_eq!(error.header(VERSION_HEADER.0), Some(VERSION_HEADER.1));

        let text = nsqd.post("/pub?topic=t", b"x").await.expect(200);
        assert_eq!(text.text(), "OK");
        assert_eq!(text.header("content-type"), Some(TEXT));
        assert_eq!(text.header(VERSION_HEADER.0), Some(VERSION_HEADER.1));

        let empty = nsqd.post("/topic/create?topic=t", b"").await.expect(200);
        assert_eq!(empty.text(), "");
        assert_eq!(empty.header("content-type"), None);
        assert_eq!(empty.header("content-length"), Some("0"));
        assert_eq!(empty.header(VERSION_HEADER.0), Some(VERSION_HEADER.1));
    });
}

#[test]
fn unknown_paths_and_wrong_methods() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for path in ["/", "/nothing", "/put?topic=t", "/config", "/config/", "/config/a/b"] {
            nsqd.get(path).await.expect_error(404, "NOT_FOUND");
        }
        let wrong = nsqd.post("/ping", b"").await;
        assert_eq!(wrong.header("allow"), Some("GET, OPTIONS"));
        wrong.expect_error(405, "METHOD_NOT_ALLOWED");
        let wrong = nsqd.post("/config/log_level", b"debug").await;
        assert_eq!(wrong.header("allow"), Some("GET, OPTIONS, PUT"));
        wrong.expect_error(405, "METHOD_NOT_ALLOWED");
        let wrong = nsqd.get("/pub?topic=t").await;
        assert_eq!(wrong.header("allow"), Some("OPTIONS, POST"));
        wrong.expect_error(405, "METHOD_NOT_ALLOWED");
        let head = http::request(nsqd.http(), "HEAD", "/ping", b"").await;
        assert_eq!(head.status, 405);

        let options = http::request(nsqd.http(), "OPTIONS", "/pub", b"").await.expect(200);
        assert_eq!(options.header("allow"), Some("OPTIONS, POST"));
        assert_eq!(options.text(), "");
        assert_eq!(options.header(VERSION_HEADER.0), None);
        http::request(nsqd.http(), "OPTIONS", "*", b"").await.expect(200);
    });
}

#[test]
fn other_spellings_of_a_path_are_redirected() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for spelling in ["/ping/?a=b", "/PING?a=b", "//ping?a=b"] {
            let answer = nsqd.get(spelling).await.expect(301);
            assert_eq!(answer.header("location"), Some("/ping?a=b"), "{spelling}");
        }
        let answer = nsqd.get("/debug/pprof").await.expect(301);
        assert_eq!(answer.header("location"), Some("/debug/pprof/"));
        let answer = nsqd.post("/PUB?topic=t", b"x").await.expect(307);
        assert_eq!(answer.header("location"), Some("/pub?topic=t"));
    });
}

#[test]
fn connection_is_reused_for_further_requests() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut connection = http::Connection::open(nsqd.http()).await;
        for n in 0..5 {
            let request = format!("POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n{n}");
            connection.send(request.as_bytes()).await;
            connection.answer(format!("publish {n}")).await.expect("an answer").expect(200);
        }
        assert_eq!(drain(&nsqd, "t").await, ["0", "1", "2", "3", "4"]);
    });
}

// Publishing

#[test]
fn pub_publishes_the_request_body() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.post("/pub?topic=t", "a\nbody\0").await.expect(200);
        nsqd.post("/pub?topic=t&defer=0", "at once").await.expect(200);
        let chunked = b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nchu\r\n4\r\nnked\r\n0\r\n\r\n";
        http::raw(nsqd.http(), chunked).await.expect("an answer").expect(200);
        assert_eq!(drain(&nsqd, "t").await, ["a\nbody\0", "at once", "chunked"]);

        // Names are percent-decoded, and `#` need not be encoded.
        for (topic, name) in [("x%23ephemeral", "x#ephemeral"), ("y#ephemeral", "y#ephemeral")] {
            nsqd.post(&format!("/pub?topic={topic}&defer=0"), "#").await.expect(200);
            assert_eq!(drain(&nsqd, name).await, ["#"]);
        }
        assert!(nsqd.topic("y").await.is_none());
    });
}

#[test]
fn pub_refuses_with_nsqs_error_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.post("/pub", "").await.expect_error(400, "MSG_EMPTY");
        nsqd.post("/pub", "x").await.expect_error(400, "MISSING_ARG_TOPIC");
        for target in ["/pub?topic", "/pub?topic=", "/pub?topic=a%3Ab", "/pub?topic=a%20b"] {
            nsqd.post(target, "x").await.expect_error(400, "INVALID_TOPIC");
        }
        nsqd.post("/pub?topic=%zz", "x").await.expect_error(400, "INVALID_REQUEST");
        nsqd.post("/pub?topic=t;a=b", "x").await.expect_error(400, "INVALID_REQUEST");
        for defer in ["x", "-1", "3600001", "1.5", "", "1s"] {
            nsqd.post(&format!("/pub?topic=t&defer={defer}"), "x").await.expect_error(400, "INVALID_DEFER");
        }
        let too_big = vec![b'x'; 1_048_577];
        nsqd.post("/pub?topic=t", &too_big).await.expect_error(413, "MSG_TOO_BIG");
        nsqd.post("/pub?topic=t", &too_big[1..]).await.expect(200);
        // The first value of a repeated parameter counts.
        nsqd.post("/pub?topic=first&topic=second", "x").await.expect(200);
        assert!(nsqd.topic("first").await.is_some() && nsqd.topic("second").await.is_none());
    });
}

#[test]
fn pub_can_defer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let published = std::time::Instant::now();
        nsqd.post("/pub?topic=t&defer=500", "later").await.expect(200);
        assert_eq!(consumer.message().await.text(), "later");
        assert!(published.elapsed().as_millis() >= 495, "early: {:?}", published.elapsed());
    });
}

#[test]
fn mpub_takes_lines() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        // /mpub ignores `defer`.
        nsqd.post("/mpub?topic=t&defer=60000", "one\n\ntwo\r\nthree").await.expect(200);
        assert_eq!(drain(&nsqd, "t").await, ["one", "two\r", "three"]);
        assert_eq!(nsqd.post("/mpub?topic=t", "").await.expect(200).text(), "OK");
        let line = "x".repeat(1_048_577);
        nsqd.post("/mpub?topic=t", format!("short\n{line}\nshort")).await.expect_error(413, "MSG_TOO_BIG");
        nsqd.post("/mpub?topic=t", vec![b'\n'; 5_242_881]).await.expect_error(413, "BODY_TOO_BIG");
        nsqd.post("/mpub", "x").await.expect_error(400, "MISSING_ARG_TOPIC");
        nsqd.post("/mpub?topic=a%3Ab", "x").await.expect_error(400, "INVALID_TOPIC");
        assert!(drain(&nsqd, "t").await.is_empty(), "nothing of a refused batch is published");
    });
}

#[test]
fn mpub_takes_binary_batches() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let good = batch(&["one", "t\nw\no"]);
        for spelling in ["true", "1", "", "TRUE", "yes"] {
            nsqd.post(&format!("/mpub?topic=t&binary={spelling}"), &good).await.expect(200);
        }
        let with_rest = [&good[..], b"ignored"].concat();
        nsqd.post("/mpub?topic=t&binary=true", with_rest).await.expect(200);
        assert_eq!(drain(&nsqd, "t").await.len(), 12);
        nsqd.post("/mpub?topic=text&binary=false", "one\ntwo").await.expect(200);
        assert_eq!(drain(&nsqd, "text").await, ["one", "two"]);

        let refused = async |body: Vec<u8>, word| {
            nsqd.post("/mpub?topic=t&binary=true", body).await.expect_error(413, word);
        };
        refused(vec![0, 0], "BAD_BODY").await;
        refused(0u32.to_be_bytes().into(), "BAD_BODY").await;
        refused(u32::MAX.to_be_bytes().into(), "BAD_BODY").await;
        refused(1_048_576u32.to_be_bytes().into(), "BAD_BODY").await;
        refused([2u32.to_be_bytes(), 1u32.to_be_bytes()].concat(), "BAD_MESSAGE").await;
        refused([1u32.to_be_bytes(), 0u32.to_be_bytes()].concat(), "BAD_MESSAGE").await;
        refused([1u32.to_be_bytes(), 1_048_577u32.to_be_bytes()].concat(), "BAD_MESSAGE").await;
        refused([1u32.to_be_bytes(), u32::MAX.to_be_bytes()].concat(), "BAD_MESSAGE").await;
        assert!(drain(&nsqd, "t").await.is_empty(), "nothing of a refused batch is published");
    });
}

// Administration

#[test]
fn topics_and_channels_are_created_once_and_deleted_once() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.post("/channel/create?topic=t&channel=c", "").await.expect_error(404, "TOPIC_NOT_FOUND");
        for _ in 0..2 {
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        assert_eq!(nsqd.topics().await.len(), 1);
        nsqd.admin("/channel/delete?topic=t&channel=c").await;
        nsqd.post("/channel/delete?topic=t&channel=c", "").await.expect_error(404, "CHANNEL_NOT_FOUND");
        nsqd.post("/topic/delete?topic=t#ephemeral", "").await.expect_error(404, "TOPIC_NOT_FOUND");
        nsqd.admin("/topic/delete?topic=t").await;
        nsqd.post("/topic/delete?topic=t", "").await.expect_error(404, "TOPIC_NOT_FOUND");
    });
}

#[test]
fn administration_refuses_with_nsqs_error_messages() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.admin("/topic/create?topic=t").await;
        for verb in ["create", "delete", "empty", "pause", "unpause"] {
            let path = format!("/topic/{verb}");
            nsqd.post(&path, "topic=t").await.expect_error(400, "MISSING_ARG_TOPIC");
            nsqd.post(&format!("{path}?topic=%zz"), "").await.expect_error(400, "INVALID_REQUEST");
            let bad = nsqd.post(&format!("{path}?topic=a%3Ab"), "").await;
            match verb {
                "create" | "empty" => bad.expect_error(400, "INVALID_TOPIC"),
                _ => bad.expect_error(404, "TOPIC_NOT_FOUND"),
            }
            if verb != "create" {
                nsqd.post(&format!("{path}?topic=none"), "").await.expect_error(404, "TOPIC_NOT_FOUND");
            }

            let path = format!("/channel/{verb}");
            nsqd.post(&path, "").await.expect_error(400, "MISSING_ARG_TOPIC");
            nsqd.post(&format!("{path}?topic=a%3Ab"), "").await.expect_error(400, "INVALID_ARG_TOPIC");
            nsqd.post(&format!("{path}?topic=t"), "").await.expect_error(400, "MISSING_ARG_CHANNEL");
            nsqd.post(&format!("{path}?topic=t&channel=a%3Ab"), "")
                .await
                .expect_error(400, "INVALID_ARG_CHANNEL");
            nsqd.post(&format!("{path}?topic=none&channel=c"), "").await.expect_error(404, "TOPIC_NOT_FOUND");
            if verb != "create" {
                nsqd.post(&format!("{path}?topic=t&channel=none"), "")
                    .await
                    .expect_error(404, "CHANNEL_NOT_FOUND");
            }
        }
    });
}

// Statistics

#[test]
fn stats_have_nsqs_fields_in_nsqs_order() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.connect().await.publish_batch("t2", &["abc", "d"]).await;
        let text = nsqd.get("/stats?format=json&include_mem=false&include_clients=false").await.expect(200);
        assert_eq!(text.header("content-type"), Some(JSON));
        let text = text.text();
        let start_time =
            serde_json::from_str::<Value>(&text).expect("JSON")["start_time"].as_u64().expect("seconds");
        let expected = format!(
            concat!(
                r#"{{"version":"1.3.0","health":"OK","start_time":{},"topics":[{{"topic_name":"t2","channels":[],"#,
                r#""depth":2,"backend_depth":0,"message_count":2,"message_bytes":4,"paused":false,"#,
                r#""e2e_processing_latency":{{"count":0,"percentiles":null}}}}],"producers":null}}"#
            ),
            start_time
        );
        assert_eq!(text, expected);
    });
}

#[test]
fn stats_contain_channels_clients_and_producers() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut publisher = nsqd.connect().await;
        publisher.publish_batch("t", &["1", "2", "3"]).await;
        let mut consumer = nsqd.connect().await;
        consumer.identify(json!({"feature_negotiation": true, "client_id": "me", "user_agent": "x/1"})).await;
        consumer.subscribe("t", "c").await;
        consumer.ready(2).await;
        let messages = consumer.messages(2).await;
        consumer.finish(&messages[0]).await;
        consumer.message().await;

        let is_done = |channel: &nsq_tests::stats::Channel| channel.clients[0].finish_count == 1;
        nsqd.channel_until("t", "c", "one message is finished", is_done).await;
        let stats = nsqd.get_json("/stats?format=json").await;
        let channel = &stats["topics"][0]["channels"][0];
        for (field, expected) in [
            ("depth", 0),
            ("backend_depth", 0),
            ("in_flight_count", 2),
            ("deferred_count", 0),
            ("message_count", 3),
            ("requeue_count", 0),
            ("timeout_count", 0),
            ("client_count", 1),
        ] {
            assert_eq!(channel[field], expected, "{field}");
        }
        let client = &channel["clients"][0];
        let expected = json!({"client_id": "me", "version": "V2", "state": 3, "ready_count": 2, "in_flight_count": 2,
            "message_count": 3, "finish_count": 1, "requeue_count": 0, "sample_rate": 0, "deflate": false,
            "snappy": false, "user_agent": "x/1", "tls": false, "tls_version": "",
            "remote_address": consumer.local_address().to_string()});
        for (field, expected) in expected.as_object().expect("an object") {
            assert_eq!(&client[field], expected, "{field}");
        }
        assert!(channel["e2e_processing_latency"].is_object());
        let producers = stats["producers"].as_array().expect("producers");
        assert_eq!(producers.len(), 1);
        assert_eq!(producers[0]["pub_counts"], json!([{"topic": "t", "count": 3}]));
        assert!(stats["memory"]["heap_in_use_bytes"].is_u64());
    });
}

#[test]
fn stats_show_what_a_connection_publishes_and_consumes() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.post("/pub?topic=t", "over HTTP").await.expect(200);
        assert_eq!(nsqd.get_json("/stats?format=json").await["producers"], Value::Null, "HTTP is not listed");

        let mut both = nsqd.connect().await;
        both.identify(json!({"sample_rate": 50, "topology_zone": "z", "topology_region": "r",
            "feature_negotiation": true}))
            .await;
        both.publish_batch("t", &["1", "2"]).await;
        both.publish_deferred("u", std::time::Duration::from_secs(60), "3").await;
        both.subscribe("v", "c").await;
        let stats = nsqd.get_json("/stats?format=json").await;
        let consumer = stats["topics"].as_array().and_then(|topics| topics.last()).expect("topic v");
        let consumer = &consumer["channels"][0]["clients"][0];
        for (field, expected) in [
            ("sample_rate", json!(50)),
            ("topology_zone", json!("z")),
            ("topology_region", json!("r")),
            ("state", json!(3)),
            ("version", json!("V2")),
            ("pub_counts", json!([{"topic": "t", "count": 2}, {"topic": "u", "count": 1}])),
        ] {
            assert_eq!(consumer[field], expected, "{field}");
            assert_eq!(stats["producers"][0][field], expected, "{field}");
        }
        let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
        let connected = consumer["connect_ts"].as_u64().expect("seconds");
        assert!((stats["start_time"].as_u64().expect("seconds")..=now).contains(&connected), "{connected}");

        // A topic filter keeps all producers, with their counts for that topic only.
        let stats = nsqd.get_json("/stats?format=json&topic=u").await;
        assert_eq!(stats["producers"][0]["pub_counts"], json!([{"topic": "u", "count": 1}]));
        let stats = nsqd.get_json("/stats?format=json&topic=v").await;
        assert_eq!(stats["producers"][0].get("pub_counts"), None);
        let stats = nsqd.get_json("/stats?format=json&topic=none").await;
        assert_eq!((&stats["topics"], &stats["producers"]), (&Value::Null, &Value::Null));
        let text = nsqd.get("/stats").await.expect(200).text();
        assert!(
            text.contains("\nProducers:\n   [V2 :") && text.contains("topics: t=2,u=1 connected: "),
            "{text}"
        );
    });
}

#[test]
fn stats_can_be_filtered() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        assert_eq!(nsqd.get_json("/stats?format=json").await["topics"], json!([]));
        nsqd.subscribe("b", "c1").await;
        nsqd.subscribe("a", "c2").await;
        let names = async |query: &str| -> Value {
            let stats = nsqd.get_json(&format!("/stats?format=json&{query}")).await;
            match stats["topics"].as_array() {
                None => Value::Null,
                Some(topics) => topics.iter().map(|topic| topic["topic_name"].clone()).collect(),
            }
        };
        assert_eq!(names("").await, json!(["a", "b"]), "sorted by name");
        assert_eq!(names("topic=b").await, json!(["b"]));
        assert_eq!(names("topic=none").await, Value::Null);
        assert_eq!(names("channel=c2").await, json!(["a"]));
        assert_eq!(names("channel=none").await, json!([]));

        let _consumer = nsqd.subscribe("a", "c2").await;
        let with = nsqd.get_json("/stats?format=json&topic=a&include_clients=maybe").await;
        assert_eq!(with["topics"][0]["channels"][0]["clients"].as_array().map(Vec::len), Some(1));
        assert_eq!(with["producers"], Value::Null);
        let without = nsqd.get_json("/stats?format=json&topic=a&include_clients=0&include_mem=0").await;
        assert_eq!(without["topics"][0]["channels"][0]["clients"], Value::Null);
        assert_eq!(without["topics"][0]["channels"][0]["client_count"], 1);
        assert!(without.get("memory").is_none());
    });
}

#[test]
fn stats_are_text_by_default() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let empty = nsqd.get("/stats?include_mem=false").await.expect(200);
        assert_eq!(empty.header("content-type"), Some(TEXT));
        assert_eq!(empty.header(VERSION_HEADER.0), Some(VERSION_HEADER.1));
        assert!(empty.text().contains("Topics: None"), "{}", empty.text());

        let mut consumer = nsqd.subscribe("t", "c").await;
        nsqd.publish("t", "x").await;
        consumer.ready(1).await;
        consumer.message().await;
        let text = nsqd.get("/stats?format=JSON").await.expect(200).text();
        for line in [
            "nsqd v1.3.0",
            "Health: OK",
            "\nMemory:\n",
            "   [t              ] depth: 0     be-depth: 0     msgs: 1        e2e%: ",
            "      [c                        ] depth: 0     be-depth: 0     inflt: 1    def: 0    re-q: 0     timeout: 0     msgs: 1        e2e%: ",
            "state: 3 inflt: 1    rdy: 1    fin: 0        re-q: 0        msgs: 1        connected: ",
        ] {
            assert!(text.contains(line), "{line:?} is not in:\n{text}");
        }
    });
}

#[test]
fn stats_are_available_as_message_pack() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let target = "/stats?format=json&include_mem=false";
        let json = nsqd.get(target).await.expect(200);
        let accept = [("Accept", "application/msgpack")];
        let packed = http::request_with(nsqd.http(), "GET", target, &accept, b"").await.expect(200);
        assert_eq!(packed.header("content-type"), Some("application/msgpack"));
        let unpacked: Value = rmp_serde::from_slice(&packed.body).expect("MessagePack with named fields");
        assert_eq!(unpacked["topics"], json.json()["topics"]);
        // The Accept header of NSQ's tools gets the same answer as from NSQ.
        let accept = [("Accept", "application/vnd.nsq; version=1.0")];
        let plain = http::request_with(nsqd.http(), "GET", target, &accept, b"").await.expect(200);
        assert_eq!(plain.header("content-type"), Some(JSON));
    });
}

#[test]
fn large_statistics_are_complete() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for number in 0..200 {
            nsqd.admin(&format!("/topic/create?topic=topic-{number}")).await;
            for channel in 0..3 {
                nsqd.admin(&format!("/channel/create?topic=topic-{number}&channel=c{channel}")).await;
            }
        }
        let mut consumers = Vec::new();
        for _ in 0..50 {
            consumers.push(nsqd.subscribe("topic-7", "c1").await);
        }
        let answer = nsqd.get("/stats?format=json&include_mem=false").await.expect(200);
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
        let stats = answer.json();
        let topics = stats["topics"].as_array().expect("a list");
        assert_eq!(topics.len(), 200);
        for topic in topics {
            let channels = topic["channels"].as_array().expect("a list");
            let names: Vec<&str> =
                channels.iter().filter_map(|channel| channel["channel_name"].as_str()).collect();
            assert_eq!(names, ["c0", "c1", "c2"]);
        }
        let seven =
            &nsqd.get_json("/stats?format=json&topic=topic-7&channel=c1").await["topics"][0]["channels"][0];
        assert_eq!(seven["clients"].as_array().expect("a list").len(), 50);
        let accept = [("Accept", "application/msgpack")];
        let target = "/stats?include_mem=false";
        let packed = http::request_with(nsqd.http(), "GET", target, &accept, b"").await.expect(200);
        let unpacked: Value = rmp_serde::from_slice(&packed.body).expect("MessagePack with named fields");
        assert_eq!(unpacked["topics"], stats["topics"]);
        let text = nsqd.get("/stats").await.expect(200).text();
        assert_eq!(text.matches("\n   [topic-").count(), 200);
        assert!(nsqd.get("/metrics").await.expect(200).text().contains("nsq_topics 200"));
    });
}

#[test]
fn cross_site_requests_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--http-allowed-origin=https://admin.example").start().await;
        let create = "/topic/create?topic=t";
        for headers in
            [[("Origin", "https://evil.example")], [("Sec-Fetch-Site", "cross-site")], [("Origin", "null")]]
        {
            let refused = http::request_with(nsqd.http(), "POST", create, &headers, b"").await.expect(403);
            assert!(refused.text().contains("CROSS_SITE_REQUEST"), "{}", refused.text());
            let level = http::request_with(nsqd.http(), "PUT", "/config/log_level", &headers, b"debug").await;
            level.expect(403);
            http::request_with(nsqd.http(), "GET", "/ping", &headers, b"").await.expect(200);
        }
        assert_eq!(nsqd.get_json("/stats?format=json").await["topics"], json!([]));
        let own = format!("http://{}", nsqd.http());
        for origin in [own.as_str(), "https://admin.example"] {
            http::request_with(nsqd.http(), "POST", create, &[("Origin", origin)], b"").await.expect(200);
        }
        let (_, log) = Daemon::nsqd().flag("--http-allowed-origin=admin.example").expect_exit().await;
        log.expect("\"admin.example\" is not an origin").await;
    });
}

#[test]
fn info_identifies_the_node() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let info = nsqd.get_json("/info").await;
        let expected = json!({"version": "1.3.0", "broadcast_address": "127.0.0.1", "tcp_port": nsqd.tcp().port(),
            "http_port": nsqd.http().port(), "max_heartbeat_interval": 60_000_000_000u64,
            "max_output_buffer_size": 65_536, "max_output_buffer_timeout": 30_000_000_000u64,
            "max_deflate_level": 6, "topology_zone": "", "topology_region": ""});
        for (field, expected) in expected.as_object().expect("an object") {
            assert_eq!(&info[field], expected, "{field}");
        }
        assert!(info["hostname"].is_string() && info["start_time"].is_u64());
    });
}

// Configuration

#[test]
fn options_can_be_read() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--mem-queue-size=77").flag("--msg-timeout=90s").start().await;
        for (option, expected) in [
            ("mem_queue_size", "77"),
            ("msg_timeout", "90000000000"),
            ("log_level", "2"),
            ("snappy", "true"),
            ("broadcast_address", "127.0.0.1"),
            ("nsqlookupd_tcp_addresses", "[]"),
            ("tls_required", "0"),
            ("max_msg_size", "1048576"),
            ("statsd_address", ""),
        ] {
            let answer = nsqd.get(&format!("/config/{option}")).await.expect(200);
            assert_eq!(answer.text(), expected, "{option}");
        }
        let port = nsqd.get("/config/broadcast_tcp_port").await.expect(200).text();
        assert_eq!(port, nsqd.tcp().port().to_string());
        for option in ["nothing", "node_id", "lookupd_tcp_address", "client_timeout"] {
            nsqd.get(&format!("/config/{option}")).await.expect_error(400, "INVALID_OPTION");
        }
    });
}

#[test]
fn two_options_can_be_changed_while_running() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let put = async |option: &str, value: &str| {
            http::request(nsqd.http(), "PUT", &format!("/config/{option}"), value.as_bytes()).await
        };
        assert_eq!(put("log_level", "DEBUG").await.expect(200).text(), "1");
        assert_eq!(nsqd.get("/config/log_level").await.expect(200).text(), "1");
        put("log_level", "").await.expect_error(413, "INVALID_VALUE");
        put("nothing", "").await.expect_error(413, "INVALID_VALUE");
        for bad in ["warning", "\"info\"", "1", "info\n"] {
            put("log_level", bad).await.expect_error(400, "INVALID_VALUE");
        }
        put("mem_queue_size", "5").await.expect_error(400, "INVALID_OPTION");
        put("nsqlookupd_tcp_addresses", "127.0.0.1:1").await.expect_error(400, "INVALID_VALUE");
        let changed = put("nsqlookupd_tcp_addresses", "[\"127.0.0.1:1\"]").await.expect(200);
        assert_eq!(changed.text(), "[\"127.0.0.1:1\"]");
        assert_eq!(put("nsqlookupd_tcp_addresses", "null").await.expect(200).text(), "null");
    });
}

#[test]
fn requests_are_logged_and_publishes_are_not() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.post("/pub?topic=quiet", "x").await.expect(200);
        nsqd.admin("/topic/create?topic=loud").await;
        nsqd.get("/nothing").await;
        nsqd.log().expect("200 POST /topic/create?topic=loud (127.0.0.1:").await;
        nsqd.log().expect("404 GET /nothing (127.0.0.1:").await;
        assert!(!nsqd.log().contains("/pub?topic=quiet"));
    });
}
