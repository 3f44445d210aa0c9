//! `/`: is something wrong, and where.

use axum::extract::Path;
use axum::response::Response;
use maud::{Markup, html};
use nsq_cluster::{Reach, RuleId, SeriesKey, Severity};

use super::chart::spark;
use super::parts::{empty, heading, problem_list, rate, stat};
use super::topics::table;
use super::view::View;
use crate::api::reply::ApiError;
use crate::figures;
use crate::listing::{TopicQuery, rows};

/// Problems that the overview shows at once.
const MAX_PROBLEMS: usize = 50;
/// Rows of the table.
const ROWS: usize = 20;
/// Points of a sparkline.
pub(super) const SPARK_POINTS: usize = 60;

pub async fn page(view: View) -> Response {
    let snapshot = view.snapshot.clone();
    let query = TopicQuery { sort: "-depth".to_owned(), limit: Some(ROWS), ..TopicQuery::default() };
    let page = rows(&snapshot, &query);
    let (notes, bad): (Vec<_>, Vec<_>) =
        snapshot.problems.iter().partition(|problem| problem.severity == Severity::Info);
    let shown: Vec<_> = bad.iter().copied().take(MAX_PROBLEMS).collect();
    let body = html! {
        h1 .sr { "Overview" }
        (figures_of(&view))
        section aria-labelledby="problems" {
            h2 #problems { "Problems"
                @if !bad.is_empty() { span .count { (bad.len()) } }
            }
            @if snapshot.number == 0 {
                p .dim { "The first sample is on its way." }
            } @else if shown.is_empty() {
                p .calm { (super::parts::icon(&view, "check")) "Nothing is wrong: all rules were checked "
                    (figures::age(figures::since(snapshot.taken_at))) " ago." }
            } @else {
                (problem_list(&view, &shown))
                @if bad.len() > MAX_PROBLEMS {
                    p .dim { (bad.len() - MAX_PROBLEMS) " more: " a href=(view.url("/api/v2/overview")) { "as JSON" } }
                }
            }
        }
        @if !notes.is_empty() {
            details .notes #notes {
                summary { (super::parts::icon(&view, "info")) (notes.len()) " worth knowing" }
                (problem_list(&view, &notes[..notes.len().min(MAX_PROBLEMS)]))
            }
        }
        (timers(&view))
        section aria-labelledby="topics" {
            h2 #topics { "Deepest topics" span .count { (snapshot.topics.len()) } }
            @if snapshot.topics.is_empty() && snapshot.number > 0 {
                (empty("topic", "No topics yet", html! {
                    "The first publish creates one: " code { "nsq pub greetings hello" }
                }))
            } @else {
                (table(&view, &page, &query, false))
                p { a href=(view.url("/topics")) { "All topics" } }
            }
        }
    };
    view.render("Overview", "Overview", body)
}

fn figures_of(view: &View) -> Markup {
    let snapshot = &view.snapshot;
    let points = view.state.sampler().series().newest(&SeriesKey::Cluster, SPARK_POINTS);
    let line = |value: fn(&nsq_cluster::series::Point) -> f32, label| {
        spark(&points.iter().map(value).collect::<Vec<_>>(), label)
    };
    let (totals, lookupds) = (&snapshot.totals, &snapshot.lookupds);
    let up = lookupds.iter().filter(|lookupd| lookupd.reach == Reach::Up).count();
    let count = |severity| snapshot.problems.iter().filter(|problem| problem.severity == severity).count();
    html! {
        dl .stats {
            (stat("Nodes up", html! { a href=(view.url("/nodes")) { (snapshot.up_count()) span .dim { "/" (snapshot.nodes.len()) } } }, html! {}))
            @if view.state.upstream.has_lookupds() {
                (stat("nsqlookupds up", html! { a href=(view.url("/lookup")) { (up) span .dim { "/" (lookupds.len()) } } }, html! {}))
            }
            (stat("Published", rate(totals.rates.map(|r| r.ingress)), line(|p| p.ingress, "published per second")))
            (stat("Finished", rate(totals.rates.map(|r| r.egress)), line(|p| p.egress, "finished per second")))
            (stat("Depth", html! { (figures::count(totals.depth)) }, line(|p| p.depth, "depth")))
            (stat("In flight", html! { (figures::count(totals.in_flight_count)) }, line(|p| p.in_flight_count, "in flight")))
            (stat("Consumers", html! { (figures::count(totals.client_count)) }, html! {}))
            (stat("Problems", html! {
                span .crit-text[count(Severity::Critical) > 0] { (count(Severity::Critical)) }
                span .dim { " crit " } (count(Severity::Warning)) span .dim { " warn" }
            }, html! {}))
        }
    }
}

fn timers(view: &View) -> Markup {
    let timers = view.state.timers.list();
    html! {
        @if !timers.is_empty() {
            section {
                h2 { "Pauses that end by themselves" }
                ul .plain { @for timer in &timers {
                    @let channel = (!timer.channel.is_empty()).then_some(timer.channel.as_str());
                    @let left = (timer.ends_at_ms - crate::state::now_ms()).max(0).unsigned_abs();
                    li {
                        a href=(view.object_url("/topics", &timer.topic, channel)) {
                            (timer.topic) @if let Some(channel) = channel { " / " (channel) }
                        }
                        " in " (figures::age(std::time::Duration::from_millis(left)))
                        @if let Some(user) = &timer.user { span .dim { ", set by " (user) } }
                    }
                } }
            }
        }
    }
}

/// `/problems/RULE`: what a rule means, and where it applies now.
pub async fn rule(view: View, Path(name): Path<String>) -> Result<Response, ApiError> {
    let id = RuleId::parse(&name).ok_or_else(|| ApiError::new(404, "RULE_NOT_FOUND"))?;
    let rule = id.rule();
    let found: Vec<_> = view.snapshot.problems.iter().filter(|problem| problem.rule == id).collect();
    let body = html! {
        (heading(&view, &[("Overview", view.url("/"))], html! { code { (rule.name) } }))
        dl .pairs {
            dt { "Severity" } dd { (rule.severity) @if !rule.worse.is_empty() { "; " (rule.worse) } }
            dt { "Condition" } dd { (rule.condition) }
            dt { "Meaning" } dd { (rule.meaning) }
            dt { "What to do" } dd { (rule.action) }
            @if rule.only_ours { dt { "Reported by" } dd { "nsqds of nsq-rs only" } }
        }
        section {
            h2 { "Now" span .count { (found.len()) } }
            @if found.is_empty() { p .calm { "It applies nowhere." } } @else { (problem_list(&view, &found)) }
        }
    };
    Ok(view.render(rule.name, "Overview", body))
}
