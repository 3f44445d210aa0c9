//! Pure: the consumers of a channel, their RDY credit, and whose turn it is.
//!
//! A consumer is *eligible* while it may be given messages: in flight below RDY, not closing. One that looked for
//! messages and found none is *parked*; the longest parked is woken first, which spreads single messages round-robin.
//! With topology-aware delivery, the nearest are woken first, and others leave them what they have room for as long
//! as they are parked: who does not come to take is waited for by nobody.

use std::collections::VecDeque;

use super::in_flight::InFlightList;
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
    /// Keys in the order in which they parked; a key whose consumer is no longer parked is stale and passed over.
    parked: VecDeque<ConsumerKey>,
    /// Messages delivered to it, also to consumers that have left.
    message_count: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    count: usize,
    /// By [`Locality`], nearest first.
    groups: [Group; Locality::COUNT],
}

impl Consumers {
    /// Adds a consumer with RDY 0.
    pub fn add(&mut self, message_timeout: Nanos, sample_rate: u8, locality: Locality) -> ConsumerKey {
        let consumer = Consumer {
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
        if let Some(key) = self.slots.iter().position(Option::is_none) {
            self.slots[key] = Some(consumer);
            return key as ConsumerKey;
        }
        self.slots.push(Some(consumer));
        (self.slots.len() - 1) as ConsumerKey
    }

    /// Removes a consumer; its in-flight list must have been emptied.
    pub fn remove(&mut self, key: ConsumerKey) {
        if let Some(consumer) = self.slots.get_mut(key as usize).and_then(Option::take) {
            self.count -= 1;
            let group = &mut self.groups[consumer.locality as usize];
            group.eligible_count -= usize::from(consumer.room() > 0);
            group.idle_room -= consumer.idle_room();
            // A stale key would be taken for the next consumer that gets this slot.
            group.parked.retain(|&parked| parked != key);
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
            group.parked.push_back(key);
        }
    }

    /// Of the nearest consumers that are parked and may still be given messages, the one that has been parked longest;
    /// no longer parked.
    pub fn unpark_next(&mut self) -> Option<ConsumerKey> {
        for group in &mut self.groups {
            while let Some(key) = group.parked.pop_front() {
                if let Some(Some(consumer)) = self.slots.get_mut(key as usize) {
                    group.idle_room -= consumer.idle_room();
                    if std::mem::take(&mut consumer.parked) && consumer.room() > 0 {
                        return Some(key);
                    }
                }
            }
        }
        None
    }

    /// CLS: takes no more, keeps what it has.
    pub fn close(&mut self, key: ConsumerKey) {
        self.update(key, |consumer| {
            consumer.ready_count = 0;
            consumer.closing = true;
        });
    }
}
