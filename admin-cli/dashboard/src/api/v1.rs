//! The API of NSQ's nsqadmin: the same paths, bodies, fields and error words.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::{Path, Query, State as Shared};
use bytes::Bytes;
use nsq::admin::StatsQuery;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::model::{Channel, Topic, version};
use super::reply::{ApiError, ApiResult, ok, warning, with_message};
use crate::actions::{self, Order, Verb};
use crate::state::{State, now_ms};
use crate::upstream::{Failed, Found, Node};

type App = Shared<Arc<State>>;

#[derive(Deserialize)]
pub struct TopicsQuery {
    inactive: Option<String>,
}

pub async fn topics(Shared(state): App, Query(query): Query<TopicsQuery>) -> ApiResult {
    if query.inactive.as_deref() == Some("true") {
        let found = match state.upstream.inactive_topics().await {
            Err(Failed::Unknown) => Found::default(),
            found => found?,
        };
        return with_message(&json!({ "topics": found.value }), &found.warnings);
    }
    let found = match state.upstream.topics().await {
        Err(Failed::Unknown) => Found::default(),
        found => found?,
    };
    // As in NSQ: null without topics.
    let topics = (!found.value.is_empty()).then_some(found.value);
    with_message(&json!({ "topics": topics }), &found.warnings)
}

pub async fn topic(Shared(state): App, Path(topic): Path<String>) -> ApiResult {
    let found = topic_of(&state, &topic).await?;
    with_message(&found.value, &found.warnings)
}

/// A topic on all nodes.
pub async fn topic_of(state: &State, topic: &str) -> Result<Found<Topic>, ApiError> {
    let nodes = state.upstream.nodes_of(topic).await?;
    let query = StatsQuery { topic: Some(topic.to_owned()), ..StatsQuery::default() };
    let stats = state.upstream.stats(&nodes.value, &query).await?;
    let now = now_ms() / 1000;
    let parts = stats.value.iter().flat_map(|(node, stats)| {
        let found = stats.topics.iter().flatten().filter(|found| found.topic_name == topic);
        found.map(move |found| Topic::of(found, node, now))
    });
    let warnings = nodes.warnings.into_iter().chain(stats.warnings).collect();
    Ok(Found { value: Topic::sum(topic, parts.collect()), warnings })
}

pub async fn channel(Shared(state): App, Path((topic, channel)): Path<(String, String)>) -> ApiResult {
    let found = channel_of(&state, &topic, &channel).await?;
    with_message(&found.value, &found.warnings)
}

/// A channel on all nodes, with its clients.
pub async fn channel_of(state: &State, topic: &str, channel: &str) -> Result<Found<Channel>, ApiError> {
    let nodes = state.upstream.nodes_of(topic).await?;
    let query = StatsQuery {
        topic: Some(topic.to_owned()),
        channel: Some(channel.to_owned()),
        clients: true,
        ..StatsQuery::default()
    };
    let stats = state.upstream.stats(&nodes.value, &query).await?;
    let now = now_ms() / 1000;
    let parts: Vec<Channel> = stats
        .value
        .iter()
        .flat_map(|(node, stats)| {
            let topics = stats.topics.iter().flatten().filter(|found| found.topic_name == topic);
            let channels = topics.flat_map(|found| &found.channels);
            let wanted = channels.filter(|found| found.channel_name == channel);
            wanted.map(move |found| Channel::of(found, topic, node, now))
        })
        .collect();
    let warnings: Vec<String> = nodes.warnings.into_iter().chain(stats.warnings).collect();
    if parts.is_empty() && warnings.is_empty() {
        return Err(ApiError::new(404, "CHANNEL_NOT_FOUND"));
    }
    Ok(Found { value: Channel::sum(topic, channel, parts), warnings })
}

#[derive(Serialize)]
struct NodeJson<'a> {
    remote_addresses: &'a [String],
    remote_address: &'a str,
    hostname: &'a str,
    broadcast_address: &'a str,
    tcp_port: u16,
    http_port: u16,
    version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    topology_zone: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    topology_region: &'a str,
    topics: Vec<NodeTopic<'a>>,
    out_of_date: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    draining: bool,
}

#[derive(Serialize)]
struct NodeTopic<'a> {
    topic: &'a str,
    tombstoned: bool,
}

pub async fn nodes(Shared(state): App) -> ApiResult {
    let found = match state.upstream.nodes().await {
        Err(Failed::Unknown) => Found::default(),
        found => found?,
    };
    let newest = found.value.iter().map(|node| version(&node.info.version)).max();
    let nodes: Vec<NodeJson<'_>> = found.value.iter().map(|node| node_json(node, newest)).collect();
    with_message(&json!({ "nodes": nodes }), &found.warnings)
}

fn node_json(node: &Node, newest: Option<(u64, u64, u64, bool)>) -> NodeJson<'_> {
    let info = &node.info;
    // A reply may have fewer tombstones than topics.
    let tombstones = info.tombstones.iter().copied().chain(std::iter::repeat(false));
    let topics =
        info.topics.iter().zip(tombstones).map(|(topic, tombstoned)| NodeTopic { topic, tombstoned });
    NodeJson {
        remote_addresses: &node.remote_addresses,
        remote_address: &info.remote_address,
        hostname: &info.hostname,
        broadcast_address: &info.broadcast_address,
        tcp_port: info.tcp_port,
        http_port: info.http_port,
        version: &info.version,
        topology_zone: &info.topology_zone,
        topology_region: &info.topology_region,
        topics: topics.collect(),
        out_of_date: Some(version(&info.version)) < newest,
        draining: info.draining,
    }
}

pub async fn node(Shared(state): App, Path(name): Path<String>) -> ApiResult {
    let nodes = state.upstream.nodes().await?;
    let node = nodes.value.into_iter().find(|node| node.named.address == name);
    let node = node.ok_or_else(|| ApiError::new(404, "NODE_NOT_FOUND"))?;
    let query = StatsQuery { clients: true, ..StatsQuery::default() };
    let found = state.upstream.stats(std::slice::from_ref(&node), &query).await?;
    let now = now_ms() / 1000;
    let topics: Vec<Topic> = found
        .value
        .iter()
        .flat_map(|(named, stats)| stats.topics.iter().flatten().map(|topic| Topic::of(topic, named, now)))
        .collect();
    let clients =
        topics.iter().flat_map(|topic| topic.channels.iter().flatten()).filter_map(|c| c.clients.as_ref());
    let total_clients: usize = clients.map(Vec::len).sum();
    let total_messages: u64 = topics.iter().map(|topic| topic.message_count).sum();
    let body = json!({
        "node": name,
        "topics": topics,
        "total_messages": total_messages,
        "total_clients": total_clients,
    });
    let warnings: Vec<String> = nodes.warnings.into_iter().chain(found.warnings).collect();
    with_message(&body, &warnings)
}

#[derive(Serialize)]
struct Count<'a> {
    node: &'a str,
    topic_name: &'a str,
    channel_name: &'a str,
    message_count: u64,
}

pub async fn counter(Shared(state): App) -> ApiResult {
    let nodes = match state.upstream.nodes().await {
        Err(Failed::Unknown) => Found::default(),
        found => found?,
    };
    let found = state.upstream.stats(&nodes.value, &StatsQuery::default()).await?;
    let mut stats: BTreeMap<String, Count<'_>> = BTreeMap::new();
    for (node, report) in &found.value {
        for topic in report.topics.iter().flatten() {
            for channel in &topic.channels {
                let key = format!("{}:{}:{}", topic.topic_name, channel.channel_name, node.address);
                let count = Count {
                    node: &node.address,
                    topic_name: &topic.topic_name,
                    channel_name: &channel.channel_name,
                    message_count: channel.message_count,
                };
                stats.insert(key, count);
            }
        }
    }
    let warnings: Vec<String> = nodes.warnings.into_iter().chain(found.warnings).collect();
    with_message(&json!({ "stats": stats }), &warnings)
}

/// Reads a body as JSON, whatever its content type says.
pub fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::new(400, "EOF"));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::new(400, error.to_string()))
}

async fn act(state: &State, request: &actions::Request, order: Order) -> ApiResult {
    let done = actions::execute(state, &order, request, false).await?;
    let failed = done.outcomes.iter().filter(|outcome| !outcome.ok);
    let mut texts: Vec<String> = failed
        .map(|outcome| {
            format!("{} {}: {}", outcome.kind, outcome.node, outcome.error.as_deref().unwrap_or("failed"))
        })
        .collect();
    if done.state == "failed" {
        // No daemon took part: the topic is registered nowhere that can be changed.
        let text = if texts.is_empty() { "no nsqd has it".to_owned() } else { texts.join("\n") };
        return Err(ApiError::new(502, format!("UPSTREAM_ERROR: {text}")));
    }
    texts.splice(0..0, done.warnings);
    ok(&json!({ "message": warning(&texts) }))
}

/// Refuses before the body is read, as NSQ does.
fn permit(request: &actions::Request, verb: Verb) -> Result<(), ApiError> {
    if request.caller.role < verb.role() { Err(ApiError::new(403, "FORBIDDEN")) } else { Ok(()) }
}

#[derive(Deserialize)]
struct Creation {
    #[serde(default)]
    topic: String,
    #[serde(default)]
    channel: String,
}

pub async fn create(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    bytes: Bytes,
) -> ApiResult {
    permit(&request, Verb::CreateTopic)?;
    let Creation { topic, channel } = body(&bytes)?;
    let verb = if channel.is_empty() { Verb::CreateTopic } else { Verb::CreateChannel };
    act(&state, &request, Order { action: verb.word().to_owned(), topic, channel, ..Order::default() }).await
}

#[derive(Deserialize)]
struct Action {
    #[serde(default)]
    action: String,
}

pub async fn act_on_topic(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    Path(topic): Path<String>,
    bytes: Bytes,
) -> ApiResult {
    change(&state, &request, topic, String::new(), &bytes).await
}

pub async fn act_on_channel(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    Path((topic, channel)): Path<(String, String)>,
    bytes: Bytes,
) -> ApiResult {
    change(&state, &request, topic, channel, &bytes).await
}

async fn change(
    state: &State,
    request: &actions::Request,
    topic: String,
    channel: String,
    bytes: &[u8],
) -> ApiResult {
    permit(request, Verb::PauseTopic)?;
    let Action { action } = body(bytes)?;
    let object = if channel.is_empty() { "topic" } else { "channel" };
    if !["pause", "unpause", "empty"].contains(&action.as_str()) {
        return Err(ApiError::new(400, "INVALID_ACTION"));
    }
    let action = format!("{action}_{object}");
    act(state, request, Order { action, topic, channel, ..Order::default() }).await
}

pub async fn delete_topic(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    Path(topic): Path<String>,
) -> ApiResult {
    let action = Verb::DeleteTopic.word().to_owned();
    act(&state, &request, Order { action, topic, ..Order::default() }).await
}

pub async fn delete_channel(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    Path((topic, channel)): Path<(String, String)>,
) -> ApiResult {
    let action = Verb::DeleteChannel.word().to_owned();
    act(&state, &request, Order { action, topic, channel, ..Order::default() }).await
}

#[derive(Deserialize)]
struct Tombstone {
    #[serde(default)]
    topic: String,
    /// Also delete the topic on the node, as NSQ's nsqadmin always does.
    #[serde(default)]
    delete: bool,
}

pub async fn tombstone(
    Shared(state): App,
    Extension(request): Extension<Arc<actions::Request>>,
    Path(node): Path<String>,
    bytes: Bytes,
) -> ApiResult {
    permit(&request, Verb::Tombstone)?;
    let Tombstone { topic, delete } =
        serde_json::from_slice(&bytes).map_err(|_| ApiError::new(400, "INVALID_BODY"))?;
    let verb = if delete { Verb::Tombstone } else { Verb::Hide };
    act(&state, &request, Order { action: verb.word().to_owned(), topic, node, ..Order::default() }).await
}
