//! Carries out an order: on every nsqlookupd first where it concerns them, then on every nsqd.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use nsq::admin::{
    AdminError, DeadSelection, DrainOptions, LookupdClient, NsqdClient, RedriveOptions, StatsQuery,
    UndoOptions,
};
use nsq_protocol::StartAt;
use serde::Serialize;

use super::order::{Order, Verb};
use super::plan::{Plan, plan};
use crate::access::Caller;
use crate::audit::{Entry, Outcome};
use crate::notify::Notification;
use crate::state::State;
use crate::upstream::{Failed, Found, Node};

/// Where an order comes from.
#[derive(Debug, Clone)]
pub struct Request {
    pub caller: Caller,
    /// The name in HTTP Basic credentials, unchecked, as NSQ's nsqadmin reports it.
    pub basic_user: String,
    /// `ip:port` of the peer.
    pub remote: String,
    pub user_agent: String,
    pub url: String,
}

/// What became of an order.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    pub request_id: String,
    /// `done`, `partial` or `failed`.
    pub state: &'static str,
    pub outcomes: Vec<Outcome>,
    /// Daemons that could not be asked for the nodes.
    pub warnings: Vec<String>,
    pub command: String,
}

/// Why an order is not carried out.
#[derive(Debug, Clone)]
pub enum Refusal {
    Forbidden,
    /// A word, sometimes with an explanation.
    Invalid(String),
    /// The object or node does not exist.
    NotFound(&'static str),
    Upstream(String),
    /// The name must be typed.
    Unconfirmed(Box<Plan>),
    /// The audit log cannot be written.
    Audit(String),
}

impl From<Failed> for Refusal {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unknown => Refusal::NotFound("TOPIC_NOT_FOUND"),
            all => Refusal::Upstream(all.to_string()),
        }
    }
}

/// What an order would destroy now.
pub async fn plan_of(state: &State, verb: Verb, order: &Order) -> Result<Plan, Refusal> {
    let nodes = match targets(state, verb, order).await {
        Ok(nodes) => nodes,
        Err(Refusal::NotFound(_)) if verb == Verb::DeleteTopic || verb == Verb::DeleteChannel => {
            Found::default()
        }
        Err(refusal) => return Err(refusal),
    };
    let query = StatsQuery { topic: Some(order.topic.clone()), ..StatsQuery::default() };
    let stats = state.upstream.stats(&nodes.value, &query).await?;
    let stats_of: Vec<_> = stats.value.into_iter().map(|(node, stats)| (node.address, stats)).collect();
    let mut plan = plan(verb, order, &stats_of);
    plan.errors = nodes.warnings.into_iter().chain(stats.warnings).collect();
    Ok(plan)
}

/// Checks and carries out an order. `must_confirm` demands the typed name before messages are destroyed.
pub async fn execute(
    state: &State,
    order: &Order,
    request: &Request,
    must_confirm: bool,
) -> Result<Done, Refusal> {
    let verb = order.check().map_err(Refusal::Invalid)?;
    if request.caller.role < verb.role() {
        return Err(Refusal::Forbidden);
    }
    if must_confirm && verb.destroys() && order.confirm != order.name() {
        let plan = plan_of(state, verb, order).await?;
        if plan.message_count > 0 || verb == Verb::DeleteDead || !plan.errors.is_empty() {
            return Err(Refusal::Unconfirmed(Box::new(plan)));
        }
    }
    let nodes = match targets(state, verb, order).await {
        Ok(nodes) => nodes,
        // The topic is only registered, or known to nobody: nsqlookupds still forget it.
        Err(Refusal::NotFound(word)) if !state.upstream.has_lookupds() || !forgets(verb) => {
            return Err(Refusal::NotFound(word));
        }
        Err(Refusal::NotFound(_)) => Found::default(),
        Err(refusal) => return Err(refusal),
    };
    let started = Instant::now();
    let mut entry = entry(order, verb, request);
    state.audit.begin(entry.clone()).await.map_err(Refusal::Audit)?;
    let outcomes = carry_out(state, verb, order, &nodes.value).await;
    let failed = outcomes.iter().filter(|outcome| !outcome.ok).count();
    let end = match (failed, outcomes.len()) {
        (0, 1..) => "done",
        (failed, all) if failed < all => "partial",
        _ => "failed",
    };
    entry.state = end.to_owned();
    entry.elapsed_ms = millis(started.elapsed());
    entry.outcomes.clone_from(&outcomes);
    if let Err(error) = state.audit.end(entry.clone()).await {
        nsq_daemon::error!(state.logger, "audit: {error}");
    }
    nsq_daemon::info!(
        state.logger,
        "action {} topic={} channel={} node={} user={} address={} outcome={end}",
        order.action,
        order.topic,
        order.channel,
        order.node,
        request.caller.user.as_deref().unwrap_or("-"),
        request.caller.address
    );
    if end != "failed" {
        notify(state, order, verb, request, &entry, end);
        state.timers.changed(state, verb, order, request);
    }
    state.sampler().refresh();
    let command = order.command(verb);
    Ok(Done { request_id: entry.request_id, state: end, outcomes, warnings: nodes.warnings, command })
}

/// What an order that knows dry runs would do, at each node. Changes nothing.
pub async fn preview(state: &State, order: &Order) -> Result<Vec<Outcome>, Refusal> {
    let verb = order.check().map_err(Refusal::Invalid)?;
    let nodes = targets(state, verb, order).await?;
    let order = Order { dry_run: true, ..order.clone() };
    Ok(carry_out(state, verb, &order, &nodes.value).await)
}

/// Whether nsqlookupds take part even if no node has the object.
fn forgets(verb: Verb) -> bool {
    matches!(
        verb,
        Verb::DeleteTopic
            | Verb::DeleteChannel
            | Verb::CreateTopic
            | Verb::CreateChannel
            | Verb::Hide
            | Verb::Tombstone
    )
}

/// The nodes that an order concerns.
async fn targets(state: &State, verb: Verb, order: &Order) -> Result<Found<Vec<Node>>, Refusal> {
    let upstream = &state.upstream;
    let mut nodes = match verb {
        Verb::CreateTopic if upstream.has_lookupds() => Found::default(),
        Verb::CreateTopic | Verb::CreateChannel if !upstream.has_lookupds() => upstream.nodes().await?,
        Verb::CreateChannel => match upstream.nodes_of(&order.topic).await {
            Err(Failed::Unknown) => Found::default(),
            found => found?,
        },
        _ if verb.needs_node() => {
            let mut nodes = upstream.nodes().await?;
            nodes.value.retain(|node| node.named.address == order.node || node.address == order.node);
            // A tombstone is about a registration: the node may be gone.
            if nodes.value.is_empty() && !matches!(verb, Verb::Hide | Verb::Tombstone) {
                return Err(Refusal::NotFound("NODE_NOT_FOUND"));
            }
            nodes
        }
        _ => upstream.nodes_of(&order.topic).await?,
    };
    if !order.nodes.is_empty() {
        let is_wanted =
            |node: &Node| order.nodes.contains(&node.named.address) || order.nodes.contains(&node.address);
        nodes.value.retain(is_wanted);
    }
    Ok(nodes)
}

async fn carry_out(state: &State, verb: Verb, order: &Order, nodes: &[Node]) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    if forgets(verb) {
        let lookupds = state.upstream.lookupds();
        let wanted =
            lookupds.iter().filter(|address| order.nodes.is_empty() || order.nodes.contains(address));
        let calls: Vec<_> = wanted
            .cloned()
            .map(|address| {
                async move {
                    let started = Instant::now();
                    let result = match state.upstream.lookupd(&address) {
                        Ok(client) => on_lookupd(verb, order, &client).await,
                        Err(error) => Err(error),
                    };
                    outcome(&address, "nsqlookupd", started, result.map(|()| None))
                }
                .boxed()
            })
            .collect();
        outcomes.extend(join_all(calls).await);
    }
    if verb != Verb::Hide {
        let calls: Vec<_> = nodes
            .iter()
            .cloned()
            .map(|node| {
                async move {
                    let started = Instant::now();
                    let result = match state.upstream.nsqd(&node.address) {
                        Ok(client) => on_nsqd(verb, order, &client).await,
                        Err(error) => Err(error),
                    };
                    outcome(&node.named.address, "nsqd", started, result)
                }
                .boxed()
            })
            .collect();
        outcomes.extend(join_all(calls).await);
    }
    outcomes
}

async fn on_lookupd(verb: Verb, order: &Order, client: &LookupdClient) -> Result<(), AdminError> {
    let (topic, channel) = (order.topic.as_str(), order.channel.as_str());
    match verb {
        Verb::CreateTopic => client.create_topic(topic).await,
        Verb::CreateChannel => {
            client.create_topic(topic).await?;
            client.create_channel(topic, channel).await
        }
        Verb::DeleteTopic => client.delete_topic(topic).await.or_else(missing_is_done),
        Verb::DeleteChannel => client.delete_channel(topic, channel).await.or_else(missing_is_done),
        _ => client.tombstone(topic, &order.node).await,
    }
}

/// What is not there need not be deleted.
fn missing_is_done(error: AdminError) -> Result<(), AdminError> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}

async fn on_nsqd(verb: Verb, order: &Order, client: &NsqdClient) -> Result<Option<String>, AdminError> {
    let (topic, channel) = (order.topic.as_str(), order.channel.as_str());
    let selection = DeadSelection {
        filter: (!order.filter.is_empty()).then(|| order.filter.clone()),
        id: (!order.id.is_empty()).then(|| order.id.clone()),
        max: (order.max > 0).then_some(order.max),
    };
    let nothing = |()| None;
    match verb {
        Verb::CreateTopic => client.create_topic(topic).await.map(nothing),
        Verb::CreateChannel => {
            client.create_topic(topic).await?;
            client.create_channel(topic, channel).await.map(nothing)
        }
        Verb::DeleteTopic | Verb::Tombstone | Verb::DeleteTopicOnNode => {
            client.delete_topic(topic).await.or_else(missing_is_done).map(nothing)
        }
        Verb::DeleteChannel => {
            client.delete_channel(topic, channel).await.or_else(missing_is_done).map(nothing)
        }
        Verb::PauseTopic => client.pause_topic(topic).await.map(nothing),
        Verb::UnpauseTopic => client.unpause_topic(topic).await.map(nothing),
        Verb::PauseChannel => client.pause_channel(topic, channel).await.map(nothing),
        Verb::UnpauseChannel => client.unpause_channel(topic, channel).await.map(nothing),
        Verb::EmptyTopic => {
            client.empty_topic(topic).await?;
            if !order.with_channels {
                return Ok(None);
            }
            let query = StatsQuery { topic: Some(topic.to_owned()), ..StatsQuery::default() };
            let channels =
                client.stats(&query).await?.topics.into_iter().flatten().flat_map(|topic| topic.channels);
            let mut count = 0;
            for channel in channels {
                client.empty_channel(topic, &channel.channel_name).await.or_else(missing_is_done)?;
                count += 1;
            }
            Ok(Some(format!("{count} channels emptied")))
        }
        Verb::EmptyChannel => client.empty_channel(topic, channel).await.map(nothing),
        Verb::Drain => client
            .begin_drain(&DrainOptions::default())
            .await
            .map(|drain| Some(remaining(drain.remaining_count))),
        Verb::EndDrain => client.end_drain().await.map(|_| None),
        Verb::Seek => {
            let to: StartAt = order.to.parse().map_err(|error: <StartAt as std::str::FromStr>::Err| {
                refused(format!("INVALID_TO: {error}"))
            })?;
            let answer = match order.dry_run {
                true => client.plan_seek(topic, channel, to).await?,
                false => client.seek_channel(topic, channel, to).await?,
            };
            Ok(Some(format!("depth {}", answer.depth)))
        }
        Verb::Undo => {
            let options = UndoOptions { partial: true, dry_run: order.dry_run };
            let channel = (!channel.is_empty()).then_some(channel);
            let answer = client.undo(topic, channel, options).await?;
            let count: u64 = answer.channels.iter().map(|channel| channel.message_count).sum();
            Ok(Some(format!("{count} messages brought back")))
        }
        Verb::Redrive => {
            let to = (!order.to.is_empty()).then(|| order.to.clone());
            let rate = (order.rate > 0).then_some(order.rate);
            let options = RedriveOptions { selection, rate, to };
            if order.dry_run {
                let planned = client.plan_redrive(topic, &options).await?;
                return Ok(Some(format!("{} messages would move", planned.moved)));
            }
            client
                .start_redrive(topic, &options)
                .await
                .map(|answer| Some(format!("{} to move", answer.total)))
        }
        Verb::StopRedrive => {
            client.stop_redrive(topic).await.map(|answer| Some(format!("{} moved", answer.moved)))
        }
        Verb::DeleteDead => {
            let answer = client.delete_dead_letters(topic, &selection, order.dry_run).await?;
            Ok(Some(format!("{} dead letters", answer.deleted)))
        }
        Verb::CancelMessage => {
            client.cancel_message(topic, Some(channel), &order.id, order.dry_run).await.map(|_| None)
        }
        Verb::RequeueMessage => {
            let delay = Duration::from_millis(order.delay_ms);
            client.requeue_message(topic, channel, &order.id, delay, order.dry_run).await.map(|_| None)
        }
        Verb::Publish => client.publish(topic, order.body.clone()).await.map(nothing),
        Verb::SetTopic => {
            client.set_topic(topic, &[(order.setting.as_str(), order.value.as_str())]).await.map(nothing)
        }
        Verb::SetChannel => {
            let settings = [(order.setting.as_str(), order.value.as_str())];
            client.set_channel(topic, channel, &settings).await.map(nothing)
        }
        Verb::Hide => Ok(None),
    }
}

fn refused(word: String) -> AdminError {
    let kind = nsq::admin::AdminErrorKind::Refused { status: 400, word };
    AdminError { method: "POST", url: "/channel/seek".to_owned(), kind }
}

fn remaining(count: u64) -> String {
    format!("{count} messages remain")
}

fn outcome(node: &str, kind: &str, started: Instant, result: Result<Option<String>, AdminError>) -> Outcome {
    let (ok, error, detail) = match result {
        Ok(detail) => (true, None, detail),
        Err(error) if error.is_unsupported() => {
            (false, Some("it does not know this request: it is not nsq-rs, or too old".to_owned()), None)
        }
        Err(error) => (false, Some(error.kind.to_string()), None),
    };
    let elapsed_ms = millis(started.elapsed());
    Outcome { node: node.to_owned(), kind: kind.to_owned(), ok, error, detail, elapsed_ms }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn entry(order: &Order, verb: Verb, request: &Request) -> Entry {
    Entry {
        request_id: crate::state::request_id(),
        at_ms: crate::state::now_ms(),
        action: verb.word().to_owned(),
        topic: order.topic.clone(),
        channel: order.channel.clone(),
        node: order.node.clone(),
        reason: order.reason.clone(),
        user: request.caller.user.clone(),
        user_via: request.caller.via.to_owned(),
        address: request.caller.address.clone(),
        state: "begun".to_owned(),
        ..Entry::default()
    }
}

fn notify(state: &State, order: &Order, verb: Verb, request: &Request, entry: &Entry, outcome: &'static str) {
    let changed = entry.outcomes.iter().filter(|outcome| outcome.ok).map(|outcome| outcome.node.clone());
    let one = |action: &str, channel: &str| Notification {
        action: action.to_owned(),
        topic: order.topic.clone(),
        channel: channel.to_owned(),
        node: order.node.clone(),
        timestamp: entry.at_ms / 1000,
        user: request.basic_user.clone(),
        remote_ip: request.remote.clone(),
        user_agent: request.user_agent.clone(),
        url: request.url.clone(),
        via: state.hostname.clone(),
        outcome,
        nodes: changed.clone().collect(),
        acl_user: request.caller.user.clone().unwrap_or_default(),
        request_id: entry.request_id.clone(),
    };
    // As in NSQ: creating a channel creates its topic.
    if verb == Verb::CreateChannel {
        state.notifier.send(one(Verb::CreateTopic.word(), ""));
    }
    state.notifier.send(one(verb.word(), &order.channel));
}
