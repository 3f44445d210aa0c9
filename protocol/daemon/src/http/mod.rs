//! HTTP as both daemons speak it: parameters only in the query string, errors as one word, answers in
//! JSON or MessagePack.
//!
//! A daemon implements [`Service`]: a [`Router`] that maps method and path to a route of its own (an
//! enum), and one async function that answers it. [`Server`] does the rest on top of hyper: 404, 405,
//! OPTIONS, redirects, panics, the request log, limits, keep-alive, shutdown. On the way of a plain
//! request nothing is boxed, spawned or timed: publishing over HTTP is a hot path.
//!
//! In reading order: [`query`], [`request`], [`response`], [`router`], [`server`] (with its
//! `activity`, which finds connections that stand still, and `request_lines`, which keeps `#` in them), [`body`], [`pieces`], [`heavy`] and [`document`] (answers
//! that take long to make, or are large), [`origin`] (what browsers send
//! for other sites), [`pprof`].

pub mod query;

pub mod request;

pub mod response;

pub mod router;

pub mod server;

pub mod body;

pub mod pieces;

pub mod heavy;

pub mod document;

pub mod origin;

mod activity;
mod body_memory;

mod connection;
mod request_lines;

pub mod pprof;

use std::future::Future;

pub use ::http::{HeaderMap, Method, StatusCode};

pub use body::AnswerBody;
pub use heavy::HeavyAnswers;
pub use origin::{AllowedOrigins, InvalidOrigin};
pub use pieces::Pieces;
pub use query::{InvalidQuery, Query};
pub use request::{Body, BodyError, Request};
pub use response::{Encoding, HttpError, Response};
pub use router::Router;
pub use server::Server;

use crate::metrics::RequestCounts;

/// What answers the requests of a daemon.
pub trait Service: Send + Sync + 'static {
    /// What the router finds: usually an enum with one variant per endpoint.
    type Route: Copy + Send + Sync + 'static;

    /// The table of routes.
    fn router(&self) -> &Router<Self::Route>;

    /// Refuses a request before it is routed; such answers are not logged. The default refuses none.
    fn refuse(&self, _request: &Request) -> Option<Response> {
        None
    }

    /// Whose pages may change something through a browser. The default does not care.
    fn allowed_origins(&self) -> Option<&AllowedOrigins> {
        None
    }

    /// Where requests are counted. The default counts none.
    fn request_counts(&self) -> Option<&RequestCounts> {
        None
    }

    /// Answers a request. An error becomes the v1 answer `{"message":"<WORD>"}`.
    fn call(
        &self,
        route: Self::Route,
        request: Request,
    ) -> impl Future<Output = Result<Response, HttpError>> + Send;
}
