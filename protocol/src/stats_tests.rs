use super::*;
use crate::json::to_json;

fn json<T: Serialize>(value: &T) -> String {
    String::from_utf8(to_json(value).unwrap()).unwrap()
}

#[test]
fn stats_as_nsqd_writes_them() {
    let expected = concat!(
        r#"{"version":"1.3.0","health":"OK","start_time":1795174340,"topics":[{"topic_name":"t2","channels":[],"#,
        r#""depth":13,"backend_depth":0,"message_count":13,"message_bytes":310,"paused":false,"#,
        r#""e2e_processing_latency":{"count":0,"percentiles":null}}],"producers":null}"#
    );
    let topic = TopicStats {
        topic_name: "t2".into(),
        depth: 13,
        message_count: 13,
        message_bytes: 310,
        ..TopicStats::default()
    };
    let stats = Stats {
        version: "1.3.0".into(),
        health: "OK".into(),
        start_time: 1_795_174_340,
        topics: Some(vec![topic]),
        ..Stats::default()
    };
    assert_eq!(json(&stats), expected);
    assert_eq!(serde_json::from_str::<Stats>(expected).unwrap(), stats);
}

#[test]
fn default_channel_has_the_fields_of_nsq() {
    let expected = concat!(
        r#"{"channel_name":"","depth":0,"backend_depth":0,"in_flight_count":0,"deferred_count":0,"#,
        r#""message_count":0,"requeue_count":0,"timeout_count":0,"client_count":0,"clients":null,"paused":false,"#,
        r#""e2e_processing_latency":{"count":0,"percentiles":null}}"#
    );
    assert_eq!(json(&ChannelStats::default()), expected);
}

#[test]
fn default_connection_has_the_fields_of_nsq() {
    let expected = concat!(
        r#"{"client_id":"","hostname":"","version":"","remote_address":"","state":0,"ready_count":0,"#,
        r#""in_flight_count":0,"message_count":0,"finish_count":0,"requeue_count":0,"connect_ts":0,"#,
        r#""sample_rate":0,"deflate":false,"snappy":false,"user_agent":"","topology_zone":"","topology_region":"","#,
        r#""tls":false,"tls_cipher_suite":"","tls_version":"","tls_negotiated_protocol":"","#,
        r#""tls_negotiated_protocol_is_mutual":false}"#
    );
    assert_eq!(json(&ClientStats::default()), expected);
}

#[test]
fn nonzero_optional_fields_are_written() {
    let client = ClientStats {
        global_msg_count: 1,
        authed: true,
        auth_identity: "me".into(),
        pub_counts: vec![PubCount { topic: "t".into(), count: 2 }],
        ..ClientStats::default()
    };
    let written = json(&client);
    for part in [
        r#""message_count":0,"global_msg_count":1,"finish_count":0"#,
        r#""user_agent":"","authed":true,"auth_identity":"me","topology_zone":"""#,
        r#""topology_region":"","pub_counts":[{"topic":"t","count":2}],"tls":false"#,
    ] {
        assert!(written.contains(part), "{part} in {written}");
    }
    assert_eq!(serde_json::from_str::<ClientStats>(&written).unwrap(), client);
}

#[test]
fn whole_numbers_are_written_without_a_fraction() {
    let latency = E2eLatency {
        count: 2,
        percentiles: Some(vec![
            Percentile { quantile: 1.0, value: 3_500_000.0 },
            Percentile { quantile: 0.99, value: 0.5 },
        ]),
    };
    let expected =
        r#"{"count":2,"percentiles":[{"quantile":1,"value":3500000},{"quantile":0.99,"value":0.5}]}"#;
    assert_eq!(json(&latency), expected);
    assert_eq!(serde_json::from_str::<E2eLatency>(expected).unwrap(), latency);
}

#[test]
fn memory_and_info_keep_the_field_order_of_nsq() {
    let memory = MemoryStats { heap_objects: 1, gc_total_runs: 9, ..MemoryStats::default() };
    assert_eq!(
        json(&memory),
        concat!(
            r#"{"heap_objects":1,"heap_idle_bytes":0,"heap_in_use_bytes":0,"heap_released_bytes":0,"#,
            r#""gc_pause_usec_100":0,"gc_pause_usec_99":0,"gc_pause_usec_95":0,"next_gc_bytes":0,"gc_total_runs":9}"#
        )
    );
    let info = InfoResponse { http_port: -1, tcp_port: 4150, ..InfoResponse::default() };
    assert_eq!(
        json(&info),
        concat!(
            r#"{"version":"","broadcast_address":"","hostname":"","http_port":-1,"tcp_port":4150,"start_time":0,"#,
            r#""max_heartbeat_interval":0,"max_output_buffer_size":0,"max_output_buffer_timeout":0,"#,
            r#""max_deflate_level":0,"topology_zone":"","topology_region":""}"#
        )
    );
}

#[test]
fn reading_is_lenient() {
    let stats: Stats = serde_json::from_str(
        r#"{"version":null,"topics":[{"topic_name":"t","channels":null,"new":1,
            "e2e_processing_latency":null}],"memory":null}"#,
    )
    .unwrap();
    let topic = TopicStats { topic_name: "t".into(), ..TopicStats::default() };
    assert_eq!(stats, Stats { topics: Some(vec![topic]), ..Stats::default() });
}
