use std::process::Stdio;

use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

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
