//! Pure: what is known about a channel and one message, for [`rules`](super::rules).
//!
//! Times are wall clock, nanoseconds since 1970.

use crate::channel::fates::Fate;
use crate::policy::dead_letter::Reason;

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    pub now: i64,
    pub topic_name: String,
    pub channel_name: String,
    pub node: NodeFacts,
    pub topic: TopicFacts,
    /// `None` if the topic has no such channel.
    pub channel: Option<ChannelFacts>,
    /// If one was asked about.
    pub message: Option<MessageFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The number in the ids of its messages.
    pub number: u16,
    /// Why publishing or the disk does not work.
    pub failure: Option<String>,
    /// The data directory, if no nsqd runs on it.
    pub stopped_at: Option<String>,
    /// It stops soon.
    pub is_leaving: bool,
    /// It refuses publishes until consumers have everything.
    pub drain: Option<DrainFacts>,
    /// How many messages of a channel long polls may lease; `None` if that is not known.
    pub max_leases: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DrainFacts {
    pub since: i64,
    /// `None` without a time limit.
    pub until: Option<i64>,
    /// Where messages move that are left.
    pub moves_to: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicFacts {
    pub paused: Option<PauseFacts>,
    /// Messages that it holds back from all channels.
    pub held: u64,
    pub channel_names: Vec<String>,
    pub is_ephemeral: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PauseFacts {
    /// `None` if it was paused before the start.
    pub since: Option<i64>,
    /// The address that asked for it; empty if unknown.
    pub by: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelFacts {
    pub paused: Option<PauseFacts>,
    /// Ahead and waiting.
    pub depth: u64,
    pub in_flight: u64,
    pub deferred: u64,
    /// Messages that wait to become dead letters.
    pub set_aside: u64,
    /// The next message can leave only when these have become dead letters.
    pub is_blocked: bool,
    pub dead_letter_topic: Option<String>,
    /// When the next deferred message is due.
    pub next_due: Option<i64>,
    /// A drain moves the messages to another node.
    pub is_moving_out: bool,
    /// Messages cannot be read from disk; nsqd tries again.
    pub is_suspended: bool,
    /// Consumers wait for a read from disk.
    pub is_stalled: bool,
    /// Publishes are refused because of it, and its bound.
    pub full: Option<String>,
    /// When its rate allows the next message, if that is not now.
    pub throttled_until: Option<i64>,
    /// The limit of messages in flight, if it is reached.
    pub in_flight_limit: Option<u64>,
    /// The message whose key keeps most others waiting.
    pub blocked: Option<Blocked>,
    /// So many messages wait for others of their keys that it reads no further.
    pub is_reading_stopped: bool,
    /// Messages wait, but none of them may be handed out in the channel's order.
    pub has_no_turn: bool,
    pub consumers: Vec<ConsumerFacts>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerFacts {
    pub name: String,
    pub ready_count: u64,
    pub in_flight: u64,
    pub is_closing: bool,
    /// It holds the messages that are leased over HTTP, and takes none by itself.
    pub holds_leases: bool,
    /// It waits for one thing only, such as a commit.
    pub is_away: bool,
    /// Since when it has not read what nsqd sends.
    pub blocked_since: Option<i64>,
    /// The message that times out first.
    pub oldest: Option<Flight>,
}

impl ConsumerFacts {
    /// Whether it may get another message.
    pub fn has_room(&self) -> bool {
        !self.is_closing && self.ready_count > self.in_flight
    }
}

/// A message that others must follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Empty if all messages are one after the other.
    pub key: String,
    /// The message that they wait for, and where it is.
    pub holder: Option<(String, Box<MessagePlace>)>,
    /// How many wait; for one message, how many of its key come before it.
    pub queue_length: u64,
}

/// A message in flight.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flight {
    pub id: String,
    pub since: i64,
    pub until: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageFacts {
    pub id: u64,
    pub attempts: u16,
    pub place: MessagePlace,
}

/// Where a message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessagePlace {
    /// Its id has the number of another node.
    OtherNode(u16),
    /// No message of this topic had this id.
    NeverPublished,
    /// It is not durable yet, or was refused.
    NotCommitted,
    /// The topic has not released it.
    Held,
    /// It can be handed out after this many others; `is_at_least` if there are more.
    Waiting {
        before: u64,
        is_at_least: bool,
    },
    /// It waits for an earlier message of its key.
    Ordered(Blocked),
    Deferred {
        due: i64,
    },
    InFlight {
        consumer: String,
        since: i64,
        until: i64,
        /// The consumer has no connection: it took the message over HTTP.
        is_leased: bool,
    },
    /// It waits to become a dead letter.
    SetAside(Reason),
    /// It is being moved to another topic.
    Departing,
    /// It was published before the channel existed, or for other channels only.
    NotForChannel,
    /// It is not in the channel any more.
    Gone(Option<Fate>),
}
