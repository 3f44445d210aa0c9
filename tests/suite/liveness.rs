use std::time::{Duration, Instant};

use nsq_tests::wire::{Frame, NoFrame, Peer};
use nsq_tests::{Daemon, test, test_within};
use serde_json::json;

/// A connection with the shortest heartbeat interval, one second. It does not answer heartbeats by itself.
async fn with_heartbeats(nsqd: &Daemon) -> Peer {
    let mut peer = nsqd.connect().await;
    peer.identify(json!({"feature_negotiation": true, "heartbeat_interval": 1000})).await;
    peer.answers_heartbeats = false;
    peer
}

/// Reads heartbeats until the connection is closed; returns their number.
async fn heartbeats_until_closed(peer: &mut Peer) -> usize {
    let mut heartbeats = 0;
    while let Ok(frame) = peer.frame_within(Duration::from_secs(10)).await {
        assert_eq!(frame, Frame::Response("_heartbeat_".into()), "closed without an error frame");
        heartbeats += 1;
    }
    peer.closed().await;
    heartbeats
}

#[test]
fn a_silent_client_is_closed_after_two_intervals() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = with_heartbeats(&nsqd).await;
        let start = Instant::now();
        let heartbeats = heartbeats_until_closed(&mut peer).await;
        let waited = start.elapsed();
        assert!((1..=2).contains(&heartbeats), "{heartbeats} heartbeats");
        assert!(waited >= Duration::from_millis(1900), "closed after {waited:?}");
        assert!(waited < Duration::from_secs(5), "closed after {waited:?}");
    });
}

#[test]
fn client_that_answers_heartbeats_stays_connected_under_load() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = with_heartbeats(&nsqd).await;
        peer.subscribe("t", "c").await;
        peer.ready(100).await;
        let mut publisher = nsqd.connect().await;
        let (mut heartbeats, mut messages) = (0, 0);
        while heartbeats < 4 {
            if messages <= heartbeats * 50 {
                publisher.publish("t", "x").await;
            }
            match peer.frame().await {
                Frame::Message(message) => {
                    messages += 1;
                    peer.finish(&message).await;
                }
                frame => {
                    assert_eq!(frame, Frame::Response("_heartbeat_".into()));
                    heartbeats += 1;
                    peer.line("NOP").await;
                    publisher.publish("t", "x").await;
                }
            }
        }
        assert!(messages > 0);
    });
}

#[test]
fn bytes_without_a_line_feed_do_not_keep_a_connection_open() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = with_heartbeats(&nsqd).await;
        let start = Instant::now();
        loop {
            peer.send("N").await;
            match peer.frame_within(Duration::from_millis(150)).await {
                Err(NoFrame::Closed) => break,
                Err(NoFrame::Silence) => {}
                Err(NoFrame::Cut) => panic!("closed inside a frame"),
                Ok(frame) => assert_eq!(frame, Frame::Response("_heartbeat_".into())),
            }
            assert!(start.elapsed() < Duration::from_secs(8), "still open");
        }
        assert!(start.elapsed() >= Duration::from_millis(1900), "closed after {:?}", start.elapsed());
    });
}

#[test]
fn stall_inside_a_body_is_reported_and_closed() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = with_heartbeats(&nsqd).await;
        let start = Instant::now();
        peer.send("PUB t\n\0\0\0\x09abc").await;
        // The "N" after each heartbeat becomes part of the body and does not extend the deadline.
        let error = loop {
            match peer.frame().await {
                Frame::Error(error) => break error,
                frame => assert_eq!(frame, Frame::Response("_heartbeat_".into())),
            }
            peer.send("N").await;
        };
        let waited = start.elapsed();
        assert!((1800..2900).contains(&waited.as_millis()), "{waited:?}");
        assert!(error.starts_with(b"E_BAD_MESSAGE PUB failed to read message body"), "{error:?}");
        peer.closed().await;
    });
}

#[test]
fn without_heartbeats_there_are_no_deadlines() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.identify(json!({"feature_negotiation": true, "heartbeat_interval": -1})).await;
        peer.answers_heartbeats = false;
        peer.nothing_for(Duration::from_secs(4)).await;
        peer.still_works().await;
    });
}

#[test]
fn the_default_interval_is_thirty_seconds() {
    test_within(Duration::from_secs(90), async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = nsqd.connect().await;
        peer.answers_heartbeats = false;
        let start = Instant::now();
        let heartbeat = peer.frame_within(Duration::from_secs(60)).await.expect("a heartbeat");
        assert_eq!(heartbeat, Frame::Response("_heartbeat_".into()));
        assert!(start.elapsed() >= Duration::from_secs(29), "{:?}", start.elapsed());
    });
}
