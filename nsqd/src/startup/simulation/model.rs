//! The naive model: which messages each channel still has to hand out.

use std::collections::{BTreeMap, BTreeSet};

use super::observe::{Delivery, Observed};

/// A body's number; greater ones were published later.
pub type Body = u64;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub topics: BTreeMap<String, TopicModel>,
}

#[derive(Clone, Debug, Default)]
pub struct TopicModel {
    pub paused: bool,
    /// Published, and released to no channel.
    pub held: BTreeMap<Body, MessageModel>,
    pub channels: BTreeMap<String, ChannelModel>,
    /// Emptied and gone, though a restart may not know.
    pub gone_count: u64,
    /// Ever published.
    pub message_count: u64,
}

#[derive(Clone, Debug, Default)]
pub struct ChannelModel {
    pub paused: bool,
    /// Not finished.
    pub messages: BTreeMap<Body, MessageModel>,
    /// Ever entered.
    pub message_count: u64,
    /// Finished and gone, though a restart may not know: its depth counts them until it looks for them.
    pub gone_count: u64,
    /// The last that was handed out for the first time.
    pub last_first: Body,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct MessageModel {
    /// The attempts of its last delivery; 0 if there was none.
    pub attempts_seen: u16,
    /// The attempts that a restart must know of.
    pub attempts_kept: u16,
    /// Deferred until then.
    pub due: Option<Due>,
    /// Its sequence number, while it is in flight.
    pub in_flight: Option<u64>,
}

/// A due time: wall clock, nanoseconds, as exactly as can be told from outside.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub from_ns: i64,
    pub to_ns: i64,
    /// It has come in this life, though not by the wall clock.
    pub passed: bool,
}

impl Model {
    /// A process has ended: nothing is in flight any more.
    pub fn restarted(&self) -> Model {
        let mut model = self.clone();
        for topic in model.topics.values_mut() {
            let channels = topic.channels.values_mut().flat_map(|channel| channel.messages.values_mut());
            channels.for_each(|message| message.in_flight = None);
        }
        model
    }

    /// Of what was finished in the life before, though the journal had not heard of it, some need not come any more.
    pub fn forget_what_is_gone(&mut self, observed: &Observed) {
        for (name, topic) in &mut self.topics {
            let Some(observed) = observed.topics.get(name) else { continue };
            let keep = |messages: &mut BTreeMap<Body, MessageModel>, came: &[Delivery]| {
                let came: BTreeSet<Body> = came.iter().map(|delivery| delivery.body).collect();
                messages.retain(|body, _| came.contains(body));
            };
            let before = topic.held.len();
            keep(&mut topic.held, &observed.held);
            topic.gone_count += (before - topic.held.len()) as u64;
            for (name, channel) in &mut topic.channels {
                if let Some(observed) = observed.channels.get(name) {
                    let before = channel.messages.len();
                    keep(&mut channel.messages, &observed.deliveries);
                    channel.gone_count += (before - channel.messages.len()) as u64;
                }
            }
        }
    }

    pub fn channel(&mut self, name: &(String, String)) -> Option<&mut ChannelModel> {
        self.topics.get_mut(&name.0)?.channels.get_mut(&name.1)
    }
}

impl TopicModel {
    /// These were published.
    pub fn publish(&mut self, bodies: &[Body], due: Option<Due>) {
        self.message_count += bodies.len() as u64;
        let message = MessageModel { due, ..MessageModel::default() };
        self.held.extend(bodies.iter().map(|&body| (body, message)));
        self.release();
    }

    /// Gives the channels what they may have.
    pub fn release(&mut self) {
        if self.paused || self.channels.is_empty() {
            return;
        }
        let held = std::mem::take(&mut self.held);
        let gone_count = std::mem::take(&mut self.gone_count);
        for channel in self.channels.values_mut() {
            channel.gone_count += gone_count;
            channel.message_count += held.len() as u64;
            channel.messages.extend(held.iter().map(|(&body, &message)| (body, message)));
        }
    }
}
