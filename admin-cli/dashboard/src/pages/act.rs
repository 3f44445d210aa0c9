//! `/act`: the dialog of an action with its consequences, and its result.

use std::sync::Arc;

use axum::Extension;
use axum::extract::Query;
use axum::response::Response;
use bytes::Bytes;
use http::StatusCode;
use maud::{Markup, html};

use super::parts::{copy_button, failure, icon};
use super::view::View;
use crate::actions::plan::Plan;
use crate::actions::{self, Done, Order, Refusal, Verb, execute, plan_of};
use crate::api::v1::body;
use crate::figures;

/// Nodes that a dialog lists.
const MAX_NODES: usize = 20;

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
pub struct Fields {
    action: String,
    topic: String,
    channel: String,
    node: String,
    id: String,
    filter: String,
    setting: String,
    value: String,
}

/// The dialog.
pub async fn dialog(view: View, Query(fields): Query<Fields>) -> Response {
    let Some(verb) = Verb::parse(&fields.action) else {
        let body = failure(&view, "Unknown action", "The link is wrong or old.", &fields.action);
        return view.render_with(StatusCode::BAD_REQUEST, "Action", "", body);
    };
    let order = Order {
        action: fields.action,
        topic: fields.topic,
        channel: fields.channel,
        node: fields.node,
        id: fields.id,
        filter: fields.filter,
        setting: fields.setting,
        value: fields.value,
        ..Order::default()
    };
    if !view.may(verb.role()) {
        let text = format!("It needs the role {}; yours is {}.", verb.role().word(), view.caller.role.word());
        let body = failure(&view, "You may not do this", &text, "");
        return view.render_with(StatusCode::FORBIDDEN, "Action", "", body);
    }
    let needs_plan = verb.needs_topic()
        && !matches!(verb, Verb::CreateTopic | Verb::CreateChannel | Verb::Publish | Verb::Hide);
    let plan = if needs_plan && order.topic.is_empty() {
        None
    } else if needs_plan {
        // Emptying a topic usually means its channels too, so their messages are counted as well.
        let order = Order { with_channels: true, ..order.clone() };
        Some(view.within(plan_of(&view.state, verb, &order)).await)
    } else {
        None
    };
    let body = html! {
        form .order data-order method="dialog" {
            h1 #act-title { (title(verb)) }
            p .object { (object(&order)) }
            (consequences(&view, verb, &order, plan.as_ref()))
            (inputs(&view, verb, &order))
            label .wide { "Reason, for the audit (optional)" input name="reason" maxlength="500" autocomplete="off"; }
            (confirmation(verb, &order, plan.as_ref()))
            details { summary { "The same with the nsq command" } p .next { code { (order.command(verb)) } (copy_button(&view, &order.command(verb))) } }
            p .buttons {
                button .button.(if verb.destroys() { "danger" } else { "primary" }) type="submit" data-submit { (title(verb)) }
                button .button type="button" data-close { "Cancel" }
            }
        }
    };
    view.render(title(verb), "", body)
}

/// Carries the order out, and shows the result.
pub async fn submit(
    view: View,
    Extension(request): Extension<Arc<actions::Request>>,
    bytes: Bytes,
) -> Response {
    let order: Order = match body(&bytes) {
        Ok(order) => order,
        Err(error) => {
            let body =
                failure(&view, "The order is not readable", "Reload the page and try again.", &error.message);
            return view.render_with(error.status, "Action", "", body);
        }
    };
    match execute(&view.state, &order, &request, true).await {
        Ok(done) => view.render("Result", "", result(&view, &order, &done)),
        Err(refusal) => {
            let (status, what, means, raw) = explain(refusal, &order);
            let body = html! {
                (failure(&view, what, &means, &raw))
                p .buttons { button .button type="button" data-close { "Close" } }
            };
            view.render_with(status, "Result", "", body)
        }
    }
}

fn explain(refusal: Refusal, order: &Order) -> (StatusCode, &'static str, String, String) {
    match refusal {
        Refusal::Forbidden => (
            StatusCode::FORBIDDEN,
            "You may not do this",
            "Ask somebody with the role that it needs.".into(),
            String::new(),
        ),
        Refusal::Invalid(word) => (
            StatusCode::BAD_REQUEST,
            "The order is not valid",
            "Nothing was changed. Correct the marked value.".into(),
            word,
        ),
        Refusal::NotFound(word) => (
            StatusCode::NOT_FOUND,
            "It does not exist",
            "Nothing was changed. Somebody may have deleted it.".into(),
            word.to_owned(),
        ),
        Refusal::Upstream(text) => (
            StatusCode::BAD_GATEWAY,
            "No daemon answered",
            "Nothing was changed. Check that the daemons run and can be reached from here.".into(),
            text,
        ),
        Refusal::Audit(text) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "The audit log cannot be written",
            "Nothing was changed, because the action could not be recorded.".into(),
            text,
        ),
        Refusal::Unconfirmed(plan) => (
            StatusCode::CONFLICT,
            "Nothing was changed",
            format!(
                "{} messages would be lost. Type the name {} to confirm.",
                figures::count(plan.message_count),
                order.name()
            ),
            String::new(),
        ),
    }
}

fn title(verb: Verb) -> &'static str {
    match verb {
        Verb::CreateTopic => "Create topic",
        Verb::CreateChannel => "Create channel",
        Verb::DeleteTopic => "Delete topic",
        Verb::DeleteChannel => "Delete channel",
        Verb::PauseTopic => "Pause topic",
        Verb::UnpauseTopic => "Unpause topic",
        Verb::PauseChannel => "Pause channel",
        Verb::UnpauseChannel => "Unpause channel",
        Verb::EmptyTopic => "Empty topic",
        Verb::EmptyChannel => "Empty channel",
        Verb::Hide => "Hide node from discovery",
        Verb::Tombstone => "Hide node and delete the topic there",
        Verb::DeleteTopicOnNode => "Delete topic on this node",
        Verb::Drain => "Drain node",
        Verb::EndDrain => "End drain",
        Verb::Seek => "Move channel",
        Verb::Undo => "Undo",
        Verb::Redrive => "Move dead letters back",
        Verb::StopRedrive => "Stop moving dead letters",
        Verb::DeleteDead => "Delete dead letters",
        Verb::CancelMessage => "Cancel message",
        Verb::RequeueMessage => "Deliver message again",
        Verb::Publish => "Publish message",
        Verb::SetTopic | Verb::SetChannel => "Change setting",
    }
}

fn object(order: &Order) -> Markup {
    html! {
        @if !order.topic.is_empty() { strong { (order.topic) @if !order.channel.is_empty() { " / " (order.channel) } } }
        @if !order.node.is_empty() { @if !order.topic.is_empty() { " on " } strong { (order.node) } }
        @if !order.id.is_empty() { " message " code { (order.id) } }
        @if !order.setting.is_empty() { " setting " code { (order.setting) } }
    }
}

/// What the action does, in words and figures.
fn consequences(
    view: &View,
    verb: Verb,
    order: &Order,
    plan: Option<&Option<Result<Plan, Refusal>>>,
) -> Markup {
    let words = match verb {
        Verb::PauseTopic => {
            "Messages are still accepted, and no longer released to the channels. A node that gets the topic later is not paused."
        }
        Verb::PauseChannel => {
            "Messages are still accepted, and no longer handed out. Consumers stay connected."
        }
        Verb::UnpauseTopic | Verb::UnpauseChannel => "Messages are handed out again.",
        Verb::CreateTopic if view.state.upstream.has_lookupds() => {
            "It is registered at every nsqlookupd. A node gets it with the first publish or subscription."
        }
        Verb::CreateTopic => "It is created on every node.",
        Verb::CreateChannel => "It is created at every nsqlookupd, and on every node that has the topic.",
        Verb::DeleteTopic => {
            "The topic, its channels and their messages are deleted from all nodes and nsqlookupds. A publisher that goes on creates it again."
        }
        Verb::DeleteChannel => {
            "The channel and its messages are deleted from all nodes and nsqlookupds. A consumer that connects again creates it empty."
        }
        Verb::EmptyTopic => {
            "Messages that wait in the topic itself are dropped. Most messages wait in its channels."
        }
        Verb::EmptyChannel => "All messages of the channel are dropped, also those in flight and deferred.",
        Verb::Hide => {
            "Consumers no longer discover the node for this topic, for the tombstone lifetime of nsqlookupd (45 s by default). Its messages stay."
        }
        Verb::Tombstone => "The node is hidden, and its messages of this topic are destroyed.",
        Verb::DeleteTopicOnNode => {
            "The topic, its channels and their messages are deleted on this node only. A publisher that goes on creates it again."
        }
        Verb::Drain => {
            "The node refuses publishes, and consumers go on until nothing is left. It does not stop."
        }
        Verb::EndDrain => "The node accepts publishes again.",
        Verb::Seek => {
            "Back: retained messages are delivered again. Forward: messages that are passed count as finished."
        }
        Verb::Undo => {
            "Messages that the last empty or move forward dropped come back, as far as they are still retained."
        }
        Verb::Redrive => {
            "Each dead letter goes back into the channel in which it died, with its attempts counted from 1."
        }
        Verb::StopRedrive => "Messages that have been moved stay where they are now.",
        Verb::DeleteDead => "Dead letters are deleted for good.",
        Verb::CancelMessage => "The message is finished without being delivered, unless it is in flight.",
        Verb::RequeueMessage => "The message waits behind all others, and is delivered after the delay.",
        Verb::Publish => "One message is published to the topic on the chosen node.",
        Verb::SetTopic | Verb::SetChannel => {
            "The setting is changed on all nodes that have the topic. The value default removes it."
        }
    };
    html! {
        p { (words) }
        @match plan {
            None => {},
            Some(None) => { p .banner.warn { (icon(view, "warning")) "The nodes did not answer within 2 s, so the losses are not known." } },
            Some(Some(Err(refusal))) => { p .banner.warn { (icon(view, "warning")) @match refusal {
                Refusal::NotFound(_) => { "No node has it." },
                Refusal::Upstream(text) => { (text) },
                _ => { "The losses are not known." },
            } } },
            Some(Some(Ok(plan))) => { (losses(view, verb, order, plan)) },
        }
    }
}

fn losses(view: &View, verb: Verb, order: &Order, plan: &Plan) -> Markup {
    html! {
        @if verb.destroys() && verb != Verb::DeleteDead {
            dl .stats.losses {
                div .stat { dt { "Messages lost" } dd .crit-text[plan.message_count > 0] data-lost=(plan.message_count) data-lost-in-topic=(plan.topic_message_count) { (figures::count(plan.message_count)) }
                    dd .note { (figures::count(plan.in_flight_count)) " in flight, " (figures::count(plan.deferred_count)) " deferred" } }
                @if plan.client_count > 0 { div .stat { dt { "Consumers disconnected" } dd { (figures::count(plan.client_count)) } } }
                @if order.channel.is_empty() { div .stat { dt { "Channels" } dd { (plan.channel_count) } } }
            }
            @if plan.can_be_undone { p .dim { "The topic retains messages: Undo can bring them back for some time." } }
        }
        @if !plan.nodes.is_empty() {
            p .dim { "On " (plan.nodes.len()) " nodes: " @for node in plan.nodes.iter().take(MAX_NODES) {
                span .pct { (node.node) @if node.message_count > 0 { " (" (figures::count(node.message_count)) ")" } } " " }
                @if plan.nodes.len() > MAX_NODES { "+" (plan.nodes.len() - MAX_NODES) } }
        }
        @if !plan.errors.is_empty() {
            details .banner.warn { summary { (icon(view, "warning")) (plan.errors.len()) " daemons did not answer: their messages are not counted" }
                ul { @for error in &plan.errors { li { (error) } } } }
        }
    }
}

fn inputs(view: &View, verb: Verb, order: &Order) -> Markup {
    let hidden = |name: &str, value: &str| html! { @if !value.is_empty() { input type="hidden" name=(name) value=(value); } };
    html! {
        input type="hidden" name="action" value=(order.action);
        (hidden("node", if verb == Verb::Publish { "" } else { &order.node })) (hidden("id", &order.id)) (hidden("setting", &order.setting))
        @if verb.needs_topic() { @if order.topic.is_empty() {
            label .wide { "Topic" input name="topic" required maxlength="64" pattern="[.a-zA-Z0-9_\\-]+(#ephemeral)?" autocomplete="off" autofocus; }
        } @else { (hidden("topic", &order.topic)) } }
        @if verb.needs_channel() && order.channel.is_empty() {
            label .wide { "Channel" input name="channel" required maxlength="64" pattern="[.a-zA-Z0-9_\\-]+(#ephemeral)?" autocomplete="off" autofocus; }
        } @else { (hidden("channel", &order.channel)) }
        @match verb {
            Verb::PauseTopic | Verb::PauseChannel => {
                label .wide { "End" select name="for_seconds" data-number {
                    @for (seconds, text) in [("0", "until somebody unpauses it"), ("300", "in 5 minutes"), ("900", "in 15 minutes"), ("3600", "in 1 hour"), ("14400", "in 4 hours")] { option value=(seconds) { (text) } } } }
                p .dim { "An automatic end is lost if this dashboard restarts." }
            },
            Verb::EmptyTopic => { label .check { input type="checkbox" name="with_channels" checked data-with-channels; "also empty all its channels" } },
            Verb::Seek => { (seek_inputs(view, order)) },
            Verb::RequeueMessage => { label .wide { "Delay in milliseconds" input type="number" name="delay_ms" value="0" min="0" data-number; } },
            Verb::Redrive | Verb::DeleteDead => {
                label .wide { "Only those whose headers match (optional)" input name="filter" value=(order.filter) placeholder="nsq-dead-channel=billing,tenant!=test*" autocomplete="off"; }
                label .wide { "At most this many; 0 for all" input type="number" name="max" value="0" min="0" data-number; }
                @if verb == Verb::Redrive { label .wide { "Messages per second; 0 for as fast as possible" input type="number" name="rate" value="0" min="0" data-number; } }
                p { button .button type="button" data-preview { "Count first" } " " output data-preview-result {} }
            },
            Verb::Undo | Verb::CancelMessage => { p { button .button type="button" data-preview { "Try without changing anything" } " " output data-preview-result {} } },
            Verb::Publish => {
                label .wide { "Node" select name="node" required { @for node in &view.snapshot.nodes { option value=(node.key) selected[node.key == order.node] { (node.key) } } } }
                label .wide { "Body" textarea name="body" rows="6" required spellcheck="false" {} }
            },
            Verb::SetTopic | Verb::SetChannel => { label .wide { "Value" input name="value" value=(order.value) required autocomplete="off"; } },
            _ => {},
        }
    }
}

/// A slider over the retained history, with the number of messages that would come again.
fn seek_inputs(view: &View, order: &Order) -> Markup {
    let is_retained = view.snapshot.topic(&order.topic).is_some_and(|topic| topic.sum.retained.is_some());
    html! {
        @if is_retained {
            label .wide { "Back in time" input type="range" min="0" max="1000" value="0" data-seek aria-label="Minutes back"; }
            p .dim { output data-seek-result { "now" } }
        } @else {
            p .dim { "The topic retains no finished messages: a move back has no effect. Set " code { "retain_for" } " first." }
        }
        label .wide { "To" input name="to" value="latest" required autocomplete="off" data-to; }
        p .dim { code { "earliest" } ", " code { "latest" } ", an age such as " code { "15m" } ", or a time such as " code { "2026-11-20T11:38:00Z" } }
        p { button .button type="button" data-preview { "Count first" } " " output data-preview-result {} }
    }
}

fn confirmation(verb: Verb, order: &Order, plan: Option<&Option<Result<Plan, Refusal>>>) -> Markup {
    let is_harmless =
        matches!(plan, Some(Some(Ok(plan))) if plan.message_count == 0 && plan.errors.is_empty());
    html! {
        @if verb.destroys() && (!is_harmless || verb == Verb::DeleteDead) && !order.topic.is_empty() {
            label .wide.confirm { span { "Type " strong { (order.name()) } " to confirm" }
                input name="confirm" required autocomplete="off" spellcheck="false" data-expect=(order.name()); }
        }
    }
}

fn result(view: &View, order: &Order, done: &Done) -> Markup {
    let failed: Vec<_> = done.outcomes.iter().filter(|outcome| !outcome.ok).collect();
    let (class, text) = match done.state {
        "done" => ("ok", "Done everywhere"),
        "partial" => ("warn", "Done in part"),
        _ => ("crit", "Failed everywhere"),
    };
    html! {
        h2 { span .badge.(class) { (done.state) } " " (text) }
        @if done.outcomes.is_empty() { p { "No daemon has it: there was nothing to change." } }
        @else {
            table data-table="result" {
                thead { tr { th scope="col" { "Daemon" } th scope="col" { "Outcome" } th scope="col" .num { "Time" } } }
                tbody { @for outcome in &done.outcomes { tr {
                    th scope="row" { (outcome.node) " " span .dim { (outcome.kind) } }
                    td { @if outcome.ok { span .badge.ok { "done" } } @else { span .badge.crit { "failed" } }
                        @if let Some(text) = outcome.error.as_deref().or(outcome.detail.as_deref()) { " " (text) } }
                    td .num { (outcome.elapsed_ms) " ms" }
                } } }
            }
        }
        @if !done.warnings.is_empty() { details .banner.warn { summary { (icon(view, "warning")) (done.warnings.len()) " daemons could not be asked which nodes are concerned" } ul { @for warning in &done.warnings { li { (warning) } } } } }
        p .dim { "Request " code { (done.request_id) } ", recorded in the " a href=(view.url("/audit")) { "audit" } "." }
        form .order data-order method="dialog" {
            @if !failed.is_empty() {
                @let Order { action, topic, channel, node, reason, confirm, .. } = order;
                @for (name, value) in [("action", action), ("topic", topic), ("channel", channel), ("node", node), ("reason", reason), ("confirm", confirm), ("to", &order.to), ("id", &order.id), ("filter", &order.filter), ("setting", &order.setting), ("value", &order.value), ("body", &order.body)] {
                    @if !value.is_empty() { input type="hidden" name=(name) value=(value); }
                }
                @if order.with_channels { input type="checkbox" name="with_channels" checked hidden; }
                @for outcome in &failed { input type="hidden" name="nodes" value=(outcome.node) data-list; }
                button .button.primary type="submit" data-submit { "Retry the failed ones" } " "
            }
            button .button type="button" data-close { "Close" }
        }
    }
}
