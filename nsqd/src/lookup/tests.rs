//! Tests against a fake nsqlookupd on a real socket.

use nsq_protocol::LookupCommand;

use super::fake::{Answer, DEADLINE, FakeLookupd, Node, calm, fake_http, node_info};
use super::*;

fn is_register(command: &LookupCommand) -> bool {
    matches!(command, LookupCommand::Register { .. })
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

#[tokio::test]
async fn all_names_are_registered_and_then_only_changes() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &["x", "e#ephemeral"]);
    node.create("b", &[]);
    node.attach();
    let seen = lookupd.until_listed(&["a", "a x", "a e#ephemeral", "b"]).await;
    assert_eq!(seen.log, ["connected", "IDENTIFY", "REGISTER a e#ephemeral", "REGISTER a x", "REGISTER b"]);
    assert_eq!(seen.peer, Some(node_info()));
    node.create("b", &["y"]);
    lookupd.until_listed(&["a", "a x", "a e#ephemeral", "b", "b y"]).await;
    node.delete("a", Some("e#ephemeral"));
    lookupd.until_listed(&["a", "a x", "b", "b y"]).await;
    node.delete("a", None);
    let seen = lookupd.until_listed(&["b", "b y"]).await;
    assert_eq!(seen.log[5..], ["REGISTER b y", "UNREGISTER a e#ephemeral", "UNREGISTER a x", "UNREGISTER a"]);
}

#[tokio::test]
async fn thousands_of_topics_are_registered_once_each() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    for number in 0..2000 {
        node.create(&format!("t{number}"), &[]);
    }
    node.attach();
    lookupd.until(|seen| seen.listed.len() == 2000).await;
    for number in 2000..2100 {
        node.create(&format!("t{number}"), &[]);
        tokio::task::yield_now().await;
    }
    let seen = lookupd.until(|seen| seen.listed.len() == 2100).await;
    assert_eq!(seen.log.len(), 2102);
}

#[tokio::test]
async fn silent_nsqlookupd_does_not_delay_the_others() {
    let mute = FakeLookupd::scripted(|_| Answer::Mute).await;
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&mute, &lookupd], calm());
    node.attach();
    mute.until(|seen| seen.count("IDENTIFY") == 1).await;
    node.create("a", &[]);
    lookupd.until_listed(&["a"]).await;
    let status = node.peers.status();
    let of =
        |fake: &FakeLookupd| status.iter().find(|status| status.address == fake.address).unwrap().connected;
    assert_eq!((of(&mute), of(&lookupd)), (false, true));
}

#[tokio::test]
async fn lost_connection_is_noticed_and_reopened_without_a_ping() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &["x", "e#ephemeral"]);
    node.attach();
    lookupd.until_listed(&["a", "a x", "a e#ephemeral"]).await;
    lookupd.break_connections();
    lookupd.until(|seen| seen.count("connected") == 2 && seen.listed.len() == 3).await;
    assert_eq!(node.peers.status()[0].last_error.as_deref(), Some("nsqlookupd closed the connection"));
    assert!(node.peers.status()[0].connected);
}

#[tokio::test]
async fn names_deleted_while_disconnected_are_not_registered_again() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &["x", "e#ephemeral"]);
    node.create("b", &[]);
    node.attach();
    lookupd.until(|seen| seen.listed.len() == 4).await;
    lookupd.break_connections();
    node.delete("b", None);
    node.delete("a", Some("e#ephemeral"));
    let seen = lookupd.until(|seen| seen.count("connected") == 2 && seen.listed.len() == 2).await;
    assert_eq!(seen.count("UNREGISTER a e#ephemeral"), 1, "otherwise nsqlookupd would keep the name");
}

#[tokio::test]
async fn error_is_logged_and_the_connection_reopened() {
    let mut errors = 1;
    let lookupd = FakeLookupd::scripted(move |command| match command {
        LookupCommand::Register { .. } if errors > 0 => {
            errors -= 1;
            Answer::Error("E_INVALID client must IDENTIFY")
        }
        _ => Answer::Right,
    })
    .await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &[]);
    node.create("b", &[]);
    node.attach();
    let seen = lookupd.until_listed(&["a", "b"]).await;
    assert_eq!(seen.count("connected"), 2);
    assert_eq!(node.count_lines("nsqlookupd answered REGISTER a with E_INVALID client must IDENTIFY"), 1);
}

#[tokio::test]
async fn refused_name_does_not_block_other_names() {
    let lookupd = FakeLookupd::scripted(|command| match command {
        LookupCommand::Register { topic, .. } if topic.as_str() == "b" => {
            Answer::Error("E_BAD_TOPIC REGISTER topic name 'b' is not valid")
        }
        _ => Answer::Right,
    })
    .await;
    let node = Node::start(&[&lookupd], calm());
    for name in ["a", "b", "c"] {
        node.create(name, &["x", "y"]);
    }
    node.attach();
    lookupd.until_listed(&["a", "a x", "a y", "c", "c x", "c y"]).await;
}

#[tokio::test]
async fn response_with_invalid_size_closes_the_connection() {
    for size in [-1, i32::MIN, i32::MAX, 10_001] {
        let answer = Answer::Raw(i32::to_be_bytes(size).to_vec());
        let lookupd =
            FakeLookupd::scripted(
                move |command| {
                    if is_register(command) { answer.clone() } else { Answer::Right }
                },
            )
            .await;
        let node = Node::start(&[&lookupd], calm());
        node.create("a", &[]);
        node.attach();
        node.until_error(&format!("invalid response size {size}")).await;
        lookupd.until(|seen| seen.count("connected") >= 2).await;
    }
}

#[tokio::test]
async fn unexpected_response_closes_the_connection() {
    let two = b"\0\0\0\x02OK\0\0\0\x02OK".to_vec();
    let lookupd =
        FakeLookupd::scripted(
            move |command| {
                if is_register(command) { Answer::Raw(two.clone()) } else { Answer::Right }
            },
        )
        .await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &[]);
    node.attach();
    node.until_error("nsqlookupd sent 6 unexpected bytes").await;
}

#[tokio::test]
async fn error_to_identify_closes_the_connection() {
    let lookupd = FakeLookupd::scripted(|_| Answer::Error("E_INVALID")).await;
    let node = Node::start(&[&lookupd], calm());
    node.attach();
    node.until_error("nsqlookupd answered IDENTIFY with E_INVALID").await;
    lookupd.until(|seen| seen.count("connected") >= 2).await;
    assert!(!node.peers.status()[0].connected);
}

#[tokio::test]
async fn pings_are_sent_at_each_interval() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], Timing { ping_interval: Duration::from_millis(5), ..calm() });
    node.attach();
    let seen = lookupd.until(|seen| seen.count("PING") >= 3).await;
    assert_eq!(seen.count("connected"), 1);
    assert!(node.peers.status()[0].last_error.is_none());
}

#[tokio::test]
async fn unanswered_ping_closes_the_connection() {
    let lookupd = FakeLookupd::scripted(|command| match command {
        LookupCommand::Ping => Answer::Mute,
        _ => Answer::Right,
    })
    .await;
    let short = Duration::from_millis(50);
    let node = Node::start(&[&lookupd], Timing { ping_interval: short, io_timeout: short, ..calm() });
    node.attach();
    node.until_error("waiting for an answer took longer than 50ms").await;
    lookupd.until(|seen| seen.count("connected") >= 2).await;
}

#[tokio::test]
async fn failed_connection_is_retried() {
    let mut attempts = 5;
    let lookupd = FakeLookupd::scripted(move |_| {
        attempts -= i32::from(attempts > 0);
        if attempts > 0 { Answer::Close } else { Answer::Right }
    })
    .await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &[]);
    node.attach();
    let seen = lookupd.until_listed(&["a"]).await;
    assert_eq!(seen.count("connected"), 5);
}

#[tokio::test]
async fn node_without_http_port_does_not_connect() {
    let lookupd = FakeLookupd::start().await;
    let peer = PeerInfo { http_port: 0, ..node_info() };
    let node = Node::start_with(vec![lookupd.address.clone()], peer, calm());
    node.attach();
    node.until_error("cannot register this node: it has no HTTP port").await;
    // The task has ended, so it sends nothing more.
    let mut state = node.peers.peers.lock().tasks[0].state.clone();
    timeout(DEADLINE, async { while state.changed().await.is_ok() {} }).await.unwrap();
    assert_eq!(node.count_lines("ERROR"), 1);
    assert!(lookupd.seen().log.is_empty());
}

#[tokio::test]
async fn addresses_can_be_replaced_at_run_time() {
    let [first, second, third] =
        [FakeLookupd::start().await, FakeLookupd::start().await, FakeLookupd::start().await];
    let node = Node::start(&[&first, &second], calm());
    node.create("a", &[]);
    node.attach();
    first.until_listed(&["a"]).await;
    second.until_listed(&["a"]).await;
    let addresses = vec![third.address.clone(), second.address.clone(), third.address.clone()];
    node.peers.set_addresses(addresses.clone());
    assert_eq!(node.peers.addresses(), addresses);
    assert_eq!(node.peers.status().len(), 2);
    first.until(|seen| seen.count("closed") == 1).await;
    third.until_listed(&["a"]).await;
    node.peers.set_addresses(Vec::new());
    third.until(|seen| seen.count("closed") == 1).await;
    second.until(|seen| seen.count("closed") == 1).await;
    for lookupd in [first, second, third] {
        assert_eq!(lookupd.seen().log, ["connected", "IDENTIFY", "REGISTER a", "closed"]);
    }
}

#[tokio::test]
async fn stop_closes_the_connection_without_unregistering() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    node.create("a", &[]);
    node.attach();
    lookupd.until_listed(&["a"]).await;
    node.stop.cancel();
    let seen = lookupd.until(|seen| seen.count("closed") == 1).await;
    assert_eq!(seen.log, ["connected", "IDENTIFY", "REGISTER a", "closed"]);
    let mut state = node.peers.peers.lock().tasks[0].state.clone();
    timeout(DEADLINE, state.wait_for(|state| !state.is_connected)).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_the_peers_closes_their_connections() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    node.attach();
    node.until_connected().await;
    drop(node);
    lookupd.until(|seen| seen.count("closed") == 1).await;
}

#[tokio::test]
async fn new_topic_gets_the_channels_of_all_that_answer() {
    let [first, second, gone] =
        [FakeLookupd::start().await, FakeLookupd::start().await, FakeLookupd::start().await];
    let (first_http, _first) = fake_http(r#"{"channels":["x","y","not valid!"]}"#).await;
    let (second_http, _second) = fake_http(r#"{"channels":["y","z#ephemeral"]}"#).await;
    let (gone_http, gone_guard) = fake_http("").await;
    drop(gone_guard);
    first.set_http(&first_http);
    second.set_http(&second_http);
    gone.set_http(&gone_http);
    let node = Node::start(&[&first, &second, &gone], calm());
    node.attach();
    // No connection is open yet; the query waits for the first attempts.
    let channels = node.peers.channels_of(&topic("t")).await;
    let names: Vec<&str> = channels.iter().map(ChannelName::as_str).collect();
    assert_eq!(names, ["x", "y", "z#ephemeral"]);
    assert_eq!(node.count_lines("WARNING: LOOKUPD("), 2);
    // The HTTP address is used even while the TCP connection is down.
    first.break_connections();
    assert_eq!(node.peers.channels_of(&topic("t")).await.len(), 3);
}

#[tokio::test]
async fn nsqlookupd_without_http_address_is_not_queried() {
    let lookupd = FakeLookupd::start().await;
    let node = Node::start(&[&lookupd], calm());
    assert!(node.peers.channels_of(&topic("t")).await.is_empty(), "not attached: no delay");
    node.attach();
    assert!(node.peers.channels_of(&topic("t")).await.is_empty());
    assert_eq!(node.count_lines("ERROR: TOPIC(t): no nsqlookupd reported its HTTP address"), 2);
    assert_eq!(node.count_lines("it reports no HTTP address"), 1);
    assert!(node.peers.status()[0].connected);
    node.peers.set_addresses(Vec::new());
    assert!(node.peers.channels_of(&topic("t")).await.is_empty());
    assert_eq!(node.count_lines("ERROR: TOPIC(t)"), 2, "no nsqlookupd to ask is not an error");
}
