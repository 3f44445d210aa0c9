//! `/dead/TOPIC`: dead letters by cause.

use axum::extract::Path;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::join_all;
use maud::{Markup, html};
use nsq::admin::{DeadLettersResponse, RedriveResponse};

use super::parts::{action, empty, heading};
use super::view::View;
use crate::actions::Verb;
use crate::figures;

pub async fn page(view: View, Path(topic): Path<String>) -> Response {
    let snapshot = view.snapshot.clone();
    let crumbs = [("Topics", view.url("/topics")), (topic.as_str(), view.topic_url(&topic))];
    let found = snapshot.topic(&topic);
    let nodes: Vec<_> =
        found.into_iter().flat_map(|t| &t.parts).filter_map(|part| snapshot.nodes.get(part.node)).collect();
    let asked: Vec<_> = nodes
        .iter()
        .map(|node| {
            let (client, key) = (view.state.upstream.nsqd(&node.address), node.key.clone());
            let topic = topic.clone();
            async move {
                let client = client.ok()?;
                let letters = client.dead_letters(&topic, None).await.ok()?;
                Some((key, letters, client.redrive(&topic).await.ok()))
            }
            .boxed()
        })
        .collect();
    let answers: Vec<_> =
        view.within(join_all(asked)).await.unwrap_or_default().into_iter().flatten().collect();
    let total: u64 = answers.iter().map(|(_, letters, _)| letters.total).sum();
    let fields = [("topic", topic.as_str())];
    let body = html! {
        (heading(&view, &crumbs, html! { "Dead letters" span .count { (figures::count(total)) } }))
        @if answers.is_empty() {
            (empty("dead", "This is not a dead-letter topic", html! {
                "No node reports dead letters for it. A channel gets a dead-letter topic with the settings "
                code { "max_attempts" } " and " code { "dead_letter_topic" } "."
            }))
        } @else if total == 0 {
            (empty("dead", "No dead letter", html! { "No message has used up its attempts." }))
        } @else {
            div .actions {
                (action(&view, Verb::Redrive, "Move back", &fields))
                (action(&view, Verb::StopRedrive, "Stop moving", &fields))
                a .button href=(view.object_url("/messages", &topic, None)) { "Look at them" }
                (action(&view, Verb::DeleteDead, "Delete", &fields))
            }
            @for (node, letters, redrive) in &answers { (of_node(&view, &topic, node, letters, redrive.as_ref())) }
        }
    };
    view.render(&format!("Dead letters of {topic}"), "Topics", body)
}

fn of_node(
    view: &View,
    topic: &str,
    node: &str,
    letters: &DeadLettersResponse,
    redrive: Option<&RedriveResponse>,
) -> Markup {
    html! {
        section {
            h2 { (node) span .count { (figures::count(letters.total)) } }
            @if let Some(redrive) = redrive {
                p { "Last move: " (redrive.state) ", " (figures::count(redrive.moved)) " of " (figures::count(redrive.total)) " moved"
                    @if let Some(error) = &redrive.error { ", " span .crit-text { (error) } } }
            }
            div .scroll tabindex="0" role="region" aria-label="Causes" { table data-table="dead-letters" {
                thead { tr { th scope="col" { "Cause" } th scope="col" { "Died in" } th scope="col" { "Error" } th scope="col" .num { "Messages" } th scope="col" { "Oldest" } th scope="col" { "Newest" } th scope="col" { span .sr { "Actions" } } } }
                tbody { @for group in &letters.groups { tr {
                    th scope="row" { (group.reason) }
                    td { a href=(view.channel_url(&group.topic_name, &group.channel_name)) { (group.topic_name) " / " (group.channel_name) } }
                    td { (group.error.as_deref().unwrap_or("")) }
                    td .num { (figures::count(group.count)) }
                    td { (group.oldest_at.as_deref().unwrap_or("–")) }
                    td { (group.newest_at.as_deref().unwrap_or("–")) }
                    td .rowacts {
                        @let filter = format!("nsq-dead-reason={},nsq-dead-topic={},nsq-dead-channel={}", group.reason, group.topic_name, group.channel_name);
                        (action(view, Verb::Redrive, "Move back", &[("topic", topic), ("filter", &filter)]))
                    }
                } } }
            } }
            @if letters.more { p .dim { "The first " (figures::count(letters.examined)) " were examined." } }
        }
    }
}
