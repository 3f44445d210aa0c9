//! Storing the messages of an id once: what appends, settings and checkpoints do with the topic's
//! [`Window`](super::dedupe::Window).
//!
//! The window's lock is held around an append to the log, so that of two messages with the same id only one is
//! appended. It comes after the topic's state in the order of locks, and before those of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsq_protocol::headers::Form;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::dedupe::{IdDigest, LearnedIds, Verdict, Window, WindowCounts};
use super::{Publication, PublishError, State, Topic};
use crate::channel::saved::Clocks;
use crate::clock::{self, Nanos};
use crate::storage::checkpoint::IdsCheckpoint;
use crate::storage::record::Record;

/// The outcome of a batch; `None` until it is known.
pub(super) type Outcome = watch::Receiver<Option<Result<(), PublishError>>>;
pub(super) type OutcomeSender = watch::Sender<Option<Result<(), PublishError>>>;

/// The ids that a topic remembers, if it has the setting `dedupe`.
pub(super) struct Ids {
    /// Whether there is a window. Read without the lock, so that other topics pay nothing.
    is_on: AtomicBool,
    window: Mutex<Option<Box<Window<Outcome>>>>,
}

impl Ids {
    /// Ids are remembered for `length`; 0 for not at all.
    pub fn new(length: Nanos, learned: LearnedIds) -> Self {
        let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
        let window = (length > 0).then(|| Box::new(learned.into_window(length, clocks)));
        Ids { is_on: AtomicBool::new(window.is_some()), window: Mutex::new(window) }
    }

    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Forgets everything, because the topic is deleted.
    pub fn discard(&self) {
        self.is_on.store(false, Ordering::Release);
        *self.window.lock() = None;
    }
}

impl Topic {
    /// Appends the messages with headers whose id is not remembered. The publication of the others completes with the
    /// publication that has their message, and fails like it.
    pub(super) fn append_once(
        &self,
        topic: Arc<Topic>,
        messages: Vec<&[u8]>,
        body_bytes: usize,
        delay: Option<Duration>,
    ) -> Result<Publication, PublishError> {
        // Before the lock: it needs the topic's state.
        let room = self.room_for(messages.len(), body_bytes);
        let ids: Vec<Option<IdDigest>> =
            messages.iter().take(room).map(|message| IdDigest::of_published(message)).collect();
        let mut window = self.ids.window.lock();
        let Some(window) = window.as_mut().filter(|_| ids.iter().any(Option::is_some)) else {
            drop(window);
            let stored = self.store(
                Form::WithHeaders,
                messages.iter().copied().take(room),
                (messages.len(), body_bytes),
                delay,
            )?;
            return Ok(Publication::new(topic, stored, None));
        };
        let offer = window.offer(ids.into_iter(), clock::monotonic());
        let dropped = messages.len() - room;
        let new: Vec<&[u8]> = (messages.iter().zip(&offer.verdicts))
            .filter(|(_, verdict)| matches!(verdict, Verdict::New(_)))
            .map(|(message, _)| *message)
            .collect();
        let others = offer.unsettled.iter().map(|(_, outcome)| outcome.clone()).collect();
        let (outcome_tx, outcome_rx) = watch::channel(None);
        if new.is_empty() {
            let answers = window.accept(&offer, 0, outcome_rx);
            return Ok(Publication::of_duplicates(topic, answers, others));
        }
        let new_bytes = new.iter().map(|message| message.len()).sum();
        let stored =
            self.store(Form::WithHeaders, new.iter().copied(), (new.len() + dropped, new_bytes), delay);
        match stored {
            Ok(stored) => {
                let answers = window.accept(&offer, stored.0.from, outcome_rx);
                Ok(Publication::new(topic, stored, Some(Once { answers, outcome: Some(outcome_tx), others })))
            }
            Err(error) => {
                window.withdraw(&offer);
                Err(error)
            }
        }
    }

    /// The outcome of the batch that begins with `first` is known.
    pub(super) fn settle_ids(&self, first: u64, accepted: bool) {
        if let Some(window) = &mut *self.ids.window.lock() {
            window.settle(first, accepted);
        }
    }

    /// Applies the value of `dedupe` that is in force now. Returns the record to write if the topic begins or ceases to
    /// remember ids.
    #[must_use]
    pub(super) fn update_ids(&self, state: &State) -> Option<Record<'static>> {
        let length = self.engine.policy_sources().of_topic(self.name.as_str(), state.topic.own()).dedupe;
        let mut window = self.ids.window.lock();
        match &mut *window {
            Some(window) if length > 0 => {
                window.set_length(length);
                return None;
            }
            None if length == 0 => return None,
            _ => {}
        }
        // A start must not learn ids of messages from before, which were stored without regard to their ids.
        let before = self.log.end();
        let most = self.engine.limits.dedupe_max_ids;
        *window = (length > 0).then(|| Box::new(Window::new(length, most, before)));
        self.ids.is_on.store(window.is_some(), Ordering::Release);
        self.note_ids();
        Some(Record::TopicIdsForgotten { topic: self.number, before })
    }

    /// Lets upkeep expire ids, if the topic remembers any.
    pub(super) fn note_ids(&self) {
        if self.ids.is_on() {
            self.engine.upkeep_hints.set_remembers_ids();
        }
    }

    /// Forgets all ids. Returns the record to write if the topic remembers ids.
    #[must_use]
    pub(super) fn forget_ids(&self) -> Option<Record<'static>> {
        let mut window = self.ids.window.lock();
        let window = window.as_mut()?;
        let before = self.log.end();
        window.forget_before(before);
        Some(Record::TopicIdsForgotten { topic: self.number, before })
    }

    /// Forgets ids that are older than the window, and frees their memory.
    pub fn expire_ids(&self) {
        if self.ids.is_on()
            && let Some(window) = &mut *self.ids.window.lock()
        {
            window.expire(clock::monotonic());
        }
    }

    /// Numbers of remembered ids; `None` if the topic remembers none.
    pub fn id_counts(&self) -> Option<WindowCounts> {
        self.expire_ids();
        self.ids.window.lock().as_ref().map(|window| window.counts())
    }

    /// Whether the topic remembers this id.
    pub fn remembers(&self, id: &str) -> bool {
        self.expire_ids();
        self.ids.window.lock().as_ref().is_some_and(|window| window.remembers(IdDigest::of(id)))
    }

    /// Saves the ids for a checkpoint, in slices of `slice`. After each one, the lock is released and `between` is
    /// called. The journal holds what changes meanwhile.
    pub(super) fn save_ids(&self, clocks: Clocks, slice: usize, between: &mut dyn FnMut()) -> IdsCheckpoint {
        let mut saved = IdsCheckpoint::default();
        let until = self.log.end();
        let mut next = Some(0);
        while let Some(from) = next.filter(|&from| from < until && self.ids.is_on()) {
            {
                let window = self.ids.window.lock();
                let Some(window) = &*window else { break };
                if from == 0 {
                    saved.forgotten_before = window.forgotten_before();
                }
                next = window.save_slice(from, slice, clocks, |id| saved.list.push(id));
            }
            if next.is_some() {
                between();
            }
        }
        saved
    }
}

/// What a publication with ids knows more than others.
pub(super) struct Once {
    /// For each message, in order: its sequence number, and whether it is a duplicate.
    pub answers: Vec<(u64, bool)>,
    /// For publications of duplicates.
    pub outcome: Option<OutcomeSender>,
    /// The outcomes of other publications that have the messages of its duplicates.
    pub others: Vec<Outcome>,
}

/// Waits for the outcome of another publication. Dropping the future loses nothing.
pub(super) async fn outcome_of(mut other: Outcome) -> Result<(), PublishError> {
    // An error means that nobody waits for the commit of the first message, because nsqd is stopping.
    let outcome = other.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
    outcome.ok().flatten().unwrap_or(Err(PublishError::Exiting))
}
