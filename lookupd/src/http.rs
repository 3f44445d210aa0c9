//! What everybody but nodes asks, over HTTP.
//!
//! | method | path | parameters |
//! |---|---|---|
//! | GET | `/ping`, `/info`, `/topics`, `/nodes`, `/debug`, `/metrics` | |
//! | GET | `/channels`, `/lookup` | `topic` (`*` for all) |
//! | GET | `/cluster/stats` (not NSQ's) | `topic`, `channel`: only these; `refresh=true`: ask the nodes first |
//! | POST | `/topic/create`, `/topic/delete` | `topic` |
//! | POST | `/topic/tombstone` | `topic`, `node` |
//! | POST | `/channel/create`, `/channel/delete` | `topic`, `channel` |
//! | GET | `/debug/pprof`, `/debug/pprof/...` | |
//!
//! Questions, `/topic/delete` and `/topic/tombstone` take names as they come; the others check them.

use std::sync::Arc;

use nsq_daemon::http::{
    HttpError, Method, Query, Request, Response, Router, Service, StatusCode, pprof, response,
};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::RequestCounts;
use nsq_daemon::{NSQ_VERSION, info};
use nsq_protocol::{
    ChannelName, ChannelsResponse, ClusterNode, ClusterStatsResponse, TopicName, TopicsResponse,
};
use serde::Serialize;

use crate::clock;
use crate::figures::Figures;
use crate::metrics::Metrics;
use crate::registry::{Node, Registry, producer};

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

/// The HTTP side of a running nsqlookupd.
pub(crate) struct Http {
    router: Router<Route>,
    registry: Arc<Registry>,
    figures: Arc<Figures>,
    metrics: Arc<Metrics>,
    logger: Logger,
}

impl Http {
    pub(crate) fn new(
        registry: Arc<Registry>,
        figures: Arc<Figures>,
        metrics: Arc<Metrics>,
        logger: Logger,
    ) -> Self {
        Self { router: routes(), registry, figures, metrics, logger }
    }

    fn lookup(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
        let found = self.registry.lookup(&topic, clock::now());
        let found = found.ok_or(HttpError::not_found("TOPIC_NOT_FOUND"))?;
        Ok(response::value(request.encoding, &found))
    }

    fn channels(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let topic = query.get("topic").ok_or(MISSING_TOPIC)?;
        let channels = self.registry.channels(&topic);
        Ok(response::value(request.encoding, &ChannelsResponse { channels }))
    }

    async fn cluster_stats(&self, query: Query<'_>, request: &Request) -> Result<Response, HttpError> {
        let (topic, channel) = (query.get("topic"), query.get("channel"));
        if query.get("refresh").is_some_and(|refresh| refresh == "true") {
            self.figures.refresh().await;
        }
        let now = clock::now();
        let with_figures = |node: &Arc<Node>| {
            let figures = self.figures.get(node.id());
            let told = figures.and_then(|figures| {
                figures.look(|stats| {
                    let age = now.since(&stats.told_at()?);
                    Some((age, stats.is_complete(), stats.stats(topic.as_deref(), channel.as_deref())))
                })
            });
            let node = producer(node);
            match told {
                None => ClusterNode { node, ..ClusterNode::default() },
                Some((age, is_complete, stats)) => {
                    let age_ms = u64::try_from(age.as_millis()).ok();
                    ClusterNode { node, age_ms, is_complete, stats: Some(stats) }
                }
            }
        };
        let nodes = self.registry.active(now).iter().map(with_figures).collect();
        Ok(response::value(request.encoding, &ClusterStatsResponse { nodes }))
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

    fn request_counts(&self) -> Option<&RequestCounts> {
        Some(&self.metrics.requests)
    }

    async fn call(&self, route: Route, mut request: Request) -> Result<Response, HttpError> {
        // No endpoint wants a body.
        request.body.discard().await?;
        let query = || request.query();
        let done = |()| response::empty();
        let encoding = request.encoding;
        match route {
            Route::Ping => Ok(response::plain(StatusCode::OK, "OK")),
            Route::Info => Ok(response::value(encoding, &Info { version: NSQ_VERSION })),
            Route::Topics => {
                Ok(response::value(encoding, &TopicsResponse { topics: self.registry.topics() }))
            }
            Route::Channels => self.channels(query()?, &request),
            Route::Lookup => self.lookup(query()?, &request),
            Route::Nodes => Ok(response::value(encoding, &self.registry.nodes(clock::now()))),
            Route::ClusterStats => self.cluster_stats(query()?, &request).await,
            Route::Debug => Ok(response::value(encoding, &self.registry.debug())),
            Route::Metrics => Ok(self.metrics.page(&self.registry.counts(clock::now())).into_response()),
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
