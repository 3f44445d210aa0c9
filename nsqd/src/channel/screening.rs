//! Pure: messages that are taken back when they are about to be handed out, because they are too old, do not match the
//! channel's filter, or wait for another one of their key.
//!
//! Only the message itself says so, in its headers. So it is looked at when it has been supplied. A channel without a filter
//! and without an order, in a topic whose messages have no time to live of their own, never comes here.

use nsq_protocol::headers;

use super::departures::Departures;
use super::fates::Fate;
use super::order::{Admission, Order};
use super::outstanding::{Entry, Place, Slot};
use super::state::ChannelState;
use super::take::Queue;
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
    /// It is held until it is its turn among the messages of its key.
    Held,
    /// It stays where it is: too many messages wait to be dead-lettered, or for others of their keys.
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

/// Decides by its key about a message that could be handed out.
fn admit(order: Option<&mut Order>, message: &Supplied<'_>) -> Verdict {
    let Some(order) = order else { return Verdict::HandOut };
    let key = match message.headers {
        Some(headers) if !order.is_of_all() => headers.get(headers::KEY),
        _ => None,
    };
    match order.admit(message.sequence, key.as_deref()) {
        Admission::HandOut => Verdict::HandOut,
        Admission::Hold => Verdict::Held,
        Admission::Stop => Verdict::Later,
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
        self.screens_all || source.may_have_own_ttl(sequence)
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
        let mut order = self.order.take();
        let mut room = Departures::MOST_EXHAUSTED.saturating_sub(self.exhausted_count());
        let mut verdicts = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        taken_back.bytes += source.retain(first, |message| {
            let verdict = match verdicts.last() {
                Some(Verdict::Later) => Verdict::Later,
                _ => match self.verdict(&message, now) {
                    Verdict::Expired if keeps_expired && room == 0 => Verdict::Later,
                    Verdict::HandOut => admit(order.as_deref_mut(), &message),
                    verdict => verdict,
                },
            };
            room = room.saturating_sub(usize::from(verdict == Verdict::Expired));
            verdicts.push(verdict);
            verdict == Verdict::HandOut
        });
        self.order = order;
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
                    let slot = self.outstanding.insert(entry);
                    self.consumers.enter_flight(key, &mut self.outstanding, slot);
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
                Verdict::Held => {
                    taken_back.count += 1;
                    self.outstanding.insert(Entry::new(at, 0, Place::Waiting));
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
        self.fates.note(SequenceRange::one(sequence), Fate::Filtered);
        self.finished.push(SequenceRange::one(sequence));
    }

    /// Takes a waiting message back, supplied just now, if it must not be handed out. Returns whether it did.
    pub(super) fn take_back_again(
        &mut self,
        (slot, queue): (Slot, Queue),
        now: Nanos,
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> bool {
        let sequence = self.outstanding.entry(slot).sequence;
        let mut verdict = Verdict::HandOut;
        let mut order = self.order.take();
        taken_back.bytes += source.retain(sequence, |message| {
            verdict = self.verdict(&message, now);
            if verdict == Verdict::HandOut && order.as_ref().is_some_and(|order| order.is_unlearned(sequence))
            {
                verdict = admit(order.as_deref_mut(), &message);
            }
            verdict == Verdict::HandOut
        });
        self.order = order;
        if verdict == Verdict::HandOut {
            return false;
        }
        taken_back.count += 1;
        match verdict {
            Verdict::Filtered => {
                self.leave_queue(queue);
                self.remove(slot);
                self.finish_filtered(sequence);
            }
            Verdict::Expired => {
                self.leave_queue(queue);
                self.leave(slot, Reason::Expired);
            }
            Verdict::Held | Verdict::HandOut => {}
            Verdict::Later => taken_back.is_blocked = true,
        }
        true
    }

    /// Learns the key of a message that does not wait, from the log.
    pub(super) fn learn(
        &mut self,
        sequence: u64,
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> Supply {
        let slot = self.outstanding.find(sequence);
        let is_deferred = slot.is_some_and(|slot| self.outstanding.entry(slot).place == Place::Deferred);
        let Some(order) = &mut self.order else { return Supply::Given(0) };
        let supply = if order.is_of_all() { Supply::Gone(0) } else { source.again(sequence, 1) };
        match supply {
            Supply::Given(_) => {
                taken_back.bytes += source.retain(sequence, |message| {
                    let key = message.headers.and_then(|headers| headers.get(headers::KEY));
                    order.learn(sequence, key.as_deref(), is_deferred);
                    false
                });
            }
            Supply::Lost(_) | Supply::Gone(_) => order.learn(sequence, None, is_deferred),
            Supply::OnDisk | Supply::Full => {
                self.wanted = Some(sequence);
                return supply;
            }
        }
        taken_back.count += 1;
        Supply::Given(0)
    }
}
