//! A simple model: which messages each channel must still hand out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use super::observe::{Delivery, Observed};
use crate::log::retention::Retention;

/// Number of a body; greater numbers were published later. The remainder by [`NEXT_BODY`] is the key of the message; 0 for
/// none.
pub type Body = u64;
/// Difference between the numbers of bodies without keys.
pub const NEXT_BODY: Body = 4;

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub topics: BTreeMap<String, TopicModel>,
}

#[derive(Clone, Debug, Default)]
pub struct TopicModel {
    /// Its messages may be dropped, and it ends with the process.
    pub is_ephemeral: bool,
    pub paused: bool,
    pub owner: Option<u8>,
    /// Published, but released to no channel.
    pub held: BTreeMap<Body, MessageModel>,
    pub channels: BTreeMap<String, ChannelModel>,
    /// Emptied and dropped, but a restart may not know.
    pub gone_count: u64,
    /// Number of all messages ever published.
    pub message_count: u64,
    /// Its retention limits.
    pub retention: Retention,
    /// All messages that were published and not emptied.
    pub published: BTreeMap<Body, PublishedModel>,
    /// Whether it remembers ids.
    pub dedupe: bool,
    /// The ids that it remembers and their messages, in the order of the messages.
    pub ids: VecDeque<(u8, Body)>,
    /// Messages with ids that were refused after they were appended. A start may find them.
    pub doubtful: Vec<(u8, Body)>,
    /// A message was deferred by request that was never delivered.
    pub has_rescheduled: bool,
    /// Messages with a short time to live of their own were published.
    pub has_short_lived: bool,
    /// Ids that made room for those of refused messages. A start may remember them.
    pub displaced: BTreeSet<u8>,
}

#[derive(Clone, Copy, Debug)]
pub struct PublishedModel {
    pub sequence: u64,
    /// Published as deferred until then.
    pub due: Option<Due>,
    /// Whether retention keeps it. Otherwise, if it is not needed, it may or may not exist.
    pub retained: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ChannelModel {
    /// Its messages may be dropped.
    pub may_drop: bool,
    /// It ends with the process.
    pub is_ephemeral: bool,
    pub paused: bool,
    /// Whether a retry schedule holds failed messages back.
    pub retry: bool,
    /// Whether all messages match its filter, if it has one. Otherwise none does.
    pub filter: Option<bool>,
    /// Whether messages expire.
    pub ttl: bool,
    /// Whether it is ordered: 0 not at all, 1 by key, 2 all messages.
    pub order: u8,
    /// Whether it has a rate and a limit of messages in flight.
    pub limits: u8,
    /// Whether expired messages become dead letters.
    pub keeps_expired: bool,
    /// After how many failures messages are dead-lettered; 0 for never.
    pub max_attempts: u16,
    /// Maximum number of messages; 0 for no bound.
    pub max_depth: u64,
    /// Whether messages beyond it become dead letters.
    pub keeps_overflow: bool,
    /// Whether any of its messages left otherwise than by a FIN.
    pub has_removed: bool,
    /// Unfinished messages.
    pub messages: BTreeMap<Body, MessageModel>,
    /// In flight when the channel was moved forward over them, with their sequence numbers. They are never delivered
    /// again.
    pub dropped: BTreeMap<Body, u64>,
    /// Number of all messages that ever entered.
    pub message_count: u64,
    /// How many of these may already have been missing.
    pub uncertain_count: u64,
    /// Finished and deleted, but a restart may not know: its depth counts them until it reads them.
    pub gone_count: u64,
    /// The last message that was delivered for the first time.
    pub last_first: Body,
    /// What can be undone.
    pub lost: Lost,
    /// A crash may have lost the action that `lost` follows from, or a later one.
    pub is_loss_doubtful: bool,
}

/// The messages that were unfinished when their channel was emptied or moved forward.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Lost {
    #[default]
    Nothing,
    Messages(BTreeMap<Body, MessageModel>),
    /// Some of them may have been gone already.
    Unknown,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageModel {
    /// Attempts of its last delivery; 0 if there was none.
    pub attempts_seen: u16,
    /// Attempts that a restart must know.
    pub attempts_kept: u16,
    /// Deferred until then.
    pub due: Option<Due>,
    /// Its sequence number while it is in flight.
    pub in_flight: Option<u64>,
    /// The channel was moved back over it while it was in flight. It must be delivered again, whatever its consumer
    /// answers.
    pub is_recalled: bool,
    /// It is therefore not delivered in order.
    pub is_out_of_turn: bool,
    /// It was read past while others of its key were in flight. A start may count that as a delivery.
    pub was_held: bool,
    /// Failed deliveries, while the channel counted them.
    pub failures: u16,
    /// It has expired, exceeds the bound or was rejected, and becomes a dead letter.
    pub is_set_aside: bool,
    /// It is a dead letter.
    pub is_dead: bool,
    /// It came back from a dead-letter topic, with another sequence number than it was published with.
    pub is_redriven: bool,
    /// Recalled, but not retained: it may or may not be delivered, and a restart may find it again.
    pub may_be_gone: bool,
    /// Its due time has passed in an earlier life, but not by the wall clock: it may be deferred again.
    pub may_be_deferred: bool,
    /// It was published with a due time. A start that does not know that it was handed out defers it until then.
    pub was_published_deferred: bool,
    /// `may_be_gone`, because its own time to live passes at once.
    pub is_short_lived: bool,
}

/// A due time in nanoseconds of wall time, as exactly as it is visible from outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Due {
    pub from_ns: i64,
    pub to_ns: i64,
    /// It has passed in this life, though not by the wall clock.
    pub passed: bool,
}

impl Model {
    /// What a start may find: everything except what is ephemeral.
    pub fn durable(&self) -> Model {
        let mut model = self.clone();
        model.topics.retain(|_, topic| !topic.is_ephemeral);
        for topic in model.topics.values_mut() {
            topic.channels.retain(|_, channel| !channel.is_ephemeral);
        }
        model
    }

    /// The model after the process has ended: nothing is in flight.
    pub fn restarted(&self) -> Model {
        let mut model = self.clone();
        for topic in model.topics.values_mut() {
            for channel in topic.channels.values_mut() {
                channel.come_back();
                channel.is_loss_doubtful = true;
                for message in channel.messages.values_mut() {
                    // The start finds out again what is to be set aside, and forgets rejections.
                    message.is_set_aside = false;
                    message.may_be_deferred = message.due.is_some_and(|due| due.passed);
                }
            }
        }
        model
    }

    /// Removes messages that were finished in the previous life, without a record in the journal, and were not
    /// delivered again.
    pub fn forget_what_is_gone(&mut self, observed: &Observed) {
        for (name, topic) in &mut self.topics {
            let Some(observed) = observed.topics.get(name) else { continue };
            let keep = |messages: &mut BTreeMap<Body, MessageModel>, came: &[Delivery]| {
                let came: BTreeSet<Body> = came.iter().map(|delivery| delivery.body).collect();
                messages.retain(|body, _| came.contains(body));
            };
            let retained: BTreeSet<Body> = observed.retained.iter().map(|delivery| delivery.body).collect();
            for (body, message) in &mut topic.published {
                message.retained &= retained.contains(body);
            }
            let before = topic.held.len();
            keep(&mut topic.held, &observed.held);
            topic.gone_count += (before - topic.held.len()) as u64;
            for (name, channel) in &mut topic.channels {
                if let Some(observed) = observed.channels.get(name) {
                    let before = channel.messages.len();
                    // Short-lived ones are still there: it is their turn that removes them.
                    let short_lived: Vec<_> =
                        channel.messages.extract_if(.., |_, message| message.is_short_lived).collect();
                    keep(&mut channel.messages, &observed.deliveries);
                    channel.messages.extend(short_lived);
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
    /// Messages that a topic or channel still needs.
    pub fn unfinished(&self) -> BTreeSet<Body> {
        let held = self.held.keys().copied();
        let of_channels = self.channels.values().filter(|channel| !channel.may_drop);
        held.chain(
            of_channels.flat_map(|channel| channel.messages.keys().chain(channel.dropped.keys()).copied()),
        )
        .collect()
    }

    /// Publishes messages with sequence numbers from `first` on.
    pub fn publish(&mut self, bodies: &[Body], first: u64, due: Option<Due>) {
        self.message_count += bodies.len() as u64;
        let retained = !self.retention.is_off();
        let numbered = bodies.iter().copied().zip(first..);
        self.published
            .extend(numbered.map(|(body, sequence)| (body, PublishedModel { sequence, due, retained })));
        let message = MessageModel { due, was_published_deferred: due.is_some(), ..MessageModel::default() };
        self.held.extend(bodies.iter().map(|&body| (body, message)));
        self.release();
    }

    /// Drops messages that are held back, and forgets all ids.
    pub fn empty(&mut self) {
        self.ids.clear();
        let held = std::mem::take(&mut self.held);
        self.published.retain(|body, _| !held.contains_key(body));
        self.gone_count = 0;
    }

    /// Releases held messages to the channels, if possible.
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
    /// A new channel of this name.
    pub fn new(topic: &TopicModel, name: &str) -> Self {
        let is_ephemeral = name.ends_with("#ephemeral");
        let may_drop = is_ephemeral || topic.is_ephemeral;
        ChannelModel { is_ephemeral, may_drop, ..ChannelModel::default() }
    }

    /// Returns messages in flight to the channel.
    pub fn come_back(&mut self) {
        self.dropped.clear();
        self.messages.values_mut().for_each(MessageModel::come_back);
    }

    /// Number of messages that need not be delivered.
    pub fn may_be_gone_count(&self) -> u64 {
        self.messages.values().filter(|message| message.may_be_gone).count() as u64
    }
}

impl MessageModel {
    /// Ends its flight without finishing it.
    pub fn come_back(&mut self) {
        self.in_flight = None;
        self.is_recalled = false;
    }

    /// Possible attempts of its next delivery.
    pub fn next_attempts(&self) -> RangeInclusive<u16> {
        // A restart also counts earlier messages as handed out, unless they were finished.
        let seen =
            self.attempts_seen.max(u16::from(self.is_out_of_turn || self.may_be_gone || self.was_held));
        self.attempts_kept + 1..=seen + 1
    }

    /// Whether it is certainly deferred.
    pub fn is_deferred(&self) -> bool {
        self.due.is_some_and(|due| !due.passed)
    }

    /// Whether its next delivery is its first one and in order of publishing.
    pub fn is_first(&self) -> bool {
        self.attempts_seen == 0
            && self.due.is_none()
            && !self.is_out_of_turn
            && !self.may_be_gone
            && !self.was_held
    }
}

impl Due {
    /// The same time, which may also have passed.
    pub fn or_passed(self) -> Due {
        Due { passed: true, ..self }
    }
}
