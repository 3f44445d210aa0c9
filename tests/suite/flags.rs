use std::path::Path;

use nsq_tests::daemon::Start;
use nsq_tests::{Certificates, Daemon, test};
use serde_json::{Value, json};

/// A flag with its values, its key and value in a config file, and the value that `/config` returns.
struct Row {
    flag: &'static str,
    values: Vec<String>,
    key: &'static str,
    toml: String,
    expected_value: Value,
}

fn row(flag: &'static str, value: &str, key: &'static str, toml: &str, expected_value: Value) -> Row {
    Row { flag, values: vec![value.to_owned()], key, toml: toml.to_owned(), expected_value }
}

/// Flags whose key is their name.
fn plain(flag: &'static str, key: &'static str, value: &str, expected_value: Value) -> Row {
    let toml = if expected_value.is_string() || value.ends_with('s') {
        format!("{value:?}")
    } else {
        value.to_owned()
    };
    row(flag, value, key, &toml, expected_value)
}

fn list(flag: &'static str, key: &'static str, values: &[&str]) -> Row {
    let values: Vec<String> = values.iter().map(|&value| value.to_owned()).collect();
    Row { flag, toml: format!("{values:?}"), expected_value: json!(values), values, key }
}

const SECOND: u64 = 1_000_000_000;

/// All flags of nsqd that a config file can set, except the addresses and the data path, which every test sets.
fn rows(certificates: &Certificates) -> Vec<Row> {
    let [certificate, key, authority] =
        ["server.pem", "server.key", "ca.pem"].map(|file| certificates.path(file));
    certificates.write("policies.toml", "");
    let policies = certificates.path("policies.toml");
    vec![
        row("log-level", "DEBUG", "log_level", "'Debug'", json!(1)),
        plain("log-prefix", "log_prefix", "a b ", json!("a b ")),
        plain("log-format", "log_format", "text", json!("text")),
        row("node-id", "0x10", "id", "16", json!(16)),
        plain("unix-socket-mode", "unix_socket_mode", "0660", json!("0660")),
        plain("https-address", "https_address", "127.0.0.1:0", json!("127.0.0.1:0")),
        plain("broadcast-address", "broadcast_address", "b.example", json!("b.example")),
        plain("broadcast-tcp-port", "broadcast_tcp_port", "5", json!(5)),
        plain("broadcast-http-port", "broadcast_http_port", "6", json!(6)),
        list("lookupd-tcp-address", "nsqlookupd_tcp_addresses", &["127.0.0.1:1", "127.0.0.1:2"]),
        plain("shutdown-delay", "shutdown_delay", "2ms", json!(SECOND / 500)),
        plain("sigterm", "sigterm", "drain", json!("drain")),
        plain("drain-timeout", "drain_timeout", "90s", json!(90 * SECOND)),
        plain("drain-to", "drain_to", "b.example:4151", json!("b.example:4151")),
        plain("drain-to-timeout", "drain_to_timeout", "30s", json!(30 * SECOND)),
        plain("drain-to-token-file", "drain_to_token_file", "", json!("")),
        plain("http-client-connect-timeout", "http_client_connect_timeout", "1s", json!(SECOND)),
        plain("http-client-request-timeout", "http_client_request_timeout", "1m30s", json!(90 * SECOND)),
        list("auth-http-address", "auth_http_addresses", &["127.0.0.1:3", "http://127.0.0.1:4/x"]),
        plain("auth-http-request-method", "auth_http_request_method", "post", json!("post")),
        list("http-cors-origin", "http_cors_origins", &["https://a.example", "http://b.example:8080"]),
        list("http-allowed-origin", "http_allowed_origins", &["https://a.example", "http://b.example:8080"]),
        plain("policy-file", "policy_file", &policies, json!(policies)),
        row("http-auth", "false", "http_auth", "false", json!(false)),
        plain("topology-region", "topology_region", "r", json!("r")),
        plain("topology-zone", "topology_zone", "z", json!("z")),
        list("enable-experiment", "enable_experiment", &["topology-aware-consumption", "another"]),
        plain("durability", "durability", "overflow", json!("overflow")),
        plain("mem-queue-size", "mem_queue_size", "7", json!(7)),
        plain("mem-queue-bytes", "mem_queue_bytes", "70000", json!(70000)),
        plain("max-bytes-per-file", "max_bytes_per_file", "2000000", json!(2_000_000)),
        plain("retain-for", "retain_for", "1h30m0s", json!(5400 * SECOND)),
        plain("retain-bytes", "retain_bytes", "5000000", json!(5_000_000)),
        plain("ttl", "ttl", "24h0m0s", json!(86_400 * SECOND)),
        plain("metrics-max-series", "metrics_max_series", "77", json!(77)),
        plain("sync-every", "sync_every", "5", json!(5)),
        plain("sync-timeout", "sync_timeout", "3s", json!(3 * SECOND)),
        plain("archive", "archive", "", json!("")),
        plain("archive-interval", "archive_interval", "2s", json!(2 * SECOND)),
        plain("archive-snapshot-interval", "archive_snapshot_interval", "1m0s", json!(60 * SECOND)),
        plain("archive-retain", "archive_retain", "24h0m0s", json!(86_400 * SECOND)),
        plain("archive-max-lag", "archive_max_lag", "5000000", json!(5_000_000)),
        plain("queue-scan-worker-pool-max", "queue_scan_worker_pool_max", "3", json!(3)),
        plain("queue-scan-selection-count", "queue_scan_selection_count", "2", json!(2)),
        plain("msg-timeout", "msg_timeout", "250ms", json!(SECOND / 4)),
        plain("max-msg-timeout", "max_msg_timeout", "1h0m1s", json!(3601 * SECOND)),
        plain("max-msg-size", "max_msg_size", "1000", json!(1000)),
        plain("max-body-size", "max_body_size", "2000", json!(2000)),
        plain("max-req-timeout", "max_req_timeout", "7s", json!(7 * SECOND)),
        plain("max-heartbeat-interval", "max_heartbeat_interval", "8s", json!(8 * SECOND)),
        plain("max-rdy-count", "max_rdy_count", "9", json!(9)),
        plain("max-output-buffer-size", "max_output_buffer_size", "70", json!(70)),
        plain("max-output-buffer-timeout", "max_output_buffer_timeout", "2s", json!(2 * SECOND)),
        plain("min-output-buffer-timeout", "min_output_buffer_timeout", "1ms", json!(SECOND / 1000)),
        plain("output-buffer-timeout", "output_buffer_timeout", "10ms", json!(SECOND / 100)),
        plain("max-channel-consumers", "max_channel_consumers", "4", json!(4)),
        plain("max-http-consumers", "max_http_consumers", "5", json!(5)),
        plain("max-http-leases", "max_http_leases", "6", json!(6)),
        plain("dedupe-max-ids", "dedupe_max_ids", "5", json!(5)),
        plain("statsd-address", "statsd_address", "127.0.0.1:9", json!("127.0.0.1:9")),
        row("statsd-prefix", "x.%s", "statsd_prefix", "'x.%s'", json!("x.b_example_6.")),
        plain("statsd-interval", "statsd_interval", "50s", json!(50 * SECOND)),
        plain("statsd-mem-stats", "statsd_mem_stats", "false", json!(false)),
        plain("statsd-udp-packet-size", "statsd_udp_packet_size", "600", json!(600)),
        plain("statsd-exclude-ephemeral", "statsd_exclude_ephemeral", "true", json!(true)),
        row(
            "e2e-processing-latency-percentile",
            "0.5,0.99",
            "e2e_processing_latency_percentiles",
            "[0.5, 0.99]",
            json!([0.99, 0.5]),
        ),
        plain(
            "e2e-processing-latency-window-time",
            "e2e_processing_latency_window_time",
            "60s",
            json!(60 * SECOND),
        ),
        plain("tls-cert", "tls_cert", &certificate, json!(certificate)),
        plain("tls-key", "tls_key", &key, json!(key)),
        plain("tls-client-auth-policy", "tls_client_auth_policy", "require-verify", json!("require-verify")),
        plain("tls-root-ca-file", "tls_root_ca_file", &authority, json!(authority)),
        row("tls-required", "tcp-https", "tls_required", "'tcp-https'", json!(1)),
        row("tls-min-version", "TLS1.2", "tls_min_version", "'tls1.2'", json!(771)),
        plain("deflate", "deflate", "false", json!(false)),
        plain("max-deflate-level", "max_deflate_level", "5", json!(5)),
        plain("snappy", "snappy", "false", json!(false)),
    ]
}

const BOOLEANS: [&str; 6] =
    ["http-auth", "statsd-mem-stats", "statsd-exclude-ephemeral", "tls-required", "deflate", "snappy"];

/// The value that `/config` returns: text unchanged, everything else as JSON.
async fn config_value(nsqd: &Daemon, key: &str) -> Value {
    let answer = nsqd.get(&format!("/config/{key}")).await.expect(200);
    let is_text = answer.header("content-type").is_some_and(|kind| kind.starts_with("text/plain"));
    if is_text || answer.body.is_empty() { json!(answer.text()) } else { answer.json() }
}

async fn check(nsqd: &Daemon, rows: &[Row]) {
    for row in rows {
        assert_eq!(config_value(nsqd, row.key).await, row.expected_value, "--{}", row.flag);
    }
}

/// Starts nsqd with all flags at once, each formatted by `spell`, and checks their values.
async fn check_spelling(rows: &[Row], spell: impl Fn(Start, &str, &str) -> Start) {
    let mut start = Daemon::nsqd();
    for row in rows {
        for value in &row.values {
            // Only `-flag=value` gives a boolean a value.
            start = match BOOLEANS.contains(&row.flag) {
                true => start.flag(format!("-{}={value}", row.flag)),
                false => spell(start, row.flag, value),
            };
        }
    }
    check(&start.start().await, rows).await;
}

#[test]
fn every_flag_works_in_all_go_spellings() {
    test(async {
        let certificates = Certificates::new();
        let rows = rows(&certificates);
        check_spelling(&rows, |start, flag, value| start.flag(format!("--{flag}={value}"))).await;
        check_spelling(&rows, |start, flag, value| start.flag(format!("-{flag}={value}"))).await;
        check_spelling(&rows, |start, flag, value| start.flag(format!("--{flag}")).flag(value)).await;
        check_spelling(&rows, |start, flag, value| start.flag(format!("-{flag}")).flag(value)).await;
    });
}

#[test]
fn every_config_key_works_and_flags_override_it() {
    test(async {
        let certificates = Certificates::new();
        let mut rows = rows(&certificates);
        let toml: String = rows.iter().map(|row| format!("{} = {}\n", row.key, row.toml)).collect();
        let folder = tempfile::TempDir::with_prefix("nsq-tests-").expect("a temporary directory");
        let path = folder.path().join("nsqd.cfg");
        std::fs::write(&path, toml).expect("the file is writable");
        let config = format!("--config={}", path.display());
        // The flags that the test harness sets override the file, too.
        rows.retain(|row| row.flag != "broadcast-address" && row.flag != "statsd-prefix");
        let nsqd = Daemon::nsqd().flag(&config).start().await;
        assert_eq!(config_value(&nsqd, "broadcast_address").await, "127.0.0.1");
        check(&nsqd, &rows).await;

        let nsqd = Daemon::nsqd()
            .flag(&config)
            .flag("-msg-timeout")
            .flag("2s")
            .flag("--lookupd-tcp-address=127.0.0.1:5")
            .flag("-snappy")
            .start()
            .await;
        assert_eq!(config_value(&nsqd, "msg_timeout").await, json!(2 * SECOND));
        assert_eq!(
            config_value(&nsqd, "nsqlookupd_tcp_addresses").await,
            json!(["127.0.0.1:5"]),
            "the flag replaces the list of the file"
        );
        assert_eq!(config_value(&nsqd, "snappy").await, true);
        assert_eq!(config_value(&nsqd, "deflate").await, false, "the value of the file");
    });
}

fn sample(name: &str) -> String {
    format!("--config={}", Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name).display())
}

#[test]
fn files_written_for_nsq_load_unchanged() {
    test(async {
        let nsqd = Daemon::nsqd().flag(sample("nsqd.cfg")).start().await;
        let expected = [
            ("id", json!(17)),
            ("log_prefix", json!("[queue] ")),
            ("broadcast_tcp_port", json!(14150)),
            ("nsqlookupd_tcp_addresses", json!(["127.0.0.1:1", "127.0.0.1:2"])),
            ("msg_timeout", json!(30 * SECOND)),
            ("max_body_size", json!(131_072)),
            ("max_channel_consumers", json!(9)),
            ("e2e_processing_latency_percentiles", json!([1.0, 0.99, 0.95])),
            ("snappy", json!(false)),
            ("statsd_mem_stats", json!(false)),
        ];
        for (key, value) in expected {
            assert_eq!(config_value(&nsqd, key).await, value, "{key}");
        }
        assert!(nsqd.log().text().starts_with("[queue] "), "{}", nsqd.log().text());
        nsqd.publish("t", "it works").await;

        // The log level of the file hides the line that the harness waits for.
        let lookupd =
            Daemon::lookupd().flag(sample("nsqlookupd.cfg")).flag("-log-level").flag("info").start().await;
        assert!(lookupd.log().text().starts_with("[lookup] "), "{}", lookupd.log().text());
        lookupd.get("/ping").await.expect(200);
    });
}

#[test]
fn nsqlookupd_flags_work_in_all_go_spellings() {
    test(async {
        let flags = [
            ("log-level", "INFO"),
            ("log-prefix", "x "),
            ("log-format", "text"),
            ("broadcast-address", "b.example"),
            ("inactive-producer-timeout", "1m30s"),
            ("tombstone-lifetime", "1s"),
        ];
        for dashes in ["-", "--"] {
            for separate in [true, false] {
                let start = flags.iter().fold(Daemon::lookupd().flag("-verbose"), |start, (flag, value)| {
                    match separate {
                        true => start.flag(format!("{dashes}{flag}")).flag(*value),
                        false => start.flag(format!("{dashes}{flag}={value}")),
                    }
                });
                let lookupd = start.flag("rest").flag("--ignored").start().await;
                lookupd.log().expect("--verbose is deprecated").await;
                assert!(lookupd.log().text().starts_with("x "));
            }
        }
    });
}

#[test]
fn deprecated_flags_warn_and_flags_after_an_argument_are_ignored() {
    test(async {
        let nsqd = Daemon::nsqd()
            .flag("-verbose=true")
            .flag("-worker-id")
            .flag("5")
            .flag("--nonsense")
            .start()
            .await;
        nsqd.log().expect("WARNING: --verbose is deprecated and has no effect").await;
        nsqd.log().expect("WARNING: --worker-id is deprecated and has no effect").await;
    });
}

#[test]
fn invalid_flags_exit_with_nsqs_codes() {
    test(async {
        let wrong = [
            ("--nope", 2),
            ("--msg-timeout=60", 2),
            ("--log-level=warning", 2),
            ("--log-format=xml", 2),
            ("--deflate=maybe", 2),
            ("--worker-id=5", 2),
            ("--tls-required=perhaps", 2),
            ("--tls-min-version=ssl3.0", 2),
            ("--unix-socket-mode=rw", 2),
            ("--config=/nonexistent", 1),
            ("--node-id=1024", 1),
            ("--max-deflate-level=0", 1),
            ("--auth-http-request-method=GET", 1),
            ("--e2e-processing-latency-percentile=2", 1),
            ("--tls-required", 1),
        ];
        for (flag, code) in wrong {
            let (status, log) = Daemon::nsqd().flag(flag).expect_exit().await;
            assert_eq!(status.code(), Some(code), "{flag}:\n{}", log.text());
        }
        for (flag, code) in [
            ("--nope", 2),
            ("--tombstone-lifetime=5", 2),
            ("--log-level=all", 2),
            ("--config=/nonexistent", 1),
        ] {
            let (status, log) = Daemon::lookupd().flag(flag).expect_exit().await;
            assert_eq!(status.code(), Some(code), "{flag}:\n{}", log.text());
        }
    });
}
