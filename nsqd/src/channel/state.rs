//! Pure: what decides about one channel's messages, but for handing them out, which is in [`super::take`], and for
//! moving the read cursor, in [`super::moving`].
//!
//! ```text
//!             release                 take                    finish
//!  (topic) ------------> ahead ----------------> in flight ------------> finished
//!             |                                   |   ^
//!   deferred  |      due            requeue(delay)|   | take again
//!  publish    +--> deferred ----+   <-------------+   |
//!                     ^         v                 |   |
//!                     |       waiting ----------------+
//!                     +----------- requeue(0), time out, disconnect --> waiting
//! ```
//!
//! A channel holds no messages: *ahead* is the range from the read cursor to the end, *outstanding* are those in
//! flight, deferred or waiting, and everything else behind the cursor is finished. Messages that wait to be handed
//! out again stand behind all that was there when they came back, as in NSQ: each remembers where the end was then.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::consumers::{ConsumerKey, Consumers};
use super::latency::{Latencies, LatencyHistogram};
use super::outstanding::{Entry, Outstanding, Place, Recall, Slot};
use super::runs::Runs;
use super::saved::Clocks;
use super::skipped::Skipped;
use crate::clock::Nanos;
use crate::locality::Locality;
use crate::log::Ranges;
use crate::log::retention::merged;

/// Why an acknowledgement was refused. The connection stays usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckError {
    /// Finished, requeued or timed out before, or never there.
    NotInFlight,
    /// In flight to somebody else.
    NotOwner,
}

/// What a release brings besides plain messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// These sequence numbers do not exist (refused or emptied).
    Skipped {
        /// First of them.
        from: u64,
        /// One past the last.
        to: u64,
    },
    /// These were published deferred.
    Deferred {
        /// First of them.
        from: u64,
        /// One past the last.
        to: u64,
        /// When they are due.
        due: Nanos,
    },
}

/// Counters that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Messages that ever entered.
    pub message_count: u64,
    /// REQs.
    pub requeue_count: u64,
    /// Time-outs in flight.
    pub timeout_count: u64,
    /// Messages that could not be read back from disk.
    pub lost_count: u64,
    /// FINs, since the start.
    pub finish_count: u64,
}

/// An empty heap of due times keeps room for so many.
const KEEP_DEFERRED: usize = 8192;

/// See the module.
#[derive(Debug)]
pub struct ChannelState {
    /// First sequence number never handed out.
    pub(super) cursor: u64,
    /// One past the last that was released to this channel.
    pub(super) end: u64,
    /// Parts of `cursor..end` that are not to be handed out in turn: deferred, dropped, refused.
    pub(super) skipped: Skipped,
    pub(super) outstanding: Outstanding,
    /// To be handed out again, with the end at the time they came back.
    pub(super) waiting: VecDeque<(u64, Slot)>,
    /// Due times. A deferred message leaves only by falling due or with everything else, so nothing here is stale.
    pub(super) deferred: BinaryHeap<Reverse<(Nanos, Slot)>>,
    pub(super) paused: bool,
    /// Messages cannot be read just now.
    pub(super) suspended: bool,
    /// The last take needs messages from disk: nobody is woken before they are read.
    pub(super) stalled: bool,
    /// Number of messages at the front of `waiting` that are sorted.
    pub(super) sorted_count: usize,
    pub(super) counters: Counters,
    pub(super) consumers: Consumers,
    /// Was woken and has not taken yet. Nobody else is woken meanwhile: it wakes the next, if it leaves some, so that a
    /// busy channel is served in few large takes.
    pub(super) woken: Option<ConsumerKey>,
    pub(super) in_flight_count: usize,
    /// Finished since [`ChannelState::drain_finished`] was last called.
    pub(super) finished: Runs,
    max_message_timeout: Nanos,
    /// What exceeds so many messages is dropped: of an ephemeral name, unless the topic keeps what is finished.
    pub(super) bound: Option<u64>,
    /// How often it was moved or emptied: a checkpoint is of before that or of after it.
    pub(super) upheavals: u64,
    pub(super) random: u64,
    /// None unless they are measured.
    pub(super) latencies: Option<Box<Latencies>>,
}

/// What [`ChannelState::empty`] has dropped.
#[must_use = "freeing it takes a while"]
pub struct Emptied {
    _outstanding: Outstanding,
    _waiting: VecDeque<(u64, Slot)>,
    _deferred: BinaryHeap<Reverse<(Nanos, Slot)>>,
    _skipped: Skipped,
    _finished: Runs,
}

impl ChannelState {
    /// An empty channel that starts at `cursor`. `max_message_timeout` caps what TOUCH can reach per delivery.
    pub fn new(cursor: u64, max_message_timeout: Nanos) -> Self {
        ChannelState {
            cursor,
            end: cursor,
            skipped: Skipped::default(),
            outstanding: Outstanding::default(),
            waiting: VecDeque::new(),
            deferred: BinaryHeap::new(),
            paused: false,
            suspended: false,
            stalled: false,
            sorted_count: 0,
            counters: Counters::default(),
            consumers: Consumers::default(),
            woken: None,
            in_flight_count: 0,
            finished: Runs::default(),
            max_message_timeout,
            bound: None,
            upheavals: 0,
            random: cursor.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            latencies: None,
        }
    }

    /// The topic has released its messages up to `to`. With `bound`, what does not fit is dropped, newest first
    /// (ephemeral channels). It counts all the same, as in NSQ.
    pub fn release(&mut self, to: u64, marks: &[Mark], bound: Option<u64>) {
        self.bound = bound;
        let from = self.end;
        if to <= from {
            return;
        }
        let mut skipped_count = 0;
        let mut plain = Vec::new();
        let mut at = from;
        for &mark in marks {
            let (start, end) = match mark {
                Mark::Skipped { from, to } | Mark::Deferred { from, to, .. } => (from.max(at), to),
            };
            if start >= end {
                continue;
            }
            if bound.is_some() && at < start {
                plain.push((at, start));
            }
            at = end;
            self.skipped.push(start, end);
            match mark {
                Mark::Skipped { .. } => skipped_count += end - start,
                Mark::Deferred { due, .. } => {
                    for sequence in start..end {
                        // What does not fit is skipped only, so it is dropped.
                        if self.has_room_to_defer() {
                            self.defer_ahead(sequence, 0, due);
                        }
                    }
                }
            }
        }
        self.end = to;
        if let Some(bound) = bound {
            if at < to {
                plain.push((at, to));
            }
            self.drop_newest(&plain, bound);
        }
        self.counters.message_count += (to - from) - skipped_count;
        self.pass_skipped();
    }

    /// Drops released messages beyond the bound, newest first.
    fn drop_newest(&mut self, released: &[(u64, u64)], bound: u64) {
        let room = bound.saturating_add(self.consumers.room());
        let mut excess = self.depth().saturating_sub(room);
        let mut dropped = Vec::new();
        for &(from, to) in released.iter().rev() {
            let count = excess.min(to - from);
            if count > 0 {
                dropped.push((to - count, to));
                excess -= count;
            }
        }
        // Skipped ranges are kept in order; what is dropped may lie before a deferred one of the same release.
        let mut all: Vec<_> = self.skipped.iter().chain(dropped.iter().copied()).collect();
        all.sort_unstable();
        self.skipped = all.into_iter().collect();
    }

    pub(super) fn defer_ahead(&mut self, sequence: u64, attempts: u16, due: Nanos) {
        let slot = self
            .outstanding
            .insert_ahead(Entry { deadline: due, ..Entry::new(sequence, attempts, Place::Deferred) });
        self.deferred.push(Reverse((due, slot)));
    }

    /// Moves the cursor over what is not to be handed out in turn.
    pub(super) fn pass_skipped(&mut self) {
        while let Some((from, to)) = self.skipped.first()
            && from <= self.cursor
        {
            self.cursor = self.cursor.max(to);
            self.skipped.pop_first();
        }
    }

    /// From now on it is measured how long messages take from publishing to FIN, over windows of this length.
    pub fn measure_latencies(&mut self, window: Nanos) {
        self.latencies = Some(Box::new(Latencies::new(window)));
    }

    /// Adds the latencies that were measured, if any, to `sum`.
    pub fn add_latencies_to(&self, sum: &mut LatencyHistogram, now: Nanos) {
        if let Some(latencies) = &self.latencies {
            latencies.add_to(sum, now);
        }
    }

    /// FIN.
    pub fn finish(&mut self, key: ConsumerKey, sequence: u64, now: Clocks) -> Result<(), AckError> {
        let slot = self.owned(key, sequence)?;
        if let Some(latencies) = &mut self.latencies {
            latencies.finished(slot, now);
        }
        self.leave_flight(slot, |consumer| consumer.finish_count += 1);
        self.counters.finish_count += 1;
        if self.outstanding.entry(slot).recall != Recall::No {
            self.come_back(slot);
            return Ok(());
        }
        self.outstanding.remove(slot);
        self.finished.push(sequence, sequence + 1);
        Ok(())
    }

    /// REQ: at once behind what is there, or after `delay`. Returns the attempts so far; none if that need not be
    /// remembered, because the cursor was moved over the message while it was in flight.
    pub fn requeue(
        &mut self,
        key: ConsumerKey,
        sequence: u64,
        delay: Nanos,
        now: Nanos,
    ) -> Result<Option<u16>, AckError> {
        let slot = self.owned(key, sequence)?;
        self.leave_flight(slot, |consumer| consumer.requeue_count += 1);
        self.counters.requeue_count += 1;
        let has_room = self.has_room_to_defer();
        let entry = self.outstanding.entry_mut(slot);
        if entry.recall == Recall::Finish || (entry.recall == Recall::HandOut && delay == 0) {
            self.come_back(slot);
            return Ok(None);
        }
        entry.recall = Recall::No;
        let attempts = entry.attempts;
        if delay == 0 {
            self.wait(slot);
        } else if !has_room {
            self.outstanding.remove(slot);
            return Ok(None);
        } else {
            let due = now.saturating_add(delay);
            entry.place = Place::Deferred;
            entry.deadline = due;
            self.deferred.push(Reverse((due, slot)));
        }
        Ok(Some(attempts))
    }

    /// TOUCH: the full timeout from now, capped by the maximum since delivery.
    pub fn touch(&mut self, key: ConsumerKey, sequence: u64, now: Nanos) -> Result<(), AckError> {
        let slot = self.owned(key, sequence)?;
        let (outstanding, cap) = (&mut self.outstanding, self.max_message_timeout);
        self.consumers.update(key, |consumer| {
            consumer.in_flight.unlink(outstanding, slot);
            let entry = outstanding.entry_mut(slot);
            entry.deadline =
                now.saturating_add(consumer.message_timeout).min(entry.delivered_at.saturating_add(cap));
            consumer.in_flight.insert(outstanding, slot);
        });
        self.consumers.note_deadline(key, &self.outstanding);
        Ok(())
    }

    fn owned(&self, key: ConsumerKey, sequence: u64) -> Result<Slot, AckError> {
        let slot = self.outstanding.find(sequence).ok_or(AckError::NotInFlight)?;
        let entry = self.outstanding.entry(slot);
        match entry.place {
            Place::InFlight if entry.owner == key => Ok(slot),
            Place::InFlight => Err(AckError::NotOwner),
            _ => Err(AckError::NotInFlight),
        }
    }

    fn leave_flight(&mut self, slot: Slot, count: impl FnOnce(&mut super::consumers::Consumer)) {
        let owner = self.outstanding.entry(slot).owner;
        let outstanding = &mut self.outstanding;
        self.consumers.update(owner, |consumer| {
            consumer.in_flight.unlink(outstanding, slot);
            consumer.in_flight_count -= 1;
            count(consumer);
        });
        self.in_flight_count -= 1;
    }

    /// Behind everything that is there now.
    pub(super) fn wait(&mut self, slot: Slot) {
        self.outstanding.entry_mut(slot).place = Place::Waiting;
        self.waiting.push_back((self.end, slot));
    }

    /// Time has come to `now`: messages past their deadline in flight, and deferred ones that are due, wait to be
    /// handed out; `most` of them, the others at the next call. Returns the consumers who had some of them, so that an
    /// owner's freed room can be used.
    pub fn expire(&mut self, now: Nanos, most: usize) -> Vec<ConsumerKey> {
        let mut owners = Vec::new();
        let mut left = most;
        while left > 0
            && let Some(key) = self.consumers.due(now)
        {
            let before = left;
            while left > 0
                && let Some(slot) = self.first_in_flight(key)
                && self.outstanding.entry(slot).deadline <= now
            {
                self.leave_flight(slot, |_| {});
                self.counters.timeout_count += 1;
                self.come_back(slot);
                left -= 1;
            }
            if left < before {
                owners.push(key);
            }
            self.consumers.look_again(key, &self.outstanding);
        }
        self.fall_due(now, left);
        owners
    }

    /// Messages that are due at the same time wait in the order of the log, so that they are read in that order.
    fn fall_due(&mut self, now: Nanos, most: usize) {
        let mut fallen = Vec::new();
        while fallen.len() < most
            && let Some(&Reverse((due, slot))) = self.deferred.peek()
            && due <= now
        {
            self.deferred.pop();
            fallen.push(slot);
        }
        if self.deferred.is_empty() {
            // A large heap is freed with its last message.
            self.deferred.shrink_to(KEEP_DEFERRED);
        }
        let outstanding = &self.outstanding;
        fallen.sort_unstable_by_key(|slot| outstanding.entry(*slot).sequence);
        for slot in fallen {
            if self.is_full() {
                self.outstanding.remove(slot);
            } else {
                self.wait(slot);
            }
        }
    }

    fn first_in_flight(&self, key: ConsumerKey) -> Option<Slot> {
        self.consumers.get(key)?.in_flight.first(&self.outstanding)
    }

    /// When [`ChannelState::expire`] next may have something to do: never after that.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let deferred = self.deferred.peek().map(|&Reverse((due, _))| due);
        self.consumers.next_due().into_iter().chain(deferred).min()
    }

    /// A consumer subscribes, with RDY 0.
    pub fn add_consumer(
        &mut self,
        message_timeout: Nanos,
        sample_rate: u8,
        locality: Locality,
    ) -> ConsumerKey {
        self.consumers.add(message_timeout, sample_rate, locality)
    }

    /// A consumer leaves: what it had in flight waits to be handed out again, `most` messages of it. Returns whether that
    /// is all and the consumer is gone; else it takes no more, and this is to be called again.
    pub fn remove_consumer(&mut self, key: ConsumerKey, most: usize) -> bool {
        self.close_consumer(key);
        for _ in 0..most {
            let Some(slot) = self.first_in_flight(key) else {
                self.consumers.remove(key);
                return true;
            };
            self.leave_flight(slot, |_| {});
            self.come_back(slot);
        }
        false
    }

    /// RDY.
    pub fn set_ready(&mut self, key: ConsumerKey, ready_count: u64) {
        self.consumers.update(key, |consumer| consumer.ready_count = ready_count);
        self.pass_on_without_room(key);
    }

    /// CLS.
    pub fn close_consumer(&mut self, key: ConsumerKey) {
        self.consumers.close(key);
        self.pass_on_without_room(key);
    }

    fn pass_on_without_room(&mut self, key: ConsumerKey) {
        if self.woken == Some(key) && self.consumers.get(key).is_none_or(|consumer| consumer.room() == 0) {
            self.woken = None;
        }
    }

    /// Drops everything: ahead, in flight, deferred, waiting. Returns it, to be dropped where that holds up nobody.
    pub fn empty(&mut self) -> Emptied {
        self.upheavals += 1;
        self.consumers.clear_in_flight();
        self.in_flight_count = 0;
        self.sorted_count = 0;
        self.cursor = self.end;
        Emptied {
            _outstanding: self.outstanding.clear(),
            _waiting: std::mem::take(&mut self.waiting),
            _deferred: std::mem::take(&mut self.deferred),
            _skipped: std::mem::take(&mut self.skipped),
            _finished: std::mem::take(&mut self.finished),
        }
    }

    /// Nothing is handed out while paused; acknowledgements and deadlines go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// As paused, but not an operator's doing and not remembered: messages cannot be read just now.
    pub fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// A read has ended, with or without a result.
    pub fn set_unstalled(&mut self) {
        self.stalled = false;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Messages that can be handed out: ahead and waiting.
    pub fn depth(&self) -> u64 {
        self.end - self.cursor - self.skipped.count() + self.waiting.len() as u64
    }

    /// The oldest message that is not finished: whatever lies before it, this channel needs no more.
    pub fn lowest_needed(&self) -> u64 {
        self.outstanding.lowest().map_or(self.cursor, |lowest| lowest.min(self.cursor))
    }

    /// The messages of `from..to` that are not finished, at most about `limit`, in order.
    pub fn needed(&self, from: u64, to: u64, limit: usize) -> Ranges {
        let mut needed: Runs = (self.outstanding.between(from, to.min(self.cursor), limit).into_iter())
            .map(|sequence| (sequence, sequence + 1))
            .collect();
        let from = from.max(self.cursor);
        if from < to && needed.count() < limit as u64 {
            // What is skipped is either outstanding (deferred) or never handed out.
            let ahead = self.skipped.gaps(from, to.min(self.most_ahead()));
            if self.skipped.is_empty() {
                ahead.for_each(|(from, to)| needed.push(from, to));
            } else {
                let deferred = self.outstanding.between(from, to, limit);
                let deferred = deferred.into_iter().map(|sequence| (sequence, sequence + 1));
                merged(ahead.take(limit).chain(deferred).collect())
                    .into_iter()
                    .for_each(|(from, to)| needed.push(from, to));
            }
        }
        needed.iter().collect()
    }

    /// Whether any message of `from..to` is not finished.
    pub fn needs_any(&self, from: u64, to: u64) -> bool {
        !self.needed(from, to, 1).is_empty()
    }

    /// One past the last message that it will hand out, of those that are there or may be released next.
    fn most_ahead(&self) -> u64 {
        let room = |bound: u64| bound.saturating_add(self.consumers.room()).saturating_sub(self.depth());
        self.bound.map_or(u64::MAX, |bound| self.end.saturating_add(room(bound)))
    }

    /// Whether there is no room for a message that comes due: of an ephemeral name.
    fn is_full(&self) -> bool {
        self.bound.is_some_and(|bound| self.depth() >= bound.saturating_add(self.consumers.room()))
    }

    fn has_room_to_defer(&self) -> bool {
        let room = |bound: u64| bound.saturating_add(self.consumers.room());
        self.bound.is_none_or(|bound| (self.deferred.len() as u64) < room(bound))
    }

    /// These messages, in order, are gone: there was no memory for them, and they are of an ephemeral name.
    pub fn drop_messages(&mut self, ranges: &[(u64, u64)]) {
        let mut skipped: Vec<(u64, u64)> = self.skipped.iter().collect();
        for &(from, to) in ranges {
            for sequence in self.outstanding.between(from, to, usize::MAX) {
                let slot = self.outstanding.find(sequence);
                // One in flight is at its consumer; if it comes back, it turns out to be gone.
                if let Some(slot) = slot.filter(|&slot| self.outstanding.entry(slot).place != Place::InFlight)
                {
                    self.outstanding.remove(slot);
                }
            }
            skipped.push((from.max(self.cursor), to.min(self.end)));
        }
        self.leave_queues();
        skipped.retain(|(from, to)| from < to);
        self.skipped = merged(skipped).into_iter().collect();
        self.pass_skipped();
    }

    /// One past the last that was released to this channel.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// First sequence number never handed out.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Messages in flight.
    pub fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    /// Messages held back.
    pub fn deferred_count(&self) -> usize {
        self.deferred.len()
    }

    /// Counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The consumers.
    pub fn consumers(&self) -> &Consumers {
        &self.consumers
    }

    /// What was finished since the last call, for the journal.
    pub fn drain_finished(&mut self) -> Option<Runs> {
        self.outstanding.shrink();
        (!self.finished.is_empty()).then(|| std::mem::take(&mut self.finished))
    }
}
