//! Pure: messages that are taken back when they are about to be handed out, because they are too old or do not match the
//! channel's filter.
//!
//! Only the message itself says so, in its headers. So it is looked at when it has been supplied. A channel without a filter,
//! in a topic whose messages have no time to live of their own, never comes here.

use super::departures::Departures;
use super::outstanding::{Entry, Place, Slot};
use super::state::ChannelState;
use crate::channel::ConsumerKey;
use crate::clock::Nanos;
use crate::log::{Source, Supplied, Supply};
use crate::policy::dead_letter::Reason;
use crate::storage::SequenceRange;

/// After this many messages that are not handed out, a take ends, and the consumer is woken again.
const MOST_TAKEN_BACK: usize = 1000;
/// The same for their bytes.
const MOST_TAKEN_BACK_BYTES: usize = 1 << 20;

/// What a channel does with a message that was supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    HandOut,
    Expired,
    /// It is finished: it does not match the filter.
    Filtered,
    /// It stays where it is: too many messages wait to be dead-lettered.
    Later,
}

/// What a take did not hand out.
#[derive(Debug, Default)]
pub(super) struct TakenBack {
    count: usize,
    bytes: usize,
    /// The message at the cursor cannot leave now.
    pub(super) is_blocked: bool,
}

impl TakenBack {
    /// Whether the take must end.
    pub(super) fn is_enough(&self) -> bool {
        self.count >= MOST_TAKEN_BACK || self.bytes >= MOST_TAKEN_BACK_BYTES
    }
}

impl ChannelState {
    /// Tells whether messages of the log may have a time to live of their own.
    pub fn set_has_own_ttls(&mut self, has_own_ttls: bool) {
        self.has_own_ttls = has_own_ttls;
    }

    /// Whether messages from `sequence` on must be looked at before they are handed out. Call after they were supplied.
    #[inline]
    pub(super) fn screens(&self, sequence: u64, source: &impl Source) -> bool {
        self.policy.filter.is_some() || source.may_have_own_ttl(sequence)
    }

    fn verdict(&self, message: &Supplied<'_>, now: Nanos) -> Verdict {
        if self.policy.filter.as_ref().is_some_and(|filter| !filter.matches(message.headers)) {
            return Verdict::Filtered;
        }
        let due_at = self.departures.due_at(message.sequence);
        match message.own_ttl {
            Some(ttl) if ttl.has_passed(due_at, now) => Verdict::Expired,
            _ => Verdict::HandOut,
        }
    }

    /// Hands out those of the `count` messages at the cursor, supplied just now, that may be.
    pub(super) fn give_screened(
        &mut self,
        key: ConsumerKey,
        count: u64,
        (now, timeout): (Nanos, Nanos),
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> Supply {
        let first = self.cursor;
        let keeps_expired = self.keeps(Reason::Expired);
        let mut room = Departures::MOST_EXHAUSTED.saturating_sub(self.exhausted_count());
        let mut verdicts = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        taken_back.bytes += source.retain(first, |message| {
            let verdict = match verdicts.last() {
                Some(Verdict::Later) => Verdict::Later,
                _ => match self.verdict(&message, now) {
                    Verdict::Expired if keeps_expired && room == 0 => Verdict::Later,
                    verdict => verdict,
                },
            };
            room = room.saturating_sub(usize::from(verdict == Verdict::Expired));
            verdicts.push(verdict);
            verdict == Verdict::HandOut
        });
        let deadline = now.saturating_add(timeout);
        let mut given = Vec::new();
        let mut at = first;
        for verdict in verdicts {
            match verdict {
                Verdict::HandOut => {
                    let entry = Entry {
                        deadline,
                        delivered_at: now,
                        owner: key,
                        ..Entry::new(at, 1, Place::InFlight)
                    };
                    let outstanding = &mut self.outstanding;
                    let slot = outstanding.insert(entry);
                    self.consumers.update(key, |consumer| consumer.in_flight.insert(outstanding, slot));
                    given.push(slot);
                }
                Verdict::Expired => {
                    taken_back.count += 1;
                    self.expire_ahead(at, keeps_expired);
                }
                Verdict::Filtered => {
                    taken_back.count += 1;
                    self.finish_filtered(at);
                }
                Verdict::Later => {
                    taken_back.is_blocked = true;
                    break;
                }
            }
            at += 1;
        }
        self.note_timestamps_of(&given, source);
        self.advance(at - first);
        Supply::Given(given.len() as u64)
    }

    /// Removes a message at the cursor that has expired, or sets it aside.
    fn expire_ahead(&mut self, sequence: u64, keeps_expired: bool) {
        if keeps_expired {
            let slot = self.outstanding.insert(Entry::new(sequence, 0, Place::Exhausted));
            self.exhaust(slot, Reason::Expired);
        } else {
            self.drop_ahead(SequenceRange::one(sequence), Reason::Expired);
        }
    }

    /// Finishes a message that does not match the filter.
    fn finish_filtered(&mut self, sequence: u64) {
        self.counters.filtered_count += 1;
        self.finished.push(SequenceRange::one(sequence));
    }

    /// Removes a waiting message, supplied just now, if it must not be handed out. Returns whether it did.
    pub(super) fn take_back_again(
        &mut self,
        slot: Slot,
        now: Nanos,
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> bool {
        let sequence = self.outstanding.entry(slot).sequence;
        let mut verdict = Verdict::HandOut;
        taken_back.bytes += source.retain(sequence, |message| {
            verdict = self.verdict(&message, now);
            verdict == Verdict::HandOut
        });
        if verdict == Verdict::HandOut {
            return false;
        }
        taken_back.count += 1;
        self.pop_waiting();
        if verdict == Verdict::Filtered {
            self.outstanding.remove(slot);
            self.departures.forget(sequence);
            self.finish_filtered(sequence);
        } else {
            self.leave(slot, Reason::Expired);
        }
        true
    }
}
