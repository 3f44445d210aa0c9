//! The pages: HTML made on the server. A script replaces what has changed after each sample, so a page is also its own
//! source of live data; without scripts, it is a snapshot.

pub mod act;
pub mod audit;
pub mod channel;
pub mod clients;
pub mod counter;
pub mod dead;
pub mod lookup;
pub mod messages;
pub mod node;
pub mod nodes;
pub mod overview;
pub mod policy;
pub mod topic;
pub mod topics;

mod chart;
mod parts;
mod view;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::ACCEPT;
use maud::html;

pub use view::{Exposed, View};

use crate::api::reply::ApiError;

/// An unknown path: a page for browsers, the API's error for others.
pub async fn not_found(view: View, headers: http::HeaderMap) -> Response {
    let is_browser = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    if !is_browser {
        return ApiError::new(404, "NOT_FOUND").into_response();
    }
    let body = html! {
        (parts::empty("search", "There is no such page", html! {
            "Look for a topic in " a href=(view.url("/topics")) { "Topics" } ", or start at the "
            a href=(view.url("/")) { "overview" } "."
        }))
    };
    view.render_with(StatusCode::NOT_FOUND, "Not found", "", body)
}
