//! Moves everything that a node holds for consumers to another nsqd: channel by channel, in batches.
//!
//! ```text
//!   here:   read a batch ----------------------------------> remove it (durable) -> next batch
//!                       \                                   /
//!   there:               store it, and how it stood (durable)
//! ```
//!
//! A batch is sent only after the one before was removed. So after a crash on either side, or a lost answer, only the
//! newest batch is in doubt. The other node remembers it ([`crate::topic::adoptions`]), and each run begins by asking for it.
//! A transfer has a number, which is durable before the first batch: a later run to the same address continues it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nsq_protocol::MESSAGE_FRAME_OVERHEAD;
use nsq_protocol::headers::{Form, has_headers};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::receiver::{Receiver, SendError, Subject};
use super::wire::{BeginBody, LikenessBody};
use crate::channel::Channel;
use crate::channel::saved::Clocks;
use crate::channel::transfer::Movable;
use crate::clock;
use crate::storage::SequenceRange;
use crate::topic::Topic;
use crate::topic::adopting::{Incoming, IncomingBatch, Likeness};
use crate::topic::adoptions::MOST_MESSAGES;
use crate::topic::registry::Registry;

/// Minimum time between two rounds over all channels.
const ROUND_INTERVAL: Duration = Duration::from_millis(100);
/// The same after a failure.
pub const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// What a move needs to know.
pub struct MoveOptions {
    /// The address, as transfers remember it.
    pub target: String,
    /// The node that drains, for the other node's log.
    pub source: String,
    /// The process that drains.
    pub process: String,
    /// How long to go on without success. Consumers also have this long for what they have in flight.
    pub patience: Duration,
    /// Time between two attempts after a failure: [`RETRY_INTERVAL`] except in tests.
    pub retry_interval: Duration,
}

/// Messages that were moved, for the progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedBatch {
    pub subject: Subject,
    pub messages: u64,
    /// Bytes of bodies and headers.
    pub bytes: u64,
}

/// Why a move did not complete. What was not moved stays here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveFailure {
    /// Somebody ended the drain.
    Cancelled,
    Failed(String),
}

/// Moves the messages of a node; see the module.
pub struct Mover<R> {
    registry: Arc<Registry>,
    receiver: R,
    options: MoveOptions,
    session: u64,
    cancel: CancellationToken,
    on_moved: Box<dyn Fn(&MovedBatch) + Send + Sync>,
}

/// What stopped the work on a channel.
enum Halt {
    Cancelled,
    Send(SendError),
    /// Something failed here.
    Here(String),
}

impl From<SendError> for Halt {
    fn from(error: SendError) -> Self {
        Halt::Send(error)
    }
}

impl<R: Receiver> Mover<R> {
    pub fn new(
        registry: Arc<Registry>,
        receiver: R,
        options: MoveOptions,
        cancel: CancellationToken,
        on_moved: Box<dyn Fn(&MovedBatch) + Send + Sync>,
    ) -> Self {
        Mover { registry, receiver, options, session: fastrand::u64(1..), cancel, on_moved }
    }

    /// Moves everything, except what is ephemeral. Hand-out stays stopped at the end; see [`resume`]. Do not drop the
    /// future: cancel the token instead.
    pub async fn run(&self) -> Result<(), MoveFailure> {
        let began = Instant::now();
        let (mut left_before, mut progressed_at) = (u64::MAX, Instant::now());
        let mut is_last = false;
        self.registry.stop_redrives().await;
        loop {
            let failure = match self.round().await {
                Ok(()) => None,
                Err(Halt::Cancelled) => return Err(MoveFailure::Cancelled),
                Err(Halt::Send(error)) if error.is_final => return Err(MoveFailure::Failed(error.text)),
                Err(Halt::Send(error)) => Some(error.text),
                Err(Halt::Here(text)) => Some(text),
            };
            let left = self.left();
            if left == 0 && failure.is_none() {
                if std::mem::replace(&mut is_last, true) {
                    return Ok(());
                }
                // Completes transfers of messages that consumers have finished meanwhile.
                continue;
            }
            is_last = false;
            if left < left_before {
                (left_before, progressed_at) = (left, Instant::now());
            }
            if let Some(text) = &failure
                && progressed_at.elapsed() >= self.options.patience
            {
                return if left == 0 { Ok(()) } else { Err(MoveFailure::Failed(text.clone())) };
            }
            if began.elapsed() >= self.options.patience {
                self.durable_channels().for_each(|(_, channel)| channel.recall_in_flight());
            }
            let pause = if failure.is_some() { self.options.retry_interval } else { ROUND_INTERVAL };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.cancel.cancelled() => return Err(MoveFailure::Cancelled),
            }
        }
    }

    /// Moves what can be moved now. A failure does not keep it from the channels that follow.
    async fn round(&self) -> Result<(), Halt> {
        let mut failure = None;
        for topic in self.durable_topics() {
            // Also for those that are new, such as dead-letter topics.
            topic.set_moving_out(true);
            let channels = topic.channels().into_iter().filter(|channel| !channel.is_ephemeral());
            for channel in channels {
                note(&mut failure, self.channel(&topic, &channel).await)?;
            }
            note(&mut failure, self.held(&topic).await)?;
        }
        failure.map_or(Ok(()), Err)
    }

    /// Messages that are left to move.
    fn left(&self) -> u64 {
        self.durable_topics().iter().map(|topic| topic.movable_count()).sum()
    }

    fn durable_topics(&self) -> Vec<Arc<Topic>> {
        self.registry.all().into_iter().filter(|topic| !topic.name().is_ephemeral()).collect()
    }

    fn durable_channels(&self) -> impl Iterator<Item = (Arc<Topic>, Arc<Channel>)> {
        let of =
            |topic: Arc<Topic>| topic.channels().into_iter().map(move |channel| (topic.clone(), channel));
        self.durable_topics().into_iter().flat_map(of).filter(|(_, channel)| !channel.is_ephemeral())
    }

    /// Moves the messages of a channel that are not in flight.
    async fn channel(&self, topic: &Arc<Topic>, channel: &Arc<Channel>) -> Result<(), Halt> {
        let is_under_way = topic.transfer(Some(channel)).is_some();
        let (may_move, unfinished, cursor_moves) = channel.inspect(|state, _| {
            let (movable, next) = state.movable(0, MOST_MESSAGES);
            (!movable.is_empty() || next.is_some(), state.unfinished_count(), state.cursor_moves())
        });
        if !may_move && (unfinished > 0 || !is_under_way) {
            return Ok(());
        }
        let subject = self.begin(topic, Some(channel)).await?;
        let mut from = Some(0);
        while let Some(at) = from {
            if self.cancel.is_cancelled() {
                return Err(Halt::Cancelled);
            }
            if channel.inspect(|state, _| state.cursor_moves()) != cursor_moves {
                // Messages that were moved are here again, as somebody wants. They need another transfer.
                topic.forget_transfer(Some(channel));
                return Ok(());
            }
            let source = channel.clone();
            let read = tokio::task::spawn_blocking(move || source.read_movable(at, MOST_MESSAGES)).await;
            let read = read.map_err(here)?.map_err(|_| cannot_read())?;
            if !read.lost.is_empty() {
                channel.remove_moved(&read.lost).await.map_err(here)?;
            }
            let (messages, is_all) = of_one_form(read.messages);
            if is_all {
                from = read.next;
            }
            if messages.is_empty() {
                continue;
            }
            let sequences: Vec<u64> = messages.iter().map(|(message, _)| message.sequence).collect();
            channel.set_in_transit(sequences.clone());
            let moved = self.send(&subject, messages).await?;
            channel.remove_moved(&sequences).await.map_err(here)?;
            self.moved(&moved);
        }
        if channel.inspect(|state, _| state.unfinished_count()) == 0 {
            self.receiver.end(&subject).await?;
            topic.forget_transfer(Some(channel));
        }
        Ok(())
    }

    /// Moves the messages that no channel has yet.
    async fn held(&self, topic: &Arc<Topic>) -> Result<(), Halt> {
        if topic.unreleased_count() == 0 && topic.transfer(None).is_none() {
            return Ok(());
        }
        // All its channels receive the messages, so they must exist there.
        for channel in topic.channels().iter().filter(|channel| !channel.is_ephemeral()) {
            self.begin(topic, Some(channel)).await?;
        }
        let subject = self.begin(topic, None).await?;
        loop {
            if self.cancel.is_cancelled() {
                return Err(Halt::Cancelled);
            }
            let source = topic.clone();
            let held = tokio::task::spawn_blocking(move || source.read_held(MOST_MESSAGES)).await;
            let Some(held) = held.map_err(here)?.map_err(|_| cannot_read())? else { break };
            let moved = match held.messages.is_empty() {
                true => None,
                false => {
                    let subject = Subject { channel: held.channel, ..subject.clone() };
                    Some(self.send(&subject, held.messages).await?)
                }
            };
            topic.remove_held(held.range).await.map_err(here)?;
            moved.iter().for_each(|moved| self.moved(moved));
        }
        self.receiver.end(&subject).await?;
        topic.forget_transfer(None);
        Ok(())
    }

    /// Begins or continues a transfer. Removes what the other node has of the batch that is in doubt.
    async fn begin(&self, topic: &Arc<Topic>, channel: Option<&Arc<Channel>>) -> Result<Subject, Halt> {
        let target = &self.options.target;
        let (transfer, replaced) = topic.transfer_to(channel.map(|channel| &**channel), target);
        let subject = Subject {
            topic: topic.name().clone(),
            channel: channel.map(|channel| channel.name().clone()),
            transfer,
            session: self.session,
        };
        if let Some(other) = replaced {
            crate::log_warn!(
                self.registry.engine(),
                "NSQ: the move of {subject} to {other} was not completed; up to {MOST_MESSAGES} messages may be there and move again to {target}"
            );
        }
        // Otherwise a later run would begin another transfer, and send the batch in doubt again.
        let journal = self.registry.engine().store.journal.clone();
        let flushed = crate::blocking::run(move || journal.map_or(Ok(()), |journal| journal.flush())).await;
        flushed.map_err(here)?.map_err(here)?;
        let body = BeginBody {
            source: self.options.source.clone(),
            process: self.options.process.clone(),
            topic: LikenessBody::from(&Likeness {
                settings: topic.own_settings(),
                is_paused: topic.depth().paused,
            }),
            channel: channel.map(|channel| {
                let is_paused = channel.inspect(|state, _| state.is_paused());
                LikenessBody::from(&Likeness { settings: channel.own_settings(), is_paused })
            }),
        };
        let answer = self.receiver.begin(&subject, &body).await?;
        match channel {
            Some(channel) => {
                let known: Vec<u64> = answer.runs().flat_map(|run| run.iter()).take(MOST_MESSAGES).collect();
                channel.remove_moved(&known).await.map_err(here)?;
            }
            None => {
                // The batch is at the front, unless it was removed.
                let released = topic.released_to();
                for run in answer.runs().filter(|run| run.to > released) {
                    let range = SequenceRange::new(topic.released_to(), run.to);
                    topic.remove_held(range).await.map_err(here)?;
                }
            }
        }
        Ok(subject)
    }

    async fn send(&self, subject: &Subject, messages: Vec<(Movable, Vec<u8>)>) -> Result<MovedBatch, Halt> {
        let batch = incoming(subject, messages);
        let bytes = batch.messages.iter().map(|message| message.bytes.len() as u64).sum();
        self.receiver.batch(subject, &batch).await?;
        Ok(MovedBatch { subject: subject.clone(), messages: batch.messages.len() as u64, bytes })
    }

    fn moved(&self, batch: &MovedBatch) {
        self.registry.engine().metrics().moved_messages.add(batch.messages);
        (self.on_moved)(batch);
    }
}

/// Hands messages out again, after a move that did not complete, or when a drain is ended.
pub fn resume(registry: &Registry) {
    registry.all_unsorted().iter().for_each(|topic| topic.set_moving_out(false));
}

/// Keeps the first failure. Returns what must stop the round.
fn note(failure: &mut Option<Halt>, result: Result<(), Halt>) -> Result<(), Halt> {
    match result {
        Ok(()) => Ok(()),
        Err(Halt::Cancelled) => Err(Halt::Cancelled),
        Err(Halt::Send(error)) if error.is_final => Err(Halt::Send(error)),
        Err(halt) => {
            failure.get_or_insert(halt);
            Ok(())
        }
    }
}

fn here(error: impl ToString) -> Halt {
    Halt::Here(error.to_string())
}

fn cannot_read() -> Halt {
    Halt::Here("messages cannot be read from disk".to_owned())
}

/// The messages that have the form of the first, and whether these are all.
fn of_one_form(mut messages: Vec<(Movable, Vec<u8>)>) -> (Vec<(Movable, Vec<u8>)>, bool) {
    let offered = messages.len();
    if let Some(form) = messages.first().map(|(_, frame)| has_headers(frame)) {
        messages.retain(|(_, frame)| has_headers(frame) == form);
    }
    let is_all = messages.len() == offered;
    (messages, is_all)
}

/// The batch of these messages, which have one form.
fn incoming(subject: &Subject, messages: Vec<(Movable, Vec<u8>)>) -> IncomingBatch {
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let form = match messages.first() {
        Some((_, frame)) if has_headers(frame) => Form::WithHeaders,
        _ => Form::Plain,
    };
    let messages = messages.into_iter().map(|(message, frame)| {
        let frame = Bytes::from(frame);
        let at = MESSAGE_FRAME_OVERHEAD.min(frame.len());
        Incoming {
            source: message.sequence,
            attempts: message.attempts,
            failures: message.failures,
            due_ns: message.due.map(|due| clocks.to_wall(due)),
            bytes: frame.slice(at..),
        }
    });
    IncomingBatch { transfer: subject.transfer, session: subject.session, form, messages: messages.collect() }
}
