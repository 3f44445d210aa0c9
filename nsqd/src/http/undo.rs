//! `dry_run=true` of actions that drop messages, `/channel/undo` and `/topic/undo`.

use std::sync::Arc;

use nsq_daemon::http::{HttpError, Query, Request, Response, StatusCode, response};
use nsq_protocol::{DryRunChannel, DryRunResponse, UndoResponse, UndoneChannel};

use super::admin::{CHANNEL_NOT_FOUND, channel_parameters, find_topic, persisted};
use super::{HttpContext, topic_parameter};
use crate::channel::{Channel, UndoError};
use crate::topic::Topic;

/// Whether the request asks what would happen.
pub(super) fn is_dry_run(query: &Query<'_>) -> Result<bool, HttpError> {
    flag(query, "dry_run", "INVALID_ARG_DRY_RUN: must be true or false")
}

fn flag(query: &Query<'_>, key: &str, invalid: &'static str) -> Result<bool, HttpError> {
    match query.get(key).as_deref() {
        None | Some("false" | "0") => Ok(false),
        Some("true" | "1") => Ok(true),
        Some(_) => Err(HttpError::bad_request(invalid)),
    }
}

/// What an action would drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    EmptyTopic,
    DeleteTopic,
    EmptyChannel,
    DeleteChannel,
}

/// Answers what `action` would drop in a topic, or in one channel of it. Changes nothing.
pub(super) fn plan(
    request: &Request,
    action: Action,
    topic: &Topic,
    channel: Option<&Arc<Channel>>,
) -> Response {
    let channels = match (action, channel) {
        (_, Some(channel)) => vec![of_channel(channel)],
        (Action::DeleteTopic, None) => topic.channels().iter().map(of_channel).collect(),
        (_, None) => Vec::new(),
    };
    let drops_held = matches!(action, Action::EmptyTopic | Action::DeleteTopic);
    let answer = DryRunResponse {
        dry_run: true,
        topic_name: topic.name().to_string(),
        held_count: if drops_held { topic.depth().depth } else { 0 },
        channels,
        segment_bytes: (action == Action::DeleteTopic).then(|| topic.log().segment_bytes()),
        can_be_undone: action == Action::EmptyChannel && topic.log().is_retaining(),
    };
    response::value(request.encoding, &answer)
}

fn of_channel(channel: &Arc<Channel>) -> DryRunChannel {
    channel.inspect(|state, _| DryRunChannel {
        channel_name: channel.name().to_string(),
        message_count: state.unfinished_count(),
        in_flight_count: state.in_flight_count() as u64,
        deferred_count: state.deferred_count() as u64,
        client_count: state.consumers().len() as u64,
    })
}

/// `POST /channel/undo?topic=&channel=[&partial=true][&dry_run=true]`: brings back what the last empty or seek forward
/// dropped.
pub async fn channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let (topic, channel, is_partial, is_dry_run) = {
        let query = request.query_without_body().await?;
        let (topic, name) = channel_parameters(context, &query)?;
        let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
        (topic, channel, is_partial(&query)?, is_dry_run(&query)?)
    };
    let undone = undo(context, &channel, is_partial, is_dry_run).map_err(refused)?;
    if !is_dry_run {
        persisted(context).await?;
    }
    let answer =
        UndoResponse { dry_run: is_dry_run, topic_name: topic.name().to_string(), channels: vec![undone] };
    Ok(response::value(encoding, &answer))
}

/// `POST /topic/undo?topic=[&partial=true][&dry_run=true]`: the same for all channels that have something to undo. If it is
/// not possible for one of them, nothing is changed.
pub async fn topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let (topic, is_partial, is_dry_run) = {
        let query = request.query_without_body().await?;
        (find_topic(context, &topic_parameter(&query)?)?, is_partial(&query)?, is_dry_run(&query)?)
    };
    let mut planned = Vec::new();
    for channel in topic.channels() {
        match undo(context, &channel, is_partial, true) {
            Ok(undone) => planned.push((channel, undone)),
            Err(UndoError::NothingToUndo) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    if planned.is_empty() {
        return Err(refused(UndoError::NothingToUndo));
    }
    let mut channels = Vec::new();
    for (channel, plan) in planned {
        channels.push(if is_dry_run {
            plan
        } else {
            undo(context, &channel, is_partial, false).map_err(refused)?
        });
    }
    if !is_dry_run {
        persisted(context).await?;
    }
    let answer = UndoResponse { dry_run: is_dry_run, topic_name: topic.name().to_string(), channels };
    Ok(response::value(encoding, &answer))
}

fn is_partial(query: &Query<'_>) -> Result<bool, HttpError> {
    flag(query, "partial", "INVALID_ARG_PARTIAL: must be true or false")
}

fn undo(
    context: &HttpContext,
    channel: &Arc<Channel>,
    is_partial: bool,
    is_dry_run: bool,
) -> Result<UndoneChannel, UndoError> {
    let undone = channel.undo(is_partial, is_dry_run)?;
    if !is_dry_run {
        nsq_daemon::info!(
            context.logger,
            "TOPIC({}): channel {}: {} was undone: {} messages came back",
            channel.topic_name(),
            channel.name(),
            undone.kind.as_str(),
            undone.count
        );
    }
    Ok(UndoneChannel {
        channel_name: channel.name().to_string(),
        undone: undone.kind.as_str().to_owned(),
        at: undone.at_ns,
        message_count: undone.count,
        lost_count: undone.lost,
        depth: undone.depth,
    })
}

/// 409: the state does not allow it.
fn refused(error: UndoError) -> HttpError {
    let word = match error {
        UndoError::NothingToUndo => "NOTHING_TO_UNDO",
        UndoError::NothingRetained => "NOTHING_RETAINED",
        UndoError::NoLongerRetained { .. } => "NO_LONGER_RETAINED",
        UndoError::TooMany => "TOO_MANY_RANGES",
    };
    HttpError { word: format!("{word}: {error}").into(), ..HttpError::new(StatusCode::CONFLICT, "") }
}
