//! `/policy/TOPIC[/CHANNEL]`: every setting, and where its value comes from.

use axum::extract::Path;
use axum::response::Response;
use futures_util::FutureExt;
use futures_util::future::join_all;
use maud::html;

use super::parts::{action, empty, heading, icon};
use super::view::View;
use crate::actions::Verb;

pub async fn topic(view: View, Path(topic): Path<String>) -> Response {
    page(view, topic, None).await
}

pub async fn channel(view: View, Path((topic, channel)): Path<(String, String)>) -> Response {
    page(view, topic, Some(channel)).await
}

async fn page(view: View, topic: String, channel: Option<String>) -> Response {
    let mut crumbs = vec![("Topics", view.url("/topics")), (topic.as_str(), view.topic_url(&topic))];
    if let Some(channel) = &channel {
        crumbs.push((channel.as_str(), view.channel_url(&topic, channel)));
    }
    let nodes = view.snapshot.nodes.iter();
    let asked: Vec<_> = nodes
        .map(|node| {
            let (client, key) = (view.state.upstream.nsqd(&node.address), node.key.clone());
            let (topic, channel) = (topic.clone(), channel.clone());
            async move { Some((key, client.ok()?.explain_policy(&topic, channel.as_deref()).await.ok()?)) }
                .boxed()
        })
        .collect();
    let answers: Vec<_> =
        view.within(join_all(asked)).await.unwrap_or_default().into_iter().flatten().collect();
    let verb = if channel.is_some() { Verb::SetChannel } else { Verb::SetTopic };
    let body = html! {
        (heading(&view, &crumbs, html! { "Settings" }))
        @if let Some((_, first)) = answers.first() {
            p .dim { "Values of " (answers.len()) " nodes. Where they differ, each is shown." }
            div .scroll tabindex="0" role="region" aria-label="Settings" { table data-table="settings" {
                thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "Comes from" } th scope="col" { "Meaning" } th scope="col" { span .sr { "Actions" } } } }
                tbody { @for setting in &first.settings {
                    @let different: Vec<_> = answers.iter().skip(1).filter_map(|(node, other)| {
                        let found = other.settings.iter().find(|s| s.name == setting.name)?;
                        (found.value != setting.value).then_some((node, found))
                    }).collect();
                    tr #{ "s-" (setting.name) } {
                        th scope="row" { code { (setting.name) } }
                        td { @match &setting.value { Some(value) => { (value) }, None => { span .dim { "not set" } } }
                            @for (node, other) in &different { p .warn-text { (icon(&view, "warning")) (node) ": " (other.value.as_deref().unwrap_or("not set")) } } }
                        td { (setting.origin) @if let Some(line) = setting.line { " line " (line) } @if let Some(flag) = &setting.flag { " " code { (flag) } } }
                        td .wrap { (setting.help) }
                        td .rowacts {
                            @let value = setting.value.as_deref().unwrap_or("");
                            @let fields = [("topic", topic.as_str()), ("channel", channel.as_deref().unwrap_or("")), ("setting", setting.name.as_str()), ("value", value)];
                            (action(&view, verb, "Change", &fields))
                        }
                    }
                } }
            } }
        } @else {
            (empty("settings", "No node reports settings", html! { "NSQ's own nsqd has flags for all topics only, and does not report them." }))
        }
    };
    view.render(&format!("Settings of {topic}"), "Topics", body)
}
