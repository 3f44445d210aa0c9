//! Pure: the state of one channel's messages and its transitions. Handing out is in [`super::take`], moving the read
//! cursor in [`super::moving`].
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
//! A channel stores no message bodies. Messages from the read cursor to the end are *ahead*. Messages in flight,
//! deferred or waiting are *outstanding*. All others behind the cursor are finished. A waiting message is handed out
//! after all messages that were there when it came back, as in NSQ. For this, it remembers where the end was then.

use super::consumers::{ConsumerKey, Consumers};
use super::departures::Departures;
use super::due_times::DueTimes;
use super::fates::{Fate, Fates};
use super::latency::{Latencies, LatencyHistogram};
use super::order::{Order, Waits};
use super::outstanding::{Entry, Outstanding, Place, Recall, Slot};
use super::rate::Throttle;
use super::runs::Runs;
use super::saved::Clocks;
use super::skipped::Skipped;
use super::undoing::Loss;
use super::waiting::Waiting;
use nsq_protocol::TopicName;

use crate::clock::Nanos;
use crate::locality::Locality;
use crate::log::retention::merged;
use crate::log::{Mark, Ranges};
use crate::policy::dead_letter::Reason;
use crate::policy::effective::ChannelPolicy;
use crate::policy::retry::Retry;
use crate::policy::settings::Settings;
use crate::storage::SequenceRange;

/// Why a FIN, REQ, TOUCH or REJ was refused. The connection stays usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckError {
    /// The message was finished, requeued or timed out before, or never existed.
    NotInFlight,
    /// The message is in flight to another consumer.
    NotOwner,
    /// REJ only: the channel has no topic for dead letters. The message stays in flight.
    NoDeadLetterTopic,
}

/// Counters that only grow.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counters {
    /// Messages that ever entered the channel.
    pub message_count: u64,
    pub requeue_count: u64,
    /// Messages that timed out in flight.
    pub timeout_count: u64,
    /// Messages that could not be read back from disk.
    pub lost_count: u64,
    /// FINs since nsqd started.
    pub finish_count: u64,
    /// Messages that were dead-lettered.
    pub dead_letter_count: u64,
    /// Messages that expired and were dropped.
    pub expired_count: u64,
    /// Messages that were dropped because the channel held too many.
    pub overflow_count: u64,
    /// Messages that did not match the filter and were finished.
    pub filtered_count: u64,
    /// Messages that an operator or a producer cancelled.
    pub cancelled_count: u64,
}

/// What became of a requeued message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requeued {
    /// Its deliveries so far.
    pub attempts: u16,
    /// Its failed deliveries, if the channel counts them.
    pub failures: u16,
    /// How long it is deferred; 0 if it waits to be handed out at once.
    pub delay: Nanos,
}

/// A message that timed out, and was deferred by the retry schedule or counts its failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldBack {
    pub sequence: u64,
    /// Its deliveries so far.
    pub attempts: u16,
    /// Its failed deliveries, if the channel counts them.
    pub failures: u16,
    /// `None` if it waits to be handed out at once.
    pub due: Option<Nanos>,
}

/// Entries for which an empty heap of due times keeps memory.
const KEEP_DEFERRED: usize = 8192;

/// The state of a channel's messages; see the module.
#[derive(Debug)]
pub struct ChannelState {
    /// First sequence number never handed out.
    pub(super) cursor: u64,
    /// One past the last message released to this channel.
    pub(super) end: u64,
    /// Ranges of `cursor..end` that are not handed out in order: deferred, dropped or refused.
    pub(super) skipped: Skipped,
    pub(super) outstanding: Outstanding,
    /// Waiting messages, each with the end at the time it came back.
    pub(super) waiting: Waiting,
    /// Due times. A message that is removed before it is due leaves at once, so no entry is stale.
    pub(super) deferred: DueTimes,
    pub(super) paused: bool,
    /// Messages cannot be read from disk now, so nothing is handed out.
    pub(super) suspended: bool,
    /// A drain moves the messages to another node, so nothing is handed out.
    pub(super) is_moving_out: bool,
    /// Messages that are on their way to another node, in order.
    pub(super) in_transit: Vec<u64>,
    /// The last take needs messages from disk. No consumer is woken until they are read.
    pub(super) stalled: bool,
    /// Number of messages at the front of `waiting` that are sorted.
    pub(super) sorted_count: usize,
    pub(super) counters: Counters,
    pub(super) consumers: Consumers,
    /// The consumer that was woken and has not taken yet. No other consumer is woken meanwhile: its take wakes the next
    /// one, if it leaves messages. So a busy channel is served in few large takes.
    pub(super) woken: Option<ConsumerKey>,
    pub(super) in_flight_count: usize,
    /// Messages finished since the last call of [`ChannelState::drain_finished`].
    pub(super) finished: Runs,
    max_message_timeout: Nanos,
    /// The channel's own settings.
    own: Settings,
    /// What follows from them and from the policies.
    pub(super) policy: ChannelPolicy,
    /// Whether the policy has a retry schedule or a limit of attempts.
    pub(super) minds_failures: bool,
    pub(super) departures: Departures,
    /// Why messages left recently, otherwise than by a FIN.
    pub(super) fates: Fates,
    /// Which messages wait for others of their key, if the channel is ordered or fair.
    pub(super) order: Option<Box<Order>>,
    /// Every message is looked at before it is handed out.
    pub(super) screens_all: bool,
    /// The message that the last take could not hand out because it must be read from disk, if the channel has an order.
    pub(super) wanted: Option<u64>,
    /// What limits the hand-out.
    pub(super) throttle: Option<Box<Throttle>>,
    /// Between how many nodes a total rate is divided.
    pub(super) node_count: u64,
    /// What can be undone.
    pub(super) loss: Option<Box<Loss>>,
    /// Messages held back since the last call of [`ChannelState::drain_held_back`].
    held_back: Vec<HeldBack>,
    /// Messages may have a time to live of their own.
    pub(super) has_own_ttls: bool,
    /// The last take ended at a message that cannot leave: too many wait to be dead-lettered.
    pub(super) is_blocked: bool,
    /// Maximum depth if the channel or topic is ephemeral and the topic does not retain messages. Messages beyond it
    /// are dropped.
    pub(super) bound: Option<u64>,
    /// Number of moves and empties. A save for a checkpoint fails if one happens meanwhile.
    pub(super) cursor_moves: u64,
    pub(super) random: u64,
    /// `None` unless latencies are measured.
    pub(super) latencies: Option<Box<Latencies>>,
}

/// Everything that [`ChannelState::empty`] removed.
#[must_use = "dropping it takes a while; drop it outside the lock"]
pub struct Emptied {
    _outstanding: Outstanding,
    _deferred: DueTimes,
    _skipped: Skipped,
    _finished: Runs,
}

impl ChannelState {
    /// Creates an empty channel that starts at `cursor`. TOUCH extends a delivery to at most `max_message_timeout` in
    /// total.
    pub fn new(cursor: u64, max_message_timeout: Nanos) -> Self {
        ChannelState {
            cursor,
            end: cursor,
            skipped: Skipped::default(),
            outstanding: Outstanding::default(),
            waiting: Waiting::default(),
            deferred: DueTimes::default(),
            paused: false,
            suspended: false,
            is_moving_out: false,
            in_transit: Vec::new(),
            stalled: false,
            sorted_count: 0,
            counters: Counters::default(),
            consumers: Consumers::default(),
            woken: None,
            in_flight_count: 0,
            finished: Runs::default(),
            max_message_timeout,
            own: Settings::default(),
            policy: ChannelPolicy::default(),
            minds_failures: false,
            departures: Departures::default(),
            fates: Fates::default(),
            order: None,
            screens_all: false,
            wanted: None,
            throttle: None,
            node_count: 1,
            loss: None,
            held_back: Vec::new(),
            has_own_ttls: false,
            is_blocked: false,
            bound: None,
            cursor_moves: 0,
            random: cursor.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
            latencies: None,
        }
    }

    /// Adds the messages before `to`, which the topic has released. With `bound` (ephemeral names), messages beyond the
    /// bound are dropped, newest first. Dropped messages still count in `message_count`, as in NSQ.
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
            let (start, end) = (mark.from().max(at), mark.to());
            if start >= end {
                continue;
            }
            if bound.is_some() && at < start {
                plain.push(SequenceRange::new(at, start));
            }
            at = end;
            self.skipped.push(SequenceRange::new(start, end));
            match mark {
                // The topic passes no targets on: see `Mark::for_channel`.
                Mark::Skipped { .. } | Mark::Targeted { .. } => skipped_count += end - start,
                Mark::Deferred { due, .. } => {
                    for sequence in start..end {
                        // Without room, the message is only skipped, so it is dropped.
                        if self.has_room_to_defer() {
                            self.defer_ahead(sequence, 0, due);
                        } else {
                            self.fates.note(SequenceRange::one(sequence), Fate::NoRoom);
                        }
                    }
                }
                Mark::Adopted { attempts, failures, due, .. } => {
                    (start..end).for_each(|sequence| self.adopt_ahead(sequence, attempts, failures, due));
                }
            }
        }
        self.end = to;
        if let Some(bound) = bound {
            if at < to {
                plain.push(SequenceRange::new(at, to));
            }
            self.drop_newest(&plain, bound);
        }
        self.counters.message_count += (to - from) - skipped_count;
        self.pass_skipped();
    }

    /// Drops released messages beyond the bound, newest first.
    fn drop_newest(&mut self, released: &[SequenceRange], bound: u64) {
        let room = bound.saturating_add(self.consumers.room());
        let mut excess = self.depth().saturating_sub(room);
        let mut dropped = Vec::new();
        for range in released.iter().rev() {
            let count = excess.min(range.len());
            if count > 0 {
                dropped.push(SequenceRange::new(range.to - count, range.to));
                self.fates.note(SequenceRange::new(range.to - count, range.to), Fate::NoRoom);
                excess -= count;
            }
        }
        // Skipped ranges must be in order, and dropped messages may lie before deferred ones of the same release.
        let mut all: Vec<_> = self.skipped.iter().chain(dropped.iter().copied()).collect();
        all.sort_unstable();
        self.skipped = all.into_iter().collect();
    }

    pub(super) fn defer_ahead(&mut self, sequence: u64, attempts: u16, due: Nanos) {
        let slot = self
            .outstanding
            .insert_ahead(Entry { deadline: due, ..Entry::new(sequence, attempts, Place::Deferred) });
        self.deferred.push(&mut self.outstanding, due, slot);
    }

    /// Moves the cursor over skipped ranges.
    pub(super) fn pass_skipped(&mut self) {
        while let Some(SequenceRange { from, to }) = self.skipped.first()
            && from <= self.cursor
        {
            self.cursor = self.cursor.max(to);
            self.skipped.pop_first();
        }
    }

    /// Starts measuring the time from publishing to FIN, over windows of this length.
    pub fn measure_latencies(&mut self, window: Nanos) {
        self.latencies = Some(Box::new(Latencies::new(window)));
    }

    /// Adds the measured latencies, if any, to `sum`.
    pub fn add_latencies_to(&self, sum: &mut LatencyHistogram, now: Nanos) {
        if let Some(latencies) = &self.latencies {
            latencies.add_to(sum, now);
        }
    }

    /// FIN: finishes a message in flight to this consumer.
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
        self.remove(slot);
        self.finished.push(SequenceRange::one(sequence));
        Ok(())
    }

    /// REQ: requeues a message behind all that are there now, or defers it by `delay`. With a retry schedule, a delay of
    /// 0 means the schedule's. A message whose attempts are used up is set aside. Returns `None` if there is nothing to record: the cursor was moved over the message
    /// while it was in flight, or there is no room to defer it.
    pub fn requeue(
        &mut self,
        key: ConsumerKey,
        sequence: u64,
        delay: Nanos,
        now: Nanos,
    ) -> Result<Option<Requeued>, AckError> {
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
        let mut failures = 0;
        if self.minds_failures {
            failures = self.count_failure(sequence);
            if self.is_exhausted(failures) {
                self.exhaust(slot, Reason::Attempts);
                return Ok(Some(Requeued { attempts, failures, delay: 0 }));
            }
        }
        if delay > 0 && !has_room {
            self.fates.note(SequenceRange::one(sequence), Fate::NoRoom);
            self.remove(slot);
            return Ok(None);
        }
        let delay = if delay == 0 && self.minds_failures { self.retry_delay(slot) } else { delay };
        if delay == 0 {
            self.wait(slot);
        } else {
            self.defer(slot, now.saturating_add(delay));
        }
        Ok(Some(Requeued { attempts, failures, delay }))
    }

    /// How long the retry schedule, if there is one, holds this message back. Without room to defer, not at all: the
    /// message would be dropped.
    #[inline]
    fn retry_delay(&self, slot: Slot) -> Nanos {
        match &self.policy.retry {
            Some(retry) => self.delay_by(retry, slot),
            None => 0,
        }
    }

    #[inline(never)]
    fn delay_by(&self, retry: &Retry, slot: Slot) -> Nanos {
        if !self.has_room_to_defer() {
            return 0;
        }
        let entry = self.outstanding.entry(slot);
        let delay = retry.delay(entry.sequence, u32::from(entry.attempts));
        crate::clock::nanos(delay).min(self.policy.longest_delay)
    }

    pub(super) fn defer(&mut self, slot: Slot, due: Nanos) {
        let entry = self.outstanding.entry_mut(slot);
        entry.place = Place::Deferred;
        entry.deadline = due;
        if let Some(order) = &mut self.order {
            order.defer(entry.sequence);
        }
        self.deferred.push(&mut self.outstanding, due, slot);
    }

    /// Removes a message that is in no queue, and returns its sequence number. The next one of its key may be handed out.
    #[inline]
    pub(super) fn remove(&mut self, slot: Slot) -> u64 {
        let sequence = self.outstanding.remove(slot);
        self.departures.forget(sequence);
        if let Some(order) = &mut self.order {
            order.forget(sequence);
        }
        sequence
    }

    /// TOUCH: restarts the message timeout, but never beyond the maximum timeout since delivery.
    pub fn touch(&mut self, key: ConsumerKey, sequence: u64, now: Nanos) -> Result<(), AckError> {
        let timeout = self.consumers.get(key).map_or(0, |consumer| consumer.message_timeout);
        self.extend(key, sequence, timeout, now).map(drop)
    }

    /// As [`ChannelState::touch`], with another timeout than the consumer's. Returns the new deadline.
    pub fn extend(
        &mut self,
        key: ConsumerKey,
        sequence: u64,
        timeout: Nanos,
        now: Nanos,
    ) -> Result<Nanos, AckError> {
        let slot = self.owned(key, sequence)?;
        let (outstanding, cap) = (&mut self.outstanding, self.max_message_timeout);
        self.consumers.update(key, |consumer| {
            consumer.in_flight.unlink(outstanding, slot);
            let entry = outstanding.entry_mut(slot);
            entry.deadline = now.saturating_add(timeout).min(entry.delivered_at.saturating_add(cap));
            consumer.in_flight.insert(outstanding, slot);
        });
        self.consumers.note_deadline(key, &self.outstanding);
        Ok(self.outstanding.entry(slot).deadline)
    }

    pub(super) fn owned(&self, key: ConsumerKey, sequence: u64) -> Result<Slot, AckError> {
        let slot = self.outstanding.find(sequence).ok_or(AckError::NotInFlight)?;
        let entry = self.outstanding.entry(slot);
        match entry.place {
            Place::InFlight if entry.owner == key => Ok(slot),
            Place::InFlight => Err(AckError::NotOwner),
            _ => Err(AckError::NotInFlight),
        }
    }

    pub(super) fn leave_flight(&mut self, slot: Slot, count: impl FnOnce(&mut super::consumers::Consumer)) {
        let owner = self.outstanding.entry(slot).owner;
        self.consumers.leave_flight(owner, &mut self.outstanding, slot, count);
        self.in_flight_count -= 1;
    }

    /// Queues a message behind all that are there now. In an ordered channel, it stays before the others of its key.
    #[inline]
    pub(super) fn wait(&mut self, slot: Slot) {
        let entry = self.outstanding.entry_mut(slot);
        entry.place = Place::Waiting;
        if let Some(order) = &mut self.order
            && order.wait(entry.sequence) == Waits::Here
        {
            return self.outstanding.clear_links(slot);
        }
        self.waiting.push_back(&mut self.outstanding, self.end, slot);
    }

    /// Takes a message that waits or is deferred out of its queue. Does nothing if it is in none; the channel's order
    /// is not told.
    pub(super) fn unqueue(&mut self, slot: Slot) {
        match self.outstanding.entry(slot).place {
            Place::Waiting => {
                self.waiting.remove(&mut self.outstanding, slot);
                self.sorted_count = 0;
            }
            Place::Deferred => self.deferred.remove(&mut self.outstanding, slot),
            Place::InFlight | Place::Exhausted | Place::Free => {}
        }
    }

    /// Queues a message that takes its place in the order of the log, if the channel has an order.
    pub(super) fn wait_in_log_order(&mut self, slot: Slot) {
        let Some(order) = &mut self.order else { return self.wait(slot) };
        let entry = self.outstanding.entry_mut(slot);
        entry.place = Place::Waiting;
        order.relearn(entry.sequence);
        self.outstanding.clear_links(slot);
    }

    /// Queues messages whose in-flight deadline has passed and deferred messages that are due: at most `most`, the
    /// others in the next call. Returns the consumers that owned timed-out messages; they have room again.
    pub fn expire(&mut self, now: Nanos, most: usize) -> Vec<ConsumerKey> {
        if let Some(throttle) = &mut self.throttle {
            throttle.expire(now);
        }
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
                self.time_out(slot, now);
                left -= 1;
            }
            if left < before {
                owners.push(key);
            }
            self.consumers.update_due(key, &self.outstanding);
        }
        self.queue_due(now, left);
        owners
    }

    /// Queues a message that timed out, or defers it by the retry schedule. Sets it aside if its attempts are used up.
    #[inline]
    fn time_out(&mut self, slot: Slot, now: Nanos) {
        if self.minds_failures {
            self.time_out_by_policy(slot, now);
        } else {
            self.come_back(slot);
        }
    }

    #[inline(never)]
    fn time_out_by_policy(&mut self, slot: Slot, now: Nanos) {
        let entry = self.outstanding.entry(slot);
        if entry.recall != Recall::No {
            return self.come_back(slot);
        }
        let (sequence, attempts) = (entry.sequence, entry.attempts);
        let failures = self.count_failure(sequence);
        let due = if self.is_exhausted(failures) {
            self.exhaust(slot, Reason::Attempts);
            None
        } else {
            match self.retry_delay(slot) {
                0 => {
                    self.come_back(slot);
                    None
                }
                delay => {
                    let due = now.saturating_add(delay);
                    self.defer(slot, due);
                    Some(due)
                }
            }
        };
        // A message that is not held back and counts no failures needs no record: a start delivers it again anyway.
        if due.is_some() || failures > 0 {
            self.held_back.push(HeldBack { sequence, attempts, failures, due });
        }
    }

    /// Queues deferred messages that are due, in log order, so that they are read in that order.
    fn queue_due(&mut self, now: Nanos, most: usize) {
        let mut due_slots = Vec::new();
        while due_slots.len() < most
            && let Some((due, slot)) = self.deferred.first()
            && due <= now
        {
            self.deferred.pop(&mut self.outstanding);
            due_slots.push(slot);
        }
        if self.deferred.is_empty() {
            // Free the memory of a large heap once it is empty.
            self.deferred.shrink_to(KEEP_DEFERRED);
        }
        let outstanding = &self.outstanding;
        due_slots.sort_unstable_by_key(|slot| outstanding.entry(*slot).sequence);
        for slot in due_slots {
            if self.is_full() {
                let dropped = self.remove(slot);
                self.fates.note(SequenceRange::one(dropped), Fate::NoRoom);
            } else {
                self.note_due(slot);
                self.wait_in_turn(slot);
            }
        }
    }

    /// Queues a message. In an ordered channel, one that was never handed out takes its place in the order of the log.
    pub(super) fn wait_in_turn(&mut self, slot: Slot) {
        match self.outstanding.entry(slot).attempts {
            0 => self.wait_in_log_order(slot),
            _ => self.wait(slot),
        }
    }

    pub(super) fn first_in_flight(&self, key: ConsumerKey) -> Option<Slot> {
        self.consumers.get(key)?.in_flight.first(&self.outstanding)
    }

    /// When [`ChannelState::expire`] may next have something to do. May be early, never late.
    pub fn next_deadline(&self) -> Option<Nanos> {
        let deferred = self.deferred.first().map(|(due, _)| due);
        let throttled = self.throttle.as_ref().and_then(|throttle| throttle.deadline());
        self.consumers.next_due().into_iter().chain(deferred).chain(throttled).min()
    }

    /// Adds a consumer with RDY 0.
    pub fn add_consumer(
        &mut self,
        message_timeout: Nanos,
        sample_rate: u8,
        locality: Locality,
    ) -> ConsumerKey {
        self.consumers.add(message_timeout, sample_rate, locality)
    }

    /// Removes a consumer: puts back at most `most` of its messages in flight. Returns whether the consumer is removed.
    /// If not, it takes no more messages, and the caller must call again.
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

    /// RDY: sets how many messages may be in flight to the consumer.
    pub fn set_ready_count(&mut self, key: ConsumerKey, ready_count: u64) {
        self.consumers.update(key, |consumer| consumer.ready_count = ready_count);
        self.pass_on_without_room(key);
    }

    /// CLS: the consumer takes no more messages and keeps those in flight.
    pub fn close_consumer(&mut self, key: ConsumerKey) {
        self.consumers.close(key);
        self.pass_on_without_room(key);
    }

    fn pass_on_without_room(&mut self, key: ConsumerKey) {
        if self.woken == Some(key) && self.consumers.get(key).is_none_or(|consumer| consumer.room() == 0) {
            self.woken = None;
        }
    }

    /// Drops all messages: ahead, in flight, deferred and waiting. Returns them, so that the caller can free them
    /// outside the lock.
    pub fn empty(&mut self) -> Emptied {
        self.cursor_moves += 1;
        self.consumers.clear_in_flight();
        self.in_flight_count = 0;
        self.sorted_count = 0;
        let oldest = self.lowest_needed();
        self.fates.note(SequenceRange::new(oldest, self.end), Fate::Emptied);
        self.cursor = self.end;
        self.departures = Departures::default();
        self.waiting = Waiting::default();
        if let Some(order) = &mut self.order {
            order.clear();
        }
        Emptied {
            _outstanding: self.outstanding.clear(),
            _deferred: std::mem::take(&mut self.deferred),
            _skipped: std::mem::take(&mut self.skipped),
            _finished: std::mem::take(&mut self.finished),
        }
    }

    /// While paused, nothing is handed out. FIN, REQ, TOUCH and deadlines still work.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Like a pause, but set by nsqd while messages cannot be read, and not saved.
    pub fn set_suspended(&mut self, suspended: bool) {
        self.suspended = suspended;
    }

    /// Call after each read, successful or not: consumers may be woken again.
    pub fn set_unstalled(&mut self) {
        self.stalled = false;
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Messages that can be handed out: ahead and waiting.
    pub fn depth(&self) -> u64 {
        let here = self.order.as_ref().map_or(0, |order| order.len());
        self.end - self.cursor - self.skipped.count() + self.waiting.len() as u64 + here
    }

    /// The oldest message that is not finished. The channel needs no older ones.
    pub fn lowest_needed(&self) -> u64 {
        let behind = self.outstanding.lowest().into_iter().chain(self.departures.lowest());
        behind.fold(self.cursor, u64::min)
    }

    /// The messages of `from..to` that are not finished, at most about `limit`, in order.
    pub fn needed(&self, from: u64, to: u64, limit: usize) -> Ranges {
        let mut needed: Runs = (self.outstanding.between(from, to.min(self.cursor), limit).into_iter())
            .map(SequenceRange::one)
            .collect();
        let first = from;
        let from = from.max(self.cursor);
        if from < to && needed.count() < limit as u64 {
            // A skipped message is either outstanding (deferred) or never handed out.
            let ahead = self.skipped.gaps(from, to.min(self.most_ahead()));
            if self.skipped.is_empty() {
                ahead.for_each(|range| needed.push(range));
            } else {
                let deferred = self.outstanding.between(from, to, limit);
                let deferred = deferred.into_iter().map(SequenceRange::one);
                merged(ahead.take(limit).chain(deferred).collect())
                    .into_iter()
                    .for_each(|range| needed.push(range));
            }
        }
        self.with_departing(first, to, needed.iter().collect())
    }

    /// Whether any message of `from..to` is not finished.
    pub fn needs_any(&self, from: u64, to: u64) -> bool {
        !self.needed(from, to, 1).is_empty()
    }

    /// Upper limit (exclusive) of the messages that the channel can hand out, including ones not released yet.
    fn most_ahead(&self) -> u64 {
        let room = |bound: u64| bound.saturating_add(self.consumers.room()).saturating_sub(self.depth());
        self.bound.map_or(u64::MAX, |bound| self.end.saturating_add(room(bound)))
    }

    /// Whether a bounded channel has no room for a message that becomes due.
    pub(super) fn is_full(&self) -> bool {
        self.bound.is_some_and(|bound| self.depth() >= bound.saturating_add(self.consumers.room()))
    }

    pub(super) fn has_room_to_defer(&self) -> bool {
        let room = |bound: u64| bound.saturating_add(self.consumers.room());
        self.bound.is_none_or(|bound| (self.deferred.len() as u64) < room(bound))
    }

    /// Drops these messages (in order), for which an ephemeral topic or channel had no memory.
    pub fn drop_messages(&mut self, ranges: &[SequenceRange]) {
        let mut skipped: Vec<SequenceRange> = self.skipped.iter().collect();
        for &SequenceRange { from, to } in ranges {
            for sequence in self.outstanding.between(from, to, usize::MAX) {
                let slot = self.outstanding.find(sequence);
                // A message in flight stays with its consumer. If it comes back, redelivery finds it missing in the
                // log.
                if let Some(slot) = slot.filter(|&slot| self.outstanding.entry(slot).place != Place::InFlight)
                {
                    self.unqueue(slot);
                    self.remove(slot);
                }
            }
            self.fates.note(SequenceRange { from, to }, Fate::NoRoom);
            skipped.push(SequenceRange::new(from.max(self.cursor), to.min(self.end)));
        }
        skipped.retain(|range| !range.is_empty());
        self.skipped = merged(skipped).into_iter().collect();
        self.pass_skipped();
        self.forget_departures(|_| true);
    }

    /// One past the last message released to this channel.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// First sequence number never handed out.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    pub fn in_flight_count(&self) -> usize {
        self.in_flight_count
    }

    pub fn deferred_count(&self) -> usize {
        self.deferred.len()
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    pub fn consumers(&self) -> &Consumers {
        &self.consumers
    }

    /// ChannelSettings: replaces the channel's own settings. [`ChannelState::set_policy`] must follow.
    pub fn set_own_settings(&mut self, own: Settings) {
        self.own = own;
    }

    pub fn own_settings(&self) -> &Settings {
        &self.own
    }

    /// Sets what the channel does by policy. It applies to what happens from now on; messages that are deferred stay
    /// so, unless their attempts are used up.
    pub fn set_policy(&mut self, policy: ChannelPolicy, now: Nanos) {
        self.minds_failures = policy.max_attempts > 0 || policy.retry.is_some();
        self.screens_all = policy.filter.is_some() || policy.ordering.is_some();
        let limits_change = self.policy.limits != policy.limits;
        self.policy = policy;
        if limits_change {
            self.change_limits(now);
        }
        self.apply_ordering();
        self.unset_aside_by_policy();
        self.exhaust_all();
    }

    /// Where dead letters go; `None` if there are none.
    pub fn dead_letter_topic(&self) -> Option<&TopicName> {
        self.policy.dead_letter.as_ref()
    }

    /// Returns the messages that timed out and were deferred since the last call, for the journal.
    pub fn drain_held_back(&mut self) -> Vec<HeldBack> {
        std::mem::take(&mut self.held_back)
    }

    /// Returns the messages finished since the last call, for the journal.
    pub fn drain_finished(&mut self) -> Option<Runs> {
        self.outstanding.shrink();
        (!self.finished.is_empty()).then(|| std::mem::take(&mut self.finished))
    }
}
