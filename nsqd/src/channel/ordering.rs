//! Pure: what an order ([`super::order`]) means for a channel's messages: which is handed out next, and beginning and ending
//! an order while messages are outstanding.

use super::consumers::ConsumerKey;
use super::order::{BlockedKey, Order, OrderReport};
use super::outstanding::{Place, Slot};
use super::state::ChannelState;
use super::take::{Queue, Turn};
use crate::policy::dead_letter::Reason;
use crate::policy::ordering::Rule;

impl ChannelState {
    /// What the channel's order holds back; `None` without one.
    pub fn order_report(&self) -> Option<OrderReport> {
        self.order.as_ref().map(|order| order.report())
    }

    /// The consumer to which this message is in flight.
    pub fn owner_of(&self, sequence: u64) -> Option<ConsumerKey> {
        let entry = self.outstanding.entry(self.outstanding.find(sequence)?);
        (entry.place == Place::InFlight).then_some(entry.owner)
    }

    /// What keeps a message that is ahead or waits from being handed out: an earlier one of its key.
    pub fn waits_for(&self, sequence: u64) -> Option<BlockedKey> {
        self.order.as_ref()?.waits_for(sequence)
    }

    /// The message that keeps most others waiting, or all of them. `None` if the channel only shares its consumers fairly.
    pub fn blocked_key(&self) -> Option<BlockedKey> {
        let order = self.order.as_ref()?;
        if order.is_of_all() {
            let next = order.oldest().unwrap_or(self.cursor);
            return order.waits_for(next).filter(|_| self.depth() > 0);
        }
        order.report().blocked.filter(|_| order.ordering().rule == Rule::Key)
    }

    /// Whether any message can be handed out or looked at.
    pub fn has_available(&self) -> bool {
        self.available() > 0
    }

    /// Number of messages that were read and wait for others of their key.
    pub fn held_by_order_count(&self) -> u64 {
        self.order.as_ref().map_or(0, |order| order.held_count())
    }

    /// Begins or ends an order after a change of the policy.
    pub(super) fn apply_ordering(&mut self) {
        let before = self.order.as_ref().map(|order| order.ordering());
        if before == self.policy.ordering {
            return;
        }
        self.end_order();
        self.order = self.policy.ordering.map(|ordering| Box::new(Order::new(ordering)));
        self.begin_order();
    }

    /// Begins the order again, if there is one: no key is known any more.
    pub(super) fn begin_order(&mut self) {
        let Some(mut order) = self.order.take() else { return };
        order.clear();
        for entry in self.outstanding.iter() {
            match entry.place {
                Place::InFlight => order.add_unlearned(entry.sequence, true),
                // Messages that were published deferred take part when they are due.
                Place::Deferred if entry.attempts > 0 => order.add_unlearned(entry.sequence, true),
                Place::Waiting => order.add_unlearned(entry.sequence, false),
                // One that has expired or is dropped keeps no other message waiting.
                Place::Exhausted => {
                    let reason = self.departures.reason(entry.sequence);
                    if matches!(reason, Some(Reason::Attempts | Reason::Rejected)) {
                        order.add_unlearned(entry.sequence, true);
                    }
                }
                Place::Deferred | Place::Free => {}
            }
        }
        self.departures.departing().for_each(|sequence| order.add_unlearned(sequence, true));
        self.waiting.clear(&mut self.outstanding);
        self.sorted_count = 0;
        self.order = Some(order);
    }

    /// Ends the order: messages that waited in it wait before all others.
    fn end_order(&mut self) {
        let Some(order) = self.order.take() else { return };
        // A message that was recalled waits until the cursor has passed it.
        let turn = |sequence: u64| if sequence < self.cursor { 0 } else { sequence };
        let mut sequences: Vec<u64> = order.waiting().collect();
        sequences.sort_unstable();
        let here = sequences
            .into_iter()
            .filter_map(|sequence| Some((turn(sequence), self.outstanding.find(sequence)?)));
        let mut all: Vec<(u64, Slot)> = here.chain(self.waiting.iter(&self.outstanding)).collect();
        all.sort_by_key(|&(turn, _)| turn);
        self.waiting.clear(&mut self.outstanding);
        all.into_iter().for_each(|(turn, slot)| self.waiting.push_back(&mut self.outstanding, turn, slot));
        self.sorted_count = 0;
        self.wanted = None;
    }

    /// What is next in a channel with an order. A message that failed waits behind all that were there, as without an order;
    /// if the channel can read no further before it is finished, its turn has come.
    pub(super) fn next_turn_in_order(&self) -> Turn {
        let Some(order) = &self.order else { return Turn::Nothing };
        if let Some(sequence) = order.must_learn() {
            return Turn::Learn(sequence);
        }
        let waiting = self.waiting.first(&self.outstanding);
        if let Some((_, slot)) = waiting.filter(|(after, _)| self.cursor >= *after) {
            return Turn::Again(slot, Queue::Waiting);
        }
        if let Some(turn) = order.next(self.cursor).and_then(|sequence| self.again_in_order(sequence)) {
            return turn;
        }
        if order.may_read()
            && let turn @ Turn::Ahead { .. } = self.turn_ahead()
        {
            return match turn {
                // The next one would have to wait for it.
                Turn::Ahead { until } if order.is_of_all() => {
                    Turn::Ahead { until: until.min(self.cursor + 1) }
                }
                turn => turn,
            };
        }
        if let Some((_, slot)) = waiting {
            return Turn::Again(slot, Queue::Waiting);
        }
        let beyond = order.next_beyond_share().and_then(|sequence| self.again_in_order(sequence));
        beyond.unwrap_or(Turn::Nothing)
    }

    fn again_in_order(&self, sequence: u64) -> Option<Turn> {
        Some(Turn::Again(self.outstanding.find(sequence)?, Queue::Ordered))
    }

    /// Messages that can be handed out or looked at now.
    pub(super) fn available_in_order(&self, order: &Order) -> u64 {
        let ahead = if order.may_read() { self.end - self.cursor - self.skipped.count() } else { 0 };
        self.waiting.len() as u64 + order.available(self.cursor) + ahead
    }

    /// The messages that wait in the order.
    pub(super) fn waiting_in_order(&self) -> impl Iterator<Item = Slot> + '_ {
        let all = self.order.as_ref().map(|order| order.waiting()).into_iter().flatten();
        all.filter_map(|sequence| self.outstanding.find(sequence))
    }

    /// The message that has waited longest, and where. Messages that wait in the order are older than those that failed.
    pub(super) fn oldest_waiting(&self) -> Option<(Slot, Queue)> {
        let ordered = self.order.as_ref().and_then(|order| self.outstanding.find(order.oldest()?));
        let queued = || Some((self.waiting.first(&self.outstanding)?.1, Queue::Waiting));
        ordered.map(|slot| (slot, Queue::Ordered)).or_else(queued)
    }
}
