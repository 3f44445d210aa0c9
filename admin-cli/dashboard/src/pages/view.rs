//! What each page needs, and the frame around it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, HeaderName, VARY};
use http::request::Parts;
use http::{StatusCode, Uri};
use maud::{DOCTYPE, Markup, html};
use nsq_cluster::{Severity, Snapshot};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::parts::{icon, problem_count, time};
use crate::access::{Caller, Role};
use crate::figures;
use crate::state::State;

/// The request of a script that replaces parts of the page.
const FRAGMENT: HeaderName = HeaderName::from_static("x-fragment");
/// Maximum time that a page waits for daemons.
const MAX_WAIT: Duration = Duration::from_secs(2);
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// Whether others than this machine reach the listener.
#[derive(Debug, Clone, Copy)]
pub struct Exposed(pub bool);

/// A request for a page.
pub struct View {
    pub state: Arc<State>,
    pub caller: Caller,
    pub snapshot: Arc<Snapshot>,
    pub uri: Uri,
    is_fragment: bool,
    is_exposed: bool,
}

impl FromRequestParts<Arc<State>> for View {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<State>) -> Result<Self, Infallible> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let nobody = || Caller { user: None, via: "none", role: Role::Nobody, address: String::new() };
        // The first sample of a cluster takes some milliseconds.
        let sampler = state.sampler();
        let first = tokio::time::timeout(MAX_WAIT, sampler.reached(1)).await;
        Ok(View {
            state: state.clone(),
            caller: caller.unwrap_or_else(nobody),
            snapshot: first.unwrap_or_else(|_| sampler.latest()),
            uri: parts.uri.clone(),
            is_fragment: parts.headers.contains_key(FRAGMENT),
            is_exposed: parts.extensions.get::<Exposed>().is_some_and(|exposed| exposed.0),
        })
    }
}

impl View {
    /// A path below the base path. It must be encoded.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.state.settings.base_path)
    }

    pub fn topic_url(&self, topic: &str) -> String {
        self.url(&format!("/topics/{}", encode(topic)))
    }

    pub fn channel_url(&self, topic: &str, channel: &str) -> String {
        self.url(&format!("/topics/{}/{}", encode(topic), encode(channel)))
    }

    pub fn node_url(&self, node: &str) -> String {
        self.url(&format!("/nodes/{}", encode(node)))
    }

    /// A page about a topic or channel, such as `/messages`.
    pub fn object_url(&self, page: &str, topic: &str, channel: Option<&str>) -> String {
        let channel = channel.map(|channel| format!("/{}", encode(channel))).unwrap_or_default();
        self.url(&format!("{page}/{}{channel}", encode(topic)))
    }

    /// The dialog of an action.
    pub fn act_url(&self, action: &str, fields: &[(&str, &str)]) -> String {
        let fields: String =
            fields.iter().map(|(name, value)| format!("&{name}={}", encode(value))).collect();
        self.url(&format!("/act?action={action}{fields}"))
    }

    /// Whether the caller may do what needs this role.
    pub fn may(&self, role: Role) -> bool {
        self.caller.role >= role
    }

    /// Waits for daemons, but not for long. `None` if they take longer.
    pub async fn within<T>(&self, answer: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout(MAX_WAIT, answer).await.ok()
    }

    /// A page.
    pub fn render(&self, title: &str, active: &str, body: Markup) -> Response {
        self.render_with(StatusCode::OK, title, active, body)
    }

    pub fn render_with(&self, status: StatusCode, title: &str, active: &str, body: Markup) -> Response {
        let main = html! { main #main tabindex="-1" { (self.banners()) (body) } };
        let page = if self.is_fragment {
            html! { title { (title) " · nsq" } (self.status()) (self.nav(active)) (main) (self.footer()) }
        } else {
            self.frame(title, active, &main)
        };
        let headers = [(CONTENT_TYPE, "text/html; charset=utf-8"), (VARY, "x-fragment")];
        (status, headers, page.into_string()).into_response()
    }

    fn frame(&self, title: &str, active: &str, main: &Markup) -> Markup {
        let asset = |name: &str| self.url(&format!("/static/{name}?v={}", self.state.assets.version));
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="base" content=(self.url(""));
                    title { (title) " · nsq" }
                    link rel="icon" type="image/svg+xml" href=(asset("favicon.svg"));
                    link rel="stylesheet" href=(asset("app.css"));
                    script type="module" src=(asset("app.js")) {}
                }
                body data-interval=(figures::millis(self.snapshot.interval)) {
                    a .skip href="#main" { "Skip to content" }
                    header .top {
                        a .brand href=(self.url("/")) { (icon(self, "logo")) span { "nsq" } }
                        (self.nav(active))
                        (self.status())
                    }
                    (main)
                    (self.footer())
                    dialog #dialog aria-label="Action" {}
                    div #toast role="status" aria-live="polite" {}
                }
            }
        }
    }

    fn nav(&self, active: &str) -> Markup {
        let problems = &self.snapshot.problems;
        let crit = problems.iter().filter(|problem| problem.severity == Severity::Critical).count();
        let warn = problems.iter().filter(|problem| problem.severity == Severity::Warning).count();
        let links = [
            ("/", "Overview"),
            ("/topics", "Topics"),
            ("/nodes", "Nodes"),
            ("/clients", "Clients"),
            ("/lookup", "Discovery"),
            ("/counter", "Counter"),
            ("/audit", "Audit"),
        ];
        html! {
            nav #nav aria-label="Pages" {
                @for (path, name) in links {
                    a href=(self.url(path)) aria-current=[(name == active).then_some("page")] {
                        (name)
                        @if path == "/" { (problem_count(crit, warn)) }
                    }
                }
            }
        }
    }

    /// How fresh the figures are.
    fn status(&self) -> Markup {
        let snapshot = &self.snapshot;
        let partial = snapshot.nodes.iter().filter(|node| node.reach == nsq_cluster::Reach::Down).count();
        html! {
            div #status data-taken=(figures::unix_millis(snapshot.taken_at))
                data-interval=(figures::millis(snapshot.interval)) {
                span .live aria-hidden="true" {}
                @if snapshot.number == 0 {
                    span { "waiting for the first sample" }
                } @else {
                    span .asof { "as of " (time(snapshot.taken_at)) }
                }
                @if partial > 0 {
                    span .badge.crit { (partial) " down" }
                }
                button #pause .ghost type="button" aria-pressed="false" title="Pause live updates (p)" {
                    (icon(self, "pause")) span .sr { "Pause live updates" }
                }
                @if let Some(user) = &self.caller.user {
                    span .user title={ "role: " (self.caller.role.word()) } { (icon(self, "user")) (user) }
                } @else if self.state.settings.users.is_some() {
                    a .button.ghost href=(self.url("/login")) { "Log in" }
                }
            }
        }
    }

    fn banners(&self) -> Markup {
        let down: Vec<_> =
            self.snapshot.nodes.iter().filter(|node| node.reach == nsq_cluster::Reach::Down).collect();
        let failed: Vec<_> =
            self.snapshot.lookupds.iter().filter(|lookupd| lookupd.error.is_some()).collect();
        html! {
            @if self.is_exposed && self.state.settings.rules.are_open() {
                p .banner.warn { (icon(self, "shield")) span {
                    "Everyone who reaches this address may delete topics. Name users with " code { "--admin-user" } " or "
                    code { "--users-file" } ", or listen on 127.0.0.1."
                } }
            }
            @if self.snapshot.number > 0 && (!down.is_empty() || !failed.is_empty()) {
                details .banner.crit {
                    summary { (icon(self, "alert")) span {
                        @if !down.is_empty() {
                            (down.len()) " of " (self.snapshot.nodes.len()) " nodes do not answer: their figures are old. "
                        }
                        @if !failed.is_empty() {
                            (failed.len()) " of " (self.snapshot.lookupds.len()) " nsqlookupds do not answer."
                        }
                    } }
                    ul {
                        @for node in &down {
                            li {
                                a href=(self.node_url(&node.key)) { (node.key) } ": "
                                @match node.age {
                                    Some(age) => { "last figures " (figures::age(age)) " ago" },
                                    None => { "never answered" },
                                }
                                @if let Some(error) = &node.error { " – " code { (error.message) } }
                            }
                        }
                        @for lookupd in &failed {
                            li { "nsqlookupd " (lookupd.address)
                                @if let Some(error) = &lookupd.error { " – " code { (error.message) } }
                            }
                        }
                    }
                }
            }
        }
    }

    fn footer(&self) -> Markup {
        let (reduction, used, limit) = {
            let sampler = self.state.sampler();
            let series = sampler.series();
            (series.detail().reduction(), series.bytes() as u64, series.limit() as u64)
        };
        html! {
            footer #footer {
                span { "nsq-rs " (env!("CARGO_PKG_VERSION")) }
                span { "sampled every " (figures::age(self.snapshot.interval)) }
                span { "history " (figures::bytes(used)) " of " (figures::bytes(limit)) }
                @if let Some(text) = reduction { span { (text) } }
                @if let Some(stats) = self.state.notifier.stats() {
                    @if let Some(error) = stats.last_error {
                        span .crit { "notification endpoint fails: " (error) }
                    }
                }
                span .keys { kbd { "?" } " keys" }
            }
        }
    }
}

/// A segment of a path or a value of a query.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}
