//! `POST /channel/finish`, `/channel/requeue` and `/channel/touch`, each `?topic=&channel=[&lease=...]`.
//!
//! Each lease has a result of its own, in the order of the request. A lease that has ended or is unknown does not affect the
//! others. Topic and channel must exist and be those of the leases: permissions are for them.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::go_duration;
use nsq_daemon::http::{BodyError, HttpError, Query, Request, Response, StatusCode, response};
use serde::Serialize;

use super::settle_body::{InvalidBody, Item, MAX_LEASES, items};
use super::{MIN_TIMEOUT, duration, names, wall_deadline};
use crate::channel::{Channel, Settling};
use crate::clock;
use crate::http::HttpContext;
use crate::http::admin::{CHANNEL_NOT_FOUND, find_topic};
use crate::http::dead_letters::only;
use crate::http::publish::BODY_TOO_BIG;
use crate::lease::{LEASE_LEN, Lease, LeaseKey};

/// Maximum number of leases under one lock of the channel, so that others do not wait long for it.
const RUN_LEASES: usize = 256;
/// Longest body: [`MAX_LEASES`] as objects with a duration.
const MAX_BODY_BYTES: usize = MAX_LEASES * (LEASE_LEN + 64);

/// What to do with the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Finish,
    Requeue,
    Touch,
}

/// `POST /channel/finish`: the messages are done.
pub async fn finish(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    settle(context, request, Action::Finish).await
}

/// `POST /channel/requeue?[&delay=]`: the messages are delivered again, at once (or as the retry schedule says) or after
/// a delay.
pub async fn requeue(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    settle(context, request, Action::Requeue).await
}

/// `POST /channel/touch?[&timeout=]`: the timeout begins again.
pub async fn touch(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    settle(context, request, Action::Touch).await
}

#[derive(Serialize)]
struct Answer {
    results: Vec<ItemResult>,
    /// How many succeeded.
    succeeded: usize,
    failed: usize,
}

#[derive(Serialize)]
struct ItemResult {
    lease: String,
    ok: bool,
    /// After a touch: when the lease ends, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_deadline: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// Why one lease cannot be settled.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum ItemError {
    #[error("INVALID_LEASE: not a lease of this nsqd since its start")]
    Invalid,
    #[error("OTHER_CHANNEL: the lease is for another topic or channel")]
    OtherChannel,
    #[error("LEASE_EXPIRED: the message timed out, or was finished or requeued before")]
    Expired,
    #[error("INVALID_DURATION: {text}: expected a duration from {} to {}", go_duration::format(*range.start()), go_duration::format(*range.end()))]
    Duration { text: String, range: RangeInclusive<Duration> },
}

async fn settle(context: &HttpContext, request: &mut Request, action: Action) -> Result<Response, HttpError> {
    let encoding = request.encoding;
    let body = request.body.read_limited(MAX_BODY_BYTES).await.map_err(|error| match error {
        BodyError::TooBig => BODY_TOO_BIG,
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INVALID_REQUEST,
    })?;
    let query = request.query()?;
    let settlement = Settlement::parse(context, &query, action)?;
    let leases = query.iter().filter(|(key, _)| key == "lease").map(|(_, lease)| lease.into_owned());
    let items = items(leases.collect(), &body).map_err(|error| {
        let status = match error {
            InvalidBody::TooMany => StatusCode::PAYLOAD_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        };
        HttpError { status, word: error.to_string().into() }
    })?;
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        settlement.run(items.by_ref().take(RUN_LEASES), &mut results);
        tokio::task::yield_now().await;
    }
    let succeeded = results.iter().filter(|result| result.ok).count();
    let metrics = context.registry.engine().metrics();
    match action {
        Action::Finish => metrics.finished_messages.add(succeeded as u64),
        Action::Requeue => metrics.requeued_messages.add(succeeded as u64),
        Action::Touch => {}
    }
    let failed = results.len() - succeeded;
    Ok(response::value(encoding, &Answer { results, succeeded, failed }))
}

struct Settlement<'a> {
    action: Action,
    key: &'a LeaseKey,
    topic: Arc<crate::topic::Topic>,
    channel: Arc<Channel>,
    /// `delay` or `timeout` for all leases without their own.
    duration: Option<Duration>,
    durations: RangeInclusive<Duration>,
}

impl<'a> Settlement<'a> {
    fn parse(context: &'a HttpContext, query: &Query<'_>, action: Action) -> Result<Self, HttpError> {
        let config = &context.config;
        let longest = config.max_msg_timeout;
        let (name, durations) = match action {
            Action::Finish => (None, Duration::ZERO..=Duration::ZERO),
            Action::Requeue => (Some("delay"), Duration::ZERO..=config.max_req_timeout),
            Action::Touch => (Some("timeout"), MIN_TIMEOUT.min(longest)..=longest),
        };
        let known: Vec<&str> = ["topic", "channel", "lease"].into_iter().chain(name).collect();
        only(query, &known)?;
        let (topic, channel) = names(query)?;
        let duration = match name {
            Some(name) => duration(query, name, durations.clone())?,
            None => None,
        };
        let topic = find_topic(context, topic.as_str())?;
        let channel = topic.channel(channel.as_str()).ok_or(CHANNEL_NOT_FOUND)?;
        Ok(Self { action, key: &context.consumers.lease_key, topic, channel, duration, durations })
    }

    /// Settles leases under one lock of the channel.
    fn run(&self, items: impl Iterator<Item = Item>, results: &mut Vec<ItemResult>) {
        let mut settling = self.channel.settle();
        for Item { lease, duration } in items {
            let settled = self.settle(&mut settling, &lease, duration);
            let (ok, lease_deadline, error) = match settled {
                Ok(deadline) => (true, deadline, None),
                Err(error) => (false, None, Some(error.to_string())),
            };
            results.push(ItemResult { lease, ok, lease_deadline, error });
        }
    }

    /// Returns the new deadline of a touched message.
    fn settle(
        &self,
        settling: &mut Settling<'_>,
        lease: &str,
        own: Option<Result<Duration, String>>,
    ) -> Result<Option<i64>, ItemError> {
        let Lease { topic, channel, sequence, delivered_at, timeout_ms } =
            self.key.read(lease).ok_or(ItemError::Invalid)?;
        if (topic, channel) != (self.topic.number(), self.channel.number()) {
            return Err(ItemError::OtherChannel);
        }
        let out_of_range = |text| ItemError::Duration { text, range: self.durations.clone() };
        let duration = match own {
            None => self.duration,
            Some(Ok(own)) if self.durations.contains(&own) => Some(own),
            Some(Ok(own)) => return Err(out_of_range(go_duration::format(own))),
            Some(Err(text)) => return Err(out_of_range(text)),
        };
        match self.action {
            Action::Finish => settling.finish(sequence, delivered_at).map(|()| None),
            Action::Requeue => {
                let delay = clock::nanos(duration.unwrap_or_default());
                settling.requeue(sequence, delivered_at, delay).map(|()| None)
            }
            Action::Touch => {
                let timeout = duration.unwrap_or(Duration::from_millis(timeout_ms.into()));
                settling
                    .touch(sequence, delivered_at, clock::nanos(timeout))
                    .map(|at| Some(wall_deadline(at)))
            }
        }
        .map_err(|_| ItemError::Expired)
    }
}
