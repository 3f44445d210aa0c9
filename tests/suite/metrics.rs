use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nsq_tests::prometheus::{Page, promtool_accepts};
use nsq_tests::{Daemon, foreign, test, wait};
use serde_json::Value;
use tempfile::TempDir;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// An nsqd registered at an nsqlookupd after a mix of message events, and the metrics pages of both.
async fn daemons_and_pages() -> (Daemon, Daemon, Page, Page) {
    let lookupd = Daemon::lookupd().start().await;
    let nsqd =
        Daemon::nsqd().lookupd(&lookupd).flag("--e2e-processing-latency-percentile=0.5,0.999").start().await;
    nsqd.publish("t", "four").await;
    nsqd.post("/mpub?topic=t", "one\ntwo").await.expect(200);
    nsqd.get("/nowhere").await.expect(404);
    let mut consumer = nsqd.subscribe("t", "c").await;
    consumer.ready(3).await;
    let messages = consumer.messages(3).await;
    consumer.finish(&messages[0]).await;
    consumer.requeue(&messages[1], Duration::from_secs(60)).await;
    nsqd.channel_until("t", "c", "one message is deferred", |channel| channel.deferred_count == 1).await;
    lookupd.get("/lookup?topic=none").await.expect(404);
    wait::until("the topic is registered", async || {
        wait::when(lookupd.metrics().await, |page| page.value("nsqlookupd_channels") == 1.0)
    })
    .await;
    let page = wait::until("nsqd knows that it is registered", async || {
        let series = format!("nsq_lookupd_connected{{address=\"{}\"}}", lookupd.tcp());
        wait::when(nsqd.metrics().await, |page| page.samples.get(&series) == Some(&1.0))
    })
    .await;
    let lookupd_page = lookupd.metrics().await;
    (nsqd, lookupd, page, lookupd_page)
}

#[test]
fn nsqd_exports_its_metrics() {
    test(async {
        let (_nsqd, _lookupd, page, _) = daemons_and_pages().await;
        let (topic, channel) = ("{topic=\"t\"}", "{topic=\"t\",channel=\"c\"}");
        let expected = [
            ("nsq_healthy".to_owned(), 1.0),
            (format!("nsq_topic_messages_total{topic}"), 3.0),
            (format!("nsq_topic_message_bytes_total{topic}"), 10.0),
            (format!("nsq_topic_depth{topic}"), 0.0),
            (format!("nsq_topic_paused{topic}"), 0.0),
            (format!("nsq_channel_messages_total{channel}"), 3.0),
            (format!("nsq_channel_deliveries_total{channel}"), 3.0),
            (format!("nsq_channel_finishes_total{channel}"), 1.0),
            (format!("nsq_channel_requeues_total{channel}"), 1.0),
            (format!("nsq_channel_timeouts_total{channel}"), 0.0),
            (format!("nsq_channel_lost_messages_total{channel}"), 0.0),
            (format!("nsq_channel_in_flight{channel}"), 1.0),
            (format!("nsq_channel_deferred{channel}"), 1.0),
            (format!("nsq_channel_depth{channel}"), 0.0),
            (format!("nsq_channel_consumers{channel}"), 1.0),
            ("nsq_topics".to_owned(), 1.0),
            ("nsq_channels".to_owned(), 1.0),
            ("nsq_consumers".to_owned(), 1.0),
            ("nsq_channels_in_flight".to_owned(), 1.0),
            ("nsq_channels_deferred".to_owned(), 1.0),
            ("nsq_omitted_topics".to_owned(), 0.0),
            ("nsq_messages_published_total".to_owned(), 3.0),
            ("nsq_message_bytes_published_total".to_owned(), 10.0),
            ("nsq_messages_delivered_total".to_owned(), 3.0),
            ("nsq_messages_finished_total".to_owned(), 1.0),
            ("nsq_messages_requeued_total".to_owned(), 1.0),
            ("nsq_publishes_refused_total".to_owned(), 0.0),
            ("nsq_publishes_over_bound_total".to_owned(), 0.0),
            ("nsq_log_lines_dropped_total".to_owned(), 0.0),
            ("nsq_publish_duration_seconds_count{protocol=\"tcp\"}".to_owned(), 1.0),
            ("nsq_publish_duration_seconds_count{protocol=\"http\"}".to_owned(), 1.0),
            ("nsq_http_requests_total{endpoint=\"/mpub\",code=\"200\"}".to_owned(), 1.0),
            ("nsq_http_requests_total{endpoint=\"other\",code=\"404\"}".to_owned(), 1.0),
        ];
        for (series, value) in expected {
            assert_eq!(page.value(&series), value, "{series}");
        }
        for series in [
            "nsq_start_time_seconds",
            "nsq_received_bytes_total",
            "nsq_sent_bytes_total",
            "nsq_connections",
            "nsq_delivery_latency_seconds_count",
            "nsq_delivery_latency_seconds_sum",
            "nsq_disk_write_duration_seconds_count{file=\"journal\"}",
            "nsq_disk_written_bytes_total{file=\"journal\"}",
            "nsq_journal_files",
            "nsq_journal_bytes",
            "nsq_data_free_bytes",
            "nsq_data_size_bytes",
            "process_resident_memory_bytes",
            "process_open_fds",
            "nsq_channel_end_to_end_latency_seconds{topic=\"t\",channel=\"c\",quantile=\"0.999\"}",
        ] {
            assert!(page.value(series) > 0.0, "{series}");
        }
        assert_eq!(page.series_of("nsq_channel_end_to_end_latency_seconds").len(), 2);
    });
}

#[test]
fn nsqlookupd_exports_its_metrics() {
    test(async {
        let (mut nsqd, lookupd, _, page) = daemons_and_pages().await;
        let expected = [
            ("nsqlookupd_topics", 1.0),
            ("nsqlookupd_channels", 1.0),
            ("nsqlookupd_nodes{state=\"active\"}", 1.0),
            ("nsqlookupd_nodes{state=\"inactive\"}", 0.0),
            ("nsqlookupd_producers", 1.0),
            ("nsqlookupd_tombstones", 0.0),
            ("nsqlookupd_connections", 1.0),
            ("nsqlookupd_connections_opened_total", 1.0),
            ("nsqlookupd_commands_total{command=\"IDENTIFY\"}", 1.0),
            ("nsqlookupd_refused_total", 0.0),
            ("nsqlookupd_log_lines_dropped_total", 0.0),
            ("nsqlookupd_http_requests_total{endpoint=\"/lookup\",code=\"404\"}", 1.0),
        ];
        for (series, value) in expected {
            assert_eq!(page.value(series), value, "{series}");
        }
        assert!(page.value("nsqlookupd_commands_total{command=\"REGISTER\"}") >= 1.0);
        lookupd.admin(&format!("/topic/tombstone?topic=t&node=127.0.0.1:{}", nsqd.http().port())).await;
        assert_eq!(lookupd.metrics().await.value("nsqlookupd_tombstones"), 1.0);
        nsqd.kill().await;
        wait::until("the node is removed", async || {
            wait::when(lookupd.metrics().await, |page| page.value("nsqlookupd_connections") == 0.0)
        })
        .await;
        let page = lookupd.metrics().await;
        assert_eq!((page.value("nsqlookupd_producers"), page.value("nsqlookupd_topics")), (0.0, 1.0));
    });
}

#[test]
fn topic_and_channel_series_are_limited() {
    test(async {
        // One topic has 11 series, one channel 24.
        let nsqd = Daemon::nsqd().flag("--metrics-max-series=75").start().await;
        for topic in ["a", "b", "c"] {
            nsqd.admin(&format!("/topic/create?topic={topic}")).await;
            nsqd.admin(&format!("/channel/create?topic={topic}&channel=x")).await;
            nsqd.admin(&format!("/channel/create?topic={topic}&channel=y")).await;
            nsqd.publish(topic, "body").await;
        }
        let page = nsqd.metrics().await;
        let labelled = page.samples.keys().filter(|series| series.contains("{topic=")).count();
        assert!((60..=75).contains(&labelled), "{labelled}");
        assert_eq!(
            page.series_of("nsq_topic_depth"),
            ["nsq_topic_depth{topic=\"a\"}", "nsq_topic_depth{topic=\"b\"}"]
        );
        assert_eq!(page.series_of("nsq_channel_depth").len(), 2);
        assert_eq!((page.value("nsq_omitted_topics"), page.value("nsq_omitted_channels")), (1.0, 4.0));
        assert_eq!((page.value("nsq_topics"), page.value("nsq_channels")), (3.0, 6.0));
        assert_eq!(page.value("nsq_channels_depth"), 6.0, "totals include omitted topics");
    });
}

#[test]
fn retained_messages_are_exported() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--retain-bytes=1000000").start().await;
        nsqd.publish("t", "body").await;
        let mut consumer = nsqd.subscribe("t", "c").await;
        consumer.ready(1).await;
        consumer.consume(1).await;
        nsqd.channel_until_finished("t", "c").await;
        let page = nsqd.metrics().await;
        let retention = nsqd.get_json("/stats?format=json&topic=t").await["topics"][0]["retention"].clone();
        assert_eq!(page.value("nsq_topic_retained_messages{topic=\"t\"}"), 1.0);
        assert_eq!(retention["retained_bytes"], page.value("nsq_topic_retained_bytes{topic=\"t\"}") as u64);
    });
}

#[test]
fn written_data_is_synced_in_the_background() {
    test(async {
        const UNSYNCED: &str = "nsq_unsynced_bytes{file=\"journal\"}";
        let nsqd = Daemon::nsqd().flag("--sync-every=0").flag("--sync-timeout=1h").start().await;
        nsqd.publish("t", "body").await;
        let unsynced = nsqd.metrics().await.value(UNSYNCED);
        assert!(unsynced > 0.0);
        assert_eq!(
            nsqd.get_json("/stats?format=json&include_storage=true").await["unsynced_bytes"],
            unsynced
        );
        let storage = &nsqd.get_json("/stats?format=json&include_storage=true").await["storage"];
        let bytes = |key: &str| storage[key].as_u64().expect("a number of bytes");
        assert!(0 < bytes("free_bytes") && bytes("free_bytes") <= bytes("size_bytes"), "{storage}");
        assert!(bytes("journal_bytes") > 0, "{storage}");
        let plain = nsqd.get_json("/stats?format=json").await;
        assert_eq!((&plain["unsynced_bytes"], &plain["storage"]), (&Value::Null, &Value::Null));
        for flag in ["--sync-every=3", "--sync-timeout=10ms"] {
            let other = if flag.contains("every") { "--sync-timeout=1h" } else { "--sync-every=0" };
            let nsqd = Daemon::nsqd().flag(flag).flag(other).start().await;
            nsqd.connect().await.publish_batch("t", &["1", "2", "3"]).await;
            wait::until("all written data is synced", async || {
                wait::when(nsqd.metrics().await, |page| {
                    page.value(UNSYNCED) == 0.0
                        && page.value("nsq_disk_written_bytes_total{file=\"journal\"}") > 0.0
                })
            })
            .await;
        }
        let nsqd = Daemon::nsqd().flag("--durability=sync").start().await;
        nsqd.publish("t", "body").await;
        let page = nsqd.metrics().await;
        assert!(page.value("nsq_disk_sync_duration_seconds_count{file=\"journal\"}") >= 1.0);
        assert_eq!(page.value(UNSYNCED), 0.0);
    });
}

/// The names in backquotes in the first column of a document's tables.
fn documented(path: &str) -> BTreeSet<String> {
    let text = read(path);
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .map(|name| name.split('{').next().unwrap_or(name).to_owned())
        .collect()
}

#[test]
fn documentation_lists_exactly_the_exported_metrics() {
    test(async {
        let (_nsqd, _lookupd, nsqd_page, lookupd_page) = daemons_and_pages().await;
        let store = TempDir::with_prefix("nsq-archive-").expect("a folder");
        let archiving = Daemon::nsqd().flag(format!("--archive={}", store.path().display())).start().await;
        let archiving_page = archiving.metrics().await;
        let pages = [nsqd_page, archiving_page, lookupd_page];
        let exported: BTreeSet<String> = pages.into_iter().flat_map(|page| page.types.into_keys()).collect();
        let listed: BTreeSet<String> = documented("docs/METRICS.md")
            .into_iter()
            .filter(|name| name.starts_with("nsq") || name.starts_with("process_"))
            .collect();
        assert_eq!(exported, listed);
    });
}

/// The metrics that an expression names.
fn names(expression: &str) -> BTreeSet<String> {
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == ':';
    let words = expression.split(|letter| !is_part(letter)).filter(|word| {
        word.starts_with("nsq_") || word.starts_with("nsqlookupd_") || word.starts_with("process_")
    });
    words.map(str::to_owned).collect()
}

/// Every PromQL expression of the dashboards, with the panel it is in.
fn dashboard_expressions() -> Vec<(String, String)> {
    fn collect(value: &Value, title: &str, found: &mut Vec<(String, String)>) {
        match value {
            Value::Object(fields) => {
                let title = fields.get("title").and_then(Value::as_str).unwrap_or(title);
                let queries =
                    ["expr", "query", "definition"].into_iter().filter_map(|key| fields.get(key)?.as_str());
                found.extend(queries.map(|expression| (title.to_owned(), expression.to_owned())));
                fields.values().for_each(|field| collect(field, title, found));
            }
            Value::Array(items) => items.iter().for_each(|item| collect(item, title, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for entry in
        fs::read_dir(workspace().join("deploy/grafana")).expect("the dashboard directory exists").flatten()
    {
        let path = entry.path();
        if path.extension().is_some_and(|ending| ending == "json") {
            let text = fs::read_to_string(&path).expect("the dashboard is readable");
            let dashboard: Value =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            check_dashboard(&dashboard);
            collect(&dashboard, "", &mut found);
        }
    }
    found
}

/// Checks the fields that Grafana needs for an import and that a reader needs.
fn check_dashboard(dashboard: &Value) {
    for field in ["title", "uid"] {
        assert!(dashboard[field].as_str().is_some_and(|text| !text.is_empty()), "a dashboard has a {field}");
    }
    assert!(dashboard["schemaVersion"].as_u64() >= Some(36) && dashboard["id"].is_null());
    let mut ids = BTreeSet::new();
    let mut places: BTreeMap<(u64, u64), String> = BTreeMap::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let title = panel["title"].as_str().expect("a panel has a title");
        assert!(ids.insert(panel["id"].as_u64().expect("a panel has an id")), "{title} has an id of its own");
        let place = |field: &str| panel["gridPos"][field].as_u64().expect("a panel has a position");
        let (x, y, width, height) = (place("x"), place("y"), place("w"), place("h"));
        assert!(x + width <= 24 && height > 0, "{title} is within the grid");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            let other = places.insert(cell, title.to_owned());
            assert_eq!(other, None, "{title} overlaps another panel");
        }
        if panel["type"] != "row" {
            assert!(
                !panel["targets"].as_array().expect("a panel has targets").is_empty(),
                "{title} shows something"
            );
            assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has a unit");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.ends_with('.')),
                "{title} is explained"
            );
        }
    }
}

#[test]
fn dashboards_and_alerts_name_only_exported_metrics() {
    test(async {
        let (_nsqd, _lookupd, nsqd_page, lookupd_page) = daemons_and_pages().await;
        let mut exported = BTreeSet::new();
        for (name, kind) in nsqd_page.types.into_iter().chain(lookupd_page.types) {
            if kind == "histogram" {
                exported.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
            } else {
                exported.insert(name);
            }
        }
        let expressions = dashboard_expressions();
        assert!(expressions.len() > 20, "too few expressions in the dashboards: {expressions:?}");
        let rules = read("deploy/prometheus/nsq.rules.yml");
        let in_rules: String =
            rules.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
        let all = expressions.into_iter().chain([("alerts".to_owned(), in_rules)]);
        let unknown: Vec<_> = all
            .flat_map(|(place, expression)| {
                names(&expression).into_iter().map(move |name| (place.clone(), name))
            })
            .filter(|(_, name)| !exported.contains(name))
            .collect();
        assert!(unknown.is_empty(), "{unknown:#?}");
    });
}

#[test]
fn promtool_accepts_metrics_and_rules() {
    if foreign::left_out() {
        return;
    }
    test(async {
        let (_nsqd, _lookupd, nsqd_page, lookupd_page) = daemons_and_pages().await;
        promtool_accepts(&["check", "metrics"], &nsqd_page.text);
        promtool_accepts(&["check", "metrics"], &lookupd_page.text);
        let path = |name: &str| workspace().join(name).display().to_string();
        promtool_accepts(&["check", "rules", &path("deploy/prometheus/nsq.rules.yml")], "");
        promtool_accepts(&["test", "rules", &path("tests/prometheus/nsq.rules.test.yml")], "");
        // promtool checks the dashboards' expressions as rules, with values for Grafana's variables.
        let expressions =
            dashboard_expressions().into_iter().filter(|(_, text)| !text.starts_with("label_values("));
        let rules: Vec<Value> = expressions
            .enumerate()
            .map(|(number, (_, expression))| {
                let expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h");
                serde_json::json!({"record": format!("r{number}"), "expr": expression})
            })
            .collect();
        let rules = serde_json::json!({"groups": [{"name": "dashboards", "rules": rules}]});
        let file = tempfile::Builder::new().suffix(".yml").tempfile().expect("a temporary file");
        fs::write(file.path(), rules.to_string()).expect("the file is writable");
        promtool_accepts(&["check", "rules", &file.path().display().to_string()], "");
    });
}
