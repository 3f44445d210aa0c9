use proptest::prelude::*;

use super::*;

fn channel(name: &str, number: u64) -> ChannelSummary {
    ChannelSummary {
        channel_name: ChannelName::new(name).unwrap(),
        depth: number as i64,
        backend_depth: 1,
        in_flight_count: 2,
        deferred_count: 3,
        message_count: number,
        zone_local_msg_count: 4,
        region_local_msg_count: 5,
        global_msg_count: 6,
        requeue_count: 7,
        timeout_count: 8,
        client_count: 9,
        paused: true,
        departures: Departures {
            dead_lettered_count: number / 3,
            dead_letter_pending: number / 4,
            expired_count: number / 5,
            overflow_count: number / 6,
            filtered_count: number / 7,
            is_full: number > 7,
            held_up: HeldUp {
                cancelled_count: number / 8,
                throttled_ms: number / 9,
                throttled: number > 9,
                in_flight_limit_reached: number > 10,
            },
        },
    }
}

fn topic(name: &str, channels: Vec<ChannelSummary>) -> TopicSummary {
    TopicSummary {
        topic_name: TopicName::new(name).unwrap(),
        depth: 1,
        backend_depth: 2,
        message_count: 3,
        message_bytes: 4,
        paused: true,
        channels,
    }
}

fn report(topics: Vec<TopicSummary>) -> StatsReport {
    StatsReport {
        is_first: true,
        is_last: true,
        is_cut: false,
        refresh: 7,
        node: NodeSummary {
            version: "1.3.0".into(),
            health: "OK".into(),
            start_time: 1,
            heap_in_use_bytes: 2,
            topic_count: 1,
            draining: false,
        },
        topics,
        removed: vec![TopicName::new("gone").unwrap()],
    }
}

#[test]
fn format_is_an_array_of_the_fields_in_order() {
    let encoded = report(vec![topic("t", vec![])]).encode();
    let expected = [
        &[0x97, 0xc3, 0xc3, 0xc2, 7][..],
        &[0x95, 0xa5],
        b"1.3.0",
        &[0xa2],
        b"OK",
        &[1, 2, 1],
        &[0x91, 0x97, 0xa1],
        b"t",
        &[1, 2, 3, 4, 0xc3, 0x90],
        &[0x91, 0xa4],
        b"gone",
    ];
    assert_eq!(encoded, expected.concat());
}

/// Older versions refuse longer arrays, and send shorter ones.
#[test]
fn departures_are_sent_only_to_receivers_that_know_them() {
    let some = report(vec![topic("t", vec![channel("c", 10)])]);
    let mut none = some.clone();
    none.topics[0].channels[0].departures = Departures::default();
    assert_eq!(StatsReport::decode(&some.clone().encode_for(HEARTBEAT_STATS)), Ok(some.clone()));
    assert_eq!(some.encode_for(1), none.encode());
    let header = |bytes: &[u8]| bytes[bytes.windows(2).position(|two| two == b"\xa1c").unwrap() - 1];
    assert_eq!(header(&none.encode()), 0x9d, "13 fields, as in version 1");
    assert_eq!(StatsReport::decode(&none.encode()), Ok(none));
}

#[test]
fn draining_is_sent_only_to_receivers_that_know_it() {
    let serving = report(vec![]);
    let mut draining = serving.clone();
    draining.node.draining = true;
    assert_eq!(StatsReport::decode(&draining.clone().encode_for(3)), Ok(draining.clone()));
    assert_eq!(draining.clone().encode_for(2), serving.encode());
    assert_eq!(draining.encode_for(1), serving.encode());
}

#[test]
fn an_older_receiver_gets_no_counts_that_it_does_not_know() {
    let newest = report(vec![topic("t", vec![channel("c", 100)])]);
    let mut without = newest.clone();
    without.topics[0].channels[0].departures.held_up = HeldUp::default();
    assert_eq!(newest.clone().encode_for(HEARTBEAT_STATS), newest.encode());
    assert_eq!(newest.encode_for(3), without.encode());
}

#[test]
fn summary_converts_to_stats_and_back() {
    let summary = topic("t", vec![channel("c", 10)]);
    assert_eq!(TopicSummary::new(&summary.stats()), Some(summary.clone()));
    let stats = report(vec![]).node.stats(Some(vec![summary.stats()]));
    assert_eq!((stats.version.as_str(), stats.health.as_str(), stats.start_time), ("1.3.0", "OK", 1));
    assert_eq!(stats.memory.unwrap().heap_in_use_bytes, 2);
    assert_eq!(
        TopicSummary::new(&TopicStats { topic_name: "no name".into(), ..TopicStats::default() }),
        None
    );
}

#[test]
fn invalid_reports_are_rejected() {
    let good = report(vec![topic("t", vec![channel("c", 1)])]).encode();
    assert!(StatsReport::decode(&good).is_ok());
    for cut in 0..good.len() {
        assert!(StatsReport::decode(&good[..cut]).is_err(), "cut at {cut}");
    }
    let mut longer = good.clone();
    longer.push(0);
    assert!(
        matches!(StatsReport::decode(&longer), Err(ReportError::Malformed(text)) if text.contains("1 bytes"))
    );
    let named = String::from_utf8_lossy(&good).find("gone").is_some();
    assert!(named);
    let place = good.windows(4).position(|bytes| bytes == b"gone").unwrap();
    let mut misnamed = good.clone();
    misnamed[place] = b' ';
    assert!(StatsReport::decode(&misnamed).is_err(), "a name with a blank");
    // A list that claims to hold 2^32 - 1 topics.
    let claim =
        [&[0x97, 0xc3, 0xc3, 0xc2, 7, 0x95, 0xa0, 0xa0, 1, 2, 1][..], &[0xdd, 0xff, 0xff, 0xff, 0xff]]
            .concat();
    assert!(StatsReport::decode(&claim).is_err());
    for wrong in [&b"{}"[..], b"", &[0xc0], &[0x97; 2000], &[0x80], &[0xff; 64]] {
        assert!(StatsReport::decode(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn largest_report_of_nsqd_is_accepted() {
    let long = |number: usize| format!("{number:->64}");
    let mut largest = channel(&long(0), u64::MAX);
    largest.depth = i64::MIN;
    let Departures {
        dead_lettered_count,
        dead_letter_pending,
        expired_count,
        overflow_count,
        filtered_count,
        is_full: _,
        held_up: HeldUp { cancelled_count, throttled_ms, throttled: _, in_flight_limit_reached: _ },
    } = &mut largest.departures;
    let departures = [
        dead_lettered_count,
        dead_letter_pending,
        expired_count,
        overflow_count,
        filtered_count,
        cancelled_count,
        throttled_ms,
    ];
    let counts = [&mut largest.zone_local_msg_count, &mut largest.requeue_count, &mut largest.timeout_count];
    counts.into_iter().chain(departures).for_each(|number| *number = u64::MAX);
    let channels: Vec<_> = (0..MAX_CHANNELS_PER_TOPIC)
        .map(|number| ChannelSummary {
            channel_name: ChannelName::new(long(number)).unwrap(),
            ..largest.clone()
        })
        .collect();
    let mut widest = topic(&long(1), channels);
    widest.depth = i64::MIN;
    let encoded = report(vec![widest.clone()]).encode();
    assert!(encoded.len() <= widest.max_encoded_bytes() + 100 && encoded.len() < MAX_REPORT_BYTES);
    assert_eq!(StatsReport::decode(&encoded).unwrap().topics[0].entries(), MAX_CHANNELS_PER_TOPIC + 1);
    let mut stats = widest.stats();
    stats.channels.push(channel("one_more", 1).stats());
    assert_eq!(TopicSummary::new(&stats), Some(widest.clone()), "channels beyond the limit are left out");
    widest.channels.push(channel("one_more", 1));
    assert_eq!(StatsReport::decode(&report(vec![widest]).encode()), Err(ReportError::TooMany));
}

#[test]
fn refresh_requests_round_trip() {
    assert_eq!(refresh_request(17), b"REFRESH 17");
    assert_eq!(parse_refresh_request(b"REFRESH 17"), Some(17));
    for other in [&b"OK"[..], b"REFRESH", b"REFRESH ", b"REFRESH -1", b"REFRESH x", b"REFRESH \xff"] {
        assert_eq!(parse_refresh_request(other), None);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = StatsReport::decode(&bytes);
    }

    #[test]
    fn reports_round_trip(
        counts in prop::collection::vec(any::<u64>(), 0..20),
        flags in any::<(bool, bool, bool)>(),
        refresh in any::<u64>(),
    ) {
        let channels = counts.iter().enumerate().map(|(at, count)| channel(&format!("c{at}"), *count)).collect();
        let report = StatsReport {
            is_first: flags.0, is_last: flags.1, is_cut: flags.2, refresh, ..report(vec![topic("t", channels)])
        };
        prop_assert_eq!(StatsReport::decode(&report.encode()), Ok(report));
    }
}
