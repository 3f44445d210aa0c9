//! nsqd over HTTP: publishing, administration, statistics, configuration.
//!
//! | | | |
//! |---|---|---|
//! | GET | `/ping` | `OK`; 500 with the reason if publishing does not work; 503 if nsqd will stop soon ([`stats`]) |
//! | GET | `/info` | the node's name, addresses, version and limits ([`stats`]) |
//! | GET | `/stats` | topics, channels, clients, as text, JSON or MessagePack ([`stats`]) |
//! | GET | `/metrics` | metrics for Prometheus ([`metrics`]) |
//! | POST | `/pub` | publish one message, optionally deferred ([`publish`]) |
//! | POST | `/mpub` | publish several messages, one per line or with sizes ([`publish`]) |
//! | POST | `/topic/create`, `/topic/delete`, `/topic/empty`, `/topic/pause`, `/topic/unpause` | ([`admin`]) |
//! | POST | `/channel/create`, `/channel/delete`, `/channel/empty`, `/channel/pause`, `/channel/unpause` | ([`admin`]) |
//! | POST | `/topic/retain`, `/channel/seek` | set a topic's retention; move a channel's position ([`retention`]) |
//! | POST | `/channel/undo`, `/topic/undo` | bring back what an empty or seek dropped ([`undo`]) |
//! | POST | `/topic/set`, `/channel/set` | change settings of a topic or channel ([`policy`]) |
//! | GET | `/policy/explain` | the settings in force, and where each comes from ([`policy`]) |
//! | POST | `/policy/test` | what a policy file would do ([`policy_test`]) |
//! | GET | `/topic/dead`, `/topic/dead/messages` | dead letters: counts, and the messages ([`dead_letters`]) |
//! | POST | `/topic/dead/delete` | delete dead letters ([`dead_letters`]) |
//! | POST, GET, DELETE | `/topic/redrive` | move dead letters back: start, progress, stop ([`dead_letters`]) |
//! | GET | `/channel/peek`, `/topic/peek` | look at messages ([`peek`]) |
//! | POST | `/message/cancel`, `/message/requeue` | finish a message, or change when it is handed out ([`messages`]) |
//! | GET | `/channel/why` | why a channel or a message does not move ([`why`]) |
//! | POST | `/channel/adopt` | store messages that another node moves here ([`adopt`]) |
//! | POST | `/channel/take` | long poll: messages with leases ([`consume`]) |
//! | POST | `/channel/finish`, `/channel/requeue`, `/channel/touch` | settle leases ([`consume`]) |
//! | GET | `/channel/events` | server-sent events ([`consume`]) |
//! | GET | `/v2` | NSQ's protocol in a WebSocket ([`consume`]) |
//! | POST | `/ticket` | a ticket for one request of a browser ([`consume::tickets`]) |
//! | GET, PUT, DELETE | `/config/drain` | refuse publishes until consumers have everything: state, begin, end ([`drain`]) |
//! | GET, PUT | `/config/:opt` | read an option; two options can be changed ([`config`]) |
//! | GET, POST | `/debug/pprof/...` | the pages of Go's profiler that apply here ([`debug`]) |
//! | PUT, POST | `/debug/setblockrate`, `/debug/freememory` | ([`debug`]) |
//!
//! [`auth`] decides which requests are allowed. Parameters come from the query string. `nsq_daemon::http` serves,
//! routes and formats the answers.

pub mod admin;
pub mod adopt;
pub mod auth;
pub mod config;
pub mod consume;
pub mod dead_letters;
pub mod debug;
pub mod drain;
pub mod retention;
pub mod messages;
pub mod metrics;
pub mod peek;
pub mod policy;
pub mod policy_test;
pub mod publish;
mod publish_headers;
pub mod stats;
mod stats_page;
pub mod why;
pub mod undo;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};
use std::time::SystemTime;

use nsq_daemon::http::{
    AllowedOrigins, CorsOrigins, HeavyAnswers, HttpError, Method, Query, Request, Response, Router, Service,
    StatusCode, pprof, response,
};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::RequestCounts;

use self::auth::{HttpAuth, Permitted};
use self::consume::HttpConsumers;
use crate::config::Config;
use crate::drain::Drainer;
use crate::producers::Producers;
use crate::topic::PublishError;
use crate::topic::bounds::TopicFull;
use crate::topic::registry::Registry;

/// The lookupds that this node registers at.
pub trait LookupdAddresses: Send + Sync {
    /// `host:port` of each.
    fn get(&self) -> Vec<String>;
    /// Each address, and whether this node is registered there.
    fn connected(&self) -> Vec<(String, bool)>;
    /// Replaces the addresses: closes connections to removed lookupds and connects to new ones.
    fn set(&self, addresses: Vec<String>);
}

/// The state that the endpoints use; the service for [`nsq_daemon::http::Server`].
#[derive(Clone)]
pub struct HttpContext {
    pub registry: Arc<Registry>,
    /// TCP connections that have published.
    pub producers: Arc<Producers>,
    pub config: Arc<Config>,
    /// `PUT /config/log_level` changes its level.
    pub logger: Logger,
    pub started_at: SystemTime,
    /// The port for clients; -1 for a unix socket.
    pub tcp_port: i64,
    /// The port of this service; -1 for a unix socket, 0 for none.
    pub http_port: i64,
    /// Runs answers that take long to compute.
    pub heavy: HeavyAnswers,
    /// Checks tokens; `None` if every request is allowed.
    pub auth: Option<Arc<HttpAuth>>,
    pub lookupd_addresses: Arc<dyn LookupdAddresses>,
    pub consumers: Arc<HttpConsumers>,
    pub drainer: Arc<Drainer>,
    /// If set, every answer is `TLS_REQUIRED` with this HTTPS port; 0 if there is none.
    pub tls_required: Option<u16>,
}

/// The endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// `GET /ping`
    Ping,
    /// `GET /info`
    Info,
    /// `GET /stats`
    Stats,
    /// `GET /metrics`
    Metrics,
    /// `POST /pub`
    Publish,
    /// `POST /mpub`
    PublishMany,
    /// `POST /topic/create`
    TopicCreate,
    /// `POST /topic/delete`
    TopicDelete,
    /// `POST /topic/empty`
    TopicEmpty,
    /// `POST /topic/pause` (true) and `/topic/unpause`
    TopicPause(bool),
    /// `POST /topic/retain`
    TopicRetain,
    /// `POST /topic/set`
    TopicSet,
    /// `POST /channel/create`
    ChannelCreate,
    /// `POST /channel/delete`
    ChannelDelete,
    /// `POST /channel/empty`
    ChannelEmpty,
    /// `POST /channel/pause` (true) and `/channel/unpause`
    ChannelPause(bool),
    /// `POST /channel/seek`
    ChannelSeek,
    /// `POST /channel/undo`
    ChannelUndo,
    /// `POST /topic/undo`
    TopicUndo,
    /// `POST /channel/set`
    ChannelSet,
    /// `GET /policy/explain`
    PolicyExplain,
    /// `POST /policy/test`
    PolicyTest,
    /// `GET /topic/dead`
    DeadLetters,
    /// `GET /topic/dead/messages`
    DeadMessages,
    /// `POST /topic/dead/delete`
    DeadDelete,
    /// `POST /topic/redrive`
    RedriveStart,
    /// `GET /topic/redrive`
    RedriveGet,
    /// `DELETE /topic/redrive`
    RedriveStop,
    /// `GET /channel/peek`
    ChannelPeek,
    /// `GET /topic/peek`
    TopicPeek,
    /// `POST /message/cancel`
    MessageCancel,
    /// `POST /message/requeue`
    MessageRequeue,
    /// `GET /channel/why`
    ChannelWhy,
    /// `POST /channel/adopt`
    ChannelAdopt,
    /// `POST /channel/take`
    ChannelTake,
    /// `POST /channel/finish`
    ChannelFinish,
    /// `POST /channel/requeue`
    ChannelRequeue,
    /// `POST /channel/touch`
    ChannelTouch,
    /// `GET /channel/events`
    ChannelEvents,
    /// `GET /v2`
    WebSocket,
    /// `POST /ticket`
    Ticket,
    /// `GET /config/drain`
    DrainGet,
    /// `PUT /config/drain`
    DrainBegin,
    /// `DELETE /config/drain`
    DrainEnd,
    /// `GET /config/:opt`
    ConfigGet,
    /// `PUT /config/:opt`
    ConfigPut,
    /// A page below `/debug/pprof/`
    Pprof(&'static str),
    /// `PUT /debug/setblockrate`
    SetBlockRate,
    /// `POST /debug/freememory`
    FreeMemory,
}

impl Service for HttpContext {
    type Route = Route;

    fn router(&self) -> &Router<Route> {
        static ROUTER: LazyLock<Router<Route>> = LazyLock::new(routes);
        &ROUTER
    }

    fn refuse(&self, _: &Request) -> Option<Response> {
        self.tls_required.map(tls_required)
    }

    fn allowed_origins(&self) -> Option<&AllowedOrigins> {
        Some(&self.config.http_allowed_origins)
    }

    fn cors_origins(&self) -> Option<&CorsOrigins> {
        Some(&self.config.http_cors_origins)
    }

    fn request_counts(&self) -> Option<&RequestCounts> {
        Some(&self.registry.engine().metrics().http_requests)
    }

    async fn call(&self, route: Route, mut request: Request) -> Result<Response, HttpError> {
        let permitted =
            match auth::permit(self.auth.as_deref(), &self.consumers.tickets, route, &request).await {
                Ok(permitted) => permitted,
                Err(refusal) => return Ok(refusal.into_response(&request)),
            };
        let Permitted { scope, grant } = permitted;
        let (context, request) = (self, &mut request);
        match route {
            Route::Publish => publish::one(context, request).await,
            Route::PublishMany => publish::many(context, request).await,
            Route::Ping => stats::ping(context, request).await,
            Route::Info => stats::info(context, request).await,
            Route::Stats => stats::stats(context, request, scope).await,
            Route::Metrics => metrics::metrics(context, request).await,
            Route::TopicCreate => admin::create_topic(context, request).await,
            Route::TopicDelete => admin::delete_topic(context, request).await,
            Route::TopicEmpty => admin::empty_topic(context, request).await,
            Route::TopicPause(paused) => admin::pause_topic(context, request, paused).await,
            Route::TopicRetain => retention::retain(context, request).await,
            Route::TopicSet => policy::set_topic(context, request).await,
            Route::ChannelSet => policy::set_channel(context, request).await,
            Route::PolicyExplain => policy::explain(context, request).await,
            Route::PolicyTest => policy_test::test(context, request).await,
            Route::DeadLetters => dead_letters::summary(context, request).await,
            Route::DeadMessages => dead_letters::messages(context, request).await,
            Route::DeadDelete => dead_letters::delete(context, request).await,
            Route::RedriveStart => dead_letters::start_redrive(context, request).await,
            Route::RedriveGet => dead_letters::redrive(context, request).await,
            Route::RedriveStop => dead_letters::stop_redrive(context, request).await,
            Route::ChannelPeek => peek::channel(context, request).await,
            Route::TopicPeek => peek::topic(context, request).await,
            Route::MessageCancel => messages::cancel(context, request).await,
            Route::MessageRequeue => messages::requeue(context, request).await,
            Route::ChannelWhy => why::why(context, request).await,
            Route::ChannelUndo => undo::channel(context, request).await,
            Route::TopicUndo => undo::topic(context, request).await,
            Route::ChannelSeek => retention::seek(context, request).await,
            Route::ChannelCreate => admin::create_channel(context, request).await,
            Route::ChannelDelete => admin::delete_channel(context, request).await,
            Route::ChannelEmpty => admin::empty_channel(context, request).await,
            Route::ChannelPause(paused) => admin::pause_channel(context, request, paused).await,
            Route::ChannelAdopt => adopt::adopt(context, request).await,
            Route::ChannelTake => consume::take(context, request).await,
            Route::ChannelFinish => consume::finish(context, request).await,
            Route::ChannelRequeue => consume::requeue(context, request).await,
            Route::ChannelTouch => consume::touch(context, request).await,
            Route::ChannelEvents => consume::events(context, request).await,
            Route::WebSocket => consume::websocket(context, request, grant).await,
            Route::Ticket => consume::ticket(context, request, grant).await,
            Route::DrainGet => drain::get(context, request).await,
            Route::DrainBegin => drain::begin(context, request).await,
            Route::DrainEnd => drain::end(context, request).await,
            Route::ConfigGet => config::get(context, request).await,
            Route::ConfigPut => config::put(context, request).await,
            Route::Pprof(page) => {
                request.body.discard().await?;
                pprof::page(page)
            }
            Route::SetBlockRate => debug::set_block_rate(request).await,
            Route::FreeMemory => debug::free_memory(context, request).await,
        }
    }
}

fn routes() -> Router<Route> {
    let router = Router::new()
        .add(Method::GET, "/ping", Route::Ping)
        .add(Method::GET, "/info", Route::Info)
        .add(Method::GET, "/stats", Route::Stats)
        .add_unlogged(Method::GET, "/metrics", Route::Metrics)
        .add_unlogged(Method::POST, "/pub", Route::Publish)
        .add_unlogged(Method::POST, "/mpub", Route::PublishMany)
        .add(Method::POST, "/topic/create", Route::TopicCreate)
        .add(Method::POST, "/topic/delete", Route::TopicDelete)
        .add(Method::POST, "/topic/empty", Route::TopicEmpty)
        .add(Method::POST, "/topic/pause", Route::TopicPause(true))
        .add(Method::POST, "/topic/unpause", Route::TopicPause(false))
        .add(Method::POST, "/topic/retain", Route::TopicRetain)
        .add(Method::POST, "/topic/set", Route::TopicSet)
        .add(Method::POST, "/channel/set", Route::ChannelSet)
        .add(Method::GET, "/policy/explain", Route::PolicyExplain)
        .add(Method::POST, "/policy/test", Route::PolicyTest)
        .add(Method::GET, "/topic/dead", Route::DeadLetters)
        .add(Method::GET, "/topic/dead/messages", Route::DeadMessages)
        .add(Method::POST, "/topic/dead/delete", Route::DeadDelete)
        .add(Method::POST, "/topic/redrive", Route::RedriveStart)
        .add(Method::GET, "/topic/redrive", Route::RedriveGet)
        .add(Method::DELETE, "/topic/redrive", Route::RedriveStop)
        .add(Method::GET, "/channel/peek", Route::ChannelPeek)
        .add(Method::GET, "/topic/peek", Route::TopicPeek)
        .add(Method::POST, "/message/cancel", Route::MessageCancel)
        .add(Method::POST, "/message/requeue", Route::MessageRequeue)
        .add(Method::GET, "/channel/why", Route::ChannelWhy)
        .add(Method::POST, "/channel/undo", Route::ChannelUndo)
        .add(Method::POST, "/topic/undo", Route::TopicUndo)
        .add(Method::POST, "/channel/seek", Route::ChannelSeek)
        .add(Method::POST, "/channel/create", Route::ChannelCreate)
        .add(Method::POST, "/channel/delete", Route::ChannelDelete)
        .add(Method::POST, "/channel/empty", Route::ChannelEmpty)
        .add(Method::POST, "/channel/pause", Route::ChannelPause(true))
        .add(Method::POST, "/channel/unpause", Route::ChannelPause(false))
        .add_unlogged(Method::POST, "/channel/adopt", Route::ChannelAdopt)
        .add_unlogged(Method::POST, "/channel/take", Route::ChannelTake)
        .add_unlogged(Method::POST, "/channel/finish", Route::ChannelFinish)
        .add_unlogged(Method::POST, "/channel/requeue", Route::ChannelRequeue)
        .add_unlogged(Method::POST, "/channel/touch", Route::ChannelTouch)
        .add(Method::GET, "/channel/events", Route::ChannelEvents)
        .add(Method::GET, "/v2", Route::WebSocket)
        .add(Method::POST, "/ticket", Route::Ticket)
        .with_cors(&[
            "/pub",
            "/mpub",
            "/channel/take",
            "/channel/finish",
            "/channel/requeue",
            "/channel/touch",
            "/channel/events",
            "/v2",
            "/ticket",
        ])
        .guarded(&["/channel/events", "/v2"])
        .add(Method::GET, "/config/drain", Route::DrainGet)
        .add(Method::PUT, "/config/drain", Route::DrainBegin)
        .add(Method::DELETE, "/config/drain", Route::DrainEnd)
        .add(Method::GET, "/config/:opt", Route::ConfigGet)
        .add(Method::PUT, "/config/:opt", Route::ConfigPut)
        .add(Method::GET, "/debug/pprof/", Route::Pprof(""))
        .add(Method::POST, "/debug/pprof/symbol", Route::Pprof("symbol"))
        .add(Method::PUT, "/debug/setblockrate", Route::SetBlockRate)
        .add(Method::POST, "/debug/freememory", Route::FreeMemory);
    pprof::PAGES
        .iter()
        .fold(router, |router, page| router.add(Method::GET, page.path, Route::Pprof(page.name)))
}

/// The answer to a plain HTTP request when HTTPS is required. NSQ's tools repeat the request over HTTPS.
fn tls_required(https_port: u16) -> Response {
    let mut response =
        response::text(format!(r#"{{"message": "TLS_REQUIRED", "https_port": {https_port}}}"#));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response.headers_mut().insert(response::CONTENT_TYPE, response::JSON);
    response
}

/// `503 EXITING`: the topic is being deleted, the daemon drains or stops, or the message could not be stored.
const EXITING: HttpError = HttpError::unavailable("EXITING");

/// A required parameter; it may be empty.
fn required<'q>(query: &Query<'q>, key: &str, missing: &'static str) -> Result<Cow<'q, str>, HttpError> {
    query.get(key).ok_or(HttpError::bad_request(missing))
}

/// The `topic` parameter, valid or not.
fn topic_parameter<'q>(query: &Query<'q>) -> Result<Cow<'q, str>, HttpError> {
    required(query, "topic", "MISSING_ARG_TOPIC")
}

/// The answer to a refused publish. It says so if the messages may be delivered nevertheless.
fn refused(error: &PublishError) -> HttpError {
    match error {
        PublishError::Storage(error) if error.is_in_doubt() => {
            HttpError { word: format!("EXITING: {error}").into(), ..EXITING }
        }
        PublishError::Storage(_) | PublishError::Exiting | PublishError::Draining => EXITING,
        PublishError::Full(full) => topic_full(full),
        PublishError::NoSuchPlace(error) => retention::refused(*error),
    }
}

/// 429: a bound is reached. The client may try again later.
fn topic_full(full: &TopicFull) -> HttpError {
    HttpError { word: format!("TOPIC_FULL: {full}").into(), ..HttpError::TOO_MANY_REQUESTS }
}

/// The answer to a request other than a publish that could not be stored.
fn not_stored(context: &HttpContext, error: PublishError) -> HttpError {
    match error {
        PublishError::Exiting | PublishError::Draining => EXITING,
        PublishError::Full(full) => topic_full(&full),
        PublishError::NoSuchPlace(error) => retention::refused(error),
        PublishError::Storage(error) => {
            nsq_daemon::error!(context.logger, "HTTP: {error}");
            match error.is_in_doubt() {
                true => {
                    HttpError { word: format!("INTERNAL_ERROR: {error}").into(), ..HttpError::INTERNAL_ERROR }
                }
                false => HttpError::INTERNAL_ERROR,
            }
        }
    }
}
