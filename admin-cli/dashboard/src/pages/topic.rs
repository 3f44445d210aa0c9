//! `/topics/TOPIC`: one topic on all nodes.

use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use maud::{Markup, html};
use nsq_cluster::SeriesKey;
use nsq_cluster::series::Resolution;
use nsq_cluster::snapshot::TopicView;

use super::chart::{Line, graph, spark};
use super::overview::SPARK_POINTS;
use super::parts::{
    action, empty, ephemeral_name, heading, icon, paused_badge, problem_list, rate, read_only, stat, warnings,
};
use super::view::View;
use crate::actions::Verb;
use crate::connections::Connection;
use crate::figures;
use crate::graphite::{self, Scope};

pub async fn page(view: View, Path(name): Path<String>) -> Response {
    let snapshot = view.snapshot.clone();
    let crumbs = [("Topics", view.url("/topics"))];
    let Some(topic) = snapshot.topic(&name) else {
        let body = html! {
            (heading(&view, &crumbs, html! { (ephemeral_name(&name)) }))
            (unknown(&view, &name))
        };
        return view.render_with(StatusCode::NOT_FOUND, &name, "Topics", body);
    };
    let fields = [("topic", name.as_str())];
    let problems: Vec<_> =
        snapshot.problems.iter().filter(|problem| problem.place.topic.as_deref() == Some(&*name)).collect();
    let publishers = view.within(crate::connections::of_topic(&view.state, &name)).await;
    let has_retention = topic.sum.retained.is_some();
    let body = html! {
        (heading(&view, &crumbs, html! { (ephemeral_name(&name)) (paused_badge(topic.sum.paused)) }))
        div .actions {
            @if topic.sum.paused { (action(&view, Verb::UnpauseTopic, "Unpause", &fields)) }
            @else { (action(&view, Verb::PauseTopic, "Pause", &fields)) }
            (action(&view, Verb::CreateChannel, "Create channel", &fields))
            (action(&view, Verb::Publish, "Publish", &fields))
            a .button href=(view.object_url("/messages", &name, None)) { (icon(&view, "eye")) "Messages" }
            a .button href=(view.object_url("/policy", &name, None)) { (icon(&view, "settings")) "Settings" }
            @if name.contains(".dead") || topic.channels.is_empty() {
                a .button href=(view.object_url("/dead", &name, None)) { (icon(&view, "dead")) "Dead letters" }
            }
            @if has_retention { (action(&view, Verb::Undo, "Undo empty", &fields)) }
            (action(&view, Verb::EmptyTopic, "Empty", &fields))
            (action(&view, Verb::DeleteTopic, "Delete", &fields))
        }
        (read_only(&view))
        (figures_of(topic))
        @if !problems.is_empty() { section { h2 { "Problems" } (problem_list(&view, &problems)) } }
        (graphs(&view, &SeriesKey::Topic(topic.name.clone())))
        section { h2 { "Channels" span .count { (topic.channels.len()) } } (channels(&view, topic)) }
        section { h2 { "Nodes" span .count { (topic.parts.len()) } } (nodes(&view, topic)) }
        (matrix(&view, topic))
        section {
            h2 { "Publishers" }
            @match &publishers {
                Some(Ok(found)) => { (warnings(&view, &found.warnings)) (publishers_of(&view, &name, &found.value)) },
                _ => { p .dim { "The nodes did not list their connections in time." } },
            }
        }
        (graphite_graphs(&view, Scope::Topic(&name), &["depth", "message_count"]))
    };
    view.render(&name, "Topics", body)
}

fn unknown(view: &View, name: &str) -> Markup {
    let is_registered = view.snapshot.lookupds.iter().any(|lookupd| {
        lookupd.nodes.iter().any(|listing| listing.topics.iter().any(|topic| &**topic == name))
    });
    let title = if is_registered { "No node answers for this topic" } else { "No node has this topic" };
    empty(
        "topic",
        title,
        html! {
            "It may only be registered at nsqlookupd, or its name may be misspelled. The first publish creates it on a node. "
            (action(view, Verb::CreateTopic, "Create", &[("topic", name)]))
            (action(view, Verb::DeleteTopic, "Delete registration", &[("topic", name)]))
        },
    )
}

fn figures_of(topic: &TopicView) -> Markup {
    let (sum, rates) = (&topic.sum, topic.sum.rates);
    html! {
        dl .stats {
            (stat("Published", rate(rates.map(|r| r.ingress)), html! { (figures::count(sum.message_count)) " ever" }))
            (stat("Finished", rate(rates.map(|r| r.egress)), html! {}))
            (stat("Depth with channels", html! { (figures::count(topic.total_depth())) }, html! {
                (figures::count(sum.depth)) " in the topic itself"
            }))
            (stat("Bytes published", html! { (figures::bytes(sum.message_bytes)) }, html! {
                @if let Some(per_second) = sum.ingress_bytes { (figures::bytes(per_second as u64)) "/s" }
            }))
            @if let Some(retained) = &sum.retained {
                (stat("Retained", html! { (figures::count(retained.count)) }, html! { (figures::bytes(retained.bytes)) }))
            }
            @if sum.duplicate_count > 0 { (stat("Duplicates", html! { (figures::count(sum.duplicate_count)) }, html! { "not stored" })) }
        }
    }
}

/// Rates and depth over the last hours.
pub fn graphs(view: &View, key: &SeriesKey) -> Markup {
    let sampler = view.state.sampler();
    let (points, marks) = {
        let series = sampler.series();
        let mut points = series.points(key, Resolution::Fine);
        if points.is_empty() {
            points = series.points(key, Resolution::Coarse);
        }
        let marks: Vec<_> = series
            .marks()
            .map(|mark| (mark.at, format!("{} {:?}", mark.node, mark.kind).to_lowercase()))
            .collect();
        (points, marks)
    };
    // As many points as a graph has room for.
    let every = points.len().div_ceil(360).max(1);
    let points: Vec<_> =
        points.into_iter().rev().step_by(every).collect::<Vec<_>>().into_iter().rev().collect();
    let times: Vec<_> = points.iter().map(|(at, _)| *at).collect();
    let line = |name, class, value: fn(&nsq_cluster::series::Point) -> f32, show| Line {
        name,
        class,
        values: points.iter().map(|(_, point)| value(point)).collect(),
        show,
    };
    let per_second: fn(f64) -> String = |value| figures::rate(value as f32);
    let rates = [line("in", "a", |p| p.ingress, per_second), line("out", "b", |p| p.egress, per_second)];
    let failures =
        [line("requeued", "b", |p| p.requeue, per_second), line("timed out", "c", |p| p.timeout, per_second)];
    let depths = [
        line("depth", "a", |p| p.depth, figures::short),
        line("in flight", "b", |p| p.in_flight_count, figures::short),
    ];
    let has_failures = points.iter().any(|(_, point)| point.requeue > 0.0 || point.timeout > 0.0);
    html! {
        section .graphs {
            (graph("Depth", &times, &depths, &marks))
            (graph("Rates", &times, &rates, &marks))
            @if has_failures { (graph("Failed deliveries", &times, &failures, &marks)) }
        }
    }
}

fn channels(view: &View, topic: &TopicView) -> Markup {
    let name = &*topic.name;
    let sampler = view.state.sampler();
    let lines: Vec<Vec<f32>> = {
        let series = sampler.series();
        let key = |channel: &std::sync::Arc<str>| SeriesKey::Channel(topic.name.clone(), channel.clone());
        let newest = |channel| series.newest(&key(channel), SPARK_POINTS);
        topic.channels.iter().map(|channel| newest(&channel.name).iter().map(|p| p.depth).collect()).collect()
    };
    html! {
        @if topic.channels.is_empty() {
            (empty("channel", "No channel", html! {
                "Messages wait in the topic until a channel exists. A consumer creates one: "
                code { "nsq sub " (name) " me" }
            }))
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Channels" { table data-table="channels" {
                thead { tr {
                    th scope="col" { "Channel" }
                    @for head in ["In", "Out", "Depth", "In flight", "Deferred", "Requeued", "Timed out", "Consumers"] { th scope="col" .num { (head) } }
                    th scope="col" .num { "Oldest" } th scope="col" { "Depth over time" }
                } }
                tbody { @for (channel, line) in topic.channels.iter().zip(&lines) {
                    @let sum = &channel.sum;
                    tr #{ "c-" (channel.name) } {
                        th scope="row" { a href=(view.channel_url(name, &channel.name)) { (ephemeral_name(&channel.name)) } (paused_badge(sum.paused)) }
                        td .num { (rate(sum.rates.map(|r| r.ingress))) }
                        td .num { (rate(sum.rates.map(|r| r.egress))) }
                        td .num .strong[sum.depth > 0] { (figures::count(sum.depth)) }
                        td .num { (figures::count(sum.in_flight_count)) }
                        td .num { (figures::count(sum.deferred_count)) }
                        td .num { (figures::count(sum.requeue_count)) }
                        td .num { (figures::count(sum.timeout_count)) }
                        td .num .crit-text[sum.client_count == 0 && sum.depth > 0] { (figures::count(sum.client_count)) }
                        td .num { @if sum.depth == 0 && sum.oldest_age.is_none() { "–" } @else { (super::parts::age(sum.oldest_age)) } }
                        td { (spark(line, &format!("depth of {}", channel.name))) }
                    }
                } }
            } }
        }
    }
}

fn nodes(view: &View, topic: &TopicView) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Nodes" { table data-table="topic-nodes" {
            thead { tr {
                th scope="col" { "Node" }
                @for head in ["Published", "Depth", "Memory + disk", "Messages", "Channels"] { th scope="col" .num { (head) } }
                th scope="col" { "Latency" } th scope="col" { span .sr { "Actions" } }
            } }
            tbody { @for part in &topic.parts { @if let Some(node) = view.snapshot.nodes.get(part.node) {
                @let figures = &part.figures;
                @let channels = topic.channels.iter().filter(|c| c.parts.iter().any(|p| p.node == part.node)).count();
                tr #{ "n-" (node.key) } {
                    th scope="row" { a href=(view.node_url(&node.key)) { (node.hostname) } " " span .dim { (node.key) } (paused_badge(figures.paused)) }
                    td .num { (rate(figures.rates.map(|r| r.ingress))) }
                    td .num { (figures::count(figures.depth)) }
                    td .num { (figures::count(figures.depth - figures.backend_depth)) " + " (figures::count(figures.backend_depth)) }
                    td .num { (figures::count(figures.message_count)) }
                    td .num { (channels) }
                    td { (latency(figures.latency.as_deref())) }
                    td .rowacts {
                        @let fields = [("topic", &*topic.name), ("node", node.key.as_str())];
                        @if view.state.upstream.has_lookupds() { (action(view, Verb::Hide, "Hide", &fields)) }
                        (action(view, Verb::DeleteTopicOnNode, "Delete here", &fields))
                    }
                }
            } } }
        } }
    }
}

/// The slowest percentiles.
pub fn latency(latency: Option<&nsq_cluster::snapshot::WorstLatency>) -> Markup {
    html! {
        @match latency {
            Some(latency) => { @for (quantile, value) in &latency.0 { span .pct { span .dim { "p" (figures::short(quantile * 100.0)) } " " (figures::latency(*value)) } } },
            None => { span .dim title="nsqd measures it with --e2e-processing-latency-percentile" { "not measured" } },
        }
    }
}

/// Depth and consumers of each channel on each node.
fn matrix(view: &View, topic: &TopicView) -> Markup {
    html! {
        @if topic.parts.len() > 1 && !topic.channels.is_empty() {
            section {
                h2 { "Nodes × channels" }
                p .dim { "Depth, and consumers in brackets. A cell with depth and no consumer is marked: nobody reads these messages." }
                div .scroll tabindex="0" role="region" aria-label="Nodes and channels" { table .matrix data-table="matrix" {
                    thead { tr { th scope="col" { "Node" } @for channel in &topic.channels { th scope="col" .num { (ephemeral_name(&channel.name)) } } } }
                    tbody { @for part in &topic.parts { @if let Some(node) = view.snapshot.nodes.get(part.node) {
                        tr #{ "m-" (node.key) } {
                            th scope="row" { a href=(view.node_url(&node.key)) { (node.key) } }
                            @for channel in &topic.channels {
                                @match channel.parts.iter().find(|p| p.node == part.node) {
                                    Some(cell) => {
                                        @let is_gap = cell.figures.depth > 0 && cell.figures.client_count == 0;
                                        td .num .gap[is_gap] {
                                            @if is_gap { (icon(view, "alert")) span .sr { "no consumer " } }
                                            (figures::count(cell.figures.depth)) " " span .dim { "(" (figures::count(cell.figures.client_count)) ")" }
                                        }
                                    },
                                    None => { td .num.dim { "–" } },
                                }
                            }
                        }
                    } } }
                } }
            }
        }
    }
}

fn publishers_of(view: &View, topic: &str, connections: &[Connection]) -> Markup {
    let publishers: Vec<(&Connection, u64)> = connections
        .iter()
        .filter(|connection| connection.kind == "publisher")
        .filter_map(|connection| {
            let count = connection.client.pub_counts.iter().find(|count| count.topic == topic)?;
            Some((connection, count.count))
        })
        .collect();
    html! {
        @if publishers.is_empty() {
            p .dim { "No connection has published to it. Publishes over HTTP are not listed." }
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Publishers" { table data-table="publishers" {
                thead { tr { th scope="col" { "Publisher" } th scope="col" { "User agent" } th scope="col" { "Node" } th scope="col" .num { "Messages" } th scope="col" .num { "Connected" } } }
                tbody { @for (connection, count) in publishers {
                    @let client = &connection.client;
                    tr #{ "pub-" (connection.node) "-" (client.remote_address) } {
                        th scope="row" { (client.client_id) " " span .dim { (client.remote_address) } }
                        td { (client.user_agent) }
                        td { a href=(view.node_url(&connection.node)) { (connection.node) } }
                        td .num { (figures::count(count)) }
                        td .num { (figures::age(figures::since(figures::time_of_ns(client.connect_ts.saturating_mul(1_000_000_000))))) }
                    }
                } }
            } }
        }
    }
}

/// Graphs of Graphite, if it is configured.
pub fn graphite_graphs(view: &View, scope: Scope<'_>, metrics: &[&str]) -> Markup {
    let settings = &view.state.settings;
    let Some(url) = &settings.graphite_url else { return html! {} };
    let base = if settings.proxy_graphite { view.url("/render") } else { format!("{url}/render") };
    let interval =
        view.uri.query().and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("t=")));
    let interval =
        interval.filter(|t| ["1h", "2h", "12h", "24h", "48h", "168h", "off"].contains(t)).unwrap_or("2h");
    html! {
        section {
            h2 { "Graphite" }
            p .intervals { @for each in ["1h", "2h", "12h", "24h", "48h", "168h", "off"] {
                a href={ "?t=" (each) } aria-current=[(each == interval).then_some("true")] { (each) } " "
            } }
            @if interval != "off" { div .graphs { @for metric in metrics {
                @let target = settings.keys.target(scope, None, metric);
                @let pairs = graphite::graph(&target, settings.statsd_interval.as_secs(), interval, 800, 450);
                @let query = pairs.iter().map(|(name, value)| format!("{name}={}", super::view::encode(value))).collect::<Vec<_>>().join("&");
                figure { figcaption { (metric) } img src={ (base) "?" (query) } alt={ (metric) " over " (interval) } width="800" height="450" loading="lazy"; }
            } } }
        }
    }
}
