//! Pure: messages that leave a channel otherwise than by a FIN: because their attempts are used up, because they are too
//! old, too many or rejected, or because they are moved to another topic or deleted.
//!
//! ```text
//!   waiting, deferred, ahead, exhausted --depart--> departing --departed--> gone
//!                                                       |
//!   waiting, exhausted <----------put back--------------+
//! ```
//!
//! A message departs in the moment in which its departure is appended to the journal, under the channel's lock. So a
//! checkpoint never holds it any more, though the record may not be durable yet. Until it is, the message is *departing*:
//! the channel still needs it, because it comes back if the record cannot be written. If meanwhile the channel is emptied,
//! or its read cursor is moved over the message, that decides what becomes of it, and it is forgotten here.

use std::collections::BTreeMap;

use super::fates::Fate;
use super::outstanding::{Entry, Place, Slot};
use super::rejecting::Rejections;
use super::runs::Runs;
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::log::Ranges;
use crate::log::retention::merged;
use crate::policy::bounds::Overflow;
use crate::policy::dead_letter::Reason;
use crate::storage::SequenceRange;

/// See the module.
#[derive(Debug, Default)]
pub struct Departures {
    /// Failed deliveries of outstanding messages, if the channel counts them. Those without any are left out.
    failures: BTreeMap<u64, u16>,
    /// Messages at [`Place::Exhausted`], and why they are dead-lettered.
    exhausted: BTreeMap<u64, Reason>,
    /// What consumers said about those of them, and of `departing`, that are rejected.
    pub(super) rejections: Rejections,
    departing: BTreeMap<u64, Departing>,
    /// Removed messages that are not in the journal yet.
    removed: Runs,
    /// When messages that were published deferred were due: their age counts from then.
    due_at: BTreeMap<u64, Nanos>,
    /// Messages before this have expired.
    expired_before: u64,
}

/// A message whose departure is not durable yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Departing {
    attempts: u16,
    failures: u16,
    /// Why it was to be dead-lettered, if it was.
    reason: Option<Reason>,
}

/// A message that departs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Departed {
    pub sequence: u64,
    /// Its deliveries so far.
    pub attempts: u16,
}

impl Departures {
    /// Maximum number of messages that are set aside at a time because they expired or exceed the bound.
    pub(super) const MOST_EXHAUSTED: usize = 10_000;

    /// A message that was published deferred was due before the start: its age counts from there.
    pub(super) fn note_due_before_start(&mut self, sequence: u64) {
        self.due_at.insert(sequence, 0);
    }

    /// Failed deliveries of a message.
    #[inline]
    pub fn failures_of(&self, sequence: u64) -> u16 {
        if self.failures.is_empty() { 0 } else { self.failures.get(&sequence).copied().unwrap_or(0) }
    }

    /// Sets the failed deliveries of a message.
    pub(super) fn set_failures(&mut self, sequence: u64, failures: u16) {
        if failures > 0 {
            self.failures.insert(sequence, failures);
        } else {
            self.failures.remove(&sequence);
        }
    }

    /// A message that may be set aside does not become a dead letter.
    pub(super) fn forget_set_aside(&mut self, sequence: u64) {
        if self.exhausted.remove(&sequence).is_some() {
            self.rejections.remove(sequence);
        }
    }

    /// These messages were removed; the journal must know.
    pub(super) fn note_removed(&mut self, range: SequenceRange) {
        self.removed.push(range);
    }

    /// A message is no longer outstanding.
    #[inline]
    pub(super) fn forget(&mut self, sequence: u64) {
        if !self.failures.is_empty() {
            self.failures.remove(&sequence);
        }
        if !self.due_at.is_empty() {
            self.due_at.remove(&sequence);
        }
    }

    /// When a message that was published deferred was due, if its age counts from then.
    pub(super) fn due_at(&self, sequence: u64) -> Option<Nanos> {
        self.due_at.get(&sequence).copied()
    }

    /// The oldest message that is departing.
    pub(super) fn lowest(&self) -> Option<u64> {
        self.departing.first_key_value().map(|(&sequence, _)| sequence)
    }

    /// Why a message is to be dead-lettered; `None` if it is not set aside.
    pub(super) fn reason(&self, sequence: u64) -> Option<Reason> {
        self.exhausted.get(&sequence).copied()
    }

    /// The messages that are departing and would be delivered again if they came back.
    pub(super) fn departing(&self) -> impl Iterator<Item = u64> + '_ {
        let may_return = |of: &Departing| !matches!(of.reason, Some(Reason::Expired | Reason::Overflow));
        self.departing.iter().filter(move |(_, of)| may_return(of)).map(|(&sequence, _)| sequence)
    }

    /// The departing messages of `from..to`, in order.
    pub(super) fn departing_between(&self, from: u64, to: u64) -> impl Iterator<Item = u64> + '_ {
        self.departing.range(from..to.max(from)).map(|(&sequence, _)| sequence)
    }
}

impl ChannelState {
    /// Counts a failed delivery, if the channel counts them. Returns the failures so far; 0 if they are not counted.
    #[inline]
    pub(super) fn count_failure(&mut self, sequence: u64) -> u16 {
        if self.policy.max_attempts == 0 {
            return 0;
        }
        let failures = self.departures.failures_of(sequence).saturating_add(1);
        self.departures.set_failures(sequence, failures);
        failures
    }

    /// Whether a message with this many failures must not be delivered again.
    pub(super) fn is_exhausted(&self, failures: u16) -> bool {
        self.policy.max_attempts > 0
            && failures >= self.policy.max_attempts
            && self.policy.dead_letter.is_some()
    }

    /// Whether the attempts of an outstanding message are used up.
    pub(super) fn has_exhausted(&self, slot: Slot) -> bool {
        self.policy.max_attempts > 0
            && self.is_exhausted(self.departures.failures_of(self.outstanding.entry(slot).sequence))
    }

    /// A message that was published deferred is due.
    #[inline]
    pub(super) fn note_due(&mut self, slot: Slot) {
        if self.policy.ttl > 0 || self.has_own_ttls {
            let entry = self.outstanding.entry(slot);
            if entry.attempts == 0 {
                self.departures.due_at.insert(entry.sequence, entry.deadline);
            }
        }
    }

    /// Whether a waiting message must not be delivered any more.
    pub(super) fn is_expired(&self, slot: Slot, now: Nanos) -> bool {
        if self.policy.ttl == 0 {
            return false;
        }
        let sequence = self.outstanding.entry(slot).sequence;
        match self.departures.due_at.get(&sequence) {
            Some(due_at) => due_at.saturating_add(self.policy.ttl) <= now,
            None => sequence < self.departures.expired_before,
        }
    }

    /// Removes a message that is in no queue: drops it or sets it aside to be dead-lettered.
    pub(super) fn leave(&mut self, slot: Slot, reason: Reason) {
        if self.keeps(reason) {
            return self.exhaust(slot, reason);
        }
        self.drop_message(slot, reason);
    }

    /// Whether what leaves for this reason becomes a dead letter.
    pub(super) fn keeps(&self, reason: Reason) -> bool {
        let keeps = match reason {
            Reason::Attempts | Reason::Rejected => true,
            Reason::Expired => self.policy.keeps_expired,
            Reason::Overflow => self.policy.bound.overflow == Overflow::DeadLetter,
        };
        keeps && self.policy.dead_letter.is_some()
    }

    /// Whether [`ChannelState::leave`] can be called without setting too many messages aside.
    pub(super) fn has_room_to_set_aside(&self, reason: Reason) -> bool {
        self.departures.exhausted.len() < Departures::MOST_EXHAUSTED || !self.keeps(reason)
    }

    /// Drops messages that are ahead. The cursor must move over them.
    pub(super) fn drop_ahead(&mut self, range: SequenceRange, reason: Reason) {
        self.count_dropped(range, reason);
        self.departures.removed.push(range);
    }

    fn drop_message(&mut self, slot: Slot, reason: Reason) {
        let range = SequenceRange::one(self.remove(slot));
        self.departures.removed.push(range);
        self.count_dropped(range, reason);
    }

    fn count_dropped(&mut self, range: SequenceRange, reason: Reason) {
        match reason {
            Reason::Expired => {
                self.counters.expired_count += range.len();
                self.fates.note(range, Fate::Expired);
            }
            Reason::Overflow => {
                self.counters.overflow_count += range.len();
                self.fates.note(range, Fate::Overflow);
            }
            // These are never dropped.
            Reason::Attempts | Reason::Rejected => {}
        }
    }

    /// Removes what must not be delivered any more: messages before `sequence`, except those in flight and those that were
    /// published deferred. Messages that become dead letters are removed step by step: call it again when these are gone.
    pub fn expire_before(&mut self, sequence: u64) {
        if self.is_moving_out {
            return;
        }
        self.departures.expired_before = self.departures.expired_before.max(sequence);
        self.leave_ahead(sequence, Reason::Expired);
    }

    /// Removes the messages that are ahead of the cursor and before `to`, except those that were published deferred. If they
    /// become dead letters, not all of them may leave now.
    pub(super) fn leave_ahead(&mut self, to: u64, reason: Reason) {
        let to = to.min(self.end);
        if self.cursor >= to {
            return;
        }
        let ahead: Vec<SequenceRange> = self.skipped.gaps(self.cursor, to).collect();
        if !self.keeps(reason) {
            ahead.iter().for_each(|&range| self.drop_ahead(range, reason));
            self.cursor = self.cursor.max(to);
            return self.pass_skipped();
        }
        for range in ahead {
            for sequence in range.iter() {
                if self.departures.exhausted.len() >= Departures::MOST_EXHAUSTED {
                    return;
                }
                self.outstanding.insert(Entry::new(sequence, 0, Place::Exhausted));
                self.departures.exhausted.insert(sequence, reason);
                self.cursor = sequence + 1;
                self.pass_skipped();
            }
        }
        self.cursor = self.cursor.max(to);
        self.pass_skipped();
    }

    /// Removes waiting messages that have expired. Looks at all of them.
    pub fn expire_waiting(&mut self, now: Nanos) {
        if self.is_moving_out {
            return;
        }
        let queued = self.waiting.iter(&self.outstanding).map(|(_, slot)| slot);
        let expired: Vec<Slot> =
            queued.chain(self.waiting_in_order()).filter(|&slot| self.is_expired(slot, now)).collect();
        if expired.is_empty() {
            return;
        }
        let mut expired: Vec<(u64, Slot)> =
            expired.into_iter().map(|slot| (self.outstanding.entry(slot).sequence, slot)).collect();
        expired.sort_unstable();
        for (_, slot) in expired {
            self.unqueue(slot);
            self.leave(slot, Reason::Expired);
        }
    }

    /// Whether the message at the cursor has expired and could not be removed yet.
    pub(super) fn is_next_expired(&self) -> bool {
        self.policy.ttl > 0 && self.cursor < self.departures.expired_before
    }

    /// How long messages are delivered after they were published; 0 for no limit.
    pub fn ttl(&self) -> Nanos {
        self.policy.ttl
    }

    /// Whether a take can do nothing until messages have become dead letters.
    pub(super) fn waits_for_dead_letters(&self) -> bool {
        self.is_blocked && self.departures.exhausted.len() >= Departures::MOST_EXHAUSTED
    }

    /// Why a message is to be dead-lettered; `None` if it is not set aside.
    pub fn reason_of(&self, sequence: u64) -> Option<Reason> {
        self.departures.reason(sequence)
    }

    /// Returns the messages removed since the last call, for the journal.
    pub fn drain_removed(&mut self) -> Option<Runs> {
        (!self.departures.removed.is_empty()).then(|| std::mem::take(&mut self.departures.removed))
    }

    /// Sets a message, which is in no queue, aside to be dead-lettered.
    pub(super) fn exhaust(&mut self, slot: Slot, reason: Reason) {
        let entry = self.outstanding.entry_mut(slot);
        entry.place = Place::Exhausted;
        self.departures.exhausted.insert(entry.sequence, reason);
        if let Some(order) = &mut self.order {
            match reason {
                // The next one of its key follows its dead-lettering.
                Reason::Attempts | Reason::Rejected => order.set_aside(entry.sequence),
                Reason::Expired | Reason::Overflow => order.forget(entry.sequence),
            }
        }
    }

    /// Sets waiting and deferred messages aside whose attempts are used up, after a change of the policy or a start.
    pub(super) fn exhaust_all(&mut self) {
        if self.policy.max_attempts == 0 || self.departures.failures.is_empty() {
            return;
        }
        let failed: Vec<(u64, u16)> = self.departures.failures.iter().map(|(&a, &b)| (a, b)).collect();
        for (sequence, failures) in failed {
            if self.is_exhausted(failures)
                && let Some(slot) = self.outstanding.find(sequence)
                && matches!(self.outstanding.entry(slot).place, Place::Waiting | Place::Deferred)
            {
                self.unqueue(slot);
                self.exhaust(slot, Reason::Attempts);
            }
        }
    }

    /// Messages to dead-letter, oldest first, at most this many.
    pub fn exhausted(&self, most: usize) -> Vec<u64> {
        self.departures.exhausted.keys().take(most).copied().collect()
    }

    /// Number of messages to dead-letter.
    pub fn exhausted_count(&self) -> usize {
        self.departures.exhausted.len()
    }

    /// Messages that are not finished, wherever they are.
    pub fn unfinished_count(&self) -> u64 {
        let elsewhere =
            self.deferred.len() + self.departures.exhausted.len() + self.departures.departing.len();
        self.depth() + (self.in_flight_count + elsewhere) as u64
    }

    /// Failed deliveries of a message.
    pub fn failures_of(&self, sequence: u64) -> u16 {
        self.departures.failures_of(sequence)
    }

    /// Deliveries so far of an outstanding message; 0 if it is none.
    pub fn attempts_of(&self, sequence: u64) -> u16 {
        self.outstanding.find(sequence).map_or(0, |slot| self.outstanding.entry(slot).attempts)
    }

    /// These messages cannot become dead letters: rejected ones and those whose attempts are used up are delivered again,
    /// as if they had never failed, and the others are dropped.
    pub fn forgive(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            if let Some(reason) = self.departures.exhausted.remove(&sequence)
                && let Some(slot) = self.outstanding.find(sequence)
            {
                self.departures.set_failures(sequence, 0);
                self.departures.rejections.remove(sequence);
                match reason {
                    Reason::Attempts | Reason::Rejected => self.wait(slot),
                    // If it waited, it would be set aside again at once.
                    Reason::Expired | Reason::Overflow => self.drop_message(slot, reason),
                }
            }
        }
    }

    /// Nothing becomes a dead letter any more. Messages that are set aside are delivered again, unless they have expired.
    pub fn unset_aside(&mut self) {
        self.unset_aside_for(|_| true);
    }

    /// After a change of the policy: the same for reasons for which nothing becomes a dead letter any more.
    pub(super) fn unset_aside_by_policy(&mut self) {
        let bound = self.policy.bound;
        let keeps_overflow = !bound.is_off() && bound.overflow == Overflow::DeadLetter;
        if self.policy.max_attempts == 0 && !self.policy.keeps_expired && !keeps_overflow {
            self.unset_aside_for(|reason| reason != Reason::Rejected);
        }
    }

    fn unset_aside_for(&mut self, is_chosen: impl Fn(Reason) -> bool) {
        let exhausted = std::mem::take(&mut self.departures.exhausted);
        let (chosen, others): (BTreeMap<u64, Reason>, BTreeMap<u64, Reason>) =
            exhausted.into_iter().partition(|(_, reason)| is_chosen(*reason));
        self.departures.exhausted = others;
        for (sequence, reason) in chosen {
            self.departures.rejections.remove(sequence);
            let Some(slot) = self.outstanding.find(sequence) else { continue };
            match reason {
                Reason::Attempts => {
                    self.departures.set_failures(sequence, 0);
                    self.wait(slot);
                }
                Reason::Rejected => self.wait(slot),
                Reason::Overflow => self.wait_in_log_order(slot),
                Reason::Expired => self.drop_message(slot, reason),
            }
        }
    }

    /// Takes these messages, in order, out of the channel. Leaves out those that are finished or in flight. They are
    /// departing until [`ChannelState::departed`] or [`ChannelState::put_back`] is called.
    pub fn depart(&mut self, sequences: &[u64]) -> Vec<Departed> {
        let mut departed = Vec::with_capacity(sequences.len());
        let mut ahead = Runs::default();
        for &sequence in sequences {
            if self.is_in_transit(sequence) {
                continue;
            }
            let failures = self.departures.failures_of(sequence);
            let attempts = match self.outstanding.find(sequence) {
                Some(slot) => {
                    let entry = self.outstanding.entry(slot);
                    if matches!(entry.place, Place::InFlight | Place::Free) {
                        continue;
                    }
                    let attempts = entry.attempts;
                    self.unqueue(slot);
                    self.outstanding.remove(slot);
                    attempts
                }
                None if (self.cursor..self.end).contains(&sequence) && !self.skipped.contains(sequence) => {
                    ahead.push(SequenceRange::one(sequence));
                    0
                }
                None => continue,
            };
            self.departures.forget(sequence);
            let reason = self.departures.exhausted.remove(&sequence);
            if let Some(order) = &mut self.order
                && !matches!(reason, Some(Reason::Expired | Reason::Overflow))
            {
                order.set_aside(sequence);
            }
            self.departures.departing.insert(sequence, Departing { attempts, failures, reason });
            departed.push(Departed { sequence, attempts });
        }
        self.skip_ahead(ahead.iter());
        departed
    }

    /// The departure of these messages is durable.
    pub fn departed(&mut self, messages: &[Departed], fate: Fate) {
        for message in messages {
            self.fates.note(SequenceRange::one(message.sequence), fate);
            let was_departing = self.departures.departing.remove(&message.sequence).is_some();
            self.departures.rejections.remove(message.sequence);
            if was_departing && let Some(order) = &mut self.order {
                order.forget(message.sequence);
            }
        }
    }

    /// The departure of these messages was not recorded: they wait again.
    pub fn put_back(&mut self, messages: &[Departed]) {
        for &Departed { sequence, .. } in messages {
            let Some(Departing { attempts, failures, reason }) = self.departures.departing.remove(&sequence)
            else {
                continue;
            };
            let slot = self.outstanding.insert_ahead(Entry::new(sequence, attempts, Place::Waiting));
            self.departures.set_failures(sequence, failures);
            match reason {
                Some(reason) if reason != Reason::Attempts => self.exhaust(slot, reason),
                _ if self.is_exhausted(failures) => self.exhaust(slot, Reason::Attempts),
                _ => self.wait_in_turn(slot),
            }
        }
        // The policy may have changed meanwhile.
        self.unset_aside_by_policy();
    }

    /// Messages from `from` on, before `to`, that [`ChannelState::depart`] takes out, in order, at most about `most`, and
    /// where to continue; `None` at the end.
    pub fn departable(&self, from: u64, to: u64, most: usize) -> (Vec<u64>, Option<u64>) {
        let ranges = self.needed(from, to.min(self.end), most);
        let all = ranges.iter().flat_map(|range| range.iter()).take(most);
        let all: Vec<u64> = all.collect();
        let next = (all.len() >= most).then(|| all.last().map(|last| last + 1)).flatten();
        let can_depart = |&sequence: &u64| match self.outstanding.find(sequence) {
            Some(slot) => self.outstanding.entry(slot).place != Place::InFlight,
            None => !self.departures.departing.contains_key(&sequence),
        };
        (all.into_iter().filter(can_depart).collect(), next)
    }

    /// Removed: these messages left the channel. Unlike [`ChannelState::replay_finish`], this says nothing about the
    /// messages before them.
    pub fn replay_removed(&mut self, SequenceRange { from, to }: SequenceRange) {
        for sequence in self.outstanding.between(from, to, usize::MAX) {
            if let Some(slot) = self.outstanding.find(sequence) {
                self.outstanding.remove(slot);
                self.departures.forget(sequence);
            }
        }
        self.skip_ahead([SequenceRange::new(from.max(self.cursor), to.min(self.end))].into_iter());
    }

    /// Skips these ranges ahead of the cursor, in order.
    pub(super) fn skip_ahead(&mut self, ranges: impl Iterator<Item = SequenceRange>) {
        for range in ranges.filter(|range| !range.is_empty()) {
            if range.from <= self.cursor {
                self.cursor = self.cursor.max(range.to);
                self.pass_skipped();
            } else {
                let new: Vec<SequenceRange> = self.skipped.gaps(range.from, range.to).collect();
                new.into_iter().for_each(|part| self.skipped.insert(part));
            }
        }
    }

    /// Forgets what is no longer outstanding or must not come back. `is_kept` says which departing messages still may.
    pub(super) fn forget_departures(&mut self, is_kept: impl Fn(u64) -> bool) {
        let (outstanding, departures) = (&self.outstanding, &mut self.departures);
        departures.departing.retain(|&sequence, _| is_kept(sequence));
        departures.failures.retain(|&sequence, _| outstanding.find(sequence).is_some());
        departures.due_at.retain(|&sequence, _| outstanding.find(sequence).is_some());
        departures.exhausted.retain(|&sequence, _| {
            outstanding.find(sequence).is_some_and(|slot| outstanding.entry(slot).place == Place::Exhausted)
        });
        let (exhausted, departing) = (&departures.exhausted, &departures.departing);
        departures
            .rejections
            .retain(|sequence| exhausted.contains_key(&sequence) || departing.contains_key(&sequence));
    }

    /// Restores the failed deliveries of outstanding messages.
    pub(super) fn restore_failures(&mut self, failures: &[(u64, u16)]) {
        for &(sequence, failures) in failures {
            if self.outstanding.find(sequence).is_some() {
                self.departures.set_failures(sequence, failures);
            }
        }
    }

    /// Adds the departing messages of `from..to` to `needed`.
    pub(super) fn with_departing(&self, from: u64, to: u64, needed: Ranges) -> Ranges {
        let mut departing = self.departures.departing_between(from, to).peekable();
        if departing.peek().is_none() {
            return needed;
        }
        let departing = departing.map(SequenceRange::one);
        merged(needed.into_iter().chain(departing).collect()).into_iter().collect()
    }
}
