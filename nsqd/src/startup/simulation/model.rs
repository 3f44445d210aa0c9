//! The naive model: which messages each channel still has to hand out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use super::observe::{Delivery, Observed};
use crate::log::retention::Retention;

/// A body's number; greater ones were published later.
pub type Body = u64;

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub topics: BTreeMap<String, TopicModel>,
}

#[derive(Clone, Debug, Default)]
pub struct TopicModel {
    /// Its messages may be dropped, and it is gone with the process.
    pub is_ephemeral: bool,
    pub paused: bool,
    /// Published, and released to no channel.
    pub held: BTreeMap<Body, MessageModel>,
    pub channels: BTreeMap<String, ChannelModel>,
    /// Emptied and gone, though a restart may not know.
    pub gone_count: u64,
    /// Ever published.
    pub message_count: u64,
    /// What it keeps of finished messages.
    pub retention: Retention,
    /// All that was published and not emptied.
    pub published: BTreeMap<Body, PublishedModel>,
}

#[derive(Clone, Copy, Debug)]
pub struct PublishedModel {
    pub sequence: u64,
    /// Published deferred until then.
    pub due: Option<Due>,
    /// Retention keeps it. Else it may be there or not, if nobody needs it.
    pub kept: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ChannelModel {
    /// Its messages may be dropped.
    pub may_drop: bool,
    /// It is gone with the process.
    pub is_ephemeral: bool,
    pub paused: bool,
    /// Not finished.
    pub messages: BTreeMap<Body, MessageModel>,
    /// In flight when the channel was moved forward over them, with their sequence numbers: they never come again.
    pub dropped: BTreeMap<Body, u64>,
    /// Ever entered.
    pub message_count: u64,
    /// Of these, some may have been gone already.
    pub uncertain_count: u64,
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
    /// The channel was moved back over it while it was in flight: it is to come again, whatever its consumer says.
    pub is_recalled: bool,
    /// So it does not come in order.
    pub is_out_of_turn: bool,
    /// Recalled from what nothing keeps: it may come or not, and a restart may find it again.
    pub may_be_gone: bool,
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
    /// What a start may find of it: nothing that is ephemeral.
    pub fn durable(&self) -> Model {
        let mut model = self.clone();
        model.topics.retain(|_, topic| !topic.is_ephemeral);
        for topic in model.topics.values_mut() {
            topic.channels.retain(|_, channel| !channel.is_ephemeral);
        }
        model
    }

    /// A process has ended: nothing is in flight any more.
    pub fn restarted(&self) -> Model {
        let mut model = self.clone();
        for topic in model.topics.values_mut() {
            topic.channels.values_mut().for_each(ChannelModel::come_back);
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
            let history: BTreeSet<Body> = observed.history.iter().map(|delivery| delivery.body).collect();
            for (body, message) in &mut topic.published {
                message.kept &= history.contains(body);
            }
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
    /// What somebody needs.
    pub fn unfinished(&self) -> BTreeSet<Body> {
        let held = self.held.keys().copied();
        let of_channels = self.channels.values().filter(|channel| !channel.may_drop);
        held.chain(
            of_channels.flat_map(|channel| channel.messages.keys().chain(channel.dropped.keys()).copied()),
        )
        .collect()
    }

    /// These were published, and got sequence numbers from `first` on.
    pub fn publish(&mut self, bodies: &[Body], first: u64, due: Option<Due>) {
        self.message_count += bodies.len() as u64;
        let kept = !self.retention.is_off();
        let numbered = bodies.iter().copied().zip(first..);
        self.published
            .extend(numbered.map(|(body, sequence)| (body, PublishedModel { sequence, due, kept })));
        let message = MessageModel { due, ..MessageModel::default() };
        self.held.extend(bodies.iter().map(|&body| (body, message)));
        self.release();
    }

    /// What is held back is dropped.
    pub fn empty(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.published.retain(|body, _| !held.contains_key(body));
        self.gone_count = 0;
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
            let may_be_gone = channel.may_drop;
            let released =
                held.iter().map(|(&body, &message)| (body, MessageModel { may_be_gone, ..message }));
            channel.messages.extend(released);
        }
    }
}

impl ChannelModel {
    /// A new one of this name.
    pub fn new(topic: &TopicModel, name: &str) -> Self {
        let is_ephemeral = name.ends_with("#ephemeral");
        let may_drop = is_ephemeral || topic.is_ephemeral;
        ChannelModel { is_ephemeral, may_drop, ..ChannelModel::default() }
    }

    /// What is in flight comes back.
    pub fn come_back(&mut self) {
        self.dropped.clear();
        self.messages.values_mut().for_each(MessageModel::come_back);
    }

    /// So many need not come.
    pub fn may_be_gone_count(&self) -> u64 {
        self.messages.values().filter(|message| message.may_be_gone).count() as u64
    }
}

impl MessageModel {
    /// It is in flight no more, and not finished.
    pub fn come_back(&mut self) {
        self.in_flight = None;
        self.is_recalled = false;
    }

    /// With which attempts it may come next.
    pub fn next_attempts(&self) -> RangeInclusive<u16> {
        // A restart takes what lies before a message that was handed out for handed out, too, unless it was finished.
        let seen = self.attempts_seen.max(u16::from(self.is_out_of_turn || self.may_be_gone));
        self.attempts_kept + 1..=seen + 1
    }

    /// For certain.
    pub fn is_deferred(&self) -> bool {
        self.due.is_some_and(|due| !due.passed)
    }

    /// Handed out neither before nor out of turn: the order is that of publishing.
    pub fn is_first(&self) -> bool {
        self.attempts_seen == 0 && self.due.is_none() && !self.is_out_of_turn && !self.may_be_gone
    }
}

impl Due {
    /// Then, or at once.
    pub fn or_passed(self) -> Due {
        Due { passed: true, ..self }
    }
}
