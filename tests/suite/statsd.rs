use std::collections::BTreeMap;
use std::time::Duration;

use nsq_tests::{Daemon, test, wait};
use tokio::net::UdpSocket;

/// Keys after `topic.<topic>.`, with their types.
const TOPIC_KEYS: [(&str, &str); 6] = [
    ("message_count", "c"),
    ("message_bytes", "c"),
    ("depth", "g"),
    ("backend_depth", "g"),
    ("e2e_processing_latency_99", "g"),
    ("e2e_processing_latency_50", "g"),
];

/// Keys after `topic.<topic>.channel.<channel>.`, with their types.
const CHANNEL_KEYS: [(&str, &str); 10] = [
    ("message_count", "c"),
    ("depth", "g"),
    ("backend_depth", "g"),
    ("in_flight_count", "g"),
    ("deferred_count", "g"),
    ("requeue_count", "c"),
    ("timeout_count", "c"),
    ("clients", "g"),
    ("e2e_processing_latency_99", "g"),
    ("e2e_processing_latency_50", "g"),
];

const MEMORY_KEYS: [(&str, &str); 9] = [
    ("heap_objects", "g"),
    ("heap_idle_bytes", "g"),
    ("heap_in_use_bytes", "g"),
    ("heap_released_bytes", "g"),
    ("gc_pause_usec_100", "g"),
    ("gc_pause_usec_99", "g"),
    ("gc_pause_usec_95", "g"),
    ("next_gc_bytes", "g"),
    ("gc_runs", "c"),
];

/// A statsd that records the order of keys, the sums of counters and the last values of gauges.
struct Statsd {
    socket: UdpSocket,
    packets: Vec<String>,
    keys: Vec<(String, String)>,
    values: BTreeMap<String, i64>,
}

impl Statsd {
    async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        Statsd { socket, packets: Vec::new(), keys: Vec::new(), values: BTreeMap::new() }
    }

    fn flag(&self) -> String {
        format!("--statsd-address={}", self.socket.local_addr().expect("an address"))
    }

    fn take(&mut self, packet: &str) {
        assert!(packet.ends_with('\n'), "a packet ends with a complete line: {packet:?}");
        for line in packet.lines() {
            let (key, value) = line.split_once(':').expect("key and value");
            let (value, kind) = value.split_once('|').expect("value and type");
            let value: i64 = value.parse().expect("an integer");
            let total = self.values.entry(key.to_owned()).or_default();
            *total = if kind == "c" { *total + value } else { value };
            let known = (key.to_owned(), kind.to_owned());
            if !self.keys.contains(&known) {
                self.keys.push(known);
            }
        }
        self.packets.push(packet.to_owned());
    }

    /// Receives packets until the newest values are the wanted ones.
    async fn until(&mut self, wanted: &[(&str, i64)]) {
        let mut buf = vec![0; 65_536];
        wait::until("statsd has the wanted values", async || {
            let received = tokio::time::timeout(Duration::from_millis(50), self.socket.recv(&mut buf)).await;
            if let Ok(length) = received {
                let length = length.expect("the socket works");
                self.take(std::str::from_utf8(&buf[..length]).expect("text"));
            }
            let current = |key: &str| self.values.get(key).copied();
            let missing: Vec<_> = wanted.iter().filter(|(key, value)| current(key) != Some(*value)).collect();
            if missing.is_empty() {
                Ok(())
            } else {
                Err(format!("wanted {missing:?}, have {:?}", self.values))
            }
        })
        .await;
    }
}

#[test]
fn every_key_is_pushed() {
    test(async {
        let mut statsd = Statsd::start().await;
        let nsqd = Daemon::nsqd()
            .flag(statsd.flag())
            .flag("--statsd-interval=200ms")
            .flag("--e2e-processing-latency-percentile=0.5,0.99")
            .start()
            .await;
        let mut consumer = nsqd.subscribe("a.b", "c.d#ephemeral").await;
        nsqd.connect().await.publish_batch("a.b", &["1", "22", "333"]).await;
        consumer.ready(2).await;
        let messages = consumer.messages(2).await;
        consumer.finish(&messages[0]).await;
        consumer.requeue(&messages[1], Duration::from_secs(60)).await;
        let prefix = format!("nsq.127_0_0_1_{}.", nsqd.http().port());
        let (topic, channel) =
            (format!("{prefix}topic.a.b."), format!("{prefix}topic.a.b.channel.c.d#ephemeral."));
        let wanted = [
            (format!("{topic}message_count"), 3),
            (format!("{topic}message_bytes"), 6),
            (format!("{channel}message_count"), 3),
            (format!("{channel}depth"), 0),
            (format!("{channel}in_flight_count"), 1),
            (format!("{channel}deferred_count"), 1),
            (format!("{channel}requeue_count"), 1),
            (format!("{channel}clients"), 1),
            (format!("{prefix}mem.gc_runs"), 0),
        ];
        let wanted: Vec<_> = wanted.iter().map(|(key, value)| (&**key, *value)).collect();
        statsd.until(&wanted).await;
        // Counters are pushed as differences, so another push does not change their sums.
        let packets = statsd.packets.len();
        while statsd.packets.len() < packets + 8 {
            statsd.until(&wanted).await;
        }
        let expected: Vec<(String, String)> =
            (TOPIC_KEYS.iter().map(|(key, kind)| (format!("{topic}{key}"), kind)))
                .chain(CHANNEL_KEYS.iter().map(|(key, kind)| (format!("{channel}{key}"), kind)))
                .chain(MEMORY_KEYS.iter().map(|(key, kind)| (format!("{prefix}mem.{key}"), kind)))
                .map(|(key, kind)| (key, (*kind).to_owned()))
                .collect();
        let mut pushed = statsd.keys.clone();
        // The first pushes may have come before the topic existed.
        pushed.sort_by_key(|key| expected.iter().position(|known| known == key));
        assert_eq!(pushed, expected);
        let lines: Vec<&str> = statsd.packets.iter().flat_map(|packet| packet.lines()).collect();
        let begins = lines.iter().rposition(|line| line.starts_with(&format!("{topic}message_count:")));
        let last: Vec<&str> = (lines[begins.expect("message_count is pushed")..].iter())
            .map(|line| line.split(':').next().unwrap_or_default())
            .collect();
        assert!(
            expected.iter().map(|(key, _)| &**key).zip(&last).all(|(key, pushed)| key == *pushed),
            "{last:?}"
        );
        assert!(statsd.packets.iter().all(|packet| packet.len() <= 508));
        assert!(statsd.values[&format!("{prefix}mem.heap_in_use_bytes")] > 100_000);
        assert!(statsd.values[&format!("{channel}e2e_processing_latency_99")] > 1_000);
        assert_eq!(
            nsqd.get("/config/statsd_prefix").await.text(),
            prefix,
            "/config returns the prefix in use"
        );
    });
}

#[test]
fn prefix_packet_size_and_exclusions_apply() {
    test(async {
        let mut statsd = Statsd::start().await;
        let nsqd = Daemon::nsqd()
            .flag(statsd.flag())
            .flag("--statsd-interval=100ms")
            .flag("--statsd-prefix=")
            .flag("--statsd-udp-packet-size=60")
            .flag("--statsd-mem-stats=false")
            .flag("--statsd-exclude-ephemeral")
            .start()
            .await;
        nsqd.admin("/topic/create?topic=gone%23ephemeral").await;
        nsqd.publish("stays", "x").await;
        nsqd.admin("/channel/create?topic=stays&channel=c").await;
        nsqd.admin("/channel/create?topic=stays&channel=gone%23ephemeral").await;
        statsd.until(&[("topic.stays.message_count", 1), ("topic.stays.channel.c.depth", 1)]).await;
        assert!(statsd.keys.iter().all(|(key, _)| key.starts_with("topic.stays.") && !key.contains("gone")));
        assert!(statsd.packets.iter().all(|packet| packet.len() <= 60));
        assert!(statsd.packets.iter().any(|packet| packet.lines().count() > 1), "{:?}", statsd.packets);
    });
}

#[test]
fn counts_before_a_restart_are_not_pushed_again() {
    test(async {
        let mut statsd = Statsd::start().await;
        let mut nsqd = Daemon::nsqd()
            .flag(statsd.flag())
            .flag("--statsd-interval=100ms")
            .flag("--statsd-prefix=x")
            .start()
            .await;
        nsqd.publish("t", "1").await;
        statsd.until(&[("x.topic.t.message_count", 1)]).await;
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        nsqd.publish("t", "2").await;
        statsd.until(&[("x.topic.t.message_count", 2), ("x.topic.t.depth", 2)]).await;
    });
}

#[test]
fn missing_statsd_does_no_harm() {
    test(async {
        let nsqd =
            Daemon::nsqd().flag("--statsd-address=127.0.0.1:9").flag("--statsd-interval=20ms").start().await;
        nsqd.log().expect("STATSD: pushing stats to 127.0.0.1:9").await;
        nsqd.publish("t", "x").await;
        assert_eq!(nsqd.get("/ping").await.text(), "OK");
        let unknown = Daemon::nsqd()
            .flag("--statsd-address=no.such.host.invalid:1")
            .flag("--statsd-interval=20ms")
            .start()
            .await;
        unknown.log().expect("STATSD: failed to push stats").await;
        unknown.publish("t", "x").await;
    });
}

/// NSQ does not have these keys.
#[test]
fn dead_letters_and_expired_messages_are_pushed() {
    test(async {
        let mut statsd = Statsd::start().await;
        let nsqd = Daemon::nsqd()
            .flag(statsd.flag())
            .flag("--statsd-interval=200ms")
            .flag("--statsd-prefix=nsq")
            .start()
            .await;
        for channel in ["fails", "expires", "plain"] {
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin(&format!("/channel/create?topic=t&channel={channel}")).await;
        }
        nsqd.admin("/channel/set?topic=t&channel=fails&max_attempts=1").await;
        nsqd.admin("/channel/set?topic=t&channel=expires&ttl=10ms").await;
        let mut consumer = nsqd.subscribe("t", "fails").await;
        nsqd.connect().await.publish_batch("t", &["1", "2"]).await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        consumer.ready(0).await;
        consumer.requeue(&message, Duration::ZERO).await;
        let wanted = [
            ("nsq.topic.t.channel.fails.dead_lettered_count", 1),
            ("nsq.topic.t.channel.fails.dead_letter_pending", 0),
            ("nsq.topic.t.channel.fails.expired_count", 0),
            ("nsq.topic.t.channel.expires.dead_lettered_count", 0),
            ("nsq.topic.t.channel.expires.expired_count", 2),
            ("nsq.topic.t.channel.plain.message_count", 2),
        ];
        statsd.until(&wanted).await;
        let is_ours = |key: &String| key.contains("dead_letter") || key.contains("expired");
        assert!(!statsd.values.keys().any(|key| key.contains("plain") && is_ours(key)));
    });
}
