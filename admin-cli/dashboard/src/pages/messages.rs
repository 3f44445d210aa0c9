//! `/messages/TOPIC[/CHANNEL]`: looks at messages; changes nothing. Only nsqds of this project can show them.

use axum::extract::{Path, Query};
use axum::response::Response;
use base64::Engine as _;
use futures_util::FutureExt;
use futures_util::future::join_all;
use maud::{Markup, html};
use nsq::admin::{PeekPage, PeekQuery, PeekedMessage};
use serde::Deserialize;

use super::parts::{action, copy_button, empty, heading};
use super::view::{View, encode};
use crate::access::Role;
use crate::actions::Verb;
use crate::figures;

/// Messages from each node.
const PER_NODE: u64 = 20;
/// Bytes of a body that are shown.
const SHOWN_BYTES: usize = 4096;
/// Bytes of a body shown in hexadecimal digits.
const HEX_BYTES: usize = 512;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wanted {
    state: String,
    from: String,
    #[serde(rename = "match")]
    matching: String,
    node: String,
}

pub async fn topic(view: View, Path(topic): Path<String>, Query(wanted): Query<Wanted>) -> Response {
    page(view, topic, None, wanted).await
}

pub async fn channel(
    view: View,
    Path((topic, channel)): Path<(String, String)>,
    Query(wanted): Query<Wanted>,
) -> Response {
    page(view, topic, Some(channel), wanted).await
}

async fn page(view: View, topic: String, channel: Option<String>, wanted: Wanted) -> Response {
    let snapshot = view.snapshot.clone();
    let mut crumbs = vec![("Topics", view.url("/topics")), (topic.as_str(), view.topic_url(&topic))];
    if let Some(channel) = &channel {
        crumbs.push((channel.as_str(), view.channel_url(&topic, channel)));
    }
    let parts: Vec<usize> = match &channel {
        Some(channel) => {
            let found = snapshot.channel(&topic, channel);
            found.into_iter().flat_map(|channel| channel.parts.iter().map(|part| part.node)).collect()
        }
        None => {
            snapshot.topic(&topic).into_iter().flat_map(|t| t.parts.iter().map(|part| part.node)).collect()
        }
    };
    let nodes: Vec<_> = parts
        .into_iter()
        .filter_map(|index| snapshot.nodes.get(index))
        .filter(|node| wanted.node.is_empty() || node.key == wanted.node)
        .collect();
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let query = PeekQuery {
        state: some(&wanted.state).filter(|_| channel.is_some()),
        from: some(&wanted.from),
        limit: Some(PER_NODE),
        matching: some(&wanted.matching),
        headers: Vec::new(),
    };
    let asked: Vec<_> = nodes
        .iter()
        .map(|node| {
            let client = view.state.upstream.nsqd(&node.address);
            let (topic, channel, query) = (topic.clone(), channel.clone(), query.clone());
            async move { client?.peek(&topic, channel.as_deref(), &query).await }.boxed()
        })
        .collect();
    let answers = view.within(join_all(asked)).await;
    let states = [
        ("", "all that are not finished"),
        ("waiting", "waiting"),
        ("in_flight", "in flight"),
        ("deferred", "deferred"),
        ("finished", "finished, still retained"),
    ];
    let body = html! {
        (heading(&view, &crumbs, html! { "Messages" }))
        form #filter .filter method="get" role="search" {
            @if channel.is_some() { label { span .sr { "State" } select name="state" data-filter { @for (value, text) in states { option value=(value) selected[wanted.state == value] { (text) } } } } }
            label { span .sr { "From" } select name="from" data-filter {
                @for (value, text) in [("", "oldest first"), ("tail", "newest")] { option value=(value) selected[wanted.from == value] { (text) } } } }
            label .grow { span .sr { "Regular expression for the body" }
                input type="search" name="match" value=(wanted.matching) placeholder="Body matches this regular expression  ( / )" autocomplete="off" data-filter; }
            button type="submit" .button.noscript { "Apply" }
        }
        p .dim { "A look changes nothing: no attempt is counted, and the order stays." }
        @match answers {
            None => { p .banner.warn { "The nodes did not answer within 2 s." } },
            Some(answers) => {
                @let all_unsupported = !answers.is_empty() && answers.iter().all(|a| a.as_ref().err().is_some_and(|e| e.is_unsupported()));
                @if all_unsupported {
                    (empty("eye", "These nodes cannot show messages", html! { "NSQ's own nsqd has no way to look at messages without taking them. To watch new ones: "
                        code { "nsq tail " (topic) } }))
                } @else if nodes.is_empty() {
                    (empty("eye", "No node has it", html! { "There is nothing to look at." }))
                } @else if answers.iter().all(|a| a.as_ref().is_ok_and(|page| page.messages.is_empty())) {
                    (empty("eye", "No message", html! { "None is in this state, or none matches." }))
                } @else {
                    @for (node, answer) in nodes.iter().zip(&answers) { (node_messages(&view, &topic, channel.as_deref(), &node.key, answer, &wanted)) }
                }
            },
        }
    };
    view.render(&format!("Messages of {topic}"), "Topics", body)
}

fn node_messages(
    view: &View,
    topic: &str,
    channel: Option<&str>,
    node: &str,
    answer: &Result<PeekPage, nsq::admin::AdminError>,
    wanted: &Wanted,
) -> Markup {
    html! {
        section {
            h2 { (node) @if let Ok(page) = answer { span .count { (page.messages.len()) } } }
            @match answer {
                Err(error) => { p .crit-text { (error.kind) } },
                Ok(page) => {
                    @for message in &page.messages { (message_card(view, topic, channel, node, message)) }
                    @if let Some(next) = &page.end.next {
                        @let url = view.object_url("/messages", topic, channel);
                        a .button href={ (url) "?node=" (encode(node)) "&state=" (encode(&wanted.state)) "&match=" (encode(&wanted.matching)) "&from=" (encode(next)) } { "More of this node" }
                    }
                },
            }
        }
    }
}

fn message_card(
    view: &View,
    topic: &str,
    channel: Option<&str>,
    node: &str,
    message: &PeekedMessage,
) -> Markup {
    let at = figures::time_of_ns(message.timestamp);
    let is_hidden = view.state.settings.hide_bodies && view.caller.role < Role::Admin;
    html! {
        details .message #{ "m-" (node) "-" (message.sequence) } {
            summary {
                code { (message.id) } " " span .badge { (message.state) }
                @if let Some(attempts) = message.attempts { " " span .dim { (attempts) " attempts" } }
                span .dim { " · " (figures::age(figures::since(at))) " old · " (figures::bytes(message.body_bytes)) }
                @if !is_hidden { span .excerpt { (excerpt(message)) } }
            }
            dl .pairs {
                dt { "Published" } dd { (figures::rfc3339(at)) }
                @if let Some(consumer) = &message.consumer { dt { "At" } dd { (consumer.client_id) " " (consumer.remote_address) } }
                @if let Some(deadline) = message.deadline_at { dt { "Times out" } dd { (figures::rfc3339(figures::time_of_ns(deadline))) } }
                @if let Some(due) = message.due_at { dt { "Due" } dd { (figures::rfc3339(figures::time_of_ns(due))) } }
                @for (name, value) in &message.headers { dt { code { (name) } } dd { (value) } }
            }
            @if is_hidden { p .dim { (super::parts::icon(view, "lock")) "Bodies are hidden (--hide-bodies)." } } @else { (body_of(view, message)) }
            @if let Some(channel) = channel {
                @let fields = [("topic", topic), ("channel", channel), ("id", message.id.as_str())];
                div .actions {
                    (action(view, Verb::RequeueMessage, "Deliver again", &fields))
                    (action(view, Verb::CancelMessage, "Cancel", &fields))
                }
            }
        }
    }
}

/// The start of the body, on one line.
fn excerpt(message: &PeekedMessage) -> String {
    let text = message.body.as_deref().unwrap_or("(binary)");
    let line: String = text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect();
    line
}

/// The body: JSON in a readable form, text, or hexadecimal digits.
fn body_of(view: &View, message: &PeekedMessage) -> Markup {
    let (kind, text) = match (&message.body, &message.body_base64) {
        (Some(text), _) => match serde_json::from_str::<serde_json::Value>(text) {
            Ok(json) if json.is_object() || json.is_array() => {
                ("JSON", serde_json::to_string_pretty(&json).unwrap_or_else(|_| text.clone()))
            }
            _ => ("text", text.clone()),
        },
        (None, Some(encoded)) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(encoded).unwrap_or_default();
            (kind_of(&bytes), hex(&bytes))
        }
        (None, None) => ("empty", String::new()),
    };
    let end = text.char_indices().map(|(at, _)| at).find(|at| *at >= SHOWN_BYTES).unwrap_or(text.len());
    html! {
        p .dim { (kind) @if end < text.len() { ", the first " (figures::bytes(SHOWN_BYTES as u64)) } (copy_button(view, &text)) }
        pre .body { (text[..end]) }
    }
}

/// What binary data begins like.
fn kind_of(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x1f, 0x8b, ..] => "gzip, in hexadecimal digits",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd, in hexadecimal digits",
        [first, ..] if (0x80..=0x9f).contains(first) || matches!(first, 0xdc..=0xdf) => {
            "perhaps MessagePack, in hexadecimal digits"
        }
        _ => "binary, in hexadecimal digits",
    }
}

fn hex(bytes: &[u8]) -> String {
    let lines = bytes[..bytes.len().min(HEX_BYTES)].chunks(16).enumerate().map(|(number, line)| {
        let digits: String = line.iter().map(|byte| format!("{byte:02x} ")).collect();
        let shown =
            |byte: &u8| if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' };
        format!("{:04x}  {digits:<48} {}\n", number * 16, line.iter().map(shown).collect::<String>())
    });
    lines.collect()
}
