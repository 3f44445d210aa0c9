//! `/nodes/NODE`: one nsqd.

use axum::extract::Path;
use axum::response::Response;
use http::StatusCode;
use maud::html;
use nsq_cluster::SeriesKey;

use super::parts::{
    action, ago, copy_button, empty, ephemeral_name, heading, paused_badge, problem_list, rate, reach_badge,
    stat,
};
use super::topic::{graphite_graphs, graphs};
use super::view::View;
use crate::actions::Verb;
use crate::figures;
use crate::graphite::Scope;

/// Topics whose channels are listed.
const MAX_TOPICS: usize = 500;

pub async fn page(view: View, Path(name): Path<String>) -> Response {
    let snapshot = view.snapshot.clone();
    let crumbs = [("Nodes", view.url("/nodes"))];
    let Some(index) = snapshot.nodes.iter().position(|node| node.key == name || node.address == name) else {
        let body = html! {
            (heading(&view, &crumbs, html! { (name) }))
            (empty("node", "This node is not known", html! {
                "No nsqlookupd lists it. Compare its " code { "--broadcast-address" } " and HTTP port with this name, or see "
                a href=(view.url("/nodes")) { "all nodes" } "."
            }))
        };
        return view.render_with(StatusCode::NOT_FOUND, &name, "Nodes", body);
    };
    let node = &snapshot.nodes[index];
    let problems: Vec<_> =
        snapshot.problems.iter().filter(|p| p.place.nodes.contains(&node.address)).collect();
    let topics: Vec<_> = snapshot
        .topics
        .iter()
        .filter_map(|topic| topic.parts.iter().find(|part| part.node == index).map(|part| (topic, part)))
        .collect();
    let fields = [("node", node.key.as_str())];
    let totals = &node.totals;
    let body = html! {
        (heading(&view, &crumbs, html! { (node.hostname) " " span .dim { (node.key) } " " (reach_badge(node)) }))
        div .actions {
            @if node.drain.as_ref().is_some_and(|drain| drain.draining) { (action(&view, Verb::EndDrain, "End drain", &fields)) }
            @else { (action(&view, Verb::Drain, "Drain", &fields)) }
        }
        @if node.health != "OK" && !node.health.is_empty() { p .banner.crit { "Health: " (node.health) } }
        dl .stats {
            (stat("Published", rate(totals.rates.map(|r| r.ingress)), html! {}))
            (stat("Depth", html! { (figures::count(totals.depth)) }, html! { (figures::count(totals.backend_depth)) " on disk only" }))
            (stat("In flight", html! { (figures::count(totals.in_flight_count)) }, html! { (figures::count(totals.deferred_count)) " deferred" }))
            (stat("Consumers", html! { (figures::count(totals.client_count)) }, html! {}))
            (stat("Topics", html! { (figures::count(totals.topic_count as i128)) }, html! { (totals.channel_count) " channels" }))
            (stat("Uptime", html! { @match node.started_at { Some(at) => { (ago(at)) }, None => { "–" } } }, html! { "version " (node.version) }))
            @if let Some(storage) = &node.storage {
                (stat("Disk free", html! { (figures::bytes(storage.free_bytes)) }, html! { "of " (figures::bytes(storage.size_bytes)) }))
                (stat("Journal", html! { (figures::bytes(storage.journal_bytes)) }, html! {}))
            }
            @if let Some(bytes) = node.memory_bytes { (stat("Memory", html! { (figures::bytes(bytes)) }, html! {})) }
        }
        dl .pairs {
            dt { "HTTP" } dd { (node.address) (copy_button(&view, &node.address)) }
            @if let Some(address) = &node.tcp_address { dt { "TCP" } dd { (address) (copy_button(&view, address)) } }
            @if !node.zone.is_empty() || !node.region.is_empty() { dt { "Zone" } dd { (node.region) " / " (node.zone) } }
            @if view.state.upstream.has_lookupds() {
                dt { "Listed by" } dd {
                    @for at in &node.lookupds { @if let Some(lookupd) = snapshot.lookupds.get(*at) { (lookupd.address) " " } }
                    @if node.lookupds.is_empty() { "no nsqlookupd" }
                }
            }
            @if let Some(drain) = node.drain.as_ref().filter(|drain| drain.draining) {
                dt { "Drain" } dd {
                    @if drain.drained { "drained: no message is left for consumers" }
                    @else { (figures::count(drain.remaining_count)) " messages in " (drain.remaining_channels) " channels remain" }
                }
            }
        }
        @if !problems.is_empty() { section { h2 { "Problems" } (problem_list(&view, &problems)) } }
        (graphs(&view, &SeriesKey::Node(node.address.as_str().into())))
        section {
            h2 { "Topics" span .count { (topics.len()) } }
            @if topics.is_empty() {
                p .dim { "This node has no topic." }
            } @else {
                div .scroll tabindex="0" role="region" aria-label="Topics of the node" { table data-table="node-topics" {
                    thead { tr { th scope="col" { "Topic / channel" }
                        @for head in ["In", "Out", "Depth", "In flight", "Deferred", "Messages", "Consumers"] { th scope="col" .num { (head) } }
                        th scope="col" { span .sr { "Actions" } } } }
                    @for (topic, part) in topics.iter().take(MAX_TOPICS) {
                        tbody #{ "t-" (topic.name) } {
                            tr .group {
                                th scope="row" { a href=(view.topic_url(&topic.name)) { (ephemeral_name(&topic.name)) } (paused_badge(part.figures.paused)) }
                                td .num { (rate(part.figures.rates.map(|r| r.ingress))) } td .num { (rate(part.figures.rates.map(|r| r.egress))) }
                                td .num { (figures::count(part.figures.depth)) } td {} td {}
                                td .num { (figures::count(part.figures.message_count)) } td {}
                                td .rowacts {
                                    @let fields = [("topic", &*topic.name), ("node", node.key.as_str())];
                                    @if view.state.upstream.has_lookupds() { (action(&view, Verb::Hide, "Hide", &fields)) }
                                    (action(&view, Verb::DeleteTopicOnNode, "Delete here", &fields))
                                }
                            }
                            @for channel in &topic.channels { @if let Some(cell) = channel.parts.iter().find(|p| p.node == index) {
                                @let f = &cell.figures;
                                tr .sub {
                                    th scope="row" { a href=(view.channel_url(&topic.name, &channel.name)) { (ephemeral_name(&channel.name)) } (paused_badge(f.paused)) }
                                    td .num { (rate(f.rates.map(|r| r.ingress))) } td .num { (rate(f.rates.map(|r| r.egress))) }
                                    td .num .strong[f.depth > 0] { (figures::count(f.depth)) } td .num { (figures::count(f.in_flight_count)) }
                                    td .num { (figures::count(f.deferred_count)) } td .num { (figures::count(f.message_count)) }
                                    td .num .gap[f.client_count == 0 && f.depth > 0] { (figures::count(f.client_count)) } td {}
                                }
                            } }
                        }
                    }
                } }
                @if topics.len() > MAX_TOPICS { p .dim { (topics.len() - MAX_TOPICS) " more topics are not shown: see " a href=(view.url("/topics")) { "Topics" } } }
            }
        }
        (graphite_graphs(&view, Scope::Memory, &["heap_in_use_bytes", "gc_pause_usec_99", "heap_objects", "gc_runs"]))
    };
    view.render(&node.key, "Nodes", body)
}
