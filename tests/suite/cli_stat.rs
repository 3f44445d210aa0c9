use nsq_tests::process::stop;
use nsq_tests::{Daemon, test};
use rustix::process::Signal;

use crate::cli::{cluster, command, nsq, run};

#[test]
fn stat_has_a_row_per_topic_channel_or_node_in_any_order() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        for topic in ["a", "b"] {
            nsq(&lookupd, &format!("topic create {topic} --channel c --channel d --on all")).await.expect(0);
        }
        nsqds[0].publish("a", "x").await;
        for body in ["x", "y", "z"] {
            nsqds[1].publish("b", body).await;
        }
        nsqds[0].channel_until("a", "d", "it has the message", |channel| channel.depth == 1).await;
        nsqds[1].channel_until("b", "d", "it has the messages", |channel| channel.depth == 3).await;
        let stat = async |flags: &str| nsq(&lookupd, &format!("stat --direct --no-rates {flags}")).await;

        let shown = stat("--by topic").await.expect(0);
        let depths: Vec<(&str, &str)> = shown.rows().iter().map(|row| (row[0], row[3])).collect();
        assert_eq!(depths, [("a", "2"), ("b", "6")]);
        let shown = stat("--sort depth --top 3").await.expect(0);
        let depths: Vec<(&str, &str, &str)> =
            shown.rows().iter().map(|row| (row[0], row[1], row[4])).collect();
        assert_eq!(depths, [("b", "c", "3"), ("b", "d", "3"), ("a", "c", "1")]);
        let shown = stat("--by node --sort depth --json").await.expect(0).json();
        assert_eq!(shown["nodes"][0]["node"], nsqds[1].http().to_string());
        assert_eq!((&shown["nodes"][0]["depth"], &shown["nodes"][1]["depth"]), (&6.into(), &2.into()));
        let shown = stat("a/c --by node --json").await.expect(0).json();
        assert_eq!(shown["nodes"].as_array().map(Vec::len), Some(2));
        let depths: i64 = (0..2).filter_map(|node| shown["nodes"][node]["depth"].as_i64()).sum();
        assert_eq!(depths, 1);
        assert!(stat("--sort size").await.expect(2).stderr.contains("depth"));

        stop(nsqds[1].pid()).await;
        let partial = stat("--by channel --timeout 500ms").await.expect(3);
        assert!(partial.stderr.contains(&nsqds[1].http().to_string()), "{}", partial.stderr);
        assert!(partial.rows().iter().all(|row| row[11].ends_with('*')), "{}", partial.stdout);
        nsqds[1].signal(Signal::CONT);
    });
}

#[test]
fn stat_ends_when_its_condition_holds() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsq(&lookupd, "topic create t --channel c --on all").await.expect(0);
        nsqds[0].publish("t", "x").await;
        nsqds[0].channel_until("t", "c", "it has the message", |channel| channel.depth == 1).await;
        let flags = "stat t/c --direct --no-rates --interval 20ms";
        nsq(&lookupd, &format!("{flags} --until depth==1")).await.expect(0);
        let late = nsq(&lookupd, &format!("{flags} --until depth==0 --timeout 100ms")).await.expect(7);
        assert!(late.stderr.contains("depth==0 did not hold within 100ms"), "{}", late.stderr);
        let line = format!("{flags} --until depth==0");
        let (waited, _) = tokio::join!(nsq(&lookupd, &line), nsq(&lookupd, "sub t c -n 1"));
        let last = waited.expect(0).stdout.lines().last().map(str::to_owned).expect("a row");
        assert_eq!(last.split('\t').nth(4), Some("0"), "{last}");
        assert!(nsq(&lookupd, "stat --until age>1").await.expect(2).stderr.contains("such as 'depth==0'"));
    });
}

#[test]
fn stat_reads_a_data_directory() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let path = nsqd.data_path().display().to_string();
        nsqd.admin("/topic/create?topic=orders").await;
        nsqd.admin("/channel/create?topic=orders&channel=billing").await;
        nsqd.publish("orders", "x").await;
        nsqd.channel_until("orders", "billing", "it has the message", |channel| channel.depth == 1).await;
        let in_use = run(command(&format!("stat --data {path}")), b"").await.expect(5);
        assert!(in_use.stderr.contains("a daemon is using this directory"), "{}", in_use.stderr);
        nsqd.terminate().await;

        let shown =
            run(command(&format!("stat orders/billing --data {path} --sort name")), b"").await.expect(0);
        assert_eq!(shown.rows()[0][..5], ["orders", "billing", "-", "-", "1"]);
        let line = format!("stat orders/biling --data {path}");
        assert!(run(command(&line), b"").await.expect(4).stderr.contains("did you mean billing?"));
        run(command(&format!("stat --data {path} --watch")), b"").await.expect(2);
    });
}
