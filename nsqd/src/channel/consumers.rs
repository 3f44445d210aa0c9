//! Pure: the consumers of a channel, their RDY credit, and whose turn it is.
//!
//! A consumer is *eligible* while it may be given messages: in flight below RDY, not closing. One that looked for
//! messages and found none is *parked*; the longest parked is woken first, which spreads single messages round-robin.

use std::collections::VecDeque;

use super::in_flight::InFlightList;
use crate::clock::Nanos;

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
}

/// See the module.
#[derive(Debug, Default)]
pub struct Consumers {
    slots: Vec<Option<Consumer>>,
    count: usize,
    eligible_count: usize,
    /// Keys in the order in which they parked; a key whose consumer is no longer parked is stale and passed over.
    parked: VecDeque<ConsumerKey>,
}

impl Consumers {
    /// Adds a consumer with RDY 0.
    pub fn add(&mut self, message_timeout: Nanos, sample_rate: u8) -> ConsumerKey {
        let consumer = Consumer {
            ready_count: 0,
            in_flight_count: 0,
            in_flight: InFlightList::default(),
            message_timeout,
            sample_rate,
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
            self.eligible_count -= usize::from(consumer.room() > 0);
            // A stale key would be taken for the next consumer that gets this slot.
            self.parked.retain(|&parked| parked != key);
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

    /// How many may be given messages now.
    pub fn eligible_count(&self) -> usize {
        self.eligible_count
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
        let was = consumer.room() > 0;
        let result = change(consumer);
        let is = consumer.room() > 0;
        self.eligible_count = self.eligible_count + usize::from(is) - usize::from(was);
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
            self.parked.push_back(key);
        }
    }

    /// The consumer that has been parked longest and may still be given messages, no longer parked.
    pub fn unpark_next(&mut self) -> Option<ConsumerKey> {
        while let Some(key) = self.parked.pop_front() {
            if let Some(Some(consumer)) = self.slots.get_mut(key as usize)
                && std::mem::take(&mut consumer.parked)
                && consumer.room() > 0
            {
                return Some(key);
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
