//! `/nodes`: all nsqds.

use std::time::Duration;

use axum::response::Response;
use maud::{Markup, html};
use nsq_cluster::SeriesKey;
use nsq_cluster::snapshot::NodeView;

use super::chart::spark;
use super::overview::SPARK_POINTS;
use super::parts::{ago, empty, heading, rate, reach_badge, reported};
use super::view::View;
use crate::api::model::version;
use crate::figures;

pub async fn page(view: View) -> Response {
    let snapshot = view.snapshot.clone();
    let newest = snapshot.nodes.iter().map(|node| version(&node.version)).max();
    let has_lookupds = view.state.upstream.has_lookupds();
    let sampler = view.state.sampler();
    let lines: Vec<Vec<f32>> = {
        let series = sampler.series();
        let newest =
            |node: &NodeView| series.newest(&SeriesKey::Node(node.address.as_str().into()), SPARK_POINTS);
        snapshot.nodes.iter().map(|node| newest(node).iter().map(|point| point.depth).collect()).collect()
    };
    let body = html! {
        (heading(&view, &[], html! { "Nodes" span .count { (snapshot.nodes.len()) } }))
        @if snapshot.nodes.is_empty() {
            (empty("node", "No nsqd is registered", html! {
                "Start one with " code { "nsqd --lookupd-tcp-address=HOST:4160" } ", where HOST runs nsqlookupd."
            }))
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Table of nodes" { table data-table="nodes" {
                thead { tr {
                    th scope="col" { "Node" } th scope="col" { "State" }
                    @for head in ["Published", "Depth", "In flight", "Consumers", "Topics"] { th scope="col" .num { (head) } }
                    th scope="col" { "Depth over time" }
                    th scope="col" .num { "Uptime" } th scope="col" { "Version" } th scope="col" .num { "Memory" } th scope="col" .num { "Disk free" }
                    @if has_lookupds { th scope="col" .num { "nsqlookupds" } }
                    th scope="col" { "Zone" }
                } }
                tbody { @for (node, line) in snapshot.nodes.iter().zip(&lines) {
                    @let totals = &node.totals;
                    @let is_old = Some(version(&node.version)) < newest;
                    tr #{ "n-" (node.key) } {
                        th scope="row" { a href=(view.node_url(&node.key)) { (if node.hostname.is_empty() { &node.key } else { &node.hostname }) } " " span .dim { (node.key) } }
                        td { (reach_badge(node)) (age_of(node)) }
                        td .num { (rate(totals.rates.map(|r| r.ingress))) }
                        td .num .strong[totals.depth > 0] { (figures::count(totals.depth)) }
                        td .num { (figures::count(totals.in_flight_count)) }
                        td .num { (figures::count(totals.client_count)) }
                        td .num { (figures::count(totals.topic_count as i128)) }
                        td { (spark(line, &format!("depth of {}", node.key))) }
                        td .num { @match node.started_at { Some(at) => { (ago(at)) }, None => { span .dim { "–" } } } }
                        td .warn-text[is_old] { (node.version) @if is_old { span .sr { " older than others" } " ↓" } }
                        td .num { (reported(node.memory_bytes, |bytes| html! { (figures::bytes(bytes)) })) }
                        td .num { (reported(node.storage, |s| html! { (figures::bytes(s.free_bytes)) })) }
                        @if has_lookupds {
                            @let missing = snapshot.lookupds.len().saturating_sub(node.lookupds.len());
                            td .num .warn-text[missing > 0] { (node.lookupds.len()) "/" (snapshot.lookupds.len()) }
                        }
                        td { (node.region) @if !node.region.is_empty() && !node.zone.is_empty() { " / " } (node.zone) }
                    }
                } }
            } }
            @if has_lookupds { (lookupd_matrix(&view)) }
        }
    };
    view.render("Nodes", "Nodes", body)
}

/// How old the figures of a node that does not answer are.
pub fn age_of(node: &NodeView) -> Markup {
    html! {
        @if !matches!(node.reach, nsq_cluster::Reach::Up) {
            " " span .dim { @match node.age { Some(age) => { (figures::age(age)) " old" }, None => { "no figures" } } }
        }
    }
}

fn lookupd_matrix(view: &View) -> Markup {
    let snapshot = &view.snapshot;
    html! {
        section {
            h2 { "Nodes × nsqlookupds" }
            div .scroll tabindex="0" role="region" aria-label="Nodes and nsqlookupds" { table .matrix data-table="registrations" {
                thead { tr { th scope="col" { "Node" } @for lookupd in &snapshot.lookupds {
                    th scope="col" { (lookupd.address) " " span .dim { (figures::age(lookupd.age.unwrap_or(Duration::ZERO))) " ago" } }
                } } }
                tbody { @for (index, node) in snapshot.nodes.iter().enumerate() {
                    tr #{ "l-" (node.key) } {
                        th scope="row" { (node.key) }
                        @for lookupd in &snapshot.lookupds {
                            @match lookupd.nodes.iter().find(|listing| listing.node == index) {
                                Some(listing) => { td { (listing.topics.len()) " topics"
                                    @if !listing.tombstones.is_empty() { " " span .badge.warn { (listing.tombstones.len()) " hidden" } } } },
                                None => { td .gap { "not listed" } },
                            }
                        }
                    }
                } }
            } }
        }
    }
}
