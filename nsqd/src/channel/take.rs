//! Pure: handing out a channel's messages: to whom, how many, in which order.
//!
//! First deliveries follow publishing order. A waiting message is handed out when the cursor has passed all messages
//! that were there when it came back.

use super::consumers::{Consumer, ConsumerKey};
use super::fates::Fate;
use super::outstanding::{Entry, Place, Slot};
use super::screening::TakenBack;
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::locality::Locality;
use crate::log::{Source, Supply};
use crate::policy::dead_letter::Reason;
use crate::storage::SequenceRange;

/// Number of waiting messages that are sorted at a time.
const SORTED_AT_A_TIME: usize = 8192;

/// Why [`ChannelState::take`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeEnd {
    /// Nothing (more) to hand out, or paused: the consumer is parked if it has room.
    Parked,
    /// The consumer has its share or its RDY is used up.
    Satisfied,
    /// See [`Supply::OnDisk`]: the consumer is parked, and no consumer is woken until the read has ended.
    OnDisk,
    /// See [`Supply::Full`].
    Full,
}

/// What a take hands out or looks at next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// A message that waits.
    Again(Slot, Queue),
    /// Messages ahead of the cursor, before `until`.
    Ahead {
        until: u64,
    },
    /// The key of this message must be learned first.
    Learn(u64),
    Nothing,
}

/// Where a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queue {
    /// First in the queue of waiting messages.
    Waiting,
    /// In the channel's order.
    Ordered,
}

impl ChannelState {
    /// Hands out messages to a consumer: at most its fair share of the available ones, and at most what RDY allows.
    /// Returns how many, and why the take ended.
    pub fn take(&mut self, key: ConsumerKey, now: Nanos, source: &mut impl Source) -> (u64, TakeEnd) {
        self.woken.take_if(|woken| *woken == key);
        let Some(consumer) = self.consumers.get(key) else { return (0, TakeEnd::Satisfied) };
        let (room, timeout, sample_rate) = (consumer.room(), consumer.message_timeout, consumer.sample_rate);
        if room == 0 {
            return (0, TakeEnd::Satisfied);
        }
        let locality = consumer.locality;
        let available =
            if self.paused || self.suspended || self.is_moving_out { 0 } else { self.available() };
        let available = available.saturating_sub(self.wanted_nearer_than(locality));
        if available == 0 {
            self.consumers.park(key);
            return (0, TakeEnd::Parked);
        }
        let mut share = available.div_ceil(self.consumers.eligible_count(locality).max(1) as u64).min(room);
        let is_throttled = self.throttle.is_some();
        if is_throttled {
            share = share.min(self.throttle_room(now));
            if share == 0 {
                self.consumers.park(key);
                return (0, TakeEnd::Parked);
            }
        }
        let mut given = 0;
        let mut end = TakeEnd::Satisfied;
        let mut taken_back = TakenBack::default();
        self.is_blocked = false;
        while given < share {
            if taken_back.is_enough() {
                // The next take continues.
                self.consumers.park(key);
                break;
            }
            let supply = match self.next_turn() {
                Turn::Again(slot, queue) if self.is_expired(slot, now) => {
                    self.leave_queue(queue);
                    self.leave(slot, Reason::Expired);
                    continue;
                }
                Turn::Again(slot, queue) => {
                    self.give_again(key, (slot, queue), (now, timeout), source, &mut taken_back)
                }
                Turn::Learn(sequence) => self.learn(sequence, source, &mut taken_back),
                Turn::Ahead { until } => {
                    if sample_rate > 0 && !self.sampled(sample_rate) {
                        self.finished.push(SequenceRange::one(self.cursor));
                        self.advance(1);
                        continue;
                    }
                    let most = match sample_rate {
                        0 => (share - given).min(until - self.cursor),
                        _ => 1,
                    };
                    self.give_first(key, most, (now, timeout), source, &mut taken_back)
                }
                Turn::Nothing => {
                    self.is_blocked = self.cursor < self.end && self.is_next_expired();
                    self.consumers.park(key);
                    end = TakeEnd::Parked;
                    break;
                }
            };
            if taken_back.is_blocked {
                if let Supply::Given(count) = supply {
                    given += count;
                }
                self.is_blocked = true;
                self.consumers.park(key);
                end = TakeEnd::Parked;
                break;
            }
            match supply {
                Supply::Given(count) => given += count,
                Supply::Lost(_) | Supply::Gone(_) => {}
                Supply::OnDisk => {
                    self.consumers.park(key);
                    self.stalled = true;
                    end = TakeEnd::OnDisk;
                    break;
                }
                Supply::Full => {
                    end = TakeEnd::Full;
                    break;
                }
            }
        }
        self.in_flight_count += given as usize;
        if is_throttled {
            self.throttle_took(given, now);
        }
        self.consumers.update(key, |consumer| {
            consumer.in_flight_count += given;
            consumer.message_count += given;
        });
        if given > 0 {
            self.consumers.note_deadline(key, &self.outstanding);
        }
        if end == TakeEnd::Satisfied && share < room {
            // Other consumers share the rest. If they do not take it, this one is woken again.
            self.consumers.park(key);
        }
        (given, end)
    }

    #[inline]
    fn next_turn(&self) -> Turn {
        if self.order.is_some() {
            return self.next_turn_in_order();
        }
        match self.waiting.first(&self.outstanding) {
            Some((after, slot)) if self.cursor >= after => Turn::Again(slot, Queue::Waiting),
            _ => self.turn_ahead(),
        }
    }

    /// The turn of the messages ahead, if there are any.
    #[inline]
    pub(super) fn turn_ahead(&self) -> Turn {
        if self.cursor >= self.end || self.is_next_expired() {
            return Turn::Nothing;
        }
        let until = self.waiting.first(&self.outstanding).map_or(self.end, |(after, _)| after);
        Turn::Ahead { until: until.min(self.skipped.first().map_or(u64::MAX, |range| range.from)) }
    }

    /// Messages that can be handed out or looked at now.
    #[inline]
    pub(super) fn available(&self) -> u64 {
        match &self.order {
            Some(order) => self.available_in_order(order),
            None => self.depth(),
        }
    }

    /// A message leaves its queue: the first one of the waiting messages, or one that the order knows about.
    #[inline]
    pub(super) fn leave_queue(&mut self, queue: Queue) {
        if queue == Queue::Waiting {
            self.pop_waiting();
        }
    }

    /// How many messages nearer consumers may get: the parked ones, and one that was woken and has not taken yet.
    fn wanted_nearer_than(&self, locality: Locality) -> u64 {
        if locality == Locality::Zone {
            return 0;
        }
        let woken = self.woken.and_then(|key| self.consumers.get(key));
        let of_woken = woken.filter(|woken| woken.locality < locality).map_or(0, Consumer::room);
        self.consumers.idle_room_nearer_than(locality) + of_woken
    }

    fn give_first(
        &mut self,
        key: ConsumerKey,
        most: u64,
        (now, timeout): (Nanos, Nanos),
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> Supply {
        let supply = source.first(self.cursor, most);
        match supply {
            Supply::Given(count) if self.screens(self.cursor, source) => {
                return self.give_screened(key, count, (now, timeout), source, taken_back);
            }
            Supply::Given(count) => {
                let outstanding = &mut self.outstanding;
                let deadline = now.saturating_add(timeout);
                self.consumers.update(key, |consumer| {
                    for sequence in self.cursor..self.cursor + count {
                        let slot = outstanding.insert(Entry {
                            deadline,
                            delivered_at: now,
                            owner: key,
                            ..Entry::new(sequence, 1, Place::InFlight)
                        });
                        consumer.in_flight.insert(outstanding, slot);
                    }
                });
                self.note_timestamps(self.cursor, source);
                self.advance(count);
            }
            Supply::Lost(up_to) | Supply::Gone(up_to) => {
                let up_to = up_to.clamp(self.cursor + 1, self.cursor + most);
                if matches!(supply, Supply::Lost(_)) {
                    self.counters.lost_count += up_to - self.cursor;
                }
                self.fates.note(SequenceRange::new(self.cursor, up_to), Fate::Lost);
                self.finished.push(SequenceRange::new(self.cursor, up_to));
                self.advance(up_to - self.cursor);
            }
            Supply::OnDisk | Supply::Full => {}
        }
        supply
    }

    fn give_again(
        &mut self,
        key: ConsumerKey,
        (slot, queue): (Slot, Queue),
        (now, timeout): (Nanos, Nanos),
        source: &mut impl Source,
        taken_back: &mut TakenBack,
    ) -> Supply {
        let entry = self.outstanding.entry(slot);
        let (sequence, attempts) = (entry.sequence, entry.attempts.saturating_add(1));
        let supply = source.again(sequence, attempts);
        match supply {
            Supply::Given(_)
                if self.screens(sequence, source)
                    && self.take_back_again((slot, queue), now, source, taken_back) =>
            {
                return Supply::Given(0);
            }
            Supply::Given(_) => {
                self.leave_queue(queue);
                if let Some(order) = &mut self.order {
                    order.taken(sequence);
                    self.wanted = None;
                }
                let entry = self.outstanding.entry_mut(slot);
                entry.attempts = attempts;
                entry.place = Place::InFlight;
                entry.owner = key;
                entry.delivered_at = now;
                entry.deadline = now.saturating_add(timeout);
                self.consumers.enter_flight(key, &mut self.outstanding, slot);
                self.note_timestamps(sequence, source);
            }
            Supply::Lost(_) | Supply::Gone(_) => {
                self.leave_queue(queue);
                self.remove(slot);
                self.counters.lost_count += u64::from(matches!(supply, Supply::Lost(_)));
                self.fates.note(SequenceRange::one(sequence), Fate::Lost);
                self.finished.push(SequenceRange::one(sequence));
            }
            Supply::OnDisk => self.wanted = Some(sequence),
            Supply::Full => {}
        }
        supply
    }

    /// Stores the timestamps of the messages just supplied, from `first` on; FIN needs them.
    fn note_timestamps(&mut self, first: u64, source: &impl Source) {
        let Some(latencies) = &mut self.latencies else { return };
        let outstanding = &self.outstanding;
        let mut sequence = first;
        source.timestamps(|published_at| {
            if let Some(slot) = outstanding.find(sequence) {
                latencies.handed_out(slot, published_at);
            }
            sequence += 1;
        });
    }

    /// Stores the timestamps of these messages, which were supplied just now and are handed out.
    pub(super) fn note_timestamps_of(&mut self, given: &[Slot], source: &impl Source) {
        let Some(latencies) = &mut self.latencies else { return };
        let mut slots = given.iter();
        source.timestamps(|published_at| {
            if let Some(&slot) = slots.next() {
                latencies.handed_out(slot, published_at);
            }
        });
    }

    #[inline]
    pub(super) fn pop_waiting(&mut self) {
        self.waiting.pop_front(&mut self.outstanding);
        self.sorted_count = self.sorted_count.saturating_sub(1);
    }

    /// Sorts the oldest waiting messages whose turn has come by their position in the log, so that they are read in
    /// that order. The order of redeliveries is not guaranteed.
    pub fn sort_waiting(&mut self) {
        if self.sorted_count > 0 {
            return;
        }
        let cursor = self.cursor;
        let mut slots: Vec<Slot> = (self.waiting.iter(&self.outstanding))
            .take(SORTED_AT_A_TIME)
            .take_while(|(turn, _)| *turn <= cursor)
            .map(|(_, slot)| slot)
            .collect();
        let outstanding = &self.outstanding;
        slots.sort_unstable_by_key(|slot| outstanding.entry(*slot).sequence);
        self.sorted_count = slots.len();
        // Only messages whose turn has come change places, so the turns stay in order.
        self.waiting.reorder_first(&mut self.outstanding, &slots);
    }

    /// Messages behind the cursor that are handed out next, roughly in order. If the last take ended at one that must be
    /// read, it is the first.
    pub fn waiting_sequences(&self) -> impl Iterator<Item = u64> {
        let due = self.waiting.iter(&self.outstanding).take_while(|(turn, _)| *turn <= self.cursor);
        let due = due.map(|(_, slot)| self.outstanding.entry(slot).sequence);
        let here = self.order.as_ref().map(|order| order.wanted()).into_iter().flatten();
        let wanted = self.wanted.filter(|_| self.order.is_some());
        let others = here.chain(due).filter(move |sequence| Some(*sequence) != wanted);
        wanted.into_iter().chain(others)
    }

    pub(super) fn advance(&mut self, count: u64) {
        self.cursor += count;
        self.pass_skipped();
    }

    /// Whether a sampling consumer gets the next message. Uses xorshift: cheap, and random enough here.
    fn sampled(&mut self, rate: u8) -> bool {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) % 100 < u64::from(rate)
    }

    /// Returns the next parked consumer to wake, if messages are available. The consumer must take, even if it does not
    /// need messages any more. If it cannot, [`ChannelState::pass_on`] must follow.
    pub fn wake_next(&mut self) -> Option<ConsumerKey> {
        let is_held = self.paused || self.suspended || self.is_moving_out || self.stalled;
        if is_held || self.available() == 0 || self.woken.is_some() {
            return None;
        }
        if self.waits_for_dead_letters() {
            return None;
        }
        if let Some(throttle) = &self.throttle
            && throttle.blocks(self.in_flight_count as u64)
        {
            return None;
        }
        self.woken = self.consumers.unpark_next();
        self.woken
    }

    /// This consumer cannot take now. If it was woken, another one can be woken. This one takes by itself when it can.
    pub fn pass_on(&mut self, key: ConsumerKey) {
        self.woken.take_if(|woken| *woken == key);
    }
}
