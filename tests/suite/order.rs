//! `order`, `fair`, `rate` and `max_in_flight`: channels that deliver messages one after the other, or not too fast.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::headers::{Headers, put_published};
use nsq_tests::stats::until_equal;
use nsq_tests::wait::until_within;
use nsq_tests::wire::{Frame, Message, Peer, batch, bodies};
use nsq_tests::{Daemon, test, test_within, wait};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

async fn with_channel(settings: &str) -> Daemon {
    let nsqd = Daemon::nsqd().flag("--mem-queue-size=100").start().await;
    nsqd.admin("/topic/create?topic=t").await;
    nsqd.admin("/channel/create?topic=t&channel=c").await;
    nsqd.admin(&format!("/channel/set?topic=t&channel=c&{settings}")).await;
    nsqd
}

fn keyed(key: &str, body: &str) -> Vec<u8> {
    let (text, mut message) = (json!({ "nsq-key": key }).to_string(), Vec::new());
    put_published(&mut message, Headers::trusted(text.as_bytes()), body.as_bytes());
    message
}

async fn publish(nsqd: &Daemon, messages: &[(&str, &str)]) {
    let mut peer = nsqd.connect().await;
    let messages: Vec<_> = messages.iter().map(|(key, body)| keyed(key, body)).collect();
    peer.line_and_body("MPUB_EXT t", batch(&messages)).await;
    peer.ok().await;
}

async fn channel_stats(nsqd: &Daemon) -> Value {
    nsqd.get_json("/stats?format=json&topic=t&channel=c").await["topics"][0]["channels"][0].clone()
}

#[test]
fn next_message_of_a_key_follows_the_fin_of_the_one_before() {
    test(async {
        let nsqd = with_channel("order=key").await;
        publish(&nsqd, &[("a", "a1"), ("a", "a2"), ("b", "b1"), ("a", "a3")]).await;
        nsqd.publish("t", "plain").await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(10).await;
        let first = peer.messages(3).await;
        assert_eq!(bodies(&first), ["a1", "b1", "plain"]);
        peer.nothing().await;
        let order = channel_stats(&nsqd).await["order"].clone();
        assert_eq!(
            order,
            json!({
                "held_count": 2, "blocked_key_count": 1, "blocked_key": "a", "blocked_key_held_count": 2,
                "blocked_by": first[0].id_text(), "blocked_by_client": peer.local_address().to_string(),
            })
        );
        let page = nsqd.metrics().await;
        assert_eq!(page.value("nsq_channel_held{topic=\"t\",channel=\"c\"}"), 2.0);
        // A message that failed comes again before the others of its key.
        peer.requeue(&first[0], Duration::ZERO).await;
        let again = peer.message().await;
        assert_eq!((again.text().as_str(), again.attempts), ("a1", 2));
        peer.finish(&again).await;
        assert_eq!(bodies(&peer.consume(2).await), ["a2", "a3"]);
        for message in &first[1..] {
            peer.finish(message).await;
        }
        let channel = nsqd.channel_until_finished("t", "c").await;
        assert_eq!(channel.depth, 0);
    });
}

#[test]
fn requeued_message_blocks_its_key_or_lets_others_pass() {
    test(async {
        for (on_requeue, expected) in [("block", &["b1"][..]), ("skip", &["a2", "b1"])] {
            let nsqd = with_channel(&format!("order=key&order_on_requeue={on_requeue}")).await;
            publish(&nsqd, &[("a", "a1"), ("a", "a2")]).await;
            let mut peer = nsqd.subscribe("t", "c").await;
            peer.ready(10).await;
            let first = peer.message().await;
            peer.requeue(&first, Duration::from_secs(600)).await;
            publish(&nsqd, &[("b", "b1")]).await;
            let mut came = bodies(&peer.messages(expected.len()).await);
            came.sort_unstable();
            assert_eq!(came, expected, "{on_requeue}");
            peer.nothing().await;
        }
    });
}

#[test]
fn order_of_all_messages_delivers_one_at_a_time_and_ends_when_it_is_unset() {
    test(async {
        let nsqd = with_channel("order=all").await;
        for number in 0..5 {
            nsqd.publish("t", number.to_string()).await;
        }
        let mut peers = [nsqd.subscribe("t", "c").await, nsqd.subscribe("t", "c").await];
        peers[0].ready(10).await;
        let first = peers[0].message().await;
        peers[1].ready(10).await;
        peers[1].nothing().await;
        assert_eq!(first.text(), "0");
        nsqd.admin("/channel/set?topic=t&channel=c&order=none").await;
        nsqd.channel_until("t", "c", "all are in flight", |channel| channel.in_flight_count == 5).await;
        // And back, while they are in flight: nothing else comes before all are finished.
        nsqd.admin("/channel/set?topic=t&channel=c&order=all").await;
        nsqd.publish("t", "5").await;
        peers[0].finish(&first).await;
        let channel =
            nsqd.channel_until("t", "c", "one was finished", |channel| channel.in_flight_count == 4).await;
        assert_eq!(channel.depth, 1);
    });
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    test(async {
        let nsqd = with_channel("order=key").await;
        let refused = nsqd.post("/channel/set?topic=t&channel=c&fair=key", "").await;
        assert_eq!(refused.status, 400);
        assert!(refused.text().contains("order=key and fair=key exclude each other"), "{}", refused.text());
        nsqd.admin("/channel/set?topic=t&channel=c&order=none&fair=key").await;
        let refused = nsqd.post("/channel/set?topic=t&channel=c&rate=fast", "").await;
        assert!(refused.text().contains("rate=fast: it is not NUMBER/UNIT"), "{}", refused.text());
        let explained = nsqd.get_json("/policy/explain?topic=t&channel=c").await;
        let settings = explained["settings"].as_array().expect("a list");
        let fair = settings.iter().find(|setting| setting["name"] == "fair").expect("it is listed");
        assert_eq!((&fair["value"], &fair["origin"]), (&json!("key"), &json!("api")));
    });
}

#[test]
fn quiet_keys_pass_a_key_with_more_than_its_share() {
    test(async {
        let nsqd = with_channel("fair=key").await;
        let loud: Vec<String> = (0..500).map(|number| format!("loud{number}")).collect();
        let mut messages: Vec<(&str, &str)> = loud.iter().map(|body| ("loud", body.as_str())).collect();
        messages.push(("quiet", "quiet"));
        publish(&nsqd, &messages).await;
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(10).await;
        let first = peer.messages(10).await;
        assert!(bodies(&first).contains(&"quiet".to_owned()), "{:?}", bodies(&first));
        for message in &first {
            peer.finish(message).await;
        }
        assert_eq!(peer.consume(491).await.len(), 491, "no message is lost or waits for ever");
        nsqd.channel_until_finished("t", "c").await;
    });
}

#[test]
fn a_limit_of_messages_in_flight_is_one_of_all_consumers() {
    test(async {
        let nsqd = with_channel("max_in_flight=3").await;
        for number in 0..10 {
            nsqd.publish("t", number.to_string()).await;
        }
        let mut peers = [nsqd.subscribe("t", "c").await, nsqd.subscribe("t", "c").await];
        for peer in &mut peers {
            peer.ready(10).await;
        }
        let channel =
            nsqd.channel_until("t", "c", "three are in flight", |channel| channel.in_flight_count == 3).await;
        assert_eq!(channel.depth, 7);
        assert_eq!(channel_stats(&nsqd).await["in_flight_limit_reached"], json!(true));
        nsqd.admin("/channel/set?topic=t&channel=c&max_in_flight=0").await;
        nsqd.channel_until("t", "c", "all are in flight", |channel| channel.in_flight_count == 10).await;
    });
}

#[test]
fn a_rate_delivers_its_burst_and_then_waits() {
    test(async {
        let nsqd = with_channel("rate=1/h&burst=4").await;
        for number in 0..6 {
            nsqd.publish("t", number.to_string()).await;
        }
        let mut peer = nsqd.subscribe("t", "c").await;
        peer.ready(10).await;
        assert_eq!(bodies(&peer.consume(4).await), ["0", "1", "2", "3"]);
        peer.nothing().await;
        let stats = channel_stats(&nsqd).await;
        assert_eq!((&stats["throttled"], &stats["depth"]), (&json!(true), &json!(2)));
        until_equal("the waiting time is counted", true, async || {
            channel_stats(&nsqd).await["throttled_ms"].as_u64().is_some_and(|ms| ms > 0)
        })
        .await;
        nsqd.admin("/channel/set?topic=t&channel=c&rate=default").await;
        assert_eq!(bodies(&peer.consume(2).await), ["4", "5"]);
        let began = Instant::now();
        nsqd.admin("/channel/set?topic=t&channel=c&rate=20/s&burst=1").await;
        for number in 0..11 {
            nsqd.publish("t", number.to_string()).await;
        }
        peer.consume(11).await;
        assert!(began.elapsed() >= Duration::from_millis(500), "{:?}", began.elapsed());
    });
}

/// How long ten messages after a first one take.
async fn time_for_ten(nsqd: &Daemon, peer: &mut Peer) -> Duration {
    let began = Instant::now();
    for number in 0..11 {
        nsqd.publish("t", number.to_string()).await;
    }
    peer.consume(11).await;
    began.elapsed()
}

#[test]
fn a_total_rate_is_divided_between_the_nodes_of_the_topic() {
    test_within(Duration::from_secs(60), async {
        let lookupd = Daemon::lookupd().start().await;
        let mut nodes = Vec::new();
        for number in 1..=3 {
            let nsqd = Daemon::nsqd().lookupd(&lookupd).flag(format!("--node-id={number}")).start().await;
            nsqd.admin("/topic/create?topic=t").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
            nodes.push(nsqd);
        }
        let are_known = async |count: usize| {
            until_equal("the nodes are known", count, async || {
                let known = lookupd.get_json("/lookup?topic=t").await;
                known["producers"].as_array().map_or(0, Vec::len)
            })
            .await;
        };
        let set = "/channel/set?topic=t&channel=c&rate=60/s%20total&burst=1";
        are_known(3).await;
        let mut peers = Vec::new();
        for nsqd in &nodes {
            nsqd.admin(set).await;
            let mut peer = nsqd.subscribe("t", "c").await;
            peer.ready(20).await;
            peers.push(peer);
        }
        // Each node gets a third: ten messages take half a second.
        for (nsqd, peer) in nodes.iter().zip(&mut peers) {
            wait::until("the rate is a third", async || {
                let took = time_for_ten(nsqd, peer).await;
                wait::when(took, |took| *took >= Duration::from_millis(480))
            })
            .await;
        }
        // A node that died no longer counts. nsqd asks every 15 s, and when the setting is made.
        nodes[2].kill().await;
        are_known(2).await;
        nodes[0].admin(set).await;
        wait::until("the rate is half", async || {
            let took = time_for_ten(&nodes[0], &mut peers[0]).await;
            wait::when(took, |took| (320..450).contains(&took.as_millis()))
        })
        .await;
    });
}

/// Number of keys in [`keys_stay_in_order_through_requeues_timeouts_and_kills`], such as 10000.
const KEYS: &str = "NSQ_TESTS_ORDER_KEYS";
const MESSAGES_PER_KEY: usize = 10;
const CONSUMERS: u64 = 64;
/// So many of them never finish a message: they requeue it at once or let it time out.
const SLOPPY: u64 = 4;

/// What consumers saw of one key.
#[derive(Default, Clone, Copy)]
struct Seen {
    /// The number of the first message that no consumer finished.
    next: usize,
    /// A careful consumer has the message.
    is_held: bool,
}

#[derive(Default)]
struct Ledger {
    keys: HashMap<usize, Seen>,
    finished: usize,
    wrong: Vec<String>,
    /// The highest number that was finished of each key before the last kill: its FIN may be lost.
    may_repeat: HashMap<usize, usize>,
}

impl Ledger {
    fn came(&mut self, key: usize, number: usize, is_careful: bool) {
        let repeats_from = self.may_repeat.get(&key).copied();
        let seen = self.keys.entry(key).or_default();
        if seen.is_held {
            self.wrong.push(format!("{key}/{number} came while another one of the key is in flight"));
        }
        if number != seen.next {
            // FINs just before a kill may be lost, and the messages come again, in order.
            if number < seen.next && repeats_from.is_some_and(|until| number < until) {
                self.finished -= seen.next - number;
                seen.next = number;
            } else {
                self.wrong.push(format!("{key}/{number} came instead of {}", seen.next));
            }
        }
        self.may_repeat.remove(&key);
        seen.is_held = is_careful;
    }

    fn ended(&mut self, key: usize, is_finished: bool) {
        let seen = self.keys.entry(key).or_default();
        seen.is_held = false;
        if is_finished {
            seen.next += 1;
            self.finished += 1;
        }
    }

    fn killed(&mut self) {
        self.may_repeat = self.keys.iter().map(|(&key, seen)| (key, seen.next)).collect();
        self.keys.values_mut().for_each(|seen| seen.is_held = false);
    }
}

async fn next_message(peer: &mut Peer, stop: &mut watch::Receiver<bool>) -> Option<Message> {
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return None,
            frame = peer.frame_within(Duration::from_secs(600)) => match frame {
                Ok(Frame::Message(message)) => return Some(message),
                // The message timed out before a sloppy consumer requeued it.
                Ok(_) => {}
                Err(_) => return None,
            },
        }
    }
}

async fn consume(mut peer: Peer, number: u64, ledger: Arc<Mutex<Ledger>>, mut stop: watch::Receiver<bool>) {
    let is_careful = number >= SLOPPY;
    let mut random = SmallRng::seed_from_u64(number);
    let timeout_ms = if is_careful { 600_000 } else { 1000 };
    peer.identify(json!({ "msg_timeout": timeout_ms, "feature_negotiation": true })).await;
    peer.subscribe("t", "c").await;
    peer.ready(if is_careful { 20 } else { 1 }).await;
    while let Some(message) = next_message(&mut peer, &mut stop).await {
        let text = message.text();
        let (key, of_key) = text.split_once('/').expect("key and number");
        let (key, of_key) = (key.parse().expect("a number"), of_key.parse().expect("a number"));
        ledger.lock().came(key, of_key, is_careful);
        match random.random_range(0..20) {
            _ if !is_careful && random.random() => peer.requeue(&message, Duration::ZERO).await,
            _ if !is_careful => {}
            0 => {
                ledger.lock().ended(key, false);
                peer.requeue(&message, Duration::ZERO).await;
            }
            1 => {
                ledger.lock().ended(key, false);
                peer.requeue(&message, Duration::from_millis(random.random_range(1..50))).await;
            }
            _ => {
                ledger.lock().ended(key, true);
                peer.finish(&message).await;
            }
        }
    }
}

/// 64 consumers requeue messages, let them time out, and nsqd is killed twice. Each message of a key comes only after the one
/// before was finished.
#[test]
fn keys_stay_in_order_through_requeues_timeouts_and_kills() {
    let keys: usize = std::env::var(KEYS).map_or(300, |text| text.parse().expect("a number"));
    let count = keys * MESSAGES_PER_KEY;
    test_within(Duration::from_secs(240 + count as u64 / 100), async move {
        let mut nsqd = Daemon::nsqd()
            .flag("--mem-queue-size=500")
            .flag("--max-msg-timeout=15m")
            .flag("--msg-timeout=10m")
            .start()
            .await;
        nsqd.admin("/topic/create?topic=t").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        nsqd.admin("/channel/set?topic=t&channel=c&order=key").await;
        let mut producer = nsqd.connect().await;
        for number in 0..MESSAGES_PER_KEY {
            let all: Vec<usize> = (0..keys).collect();
            for keys in all.chunks(500) {
                let messages: Vec<_> =
                    keys.iter().map(|key| keyed(&format!("key{key}"), &format!("{key}/{number}"))).collect();
                producer.line_and_body("MPUB_EXT t", batch(&messages)).await;
                producer.ok().await;
            }
        }
        drop(producer);
        let ledger: Arc<Mutex<Ledger>> = Arc::default();
        for life in 1..=3 {
            let (stop_tx, stop_rx) = watch::channel(false);
            let mut consumers = JoinSet::new();
            for number in 0..CONSUMERS {
                let peer = nsqd.connect().await;
                consumers.spawn(consume(peer, number, ledger.clone(), stop_rx.clone()));
            }
            let wanted = if life == 3 { count } else { count * life as usize / 3 };
            let limit = Duration::from_secs(120 + count as u64 / 200);
            until_within(limit, "enough messages are finished", async || {
                let ledger = ledger.lock();
                let is_enough = !ledger.wrong.is_empty() || ledger.finished >= wanted;
                if is_enough { Ok(()) } else { Err(ledger.finished) }
            })
            .await;
            if life == 3 {
                nsqd.channel_until_finished("t", "c").await;
            }
            let _ = stop_tx.send(true);
            while let Some(ended) = consumers.join_next().await {
                ended.expect("a consumer does not panic");
            }
            {
                let mut ledger = ledger.lock();
                let some = &ledger.wrong[..ledger.wrong.len().min(5)];
                assert!(some.is_empty(), "{} wrong: {some:?}", ledger.wrong.len());
                ledger.killed();
            }
            if life < 3 {
                nsqd.kill().await;
                nsqd.restart().await;
            }
        }
        let ledger = ledger.lock();
        assert_eq!(ledger.finished, count);
        assert!(ledger.keys.values().all(|seen| seen.next == MESSAGES_PER_KEY));
    });
}
