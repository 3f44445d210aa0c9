//! FIN, REQ, TOUCH and REJ: commands that arrive together run under one lock of the channel.

use parking_lot::MutexGuard;

use super::saved::Clocks;
use super::state::{AckError, ChannelState, Requeued};
use super::{Channel, ConsumerKey, Inner};
use crate::clock::{self, Nanos};
use crate::storage::record::Record;

impl Channel {
    /// Starts a run of FIN, REQ, TOUCH and REJ by one consumer. Finished messages are recorded, and other consumers woken,
    /// once: when the run ends.
    pub fn acknowledge(&self, key: ConsumerKey) -> Acknowledging<'_> {
        let monotonic = clock::monotonic();
        let now = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
        Acknowledging { channel: self, key, now, inner: Some(self.inner.lock()) }
    }
}

/// A run of FIN, REQ, TOUCH and REJ by one consumer, under the channel's lock. Dropping it ends the run.
pub struct Acknowledging<'a> {
    channel: &'a Channel,
    key: ConsumerKey,
    now: Clocks,
    inner: Option<MutexGuard<'a, Inner>>,
}

impl Acknowledging<'_> {
    /// FIN.
    pub fn finish(&mut self, sequence: u64) -> Result<(), AckError> {
        let (key, now) = (self.key, self.now);
        self.state().finish(key, sequence, now)
    }

    /// REQ, at once (or as the retry schedule says) or after a delay.
    pub fn requeue(&mut self, sequence: u64, delay: Nanos) -> Result<(), AckError> {
        let (key, now) = (self.key, self.now.monotonic);
        let requeued = self.state().requeue(key, sequence, delay, now)?;
        if let Some(Requeued { attempts, failures, delay }) = requeued {
            self.channel.record(&Record::Requeue {
                topic: self.channel.parts.topic_number,
                channel: self.channel.parts.number,
                sequence,
                attempts,
                failures,
                due_ns: if delay == 0 { 0 } else { clock::wall_ns().saturating_add_unsigned(delay) },
            });
        }
        let delay = requeued.map_or(delay, |requeued| requeued.delay);
        if delay > 0
            && let Some(inner) = &mut self.inner
        {
            inner.schedule(Some(now.saturating_add(delay)));
        }
        Ok(())
    }

    /// TOUCH.
    pub fn touch(&mut self, sequence: u64) -> Result<(), AckError> {
        // The deadline only moves later, so the timer needs no change.
        let (key, now) = (self.key, self.now.monotonic);
        self.state().touch(key, sequence, now)
    }

    /// REJ. Records nothing: a start before the message is a dead letter delivers it again.
    pub fn reject(&mut self, sequence: u64, error: &str) -> Result<(), AckError> {
        let key = self.key;
        self.state().reject(key, sequence, error)
    }

    /// As TOUCH, with another timeout than the consumer's. Returns the new deadline.
    pub(super) fn extend(&mut self, sequence: u64, timeout: Nanos) -> Result<Nanos, AckError> {
        let (key, now) = (self.key, self.now.monotonic);
        let deadline = self.state().extend(key, sequence, timeout, now)?;
        if let Some(inner) = self.inner() {
            inner.schedule(Some(deadline));
        }
        Ok(deadline)
    }

    /// The consumer that has the message in flight since `delivered_at`.
    pub(super) fn owner_since(
        &mut self,
        sequence: u64,
        delivered_at: Nanos,
    ) -> Result<ConsumerKey, AckError> {
        self.state().owner_since(sequence, delivered_at)
    }

    /// From now on, the run is for this consumer.
    pub(super) fn act_for(&mut self, key: ConsumerKey) {
        self.key = key;
    }

    /// `None` while it is dropped.
    pub(super) fn inner(&mut self) -> Option<&mut Inner> {
        self.inner.as_deref_mut()
    }

    fn state(&mut self) -> &mut ChannelState {
        match &mut self.inner {
            Some(inner) => &mut inner.state,
            None => unreachable!("the guard is taken only by drop"),
        }
    }
}

impl Drop for Acknowledging<'_> {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.take() {
            self.channel.after_change(inner);
        }
    }
}
