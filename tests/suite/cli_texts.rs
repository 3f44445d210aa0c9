//! What `nsq` says to users whose command line, address or topic is wrong: the exact words, and help pages.

use std::time::Duration;

use nsq_tests::process::stop;
use nsq_tests::{test, wait};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::cli::{cluster, command, nsq, run};

/// Runs a line with words that contain spaces; panics unless it fails with this code and says this on stderr.
async fn fails(mut command: Command, code: i32, text: &str) {
    command.env("NO_COLOR", "1");
    let ran = run(command, b"").await.expect(code);
    assert!(ran.stderr.contains(text), "{}: {}", ran.line, ran.stderr);
}

#[test]
fn addresses_of_the_wrong_kind_are_named() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let tcp = "this is a TCP port; HTTP is 4161 (nsqd: 4151)";
        for address in [nsqds[0].tcp(), lookupd.tcp()] {
            fails(command(&format!("node ls --lookupd {address}")), 6, tcp).await;
            fails(command(&format!("stat --nsqd {address}")), 6, tcp).await;
        }
        let line = format!("topic ls --lookupd {}", nsqds[0].http());
        fails(command(&line), 1, "nodes: GET /nodes answered 404: this is nsqd, use `--nsqd`").await;
        let line = format!("stat --nsqd {}", lookupd.http());
        fails(command(&line), 1, "stats: GET /stats answered 404: this is nsqlookupd, use `--lookupd`").await;
    });
}

#[test]
fn refused_values_name_the_limit() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create nodes --channel c --on all").await.expect(0);
        let on = |line: &str| {
            let mut command = command(line);
            command.env("NSQ_LOOKUPD", lookupd.http().to_string());
            command
        };
        let text = "--defer 2h exceeds nsqd's limit of 1h (`--max-req-timeout`)";
        fails(on("pub nodes x --defer 2h"), 1, text).await;
        let text = "the topic keeps nothing; `nsq topic retain nodes --for 24h`";
        nsq(&lookupd, "pub nodes x").await.expect(0);
        nsq(&lookupd, "sub nodes c -n 1").await.expect(0);
        fails(on("channel seek nodes c --to earliest"), 1, text).await;
        fails(on("topic pause nope"), 4, "there is no topic nope\n  did you mean nodes?").await;
        fails(on("sub nodes c -X nope=1"), 2, "unknown option \"nope\"\n  `nsq -X help` lists the options")
            .await;
        fails(on("sub nodes c -X max_atempts=1"), 2, "did you mean max_attempts?").await;
        let text = "option max_in_flight: \"-1\" is not a whole number from 0 to 4294967295";
        fails(on("sub nodes c -X max_in_flight=-1"), 2, text).await;
        fails(on("sub nodes c -X deflate_level=10"), 2, "option deflate_level: 10 is outside of 1 to 9")
            .await;
        fails(on("sub nodes c -n 0"), 2, "'--count <N>': must be at least 1").await;
        fails(on("pub nodes x --batch x"), 2, "'--batch <BYTES>': must be a whole number").await;
        fails(on("sub nodes c --exec true --concurrency 0"), 2, "must be 1 to 1000").await;
        fails(on("stat --interval 5"), 2, "missing unit in duration \"5\": write 5s or 5m").await;
        let mut in_json = on("stat --interval 5 --json");
        in_json.env("NO_COLOR", "1");
        let ran = run(in_json, b"").await.expect(2);
        assert!(
            ran.stderr.starts_with("{\"error\":") && ran.stderr.contains("write 5s or 5m"),
            "{}",
            ran.stderr
        );

        let made = nsq(&lookupd, "channel create nosuch/ch").await.expect(0);
        assert_eq!(made.stderr, "no nsqd has topic nosuch; created at lookupd only\n");
    });
}

#[test]
fn client_options_are_listed_with_their_ranges() {
    test(async {
        for line in ["-X help", "sub -X help", "tail --opt=help"] {
            let page = run(command(line), b"").await.expect(0).stdout;
            let entry = "\n  deflate_level=1 to 9 [default: 6]\n      Deflate level: 1 is fastest, 9 compresses most.\n";
            assert!(page.contains(entry), "{page}");
        }
        let listed = run(command("-X help --json"), b"").await.expect(0).json();
        assert_eq!(
            listed["options"][0],
            json!({
                "name": "dial_timeout",
                "values": "a duration such as 250ms or 1m30s, or milliseconds",
                "default": "1s",
                "about": "Timeout of opening a TCP connection.",
            })
        );
    });
}

#[test]
fn help_pages_are_short_and_global_flags_have_their_own() {
    test(async {
        let flags = run(command("help flags"), b"").await.expect(0).stdout;
        for flag in ["--lookupd", "--nsqd", "--profile", "--json", "--jq", "--tls-ca", "--opt", "--timeout"] {
            assert!(flags.contains(flag), "{flag}: {flags}");
        }
        for line in ["stat --help", "topic create -h", "help channel pause"] {
            let page = run(command(line), b"").await.expect(0).stdout;
            assert!(!page.contains("--tls-ca") && !page.contains("--no-header"), "{page}");
            assert!(page.contains("nsq help flags"), "{page}");
        }
        let overview = run(command("--help"), b"").await.expect(0).stdout;
        for heading in ["Publish and consume:\n  pub ", "Watch:\n  stat ", "Administer:\n  topic "] {
            assert!(overview.contains(heading), "{overview}");
        }
    });
}

#[test]
fn inactive_topics_are_hidden_and_bench_leaves_none() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create used --on all").await.expect(0);
        nsq(&lookupd, "topic create unused").await.expect(0);
        let names = async |line: &str| nsq(&lookupd, line).await.expect(0).stdout;
        assert_eq!(names("topic ls -o name").await, "used\n");
        assert_eq!(names("topic ls --inactive -o name").await, "unused\nused\n");
        assert_eq!(names("topic ls ^un --inactive -o name").await, "unused\n");
        assert_eq!(names("topic ls sed$ -o name").await, "used\n");
        let addresses = format!("--nsqd-tcp {} --lookupd {}", nsqds[0].tcp(), lookupd.http());
        let line = format!("bench pubsub --messages 100 --nsqd-http {} {addresses}", nsqds[0].http());
        run(command(&line), b"").await.expect(0);
        assert_eq!(lookupd.get_json("/topics").await["topics"].as_array().map(Vec::len), Some(2));
    });
}

/// The lines that fish gets for a line of words.
async fn complete(words: &str, lookupd: &str) -> String {
    let cache = TempDir::new().expect("a folder");
    let mut command = command(&format!("-- nsq {words}"));
    command.env("NSQ_COMPLETE", "fish").env("NSQ_LOOKUPD", lookupd).env("XDG_CACHE_HOME", cache.path());
    run(command, b"").await.expect(0).stdout
}

#[test]
fn completion_answers_within_300_ms_if_nsqlookupd_is_silent() {
    test(async {
        // The kernel accepts connections; nobody answers.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = silent.local_addr().expect("an address").to_string();
        // A loaded machine may delay an attempt, but no attempt can be faster than the limit of the program.
        wait::until("a completion takes less than 300 ms", async || {
            let started_at = std::time::Instant::now();
            assert_eq!(complete("channel pause or", &address).await.trim(), "");
            wait::when(started_at.elapsed(), |elapsed| *elapsed < Duration::from_millis(300))
        })
        .await;
    });
}

#[test]
fn completion_offers_addresses_options_and_names_of_nodes_that_answer() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        let address = lookupd.http().to_string();
        nsq(&lookupd, "topic create orders --channel billing --on all").await.expect(0);
        assert_eq!(complete("stat --lookupd 127", &address).await.trim(), address);
        assert!(complete("stat --nsqd-tcp 127", &address).await.contains(&nsqds[0].tcp().to_string()));
        assert!(complete("sub -X max_att", &address).await.contains("max_attempts="));
        assert!(!complete("sub -X Cargo", &address).await.contains("Cargo"));

        stop(nsqds[1].pid()).await;
        wait::until("the other node's names", async || {
            let shown = complete("channel pause or", &address).await;
            wait::when(shown, |shown| shown.lines().any(|line| line == "orders/billing"))
        })
        .await;
        nsqds[1].signal(Signal::CONT);
    });
}
