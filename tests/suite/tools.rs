use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nsq_tests::{Daemon, test, wait};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{Running, cluster, command, nsq, nsq_with, run};

/// `nsq` that asks this nsqlookupd, as a process that keeps running.
fn running(lookupd: &Daemon, line: &str) -> Running {
    let mut command = command(line);
    command.env("NSQ_LOOKUPD", lookupd.http().to_string());
    Running::start(command)
}

#[test]
fn every_form_of_output_shows_the_same_rows() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create a --channel c --on all").await.expect(0);
        nsq(&lookupd, "topic create b --on all").await.expect(0);
        nsqds[0].publish("a", "x").await;
        nsqds[0].channel_until("a", "c", "the message is in the channel", |channel| channel.depth == 1).await;

        assert_eq!(nsq(&lookupd, "topic ls -o name").await.expect(0).stdout, "a\nb\n");
        assert_eq!(nsq(&lookupd, "channel ls -o name").await.expect(0).stdout, "a/c\n");
        let tsv = nsq(&lookupd, "topic ls -o tsv --no-header").await.expect(0).stdout;
        assert_eq!(tsv.lines().map(|line| &line[..2]).collect::<Vec<_>>(), ["a\t", "b\t"]);
        let wide = nsq(&lookupd, "channel ls -o wide").await.expect(0).stdout;
        assert!(wide.starts_with("TOPIC  CHANNEL"), "{wide}");

        let fields = nsq(&lookupd, "topic ls --json=topic_name,channels.depth").await.expect(0).json();
        assert_eq!(fields["topics"][0], json!({"topic_name": "a", "channels": [{"depth": 1}]}));
        let lines = nsq(&lookupd, "topic ls -o ndjson --json=topic_name").await.expect(0).stdout;
        assert_eq!(lines, "{\"topic_name\":\"a\"}\n{\"topic_name\":\"b\"}\n");
        let yaml = nsq(&lookupd, "topic ls -o yaml --json=topic_name").await.expect(0).stdout;
        assert_eq!(yaml, "---\nnode_errors: []\ntopics:\n- topic_name: a\n- topic_name: b\n");
        let mut jq = command("topic ls --jq");
        jq.arg(".topics[] | select(.channels | length > 0) | .topic_name");
        jq.env("NSQ_LOOKUPD", lookupd.http().to_string());
        assert_eq!(run(jq, b"").await.expect(0).stdout, "a\n");
        let from_environment = {
            let mut command = command("topic ls");
            command.env("NSQ_OUTPUT", "name").env("NSQ_LOOKUPD", lookupd.http().to_string());
            run(command, b"").await.expect(0)
        };
        assert_eq!(from_environment.stdout, "a\nb\n");
        let colored = nsq(&lookupd, "topic ls -o wide --color always").await.expect(0).stdout;
        assert!(colored.starts_with("\x1b[1mTOPIC"), "{colored:?}");

        for (line, word) in [
            ("topic ls --json=dept", "unknown field"),
            ("topic ls --jq .[", "invalid --jq"),
            ("topic ls -o xml", "invalid value"),
            ("sub a c --format %q", "unknown directive %q"),
            ("sub a c --format %b --json", "--format excludes"),
            ("completion bash --json=x", "no list of fields"),
        ] {
            let ran = nsq(&lookupd, line).await.expect(2);
            assert!(ran.stderr.contains(word), "{line}: {}", ran.stderr);
        }
        let wrong = nsq(&lookupd, "topic nonsense --json").await.expect(2);
        let error: Value = serde_json::from_str(&wrong.stderr).expect("usage errors are JSON");
        assert_eq!(error["error"]["code"], 2);
    });
}

/// Each field that a command prints can be selected.
#[test]
fn fields_that_commands_print_can_be_selected() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsqds[0].publish("t", "x").await;
        let node = nsqds[0].http().to_string();
        let subscriber = running(&lookupd, "sub t d");
        nsqds[0].channel_until("t", "d", "a consumer", |channel| channel.client_count == 1).await;
        for (line, list) in [
            ("stat --no-rates", "topics"),
            ("topic ls", "topics"),
            ("channel ls", "channels"),
            ("node ls", "nodes"),
            (&format!("node show {node}"), ""),
            ("find", "channels"),
            ("client ls", "clients"),
            ("channel clients t d", "clients"),
            ("lookup ls", "lookupds"),
            ("lookup diff", "lookupds"),
            ("rtt -n 1", "times"),
            ("version --server", "versions"),
            ("explain", "words"),
            ("ping", "daemons"),
            ("sub t c -n 1", ""),
            ("topic pause t", ""),
        ] {
            let known = nsq(&lookupd, &format!("{line} --json=help")).await.expect(0).stdout;
            let known: BTreeSet<&str> = known.lines().collect();
            let document = nsq(&lookupd, &format!("{line} --json")).await.expect(0).json();
            let rows = match list {
                "" => vec![document],
                list => document[list].as_array().expect(line).clone(),
            };
            assert!(!rows.is_empty(), "{line}");
            for row in rows {
                let printed = row.as_object().expect("an object").keys();
                let unknown: Vec<_> = printed.filter(|field| !known.contains(field.as_str())).collect();
                assert!(unknown.is_empty(), "{line}: {unknown:?} are not in --json=help");
            }
        }
        drop(subscriber);
    });
}

#[test]
fn streams_are_printed_in_a_format_of_ones_own() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "channel create t c").await;
        nsqds[0].publish("t", b"a\xff".as_slice()).await;
        let mut sub = command("sub t c -n 1 --format");
        sub.arg(r"%t/%c %n %a %l %b{hex} %b{base64} %b{json} 100%%");
        sub.env("NSQ_LOOKUPD", lookupd.http().to_string());
        let printed = run(sub, b"").await.expect(0).stdout;
        let expected = format!("t/c {} 1 2 61ff Yf8= \"a\u{fffd}\" 100%\n", nsqds[0].tcp());
        assert_eq!(printed, expected);

        nsq(&lookupd, "pub t x --header tenant=acme").await.expect(0);
        let mut sub = command("sub t c -n 1 --format %h{tenant}:%b:%h{none}");
        sub.env("NSQ_LOOKUPD", lookupd.http().to_string());
        assert_eq!(run(sub, b"").await.expect(0).stdout, "acme:x:\n");

        nsq(&lookupd, "pub t 1 2 3").await.expect(0);
        let mut sub = command("sub t c -n 3 --jq");
        sub.arg("select(.body != \"2\") | .body").env("NSQ_LOOKUPD", lookupd.http().to_string());
        assert_eq!(run(sub, b"").await.expect(0).stdout, "1\n3\n");
    });
}

#[test]
fn lookupds_are_listed_compared_and_pruned() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let empty = Daemon::lookupd().start().await;
        let both = format!("--lookupd {},{}", lookupd.http(), empty.http());
        nsqds[0].publish("t", "x").await;
        wait::until("the topic is registered", async || {
            wait::when(lookupd.get_json("/topics").await, |topics| topics["topics"] == json!(["t"]))
        })
        .await;
        let listed = run(command(&format!("lookup ls {both} --json")), b"").await.expect(0).json();
        assert_eq!(listed["lookupds"].as_array().map(Vec::len), Some(2));
        assert_eq!(listed["lookupds"][0]["health"], "OK");

        nsq(&lookupd, "lookup diff").await.expect(0);
        let different = run(command(&format!("lookup diff {both} --json")), b"").await.expect(3).json();
        assert_eq!(different["lookupds"][1]["missing_topics"], json!(["t"]));
        assert_eq!(different["lookupds"][1]["missing_nodes"], json!([nsqds[0].http().to_string()]));

        nsq(&lookupd, "topic create unused").await.expect(0);
        let planned = nsq(&lookupd, "lookup prune --dry-run").await.expect(0).stdout;
        assert_eq!(planned, "unused would be deleted\n");
        assert!(nsq(&lookupd, "lookup prune").await.expect(5).stderr.contains("--yes"));
        nsq(&lookupd, "lookup prune --yes").await.expect(0);
        assert_eq!(nsq(&lookupd, "topic ls --inactive -o name").await.expect(0).stdout, "t\n");
        // What a node that is down has is unknown.
        nsq_tests::process::stop(nsqds[0].pid()).await;
        nsq(&lookupd, "topic create unused2").await.expect(0);
        let refused = nsq(&lookupd, "lookup prune --yes --timeout 300ms").await.expect(3);
        assert!(refused.stderr.contains("nothing was deleted"), "{}", refused.stderr);
        nsqds[0].signal(Signal::CONT);
    });
}

#[test]
fn connections_are_listed_and_gaps_are_found() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        let mut only_first = command("sub t c");
        only_first.args(["--nsqd-tcp", &nsqds[0].tcp().to_string()]);
        let first = Running::start(only_first);
        nsqds[0].channel_until("t", "c", "a consumer", |channel| channel.client_count == 1).await;

        let listed = nsq(&lookupd, "channel clients t/c --json").await.expect(0).json();
        assert_eq!(listed["clients"].as_array().map(Vec::len), Some(1));
        assert_eq!(listed["clients"][0]["node"], nsqds[0].http().to_string());
        let missing = nsq(&lookupd, "client ls --missing").await.expect(0);
        assert_eq!(missing.rows()[0][5], nsqds[1].http().to_string());
        let grouped = nsq(&lookupd, "channel clients t c --group app --json").await.expect(0).json();
        assert_eq!(grouped["groups"][0]["connections"], 1);
        nsq(&lookupd, "channel clients t other").await.expect(4);

        let mut publisher = command("pub t --stdin");
        publisher.env("NSQ_NSQD_TCP", nsqds[0].tcp().to_string()).stdin(std::process::Stdio::piped());
        let mut publisher = publisher.spawn().expect("nsq starts");
        let stdin = publisher.stdin.as_mut().expect("stdin is piped");
        tokio::io::AsyncWriteExt::write_all(stdin, b"one\n").await.expect("a line");
        wait::until("the publisher is listed", async || {
            let listed = nsq(&lookupd, "client ls --publishers --json").await.expect(0).json();
            wait::when(listed, |listed| listed["clients"][0]["pub_counts"][0]["topic"] == "t")
        })
        .await;
        publisher.kill().await.expect("it ends");
        drop(first);
    });
}

#[test]
fn nodes_are_shown_configured_and_hidden() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        nsqds[0].publish("t", "x").await;
        let node = nsqds[0].http().to_string();
        let shown = nsq(&lookupd, &format!("node show {node} --json")).await.expect(0).json();
        assert_eq!((&shown["node"], &shown["health"]), (&json!(node), &json!("OK")));
        nsq(&lookupd, "node show nowhere:1").await.expect(4);

        let before = nsq(&lookupd, "node config get max_msg_size").await.expect(0);
        assert_eq!(before.rows().len(), 2);
        let planned = nsq(&lookupd, "node config set log_level debug --dry-run").await.expect(0).stdout;
        assert!(planned.contains("not changed"), "{planned}");
        let set =
            nsq(&lookupd, &format!("node config set log_level error --node {node} --json")).await.expect(0);
        assert_eq!(set.json()["settings"].as_array().map(Vec::len), Some(1));
        assert_eq!(nsq(&lookupd, "node config get no_such_option").await.code, Some(1));

        wait::until("the topic is registered", async || {
            wait::when(lookupd.get_json("/topics").await, |topics| topics["topics"] == json!(["t"]))
        })
        .await;
        let planned =
            nsq(&lookupd, &format!("node tombstone {node} t --delete --dry-run")).await.expect(0).stdout;
        assert!(planned.contains("1 unfinished messages"), "{planned}");
        nsq(&lookupd, &format!("node tombstone {node} t")).await.expect(0);
        assert_eq!(lookupd.get_json("/lookup?topic=t").await["producers"], json!([]));
        assert!(nsqds[0].topic("t").await.is_some());
        nsq(&lookupd, &format!("node tombstone {node} t --delete")).await.expect(5);
        nsq(&lookupd, &format!("node tombstone {node} t --delete --yes")).await.expect(0);
        assert!(nsqds[0].topic("t").await.is_none());
    });
}

#[test]
fn any_request_can_be_sent() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        let published = nsq(&lookupd, "api POST /pub?topic=t --data hello").await.expect(0);
        assert_eq!(published.stdout, "OK");
        let all = nsq(&lookupd, "api GET /info --all --json").await.expect(0).json();
        assert_eq!(all["answers"].as_array().map(Vec::len), Some(2));
        let at_lookupd = nsq(&lookupd, "api GET /nodes --at-lookupd --jq .producers|length").await.expect(0);
        assert_eq!(at_lookupd.stdout, "2\n");
        let node = nsqds[1].http().to_string();
        let one =
            nsq(&lookupd, &format!("api GET /stats?format=json --node {node} --jq .health")).await.expect(0);
        assert_eq!(one.stdout, "OK\n");
        let missing = nsq(&lookupd, "api POST /topic/pause?topic=no").await.expect(4);
        assert!(missing.stderr.contains("TOPIC_NOT_FOUND"), "{}", missing.stderr);
        nsq(&lookupd, "api GET stats").await.expect(2);
        nsq(&lookupd, "api BREW /pot").await.expect(2);
    });
}

#[test]
fn words_pages_and_versions_are_explained() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        let explained = run(command("explain e_fin_failed"), b"").await.expect(0).stdout;
        assert!(explained.contains("What to do"), "{explained}");
        let pasted = run(command("explain TOPIC_NOT_FOUND: --json"), b"").await.expect(0).json();
        assert_eq!(pasted["code"], "TOPIC_NOT_FOUND");
        let unknown = run(command("explain E_FIN_FAILE"), b"").await.expect(4);
        assert!(unknown.stderr.contains("did you mean E_FIN_FAILED?"), "{}", unknown.stderr);
        for (page, word) in [
            ("exit-codes", "7"),
            ("formatting", "ndjson"),
            ("targets", "NSQ_PROFILE"),
            ("cheat", "nsq move"),
            ("migrating", "nsq_tail"),
            ("topic create", "--channel"),
            ("", "Pages:"),
        ] {
            let ran = run(command(&format!("help {page}")), b"").await.expect(0);
            assert!(ran.stdout.contains(word), "{page}: {}", ran.stdout);
        }
        assert!(run(command("help chanel"), b"").await.expect(2).stderr.contains("did you mean channel?"));
        let versions = nsq(&lookupd, "version --server").await.expect(0);
        assert_eq!(
            versions.rows().iter().map(|row| row[0]).collect::<Vec<_>>(),
            ["nsq", "nsqlookupd", "nsqd"]
        );
    });
}

#[test]
fn channels_are_found_and_waited_for() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        nsq(&lookupd, "topic create t --channel c --channel d --on all").await.expect(0);
        nsqds[0].publish("t", "x").await;
        nsq(&lookupd, "channel pause t d").await.expect(0);
        nsqds[0].channel_until("t", "d", "the message is in the channel", |channel| channel.depth == 1).await;
        let find = async |flags: &str| nsq(&lookupd, &format!("find {flags} -o name")).await.expect(0).stdout;
        assert_eq!(find("--paused").await, "t/d\n");
        assert_eq!(find("--depth-over 0 --no-consumers --name t/c").await, "t/c\n");
        assert_eq!(find("--depth-over 5").await, "");
        assert_eq!(find("--idle --interval 50ms").await, "t/c\nt/d\n");

        let late = nsq(&lookupd, "wait t/c --empty --timeout 200ms --interval 50ms").await.expect(7);
        assert!(late.stderr.contains("depth 1"), "{}", late.stderr);
        nsq(&lookupd, "wait t/none --empty").await.expect(4);
        nsq(&lookupd, "wait t/c").await.expect(2);
        nsq(&lookupd, "wait t/c --depth-under 2").await.expect(0);
        let mut waiting = running(&lookupd, "wait t/c --empty --timeout 30s --interval 20ms --json");
        nsq(&lookupd, "sub t c -n 1").await.expect(0);
        let met: Value = serde_json::from_str(&waiting.line().await).expect("JSON");
        assert_eq!((&met["depth"], &met["channel_name"]), (&json!(0), &json!("c")));
        assert_eq!(waiting.exit_code().await, Some(0));

        // A channel that does not exist yet can be waited for.
        let mut waiting = running(&lookupd, "wait t/new --consumers 1 --timeout 30s --interval 20ms");
        let _subscriber = running(&lookupd, "sub t new");
        assert_eq!(waiting.exit_code().await, Some(0));
    });
}

#[test]
fn depth_is_drawn_and_round_trips_are_measured() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsqds[0].publish("t", "x").await;
        nsqds[0].channel_until("t", "c", "the message is in the channel", |channel| channel.depth == 1).await;
        let drawn = nsq(&lookupd, "graph t/c --interval 20ms --count 3").await.expect(0).stdout;
        assert!(drawn.contains("depth: now 1, min 1, max 1") && drawn.contains("███"), "{drawn}");
        let samples = nsq(&lookupd, "graph t --interval 20ms --count 2 -o ndjson").await.expect(0).stdout;
        let samples: Vec<Value> =
            samples.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!((samples.len(), &samples[1]["depth"]), (2, &json!(1)));
        nsq(&lookupd, "graph nothing --interval 20ms --count 1").await.expect(4);

        let times = nsq(&lookupd, "rtt -n 3 --json").await.expect(0).json();
        let rows = times["times"].as_array().expect("rows");
        assert_eq!(rows.iter().map(|row| row["operation"].clone()).collect::<Vec<_>>(), ["identify", "http"]);
        assert!(rows.iter().all(|row| row["count"] == 3 && row["min_us"].as_u64() <= row["max_us"].as_u64()));
    });
}

/// All bodies of a channel, which are finished.
async fn bodies(lookupd: &Daemon, channel: &str, count: usize) -> Vec<String> {
    let ran = nsq(lookupd, &format!("sub {channel} -n {count}")).await.expect(0);
    let mut lines: Vec<String> = ran.stdout.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn messages_are_moved_and_copied() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for topic in ["src", "dst", "kept"] {
            nsq(&lookupd, &format!("topic create {topic} --channel c --on all")).await.expect(0);
        }
        nsq(&lookupd, "pub src a1 b1 --header tenant=x --nsqd-tcp").await.expect(2);
        for (nsqd, line) in [(0, "pub src a1 b1 --header tenant=x"), (1, "pub src a2 b2"), (1, "pub src a3")]
        {
            let line = format!("{line} --nsqd-tcp {}", nsqds[nsqd].tcp());
            run(command(&line), b"").await.expect(0);
        }
        nsq(&lookupd, "wait src --depth-under 6 --timeout 10s").await.expect(0);

        let count = nsq(&lookupd, "copy src/c kept --match ^a --dry-run --json").await.expect(0).json();
        assert_eq!(count["copied"], 3);
        nsq(&lookupd, "copy src/c kept --match ^a").await.expect(0);
        assert_eq!(bodies(&lookupd, "kept/c", 3).await, ["a1", "a2", "a3"]);
        let one = nsq(&lookupd, "copy src/c kept --header tenant=x --max 1 --json").await.expect(0).json();
        assert_eq!(one["copied"], 1);
        let mut sub = command("sub kept c -n 1 --format %h{tenant}");
        sub.env("NSQ_LOOKUPD", lookupd.http().to_string());
        assert_eq!(run(sub, b"").await.expect(0).stdout, "x\n");

        for (line, word) in [
            ("move src/c src", "would come back"),
            ("move src dst", "names a topic"),
            ("move src/c dst/c", "names a channel"),
            ("move src/c dst --header x", "NAME=GLOB"),
        ] {
            let ran = nsq(&lookupd, line).await.expect(2);
            assert!(ran.stderr.contains(word), "{line}: {}", ran.stderr);
        }
        nsq(&lookupd, "move src/none dst").await.expect(4);
        assert!(nsq(&lookupd, "move src/c dst --dry-run").await.expect(0).stdout.starts_with("5 messages"));

        let moved = nsq(&lookupd, "move src/c dst --match ^b --json").await.expect(0).json();
        assert_eq!((&moved["moved"], &moved["skipped"]), (&json!(2), &json!(3)));
        assert_eq!(bodies(&lookupd, "dst/c", 2).await, ["b1", "b2"]);
        let moved = nsq(&lookupd, "move src/c dst --rate 1000 --max 1").await.expect(0);
        assert!(moved.stdout.starts_with("1 message of src/c moved"), "{}", moved.stdout);
        nsq(&lookupd, "move src/c dst").await.expect(0);
        assert_eq!(bodies(&lookupd, "dst/c", 3).await, ["a1", "a2", "a3"]);
        nsq(&lookupd, "wait src/c --empty --timeout 10s").await.expect(0);
    });
}

#[test]
fn a_killed_move_loses_nothing() {
    test(async {
        const COUNT: usize = 2_000;
        let (lookupd, nsqds) = cluster(1).await;
        for topic in ["src", "dst"] {
            nsq(&lookupd, &format!("topic create {topic} --channel c --on all")).await.expect(0);
        }
        let input: String = (0..COUNT).map(|n| format!("{n}\n")).collect();
        nsq_with(&lookupd, "pub src", input.as_bytes()).await.expect(0);
        for round in 0..3u64 {
            let mut moving = running(&lookupd, "move src/c dst");
            let enough = 200 * (round + 1);
            nsqds[0]
                .channel_until("dst", "c", "some are moved", |channel| channel.message_count >= enough)
                .await;
            moving.child.kill().await.expect("it ends");
        }
        nsq(&lookupd, "move src/c dst").await.expect(0);
        nsq(&lookupd, "wait src/c --empty --timeout 30s").await.expect(0);
        let there = nsqds[0].channel("dst", "c").await.expect("the channel exists").message_count;
        let mut found: BTreeSet<usize> = BTreeSet::new();
        for body in bodies(&lookupd, "dst/c", usize::try_from(there).expect("a small number")).await {
            found.insert(body.parse().expect("a number"));
        }
        assert_eq!(found.len(), COUNT, "some messages are missing");
    });
}

#[test]
fn a_cluster_is_exported_and_applied_to_another() {
    test(async {
        let (lookupd, _nsqds) = cluster(2).await;
        let (other, others) = cluster(1).await;
        let folder = TempDir::new().expect("a folder");
        nsq(&lookupd, "topic create t --channel c --channel gone#ephemeral --on all").await.expect(0);
        nsq(&lookupd, "topic set t owner=me").await.expect(0);
        nsq(&lookupd, "channel set t c max_attempts=5").await.expect(0);
        nsq(&lookupd, "channel pause t c").await.expect(0);
        nsq(&other, "topic create extra --on all").await.expect(0);
        let toml = nsq(&lookupd, "cluster export").await.expect(0).stdout;
        assert!(toml.contains("[topics.t.channels.c]") && !toml.contains("gone"), "{toml}");
        let file = folder.path().join("cluster.toml");
        std::fs::write(&file, &toml).expect("a file");
        let file = file.display();

        let diff = nsq(&other, &format!("cluster apply {file} --diff")).await.expect(3).stdout;
        let lines: Vec<&str> = diff.lines().collect();
        assert_eq!(
            lines,
            ["+ t", "~ t owner: default -> me", "+ t/c", "~ t/c max_attempts: default -> 5", "~ t/c pause"]
        );
        assert!(others[0].topic("t").await.is_none());
        nsq(&other, &format!("cluster apply {file}")).await.expect(5);
        let applied = nsq(&other, &format!("cluster apply {file} --yes --json")).await.expect(0).json();
        assert_eq!(applied["kept"], json!(["extra"]));
        assert!(others[0].channel("t", "c").await.expect("the channel exists").paused);
        nsq(&other, &format!("cluster apply {file} --diff")).await.expect(0);
        let yaml = nsq(&lookupd, "cluster export -o yaml").await.expect(0).stdout;
        nsq_with(&other, "cluster apply - --diff", yaml.as_bytes()).await.expect(0);
        let json = nsq(&lookupd, "cluster export --json").await.expect(0).stdout;
        nsq_with(&other, "cluster apply - --diff", json.as_bytes()).await.expect(0);
        std::fs::write(folder.path().join("wrong.toml"), "[topic.t]").expect("a file");
        let wrong = format!("cluster apply {}/wrong.toml", folder.path().display());
        assert!(nsq(&other, &wrong).await.expect(2).stderr.contains("unknown field"));
    });
}

#[test]
fn a_support_bundle_has_no_bodies_and_no_secrets() {
    test(async {
        const SECRET: &str = "a-secret-that-nobody-may-see";
        const BODY: &str = "a-body-that-nobody-may-see";
        let folder = TempDir::new().expect("a folder");
        let lookupd = Daemon::lookupd().start().await;
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).expect("a file");
        let entry = run(
            command("auth token --identity ops --permission admin,publish,subscribe --stdin"),
            SECRET.as_bytes(),
        )
        .await
        .expect(0);
        let tokens = folder.path().join("tokens.toml");
        std::fs::write(&tokens, entry.stdout).expect("a file");
        let nsqd =
            Daemon::nsqd().lookupd(&lookupd).flag(format!("--auth-file={}", tokens.display())).start().await;
        wait::until("the nsqd is registered", async || {
            wait::when(lookupd.get_json("/nodes").await, |nodes| {
                nodes["producers"].as_array().map(Vec::len) == Some(1)
            })
        })
        .await;
        let with_secret = |line: &str| {
            let mut command = command(line);
            command.env("NSQ_LOOKUPD", lookupd.http().to_string()).env("NSQ_AUTH_SECRET_FILE", &secret);
            command.current_dir(folder.path());
            command
        };
        run(with_secret(&format!("pub t {BODY} --header tenant={BODY}")), b"").await.expect(0);
        let ran = run(with_secret("support-bundle --file bundle.tar.gz --json"), b"").await.expect(0).json();
        let entries: Vec<String> = ran["entries"]
            .as_array()
            .expect("names")
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        for part in ["about.json", "/stats.json", "/metrics.txt", "/config.json", "/nodes.json"] {
            assert!(entries.iter().any(|name| name.ends_with(part)), "{part}: {entries:?}");
        }
        let content = unpacked(&folder.path().join("bundle.tar.gz"));
        assert!(content.contains("\"topic_name\": \"t\"") && content.contains("max_msg_size"));
        assert!(!content.contains(SECRET) && !content.contains(BODY), "the bundle holds a secret or a body");
        let again = run(with_secret("support-bundle --file bundle.tar.gz"), b"").await.expect(1);
        assert!(again.stderr.contains("File exists"), "{}", again.stderr);
        drop(nsqd);
    });
}

/// The text of all files of a compressed archive.
fn unpacked(path: &Path) -> String {
    use std::io::Read;
    let file = std::fs::File::open(path).expect("the archive is there");
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("the archive is whole");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn dev_runs_several_daemons_and_a_demo() {
    test(async {
        let folder = TempDir::new().expect("a folder");
        let start = |line: &str| {
            let mut command = command(line);
            command.current_dir(folder.path());
            Running::start(command)
        };
        let mut dev = start("dev demo --nsqd 2 --lookupd 2 --ephemeral-ports --json");
        let addresses: Value = serde_json::from_str(&dev.line().await).expect("JSON");
        assert_eq!(
            (addresses["nsqds"].as_array().map(Vec::len), addresses["lookupds"].as_array().map(Vec::len)),
            (Some(2), Some(2))
        );
        let lookupd = addresses["lookupds"][1]["lookupd_http_address"].as_str().expect("an address");
        let on_lookupd = |line: &str| command(&format!("{line} --lookupd {lookupd}"));
        assert_eq!(run(on_lookupd("node ls"), b"").await.expect(0).rows().len(), 2);
        run(on_lookupd("wait orders/billing --consumers 2 --timeout 30s"), b"").await.expect(0);
        wait::until("the channel without consumers holds messages", async || {
            let found =
                run(on_lookupd("find --no-consumers --depth-over 0 -o name"), b"").await.expect(0).stdout;
            wait::when(found, |found| found.contains("orders/audit"))
        })
        .await;
        dev.signal(Signal::INT);
        assert_eq!(dev.exit_code().await, Some(0));

        let wrong = run(command("dev --nsqd many"), b"").await.expect(2);
        assert!(wrong.stderr.contains("a number of daemons"), "{}", wrong.stderr);
        let exports = run(command("dev env"), b"").await.expect(0).stdout;
        assert!(exports.contains("export NSQ_LOOKUPD=127.0.0.1:4161\n"), "{exports}");
    });
}

/// A long wait ends at once when it is interrupted.
#[test]
fn an_interrupted_wait_says_so() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsqds[0].publish("t", "x").await;
        let mut waiting = running(&lookupd, "wait t/c --consumers 5");
        wait::until("the command waits", async || {
            // It has caught the signal once it asks.
            wait::when(nsqds[0].get_json("/stats?format=json").await, |stats| stats["health"] == "OK")
        })
        .await;
        tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                waiting.signal(Signal::INT);
                if let Ok(Some(status)) = waiting.child.try_wait() {
                    // Before it has caught the signal, the signal ends it.
                    assert!(status.code() == Some(130) || status.code().is_none(), "{status:?}");
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("it ends");
    });
}

#[test]
fn sub_runs_programs_and_writes_files() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let folder = TempDir::new().expect("a folder");
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsq(&lookupd, "pub t good again bad").await.expect(0);
        let subscribe = |line: &str, more: &[&str]| {
            let mut command = command(line);
            command.args(more).env("NSQ_LOOKUPD", lookupd.http().to_string()).current_dir(folder.path());
            command
        };
        // The body decides: a message is done, to be tried again at once, or failed.
        let script = "b=$(cat); echo \"$b $NSQ_TOPIC/$NSQ_CHANNEL $NSQ_ATTEMPTS\"; \
            case $b.$NSQ_ATTEMPTS in again.1) exit 75;; bad.1) exit 1;; esac";
        let ran = run(
            subscribe(
                "sub t c -n 5 -X default_requeue_delay=50ms -X backoff_multiplier=10ms",
                &["--exec", script],
            ),
            b"",
        )
        .await
        .expect(0);
        let mut lines: Vec<&str> = ran.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["again t/c 1", "again t/c 2", "bad t/c 1", "bad t/c 2", "good t/c 1"]);
        nsqds[0].channel_until_finished("t", "c").await;
        nsq(&lookupd, "sub t c --exec x --dump y").await.expect(2);

        nsq(&lookupd, "pub t one two").await.expect(0);
        run(subscribe("sub t c --until-empty --dump messages", &[]), b"").await.expect(0);
        let mut bodies: Vec<String> = std::fs::read_dir(folder.path().join("messages"))
            .expect("the folder is there")
            .map(|entry| std::fs::read_to_string(entry.expect("a file").path()).expect("text"))
            .collect();
        bodies.sort();
        assert_eq!(bodies, ["one", "two"]);
        nsqds[0].channel_until_finished("t", "c").await;

        nsq(&lookupd, "pub t kept").await.expect(0);
        let shown = run(subscribe("sub t c -n 1 --ack none", &[]), b"").await.expect(0);
        assert_eq!(shown.stdout, "kept\n");
        nsqds[0]
            .channel_until("t", "c", "the message is back", |channel| {
                channel.depth == 1 && channel.in_flight_count == 0
            })
            .await;
        assert_eq!(nsq(&lookupd, "sub t c -n 1").await.expect(0).stdout, "kept\n");
    });
}

#[test]
fn the_newest_retained_messages_are_shown() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --on all").await.expect(0);
        let none = nsq(&lookupd, "tail t -n 1 --last 2").await;
        assert_eq!(none.code, Some(4), "{}", none.stderr);
        nsq(&lookupd, "topic retain t --for 1h").await.expect(0);
        nsq(&lookupd, "channel create t c").await.expect(0);
        nsq(&lookupd, "pub t 1 2 3 4").await.expect(0);
        nsq(&lookupd, "sub t c --until-empty").await.expect(0);
        assert_eq!(nsq(&lookupd, "tail t -n 2 --last 2").await.expect(0).stdout, "3\n4\n");
        assert_eq!(nsq(&lookupd, "sub t late -n 3 --last 3").await.expect(0).stdout, "2\n3\n4\n");
    });
}

#[test]
fn tail_follows_patterns_and_translates() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let folder = TempDir::new().expect("a folder");
        let node = nsqds[0].http().to_string();
        nsq(&lookupd, "topic create orders-1 --on all").await.expect(0);
        let mut tail = command("tail --topic-pattern ^orders- -n 2 --format %t:%b");
        tail.env("NSQ_LOOKUPD", lookupd.http().to_string());
        let mut tail = Running::start(tail);
        let consumers = async |topic: &str| {
            nsqds[0]
                .topic(topic)
                .await
                .map_or(0, |topic| topic.channels.iter().map(|c| c.client_count).sum::<u64>())
        };
        wait::until("the first topic is followed", async || {
            wait::when(consumers("orders-1").await, |count| *count == 1)
        })
        .await;
        nsqds[0].publish("orders-1", "a").await;
        assert_eq!(tail.line().await, "orders-1:a");
        nsqds[0].publish("other", "x").await;
        nsq(&lookupd, "topic create orders-2 --on all").await.expect(0);
        wait::until("the new topic is followed", async || {
            wait::when(consumers("orders-2").await, |count| *count == 1)
        })
        .await;
        nsqds[0].publish("orders-2", "b").await;
        assert_eq!(tail.line().await, "orders-2:b");
        assert_eq!(tail.exit_code().await, Some(0));

        let mut tail = command("tail orders-1 -n 1 --translate");
        tail.arg("tr a-z A-Z").args(["--node", &node]).env("NSQ_LOOKUPD", lookupd.http().to_string());
        let mut tail = Running::start(tail);
        wait::until("the topic is followed", async || {
            wait::when(consumers("orders-1").await, |count| *count == 1)
        })
        .await;
        nsqds[0].publish("orders-1", "shout").await;
        assert_eq!(tail.line().await, "SHOUT");
        assert_eq!(tail.exit_code().await, Some(0));

        let out = folder.path().join("out");
        let mut tail = running(&lookupd, &format!("tail orders-1 -n 1 --out {}", out.display()));
        wait::until("the topic is followed", async || {
            wait::when(consumers("orders-1").await, |count| *count == 1)
        })
        .await;
        nsqds[0].publish("orders-1", "file").await;
        assert_eq!(tail.exit_code().await, Some(0));
        let file =
            std::fs::read_dir(&out).expect("the folder").next().expect("a file").expect("a file").path();
        assert_eq!(std::fs::read_to_string(file).expect("text"), "file");
        nsq(&lookupd, "tail --topic-pattern x orders-1").await.expect(2);
        nsq(&lookupd, "tail orders-1 --last 5 --from earliest").await.expect(2);
    });
}

#[test]
fn pub_makes_and_reads_messages_in_many_ways() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        let folder = TempDir::new().expect("a folder");
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        let published = async |line: &str, more: &[&str], input: &[u8]| {
            let mut command = command(line);
            command.args(more).env("NSQ_LOOKUPD", lookupd.http().to_string());
            run(command, input).await.expect(0)
        };
        published("pub t --count 3", &["n{{n}}"], b"").await;
        assert_eq!(bodies(&lookupd, "t/c", 3).await, ["n1", "n2", "n3"]);
        published("pub t --print0", &[], b"a\nb\0c").await;
        assert_eq!(bodies(&lookupd, "t/c", 2).await, ["a", "b", "c"]);
        published("pub t --json-array", &[], br#"[{"a": 1}, "x", 2]"#).await;
        assert_eq!(bodies(&lookupd, "t/c", 3).await, ["\"x\"", "2", "{\"a\": 1}"]);
        for (name, text) in [("1", "first"), ("2", "second"), (".hidden", "no")] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let folder = folder.path().display().to_string();
        published("pub t --from-dir", &[&folder, "--linger", "1ms", "--batch", "1000"], b"").await;
        assert_eq!(bodies(&lookupd, "t/c", 2).await, ["first", "second"]);
        let all = published("pub t --to all --json", &["everywhere"], b"").await.json();
        assert_eq!((&all["message_count"], all["nodes"].as_array().map(Vec::len)), (&json!(1), Some(2)));
        assert_eq!(bodies(&lookupd, "t/c", 2).await, ["everywhere", "everywhere"]);
        let one = nsqds[1].tcp().to_string();
        let one_node = published("pub t --ordered --json --to", &[&one, "1", "2"], b"").await.json();
        assert_eq!(one_node["nodes"], json!([one]));
        for line in [
            "pub t --count 2",
            "pub t x --count 0",
            "pub t {{x}} --count 1",
            "pub t x --ordered --to all --whole --print0",
        ] {
            nsq(&lookupd, line).await.expect(2);
        }
    });
}

#[test]
fn to_nsq_filters_and_ends_when_the_channel_is_empty() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        let other = Daemon::nsqd().start().await;
        nsq(&lookupd, "topic create t --channel nsq_to_nsq --on all").await.expect(0);
        let input = b"{\"total\": 5}\n{\"total\": 500}\nno json\n{\"total\": 600}\n";
        nsq_with(&lookupd, "pub t", input).await.expect(0);
        let mut bridge =
            command("to-nsq --topic t --until-empty --on-bad-json drop --destination-nsqd-tcp-address");
        bridge.arg(other.tcp().to_string()).args(["--filter", ".total > 100"]);
        bridge.env("NSQ_LOOKUPD", lookupd.http().to_string());
        run(bridge, b"").await.expect(0);
        let copied =
            run(command(&format!("sub t c -n 2 --nsqd-tcp {}", other.tcp())), b"").await.expect(0).stdout;
        assert_eq!(copied, "{\"total\": 500}\n{\"total\": 600}\n");
        nsq(&lookupd, "wait t --empty --timeout 10s").await.expect(0);
        let wrong = command("to-nsq --topic t --destination-nsqd-tcp-address x:1 --filter .[");
        run(wrong, b"").await.expect(2);
    });
}

#[test]
fn completion_asks_the_cluster_and_is_silent_without_one() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        let cache = TempDir::new().expect("a folder");
        nsq(&lookupd, "topic create orders --channel billing --on all").await.expect(0);
        let complete = async |words: &[&str], address: &str| {
            let mut command = command("--");
            command.args(["nsq"]).args(words).env("NSQ_COMPLETE", "fish").env("NSQ_LOOKUPD", address);
            command.env("XDG_CACHE_HOME", cache.path());
            run(command, b"").await.expect(0).stdout
        };
        let address = lookupd.http().to_string();
        let shown = complete(&["channel", "pause", "or"], &address).await;
        assert!(shown.lines().any(|line| line == "orders/billing"), "{shown}");
        assert!(complete(&["stat", "--no-r"], &address).await.contains("--no-rates"));
        let started_at = std::time::Instant::now();
        assert_eq!(complete(&["channel", "pause", "or"], "127.0.0.1:1").await.trim(), "");
        // The limit is 300 ms; a loaded machine takes longer to start the program.
        assert!(started_at.elapsed() < Duration::from_secs(5));
    });
}
