//! The `nsq` command over TLS, with client certificates, compressed, and with a secret.

use std::process::Output;

use nsq_tests::daemon::binary;
use nsq_tests::{Certificates, Daemon, test};
use serde_json::Value;

/// Runs `nsq` with these arguments and flags, without its environment variables.
async fn nsq(line: &str, flags: &[String]) -> Output {
    let mut command = tokio::process::Command::new(binary("nsq"));
    command.args(line.split(' ')).args(flags).stdin(std::process::Stdio::null()).kill_on_drop(true);
    for name in
        ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP", "NSQ_TIMEOUT", "NSQ_AUTH_SECRET", "NSQ_AUTH_SECRET_FILE"]
    {
        command.env_remove(name);
    }
    command.output().await.expect("nsq starts")
}

fn stdout(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An nsqd that requires client certificates on every port, and the client flags to connect to it.
async fn nsqd(certificates: &Certificates) -> (Daemon, Vec<String>) {
    let flag = |name: &str, file: &str| format!("--{name}={}", certificates.path(file));
    let start = Daemon::nsqd().tls(certificates).flag(flag("tls-root-ca-file", "ca.pem"));
    let nsqd = start.flag("--tls-client-auth-policy=require-verify").start().await;
    let flags = vec![flag("tls-ca", "ca.pem"), flag("tls-cert", "client.pem"), flag("tls-key", "client.key")];
    (nsqd, flags)
}

#[test]
fn all_commands_work_over_tls_with_a_client_certificate() {
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
fn bench_runs_over_tls_snappy_and_deflate() {
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

#[test]
fn generated_token_authenticates() {
    test(async {
        let folder = tempfile::TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let (tokens, secret) = (folder.path().join("tokens.toml"), folder.path().join("secret"));
        let arguments =
            "auth token --identity ops --permission publish,subscribe,admin --expires 2100-01-01T00:00:00Z";
        let entry = stdout(&nsq(arguments, &[]).await);
        let token = entry.lines().next().and_then(|line| line.strip_prefix("# token: ")).expect("a token");
        std::fs::write(&tokens, &entry).expect("the file is writable");
        std::fs::write(&secret, format!("{token}\n")).expect("the file is writable");
        let auth_file = format!("--auth-file={}", tokens.display());
        let nsqd = Daemon::nsqd().flag(auth_file).flag("--http-auth").start().await;

        let (http, tcp) = (format!("--nsqd={}", nsqd.http()), format!("--nsqd-tcp={}", nsqd.tcp()));
        let secret_flag = format!("--auth-secret-file={}", secret.display());
        for target in [&http, &tcp] {
            stdout(&nsq("pub t one two", &[target.clone(), secret_flag.clone()]).await);
            let printed = nsq("sub t c -n 2", &[target.clone(), secret_flag.clone()]).await;
            assert_eq!(stdout(&printed), "one\ntwo\n");
            for other in [None, Some("--auth-secret=nobody".to_owned())] {
                let flags: Vec<String> = std::iter::once(target.clone()).chain(other).collect();
                let refused = nsq("pub t x", &flags).await;
                let text = String::from_utf8_lossy(&refused.stderr).into_owned();
                assert_eq!(refused.status.code(), Some(5), "{flags:?}: {text}");
                assert!(!text.contains("nobody"), "{text}");
            }
        }
        stdout(&nsq("topic create made", &[http.clone(), secret_flag.clone()]).await);
        assert!(stdout(&nsq("topic list", &[http.clone(), secret_flag.clone()]).await).contains("made"));
        assert_eq!(nsq("topic list", &[http]).await.status.code(), Some(5));
        let addresses = format!("--nsqd-tcp {} --nsqd-http {}", nsqd.tcp(), nsqd.http());
        stdout(&nsq(&format!("bench pubsub --messages 1000 {addresses} --json"), &[secret_flag]).await);
    });
}

#[test]
fn short_secret_is_refused_as_a_token() {
    test(async {
        let mut command = tokio::process::Command::new(binary("nsq"));
        command.args(["auth", "token", "--stdin"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let refused = command.output().await.expect("nsq starts");
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("shorter than 20 bytes"));
    });
}
