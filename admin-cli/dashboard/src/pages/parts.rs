//! Pieces that several pages have.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};
use nsq_cluster::snapshot::NodeView;
use nsq_cluster::{Problem, Reach, Severity};

use super::view::View;
use crate::access::Role;
use crate::actions::Verb;
use crate::figures;

pub fn icon(view: &View, name: &str) -> Markup {
    let href = view.url(&format!("/static/icons.svg?v={}#{name}", view.state.assets.version));
    html! { svg .icon aria-hidden="true" width="16" height="16" { use href=(href) {} } }
}

/// A state without data, and what to do next.
pub fn empty(_icon: &str, title: &str, what: Markup) -> Markup {
    html! { section .empty { h2 { (title) } p { (what) } } }
}

/// A time of day in UTC. The script adds the local time.
pub fn time(at: SystemTime) -> Markup {
    html! { time datetime=(figures::rfc3339(at)) { (figures::clock(at)) } }
}

/// How long ago something was.
pub fn ago(at: SystemTime) -> Markup {
    html! { time datetime=(figures::rfc3339(at)) { (figures::age(figures::since(at))) } }
}

/// The number of bad problems in the navigation.
pub fn problem_count(crit: usize, warn: usize) -> Markup {
    html! {
        @if crit > 0 { span .badge.crit title="critical problems" { (crit) } }
        @else if warn > 0 { span .badge.warn title="warnings" { (warn) } }
    }
}

pub fn severity_badge(view: &View, severity: Severity) -> Markup {
    let (class, shape, word) = match severity {
        Severity::Critical => ("crit", "alert", "crit"),
        Severity::Warning => ("warn", "warning", "warn"),
        Severity::Info => ("info", "info", "info"),
    };
    html! { span class={ "sev " (class) } { (icon(view, shape)) (word) } }
}

pub fn paused_badge(is_paused: bool) -> Markup {
    html! { @if is_paused { " " span .badge.warn { "paused" } } }
}

pub fn ephemeral_name(name: &str) -> Markup {
    match name.strip_suffix("#ephemeral") {
        Some(start) => html! { (start) span .dim { "#ephemeral" } },
        None => html! { (name) },
    }
}

pub fn reach_badge(node: &NodeView) -> Markup {
    let (class, word) = match node.reach {
        Reach::Up if node.health != "OK" && !node.health.is_empty() => ("crit", "unhealthy"),
        Reach::Up if node.drain.as_ref().is_some_and(|drain| drain.draining) => ("info", "draining"),
        Reach::Up => ("ok", "up"),
        Reach::Late => ("warn", "late"),
        Reach::Down => ("crit", "down"),
        Reach::Unknown => ("dim", "unknown"),
    };
    html! { span class={ "badge " (class) } { (word) } }
}

/// A figure that a page begins with.
pub fn stat(label: &str, value: Markup, note: Markup) -> Markup {
    html! { div .stat { dt { (label) } dd { (value) } @if !note.0.is_empty() { dd .note { (note) } } } }
}

/// A rate, or a dash before there is one.
pub fn rate(value: Option<f32>) -> Markup {
    match value {
        Some(value) => html! { (figures::rate(value)) },
        None => html! { span .dim title="not known yet: a rate needs two samples" { "–" } },
    }
}

/// A figure that only nodes of this project report.
pub fn reported<T>(value: Option<T>, show: impl Fn(T) -> Markup) -> Markup {
    match value {
        Some(value) => show(value),
        None => html! { span .dim title="this nsqd does not report it" { "not reported" } },
    }
}

pub fn age(value: Option<Duration>) -> Markup {
    reported(value, |age| html! { (figures::age(age)) })
}

/// A button that opens the dialog of an action. Absent if the caller may not do it.
pub fn action(view: &View, verb: Verb, label: &str, fields: &[(&str, &str)]) -> Markup {
    let class = if verb.destroys() { "button danger" } else { "button" };
    let shape = match verb {
        Verb::PauseTopic | Verb::PauseChannel => "pause",
        Verb::UnpauseTopic | Verb::UnpauseChannel => "play",
        Verb::CreateTopic | Verb::CreateChannel | Verb::Publish => "plus",
        Verb::Hide | Verb::Tombstone => "hide",
        Verb::Undo | Verb::Seek | Verb::Redrive | Verb::RequeueMessage => "undo",
        Verb::Drain | Verb::EndDrain => "drain",
        _ => "trash",
    };
    html! {
        @if view.may(verb.role()) {
            a class=(class) href=(view.act_url(verb.word(), fields)) data-act { (icon(view, shape)) (label) }
        }
    }
}

/// Problems, worst first.
pub fn problem_list(view: &View, problems: &[&Problem]) -> Markup {
    html! {
        ul .problems {
            @for problem in problems {
                li id={ "p-" (problem.id()) } .(severity_class(problem.severity)) {
                    (severity_badge(view, problem.severity))
                    div .what {
                        p {
                            (place(view, problem)) " "
                            a .rule href=(view.url(&format!("/problems/{}", problem.rule))) { (problem.rule) }
                        }
                        p { (problem.what) }
                        @if !problem.next.is_empty() {
                            p .next { code { (problem.next) } (copy_button(view, &problem.next)) }
                        }
                    }
                    span .since title="since" { (icon(view, "clock")) (ago(problem.since)) }
                }
            }
        }
    }
}

fn severity_class(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "crit",
        Severity::Warning => "warn",
        Severity::Info => "info",
    }
}

/// Links to where a problem is.
fn place(view: &View, problem: &Problem) -> Markup {
    let place = &problem.place;
    html! {
        @match (&place.topic, &place.channel) {
            (Some(topic), Some(channel)) => {
                a href=(view.channel_url(topic, channel)) { strong { (ephemeral_name(topic)) " / " (ephemeral_name(channel)) } }
            },
            (Some(topic), None) => { a href=(view.topic_url(topic)) { strong { (ephemeral_name(topic)) } } },
            _ => {},
        }
        @for node in place.nodes.iter().take(3) {
            " " a .node href=(view.node_url(&view.snapshot.node(node).map_or(node.clone(), |found| found.key.clone()))) { (node) }
        }
        @if place.nodes.len() > 3 { span .dim { " +" (place.nodes.len() - 3) } }
        @if let Some(lookupd) = &place.lookupd { " " a .node href=(view.url("/lookup")) { "nsqlookupd " (lookupd) } }
    }
}

pub fn copy_button(view: &View, text: &str) -> Markup {
    html! {
        button .ghost.copy type="button" data-copy=(text) title="Copy" { (icon(view, "copy")) span .sr { "Copy" } }
    }
}

/// An error: what failed, what it means, what to try; the raw text folded.
pub fn failure(view: &View, what: &str, means: &str, raw: &str) -> Markup {
    html! {
        section .failure role="alert" {
            h2 { (icon(view, "alert")) (what) }
            p { (means) }
            @if !raw.is_empty() { details { summary { "Raw text" } pre { (raw) } } }
        }
    }
}

/// Warnings of some daemons beside the answers of others.
pub fn warnings(view: &View, warnings: &[String]) -> Markup {
    html! {
        @if !warnings.is_empty() {
            details .banner.warn {
                summary { (icon(view, "warning")) span { (warnings.len()) " daemons did not answer: their part is missing below" } }
                ul { @for warning in warnings { li { code { (warning) } } } }
            }
        }
    }
}

/// Why a button is not shown.
pub fn read_only(view: &View) -> Markup {
    html! {
        @if view.caller.role < Role::Operator {
            p .dim.readonly { (icon(view, "lock")) "You may look. Actions need the role operator or admin." }
        }
    }
}

/// The breadcrumb and title of a page.
pub fn heading(view: &View, crumbs: &[(&str, String)], title: Markup) -> Markup {
    html! {
        div .heading {
            @if !crumbs.is_empty() {
                p .crumbs {
                    @for (name, url) in crumbs { a href=(url) { (name) } span aria-hidden="true" { "/" } }
                }
            }
            h1 { (title) }
            button .ghost.copy type="button" data-copy-url title="Copy the link to this page" {
                (icon(view, "link")) span .sr { "Copy the link to this page" }
            }
        }
    }
}
