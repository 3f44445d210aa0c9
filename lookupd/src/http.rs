//! The HTTP endpoints, for everyone but nodes.
//!
//! | method | path | parameters |
//! |---|---|---|
//! | GET | `/ping`, `/info`, `/topics`, `/nodes`, `/debug`, `/metrics` | |
//! | GET | `/channels`, `/lookup` | `topic` (`*` for all) |
//! | GET | `/cluster/stats` (not in NSQ) | `topic`, `channel`: only these; `refresh=true`: query the nodes first |
//! | POST | `/topic/create`, `/topic/delete` | `topic` |
//! | POST | `/topic/tombstone` | `topic`, `node` |
//! | POST | `/channel/create`, `/channel/delete` | `topic`, `channel` |
//! | GET | `/debug/pprof`, `/debug/pprof/...` | |
//!
//! GET endpoints, `/topic/delete` and `/topic/tombstone` do not validate names; the others do.

use std::sync::Arc;

use nsq_daemon::http::{
    AllowedOrigins, HeavyAnswers, HttpError, Method, Query, Request, Response, Router, Service, StatusCode,
    pprof, response,
};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::RequestCounts;
use nsq_daemon::{NSQ_VERSION, info};
use nsq_protocol::{ChannelName, TopicName};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::metrics::Metrics;
use crate::pages::Page;
use crate::registry::Registry;
use crate::stats_store::StatsStore;

/// One per endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Route {
    Ping,
    Info,
    Topics,
    Channels,
    Lookup,
    Nodes,
    ClusterStats,
    Debug,
    Metrics,
    CreateTopic,
    DeleteTopic,
    TombstoneTopic,
    CreateChannel,
    DeleteChannel,
    /// A page of `/debug/pprof`, by its name.
    Pprof(&'static str),
}

fn routes() -> Router<Route> {
    let router = Router::new()
        .add(Method::GET, "/ping", Route::Ping)
        .add(Method::GET, "/info", Route::Info)
        .add(Method::GET, "/topics", Route::Topics)
        .add(Method::GET, "/channels", Route::Channels)
        .add(Method::GET, "/lookup", Route::Lookup)
        .add(Method::GET, "/nodes", Route::Nodes)
        .add(Method::GET, "/cluster/stats", Route::ClusterStats)
        .add(Method::GET, "/debug", Route::Debug)
        .add_unlogged(Method::GET, "/metrics", Route::Metrics)
        .add(Method::POST, "/topic/create", Route::CreateTopic)
        .add(Method::POST, "/topic/delete", Route::DeleteTopic)
        .add(Method::POST, "/topic/tombstone", Route::TombstoneTopic)
        .add(Method::POST, "/channel/create", Route::CreateChannel)
        .add(Method::POST, "/channel/delete", Route::DeleteChannel)
        .add(Method::GET, "/debug/pprof", Route::Pprof(""))
        .add(Method::POST, "/debug/pprof/symbol", Route::Pprof("symbol"));
    pprof::PAGES
        .iter()
        .fold(router, |router, page| router.add(Method::GET, page.path, Route::Pprof(page.name)))
}

/// Scanning more records than this may take more than a fraction of a millisecond.
const FEW: usize = 1000;

/// The HTTP service of a running nsqlookupd.
pub(crate) struct Http {
    router: Router<Route>,
    registry: Arc<Registry>,
    stats_store: Arc<StatsStore>,
    metrics: Arc<Metrics>,
    allowed_origins: AllowedOrigins,
    heavy: HeavyAnswers,
    /// Cancelled at shutdown: requests no longer wait for nodes.
    stop: CancellationToken,
    logger: Logger,
}

impl Http {
    pub(crate) fn new(
        registry: Arc<Registry>,
        stats_store: Arc<StatsStore>,
        metrics: Arc<Metrics>,
        allowed_origins: AllowedOrigins,
        stop: CancellationToken,
        logger: Logger,
    ) -> Self {
        let heavy = HeavyAnswers::default();
        Self { router: routes(), registry, stats_store, metrics, allowed_origins, heavy, stop, logger }
    }

    async fn lookup(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?.into_owned();
        let (registry, encoding) = (Arc::clone(&self.registry), request.encoding);
        let find = move || {
            let found = registry.lookup(&topic, clock::now());
            let found = found.ok_or(HttpError::not_found("TOPIC_NOT_FOUND"))?;
            Ok(response::value(encoding, &found))
        };
        self.run(find).await?
    }

    async fn channels(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
        self.page(Page::Channels(topic.into_owned()), request).await
    }

    async fn cluster_stats(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let name = |key| query.get(key).map(|name| name.into_owned());
        let (topic, channel) = (name("topic"), name("channel"));
        if query.get("refresh").is_some_and(|refresh| refresh == "true") {
            tokio::select! {
                () = self.stats_store.refresh() => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.page(Page::ClusterStats { stats_store: Arc::clone(&self.stats_store), topic, channel }, request)
            .await
    }

    async fn page(&self, page: Page, request: &Request) -> Result<Response, HttpError> {
        let (registry, encoding) = (Arc::clone(&self.registry), request.encoding);
        let is_small = page.is_small(&registry);
        let write = |out| page.write(registry, encoding, out);
        self.heavy.answer(encoding.content_type(), is_small, write).await
    }

    /// Runs work that takes long with many topics and nodes; in that case as a heavy response.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HttpError> {
        let (topics, nodes) = self.registry.size();
        if topics.saturating_mul(nodes + 1) <= FEW { Ok(work()) } else { self.heavy.run(work).await }
    }

    fn create_topic(&self, query: Query<'_>) -> Result<(), HttpError> {
        let topic = topic_name(query)?;
        info!(self.logger, "DB: adding topic({topic})");
        self.registry.create_topic(&topic);
        Ok(())
    }

    fn delete_topic(&self, query: Query<'_>) -> Result<(), HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
        if self.registry.delete_topic(&topic) {
            info!(self.logger, "DB: removing topic({topic})");
        }
        Ok(())
    }

    fn tombstone_topic(&self, query: Query<'_>) -> Result<(), HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
        let node = query.get("node").ok_or(HttpError::bad_request("MISSING_ARG_NODE"))?;
        info!(self.logger, "DB: setting tombstone for producer@{node} of topic({topic})");
        self.registry.tombstone(&topic, &node, clock::now());
        Ok(())
    }

    fn create_channel(&self, query: Query<'_>) -> Result<(), HttpError> {
        let (topic, channel) = (topic_name(query)?, channel_name(query)?);
        info!(self.logger, "DB: adding channel({channel}) in topic({topic})");
        self.registry.create_channel(&topic, &channel);
        Ok(())
    }

    fn delete_channel(&self, query: Query<'_>) -> Result<(), HttpError> {
        let (topic, channel) = (topic_name(query)?, channel_name(query)?);
        if !self.registry.delete_channel(&topic, &channel) {
            return Err(HttpError::not_found("CHANNEL_NOT_FOUND"));
        }
        info!(self.logger, "DB: removing channel({channel}) from topic({topic})");
        Ok(())
    }
}

impl Service for Http {
    type Route = Route;

    fn router(&self) -> &Router<Route> {
        &self.router
    }

    fn allowed_origins(&self) -> Option<&AllowedOrigins> {
        Some(&self.allowed_origins)
    }

    fn request_counts(&self) -> Option<&RequestCounts> {
        Some(&self.metrics.requests)
    }

    async fn call(&self, route: Route, mut request: Request) -> Result<Response, HttpError> {
        // No endpoint uses a body.
        request.body.discard().await?;
        let query = || request.query();
        let done = |()| response::empty();
        let encoding = request.encoding;
        match route {
            Route::Ping => Ok(response::plain(StatusCode::OK, "OK")),
            Route::Info => Ok(response::value(encoding, &Info { version: NSQ_VERSION })),
            Route::Topics => self.page(Page::Topics, &request).await,
            Route::Channels => self.channels(query()?, &request).await,
            Route::Lookup => self.lookup(query()?, &request).await,
            Route::Nodes => self.page(Page::Nodes, &request).await,
            Route::ClusterStats => self.cluster_stats(query()?, &request).await,
            Route::Debug => self.page(Page::Debug, &request).await,
            Route::Metrics => {
                let registry = Arc::clone(&self.registry);
                let counts = self.run(move || registry.counts(clock::now())).await?;
                Ok(self.metrics.page(&counts).into_response())
            }
            Route::CreateTopic => self.create_topic(query()?).map(done),
            Route::DeleteTopic => self.delete_topic(query()?).map(done),
            Route::TombstoneTopic => self.tombstone_topic(query()?).map(done),
            Route::CreateChannel => self.create_channel(query()?).map(done),
            Route::DeleteChannel => self.delete_channel(query()?).map(done),
            Route::Pprof(page) => pprof::page(page),
        }
    }
}

#[derive(Serialize)]
struct Info {
    version: &'static str,
}

const MISSING_TOPIC: HttpError = HttpError::bad_request("MISSING_ARG_TOPIC");
const MISSING_CHANNEL: HttpError = HttpError::bad_request("MISSING_ARG_CHANNEL");

fn topic_name(query: Query<'_>) -> Result<TopicName, HttpError> {
    let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
    TopicName::new(topic).map_err(|_| HttpError::bad_request("INVALID_ARG_TOPIC"))
}

fn channel_name(query: Query<'_>) -> Result<ChannelName, HttpError> {
    let channel = query.get("channel").ok_or(MISSING_CHANNEL)?;
    ChannelName::new(channel).map_err(|_| HttpError::bad_request("INVALID_ARG_CHANNEL"))
}
