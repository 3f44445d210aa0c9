//! `/lookup`: what nsqlookupds know, and what they disagree about.

use axum::response::Response;
use maud::html;
use nsq_cluster::Reach;

use super::parts::{action, empty, ephemeral_name, failure, heading, icon, warnings};
use super::view::View;
use crate::actions::Verb;
use crate::discovery::differences;
use crate::figures;

/// Differences that are listed.
const MAX_DIFFERENCES: usize = 200;

pub async fn page(view: View) -> Response {
    let snapshot = view.snapshot.clone();
    if !view.state.upstream.has_lookupds() {
        let body = html! {
            (heading(&view, &[], html! { "Discovery" }))
            (empty("lookup", "No nsqlookupd is configured", html! {
                "The nodes are given with " code { "--nsqd-http-address" } ", so there are no registrations. Use "
                code { "--lookupd-http-address" } " to see them. " (action(&view, Verb::CreateTopic, "Create topic", &[]))
            }))
        };
        return view.render("Discovery", "Discovery", body);
    }
    let inactive = view.within(view.state.upstream.inactive_topics()).await;
    let different = differences(&snapshot);
    let body = html! {
        (heading(&view, &[], html! { "Discovery" }))
        div .actions {
            (action(&view, Verb::CreateTopic, "Create topic", &[]))
            (action(&view, Verb::CreateChannel, "Create channel", &[]))
        }
        section {
            h2 { "nsqlookupds" span .count { (snapshot.lookupds.len()) } }
            div .scroll tabindex="0" role="region" aria-label="nsqlookupds" { table data-table="lookupds" {
                thead { tr { th scope="col" { "Address" } th scope="col" { "State" } th scope="col" .num { "Last answer" } th scope="col" .num { "Nodes" } th scope="col" .num { "Registrations" } th scope="col" .num { "Hidden" } } }
                tbody { @for lookupd in &snapshot.lookupds {
                    @let (class, word) = match lookupd.reach { Reach::Up => ("ok", "up"), Reach::Late => ("warn", "late"), Reach::Down => ("crit", "down"), Reach::Unknown => ("dim", "unknown") };
                    tr #{ "l-" (lookupd.address) } {
                        th scope="row" { (lookupd.address) }
                        td { span .badge.(class) { (word) } @if let Some(error) = &lookupd.error { " " span .dim { (error.message) } } }
                        td .num { @match lookupd.age { Some(age) => { (figures::age(age)) " ago" }, None => { "never" } } }
                        td .num { (lookupd.nodes.len()) }
                        td .num { (lookupd.nodes.iter().map(|listing| listing.topics.len()).sum::<usize>()) }
                        td .num { (lookupd.nodes.iter().map(|listing| listing.tombstones.len()).sum::<usize>()) }
                    }
                } }
            } }
        }
        section {
            h2 { "Differences" span .count { (different.len()) } }
            @if different.is_empty() {
                p .calm { (icon(&view, "check")) "All nsqlookupds that answer know the same nodes and topics." }
            } @else {
                p .dim { "A node or topic that one nsqlookupd does not know is not discovered by consumers that ask only this one." }
                div .scroll tabindex="0" role="region" aria-label="Differences" { table data-table="differences" {
                    thead { tr { th scope="col" { "nsqlookupd" } th scope="col" { "does not know" } th scope="col" { "of node" } } }
                    tbody { @for difference in different.iter().take(MAX_DIFFERENCES) { tr {
                        th scope="row" { (difference.lookupd) }
                        td { @match &difference.topic { Some(topic) => { "topic " a href=(view.topic_url(topic)) { (topic) } }, None => { "the node itself" } } }
                        td { a href=(view.node_url(&difference.node)) { (difference.node) } }
                    } } }
                } }
                @if different.len() > MAX_DIFFERENCES { p .dim { (different.len() - MAX_DIFFERENCES) " more" } }
            }
        }
        section {
            h2 { "Inactive topics" }
            p .dim { "Topics that are registered, and no node has." }
            @match &inactive {
                None => { p .dim { "The nsqlookupds did not answer within 2 s." } },
                Some(Err(error)) => { (failure(&view, "No nsqlookupd answered", "Registrations are not known.", &error.to_string())) },
                Some(Ok(found)) => {
                    (warnings(&view, &found.warnings))
                    @if found.value.is_empty() { p .calm { (icon(&view, "check")) "There are none." } }
                    ul .tree { @for (topic, channels) in &found.value { li {
                        strong { (ephemeral_name(topic)) } " "
                        (action(&view, Verb::DeleteTopic, "Delete", &[("topic", topic)]))
                        @if !channels.is_empty() { ul { @for channel in channels { li { (ephemeral_name(channel)) " "
                            (action(&view, Verb::DeleteChannel, "Delete", &[("topic", topic), ("channel", channel)])) } } } }
                    } } }
                },
            }
        }
    };
    view.render("Discovery", "Discovery", body)
}
