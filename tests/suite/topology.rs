use nsq_tests::wire::Peer;
use nsq_tests::{Daemon, test, wait};
use serde_json::{Value, json};

const EXPERIMENT: &str = "--enable-experiment=topology-aware-consumption";

/// A consumer of `t`/`c` with RDY 3 in this region and zone.
async fn consumer(nsqd: &Daemon, region: &str, zone: &str) -> Peer {
    let mut peer = nsqd.connect().await;
    peer.identify(json!({"feature_negotiation": true, "topology_region": region, "topology_zone": zone}))
        .await;
    peer.subscribe("t", "c").await;
    peer.ready(3).await;
    peer
}

/// A far, a near and two nearest consumers, in the order in which they subscribe.
async fn consumers(nsqd: &Daemon) -> [Peer; 4] {
    let peers = [
        consumer(nsqd, "r2", "z3").await,
        consumer(nsqd, "r1", "z2").await,
        consumer(nsqd, "r1", "z1").await,
        consumer(nsqd, "r1", "z1").await,
    ];
    let all_ready =
        |channel: &nsq_tests::stats::Channel| channel.clients.iter().all(|one| one.ready_count == 3);
    nsqd.channel_until("t", "c", "all consumers are ready", all_ready).await;
    peers
}

async fn in_flight(nsqd: &Daemon, peers: &[Peer]) -> Vec<u64> {
    let channel = nsqd.channel("t", "c").await.expect("the channel exists");
    let of = |peer: &Peer| {
        let address = peer.local_address().to_string();
        channel.clients.iter().find(|client| client.remote_address == address).map(|one| one.in_flight_count)
    };
    peers.iter().map(|peer| of(peer).expect("the consumer is connected")).collect()
}

#[test]
fn messages_go_to_the_zone_first_then_the_region_then_others() {
    test(async {
        let nsqd = Daemon::nsqd()
            .flag(EXPERIMENT)
            .flag("--topology-region=r1")
            .flag("--topology-zone=z1")
            .start()
            .await;
        let mut peers = consumers(&nsqd).await;
        let mut seen = Vec::new();
        for number in 1..=16 {
            nsqd.publish("t", format!("message {number}")).await;
            let placed = |channel: &nsq_tests::stats::Channel| channel.in_flight_count == number.min(12);
            nsqd.channel_until("t", "c", "the message is in flight", placed).await;
            if [6, 9, 16].contains(&number) {
                seen.push(in_flight(&nsqd, &peers).await);
            }
        }
        assert_eq!(seen, [[0, 0, 3, 3], [0, 3, 3, 3], [3, 3, 3, 3]]);
        assert_eq!(
            nsqd.channel("t", "c").await.expect("the channel exists").depth,
            4,
            "all consumers have reached their RDY count"
        );

        let stats = nsqd.get_json("/stats?format=json").await;
        let channel = &stats["topics"][0]["channels"][0];
        let counts = |of: &Value| {
            ["zone_local_msg_count", "region_local_msg_count", "global_msg_count"]
                .map(|name| of[name].as_u64())
        };
        assert_eq!(counts(channel), [Some(6), Some(3), Some(3)]);
        let far = peers[0].local_address().to_string();
        let clients = channel["clients"].as_array().expect("clients");
        let far = clients
            .iter()
            .find(|client| client["remote_address"] == far.as_str())
            .expect("the far consumer is listed");
        assert_eq!(counts(far), [None, None, Some(3)], "zero counts are left out");

        // The near consumers have no capacity, so the far one gets the waiting messages at once.
        peers[0].consume(3).await;
        let sent = |channel: &nsq_tests::stats::Channel| channel.depth == 1 && channel.in_flight_count == 12;
        nsqd.channel_until("t", "c", "the far consumer has more messages", sent).await;
    });
}

#[test]
fn near_consumer_that_does_not_read_blocks_no_other() {
    test(async {
        let nsqd = Daemon::nsqd().flag(EXPERIMENT).flag("--topology-zone=z1").start().await;
        let mut near = consumer(&nsqd, "", "z1").await;
        let mut far = consumer(&nsqd, "", "z2").await;
        near.ready(2500).await;
        far.ready(2500).await;
        let ready =
            |channel: &nsq_tests::stats::Channel| channel.clients.iter().all(|one| one.ready_count == 2500);
        nsqd.channel_until("t", "c", "both are ready", ready).await;
        // More than the socket buffers and nsqd's output buffer hold, so the far consumer must get the rest.
        let body = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            nsqd.publish("t", &body).await;
        }
        assert_eq!(far.message().await.body.len(), body.len());
    });
}

#[test]
fn client_library_and_nsq_command_send_their_topology() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let nsqd = Daemon::nsqd()
            .flag(EXPERIMENT)
            .flag("--topology-region=r1")
            .flag("--topology-zone=z1")
            .lookupd(&lookupd)
            .start()
            .await;
        let _far = consumer(&nsqd, "r2", "z2").await;
        let config = nsq::Config::new().topology_region("r1").topology_zone("z1").max_in_flight(10);
        let client = nsq::Consumer::builder("t", "c").nsqd(nsqd.tcp().to_string()).config(config);
        let mut messages = client.stream().expect("a consumer");
        let ready = |channel: &nsq_tests::stats::Channel| {
            channel.clients.len() == 2 && channel.clients.iter().all(|one| one.ready_count > 0)
        };
        nsqd.channel_until("t", "c", "both are ready", ready).await;
        for _ in 0..3 {
            nsqd.publish("t", "x").await;
            messages.next().await.expect("a message").finish().expect("the connection is open");
        }
        let nsq = async |words: &[&str]| {
            let mut command = tokio::process::Command::new(nsq_tests::daemon::binary("nsq"));
            command.args(words).arg(format!("--lookupd={}", lookupd.http())).kill_on_drop(true);
            let output = tokio::time::timeout(wait::PATIENCE, command.output()).await.expect("nsq ends");
            let output = output.expect("nsq starts");
            assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let registered = async || {
            let known = lookupd.get("/lookup?topic=t").await.status;
            wait::when(known, |status| *status == 200)
        };
        wait::until("nsqlookupd knows the topic", registered).await;
        let stat: Value =
            serde_json::from_str(&nsq(&["stat", "t", "--no-rates", "--json"]).await).expect("JSON");
        assert_eq!(stat["topics"][0]["channels"][0]["zone_local_msg_count"], 3);
        assert!(nsq(&["node", "list"]).await.lines().nth(1).is_some_and(|row| row.ends_with("\tr1/z1")));

        drop(messages);
        let has_left = |channel: &nsq_tests::stats::Channel| channel.clients.len() == 1;
        nsqd.channel_until("t", "c", "the client has disconnected", has_left).await;
        let printed = nsq(&["sub", "t", "c", "-n", "1", "--topology-region=r1"]);
        let publish = async {
            let ready = |channel: &nsq_tests::stats::Channel| {
                channel.clients.len() == 2 && channel.clients.iter().all(|one| one.ready_count > 0)
            };
            nsqd.channel_until("t", "c", "the command is ready", ready).await;
            nsqd.publish("t", "for the command").await;
        };
        let (printed, ()) = tokio::join!(printed, publish);
        assert_eq!(printed, "for the command\n");
        let channel = &nsqd.get_json("/stats?format=json").await["topics"][0]["channels"][0];
        assert_eq!(channel["region_local_msg_count"], 1);
    });
}

#[test]
fn no_consumer_is_preferred_without_the_experiment() {
    test(async {
        let nsqd = Daemon::nsqd()
            .flag("--enable-experiment=another-one")
            .flag("--topology-region=r1")
            .flag("--topology-zone=z1")
            .start()
            .await;
        let peers = consumers(&nsqd).await;
        for number in 1..=4 {
            nsqd.publish("t", format!("message {number}")).await;
            let placed = |channel: &nsq_tests::stats::Channel| channel.in_flight_count == number;
            nsqd.channel_until("t", "c", "the message is in flight", placed).await;
        }
        assert_eq!(in_flight(&nsqd, &peers).await, [1, 1, 1, 1]);
        let channel = &nsqd.get_json("/stats?format=json").await["topics"][0]["channels"][0];
        assert_eq!(channel["global_msg_count"], 4);
        assert_eq!(channel["clients"][0]["global_msg_count"], Value::Null);
    });
}
