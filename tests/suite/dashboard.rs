use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nsq_tests::auth_server::{Answer, AuthServer};
use nsq_tests::http::{self, Response};
use nsq_tests::stats::until_equal;
use nsq_tests::{Daemon, test, wait};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::Child;

use crate::cli::command;

/// A running `nsq admin`. Killed when dropped.
pub struct Dashboard {
    child: Child,
    pub http: SocketAddr,
}

impl Dashboard {
    /// Starts it on a free port, with a sample each second.
    pub async fn start(flags: &[String]) -> Self {
        Self::start_at("127.0.0.1:0", flags).await
    }

    pub async fn start_at(address: &str, flags: &[String]) -> Self {
        let mut command = command("admin --sample-interval=1s");
        command.arg(format!("--http-address={address}")).args(flags);
        let mut child = command.spawn().expect("nsq admin starts");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut seen = String::new();
        let listening = async {
            while let Some(line) = lines.next_line().await.expect("the log is readable") {
                if let Some((_, address)) = line.split_once("HTTP: listening on ") {
                    return address.trim().parse().expect("an address");
                }
                seen += &line;
            }
            panic!("nsq admin ended: {seen}");
        };
        let http = tokio::time::timeout(wait::PATIENCE, listening).await.expect("nsq admin listens");
        // The log must be read, or it blocks.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Dashboard { child, http }
    }

    pub async fn of(lookupds: &[&Daemon], more: &[&str]) -> Self {
        let lookupds = lookupds.iter().map(|lookupd| format!("--lookupd-http-address={}", lookupd.http()));
        Self::start(&lookupds.chain(more.iter().map(|flag| (*flag).to_owned())).collect::<Vec<_>>()).await
    }

    pub async fn of_nsqd(nsqd: &Daemon, more: &[&str]) -> Self {
        let flags = std::iter::once(format!("--nsqd-http-address={}", nsqd.http()));
        Self::start(&flags.chain(more.iter().map(|flag| (*flag).to_owned())).collect::<Vec<_>>()).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.http)
    }

    pub async fn get(&self, target: &str) -> Response {
        http::request(self.http, "GET", target, b"").await
    }

    async fn json(&self, target: &str) -> Value {
        self.get(target).await.expect(200).json()
    }

    async fn send(&self, method: &str, target: &str, body: &Value) -> Response {
        http::request(self.http, method, target, body.to_string().as_bytes()).await
    }

    async fn send_as(&self, headers: &[(&str, &str)], method: &str, target: &str, body: &Value) -> Response {
        http::request_with(self.http, method, target, headers, body.to_string().as_bytes()).await
    }

    pub async fn stop(mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// An nsqlookupd and registered nsqds.
async fn cluster(nodes: usize) -> (Daemon, Vec<Daemon>) {
    let lookupd = Daemon::lookupd().start().await;
    let mut nsqds = Vec::new();
    for _ in 0..nodes {
        nsqds.push(Daemon::nsqd().lookupd(&lookupd).start().await);
    }
    registered(&lookupd, nodes).await;
    (lookupd, nsqds)
}

async fn registered(lookupd: &Daemon, nodes: usize) {
    until_equal("all nsqds are registered", true, async || {
        lookupd.get_json("/nodes").await["producers"].as_array().is_some_and(|list| list.len() == nodes)
    })
    .await;
}

async fn topic_registered(lookupd: &Daemon, topic: &str, nodes: usize) {
    until_equal("the topic is registered", true, async || {
        let found = lookupd.get(&format!("/lookup?topic={topic}")).await;
        found.status == 200 && found.json()["producers"].as_array().is_some_and(|list| list.len() == nodes)
    })
    .await;
}

#[test]
fn api_of_nsqadmin_answers_with_its_fields_and_sums() {
    test(async {
        let (lookupd, nsqds) = cluster(2).await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        assert_eq!(dashboard.json("/api/topics").await, json!({"topics": null, "message": ""}));
        for (nsqd, count) in nsqds.iter().zip([3, 4]) {
            for _ in 0..count {
                nsqd.publish("t", "x").await;
            }
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        topic_registered(&lookupd, "t", 2).await;
        assert_eq!(dashboard.json("/api/topics").await, json!({"topics": ["t"], "message": ""}));
        let topic = dashboard.json("/api/topics/t").await;
        assert_eq!(
            (&topic["node"], &topic["topic_name"], &topic["message"]),
            (&json!("*"), &json!("t"), &json!(""))
        );
        assert_eq!(topic["message_count"], 7);
        let depths: i64 = topic["nodes"]
            .as_array()
            .expect("nodes")
            .iter()
            .map(|n| n["message_count"].as_i64().unwrap())
            .sum();
        assert_eq!(depths, 7, "each node keeps its own figures: {topic}");
        for field in [
            "node",
            "hostname",
            "topic_name",
            "depth",
            "memory_depth",
            "backend_depth",
            "message_count",
            "delivery_msg_count",
            "nodes",
            "channels",
            "paused",
            "e2e_processing_latency",
            "message",
        ] {
            assert!(topic.get(field).is_some(), "{field} is missing: {topic}");
        }
        let channel = dashboard.json("/api/topics/t/c").await;
        assert_eq!((&channel["depth"], &channel["channel_name"]), (&json!(7), &json!("c")));
        assert_eq!(channel["nodes"].as_array().map(Vec::len), Some(2));
        let percentiles = &channel["e2e_processing_latency"];
        assert_eq!((&percentiles["host"], &percentiles["topic"]), (&json!("*"), &json!("t")));
        let nodes = dashboard.json("/api/nodes").await;
        let node = &nodes["nodes"][0];
        assert_eq!(node["topics"], json!([{"topic": "t", "tombstoned": false}]));
        assert_eq!(
            (&node["out_of_date"], node["remote_addresses"].as_array().map(Vec::len)),
            (&json!(false), Some(1))
        );
        let name = format!("127.0.0.1:{}", node["http_port"]);
        let node = dashboard.json(&format!("/api/nodes/{name}")).await;
        assert_eq!((&node["node"], &node["total_clients"]), (&json!(name), &json!(0)));
        let counter = dashboard.json("/api/counter").await;
        assert_eq!(counter["stats"][format!("t:c:{name}")]["channel_name"], "c");
        lookupd.admin("/topic/create?topic=idle").await;
        lookupd.admin("/channel/create?topic=idle&channel=d").await;
        assert_eq!(dashboard.json("/api/topics?inactive=true").await["topics"], json!({"idle": ["d"]}));
        let idle = dashboard.json("/api/topics/idle").await;
        assert_eq!((&idle["depth"], idle["nodes"].as_array().map(Vec::len)), (&json!(0), Some(0)));
    });
}

#[test]
fn errors_of_the_api_are_those_of_nsqadmin_except_where_they_were_wrong() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        lookupd.admin("/channel/create?topic=t&channel=c").await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        dashboard.get("/api/nope").await.expect_error(404, "NOT_FOUND");
        dashboard.send("PUT", "/api/topics", &json!({})).await.expect_error(405, "METHOD_NOT_ALLOWED");
        dashboard.get("/api/topics/unknown").await.expect_error(404, "TOPIC_NOT_FOUND");
        dashboard.get("/api/nodes/nowhere:1").await.expect_error(404, "NODE_NOT_FOUND");
        dashboard
            .send("POST", "/api/topics", &json!({"topic": "a b"}))
            .await
            .expect_error(400, "INVALID_TOPIC");
        let channel = json!({"topic": "t", "channel": "a b"});
        dashboard.send("POST", "/api/topics", &channel).await.expect_error(400, "INVALID_CHANNEL");
        dashboard
            .send("POST", "/api/topics/t", &json!({"action": "x"}))
            .await
            .expect_error(400, "INVALID_ACTION");
        http::request(dashboard.http, "POST", "/api/topics/t", b"").await.expect_error(400, "EOF");
        http::request(dashboard.http, "DELETE", "/api/nodes/x:1", b"{")
            .await
            .expect_error(400, "INVALID_BODY");
        dashboard.get("/api/graphite?metric=x").await.expect_error(400, "INVALID_ARG_METRIC");
        dashboard.get("/api/graphite?metric=rate").await.expect_error(400, "INVALID_ARG_TARGET");
        let redirect = dashboard.get("/api/topics/?inactive=true").await.expect(301);
        assert_eq!(redirect.header("location"), Some("/api/topics?inactive=true"));
        let outside = dashboard.get("//evil.example/").await;
        assert_eq!(outside.header("location"), Some("/evil.example"));
        assert_eq!(dashboard.get("/ping").await.expect(200).text(), "OK");
    });
}

#[test]
fn actions_reach_every_node_and_are_announced_and_recorded() {
    test(async {
        let endpoint = AuthServer::start(Answer::Status(200, String::new())).await;
        let (lookupd, nsqds) = cluster(2).await;
        let notified =
            format!("--notification-http-endpoint={}", format_args!("http://{}/hook", endpoint.address()));
        let dashboard = Dashboard::of(&[&lookupd], &[&notified]).await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
            nsqd.admin("/channel/create?topic=t&channel=c").await;
        }
        topic_registered(&lookupd, "t", 2).await;
        let done = json!({"message": ""});
        let act = async |target: &str, action: &str| {
            assert_eq!(
                dashboard.send("POST", target, &json!({"action": action})).await.expect(200).json(),
                done
            );
        };
        act("/api/topics/t/c", "pause").await;
        for nsqd in &nsqds {
            assert!(nsqd.channel("t", "c").await.expect("it exists").paused);
        }
        act("/api/topics/t/c", "unpause").await;
        act("/api/topics/t/c", "empty").await;
        for nsqd in &nsqds {
            let channel = nsqd.channel("t", "c").await.expect("it exists");
            assert_eq!((channel.paused, channel.depth), (false, 0));
        }
        assert_eq!(dashboard.send("DELETE", "/api/topics/t", &json!({})).await.expect(200).json(), done);
        for nsqd in &nsqds {
            assert!(nsqd.topic("t").await.is_none());
        }
        let entries = dashboard.json("/api/v2/audit").await;
        let actions: Vec<&Value> =
            entries["entries"].as_array().expect("a list").iter().map(|e| &e["action"]).collect();
        assert_eq!(actions, ["delete_topic", "empty_channel", "unpause_channel", "pause_channel"]);
        assert!(entries["entries"].as_array().unwrap().iter().all(|e| e["state"] == "done"), "{entries}");
        until_equal("all actions are announced", true, async || endpoint.asked().len() >= 4).await;
    });
}

#[test]
fn destroying_messages_needs_the_name_and_a_dry_run_says_how_many() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for _ in 0..5 {
            nsqd.publish("t", "x").await;
        }
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
        let order = json!({"action": "empty_channel", "topic": "t", "channel": "c"});
        let mut dry = order.clone();
        dry["dry_run"] = json!(true);
        let plan = dashboard.send("POST", "/api/v2/actions", &dry).await.expect(200).json();
        assert_eq!(
            (&plan["plan"]["message_count"], &plan["command"]),
            (&json!(5), &json!("nsq channel empty t/c"))
        );
        let refused = dashboard.send("POST", "/api/v2/actions", &order).await.expect(409).json();
        assert_eq!(refused["detail"]["message_count"], 5);
        assert_eq!(nsqd.channel("t", "c").await.expect("it exists").depth, 5);
        let mut confirmed = order.clone();
        confirmed["confirm"] = json!("c");
        let done = dashboard.send("POST", "/api/v2/actions", &confirmed).await.expect(200).json();
        assert_eq!((&done["state"], &done["outcomes"][0]["ok"]), (&json!("done"), &json!(true)));
        assert_eq!(nsqd.channel("t", "c").await.expect("it exists").depth, 0);
    });
}

#[test]
fn hiding_a_node_keeps_its_messages() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].publish("t", "x").await;
        topic_registered(&lookupd, "t", 1).await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        let node = format!("127.0.0.1:{}", nsqds[0].http().port());
        dashboard.send("DELETE", &format!("/api/nodes/{node}"), &json!({"topic": "t"})).await.expect(200);
        assert_eq!(lookupd.get_json("/lookup?topic=t").await["producers"], json!([]));
        assert_eq!(nsqds[0].topic("t").await.expect("it is not deleted").message_count, 1);
    });
}

#[test]
fn pages_and_actions_are_refused_without_the_role_and_change_nothing() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &["--admin-user=ann", "--operator-user=bob"]).await;
        let user = |name: &'static str| [("X-Forwarded-User", name)];
        for action in [
            "delete_topic",
            "empty_topic",
            "delete_channel",
            "empty_channel",
            "publish",
            "drain_node",
            "set_topic",
        ] {
            let order = json!({
                "action": action, "topic": "t", "channel": "c", "node": nsqd.http().to_string(), "body": "x",
                "setting": "owner", "value": "me", "confirm": "c",
            });
            for name in ["bob", "eve"] {
                let refused = dashboard.send_as(&user(name), "POST", "/api/v2/actions", &order).await;
                assert_eq!(refused.status, 403, "{action} as {name}");
            }
        }
        for target in ["/api/topics/t", "/api/topics/t/c"] {
            dashboard
                .send_as(&user("eve"), "POST", target, &json!({"action": "pause"}))
                .await
                .expect_error(403, "FORBIDDEN");
            dashboard
                .send_as(&user("eve"), "DELETE", target, &json!({}))
                .await
                .expect_error(403, "FORBIDDEN");
        }
        let channel = nsqd.channel("t", "c").await.expect("it exists");
        assert_eq!((channel.paused, channel.depth), (false, 1));
        dashboard
            .send_as(&user("bob"), "POST", "/api/topics/t/c", &json!({"action": "pause"}))
            .await
            .expect(200);
        assert!(nsqd.channel("t", "c").await.expect("it exists").paused);
        assert!(
            !dashboard.get("/topics/t").await.expect(200).text().contains("empty_topic"),
            "no button without the role"
        );
        let page = http::request_with(dashboard.http, "GET", "/topics/t", &user("ann"), b"").await;
        assert!(page.expect(200).text().contains("empty_topic"));
    });
}

#[test]
fn changes_sent_by_pages_of_other_sites_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
        let json_type = ("Content-Type", "application/json");
        for headers in [
            &[("Origin", "http://evil.example"), json_type][..],
            &[("Sec-Fetch-Site", "cross-site"), json_type],
            &[("User-Agent", "Mozilla/5.0"), ("Content-Type", "text/plain")],
        ] {
            for (method, target) in [
                ("POST", "/api/topics/t"),
                ("DELETE", "/api/topics/t"),
                ("POST", "/api/v2/actions"),
                ("POST", "/act"),
                ("PUT", "/config/log_level"),
            ] {
                let refused = dashboard.send_as(headers, method, target, &json!({"action": "pause"})).await;
                assert!(
                    refused.status == 403 && refused.text().contains("CROSS_SITE_REQUEST"),
                    "{method} {target}: {}",
                    refused.text()
                );
            }
        }
        assert!(!nsqd.get_json("/stats?format=json").await["topics"][0]["paused"].as_bool().expect("a bool"));
        let page = dashboard.get("/").await.expect(200);
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-frame-options"), Some("DENY"));
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert!(!page.text().contains(" onclick=") && !page.text().contains("style="), "nothing inline");
    });
}

#[test]
fn base_path_precedes_every_route_and_link() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &["--base-path=ops/nsq"]).await;
        dashboard.get("/").await.expect(404);
        let page = dashboard.get("/ops/nsq").await.expect(200).text();
        assert!(
            page.contains(r#"href="/ops/nsq/topics""#) && page.contains(r#"src="/ops/nsq/static/app.js"#),
            "{page}"
        );
        dashboard.get("/ops/nsq/static/app.js").await.expect(200);
        dashboard.get("/ops/nsq/api/topics").await.expect(200);
        assert_eq!(dashboard.get("/ops/nsq/ping").await.expect(200).text(), "OK");
    });
}

#[test]
fn config_reads_any_option_and_changes_two() {
    test(async {
        let lookupd = Daemon::lookupd().start().await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        assert_eq!(dashboard.get("/config/log_level").await.expect(200).text(), "2");
        assert_eq!(dashboard.get("/config/statsd_interval").await.expect(200).text(), "60000000000");
        assert_eq!(dashboard.get("/config/base_path").await.expect(200).text(), "/");
        dashboard.get("/config/nope").await.expect_error(400, "INVALID_OPTION");
        let put = async |option: &str, value: &str| {
            http::request(dashboard.http, "PUT", &format!("/config/{option}"), value.as_bytes()).await
        };
        assert_eq!(put("log_level", "debug").await.expect(200).text(), "1");
        put("log_level", "loud").await.expect_error(400, "INVALID_VALUE");
        put("base_path", "/x").await.expect_error(400, "INVALID_OPTION");
        put("log_level", "").await.expect_error(413, "INVALID_VALUE");
        let other = Daemon::lookupd().start().await;
        other.admin("/topic/create?topic=elsewhere").await;
        let list = json!([other.http().to_string()]);
        assert_eq!(put("nsqlookupd_http_addresses", &list.to_string()).await.expect(200).json(), list);
        assert_eq!(dashboard.json("/api/topics").await["topics"], json!(["elsewhere"]));
        let closed = Dashboard::of(&[&lookupd], &["--allow-config-from-cidr=10.0.0.0/8"]).await;
        closed.get("/config/log_level").await.expect_error(403, "FORBIDDEN");
    });
}

#[test]
fn hanging_lookupd_delays_no_page_for_long() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        nsqds[0].publish("t", "x").await;
        topic_registered(&lookupd, "t", 1).await;
        // Accepts connections and never answers.
        let hanging = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let flag = format!("--lookupd-http-address={}", hanging.local_addr().expect("an address"));
        let dashboard = Dashboard::of(&[&lookupd], &[&flag]).await;
        for target in ["/", "/topics", "/topics/t", "/nodes", "/lookup", "/clients"] {
            let started = Instant::now();
            dashboard.get(target).await.expect(200);
            assert!(started.elapsed() < Duration::from_millis(4500), "{target} took {:?}", started.elapsed());
        }
        until_equal("the topic is sampled", true, async || {
            dashboard.get("/").await.text().contains(r#"/topics/t""#)
        })
        .await;
    });
}

#[test]
fn killed_node_is_down_and_the_others_keep_their_figures() {
    test(async {
        let (lookupd, mut nsqds) = cluster(2).await;
        for nsqd in &nsqds {
            nsqd.publish("t", "x").await;
        }
        topic_registered(&lookupd, "t", 2).await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        until_equal("both are sampled", true, async || {
            dashboard.json("/api/v2/overview").await["nodes_up"] == 2
        })
        .await;
        nsqds[0].kill().await;
        until_equal("one is down", true, async || dashboard.json("/api/v2/overview").await["nodes_up"] == 1)
            .await;
        let page = dashboard.get("/nodes").await.expect(200).text();
        assert!(page.contains("down") && page.contains(" old"), "{page}");
        let overview = dashboard.json("/api/v2/overview").await;
        let rules: Vec<&Value> =
            overview["problems"].as_array().expect("a list").iter().map(|p| &p["rule"]).collect();
        assert!(rules.contains(&&json!("node-down")), "{overview}");
        let given = nsqds.iter().map(|nsqd| format!("--nsqd-http-address={}", nsqd.http()));
        let by_address = Dashboard::start(&given.collect::<Vec<_>>()).await;
        let topic = by_address.json("/api/topics/t").await;
        assert!(topic["message"].as_str().is_some_and(|text| text.starts_with("WARNING: ")), "{topic}");
        assert_eq!(topic["message_count"], 1);
        dashboard.get("/healthz").await.expect(200);
    });
}

#[test]
fn notification_endpoint_that_is_down_affects_no_action() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let dashboard =
            Dashboard::of_nsqd(&nsqd, &["--notification-http-endpoint=http://127.0.0.1:1/"]).await;
        dashboard.send("POST", "/api/topics/t", &json!({"action": "pause"})).await.expect(200);
        until_equal("the failure is shown", true, async || {
            dashboard.json("/api/v2/overview").await["notifications"]["last_error"].is_string()
        })
        .await;
        assert_eq!(dashboard.get("/ping").await.expect(200).text(), "OK");
    });
}

#[test]
fn passwords_protect_the_dashboard_and_the_audit_names_the_user() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let hashed = crate::cli::run(command("auth password"), b"open sesame\n").await.expect(0).stdout;
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("users.toml");
        std::fs::write(&file, format!("[[user]]\nname = \"ann\"\nrole = \"admin\"\n{hashed}"))
            .expect("written");
        let log = folder.path().join("audit.log");
        let flags = [format!("--users-file={}", file.display()), format!("--audit-log={}", log.display())];
        let dashboard = Dashboard::of_nsqd(&nsqd, &[&flags[0], &flags[1]]).await;
        let pause = json!({"action": "pause"});
        dashboard.send("POST", "/api/topics/t", &pause).await.expect_error(403, "FORBIDDEN");
        let wrong = [("Authorization", "Basic YW5uOndyb25n")];
        let refused = dashboard.send_as(&wrong, "POST", "/api/topics/t", &pause).await.expect(401);
        assert!(refused.header("www-authenticate").is_some());
        // ann:open sesame
        let right = [("Authorization", "Basic YW5uOm9wZW4gc2VzYW1l")];
        dashboard.send_as(&right, "POST", "/api/topics/t", &pause).await.expect(200);
        let text = std::fs::read_to_string(&log).expect("the audit log exists");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.iter().map(|l| &l["state"]).collect::<Vec<_>>(), ["begun", "done"]);
        assert_eq!((&lines[1]["user"], &lines[1]["user_via"]), (&json!("ann"), &json!("password")));
        assert!(dashboard.get("/login").await.expect(401).header("www-authenticate").is_some());
    });
}

#[test]
fn events_announce_each_sample() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
        let mut connection = http::Connection::open(dashboard.http).await;
        connection.send(b"GET /api/v2/events HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let head = connection.head("events").await.expect("an answer").expect(200);
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let mut text = String::new();
        while text.matches("event: sample").count() < 3 {
            text +=
                std::str::from_utf8(&connection.chunk().await.expect("the stream goes on")).expect("UTF-8");
        }
    });
}

#[test]
fn history_has_the_limit_of_its_flag() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &["--history-bytes=3145728"]).await;
        let metrics = dashboard.get("/metrics").await.expect(200).text();
        assert!(metrics.contains("\nnsqadmin_series_limit_bytes 3145728\n"), "{metrics}");
        let page = dashboard.get("/").await.expect(200).text();
        assert!(page.contains(" of 3.0 MiB"), "{page}");
    });
}

#[test]
fn pause_with_an_end_ends_by_itself() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "x").await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
        let order = json!({"action": "pause_topic", "topic": "t", "for_seconds": 2, "reason": "test"});
        dashboard.send("POST", "/api/v2/actions", &order).await.expect(200);
        let is_paused = async || {
            nsqd.get_json("/stats?format=json").await["topics"][0]["paused"].as_bool().expect("a bool")
        };
        assert!(is_paused().await);
        assert_eq!(dashboard.json("/api/v2/overview").await["timers"].as_array().map(Vec::len), Some(1));
        until_equal("the pause ends", true, async || !is_paused().await).await;
    });
}

#[test]
fn nsqadmin_refuses_wrong_flags_as_before() {
    test(async {
        let tool = |line: &str| command(&format!("compat nsqadmin {line}"));
        let run = async |line: &str| crate::cli::run(tool(line), b"").await;
        assert_eq!(run("-version").await.expect(0).stdout, "nsqadmin v1.3.0 (built w/rustc)\n");
        let none = run("").await.expect(1);
        assert!(
            none.stderr.contains("--nsqd-http-address or --lookupd-http-address required"),
            "{}",
            none.stderr
        );
        let both = run("-nsqd-http-address=127.0.0.1:1 -lookupd-http-address=127.0.0.1:2").await.expect(1);
        assert!(
            both.stderr.contains("use --nsqd-http-address or --lookupd-http-address not both"),
            "{}",
            both.stderr
        );
        run("--nope").await.expect(2);
    });
}
