//! Pure: the consumers of a channel, their RDY credit, and whose turn it is.
//!
//! A consumer is *eligible* while it may get messages: fewer in flight than RDY, and not closing. A consumer that found
//! nothing to take is *parked*. The longest parked is woken first, which spreads single messages round-robin. With
//! topology-aware delivery, the nearest are woken first. Others leave as many messages as nearer parked consumers have
//! room for. A parked consumer that never takes blocks no one.

use std::collections::{BTreeSet, VecDeque};

use super::in_flight::InFlightList;
use super::outstanding::{Outstanding, Slot};
use crate::clock::Nanos;
use crate::locality::Locality;

/// Identifies a consumer within one channel. Reused after the consumer leaves.
pub type ConsumerKey = u32;

/// The channel's record of one consumer.
#[derive(Debug)]
pub struct Consumer {
    /// RDY: maximum number of messages in flight.
    pub ready_count: u64,
    /// Number of messages in `in_flight`.
    pub in_flight_count: u64,
    /// In deadline order.
    pub in_flight: InFlightList,
    /// How long a message may be in flight.
    pub message_timeout: Nanos,
    /// Percentage of messages that the consumer wants; 0 means all.
    pub sample_rate: u8,
    pub locality: Locality,
    /// Messages delivered so far.
    pub message_count: u64,
    /// FINs that succeeded.
    pub finish_count: u64,
    /// REQs that succeeded.
    pub requeue_count: u64,
    parked: bool,
    closing: bool,
    /// The time of this consumer in [`Consumers::due`]: its first deadline or earlier. [`Nanos::MAX`] without messages
    /// in flight.
    due_at: Nanos,
    /// Distinguishes the consumer from earlier ones with the same key.
    number: u64,
}

/// A parked consumer's room counts at most so much: sums of it cannot overflow.
const MAX_ROOM: u64 = u32::MAX as u64;

impl Consumer {
    /// How many more messages the consumer may get.
    pub fn room(&self) -> u64 {
        if self.closing { 0 } else { self.ready_count.saturating_sub(self.in_flight_count) }
    }

    /// Whether it sent CLS.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    fn idle_room(&self) -> u64 {
        if self.parked { self.room().min(MAX_ROOM) } else { 0 }
    }
}

/// The consumers of one locality.
#[derive(Debug, Default)]
struct Group {
    eligible_count: usize,
    /// How many messages the parked consumers may get.
    idle_room: u64,
    /// Keys and numbers, the longest parked first. An entry whose consumer is no longer parked is stale and is skipped.
    parked: VecDeque<(ConsumerKey, u64)>,
    /// Messages delivered to this group, including consumers that have left.
    message_count: u64,
}

/// All consumers of a channel; see the module.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    free: Vec<ConsumerKey>,
    count: usize,
    /// Number of consumers ever added.
    next_number: u64,
    /// All consumers with messages in flight, each by a time not later than its first deadline. The time is corrected
    /// when it is reached, not with every message.
    due: BTreeSet<(Nanos, ConsumerKey)>,
    /// By [`Locality`], nearest first.
    groups: [Group; Locality::COUNT],
}

impl Consumers {
    /// Adds a consumer with RDY 0.
    pub fn add(&mut self, message_timeout: Nanos, sample_rate: u8, locality: Locality) -> ConsumerKey {
        self.next_number += 1;
        let consumer = Consumer {
            number: self.next_number,
            due_at: Nanos::MAX,
            ready_count: 0,
            in_flight_count: 0,
            in_flight: InFlightList::default(),
            message_timeout,
            sample_rate,
            locality,
            message_count: 0,
            finish_count: 0,
            requeue_count: 0,
            parked: false,
            closing: false,
        };
        self.count += 1;
        if let Some(key) = self.free.pop() {
            self.slots[key as usize] = Some(consumer);
            return key;
        }
        self.slots.push(Some(consumer));
        (self.slots.len() - 1) as ConsumerKey
    }

    /// Removes a consumer. Its in-flight list must be empty.
    pub fn remove(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.slots.get_mut(key as usize).and_then(Option::take) {
            self.count -= 1;
            self.free.push(key);
            self.due.remove(&(consumer.due_at, key));
            let group = &mut self.groups[consumer.locality as usize];
            group.eligible_count -= usize::from(consumer.room() > 0);
            group.idle_room -= consumer.idle_room();
            // Consumers that subscribe, park and leave without a message would add stale entries without end.
            if group.parked.len() > MAX_STALE_KEYS + 2 * self.count {
                let slots = &self.slots;
                group.parked.retain(|&(key, number)| {
                    let consumer = slots.get(key as usize).and_then(Option::as_ref);
                    consumer.is_some_and(|consumer| consumer.number == number)
                });
            }
        }
    }

    /// Number of consumers, including closing ones.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of eligible consumers at this locality.
    pub fn eligible_count(&self, locality: Locality) -> usize {
        self.groups[locality as usize].eligible_count
    }

    /// How many messages parked consumers nearer than this may get now.
    pub fn idle_room_nearer_than(&self, locality: Locality) -> u64 {
        self.groups[..locality as usize].iter().map(|group| group.idle_room).sum()
    }

    /// Messages delivered to consumers at this locality.
    pub fn message_count(&self, locality: Locality) -> u64 {
        self.groups[locality as usize].message_count
    }

    /// Messages delivered to any consumer.
    pub fn delivered_count(&self) -> u64 {
        self.groups.iter().map(|group| group.message_count).sum()
    }

    /// How many messages all consumers together may get now.
    pub fn room(&self) -> u64 {
        if self.groups.iter().all(|group| group.eligible_count == 0) {
            return 0;
        }
        self.iter().map(|(_, consumer)| consumer.room()).sum()
    }

    pub fn get(&self, key: ConsumerKey) -> Option<&Consumer> {
        self.slots.get(key as usize)?.as_ref()
    }

    pub fn iter(&self) -> impl Iterator<Item = (ConsumerKey, &Consumer)> {
        self.slots.iter().enumerate().filter_map(|(key, slot)| Some((key as ConsumerKey, slot.as_ref()?)))
    }

    /// Changes a consumer and updates the totals of its group. `None` if there is no such consumer.
    pub fn update<T>(&mut self, key: ConsumerKey, change: impl FnOnce(&mut Consumer) -> T) -> Option<T> {
        let consumer = self.slots.get_mut(key as usize)?.as_mut()?;
        let group = &mut self.groups[consumer.locality as usize];
        let was = (consumer.room() > 0, consumer.idle_room(), consumer.message_count);
        let result = change(consumer);
        group.eligible_count = group.eligible_count + usize::from(consumer.room() > 0) - usize::from(was.0);
        group.idle_room = group.idle_room + consumer.idle_room() - was.1;
        group.message_count += consumer.message_count - was.2;
        Some(result)
    }

    /// A message is in flight to this consumer. The caller adds it to the consumer's counts afterwards, with others.
    #[inline]
    pub fn enter_flight(&mut self, key: ConsumerKey, outstanding: &mut Outstanding, slot: Slot) {
        if let Some(Some(consumer)) = self.slots.get_mut(key as usize) {
            consumer.in_flight.insert(outstanding, slot);
        }
    }

    /// A message leaves the consumer's flight. As [`Consumers::update`], but cheaper: it runs for each FIN.
    #[inline]
    pub fn leave_flight(
        &mut self,
        key: ConsumerKey,
        outstanding: &mut Outstanding,
        slot: Slot,
        count: impl FnOnce(&mut Consumer),
    ) {
        let Some(Some(consumer)) = self.slots.get_mut(key as usize) else { return };
        let before = consumer.room();
        consumer.in_flight.unlink(outstanding, slot);
        consumer.in_flight_count -= 1;
        count(consumer);
        let room = consumer.room();
        if room > before {
            let group = &mut self.groups[consumer.locality as usize];
            group.eligible_count += usize::from(before == 0);
            if consumer.parked {
                group.idle_room += room.min(MAX_ROOM) - before.min(MAX_ROOM);
            }
        }
    }

    /// Parks a consumer that found nothing to take, until it is woken. Only eligible consumers are parked: others try
    /// again when their own input makes them eligible.
    pub fn park(&mut self, key: ConsumerKey) {
        if let Some(Some(consumer)) = self.slots.get_mut(key as usize)
            && consumer.room() > 0
            && !consumer.parked
        {
            consumer.parked = true;
            let group = &mut self.groups[consumer.locality as usize];
            group.idle_room += consumer.idle_room();
            group.parked.push_back((key, consumer.number));
        }
    }

    /// Unparks and returns the nearest parked consumer that is still eligible; among equally near ones, the longest
    /// parked.
    pub fn unpark_next(&mut self) -> Option<ConsumerKey> {
        for group in &mut self.groups {
            while let Some((key, number)) = group.parked.pop_front() {
                if let Some(Some(consumer)) = self.slots.get_mut(key as usize)
                    && consumer.number == number
                {
                    group.idle_room -= consumer.idle_room();
                    if std::mem::take(&mut consumer.parked) && consumer.room() > 0 {
                        return Some(key);
                    }
                }
            }
        }
        None
    }

    /// Updates the due time of a consumer. Call after it got messages or its deadlines changed.
    pub fn note_deadline(&mut self, key: ConsumerKey, outstanding: &Outstanding) {
        let Some(Some(consumer)) = self.slots.get_mut(key as usize) else { return };
        let first = consumer.in_flight.first_deadline(outstanding).unwrap_or(Nanos::MAX);
        if first < consumer.due_at {
            self.due.remove(&(consumer.due_at, key));
            self.due.insert((first, key));
            consumer.due_at = first;
        }
    }

    /// A time not later than the first deadline of all consumers.
    pub fn next_due(&self) -> Option<Nanos> {
        self.due.first().map(|&(at, _)| at)
    }

    /// A consumer whose due time has passed. Returns the same one until [`Consumers::update_due`].
    pub fn due(&self, now: Nanos) -> Option<ConsumerKey> {
        self.due.first().filter(|(at, _)| *at <= now).map(|&(_, key)| key)
    }

    /// Recomputes the due time of a consumer after all or some of its due messages were put back.
    pub fn update_due(&mut self, key: ConsumerKey, outstanding: &Outstanding) {
        let Some(Some(consumer)) = self.slots.get_mut(key as usize) else { return };
        self.due.remove(&(consumer.due_at, key));
        consumer.due_at = consumer.in_flight.first_deadline(outstanding).unwrap_or(Nanos::MAX);
        if consumer.due_at != Nanos::MAX {
            self.due.insert((consumer.due_at, key));
        }
    }

    /// Moves the messages in flight of one consumer to another. They keep their deadlines, and count as delivered to the
    /// other one. Changes nothing if one of them does not exist.
    pub fn hand_over(&mut self, from: ConsumerKey, to: ConsumerKey, outstanding: &mut Outstanding) {
        if from == to || self.get(to).is_none() {
            return;
        }
        let mut moved = 0;
        while let Some(slot) = self.get(from).and_then(|consumer| consumer.in_flight.first(outstanding)) {
            self.update(from, |consumer| {
                consumer.in_flight.unlink(outstanding, slot);
                consumer.in_flight_count -= 1;
            });
            outstanding.entry_mut(slot).owner = to;
            self.update(to, |consumer| {
                consumer.in_flight.insert(outstanding, slot);
                consumer.in_flight_count += 1;
            });
            moved += 1;
        }
        // Not through `update`: the group's total already has these messages.
        if let Some(Some(consumer)) = self.slots.get_mut(from as usize) {
            consumer.message_count -= moved;
        }
        if let Some(Some(consumer)) = self.slots.get_mut(to as usize) {
            consumer.message_count += moved;
        }
        self.update_due(from, outstanding);
        self.note_deadline(to, outstanding);
    }

    /// Clears the in-flight lists of all consumers.
    pub fn clear_in_flight(&mut self) {
        self.due.clear();
        let keys = self.slots.len() as ConsumerKey;
        for key in 0..keys {
            self.update(key, |consumer| {
                consumer.in_flight = InFlightList::default();
                consumer.in_flight_count = 0;
                consumer.due_at = Nanos::MAX;
            });
        }
    }

    /// CLS: the consumer takes no more messages and keeps those in flight.
    pub fn close(&mut self, key: ConsumerKey) {
        self.update(key, |consumer| {
            consumer.ready_count = 0;
            consumer.closing = true;
        });
    }
}

/// Stale entries are removed if a group has more entries than this plus twice the number of consumers.
const MAX_STALE_KEYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::outstanding::{Entry, Place};

    #[test]
    fn removed_consumers_leave_few_stale_entries() {
        let mut consumers = Consumers::default();
        let stays = consumers.add(10, 0, Locality::Zone);
        for _ in 0..1000 {
            let key = consumers.add(10, 0, Locality::Zone);
            assert_eq!(key, 1, "keys are reused");
            consumers.update(key, |consumer| consumer.ready_count = 1);
            consumers.park(key);
            consumers.remove(key);
            assert!(consumers.groups[0].parked.len() <= MAX_STALE_KEYS + 3);
        }
        // A stale entry does not wake the next consumer with the same key.
        let next = consumers.add(10, 0, Locality::Zone);
        consumers.update(next, |consumer| consumer.ready_count = 1);
        assert_eq!(consumers.unpark_next(), None);
        consumers.park(next);
        assert_eq!(consumers.unpark_next(), Some(next));
        consumers.remove(next);
        consumers.remove(stays);
        assert_eq!((consumers.len(), consumers.room()), (0, 0));
    }

    #[test]
    fn consumer_is_due_no_later_than_its_first_deadline() {
        let mut consumers = Consumers::default();
        let mut outstanding = Outstanding::default();
        let keys = [0, 1, 2].map(|_| consumers.add(10, 0, Locality::Zone));
        let mut slots = Vec::new();
        for (sequence, key) in (0..9).zip(keys.into_iter().cycle()) {
            let deadline = 100 + sequence;
            let slot = outstanding.insert(Entry {
                deadline,
                owner: key,
                ..Entry::new(sequence, 1, Place::InFlight)
            });
            consumers.update(key, |consumer| consumer.in_flight.insert(&mut outstanding, slot));
            consumers.note_deadline(key, &outstanding);
            slots.push(slot);
        }
        assert_eq!(consumers.due.len(), 3, "one entry per consumer, for any number of messages");
        assert_eq!((consumers.due(99), consumers.next_due()), (None, Some(100)));
        // The first message is finished: the due time is corrected when it is reached.
        consumers.update(keys[0], |consumer| consumer.in_flight.unlink(&mut outstanding, slots[0]));
        assert_eq!(consumers.due(100), Some(keys[0]));
        consumers.update_due(keys[0], &outstanding);
        assert_eq!((consumers.due(100), consumers.next_due()), (None, Some(101)));
        consumers.remove(keys[1]);
        assert_eq!(consumers.next_due(), Some(102));
        consumers.clear_in_flight();
        assert_eq!(consumers.next_due(), None);
    }
}
