//! `/clients`: every connection of the cluster, by application.

use std::collections::BTreeSet;

use axum::extract::Query;
use axum::response::Response;
use maud::html;
use serde::Deserialize;

use super::parts::{empty, ephemeral_name, failure, heading, icon, warnings};
use super::view::View;
use crate::connections::grouped;
use crate::figures;

/// Rows of the table.
const MAX_ROWS: usize = 500;

#[derive(Deserialize)]
pub struct Filter {
    #[serde(default)]
    filter: String,
}

pub async fn page(view: View, Query(query): Query<Filter>) -> Response {
    let found = view.within(view.state.connections.at(&view.state, view.snapshot.number)).await;
    let needle = query.filter.to_lowercase();
    let body = html! {
        (heading(&view, &[], html! { "Clients" }))
        form #filter .filter method="get" role="search" {
            label .grow { span .sr { "Filter clients" }
                input type="search" name="filter" value=(query.filter) placeholder="Filter by application, host, topic or channel  ( / )" autocomplete="off" data-filter; }
            button type="submit" .button.noscript { "Apply" }
        }
        @match &found {
            None => { (failure(&view, "The nodes take too long", "They did not list their connections within 2 s. The page tries again with the next sample.", "")) },
            Some(Err(error)) => { (failure(&view, "No node answered", "Their connections are not known. Check that the nsqds run and that this machine reaches their HTTP addresses.", &error.message)) },
            Some(Ok(found)) => {
                @let all = grouped(&found.value);
                @let groups: Vec<_> = all.iter().filter(|g| needle.is_empty() || [g.user_agent, g.client_id, g.topic, g.channel].iter().chain(g.hosts.iter()).any(|text| text.to_lowercase().contains(&needle))).collect();
                (warnings(&view, &found.warnings))
                @if found.value.is_empty() {
                    (empty("clients", "No client is connected", html! { "Start a consumer: " code { "nsq sub TOPIC CHANNEL" } }))
                } @else if groups.is_empty() {
                    (empty("search", "No client matches", html! { "Change the filter, or " a href=(view.url("/clients")) { "show all" } "." }))
                } @else {
                    p .dim { (found.value.len()) " connections of " (groups.len()) " applications. A consumer that is not connected to a node with its channel misses the messages there." }
                    div .scroll tabindex="0" role="region" aria-label="Table of clients" { table data-table="connections" {
                        thead { tr { th scope="col" { "Application" } th scope="col" { "Hosts" } th scope="col" { "Reads or publishes" }
                            @for head in ["Connections", "Ready", "In flight", "Messages"] { th scope="col" .num { (head) } }
                            th scope="col" { "Nodes" } } }
                        tbody { @for group in groups.iter().take(MAX_ROWS) {
                            @let sum = |count: fn(&nsq_protocol::ClientStats) -> i64| group.connections.iter().map(|c| count(&c.client)).sum::<i64>();
                            @let holders: BTreeSet<&str> = view.snapshot.channel(group.topic, group.channel).into_iter().flat_map(|channel| channel.parts.iter()).filter_map(|part| view.snapshot.nodes.get(part.node)).map(|node| node.key.as_str()).collect();
                            @let missing: Vec<&&str> = holders.iter().filter(|node| !group.nodes.contains(**node)).collect();
                            tr #{ "g-" (group.kind) "-" (group.topic) "-" (group.channel) "-" (group.user_agent) "-" (group.client_id) } {
                                th scope="row" { (group.client_id) @if !group.user_agent.is_empty() { " " span .dim { (group.user_agent) } } }
                                td { @for host in group.hosts.iter().take(3) { (host) " " } @if group.hosts.len() > 3 { span .dim { "+" (group.hosts.len() - 3) } } }
                                td { @if group.kind == "consumer" {
                                    a href=(view.channel_url(group.topic, group.channel)) { (ephemeral_name(group.topic)) " / " (ephemeral_name(group.channel)) }
                                } @else {
                                    @let topics: BTreeSet<&str> = group.connections.iter().flat_map(|c| &c.client.pub_counts).map(|count| count.topic.as_str()).collect();
                                    span .dim { "publishes to " }
                                    @for topic in topics.iter().take(5) { a href=(view.topic_url(topic)) { (topic) } " " }
                                } }
                                td .num { (group.connections.len()) }
                                td .num { @if group.kind == "consumer" { (figures::count(sum(|c| c.ready_count))) } }
                                td .num { @if group.kind == "consumer" { (figures::count(sum(|c| c.in_flight_count))) } }
                                td .num { (figures::count(sum(|c| i64::try_from(c.message_count + c.pub_counts.iter().map(|count| count.count).sum::<u64>()).unwrap_or(i64::MAX)))) }
                                td { (group.nodes.len())
                                    @if group.kind == "consumer" && !missing.is_empty() {
                                        span .gap title="nodes that have the channel and no connection of this application" { " " (icon(&view, "alert")) "not on " @for node in missing.iter().take(3) { (node) " " } @if missing.len() > 3 { "+" (missing.len() - 3) } }
                                    } }
                            }
                        } }
                    } }
                    @if groups.len() > MAX_ROWS { p .dim { (groups.len() - MAX_ROWS) " more: filter the list." } }
                }
            },
        }
    };
    view.render("Clients", "Clients", body)
}
