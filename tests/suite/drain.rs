//! Drains: `--sigterm=drain`, `/config/drain`, and what clients, nsqlookupd and tools see of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsq::Producer;
use nsq_tests::prometheus::Page;
use nsq_tests::wire::{Frame, NoFrame, bodies, command};
use nsq_tests::{Daemon, Peer, http, test, test_within, wait};
use rustix::process::Signal;
use serde_json::{Value, json};

async fn status(nsqd: &Daemon) -> Value {
    nsqd.get_json("/config/drain").await
}

async fn begin(nsqd: &Daemon) {
    http::request(nsqd.http(), "PUT", "/config/drain", b"").await.expect(200);
}

async fn end(nsqd: &Daemon) {
    http::request(nsqd.http(), "DELETE", "/config/drain", b"").await.expect(200);
}

async fn until_drained(nsqd: &Daemon) {
    wait::until("nsqd is drained", async || {
        let status = status(nsqd).await;
        wait::when(status.clone(), |status| status["drained"] == true)
    })
    .await;
}

/// An nsqd with the channel t/c.
async fn start(flags: &[&str]) -> Daemon {
    let start = flags.iter().fold(Daemon::nsqd(), |start, flag| start.flag(*flag));
    let nsqd = start.start().await;
    nsqd.admin("/topic/create?topic=t").await;
    nsqd.admin("/channel/create?topic=t&channel=c").await;
    nsqd
}

#[test]
fn a_draining_node_refuses_publishes_and_serves_consumers() {
    test(async {
        let nsqd = start(&[]).await;
        let mut producer = nsqd.connect().await;
        producer.publish_batch("t", &["1", "2", "3"]).await;
        producer.publish_deferred("t", Duration::from_millis(300), "4").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let first = consumer.message().await;
        assert_eq!(status(&nsqd).await["draining"], false);
        assert_eq!(nsqd.get("/ping").await.status, 200);
        begin(&nsqd).await;

        // All publishes are refused, and the connection stays: later commands get their answers.
        producer
            .send([command("PUB t", "x"), command("PUB t", "y"), command("DPUB t 100", "z")].concat())
            .await;
        assert_eq!(producer.error().await, "E_PUB_FAILED exiting");
        assert_eq!(producer.error().await, "E_PUB_FAILED exiting");
        assert_eq!(producer.error().await, "E_DPUB_FAILED exiting");
        producer.line_and_body("MPUB t", nsq_tests::wire::batch(&["x", "y"])).await;
        assert_eq!(producer.error().await, "E_MPUB_FAILED exiting");
        producer.line_and_body("PUB unknown", "x").await;
        assert_eq!(producer.error().await, "E_PUB_FAILED exiting");
        producer.line_and_body("PUB u#ephemeral", "x").await;
        assert_eq!(producer.error().await, "E_PUB_FAILED exiting");
        for target in ["/pub?topic=t", "/mpub?topic=t", "/pub?topic=unknown", "/topic/create?topic=unknown"] {
            nsqd.post(target, "x").await.expect_error(503, "EXITING");
        }
        nsqd.post("/channel/create?topic=t&channel=other", "").await.expect_error(503, "EXITING");
        let mut other = nsqd.connect().await;
        other.line("SUB t other").await;
        other.refused("E_SUB_FAILED SUB failed exiting").await;
        assert_eq!(nsqd.channel("t", "other").await.map(|_| ()), None);
        assert!(nsqd.topic("unknown").await.is_none());

        // Everybody can see it.
        assert_eq!(nsqd.get("/ping").await.status, 503);
        assert_eq!(nsqd.get("/ping").await.text(), "NOK - draining");
        let info = nsqd.get_json("/info").await;
        assert_eq!((&info["draining"], &info["drained"]), (&json!(true), &Value::Null));
        let stats = nsqd.get_json("/stats?format=json").await;
        assert_eq!(stats["drain"]["draining"], true);
        let metrics = Page::parse(&nsqd.get("/metrics").await.text());
        assert_eq!(metrics.value("nsq_draining"), 1.0);
        assert_eq!(metrics.value("nsq_publishes_draining_total"), 7.0);
        assert_eq!(metrics.value("nsq_publishes_refused_total"), 0.0);

        // Consumers go on, new ones too, and every acknowledgement works.
        consumer.ready(0).await;
        consumer.requeue(&first, Duration::from_millis(100)).await;
        let mut late = nsqd.subscribe("t", "c").await;
        late.ready(5).await;
        let mut received = Vec::new();
        while received.len() < 4 {
            let message = late.message().await;
            late.finish(&message).await;
            received.push(message.text());
        }
        received.sort();
        assert_eq!(received, ["1", "2", "3", "4"]);
        until_drained(&nsqd).await;
        assert_eq!(nsqd.get_json("/info").await["drained"], true);

        // It stays up, and serves again when the drain is ended.
        end(&nsqd).await;
        assert_eq!(nsqd.get("/ping").await.status, 200);
        assert_eq!(nsqd.get_json("/info").await["draining"], Value::Null);
        producer.publish("t", "again").await;
        assert_eq!(late.message().await.text(), "again");
    });
}

#[test]
fn drain_does_not_survive_a_restart_and_bad_requests_are_refused() {
    test(async {
        let mut nsqd = start(&[]).await;
        let put = async |target: &str| http::request(nsqd.http(), "PUT", target, b"").await;
        put("/config/drain?timeout=soon")
            .await
            .expect_error(400, "INVALID_ARG_TIMEOUT: must be a duration, such as 90s or 5m");
        assert_eq!(status(&nsqd).await["draining"], false);
        put("/config/drain?timeout=1h").await.expect(200);
        assert!(status(&nsqd).await["deadline_at"].as_i64() > Some(0));
        assert!(nsqd.terminate().await.success());
        nsqd.restart().await;
        assert_eq!(status(&nsqd).await["draining"], false);
        nsqd.publish("t", "x").await;
    });
}

#[test]
fn held_messages_do_not_keep_a_node_from_draining() {
    test(async {
        let nsqd = start(&[]).await;
        nsqd.admin("/channel/set?topic=t&channel=c&max_attempts=1&dead_letter=t.dead").await;
        nsqd.publish("t", "dies").await;
        nsqd.publish("nobody", "x").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        let message = consumer.message().await;
        begin(&nsqd).await;
        let waiting = wait::until("nsqd counts", async || {
            wait::when(status(&nsqd).await, |status| status["held_count"] == 1)
        });
        assert_eq!(waiting.await["drained"], false);
        // The message dies while the node drains. The topic of dead letters is new.
        consumer.requeue(&message, Duration::ZERO).await;
        until_drained(&nsqd).await;
        let drained = status(&nsqd).await;
        assert_eq!((&drained["held_count"], &drained["remaining_count"]), (&json!(2), &json!(0)));
        nsqd.log().expect("NSQ: 2 messages stay on disk").await;
        // A redrive brings it back: consumers have something to do again.
        nsqd.admin("/topic/redrive?topic=t.dead").await;
        assert_eq!(bodies(&consumer.consume(1).await), ["dies"]);
        until_drained(&nsqd).await;
    });
}

#[test]
fn second_signal_stops_at_once_and_so_does_the_end_of_the_time() {
    test(async {
        let mut nsqd = start(&["--sigterm=drain"]).await;
        nsqd.publish("t", "kept").await;
        for second in [Signal::TERM, Signal::INT] {
            nsqd.signal(Signal::TERM);
            nsqd.log().expect("NSQ: draining: 1 messages left in 1 channels").await;
            assert!(nsqd.is_running());
            http::request(nsqd.http(), "DELETE", "/config/drain", b"").await.expect(409);
            nsqd.signal(second);
            assert!(nsqd.exited().await.success());
            nsqd.restart().await;
        }
        // SIGINT does not drain.
        nsqd.signal(Signal::INT);
        assert!(nsqd.exited().await.success());
        nsqd.restart_with(&["--drain-timeout=200ms"]).await;
        assert!(nsqd.terminate().await.success());
        nsqd.log().expect("the time for draining is over; 1 messages in 1 channels stay on disk").await;
        nsqd.restart().await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        assert_eq!(bodies(&consumer.consume(1).await), ["kept"]);
        nsqd.channel_until_finished("t", "c").await;
        assert!(nsqd.terminate().await.success());
        nsqd.log().expect("NSQ: drained: no message is left for consumers").await;
    });
}

/// Takes messages until the connection ends: requeues some at their first delivery, and finishes the others. Returns how
/// often each body was finished. Panics at any refused command.
async fn consume_until_closed(mut consumer: Peer) -> BTreeMap<String, usize> {
    let mut finished = BTreeMap::new();
    consumer.ready(40).await;
    loop {
        match consumer.frame_within(Duration::from_secs(30)).await {
            Ok(Frame::Message(message)) => {
                let text = message.text();
                let is_first = message.attempts == 1;
                if is_first && text.ends_with('7') {
                    consumer.requeue(&message, Duration::from_millis(150)).await;
                } else if is_first && text.ends_with('3') {
                    consumer.requeue(&message, Duration::ZERO).await;
                } else {
                    consumer.finish(&message).await;
                    *finished.entry(text).or_default() += 1;
                }
            }
            Ok(Frame::Response(_)) => consumer.line("NOP").await,
            Ok(Frame::Error(error)) => panic!("refused: {}", String::from_utf8_lossy(&error)),
            Err(NoFrame::Closed) => return finished,
            Err(none) => panic!("nsqd neither delivers nor stops: {none:?}"),
        }
    }
}

#[test]
fn nothing_is_lost_when_a_node_drains_under_load() {
    test_within(Duration::from_secs(120), async {
        let mut leaving = start(&["--sigterm=drain", "--drain-timeout=60s"]).await;
        let staying = start(&[]).await;
        let addresses = [leaving.tcp().to_string(), staying.tcp().to_string()];
        let both = Producer::builder().nsqd(addresses).build().expect("addresses");
        let stop = Arc::new(AtomicBool::new(false));
        let producers: Vec<_> = (0..4)
            .map(|producer| {
                let (both, stop) = (both.clone(), stop.clone());
                tokio::spawn(async move {
                    let mut count = 0;
                    while !stop.load(Ordering::Relaxed) {
                        let body = format!("{producer}-{count}");
                        match count % 3 {
                            0 => both.publish_many("t", [body]).await.expect("a batch is accepted somewhere"),
                            1 => drop(both.publish("t", body).await.expect("accepted somewhere")),
                            _ => {
                                let delay = Duration::from_millis(100);
                                both.publish_deferred("t", delay, body).await.expect("accepted somewhere");
                            }
                        }
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut consumers = Vec::new();
        for nsqd in [&leaving, &leaving, &staying] {
            consumers.push(tokio::spawn(consume_until_closed(nsqd.subscribe("t", "c").await)));
        }
        leaving.channel_until("t", "c", "there is traffic", |channel| channel.message_count > 300).await;
        leaving.signal(Signal::TERM);
        assert!(leaving.exited().await.success());
        let alone = staying.channel("t", "c").await.expect("a channel").message_count;
        staying
            .channel_until("t", "c", "there is traffic", |channel| channel.message_count > alone + 50)
            .await;
        stop.store(true, Ordering::Relaxed);
        let mut published = Vec::new();
        for (producer, task) in producers.into_iter().enumerate() {
            let count: usize = task.await.expect("no publish fails");
            published.extend((0..count).map(|number| format!("{producer}-{number}")));
        }
        let mut staying = staying;
        staying.channel_until_finished("t", "c").await;
        assert!(staying.terminate().await.success());
        let mut finished = BTreeMap::new();
        for consumer in consumers {
            for (body, count) in consumer.await.expect("no acknowledgement is refused") {
                *finished.entry(body).or_insert(0) += count;
            }
        }
        let lost: Vec<_> = published.iter().filter(|body| !finished.contains_key(*body)).collect();
        let doubled: Vec<_> = finished.iter().filter(|(_, count)| **count > 1).collect();
        assert!(lost.is_empty() && doubled.is_empty(), "lost {lost:?}, doubled {doubled:?}");
        assert_eq!(finished.len(), published.len());

        // Nothing is on the disk of the node that left.
        leaving.restart().await;
        assert_eq!(leaving.channel("t", "c").await.expect("a channel").unfinished(), 0);
    });
}

#[test]
fn single_node_producer_learns_that_its_node_drains() {
    test(async {
        let nsqd = start(&[]).await;
        let producer = Producer::new(nsqd.tcp().to_string()).expect("an address");
        producer.publish("t", "1").await.expect("it serves");
        begin(&nsqd).await;
        let refused = producer.publish("t", "2").await.expect_err("it drains");
        assert!(refused.is_draining() && !refused.is_topic_full() && !refused.is_unknown(), "{refused}");
        let batch = producer.publish_many("t", ["3", "4"]).await.expect_err("it drains");
        assert!(batch.acknowledged == 0 && batch.error.is_draining(), "{batch}");
        end(&nsqd).await;
        producer.publish("t", "5").await.expect("the same connection is usable");
        assert_eq!(nsqd.channel("t", "c").await.expect("a channel").message_count, 2);
    });
}

#[test]
fn nsqlookupd_and_the_nsq_command_show_draining_nodes() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        nsqd.publish("t", "1").await;
        let shown = async |target: &str| lookupd.get_json(target).await["producers"][0]["draining"].clone();
        let until = async |wanted: Value| {
            wait::until("nsqlookupd knows", async || {
                let seen = [shown("/nodes").await, shown("/lookup?topic=t").await];
                wait::when(seen, |seen| *seen == [wanted.clone(), wanted.clone()])
            })
            .await;
        };
        wait::until("the node is registered", async || {
            let answer = lookupd.get("/lookup?topic=t").await;
            wait::when(answer.status, |status| *status == 200)
        })
        .await;
        until(Value::Null).await;
        begin(&nsqd).await;
        until(json!(true)).await;
        end(&nsqd).await;
        until(Value::Null).await;

        let nsq = async |arguments: &str| {
            let mut command = tokio::process::Command::new(nsq_tests::daemon::binary("nsq"));
            command.arg("--lookupd").arg(lookupd.http().to_string()).args(arguments.split(' '));
            let output = command.kill_on_drop(true).output().await.expect("nsq runs");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let node = nsqd.http();
        let (code, stdout, stderr) = nsq(&format!("--json node drain {node}")).await;
        assert_eq!(code, Some(0), "{stderr}");
        let answer: Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!((&answer["node"], &answer["draining"]), (&json!(node.to_string()), &json!(true)));
        let (_, stdout, _) = nsq("node list").await;
        assert!(stdout.contains("draining"), "{stdout}");
        // One message is held, as the topic has no channel: the node is drained.
        let (code, stdout, _) = nsq(&format!("node drain {node} --wait")).await;
        assert_eq!((code, stdout), (Some(0), format!("{node} is drained, 1 messages held\n")));
        let (code, stdout, _) = nsq(&format!("node drain {node} --stop-draining")).await;
        assert_eq!((code, stdout), (Some(0), format!("{node} accepts publishes\n")));
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let (code, _, stderr) = nsq(&format!("node drain {node} --wait --wait-timeout 1s")).await;
        assert_eq!(code, Some(7));
        assert!(stderr.contains("is not drained after 1s: 1 messages are left in 1 channels"), "{stderr}");
        let (code, _, stderr) = nsq("node drain nowhere:1").await;
        assert_eq!(code, Some(4));
        assert!(stderr.contains(&node.to_string()), "{stderr}");
    });
}
