//! `nsq copy`: reads waiting messages as `nsq peek` does, and publishes them.

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesOrdered;
use nsq::PublishError;
use nsq::admin::{PeekQuery, PeekedMessage};
use nsq_protocol::headers::HeadersBuf;
use tokio::time::{Instant, sleep_until};

use super::destination::Destination;
use super::selection::Selection;
use super::{Outcome, TransferFlags};
use crate::body::from_base64;
use crate::cluster::{Cluster, Node, NodeError};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::progress::Progress;
use crate::sources::publish_failure;

/// Messages per request: their bodies are in memory at once.
const PAGE: u64 = 100;

/// The waiting messages of one node, page by page.
struct Pages<'a> {
    node: &'a Node,
    source: &'a Object,
    from: Option<String>,
    is_last: bool,
}

impl<'a> Pages<'a> {
    fn new(node: &'a Node, source: &'a Object) -> Self {
        Pages { node, source, from: Some("head".to_owned()), is_last: false }
    }

    /// The next page; `None` after the last one.
    async fn next(&mut self) -> Result<Option<Vec<PeekedMessage>>, Failure> {
        if self.is_last {
            return Ok(None);
        }
        let query = PeekQuery {
            state: self.source.channel.is_some().then(|| "waiting".to_owned()),
            from: self.from.clone(),
            limit: Some(PAGE),
            ..PeekQuery::default()
        };
        let page = self.node.client.peek(&self.source.topic, self.source.channel.as_deref(), &query).await;
        let page = match page {
            Ok(page) => page,
            // Another node has it.
            Err(error) if error.is_not_found() && !error.is_unsupported() => return Ok(None),
            Err(error) => {
                let failed = NodeError::new(&self.node.name, "peek", &error);
                let failure = Failure::failed(&failed).target(self.node.name.clone());
                return Err(match error.is_unsupported() {
                    true => failure.hint("nsqd of NSQ cannot show messages; copy new ones with `nsq to-nsq` from a channel of its own"),
                    false => failure,
                });
            }
        };
        let end = page.end.stopped_by.as_str();
        self.is_last = end == "end" || page.end.next.is_none() || page.end.next == self.from;
        if end == "unreadable" {
            return Err(Failure::failed(format_args!(
                "{}: a message cannot be read from disk",
                self.node.name
            )));
        }
        self.from = page.end.next;
        Ok(Some(page.messages))
    }
}

/// A body, and pairs of names and values.
type BodyAndHeaders = (Vec<u8>, Vec<(String, String)>);

/// The body and headers of a message, if it is selected.
fn selected(message: PeekedMessage, selection: &Selection) -> Result<Option<BodyAndHeaders>, Failure> {
    let PeekedMessage { id, body, body_base64, headers, .. } = message;
    let body = match (body, body_base64) {
        (Some(text), _) => text.into_bytes(),
        (None, Some(encoded)) => from_base64(&encoded)
            .ok_or_else(|| Failure::failed(format_args!("message {id}: its body is no base64")))?,
        (None, None) => Vec::new(),
    };
    let packed = HeadersBuf::from_pairs(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let packed = packed.map_err(|error| Failure::failed(format_args!("message {id}: {error}")))?;
    let is_selected = selection.selects(&body, (!headers.is_empty()).then(|| packed.as_headers()));
    Ok(is_selected.then(|| (body, headers.into_iter().collect())))
}

/// The number of waiting messages that are selected, at most `--max`.
pub async fn count(cluster: &Cluster, source: &Object, flags: &TransferFlags) -> Result<u64, Failure> {
    let selection = flags.selection();
    let max = flags.max.unwrap_or(u64::MAX);
    let mut count = 0;
    for node in &cluster.nodes {
        let mut pages = Pages::new(node, source);
        while let Some(page) = pages.next().await? {
            for message in page {
                count += u64::from(selected(message, &selection)?.is_some());
                if count == max {
                    return Ok(count);
                }
            }
        }
    }
    Ok(count)
}

/// Copies the messages that wait now. The first failed publish ends it.
pub async fn run(
    context: &Context,
    flags: &TransferFlags,
    cluster: &Cluster,
    source: &Object,
    destination: &Destination,
    waiting: u64,
) -> Result<Outcome, Failure> {
    let selection = flags.selection();
    let max = flags.max.unwrap_or(u64::MAX);
    let mut outcome = Outcome { errors: cluster.errors.clone(), ..Outcome::default() };
    let mut progress = Progress::new(context.output, "messages", Some(waiting.min(max)));
    let mut next_at = Instant::now();
    // A copy into its own topic ends with the messages that were there at the start.
    let is_same = flags.to_nsqd_tcp.is_empty() && flags.destination == source.topic;
    let limit = if is_same { waiting } else { u64::MAX };
    for node in &cluster.nodes {
        let mut pages = Pages::new(node, source);
        let mut examined = 0;
        while let Some(page) = pages.next().await? {
            let mut publishing: FuturesOrdered<BoxFuture<'static, Result<(), PublishError>>> =
                FuturesOrdered::new();
            let mut taken = outcome.done;
            for message in page {
                if taken >= max || examined >= limit {
                    break;
                }
                examined += 1;
                let Some((body, headers)) = selected(message, &selection)? else {
                    outcome.skipped += 1;
                    continue;
                };
                sleep_until(next_at).await;
                next_at = destination.after(Instant::now());
                taken += 1;
                publishing.push_back(destination.publish(body.into(), headers).boxed());
            }
            while let Some(published) = publishing.next().await {
                if let Err(error) = published {
                    let mut failure = publish_failure(&error);
                    failure.message =
                        format!("{} messages were copied; the next one failed: {error}", outcome.done);
                    return Err(failure);
                }
                outcome.done += 1;
                progress.set(outcome.done);
            }
            if outcome.done >= max {
                return Ok(outcome);
            }
            if examined >= limit {
                break;
            }
        }
    }
    match outcome.errors.is_empty() || outcome.done > 0 {
        true => Ok(outcome),
        false => Err(Failure::new(ExitStatus::Partial, "nothing was copied: some nodes do not answer")),
    }
}
