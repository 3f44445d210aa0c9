//! The HTTP server of both daemons: parameters only in the query string, errors as one word, responses in JSON or
//! MessagePack.
//!
//! A daemon implements [`Service`]: a [`Router`] that maps method and path to one of its routes (an enum), and one
//! async function that answers it. On top of hyper, [`Server`] handles 404, 405, OPTIONS, redirects, panics, the
//! request log, limits, keep-alive and shutdown. A plain request costs no boxing, no spawned task and no timer, because
//! publishing over HTTP is a hot path.
//!
//! In reading order: [`query`], [`request`], [`response`], [`router`], [`server`] (with `activity`, which finds stalled
//! connections, and `request_lines`, which preserves `#` in request lines), [`body`], [`pieces`], [`heavy`] and
//! [`document`] (responses that are large or take long to generate), [`live`] (responses without a known end), [`websocket`],
//! [`origin`] (requests that browsers send for other sites), [`cors`] (pages of other sites that may read responses), [`pprof`].

pub mod query;

pub mod request;

pub mod response;

pub mod router;

pub mod server;

pub mod body;

pub mod pieces;

pub mod heavy;

pub mod document;

pub mod live;

pub mod websocket;

pub mod origin;

pub mod cors;

mod activity;
mod body_memory;

mod connection;
mod request_lines;

pub mod pprof;

use std::future::Future;

pub use ::http::{HeaderMap, Method, StatusCode};

pub use activity::Hangup;
pub use body::AnswerBody;
pub use cors::{CorsOrigins, InvalidCorsOrigin};
pub use heavy::HeavyAnswers;
pub use live::LiveSource;
pub use origin::{AllowedOrigins, InvalidOrigin};
pub use pieces::Pieces;
pub use query::{InvalidQuery, Query};
pub use request::{Body, BodyError, Request};
pub use response::{Encoding, HttpError, Response};
pub use router::Router;
pub use server::Server;

use crate::metrics::RequestCounts;

/// A daemon's part of the HTTP server: its routes and their handlers.
pub trait Service: Send + Sync + 'static {
    /// The result of routing: usually an enum with one variant per endpoint.
    type Route: Copy + Send + Sync + 'static;

    /// The table of routes. Called for every request.
    fn router(&self) -> &Router<Self::Route>;

    /// Refuses a request before it is routed; such responses are not logged. The default refuses none.
    fn refuse(&self, _request: &Request) -> Option<Response> {
        None
    }

    /// The sites whose pages may change something through a browser. The default allows every site.
    fn allowed_origins(&self) -> Option<&AllowedOrigins> {
        None
    }

    /// The sites whose pages may use the endpoints marked with [`Router::with_cors`]. The default allows none.
    fn cors_origins(&self) -> Option<&CorsOrigins> {
        None
    }

    /// Counts the requests. The default counts none.
    fn request_counts(&self) -> Option<&RequestCounts> {
        None
    }

    /// Answers a request. An error becomes the `v1` response `{"message":"<WORD>"}`.
    fn call(
        &self,
        route: Self::Route,
        request: Request,
    ) -> impl Future<Output = Result<Response, HttpError>> + Send;
}
