//! `/audit`: who did what, when, and what became of it.

use axum::response::Response;
use maud::html;

use super::parts::{ago, empty, heading};
use super::view::View;
use crate::figures;

/// Rows of the table.
const MAX_ROWS: usize = 200;

pub async fn page(view: View) -> Response {
    let entries = view.state.audit.recent();
    let body = html! {
        (heading(&view, &[], html! { "Audit" span .count { (entries.len()) } }))
        p .dim { @match view.state.audit.path() {
            Some(path) => { "Every action is also appended to " code { (path.display()) } "." },
            None => { "Actions since this process started. Keep them with " code { "--audit-log FILE" } "." },
        } }
        @if entries.is_empty() {
            (empty("audit", "No action yet", html! { "Pausing, emptying, deleting and all other changes are listed here." }))
        } @else {
            div .scroll tabindex="0" role="region" aria-label="Actions" { table data-table="audit" {
                thead { tr { th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "Action" } th scope="col" { "Object" } th scope="col" { "Outcome" } th scope="col" { "Daemons" } th scope="col" { "Reason" } } }
                tbody { @for entry in entries.iter().take(MAX_ROWS) {
                    @let at = figures::time_of_ns(entry.at_ms.saturating_mul(1_000_000));
                    @let class = match entry.state.as_str() { "done" => "ok", "partial" => "warn", "failed" => "crit", _ => "dim" };
                    tr #{ "a-" (entry.request_id) } {
                        td { (ago(at)) " ago" }
                        td { (entry.user.as_deref().unwrap_or("anonymous")) " " span .dim { (entry.address) } }
                        th scope="row" { code { (entry.action) } }
                        td { @if !entry.topic.is_empty() {
                            @let channel = (!entry.channel.is_empty()).then_some(entry.channel.as_str());
                            a href=(view.object_url("/topics", &entry.topic, channel)) { (entry.topic) @if let Some(channel) = channel { " / " (channel) } } }
                            @if !entry.node.is_empty() { " " span .dim { (entry.node) } } }
                        td { span .badge.(class) { (entry.state) } " " span .dim { (entry.elapsed_ms) " ms" } }
                        td { @for outcome in &entry.outcomes { @if !outcome.ok {
                            p { (outcome.node) ": " span .crit-text { (outcome.error.as_deref().unwrap_or("failed")) } } } }
                            span .dim { (entry.outcomes.iter().filter(|outcome| outcome.ok).count()) " changed" } }
                        td { (entry.reason) }
                    }
                } }
            } }
        }
    };
    view.render("Audit", "Audit", body)
}
