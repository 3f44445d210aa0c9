//! Moves dead letters back into the channels in which they died, or deletes them.
//!
//! A redrive runs in the background, one at a time for each dead-letter topic. It moves what was there when it started:
//! a message that dies again meanwhile stays. Each journal batch publishes messages to one channel and removes them from
//! the dead-letter topic, so that at every moment a message is in exactly one of the two places.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nsq_protocol::headers::{self, Form};
use nsq_protocol::{ChannelName, TopicName};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Topic;
use super::dead_letter::{self, Published};
use super::dead_lettering::{MoveError, REDRIVE_CHANNEL, move_messages};
use super::registry::Registry;
use crate::channel::Channel;
use crate::clock;
use crate::engine::StorageError;
use crate::log::chunk;
use crate::policy::header_filter::HeaderFilter;

/// Maximum number of messages in one journal batch.
const BATCH: usize = 1000;
/// With a rate, batches are small enough for this many per second.
const BATCHES_PER_SECOND: u64 = 20;

/// Which dead letters are meant.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Only those whose headers match.
    pub filter: Option<HeaderFilter>,
    /// Only the one of this id, in the dead-letter topic or where it died.
    pub id: Option<u64>,
    /// At most this many.
    pub max: Option<u64>,
}

/// Where to move dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Destination {
    /// The channel in which each died.
    #[default]
    Origin,
    /// A topic; with a channel, only this one receives them.
    Topic(TopicName, Option<ChannelName>),
}

/// What a redrive was asked to do.
#[derive(Debug, Clone, Default)]
pub struct RedriveOptions {
    pub selection: Selection,
    pub destination: Destination,
    /// Messages per second; 0 for as fast as possible.
    pub rate: u64,
}

/// How a redrive ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedriveState {
    Running,
    Completed,
    /// Somebody stopped it, or nsqd stops.
    Stopped,
    Failed(String),
}

/// A redrive and its progress.
#[derive(Debug)]
pub struct Redrive {
    pub options: RedriveOptions,
    /// Wall clock, nanoseconds.
    pub started_at: i64,
    /// Dead letters when it started.
    pub total: u64,
    /// Dead letters that were looked at.
    pub examined: AtomicU64,
    pub moved: AtomicU64,
    /// Dead letters that match and stay, because the channel in which they died does not exist.
    pub without_channel: AtomicU64,
    state: Mutex<RedriveState>,
    stop: CancellationToken,
    ended: CancellationToken,
}

/// What a redrive would do with some dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    pub target: Target,
    /// Whether the target exists. If not, they stay.
    pub exists: bool,
    pub count: u64,
}

/// Why a redrive was not started, or dead letters cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    #[error("there is no such topic")]
    NoTopic,
    /// The topic has no channel for redrives.
    #[error("the topic has no channel {REDRIVE_CHANNEL:?}, so it holds no dead letters")]
    NoDeadLetters,
    #[error("a redrive of this topic is running; stop it first")]
    Running,
    #[error("{0}")]
    Move(#[from] MoveError),
}

impl Redrive {
    fn new(options: RedriveOptions, letters: &DeadLetters) -> Self {
        Redrive {
            options,
            started_at: clock::wall_ns(),
            total: letters.channel.inspect(|state, _| state.depth() + state.deferred_count() as u64),
            examined: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            without_channel: AtomicU64::new(0),
            state: Mutex::new(RedriveState::Running),
            stop: CancellationToken::new(),
            ended: CancellationToken::new(),
        }
    }

    pub fn state(&self) -> RedriveState {
        self.state.lock().clone()
    }

    /// Stops it after the batch that is being moved.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Selection {
    /// Whether this stored message is meant.
    pub fn matches(&self, frame: &[u8]) -> bool {
        let headers = headers::split_stored(frame).and_then(|(headers, _)| headers);
        let has_id = |id: u64| {
            let died_as = || headers.and_then(|headers| headers.get(dead_letter::ID));
            chunk::id(frame) == Some(id) || died_as().is_some_and(|text| text == format!("{id:016x}"))
        };
        self.id.is_none_or(has_id) && self.filter.as_ref().is_none_or(|filter| filter.matches(headers))
    }
}

/// Reads the dead letters of a topic in order, in batches.
pub struct DeadLetters {
    channel: Arc<Channel>,
    next: Option<u64>,
    end: u64,
}

impl DeadLetters {
    /// Starts at the first dead letter from `from` on. Ends with those that are there now.
    pub fn of(registry: &Registry, topic: &str, from: u64) -> Result<Self, RedriveError> {
        let topic = registry.get(topic).ok_or(RedriveError::NoTopic)?;
        let channel = topic.channel(REDRIVE_CHANNEL).ok_or(RedriveError::NoDeadLetters)?;
        let end = channel.inspect(|state, _| state.end());
        Ok(DeadLetters { channel, next: Some(from), end })
    }

    pub fn channel(&self) -> &Arc<Channel> {
        &self.channel
    }

    /// Where the next batch starts; `None` at the end.
    pub fn next_sequence(&self) -> Option<u64> {
        self.next
    }

    /// The next dead letters, at most `most`: sequence numbers and stored frames. `None` at the end. Leaves out messages
    /// in flight.
    pub async fn next(&mut self, most: usize) -> Result<Option<Vec<(u64, Vec<u8>)>>, MoveError> {
        let Some(from) = self.next else { return Ok(None) };
        let (channel, end) = (self.channel.clone(), self.end);
        let read = tokio::task::spawn_blocking(move || {
            let (sequences, next) = channel.inspect(|state, _| state.departable(from, end, most));
            let (frames, result) = channel.log().gather(&sequences);
            let frames: Vec<_> = frames.iter().map(|(sequence, frame)| (sequence, frame.to_vec())).collect();
            if frames.is_empty() {
                result?;
            }
            // A batch is bounded in bytes as well.
            let is_cut = frames.last().map(|(sequence, _)| *sequence) < sequences.last().copied();
            let next = match frames.last() {
                Some((last, _)) if is_cut => Some(last + 1),
                _ => next,
            };
            Ok::<_, MoveError>((frames, next))
        });
        let (frames, next) = read.await.map_err(|_| MoveError::Read)??;
        self.next = next;
        Ok(Some(frames))
    }
}

impl Registry {
    /// The redrive of this topic that was started last.
    pub fn redrive_of(&self, topic: &str) -> Option<Arc<Redrive>> {
        self.redrives.get(topic).map(|redrive| redrive.clone())
    }

    /// Starts a redrive in the background.
    pub fn start_redrive(
        self: &Arc<Self>,
        topic: &TopicName,
        options: RedriveOptions,
    ) -> Result<Arc<Redrive>, RedriveError> {
        let letters = DeadLetters::of(self, topic.as_str(), 0)?;
        let redrive = Arc::new(Redrive::new(options, &letters));
        match self.redrives.entry(topic.clone()) {
            dashmap::Entry::Occupied(entry) if entry.get().state() == RedriveState::Running => {
                return Err(RedriveError::Running);
            }
            dashmap::Entry::Occupied(mut entry) => _ = entry.insert(redrive.clone()),
            dashmap::Entry::Vacant(entry) => _ = entry.insert(redrive.clone()),
        }
        let (registry, started, name) = (self.clone(), redrive.clone(), topic.clone());
        drop(tokio::spawn(async move {
            // In a task of its own, so that a panic ends the redrive, too.
            let (worker, work) = (registry.clone(), started.clone());
            let work = tokio::spawn(async move { worker.redrive(&work, letters).await });
            let ended = match work.await {
                Ok(Ok(state)) => state,
                Ok(Err(error)) => RedriveState::Failed(error.to_string()),
                Err(panic) => RedriveState::Failed(panic.to_string()),
            };
            let moved = started.moved.load(Ordering::Relaxed);
            crate::log_info!(registry.engine(), "TOPIC({name}): redrive ended ({ended:?}): {moved} messages");
            *started.state.lock() = ended;
            started.ended.cancel();
        }));
        Ok(redrive)
    }

    /// Runs a redrive to its end. Returns how many messages it moved.
    #[cfg(test)]
    pub async fn redrive_now(
        self: &Arc<Self>,
        topic: &TopicName,
        options: RedriveOptions,
    ) -> Result<u64, RedriveError> {
        let letters = DeadLetters::of(self, topic.as_str(), 0)?;
        let redrive = Redrive::new(options, &letters);
        self.redrive(&redrive, letters).await?;
        Ok(redrive.moved.load(Ordering::Relaxed))
    }

    async fn redrive(
        self: &Arc<Self>,
        redrive: &Redrive,
        mut letters: DeadLetters,
    ) -> Result<RedriveState, MoveError> {
        let RedriveOptions { selection, destination, rate } = &redrive.options;
        let most = match rate {
            0 => BATCH,
            rate => usize::try_from(rate / BATCHES_PER_SECOND).unwrap_or(BATCH).clamp(1, BATCH),
        };
        let mut next_at = Instant::now();
        loop {
            if redrive.stop.is_cancelled() || self.engine().status.is_stopping() {
                return Ok(RedriveState::Stopped);
            }
            let moved = redrive.moved.load(Ordering::Relaxed);
            let left = selection.max.map_or(u64::MAX, |max| max.saturating_sub(moved));
            let Some(batch) = letters.next(most).await?.filter(|_| left > 0) else {
                return Ok(RedriveState::Completed);
            };
            redrive.examined.fetch_add(batch.len() as u64, Ordering::Relaxed);
            let (chosen, stay) = self.choose(&batch, selection, destination, left);
            redrive.without_channel.fetch_add(stay, Ordering::Relaxed);
            let groups = groups(chosen.into_iter(), destination);
            let mut moved_now = 0;
            for (group, sequences, messages) in groups {
                let moved = match &group {
                    Some((topic, channel)) => match self.get(topic.as_str()) {
                        Some(topic) => {
                            let only = channel.as_deref();
                            move_messages(&letters.channel, &topic, only, &sequences, &messages, false)
                                .await?
                        }
                        None => None,
                    },
                    None => None,
                };
                match moved {
                    Some(moved) => moved_now += moved,
                    None => _ = redrive.without_channel.fetch_add(sequences.len() as u64, Ordering::Relaxed),
                }
            }
            redrive.moved.fetch_add(moved_now, Ordering::Relaxed);
            if *rate > 0 {
                next_at += Duration::from_secs_f64(moved_now as f64 / *rate as f64);
                tokio::select! {
                    () = tokio::time::sleep_until(next_at) => {}
                    () = redrive.stop.cancelled() => {}
                }
            }
        }
    }

    /// What a redrive would do with the dead letters that match, by target. Moves nothing.
    pub async fn plan_redrive(
        self: &Arc<Self>,
        topic: &TopicName,
        options: &RedriveOptions,
    ) -> Result<Vec<Planned>, RedriveError> {
        let mut letters = DeadLetters::of(self, topic.as_str(), 0)?;
        let mut plan: Vec<Planned> = Vec::new();
        let mut left = options.selection.max.unwrap_or(u64::MAX);
        while left > 0
            && let Some(batch) = letters.next(BATCH).await?
        {
            for (_, frame) in batch.iter().filter(|(_, frame)| options.selection.matches(frame)) {
                if left == 0 {
                    break;
                }
                let target = target_of(frame, &options.destination);
                let exists = self.has_target(&target);
                left -= u64::from(exists);
                match plan.iter_mut().find(|planned| planned.target == target) {
                    Some(planned) => planned.count += 1,
                    None => plan.push(Planned { target, exists, count: 1 }),
                }
            }
        }
        Ok(plan)
    }

    /// The first `most` of these that match and whose target exists, and how many match before the last of them whose
    /// target does not.
    fn choose<'a>(
        &self,
        batch: &'a [(u64, Vec<u8>)],
        selection: &Selection,
        destination: &Destination,
        most: u64,
    ) -> (Vec<&'a (u64, Vec<u8>)>, u64) {
        let (mut chosen, mut stay) = (Vec::new(), 0);
        for letter in batch.iter().filter(|(_, frame)| selection.matches(frame)) {
            if chosen.len() as u64 >= most {
                break;
            }
            if self.has_target(&target_of(&letter.1, destination)) {
                chosen.push(letter);
            } else {
                stay += 1;
            }
        }
        (chosen, stay)
    }

    fn has_target(&self, target: &Target) -> bool {
        let Some((topic, channel)) = target else { return false };
        let has_channel =
            |topic: Arc<Topic>| channel.as_ref().is_none_or(|channel| topic.channel(channel).is_some());
        self.get(topic).is_some_and(has_channel)
    }

    /// Stops all redrives, and waits until they have ended.
    pub async fn stop_redrives(&self) {
        let running: Vec<Arc<Redrive>> = (self.redrives.iter())
            .filter(|redrive| redrive.state() == RedriveState::Running)
            .map(|redrive| redrive.clone())
            .collect();
        running.iter().for_each(|redrive| redrive.stop());
        for redrive in running {
            redrive.ended().await;
        }
    }

    /// Number of redrives that have not ended.
    pub fn running_redrives(&self) -> usize {
        self.redrives.iter().filter(|redrive| redrive.state() == RedriveState::Running).count()
    }

    /// Deletes dead letters. Returns how many; with `dry_run`, how many it would delete.
    pub async fn delete_dead_letters(
        self: &Arc<Self>,
        topic: &TopicName,
        selection: &Selection,
        dry_run: bool,
    ) -> Result<u64, RedriveError> {
        let mut letters = DeadLetters::of(self, topic.as_str(), 0)?;
        let mut deleted = 0;
        while selection.max.is_none_or(|max| deleted < max)
            && let Some(batch) = letters.next(BATCH).await?
        {
            let left = selection.max.map_or(u64::MAX, |max| max - deleted);
            let chosen = batch.iter().filter(|(_, frame)| selection.matches(frame));
            let chosen: Vec<u64> = chosen
                .take(usize::try_from(left).unwrap_or(usize::MAX))
                .map(|(sequence, _)| *sequence)
                .collect();
            if dry_run {
                deleted += chosen.len() as u64;
            } else if !chosen.is_empty() {
                deleted += self.delete_messages(letters.channel(), &chosen).await?;
            }
        }
        Ok(deleted)
    }

    async fn delete_messages(&self, channel: &Arc<Channel>, sequences: &[u64]) -> Result<u64, MoveError> {
        let journal = self.engine().journal_for(false).cloned();
        let appended = channel.depart(sequences, |_, removed| match (&journal, removed) {
            (Some(journal), Some(removed)) => journal.append(&removed).map(Some).map_err(StorageError::from),
            _ => Ok(None),
        })?;
        let Some((departed, ticket)) = appended else { return Ok(0) };
        let channel = channel.clone();
        let outcome = tokio::spawn(async move {
            let committed = match journal.zip(ticket) {
                Some((journal, ticket)) => journal.commit(ticket).await,
                None => Ok(()),
            };
            match &committed {
                Ok(()) => channel.departed(&departed, false),
                Err(_) => channel.put_back(&departed),
            }
            committed.map(|()| departed.len() as u64)
        });
        match outcome.await {
            Ok(Ok(deleted)) => Ok(deleted),
            Ok(Err(error)) => Err(StorageError::of_commit(&error, "the messages may be deleted").into()),
            Err(panic) => Err(StorageError::in_doubt(panic, "the messages may be deleted").into()),
        }
    }
}

/// Topic and channel to which a dead letter goes. Without a channel, all channels receive it.
pub type Target = Option<(String, Option<String>)>;

/// Messages with the same target and the same form, in order.
type Group = (Target, Vec<u64>, HashMap<u64, Published>);

fn target_of(frame: &[u8], destination: &Destination) -> Target {
    match destination {
        Destination::Origin => dead_letter::origin(frame).map(|(topic, channel)| (topic, Some(channel))),
        Destination::Topic(topic, channel) => {
            Some((topic.to_string(), channel.as_ref().map(ToString::to_string)))
        }
    }
}

fn groups<'a>(letters: impl Iterator<Item = &'a (u64, Vec<u8>)>, destination: &Destination) -> Vec<Group> {
    let mut groups: Vec<(Form, Group)> = Vec::new();
    for (sequence, frame) in letters {
        let (target, message) = (target_of(frame, destination), dead_letter::revived(frame));
        let form = message.form;
        let index = groups.iter().position(|(of, group)| *of == form && group.0 == target);
        let index = index.unwrap_or_else(|| {
            groups.push((form, (target, Vec::new(), HashMap::new())));
            groups.len() - 1
        });
        let (_, (_, sequences, messages)) = &mut groups[index];
        sequences.push(*sequence);
        messages.insert(*sequence, message);
    }
    groups.into_iter().map(|(_, group)| group).collect()
}
