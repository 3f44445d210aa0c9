use std::time::Duration;

use nsq_tests::foreign::{self, run_browser_check};
use nsq_tests::{Daemon, test_within};
use serde_json::json;

use crate::dashboard::Dashboard;

/// A browser on a loaded machine takes its time.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs a test unless foreign programs are left out.
fn in_browser(body: impl Future<Output = ()>) {
    if foreign::left_out() {
        println!("left out: NSQ_TESTS_NO_FOREIGN is set");
        return;
    }
    test_within(DEADLINE, body);
}

/// An nsqd with a topic, a channel with depth, and the dashboard.
async fn small() -> (Daemon, Dashboard) {
    let nsqd = Daemon::nsqd().start().await;
    for number in 0..5 {
        nsqd.publish("orders", json!({ "number": number }).to_string()).await;
    }
    nsqd.admin("/channel/create?topic=orders&channel=billing").await;
    nsqd.publish("audit", "plain").await;
    let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
    (nsqd, dashboard)
}

#[test]
fn pages_have_no_fault_and_no_accessibility_violation_in_light_and_dark() {
    in_browser(async {
        let (nsqd, dashboard) = small().await;
        let long = "x".repeat(64);
        nsqd.publish(&long, "x").await;
        nsqd.admin("/channel/pause?topic=orders&channel=billing").await;
        let _consumer = nsqd.subscribe("orders", "billing").await;
        let node = format!("127.0.0.1:{}", nsqd.http().port());
        run_browser_check("pages", &dashboard.url(), &["orders", "billing", &node]).finish().await;
    });
}

#[test]
fn overview_names_the_channel_without_consumer_on_a_node() {
    in_browser(async {
        let lookupd = Daemon::lookupd().start().await;
        let mut nsqds = Vec::new();
        for _ in 0..3 {
            let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
            nsqd.admin("/topic/create?topic=orders").await;
            nsqd.admin("/channel/create?topic=orders&channel=billing").await;
            nsqds.push(nsqd);
        }
        let mut consumers = Vec::new();
        for nsqd in &nsqds[..2] {
            consumers.push(nsqd.subscribe("orders", "billing").await);
        }
        nsqds[2].publish("orders", "x").await;
        let dashboard = Dashboard::of(&[&lookupd], &[]).await;
        let node = nsqds[2].http().port().to_string();
        run_browser_check("problems", &dashboard.url(), &["billing", &node]).finish().await;
    });
}

#[test]
fn figures_change_without_a_reload_and_keys_work() {
    in_browser(async {
        let (_nsqd, dashboard) = small().await;
        run_browser_check("live", &dashboard.url(), &["orders"]).finish().await;
        run_browser_check("keys", &dashboard.url(), &["orders"]).finish().await;
    });
}

#[test]
fn dialog_states_what_is_lost_and_wants_the_name() {
    in_browser(async {
        let (nsqd, dashboard) = small().await;
        run_browser_check("destroy", &dashboard.url(), &["orders", "billing", "5"]).finish().await;
        assert_eq!(nsqd.channel("orders", "billing").await.expect("it exists").depth, 0);
    });
}

#[test]
fn markup_in_names_and_bodies_is_text() {
    in_browser(async {
        let nsqd = Daemon::nsqd().start().await;
        nsqd.publish("t", "<img src=x onerror=alert(1)>").await;
        nsqd.admin("/channel/create?topic=t&channel=c").await;
        let mut consumer = nsqd.connect().await;
        let hostile = "<img src=x onerror=alert(2)>";
        let identity = json!({
            "client_id": hostile, "hostname": hostile, "user_agent": hostile, "feature_negotiation": true,
        });
        consumer.identify(identity).await;
        consumer.subscribe("t", "c").await;
        let dashboard = Dashboard::of_nsqd(&nsqd, &[]).await;
        let order = json!({ "action": "pause_topic", "topic": "t", "reason": hostile });
        let body = order.to_string();
        nsq_tests::http::request(dashboard.http, "POST", "/api/v2/actions", body.as_bytes())
            .await
            .expect(200);
        run_browser_check("hostile", &dashboard.url(), &["t", "c"]).finish().await;
    });
}

#[test]
fn first_page_is_small() {
    in_browser(async {
        let (_nsqd, dashboard) = small().await;
        run_browser_check("size", &dashboard.url(), &[]).finish().await;
    });
}

#[test]
fn page_goes_on_after_a_restart_of_the_dashboard() {
    in_browser(async {
        let (nsqd, dashboard) = small().await;
        let mut browser = run_browser_check("restart", &dashboard.url(), &[]);
        browser.next("loaded").await;
        let address = dashboard.http.to_string();
        dashboard.stop().await;
        browser.next("stale").await;
        let flags = [format!("--nsqd-http-address={}", nsqd.http())];
        let _again = Dashboard::start_at(&address, &flags).await;
        browser.finish().await;
    });
}
