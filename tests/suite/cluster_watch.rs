use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nsq_cluster::series::{MarkKind, Resolution};
use nsq_cluster::{
    ClusterConfig, Problem, Reach, RuleId, Sampler, SamplerConfig, SamplerHandle, SeriesKey, Severity,
    Snapshot, Thresholds,
};
use nsq_tests::daemon::binary;
use nsq_tests::{Daemon, test, wait};
use parking_lot::Mutex;
use rustix::process::Signal;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::cli::{CommandOutput, cluster, command, nsq, run};

const INTERVAL: Duration = Duration::from_millis(200);

/// A sampler of these daemons, to which conditions count at once.
fn sampler(lookupds: &[String], nsqds: &[String]) -> SamplerHandle {
    let config = ClusterConfig {
        lookupds: lookupds.to_vec(),
        nsqds: nsqds.to_vec(),
        default_ports: false,
        timeout: Duration::from_secs(5),
        ..ClusterConfig::default()
    };
    let thresholds = Thresholds::default().at_once();
    Sampler::start(SamplerConfig { interval: INTERVAL, thresholds, ..SamplerConfig::new(config) })
        .expect("the addresses are valid")
}

fn sampler_of(lookupd: &Daemon) -> SamplerHandle {
    sampler(&[lookupd.http().to_string()], &[])
}

/// Waits for a snapshot that holds.
async fn snapshot_when(
    sampler: &SamplerHandle,
    what: &str,
    holds: impl Fn(&Snapshot) -> bool,
) -> Arc<Snapshot> {
    let mut snapshots = sampler.subscribe();
    let found = tokio::time::timeout(Duration::from_secs(30), snapshots.wait_for(|snapshot| holds(snapshot)));
    match found.await {
        Ok(snapshot) => snapshot.expect("the sampler runs").clone(),
        Err(_) => panic!("no snapshot in which {what}; the last: {:#?}", sampler.latest()),
    }
}

fn problem(snapshot: &Snapshot, rule: RuleId) -> Option<&Problem> {
    snapshot.problems.iter().find(|problem| problem.rule == rule)
}

/// The disk of the machine that runs the tests may be full, and its daemons have just started.
fn expected_rules(document: &Value) -> Vec<&str> {
    let problems = document["problems"].as_array().expect("a list").iter();
    let rules = problems.map(|problem| problem["rule"].as_str().expect("a rule"));
    rules.filter(|rule| !["disk-full-soon", "restarted"].contains(rule)).collect()
}

async fn check(lookupd: &Daemon, more: &str) -> CommandOutput {
    nsq(lookupd, &format!("check --for 500ms {more}")).await
}

#[test]
fn consumers_that_missed_a_node_are_found_with_channel_and_node() {
    test(async {
        let (lookupd, nsqds) = cluster(3).await;
        let mut consumers = Vec::new();
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=orders").await;
            nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        }
        for nsqd in &nsqds[..2] {
            consumers.push(nsqd.subscribe("orders", "billing").await);
        }
        nsqds[2].publish("orders", "x").await;
        let missed = nsqds[2].http().to_string();

        let sampler = sampler_of(&lookupd);
        let start = sampler.reached(1).await.number;
        let gap = snapshot_when(&sampler, "a gap", |s| problem(s, RuleId::ConsumerGap).is_some()).await;
        assert!(gap.number <= start + 2, "seen within two samples: {}", gap.number);
        let gap = problem(&gap, RuleId::ConsumerGap).expect("the gap");
        assert_eq!((gap.severity, &gap.place.nodes), (Severity::Critical, &vec![missed.clone()]));

        let found = check(&lookupd, "consumer-gap --json").await.expect(2).json();
        assert_eq!(found["problems"][0]["nodes"], serde_json::json!([missed]));
        assert_eq!(found["problems"][0]["channel_name"], "billing");
        // It says what the operator does next, and that command works.
        let next = found["problems"][0]["next"].as_str().expect("a command");
        let why = nsq(&lookupd, next.strip_prefix("nsq ").expect("a command of nsq")).await.expect(0);
        assert!(why.stdout.to_lowercase().contains("no consumer"), "{}", why.stdout);

        consumers.push(nsqds[2].subscribe("orders", "billing").await);
        snapshot_when(&sampler, "the gap is closed", |s| problem(s, RuleId::ConsumerGap).is_none()).await;
        check(&lookupd, "consumer-gap no-consumers").await.expect(0);
    });
}

#[test]
fn channel_without_consumers_fails_the_check_until_one_connects() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].admin("/topic/create?topic=orders").await;
        nsqds[0].admin("/channel/create?topic=orders&channel=billing").await;
        nsqds[0].publish("orders", "x").await;
        let found = check(&lookupd, "--json").await.json();
        assert_eq!(expected_rules(&found), ["no-consumers"]);
        let line = check(&lookupd, "no-consumers --format nagios").await.expect(2).stdout;
        assert!(
            line.starts_with("NSQ CRITICAL - crit no-consumers orders/billing: 1 message and no consumer"),
            "{line}"
        );
        // Another topic is fine, and a topic that does not exist is not.
        check(&lookupd, "no-consumers --topic orders --channel billing").await.expect(2);
        check(&lookupd, "no-consumers --topic nope").await.expect(3);
        nsqds[0].admin("/channel/pause?topic=orders&channel=billing").await;
        check(&lookupd, "no-consumers").await.expect(0);
        let paused = check(&lookupd, "paused").await.expect(0).stdout;
        assert_eq!(
            paused,
            "info paused orders/billing: the channel is paused; 1 messages wait\n"
                .replace("1 messages", "1 message")
        );
        nsqds[0].admin("/channel/unpause?topic=orders&channel=billing").await;
        let _consumer = nsqds[0].subscribe("orders", "billing").await;
        check(&lookupd, "no-consumers").await.expect(0);

        let doctor = nsq(&lookupd, "doctor --for 500ms").await.stdout;
        assert!(
            doctor.contains("1 of 1 nsqd and 1 of 1 nsqlookupd answer; 1 topic, 1 channel, depth 1."),
            "{doctor}"
        );
        // A consumer without RDY takes nothing.
        assert!(doctor.contains("means: All consumers have RDY 0"), "{doctor}");
    });
}

#[test]
fn figures_are_checked_against_limits() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].admin("/topic/create?topic=orders").await;
        nsqds[0].admin("/channel/create?topic=orders&channel=billing").await;
        for _ in 0..3 {
            nsqds[0].publish("orders", "x").await;
        }
        for (line, code) in [
            ("depth --warn 3", 0),
            ("depth --warn 2", 1),
            ("depth --warn 1 --crit 2", 2),
            ("depth --warn 2 --topic nope", 3),
            ("clients --warn 1", 1),
            ("clients --crit 1", 2),
            ("rtt --crit 60000", 0),
            ("disk --crit 0", 0),
            ("rate --warn 0", 0),
            ("depth", 3),
            ("--warn 3", 3),
            ("no-such-rule", 3),
            ("--no-such-flag", 3),
        ] {
            check(&lookupd, line).await.expect(code);
        }
        let text = check(&lookupd, "depth --warn 2 --format prometheus").await.expect(1).stdout;
        assert!(
            text.contains("nsq_check_figure{figure=\"depth\",topic=\"orders\",channel=\"billing\"} 3\n"),
            "{text}"
        );
        assert!(text.contains("nsq_check_known 1\n"), "{text}");
        let nobody = run(command("check --lookupd 127.0.0.1:1 --for 200ms"), b"").await.expect(3);
        assert!(nobody.stdout.contains("does not answer"), "{}{}", nobody.stdout, nobody.stderr);
    });
}

#[test]
fn age_of_the_oldest_message_is_that_of_its_publish() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let nsqd = &nsqds[0];
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        check(&lookupd, "age --warn 1000").await.expect(3);
        nsqd.publish("orders", "old").await;
        let published = Instant::now();
        wait::until("a second has passed", async || {
            wait::when(published.elapsed(), |age| *age > Duration::from_millis(1100))
        })
        .await;
        nsqd.publish("orders", "new").await;
        check(&lookupd, "age --crit 1").await.expect(2);
        check(&lookupd, "age --crit 1000").await.expect(0);
        let mut consumer = nsqd.subscribe("orders", "billing").await;
        consumer.ready(1).await;
        let old = consumer.message().await;
        // In flight, it is still the oldest.
        check(&lookupd, "age --crit 1").await.expect(2);
        consumer.finish(&old).await;
        let new = consumer.message().await;
        consumer.finish(&new).await;
        nsqd.channel_until_finished("orders", "billing").await;
        check(&lookupd, "age --warn 1000").await.expect(3);
        let plain = nsqd.get_json("/stats?format=json").await;
        assert!(plain["topics"][0]["channels"][0].get("oldest_age_ms").is_none(), "{plain}");
    });
}

#[test]
fn thresholds_come_from_a_file() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nsq.toml");
        let path = file.display();
        std::fs::write(&file, "[problems]\nrestarted_within = \"0s\"\n").expect("written");
        let found = check(&lookupd, &format!("restarted --config {path}")).await.expect(0);
        assert!(found.stdout.starts_with("ok: "), "{}", found.stdout);
        assert!(check(&lookupd, "restarted").await.expect(0).stdout.contains(&nsqds[0].http().to_string()));
        std::fs::write(&file, "[problems]\nold_message = \"5\"\n").expect("written");
        let refused = check(&lookupd, &format!("--config {path}")).await.expect(3);
        assert!(
            refused.stderr.contains("old_message = \"5\" in [problems]: expected a time"),
            "{}",
            refused.stderr
        );
        check(&lookupd, "--config /nonexistent/nsq.toml").await.expect(3);
    });
}

#[test]
fn killed_node_keeps_its_figures_and_the_others_go_on() {
    test(async {
        let (lookupd, mut nsqds) = cluster(3).await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=orders").await;
            nsqd.admin("/channel/create?topic=orders&channel=billing").await;
            nsqd.publish("orders", "x").await;
        }
        let sampler = sampler_of(&lookupd);
        let depth = |s: &Snapshot| s.channel("orders", "billing").map_or(0, |channel| channel.sum.depth);
        snapshot_when(&sampler, "all is there", |s| depth(s) == 3).await;
        let killed = nsqds[1].http().to_string();
        nsqds[1].kill().await;
        let down = snapshot_when(&sampler, "it is down", |s| problem(s, RuleId::NodeDown).is_some()).await;
        // nsqlookupd has forgotten it; the sampler has not.
        let node = down.node(&killed).expect("the node is known");
        assert_eq!((node.reach, node.totals.depth, depth(&down)), (Reach::Down, 1, 3));
        assert_eq!(
            problem(&down, RuleId::NodeDown).expect("found").place.nodes,
            std::slice::from_ref(&killed)
        );
        let others = down.nodes.iter().filter(|node| node.address != killed);
        assert!(others.clone().count() == 2 && others.clone().all(|node| node.reach == Reach::Up));
        // Samples are still quick: the age of its figures grows.
        let later = sampler.reached(down.number + 3).await;
        assert!(later.node(&killed).and_then(|node| node.age) > node.age);
        // The others have rates, and its messages do not count as published.
        nsqds[0].publish("orders", "x").await;
        let more = snapshot_when(&sampler, "the others go on", |s| depth(s) == 4).await;
        assert!(
            more.nodes.iter().all(|node| node.totals.rates.is_some() == (node.address != killed)),
            "{more:#?}"
        );
    });
}

/// A listener that accepts connections and never answers.
async fn silent() -> (String, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let task = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (address, task)
}

#[test]
fn hanging_lookupd_delays_only_the_first_samples() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let (hanging, _task) = silent().await;
        let start = Instant::now();
        let sampler = sampler(&[lookupd.http().to_string(), hanging.clone()], &[]);
        let first = sampler.reached(1).await;
        assert!(first.took < Duration::from_millis(2500), "{:?}", first.took);
        assert_eq!(first.node(&nsqds[0].http().to_string()).map(|node| node.reach), Some(Reach::Up));
        // While its first answer is outstanding, nobody waits for it again.
        let second = sampler.reached(2).await;
        assert!(second.took < Duration::from_secs(1), "{:?}", second.took);
        let down =
            snapshot_when(&sampler, "it timed out", |s| problem(s, RuleId::LookupdDown).is_some()).await;
        assert!(start.elapsed() >= Duration::from_secs(5));
        let found = problem(&down, RuleId::LookupdDown).expect("found");
        assert_eq!((found.severity, found.place.lookupd.as_ref()), (Severity::Warning, Some(&hanging)));
        let skipped = snapshot_when(&sampler, "it is skipped", |s| s.lookupds[1].is_skipped).await;
        let next = sampler.reached(skipped.number + 1).await;
        assert!(next.took < Duration::from_secs(1), "{:?}", next.took);

        // A check names it within its timeouts, and does not say that all is well.
        let line =
            format!("check no-consumers --for 200ms --timeout 1s --lookupd {},{hanging}", lookupd.http());
        let checked = run(command(&line), b"").await.expect(3);
        assert!(checked.stdout.contains("1 daemon does not answer"), "{}", checked.stdout);
    });
}

#[test]
fn restart_has_a_mark_and_no_negative_rate() {
    test(async {
        let (lookupd, mut nsqds) = cluster(1).await;
        nsqds[0].admin("/topic/create?topic=orders").await;
        nsqds[0].admin("/channel/create?topic=orders&channel=billing").await;
        let sampler = sampler_of(&lookupd);
        for _ in 0..20 {
            nsqds[0].publish("orders", "x").await;
        }
        let count = |s: &Snapshot| s.topic("orders").map_or(0, |topic| topic.sum.message_count);
        let before = snapshot_when(&sampler, "all is published", |s| count(s) == 20).await;
        let address = nsqds[0].http().to_string();
        let started_at = before.node(&address).and_then(|node| node.started_at).expect("it runs");
        nsqds[0].kill().await;
        // Start times have whole seconds.
        wait::until("another second", async || {
            let age = SystemTime::now().duration_since(started_at).unwrap_or_default();
            wait::when(age, |age| *age >= Duration::from_secs(1))
        })
        .await;
        nsqds[0].restart().await;
        let restarted = snapshot_when(&sampler, "it has restarted", |s| {
            s.node(&address).is_some_and(|node| node.restarted_at.is_some())
        })
        .await;
        assert_eq!(restarted.topic("orders").expect("it is kept").sum.message_count, 20);
        assert!(problem(&restarted, RuleId::Restarted).is_some());
        nsqds[0].publish("orders", "x").await;
        snapshot_when(&sampler, "there are rates again", |s| {
            s.number > restarted.number && s.totals.rates.is_some_and(|rates| rates.ingress > 0.0)
        })
        .await;
        let series = sampler.series();
        let marks: Vec<MarkKind> = series.marks().map(|mark| mark.kind).collect();
        assert!(marks.contains(&MarkKind::Restarted), "{marks:?}");
        let key = SeriesKey::Channel("orders".into(), "billing".into());
        let points = series.points(&key, Resolution::Fine);
        assert!(points.len() > 2);
        let is_negative = |rate: f32| rate < 0.0;
        assert!(!points.iter().any(|(_, p)| is_negative(p.ingress) || is_negative(p.egress)), "{points:?}");
        assert!(points.iter().all(|(at, _)| *at > UNIX_EPOCH));
    });
}

/// A program on a terminal of 80 columns and 24 lines.
struct Terminal {
    keys: File,
    child: Child,
    screen: Arc<Mutex<vt100::Parser>>,
}

impl Terminal {
    fn start(line: &str, lookupd: &Daemon) -> Self {
        use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo terminal");
        grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("a usable pseudo terminal");
        let name = ptsname(&controller, Vec::new()).expect("its name");
        let terminal =
            File::options().read(true).write(true).open(name.to_str().expect("a path")).expect("a terminal");
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(terminal.as_fd(), size).expect("a terminal has a size");
        let clone = |file: &File| Stdio::from(OwnedFd::from(file.try_clone().expect("a second handle")));
        // A session of its own, independent of the terminal in which the tests run.
        let child = Process::new("setsid")
            .arg("--ctty")
            .arg(binary("nsq"))
            .args(line.split(' '))
            .env("NSQ_LOOKUPD", lookupd.http().to_string())
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(clone(&terminal))
            .stdout(clone(&terminal))
            .stderr(clone(&terminal))
            .spawn()
            .expect("setsid of util-linux starts nsq");
        drop(terminal);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(24, 80, 0)));
        let keys = File::from(controller);
        let (mut output, shown) = (keys.try_clone().expect("a second handle"), screen.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The last read fails when the program has ended.
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                shown.lock().process(&bytes[..length]);
            }
        });
        Terminal { keys, child, screen }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn text(&self) -> String {
        self.screen.lock().screen().contents()
    }

    async fn shows(&self, part: &str) -> String {
        wait::until(&format!("the screen shows {part:?}"), async || {
            wait::when(self.text(), |text| text.contains(part))
        })
        .await
    }

    async fn ended(&mut self) -> Option<i32> {
        let status = wait::until("the program ends", async || {
            wait::when(self.child.try_wait().expect("a child"), Option::is_some)
        });
        status.await.and_then(|status| status.code())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn top_shows_the_cluster_and_obeys_keys() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.admin("/topic/create?topic=orders").await;
            nsqd.admin("/channel/create?topic=orders&channel=billing").await;
            nsqd.admin("/topic/create?topic=returns").await;
            nsqd.admin("/channel/create?topic=returns&channel=archive").await;
            nsqd.publish("orders", "x").await;
        }
        let _consumer = nsqds[0].subscribe("orders", "billing").await;
        let mut top = Terminal::start("top --interval 200ms", &lookupd);
        let screen = top.shows("orders/billing").await;
        assert!(
            screen.lines().next().is_some_and(|line| line.starts_with("nsq top  nodes 2/2  lookupds 1/1")),
            "{screen}"
        );
        assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
        let screen = top.shows("returns/archive").await;
        let row = |screen: &str, name: &str| screen.lines().position(|line| line.starts_with(name));
        assert!(row(&screen, "orders/billing") < row(&screen, "returns/archive"), "{screen}");
        // The problem list names the node.
        top.shows("consumer-gap orders/billing: 1 message on").await;

        top.press("/archive\r");
        top.shows("filter archive").await;
        wait::until("the other row is hidden", async || {
            wait::when(top.text(), |text| row(text, "orders/billing").is_none())
        })
        .await;
        top.press("\u{1b}");
        wait::until("the other row is back", async || {
            wait::when(top.text(), |text| row(text, "orders/billing").is_some())
        })
        .await;
        top.press("g\r");
        let screen = top.shows("RDY 0").await;
        assert!(screen.contains(&format!("{}  depth 1", nsqds[1].http())), "{screen}");
        top.press("\r");
        top.press("?");
        top.shows("pause or unpause the channel (asks)").await;
        top.press("x");

        top.press("P");
        top.shows("pause orders/billing on 2 nodes? [y/N]").await;
        top.press("n");
        top.shows("nothing was changed").await;
        top.press("P");
        top.shows("pause orders/billing on 2 nodes? [y/N]").await;
        top.press("y");
        top.shows("pause orders/billing: done on 2 nodes").await;
        for nsqd in &nsqds {
            assert!(nsqd.channel("orders", "billing").await.expect("it exists").paused);
        }
        top.press("e");
        top.shows("empty orders/billing on 2 nodes? 2 messages are dropped. [y/N]").await;
        top.press("y");
        top.shows("empty orders/billing: done on 2 nodes").await;
        for nsqd in &nsqds {
            assert_eq!(nsqd.channel("orders", "billing").await.expect("it exists").depth, 0);
        }
        top.press("n");
        let screen = top.shows("STATE").await;
        assert!(nsqds.iter().all(|nsqd| screen.contains(&nsqd.http().to_string())), "{screen}");
        top.press("q");
        assert_eq!(top.ended().await, Some(0));
    });
}

#[test]
fn top_tails_a_topic_and_comes_back() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].admin("/topic/create?topic=orders").await;
        nsqds[0].admin("/channel/create?topic=orders&channel=billing").await;
        let mut top = Terminal::start("top --interval 200ms", &lookupd);
        top.shows("orders/billing").await;
        top.press("t");
        top.shows("new messages of orders; Ctrl-C returns").await;
        wait::until("tail has subscribed", async || {
            let channels = nsqds[0].topic("orders").await.map_or(0, |topic| topic.channels.len());
            wait::when(channels, |channels| *channels == 2)
        })
        .await;
        nsqds[0].publish("orders", "a-new-message").await;
        top.shows("a-new-message").await;
        top.press("\u{3}");
        top.shows("TOPIC/CHANNEL").await;
        top.press("\u{3}");
        assert_eq!(top.ended().await, Some(0));
    });
}

#[test]
fn top_shows_that_a_node_went_down_and_ends_on_sigterm() {
    test(async {
        let (lookupd, mut nsqds) = cluster(2).await;
        let mut top = Terminal::start("top --interval 200ms", &lookupd);
        top.shows("nodes 2/2").await;
        nsqds[1].kill().await;
        top.shows("nodes 1/2").await;
        top.shows(&format!("node-down {}", nsqds[1].http())).await;
        let pid = i32::try_from(top.child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
        rustix::process::kill_process(pid, Signal::TERM).expect("it runs");
        assert_eq!(top.ended().await, Some(0));
    });
}

#[test]
fn top_prints_one_frame_where_there_is_no_terminal() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].admin("/topic/create?topic=orders").await;
        nsqds[0].admin("/channel/create?topic=orders&channel=billing").await;
        nsqds[0].publish("orders", "x").await;
        for line in ["top --interval 200ms", "top orders/billing --once --interval 200ms"] {
            let frame = nsq(&lookupd, line).await.expect(0).stdout;
            assert!(frame.starts_with("nsq top  nodes 1/1  lookupds 1/1  topics 1"), "{frame}");
            assert!(frame.contains("\norders/billing "), "{frame}");
            assert!(frame.contains("no-consumers orders/billing: 1 message and no consumer"), "{frame}");
            assert!(!frame.contains('\u{1b}'), "no escapes: {frame}");
        }
        let other = nsq(&lookupd, "top nope --once --interval 200ms").await.expect(0).stdout;
        assert!(!other.contains("\norders/billing "), "{other}");
        nsq(&lookupd, "top --json").await.expect(2);
        nsq(&lookupd, "top --interval 0s").await.expect(2);
    });
}
