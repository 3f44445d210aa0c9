use std::process::Stdio;

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test, wait};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// Runs an example of the client library to its end with `input` on stdin; returns its stdout.
async fn run(name: &str, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(binary(&format!("examples/{name}")))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the example starts");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(input.as_bytes()).await.expect("the example reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("the example ends");
    assert!(output.status.success(), "{name}: {}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

fn lines(count: usize) -> String {
    (0..count).map(|number| format!("order {number}\n")).collect()
}

#[test]
fn lines_pass_from_publish_to_stream() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=archive").await;
        run("publish", &[&address, "orders"], &lines(2000)).await;
        assert_eq!(run("stream", &[&address, "orders", "archive", "2000"], "").await, lines(2000));
    });
}

#[test]
fn consume_finds_its_messages_through_lookupd() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        run("publish", &[&nsqd.tcp().to_string(), "orders"], &lines(20)).await;
        let printed = run("consume", &[&lookupd.http().to_string(), "orders", "billing", "20"], "").await;
        let mut got: Vec<&str> = printed.lines().collect();
        got.sort_unstable();
        let sent = lines(20);
        let mut expected: Vec<&str> = sent.lines().collect();
        expected.sort_unstable();
        assert_eq!(got, expected);
    });
}

#[test]
fn request_reply_gets_its_answer() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        assert_eq!(run("request_reply", &[&nsqd.tcp().to_string()], "").await, "WHAT IS IT?\n");
    });
}

/// Starts an example that runs until it gets a signal.
fn start(name: &str, argument: &str) -> Child {
    Command::new(binary(&format!("examples/{name}")))
        .arg(argument)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the example starts")
}

/// Sends SIGTERM, and returns what the example has printed.
async fn terminate(child: Child) -> String {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it runs");
    kill_process(pid, Signal::TERM).expect("our own child");
    let output = child.wait_with_output().await.expect("the example ends");
    assert!(output.status.success(), "{}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn pipeline_charges_orders_and_keeps_dead_letters() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        for topic in ["orders.charged", "orders.dead"] {
            nsqd.admin(&format!("/topic/create?topic={topic}")).await;
        }
        let pipeline = start("pipeline", &address);
        for order in ["1 apple", "2 declined", "3 pears"] {
            nsqd.publish("orders", order).await;
        }
        for (topic, expected) in [("orders.charged", 2), ("orders.dead", 1)] {
            wait::until("the orders are charged or dead", async || {
                let count = nsqd.topic(topic).await.map(|topic| topic.message_count);
                wait::when(count, |count| *count == Some(expected))
            })
            .await;
        }
        nsqd.channel_until_finished("orders", "billing").await;
        terminate(pipeline).await;

        // The dead letter has its body, and says why.
        let config = nsq::Config::new().headers(true);
        let mut letters = nsq::Consumer::builder("orders.dead", "look")
            .nsqd(&*address)
            .config(config)
            .stream()
            .expect("valid");
        let letter = letters.next().await.expect("the consumer runs");
        assert_eq!(letter.body(), "2 declined");
        let header =
            |name| letter.headers().and_then(|headers| headers.get(name).map(|value| value.into_owned()));
        assert_eq!(header("dead-topic").as_deref(), Some("orders"));
        assert_eq!(header("dead-channel").as_deref(), Some("billing"));
        assert_eq!(header("dead-attempts").as_deref(), Some("4"));
        assert_eq!(header("dead-reason").as_deref(), Some("delivered 4 times, more than max_attempts"));
        letter.finish().expect("the connection is open");
    });
}

#[test]
fn batch_writer_writes_all_lines() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.tcp().to_string();
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=archive").await;
        run("publish", &[&address, "orders"], &lines(1050)).await;
        let writer = start("batch_writer", &address);
        nsqd.channel_until_finished("orders", "archive").await;
        assert_eq!(terminate(writer).await, lines(1050));
    });
}

#[test]
fn worker_finishes_or_requeues_its_jobs_at_sigterm() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let worker = start("worker", &nsqd.tcp().to_string());
        for job in ["0.001", "0.002", "600"] {
            nsqd.publish("jobs", job).await;
        }
        nsqd.channel_until("jobs", "workers", "only the long job is left", |channel| {
            channel.message_count == 3 && channel.depth == 0 && channel.in_flight_count == 1
        })
        .await;
        assert_eq!(terminate(worker).await, "2 jobs done, 1 left to others\n");
        let channel = nsqd.channel("jobs", "workers").await.expect("it exists");
        assert_eq!((channel.in_flight_count, channel.requeue_count), (0, 1));
    });
}

#[test]
fn fan_in_counts_the_messages_of_100_topics() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
        let topics: Vec<String> = (0..100).map(|sensor| format!("sensor_{sensor}")).collect();
        for topic in &topics {
            nsqd.publish(topic, "1").await;
            nsqd.publish(topic, "2").await;
        }
        let counter = start("fan_in", &lookupd.http().to_string());
        for topic in &topics {
            nsqd.channel_until_finished(topic, "counter").await;
        }
        let printed = terminate(counter).await;
        assert_eq!(printed.lines().filter(|line| line.ends_with(" 2")).count(), 100, "{printed}");
    });
}

#[test]
fn examples_of_the_guide_are_short() {
    for name in ["pipeline", "batch_writer", "worker", "request_reply", "fan_in"] {
        let path = format!("{}/../client/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let lines = std::fs::read_to_string(path).expect("the example is there").lines().count();
        assert!(lines < 30, "{name} has {lines} lines");
    }
}
