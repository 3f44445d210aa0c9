//! The admin calls: their requests and their errors.

use std::time::Duration;

use nsq::admin::{AdminErrorKind, DeadSelection, LookupdClient, NsqdClient, RedriveOptions, StatsQuery};

use crate::stub_http::{StubHttp, producer};

#[tokio::test]
async fn nsqd_calls_send_the_expected_requests() {
    let stub = StubHttp::start().await;
    let nsqd = NsqdClient::new(&stub.address).unwrap();
    for path in [
        "/ping",
        "/pub",
        "/mpub",
        "/topic/create",
        "/topic/delete",
        "/topic/empty",
        "/topic/pause",
        "/topic/unpause",
        "/channel/create",
        "/channel/delete",
        "/channel/empty",
        "/channel/pause",
        "/channel/unpause",
    ] {
        stub.answer(path, 200, "OK");
    }
    stub.answer("/config/log_level", 200, "2");
    nsqd.ping().await.unwrap();
    nsqd.publish("t#ephemeral", "body").await.unwrap();
    nsqd.publish_deferred("t", Duration::from_secs(1), "body").await.unwrap();
    nsqd.publish_many("t", &["a", "bc"]).await.unwrap();
    nsqd.create_topic("t").await.unwrap();
    nsqd.delete_topic("t").await.unwrap();
    nsqd.empty_topic("t").await.unwrap();
    nsqd.pause_topic("t").await.unwrap();
    nsqd.unpause_topic("t").await.unwrap();
    nsqd.create_channel("t", "c").await.unwrap();
    nsqd.delete_channel("t", "c").await.unwrap();
    nsqd.empty_channel("t", "c").await.unwrap();
    nsqd.pause_channel("t", "c").await.unwrap();
    nsqd.unpause_channel("t", "c").await.unwrap();
    assert_eq!(nsqd.config("log_level").await.unwrap(), "2");
    assert_eq!(nsqd.set_config("log_level", "info").await.unwrap(), "2");
    assert_eq!(
        stub.lines(),
        [
            "GET /ping",
            "POST /pub?topic=t%23ephemeral",
            "POST /pub?topic=t&defer=1000",
            "POST /mpub?topic=t&binary=true",
            "POST /topic/create?topic=t",
            "POST /topic/delete?topic=t",
            "POST /topic/empty?topic=t",
            "POST /topic/pause?topic=t",
            "POST /topic/unpause?topic=t",
            "POST /channel/create?topic=t&channel=c",
            "POST /channel/delete?topic=t&channel=c",
            "POST /channel/empty?topic=t&channel=c",
            "POST /channel/pause?topic=t&channel=c",
            "POST /channel/unpause?topic=t&channel=c",
            "GET /config/log_level",
            "PUT /config/log_level",
        ]
    );
    assert_eq!(stub.requests()[1].1, "body");
    assert_eq!(stub.requests()[3].1, "\0\0\0\x02\0\0\0\x01a\0\0\0\x02bc");
    assert_eq!(stub.requests()[15].1, "info");
}

#[tokio::test]
async fn dead_letter_calls_send_the_expected_requests() {
    let stub = StubHttp::start().await;
    let nsqd = NsqdClient::new(&stub.address).unwrap();
    for path in ["/topic/dead", "/topic/dead/messages", "/topic/dead/delete", "/topic/redrive"] {
        stub.answer(
            path,
            200,
            r#"{"topic_name":"t.dead","total":3,"deleted":2,"moved":1,"state":"running"}"#,
        );
    }
    let filter = Some("nsq-dead-channel=c".to_owned());
    let selection = DeadSelection { filter, id: Some("000000000000002a".into()), max: Some(5) };
    assert_eq!(nsqd.dead_letters("t.dead", Some(7)).await.unwrap().total, 3);
    assert_eq!(nsqd.dead_messages("t.dead", &selection, 9).await.unwrap().topic_name, "t.dead");
    assert_eq!(nsqd.delete_dead_letters("t.dead", &selection, false).await.unwrap().deleted, 2);
    let options = RedriveOptions { rate: Some(100), to: Some("u/c".into()), ..RedriveOptions::default() };
    assert!(nsqd.start_redrive("t.dead", &options).await.unwrap().is_running());
    assert_eq!(nsqd.plan_redrive("t.dead", &RedriveOptions::default()).await.unwrap().moved, 1);
    assert_eq!(nsqd.redrive("t.dead").await.unwrap().moved, 1);
    assert_eq!(nsqd.stop_redrive("t.dead").await.unwrap().state, "running");
    assert_eq!(
        stub.lines(),
        [
            "GET /topic/dead?topic=t.dead&limit=7",
            "GET /topic/dead/messages?topic=t.dead&from=9&limit=5&filter=nsq-dead-channel%3Dc&id=000000000000002a",
            "POST /topic/dead/delete?topic=t.dead&filter=nsq-dead-channel%3Dc&id=000000000000002a&max=5",
            "POST /topic/redrive?topic=t.dead&rate=100&to=u%2Fc",
            "POST /topic/redrive?topic=t.dead&dry_run=true",
            "GET /topic/redrive?topic=t.dead",
            "DELETE /topic/redrive?topic=t.dead",
        ]
    );
}

#[tokio::test]
async fn statistics_and_info_are_parsed() {
    let stub = StubHttp::start().await;
    stub.answer(
        "/stats",
        200,
        r#"{"version":"1.3.0","health":"OK","start_time":1,"topics":[{"topic_name":"t","depth":13,"new_field":1}],"producers":null}"#,
    );
    stub.answer("/info", 200, r#"{"version":"1.3.0","http_port":4151,"tcp_port":-1}"#);
    let nsqd = NsqdClient::new(format!("http://{}", stub.address)).unwrap();
    let query = StatsQuery { topic: Some("t".into()), ..StatsQuery::default() };
    let stats = nsqd.stats(&query).await.unwrap();
    assert_eq!(stats.topics.unwrap()[0].depth, 13);
    assert_eq!(nsqd.info().await.unwrap().tcp_port, -1);
    assert_eq!(stub.lines()[0], "GET /stats?format=json&include_clients=false&include_mem=false&topic=t");
}

#[tokio::test]
async fn lookupd_calls_send_requests_and_parse_answers() {
    let stub = StubHttp::lookupd(["127.0.0.1:4150"]).await;
    stub.answer("/topics", 200, r#"{"topics":["a","b"]}"#);
    stub.answer("/channels", 200, r#"{"channels":[]}"#);
    stub.answer("/nodes", 200, &format!(r#"{{"producers":[{}]}}"#, producer("127.0.0.1:4150")));
    stub.answer("/topic/tombstone", 200, "");
    stub.answer("/info", 200, r#"{"version":"1.3.0"}"#);
    let lookupd = LookupdClient::new(&stub.address).unwrap();
    assert_eq!(lookupd.topics().await.unwrap(), ["a", "b"]);
    assert!(lookupd.channels("a").await.unwrap().is_empty());
    assert_eq!(lookupd.lookup("a").await.unwrap().producers[0].tcp_port, 4150);
    assert_eq!(lookupd.nodes().await.unwrap().producers[0].broadcast_address, "127.0.0.1");
    assert_eq!(lookupd.info().await.unwrap().version, "1.3.0");
    lookupd.tombstone("a", "127.0.0.1:4151").await.unwrap();
    assert_eq!(stub.lines().last().unwrap(), "POST /topic/tombstone?topic=a&node=127.0.0.1%3A4151");
}

#[tokio::test]
async fn errors_name_the_request_and_the_reason() {
    let stub = StubHttp::start().await;
    stub.answer("/topic/delete", 404, r#"{"message":"TOPIC_NOT_FOUND"}"#);
    stub.answer("/ping", 500, "NOK - disk full");
    stub.answer("/stats", 200, "<html>");
    let nsqd = NsqdClient::new(&stub.address).unwrap();
    let error = nsqd.delete_topic("t").await.unwrap_err();
    assert!(error.is_not_found());
    assert!(error.to_string().contains("/topic/delete?topic=t: TOPIC_NOT_FOUND (status 404)"), "{error}");
    let error = nsqd.ping().await.unwrap_err();
    assert!(error.to_string().contains("NOK - disk full"), "{error}");
    let error = nsqd.stats(&StatsQuery::default()).await.unwrap_err();
    assert!(matches!(error.kind, AdminErrorKind::Unexpected(_)));
    let unreachable = NsqdClient::new("127.0.0.1:1").unwrap().ping().await.unwrap_err();
    assert!(matches!(unreachable.kind, AdminErrorKind::Unreachable(_)));
    assert!(unreachable.to_string().contains("refused"), "{unreachable}");
    let hanging = StubHttp::hanging().await;
    let client = NsqdClient::new(&hanging.address)
        .unwrap()
        .timeouts(Duration::from_secs(1), Duration::from_millis(50));
    assert!(matches!(client.ping().await.unwrap_err().kind, AdminErrorKind::Timeout(_)));
}
