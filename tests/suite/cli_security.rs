//! The `nsq` command over TLS, with client certificates, and compressed.

use std::process::Output;

use nsq_tests::daemon::binary;
use nsq_tests::{Certificates, Daemon, test};
use serde_json::Value;

/// Runs `nsq` with these words and flags, in the environment of nobody.
async fn nsq(line: &str, flags: &[String]) -> Output {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.args(line.split(' ')).args(flags).stdin(std::process::Stdio::null()).kill_on_drop(true);
    for name in ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP", "NSQ_TIMEOUT"] {
        command.env_remove(name);
    }
    command.output().await.expect("nsq starts")
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An nsqd that demands client certificates everywhere, and the flags to get in.
async fn nsqd(certificates: &Certificates) -> (Daemon, Vec<String>) {
    let flag = |name: &str, file: &str| format!("--{name}={}", certificates.path(file));
    let start = Daemon::nsqd().tls(certificates).flag(flag("tls-root-ca-file", "ca.pem"));
    let nsqd = start.flag("--tls-client-auth-policy=require-verify").start().await;
    let flags = vec![flag("tls-ca", "ca.pem"), flag("tls-cert", "client.pem"), flag("tls-key", "client.key")];
    (nsqd, flags)
}

#[test]
fn everything_goes_over_tls_with_a_client_certificate() {
    test(async {
        let certificates = Certificates::new();
        let (nsqd, flags) = nsqd(&certificates).await;
        let with = |more: &[&str]| {
            [&flags[..], &more.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>()].concat()
        };
        let http = format!("--nsqd={}", nsqd.http());
        for (topic, compression) in [("none", "--tls"), ("snappy", "--snappy"), ("deflate", "--deflate")] {
            stdout(&nsq(&format!("pub {topic} one two"), &with(&[&http, compression])).await);
            let printed = nsq(&format!("sub {topic} c -n 2"), &with(&[&http, compression])).await;
            assert_eq!(stdout(&printed), "one\ntwo\n");
        }
        stdout(&nsq("topic create made", &with(&[&http])).await);
        let https = format!("--nsqd=https://localhost:{}", nsqd.https().await.port());
        let listed = stdout(&nsq("topic list", &with(&[&https])).await);
        assert!(listed.contains("made") && listed.contains("snappy"), "{listed}");

        for flags in [vec![http.clone()], vec![http, flags[0].clone()], vec![https]] {
            let refused = nsq("topic list", &flags).await;
            assert_eq!(refused.status.code(), Some(6), "{flags:?}");
        }
    });
}

#[test]
fn a_benchmark_in_every_form_of_bytes() {
    test(async {
        let certificates = Certificates::new();
        let (nsqd, flags) = nsqd(&certificates).await;
        let addresses = format!("--nsqd-tcp {} --nsqd-http {}", nsqd.tcp(), nsqd.http());
        for compression in ["--tls", "--snappy", "--deflate"] {
            for mode in
                ["pubsub --messages 3000 --batch 10 --connections 2", "latency --rate 200 --duration 1s"]
            {
                let line = format!("bench {mode} {addresses} {compression} --json");
                let report = nsq(&line, &flags).await;
                let stderr = String::from_utf8_lossy(&report.stderr).into_owned();
                assert!(stderr.is_empty(), "{line}: {stderr}");
                let report: Value = serde_json::from_str(&stdout(&report)).expect("one line of JSON");
                let delivered = report["delivered"]["messages"].as_u64().expect("a number");
                assert!(delivered >= 200, "{report}");
            }
        }
        let plain = nsq(&format!("bench pub --http {addresses}"), &flags).await;
        assert_eq!(plain.status.code(), Some(2));
    });
}
