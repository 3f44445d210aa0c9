//! Moves messages that a channel has set aside to its dead-letter topic: their attempts are used up, they have expired, or
//! they were rejected.
//!
//! One journal batch publishes them there and removes them from their channel, so that at every moment a message is in
//! exactly one of the two places.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::headers::Form;
use nsq_protocol::{ChannelName, StartAt, TopicName};
use tokio_util::sync::CancellationToken;

use super::dead_letter::{self, Death, Published};
use super::registry::Registry;
use super::{PublishError, Topic};
use crate::channel::Channel;
use crate::clock;
use crate::engine::StorageError;
use crate::log::reader::CannotRead;
use crate::policy::dead_letter::Reason;
use crate::policy::setting::{Setting, Value};
use crate::policy::settings::Change;

/// The channel of a dead-letter topic that holds the dead letters until they are redriven or deleted.
pub const REDRIVE_CHANNEL: &str = "redrive";

/// The time to live that a new dead-letter topic gets.
const DEAD_LETTER_TTL: Duration = Duration::from_secs(14 * 24 * 3600);
/// Maximum number of messages in one journal batch.
pub(crate) const BATCH: usize = 256;
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_millis(500);

/// Why messages could not be moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("{0}")]
    Publish(#[from] PublishError),
    #[error("messages cannot be read from disk")]
    Read,
}

impl From<StorageError> for MoveError {
    fn from(error: StorageError) -> Self {
        MoveError::Publish(error.into())
    }
}

impl From<CannotRead> for MoveError {
    fn from(_: CannotRead) -> Self {
        MoveError::Read
    }
}

impl Registry {
    /// Dead-letters messages until `stop` is cancelled.
    pub async fn run_dead_lettering(self: Arc<Self>, stop: CancellationToken) {
        let exhausted = self.engine().exhausted.clone();
        loop {
            let work = async {
                exhausted.added().await;
                let mut is_logged = false;
                while let Some((channel, error)) = self.dead_letter_all().await {
                    if !std::mem::replace(&mut is_logged, true) {
                        crate::log_error!(
                            self.engine(),
                            "CHANNEL({}/{}): cannot move dead letters: {error}; nsqd retries by itself",
                            channel.topic_name(),
                            channel.name()
                        );
                    }
                    tokio::time::sleep(RETRY).await;
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Dead-letters all messages that are set aside. After a failure, returns its channel: a further call
    /// continues.
    pub async fn dead_letter_all(self: &Arc<Self>) -> Option<(Arc<Channel>, MoveError)> {
        let exhausted = &self.engine().exhausted;
        let mut failed: Option<(Arc<Channel>, MoveError)> = None;
        let mut again = Again::default();
        // A batch of each channel in turn, so that none waits for another that has many. A channel that failed has its
        // turn again after a while, even if others keep this busy.
        while let Some(channel) = exhausted.pop() {
            match self.dead_letter(&channel).await {
                Ok(true) => exhausted.push_again(channel),
                Ok(false) => {}
                Err(error) => {
                    again.push(Instant::now(), channel.clone());
                    failed = Some((channel, error));
                }
            }
            while let Some(channel) = again.pop_due(Instant::now()) {
                exhausted.push_again(channel);
            }
        }
        again.0.into_iter().for_each(|(_, channel)| exhausted.push_again(channel));
        failed
    }

    /// Dead-letters a batch of messages. Returns whether there may be more.
    async fn dead_letter(self: &Arc<Self>, channel: &Arc<Channel>) -> Result<bool, MoveError> {
        let Some((sequences, target)) = channel.exhausted(BATCH) else { return Ok(false) };
        let topic = self.dead_letter_topic(&target, channel.topic_name()).await?;
        let (from, at_ns) = (channel.clone(), clock::wall_ns());
        // It reads from disk.
        let read = tokio::task::spawn_blocking(move || read_dead_letters(&from, &sequences, at_ns));
        let mut batch = read.await.map_err(|_| MoveError::Read)??;
        if !batch.refused.is_empty() && channel.reports_refused(clock::monotonic()) {
            crate::log_error!(
                self.engine(),
                "CHANNEL({}/{}): {} messages were dead letters {} times and are delivered again; expired ones are dropped",
                channel.topic_name(),
                channel.name(),
                batch.refused.len(),
                dead_letter::MAX_HOPS
            );
        }
        channel.forgive(&batch.refused);
        if !batch.lost.is_empty() {
            // They exist nowhere any more. Their turn finds that out.
            channel.forgive(&batch.lost);
        }
        batch.sequences.retain(|sequence| batch.messages.contains_key(sequence));
        move_messages(channel, &topic, None, &batch.sequences, &batch.messages, true).await?;
        Ok(true)
    }

    /// The dead-letter topic of this name, with its channel for redrives. Creates what is missing.
    async fn dead_letter_topic(
        self: &Arc<Self>,
        name: &TopicName,
        source: &TopicName,
    ) -> Result<Arc<Topic>, MoveError> {
        let topic = self.make(name).await?;
        if topic.channel(REDRIVE_CHANNEL).is_none() {
            let channel = ChannelName::new(REDRIVE_CHANNEL).map_err(|_| PublishError::Exiting)?;
            if !topic.own_settings().is_of_dead_letters() {
                let mark = Change::of([
                    (Setting::DeadLettersOf, Value::Text(source.to_string())),
                    (Setting::Ttl, Value::Duration(DEAD_LETTER_TTL)),
                ]);
                // Only retention can be refused.
                let _ = topic.change_settings(&mark);
            }
            topic.make_channel(&channel, StartAt::Latest).await?;
            crate::log_info!(self.engine(), "TOPIC({name}): holds the dead letters of {source}");
        }
        Ok(topic)
    }
}

/// What failed, each with the time of its next attempt.
struct Again<T>(VecDeque<(Instant, T)>);

impl<T> Default for Again<T> {
    fn default() -> Self {
        Again(VecDeque::new())
    }
}

impl<T> Again<T> {
    /// Adds what failed at `now`.
    fn push(&mut self, now: Instant, failed: T) {
        self.0.push_back((now + RETRY, failed));
    }

    /// Removes what has waited for long enough.
    fn pop_due(&mut self, now: Instant) -> Option<T> {
        let is_due = self.0.front().is_some_and(|(at, _)| *at <= now);
        if is_due { self.0.pop_front().map(|(_, failed)| failed) } else { None }
    }
}

/// Messages to dead-letter.
struct Batch {
    sequences: Vec<u64>,
    messages: HashMap<u64, Published>,
    /// They were dead letters too often.
    refused: Vec<u64>,
    /// They could not be found.
    lost: Vec<u64>,
}

/// Blocks on the disk.
fn read_dead_letters(channel: &Channel, sequences: &[u64], at_ns: i64) -> Result<Batch, MoveError> {
    let (frames, result) = channel.log().gather(sequences);
    let known: HashMap<u64, (u16, Reason, Option<String>)> = channel.inspect(|state, _| {
        let known = |&sequence: &u64| {
            let reason = state.reason_of(sequence)?;
            let error = state.error_of(sequence).map(str::to_owned);
            Some((sequence, (state.attempts_of(sequence), reason, error)))
        };
        sequences.iter().filter_map(known).collect()
    });
    let (mut messages, mut refused) = (HashMap::new(), Vec::new());
    let mut read_to = 0;
    for (sequence, frame) in frames.iter() {
        read_to = sequence + 1;
        // It may have been removed meanwhile.
        let Some((attempts, reason, error)) = known.get(&sequence) else { continue };
        let death = Death {
            reason: *reason,
            error: error.as_deref(),
            topic: channel.topic_name().as_str(),
            channel: channel.name().as_str(),
            attempts: *attempts,
            at_ns,
        };
        match dead_letter::dead_letter(frame, &death) {
            Some(published) => _ = messages.insert(sequence, published),
            None => refused.push(sequence),
        }
    }
    let is_lost = |sequence: &u64| {
        *sequence < read_to && !messages.contains_key(sequence) && !refused.contains(sequence)
    };
    let mut lost: Vec<u64> = sequences.iter().copied().filter(is_lost).collect();
    if read_to == 0 {
        // Nothing was read: either it cannot be, or all are lost.
        result?;
        lost = sequences.to_vec();
    }
    Ok(Batch { sequences: sequences.to_vec(), messages, refused, lost })
}

/// Publishes messages to `target` and removes them from `source`, in one journal batch. `sequences` are in order; all
/// have the form of the first. With `only`, only this channel of the target receives them. Returns how many were moved:
/// those that were finished or handed out meanwhile are left out.
pub(super) async fn move_messages(
    source: &Arc<Channel>,
    target: &Arc<Topic>,
    only: Option<&str>,
    sequences: &[u64],
    messages: &HashMap<u64, Published>,
    are_dead_letters: bool,
) -> Result<Option<u64>, MoveError> {
    let form =
        sequences.first().and_then(|first| messages.get(first)).map_or(Form::Plain, |first| first.form);
    let append = |number| {
        source.depart(sequences, |departed, removed| {
            let bodies: Vec<&[u8]> = (departed.iter())
                .filter_map(|message| messages.get(&message.sequence))
                .map(|published| published.bytes.as_slice())
                .collect();
            target.append_with(form, &bodies, number, removed)
        })
    };
    let appended = match only {
        None => append(None),
        Some(channel) => match target.with_channel_number(channel, |number| append(Some(number))) {
            Some(appended) => appended,
            None => return Ok(None),
        },
    };
    let Some((departed, publication)) = appended? else { return Ok(Some(0)) };
    // In a separate task: the caller may be dropped, and the outcome decides where the messages are.
    let channel = source.clone();
    let outcome = tokio::spawn(async move {
        let committed = publication.committed().await;
        match &committed {
            Ok(()) => channel.departed(&departed, are_dead_letters),
            Err(_) => channel.put_back(&departed),
        }
        committed.map(|()| departed.len() as u64)
    });
    match outcome.await {
        Ok(moved) => Ok(Some(moved?)),
        Err(panic) => Err(StorageError::in_doubt(panic, "the messages may be moved").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_has_its_turn_again_while_others_go_on() {
        let (start, mut again) = (Instant::now(), Again::default());
        again.push(start, "first");
        again.push(start + RETRY / 2, "second");
        assert_eq!(again.pop_due(start + RETRY / 2), None);
        assert_eq!(again.pop_due(start + RETRY), Some("first"));
        assert_eq!(again.pop_due(start + RETRY), None);
        assert_eq!(again.pop_due(start + RETRY * 2), Some("second"));
    }
}
