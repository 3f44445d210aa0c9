//! Pure: the consumers of a channel, their RDY credit, and whose turn it is.
//!
//! A consumer is *eligible* while it may be given messages: in flight below RDY, not closing. One that looked for
//! messages and found none is *parked*; the longest parked is woken first, which spreads single messages round-robin.
//! With topology-aware delivery, the nearest are woken first, and others leave them what they have room for as long
//! as they are parked: who does not come to take is waited for by nobody.

use std::collections::{BTreeSet, VecDeque};

use super::in_flight::InFlightList;
use super::outstanding::Outstanding;
use crate::clock::Nanos;
use crate::locality::Locality;

/// Names a consumer of one channel; reused after it left.
pub type ConsumerKey = u32;

/// What the channel knows of one consumer.
#[derive(Debug)]
pub struct Consumer {
    /// RDY: the ceiling on messages in flight.
    pub ready_count: u64,
    /// Messages in flight, all in `in_flight`.
    pub in_flight_count: u64,
    /// In deadline order.
    pub in_flight: InFlightList,
    /// How long a message may be in flight to it.
    pub message_timeout: Nanos,
    /// Percent of messages that it wants; 0 means all.
    pub sample_rate: u8,
    /// How near it is.
    pub locality: Locality,
    /// Delivered, finished and requeued so far.
    pub message_count: u64,
    /// FINs that succeeded.
    pub finish_count: u64,
    /// REQs that succeeded.
    pub requeue_count: u64,
    parked: bool,
    closing: bool,
    /// Its place in [`Consumers::due`]: not after its first deadline. [`Nanos::MAX`] without messages in flight.
    due_at: Nanos,
    /// Tells it from one that had the same key before.
    number: u64,
}

impl Consumer {
    /// How many more messages it may be given.
    pub fn room(&self) -> u64 {
        if self.closing { 0 } else { self.ready_count.saturating_sub(self.in_flight_count) }
    }

    fn idle_room(&self) -> u64 {
        // Sums of so many cannot overflow.
        const MAX_ROOM: u64 = u32::MAX as u64;
        if self.parked { self.room().min(MAX_ROOM) } else { 0 }
    }
}

/// The consumers of one locality.
#[derive(Debug, Default)]
struct Group {
    eligible_count: usize,
    /// Messages that its parked consumers could be given.
    idle_room: u64,
    /// Keys and numbers in the order in which they parked; one whose consumer is no longer parked is stale and passed over.
    parked: VecDeque<(ConsumerKey, u64)>,
    /// Messages delivered to it, also to consumers that have left.
    message_count: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    /// Keys that are free.
    free: Vec<ConsumerKey>,
    count: usize,
    /// How many there ever were.
    next_number: u64,
    /// Every consumer with messages in flight, by a time not after its first deadline: looked at when that has come, and
    /// not with every message.
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

    /// Removes a consumer; its in-flight list must have been emptied.
    pub fn remove(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.slots.get_mut(key as usize).and_then(Option::take) {
            self.count -= 1;
            self.free.push(key);
            self.due.remove(&(consumer.due_at, key));
            let group = &mut self.groups[consumer.locality as usize];
            group.eligible_count -= usize::from(consumer.room() > 0);
            group.idle_room -= consumer.idle_room();
            // Consumers may come, park and go for ever without a message that takes them out.
            if group.parked.len() > STALE_KEYS + 2 * self.count {
                let slots = &self.slots;
                group.parked.retain(|&(key, number)| {
                    let consumer = slots.get(key as usize).and_then(Option::as_ref);
                    consumer.is_some_and(|consumer| consumer.number == number)
                });
            }
        }
    }

    /// How many there are, closing ones included.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many that are so near may be given messages now.
    pub fn eligible_count(&self, locality: Locality) -> usize {
        self.groups[locality as usize].eligible_count
    }

    /// Messages that parked consumers nearer than this could be given at this moment.
    pub fn idle_room_nearer_than(&self, locality: Locality) -> u64 {
        self.groups[..locality as usize].iter().map(|group| group.idle_room).sum()
    }

    /// Messages delivered to consumers that are so near.
    pub fn message_count(&self, locality: Locality) -> u64 {
        self.groups[locality as usize].message_count
    }

    /// Messages delivered to any consumer.
    pub fn delivered_count(&self) -> u64 {
        self.groups.iter().map(|group| group.message_count).sum()
    }

    /// Messages that could be handed out at this moment.
    pub fn room(&self) -> u64 {
        if self.groups.iter().all(|group| group.eligible_count == 0) {
            return 0;
        }
        self.iter().map(|(_, consumer)| consumer.room()).sum()
    }

    /// A consumer by key.
    pub fn get(&self, key: ConsumerKey) -> Option<&Consumer> {
        self.slots.get(key as usize)?.as_ref()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (ConsumerKey, &Consumer)> {
        self.slots.iter().enumerate().filter_map(|(key, slot)| Some((key as ConsumerKey, slot.as_ref()?)))
    }

    /// Changes a consumer, and keeps count of who is eligible. `None` if there is no such consumer.
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

    /// The consumer found nothing to take and waits to be woken. Only an eligible one parks: any other looks again
    /// when its own input makes it eligible.
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

    /// Of the nearest consumers that are parked and may still be given messages, the one that has been parked longest;
    /// no longer parked.
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

    /// Messages of this consumer are in flight since the last call, or its deadlines have changed.
    pub fn note_deadline(&mut self, key: ConsumerKey, outstanding: &Outstanding) {
        let Some(Some(consumer)) = self.slots.get_mut(key as usize) else { return };
        let first = consumer.in_flight.first_deadline(outstanding).unwrap_or(Nanos::MAX);
        if first < consumer.due_at {
            self.due.remove(&(consumer.due_at, key));
            self.due.insert((first, key));
            consumer.due_at = first;
        }
    }

    /// A time not after the first deadline of all.
    pub fn next_due(&self) -> Option<Nanos> {
        self.due.first().map(|&(at, _)| at)
    }

    /// A consumer whose time has come. It is asked for again until [`Consumers::look_again`].
    pub fn due(&self, now: Nanos) -> Option<ConsumerKey> {
        self.due.first().filter(|(at, _)| *at <= now).map(|&(_, key)| key)
    }

    /// The messages of this consumer that are due have been dealt with, all or some.
    pub fn look_again(&mut self, key: ConsumerKey, outstanding: &Outstanding) {
        let Some(Some(consumer)) = self.slots.get_mut(key as usize) else { return };
        self.due.remove(&(consumer.due_at, key));
        consumer.due_at = consumer.in_flight.first_deadline(outstanding).unwrap_or(Nanos::MAX);
        if consumer.due_at != Nanos::MAX {
            self.due.insert((consumer.due_at, key));
        }
    }

    /// Nothing is in flight any more to anybody.
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

    /// CLS: takes no more, keeps what it has.
    pub fn close(&mut self, key: ConsumerKey) {
        self.update(key, |consumer| {
            consumer.ready_count = 0;
            consumer.closing = true;
        });
    }
}

/// So many keys of consumers that have gone are left where they parked, and as many again as there are consumers.
const STALE_KEYS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::outstanding::{Entry, Place};

    #[test]
    fn consumers_that_come_park_and_go_leave_nothing_behind() {
        let mut consumers = Consumers::default();
        let stays = consumers.add(10, 0, Locality::Zone);
        for _ in 0..1000 {
            let key = consumers.add(10, 0, Locality::Zone);
            assert_eq!(key, 1, "keys are used again");
            consumers.update(key, |consumer| consumer.ready_count = 1);
            consumers.park(key);
            consumers.remove(key);
            assert!(consumers.groups[0].parked.len() <= STALE_KEYS + 3);
        }
        // The key of one that was parked and left does not wake the next that has it.
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
    fn a_consumer_is_due_not_after_its_first_deadline() {
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
        assert_eq!(consumers.due.len(), 3, "one each, however many messages");
        assert_eq!((consumers.due(99), consumers.next_due()), (None, Some(100)));
        // The first message is finished: whose turn it was is found out when the time comes.
        consumers.update(keys[0], |consumer| consumer.in_flight.unlink(&mut outstanding, slots[0]));
        assert_eq!(consumers.due(100), Some(keys[0]));
        consumers.look_again(keys[0], &outstanding);
        assert_eq!((consumers.due(100), consumers.next_due()), (None, Some(101)));
        consumers.remove(keys[1]);
        assert_eq!(consumers.next_due(), Some(102));
        consumers.clear_in_flight();
        assert_eq!(consumers.next_due(), None);
    }
}
