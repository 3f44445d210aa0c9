//! `/topic/*` and `/channel/*`.
//!
//! Order of checks: the query, the topic's presence and name, the channel's presence and name, then whether they exist.
//! A change is in the journal before nsqd answers.

use std::sync::Arc;

use nsq_daemon::http::{HttpError, Query, Request, Response, response};
use nsq_protocol::{ChannelName, StartAt, TopicName};

use super::undo::{self, Action};
use super::{HttpContext, not_stored, required, topic_parameter};
use crate::channel::Channel;
use crate::topic::Topic;

pub(super) const INVALID_TOPIC: HttpError = HttpError::bad_request("INVALID_TOPIC");
const TOPIC_NOT_FOUND: HttpError = HttpError::not_found("TOPIC_NOT_FOUND");
pub(super) const CHANNEL_NOT_FOUND: HttpError = HttpError::not_found("CHANNEL_NOT_FOUND");

/// `POST /topic/create?topic=`
pub async fn create_topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let name = TopicName::new(&*topic_parameter(&query)?).map_err(|_| INVALID_TOPIC)?;
    context.registry.get_or_create(&name).await.map_err(|error| not_stored(context, error))?;
    Ok(response::empty())
}

/// `POST /topic/delete?topic=[&dry_run=true]`
pub async fn delete_topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let name = topic_parameter(&query)?;
    if undo::is_dry_run(&query)? {
        let topic = find_topic(context, &name)?;
        return Ok(undo::plan(request, Action::DeleteTopic, &topic, None));
    }
    if !context.registry.delete(&name).await {
        return Err(TOPIC_NOT_FOUND);
    }
    Ok(response::empty())
}

/// `POST /topic/empty?topic=[&dry_run=true]`
pub async fn empty_topic(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let name = topic_parameter(&query)?;
    if !nsq_protocol::is_valid_name(name.as_bytes()) {
        return Err(INVALID_TOPIC);
    }
    let topic = find_topic(context, &name)?;
    if undo::is_dry_run(&query)? {
        return Ok(undo::plan(request, Action::EmptyTopic, &topic, None));
    }
    topic.empty();
    persisted(context).await
}

/// `POST /topic/pause?topic=` and `/topic/unpause`
pub async fn pause_topic(
    context: &HttpContext,
    request: &mut Request,
    paused: bool,
) -> Result<Response, HttpError> {
    let by = request.remote.to_string();
    let query = request.query_without_body().await?;
    find_topic(context, &topic_parameter(&query)?)?.set_paused_by(paused, &by);
    persisted(context).await
}

/// `POST /channel/create?topic=&channel=[&start=]`: the topic must exist.
pub async fn create_channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let (topic, name) = channel_parameters(context, &query)?;
    let start = match query.get("start") {
        Some(text) => text.parse().map_err(|_| HttpError::bad_request("INVALID_ARG_START"))?,
        None => StartAt::Latest,
    };
    topic.get_or_create_channel_at(&name, start).await.map_err(|error| not_stored(context, error))?;
    Ok(response::empty())
}

/// `POST /channel/delete?topic=&channel=[&dry_run=true]`: an ephemeral topic is deleted with its last channel.
pub async fn delete_channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let (topic, name) = channel_parameters(context, &query)?;
    if undo::is_dry_run(&query)? {
        let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
        return Ok(undo::plan(request, Action::DeleteChannel, &topic, Some(&channel)));
    }
    let last = topic.delete_channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    if last {
        context.registry.topic_lost_last_channel(&topic).await;
    }
    persisted(context).await
}

/// `POST /channel/empty?topic=&channel=[&dry_run=true]`
pub async fn empty_channel(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    let (topic, name) = channel_parameters(context, &query)?;
    let channel = topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
    if undo::is_dry_run(&query)? {
        return Ok(undo::plan(request, Action::EmptyChannel, &topic, Some(&channel)));
    }
    channel.empty();
    persisted(context).await
}

/// `POST /channel/pause?topic=&channel=` and `/channel/unpause`
pub async fn pause_channel(
    context: &HttpContext,
    request: &mut Request,
    paused: bool,
) -> Result<Response, HttpError> {
    let by = request.remote.to_string();
    find_channel(context, &request.query_without_body().await?)?.set_paused_by(paused, &by);
    persisted(context).await
}

pub(super) fn find_topic(context: &HttpContext, name: &str) -> Result<Arc<Topic>, HttpError> {
    context.registry.get(name).ok_or(TOPIC_NOT_FOUND)
}

/// Returns the existing topic, and the channel's valid name.
pub(super) fn channel_parameters(
    context: &HttpContext,
    query: &Query<'_>,
) -> Result<(Arc<Topic>, ChannelName), HttpError> {
    let invalid = |word| move |_| HttpError::bad_request(word);
    let topic = TopicName::new(&*topic_parameter(query)?).map_err(invalid("INVALID_ARG_TOPIC"))?;
    let channel = required(query, "channel", "MISSING_ARG_CHANNEL")?;
    let channel = ChannelName::new(&*channel).map_err(invalid("INVALID_ARG_CHANNEL"))?;
    Ok((find_topic(context, topic.as_str())?, channel))
}

fn find_channel(context: &HttpContext, query: &Query<'_>) -> Result<Arc<Channel>, HttpError> {
    let (topic, name) = channel_parameters(context, query)?;
    topic.channel(name.as_str()).ok_or(CHANNEL_NOT_FOUND)
}

/// Answers once the change is in the journal. Waits for the disk on a blocking thread, so that other connections are
/// not held up.
pub(super) async fn persisted(context: &HttpContext) -> Result<Response, HttpError> {
    let Some(journal) = context.registry.engine().store.journal.clone() else { return Ok(response::empty()) };
    let flushed = tokio::task::spawn_blocking(move || journal.flush()).await;
    match flushed {
        Ok(Ok(())) => Ok(response::empty()),
        Ok(Err(error)) => {
            nsq_daemon::error!(context.logger, "HTTP: a change may be lost at the next start: {error}");
            Err(HttpError::INTERNAL_ERROR)
        }
        // The task panicked; the panic hook has logged it.
        Err(_) => Err(HttpError::INTERNAL_ERROR),
    }
}
