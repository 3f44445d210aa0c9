//! Pure: looking at a channel's messages without changing anything.
//!
//! A look visits a limited number of places, so that the channel's lock is held for a short time. The caller continues
//! where it ended.

use super::consumers::ConsumerKey;
use super::fates::Fate;
use super::outstanding::{Entry, Place};
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::policy::dead_letter::Reason;
use crate::storage::SequenceRange;

/// Where an unfinished message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Never handed out; ahead of the read cursor.
    Ahead,
    /// Waits to be handed out again.
    Waiting,
    /// Held back until this time.
    Deferred { due: Nanos },
    /// At this consumer, since and until these times.
    InFlight { owner: ConsumerKey, delivered_at: Nanos, deadline: Nanos },
    /// Waits to become a dead letter.
    SetAside(Reason),
    /// Its departure is being recorded.
    Departing,
}

/// An unfinished message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub sequence: u64,
    /// Deliveries so far.
    pub attempts: u16,
    pub standing: Standing,
}

/// Which unfinished messages to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Ahead and waiting.
    pub waiting: bool,
    pub in_flight: bool,
    pub deferred: bool,
    pub set_aside: bool,
}

impl Wanted {
    pub const ALL: Wanted = Wanted { waiting: true, in_flight: true, deferred: true, set_aside: true };
    pub const NONE: Wanted = Wanted { waiting: false, in_flight: false, deferred: false, set_aside: false };

    fn wants(self, place: Place) -> bool {
        match place {
            Place::Waiting => self.waiting,
            Place::InFlight => self.in_flight,
            Place::Deferred => self.deferred,
            Place::Exhausted => self.set_aside,
            Place::Free => false,
        }
    }
}

/// How many messages are handed out before a waiting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    pub before: u64,
    /// `before` is the least: counting ended.
    pub is_at_least: bool,
}

/// Waiting messages that are counted at most.
const MOST_COUNTED: usize = 10_000;

impl ChannelState {
    /// Where a message stands; `None` if it is finished or never entered.
    pub fn standing(&self, sequence: u64) -> Option<Standing> {
        if self.is_in_transit(sequence) {
            return Some(Standing::Departing);
        }
        if let Some(slot) = self.outstanding.find(sequence) {
            return Some(self.standing_of(self.outstanding.entry(slot)));
        }
        if self.departures.departing_between(sequence, sequence + 1).next().is_some() {
            return Some(Standing::Departing);
        }
        self.is_ahead(sequence).then_some(Standing::Ahead)
    }

    fn is_ahead(&self, sequence: u64) -> bool {
        (self.cursor..self.end).contains(&sequence) && !self.skipped.contains(sequence)
    }

    fn standing_of(&self, entry: &Entry) -> Standing {
        match entry.place {
            Place::InFlight => Standing::InFlight {
                owner: entry.owner,
                delivered_at: entry.delivered_at,
                deadline: entry.deadline,
            },
            Place::Deferred => Standing::Deferred { due: entry.deadline },
            Place::Waiting => Standing::Waiting,
            Place::Exhausted => {
                Standing::SetAside(self.reason_of(entry.sequence).unwrap_or(Reason::Attempts))
            }
            Place::Free => Standing::Departing,
        }
    }

    /// Adds the wanted messages from `from` on to `seen`, in order, looking at about `most` places. Returns where to
    /// continue; `None` at the end.
    pub fn look(&self, from: u64, most: usize, wanted: Wanted, seen: &mut Vec<Seen>) -> Option<u64> {
        let mut found = Vec::new();
        let behind =
            self.outstanding.slice(from, most, |entry| self.add_if_wanted(entry, wanted, &mut found));
        let mut ahead = None;
        if wanted.waiting {
            let gaps = self.skipped.gaps(from.max(self.cursor), self.end);
            let sequences = gaps.flat_map(SequenceRange::iter).take(most);
            let before = found.len();
            found.extend(sequences.map(seen_ahead));
            ahead =
                (found.len() - before >= most).then(|| found.last().map(|last| last.sequence + 1)).flatten();
        }
        let next = behind.into_iter().chain(ahead).min();
        found.retain(|seen| next.is_none_or(|next| seen.sequence < next));
        found.sort_unstable_by_key(|seen| seen.sequence);
        seen.append(&mut found);
        next
    }

    /// Like [`ChannelState::look`], but at messages before `before`, the newest first. Returns before which to continue.
    pub fn look_back(&self, before: u64, most: usize, wanted: Wanted, seen: &mut Vec<Seen>) -> Option<u64> {
        let mut found = Vec::new();
        let behind =
            self.outstanding.slice_back(before, most, |entry| self.add_if_wanted(entry, wanted, &mut found));
        let mut ahead = None;
        if wanted.waiting {
            let gaps = self.skipped.gaps_back(self.cursor, before.min(self.end).max(self.cursor));
            let sequences = gaps.flat_map(|gap| (gap.from..gap.to).rev()).take(most);
            let count = found.len();
            found.extend(sequences.map(seen_ahead));
            ahead = (found.len() - count >= most).then(|| found.last().map(|last| last.sequence)).flatten();
        }
        let next = behind.into_iter().chain(ahead).max();
        found.retain(|seen| next.is_none_or(|next| seen.sequence >= next));
        found.sort_unstable_by_key(|seen| std::cmp::Reverse(seen.sequence));
        seen.append(&mut found);
        next
    }

    fn add_if_wanted(&self, entry: &Entry, wanted: Wanted, found: &mut Vec<Seen>) {
        if wanted.wants(entry.place) {
            found.push(Seen {
                sequence: entry.sequence,
                attempts: entry.attempts,
                standing: self.standing_of(entry),
            });
        }
    }

    /// The released messages of `range` that are finished, in order.
    pub fn finished_between(&self, range: SequenceRange) -> Vec<SequenceRange> {
        let to = range.to.min(self.end);
        let mut finished = Vec::new();
        let mut at = range.from;
        for needed in self.needed(range.from, to, usize::MAX) {
            finished.push(SequenceRange::new(at, needed.from.max(at)));
            at = at.max(needed.to);
        }
        finished.push(SequenceRange::new(at, to.max(at)));
        finished.retain(|range| !range.is_empty());
        finished
    }

    /// Whether a message was released to the channel, finished or not.
    pub fn was_released(&self, sequence: u64) -> bool {
        sequence < self.end
    }

    /// Why a message left that the channel does not have any more, if it is still known.
    pub fn fate_of(&self, sequence: u64) -> Option<Fate> {
        self.fates.of(sequence)
    }

    /// The turn of a message that is ahead or waits. In an ordered channel, messages whose keys are busy may come later.
    pub fn turn_of(&self, sequence: u64) -> Option<Turn> {
        let Some(slot) = self.outstanding.find(sequence) else {
            if !self.is_ahead(sequence) {
                return None;
            }
            let waiting = self.waiting.iter(&self.outstanding).take(MOST_COUNTED);
            let again = waiting.take_while(|(turn, _)| *turn <= sequence).count();
            let gaps = self.skipped.gaps(self.cursor, sequence).take(MOST_COUNTED);
            let (mut before, mut parts) = (again as u64, 0);
            for gap in gaps {
                before += gap.len();
                parts += 1;
            }
            return Some(Turn { before, is_at_least: again >= MOST_COUNTED || parts >= MOST_COUNTED });
        };
        let entry = self.outstanding.entry(slot);
        if entry.place != Place::Waiting {
            return None;
        }
        if let Some(order) = &self.order
            && order.waiting().any(|here| here == sequence)
        {
            let of_key = order.waits_for(sequence).map_or(0, |blocked| blocked.queue_length);
            return Some(Turn { before: of_key.max(order.ready_before(sequence)), is_at_least: false });
        }
        let waiting = self.waiting.iter(&self.outstanding).take(MOST_COUNTED);
        let again = waiting.take_while(|(_, other)| *other != slot).count();
        let (turn, mut before, mut parts) = (entry.deadline, again as u64, 0);
        for gap in self.skipped.gaps(self.cursor, turn.min(self.end)).take(MOST_COUNTED) {
            before += gap.len();
            parts += 1;
        }
        Some(Turn { before, is_at_least: again >= MOST_COUNTED || parts >= MOST_COUNTED })
    }

    /// The message that has been in flight to this consumer for the longest time, among the first it was handed.
    pub fn oldest_in_flight(&self, key: ConsumerKey) -> Option<Seen> {
        let slot = self.consumers.get(key)?.in_flight.first(&self.outstanding)?;
        let entry = self.outstanding.entry(slot);
        Some(Seen { sequence: entry.sequence, attempts: entry.attempts, standing: self.standing_of(entry) })
    }

    /// When the next deferred message is due.
    pub fn next_due(&self) -> Option<Nanos> {
        self.deferred.first().map(|(due, _)| due)
    }

    /// Whether messages cannot be read from disk now.
    pub fn is_suspended(&self) -> bool {
        self.suspended
    }

    /// Whether consumers wait for a read from disk.
    pub fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Whether the next message can leave only when others have become dead letters.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }
}

fn seen_ahead(sequence: u64) -> Seen {
    Seen { sequence, attempts: 0, standing: Standing::Ahead }
}
