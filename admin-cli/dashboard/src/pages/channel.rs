//! `/topics/TOPIC/CHANNEL`: one channel on all nodes, and its consumers.

use std::time::Duration;

use axum::extract::Path;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::StatusCode;
use maud::{Markup, html};
use nsq::admin::WhyResponse;
use nsq_cluster::SeriesKey;
use nsq_cluster::snapshot::ChannelView;

use super::parts::{
    action, copy_button, empty, ephemeral_name, failure, heading, icon, paused_badge, problem_list, rate,
    read_only, stat, warnings,
};
use super::topic::{graphite_graphs, graphs, latency};
use super::view::View;
use crate::actions::Verb;
use crate::api::model::Client;
use crate::api::v1::channel_of;
use crate::figures;
use crate::graphite::Scope;

pub async fn page(view: View, Path((topic, name)): Path<(String, String)>) -> Response {
    let snapshot = view.snapshot.clone();
    let crumbs = [("Topics", view.url("/topics")), (topic.as_str(), view.topic_url(&topic))];
    let title = format!("{topic} / {name}");
    let Some(channel) = snapshot.channel(&topic, &name) else {
        let body = html! {
            (heading(&view, &crumbs, html! { (ephemeral_name(&name)) }))
            (empty("channel", "No node has this channel", html! {
                "It may have been deleted, or its name may be misspelled. A consumer creates it: "
                code { "nsq sub " (topic) " " (name) } " "
                (action(&view, Verb::CreateChannel, "Create", &[("topic", &topic), ("channel", &name)]))
            }))
        };
        return view.render_with(StatusCode::NOT_FOUND, &title, "Topics", body);
    };
    let fields = [("topic", topic.as_str()), ("channel", name.as_str())];
    let problems: Vec<_> = snapshot
        .problems
        .iter()
        .filter(|p| p.place.topic.as_deref() == Some(&*topic) && p.place.channel.as_deref() == Some(&*name))
        .collect();
    let (live, why) = futures_util::future::join(
        view.within(channel_of(&view.state, &topic, &name)),
        view.within(reasons(&view, channel, &topic)),
    )
    .await;
    let body = html! {
        (heading(&view, &crumbs, html! { (ephemeral_name(&name)) (paused_badge(channel.sum.paused)) }))
        div .actions {
            @if channel.sum.paused { (action(&view, Verb::UnpauseChannel, "Unpause", &fields)) }
            @else { (action(&view, Verb::PauseChannel, "Pause", &fields)) }
            a .button href=(view.object_url("/messages", &topic, Some(&name))) { (icon(&view, "eye")) "Messages" }
            a .button href=(view.object_url("/policy", &topic, Some(&name))) { (icon(&view, "settings")) "Settings" }
            (action(&view, Verb::Seek, "Move", &fields))
            (action(&view, Verb::Undo, "Undo", &fields))
            (action(&view, Verb::EmptyChannel, "Empty", &fields))
            (action(&view, Verb::DeleteChannel, "Delete", &fields))
        }
        (read_only(&view))
        (figures_of(channel))
        @if !problems.is_empty() { section { h2 { "Problems" } (problem_list(&view, &problems)) } }
        (why_section(&view, why.as_deref().unwrap_or_default()))
        (graphs(&view, &SeriesKey::Channel(topic.as_str().into(), channel.name.clone())))
        section { h2 { "Nodes" span .count { (channel.parts.len()) } } (nodes(&view, channel)) }
        section {
            h2 { "Consumers" span .count { (figures::count(channel.sum.client_count)) } }
            @match &live {
                Some(Ok(found)) => { (warnings(&view, &found.warnings)) (clients(&view, &topic, &name, found.value.clients.as_deref().unwrap_or_default())) },
                Some(Err(error)) => { (failure(&view, "The consumers are not known", "No node that has the channel answered. Its last figures are shown above.", &error.message)) },
                None => { p .dim { "The nodes did not list their consumers within 2 s." } },
            }
        }
        (graphite_graphs(&view, Scope::Channel(&topic, &name), &["depth", "in_flight_count", "message_count", "requeue_count", "timeout_count"]))
    };
    view.render(&title, "Topics", body)
}

fn figures_of(channel: &ChannelView) -> Markup {
    let sum = &channel.sum;
    let deliveries = sum.message_count;
    html! {
        dl .stats {
            (stat("Depth", html! { (figures::count(sum.depth)) }, html! { (figures::count(sum.backend_depth)) " on disk only" }))
            (stat("In", rate(sum.rates.map(|r| r.ingress)), html! { (figures::count(deliveries)) " ever" }))
            (stat("Out", rate(sum.rates.map(|r| r.egress)), html! {}))
            (stat("Drained in", drained(channel), html! {}))
            (stat("In flight", html! { (figures::count(sum.in_flight_count)) }, html! { (figures::count(sum.deferred_count)) " deferred" }))
            (stat("Requeued", rate(sum.rates.map(|r| r.requeue)), html! { (figures::count(sum.requeue_count)) " ever" }))
            (stat("Timed out", rate(sum.rates.map(|r| r.timeout)), html! { (figures::count(sum.timeout_count)) " ever" }))
            (stat("Oldest", super::parts::age(sum.oldest_age), html! {}))
            @if let Some(extra) = &sum.extra {
                @let counts = [("Dead letters", extra.dead_lettered_count), ("Expired", extra.expired_count), ("Overflowed", extra.overflow_count), ("Filtered", extra.filtered_count)];
                @for (label, count) in counts.iter().filter(|(_, count)| *count > 0) { (stat(label, html! { (figures::count(*count)) }, html! {})) }
            }
        }
        @if sum.latency.is_some() { p .dim { "Latency, worst node: " (latency(sum.latency.as_deref())) } }
        @if let Some(extra) = &sum.extra { (delivery([extra.zone_local_msg_count, extra.region_local_msg_count, extra.global_msg_count])) }
    }
}

/// How long the backlog lasts at the current rates.
fn drained(channel: &ChannelView) -> Markup {
    let sum = &channel.sum;
    match sum.rates {
        _ if sum.depth <= 0 => html! { span .dim { "empty" } },
        Some(rates) if rates.egress > rates.ingress && rates.egress > 0.0 => {
            let seconds = sum.depth as f64 / f64::from(rates.egress - rates.ingress);
            html! { (figures::age(Duration::from_secs_f64(seconds.min(1e9)))) }
        }
        Some(_) => html! { span .crit-text { "never" } },
        None => html! { span .dim { "–" } },
    }
}

/// The shares of deliveries within zone and region.
fn delivery(counts: [u64; 3]) -> Markup {
    let total: u64 = counts.iter().sum();
    html! {
        @if counts[0] + counts[1] > 0 {
            p .dim { "Deliveries: "
                @for (name, count) in ["same zone", "same region", "elsewhere"].iter().zip(counts) {
                    span .pct { (name) " " (figures::short(count as f64 * 100.0 / total as f64)) "% (" (figures::count(count)) ")" } " "
                }
            }
        }
    }
}

/// What each node says about why nothing moves. NSQ's own nsqd says nothing.
async fn reasons(view: &View, channel: &ChannelView, topic: &str) -> Vec<(String, WhyResponse)> {
    let holding = channel.parts.iter().filter(|part| {
        let figures = &part.figures;
        figures.depth > 0 || figures.in_flight_count > 0 || figures.deferred_count > 0
    });
    let nodes = holding.filter_map(|part| view.snapshot.nodes.get(part.node));
    let asked: Vec<_> = nodes
        .map(|node| {
            let (client, key) = (view.state.upstream.nsqd(&node.address), node.key.clone());
            let (topic, channel) = (topic.to_owned(), channel.name.clone());
            async move { Some((key, client.ok()?.why(&topic, &channel, None).await.ok()?)) }.boxed()
        })
        .collect();
    join_all(asked).await.into_iter().flatten().collect()
}

fn why_section(view: &View, reasons: &[(String, WhyResponse)]) -> Markup {
    let holding: Vec<_> = reasons
        .iter()
        .flat_map(|(node, why)| why.causes.iter().map(move |cause| (node, cause)))
        .filter(|(_, cause)| cause.holds_up || reasons.len() == 1)
        .collect();
    html! {
        @if !holding.is_empty() {
            section {
                h2 { "Why" }
                ul .causes {
                    @for (node, cause) in holding {
                        li .(if cause.holds_up { "warn" } else { "info" }) {
                            (icon(view, if cause.holds_up { "warning" } else { "info" }))
                            div {
                                p { (cause.text) " " a .node href=(view.node_url(node)) { (node) } }
                                @if let Some(command) = &cause.command { p .next { code { (command) } (copy_button(view, command)) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn nodes(view: &View, channel: &ChannelView) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label="Nodes" { table data-table="channel-nodes" {
            thead { tr {
                th scope="col" { "Node" }
                @for head in ["In", "Out", "Depth", "Memory + disk", "In flight", "Deferred", "Requeued", "Timed out", "Messages", "Consumers"] { th scope="col" .num { (head) } }
                th scope="col" { "Latency" }
            } }
            tbody { @for part in &channel.parts { @if let Some(node) = view.snapshot.nodes.get(part.node) {
                @let f = &part.figures;
                tr #{ "n-" (node.key) } {
                    th scope="row" { a href=(view.node_url(&node.key)) { (node.hostname) } " " span .dim { (node.key) } (paused_badge(f.paused)) }
                    td .num { (rate(f.rates.map(|r| r.ingress))) }
                    td .num { (rate(f.rates.map(|r| r.egress))) }
                    td .num .strong[f.depth > 0] { (figures::count(f.depth)) }
                    td .num { (figures::count(f.depth - f.backend_depth)) " + " (figures::count(f.backend_depth)) }
                    td .num { (figures::count(f.in_flight_count)) }
                    td .num { (figures::count(f.deferred_count)) }
                    td .num { (figures::count(f.requeue_count)) }
                    td .num { (figures::count(f.timeout_count)) }
                    td .num { (figures::count(f.message_count)) }
                    td .num .gap[f.client_count == 0 && f.depth > 0] {
                        @if f.client_count == 0 && f.depth > 0 { (icon(view, "alert")) span .sr { "no consumer " } }
                        (figures::count(f.client_count))
                    }
                    td { (latency(f.latency.as_deref())) }
                }
            } } }
        } }
    }
}

fn clients(view: &View, topic: &str, channel: &str, clients: &[Client]) -> Markup {
    let sum = |count: fn(&Client) -> i64| clients.iter().map(count).sum::<i64>();
    let is_backing_off = !clients.is_empty() && clients.iter().all(|client| client.ready_count == 0);
    html! {
        @if clients.is_empty() {
            (empty("clients", "No consumer is connected", html! {
                "Messages wait until one subscribes: " code { "nsq sub " (topic) " " (channel) }
            }))
        } @else {
            @if is_backing_off { p .banner.warn { (icon(view, "warning")) span { "All ready counts are 0: the consumers back off after failures, or are not ready." } } }
            div .scroll tabindex="0" role="region" aria-label="Consumers" { table data-table="clients" {
                thead { tr {
                    th scope="col" { "Consumer" } th scope="col" { "User agent" } th scope="col" { "Attributes" } th scope="col" { "Node" }
                    @for head in ["In flight", "Ready", "Finished", "Requeued", "Messages", "Connected"] { th scope="col" .num { (head) } }
                } }
                tbody { @for client in clients { (client_row(view, client)) } }
                tfoot { tr {
                    th scope="row" { "Total " (clients.len()) } td {} td {} td {}
                    td .num { (figures::count(sum(|c| c.in_flight_count))) } td .num { (figures::count(sum(|c| c.ready_count))) }
                    td .num { (figures::count(sum(|c| i64::try_from(c.finish_count).unwrap_or(0)))) }
                    td .num { (figures::count(sum(|c| i64::try_from(c.requeue_count).unwrap_or(0)))) }
                    td .num { (figures::count(sum(|c| i64::try_from(c.message_count).unwrap_or(0)))) } td {}
                } }
            } }
        }
    }
}

fn client_row(view: &View, client: &Client) -> Markup {
    let connected = Duration::from_nanos(u64::try_from(client.connected).unwrap_or(0));
    // Only links that lead to a page: a client chooses this text.
    let identity_url = Some(client.auth_identity_url.as_str())
        .filter(|url| url.starts_with("https://") || url.starts_with("http://"));
    html! {
        tr #{ "k-" (client.node) "-" (client.remote_address) } {
            th scope="row" { (client.hostname) " " span .dim { (client.remote_address) }
                @if client.client_id != client.hostname { " " span .dim { "(" (client.client_id) ")" } } }
            td { (client.user_agent) }
            td .attributes {
                @if client.sample_rate > 0 { span .badge { "sampled " (client.sample_rate) "%" } }
                @if client.tls { span .badge title={ (client.tls_version) " " (client.tls_cipher_suite) } { "TLS" } }
                @if client.deflate { span .badge { "deflate" } }
                @if client.snappy { span .badge { "snappy" } }
                @if client.authed {
                    span .badge { (icon(view, "user"))
                        @match identity_url { Some(url) => { a href=(url) rel="noreferrer noopener" { (client.auth_identity) } }, None => { (client.auth_identity) } }
                    }
                }
                @if !client.topology_zone.is_empty() {
                    span .badge { (client.topology_region) " " (client.topology_zone) " · " (["same zone", "same region", "elsewhere"][usize::from(client.distance())]) }
                }
            }
            td { a href=(view.node_url(&client.node)) { (client.node) } }
            td .num { (figures::count(client.in_flight_count)) }
            td .num .crit-text[client.ready_count == 0] { (figures::count(client.ready_count)) }
            td .num { (figures::count(client.finish_count)) }
            td .num { (figures::count(client.requeue_count)) }
            td .num { (figures::count(client.message_count)) }
            td .num { (figures::age(connected)) }
        }
    }
}
