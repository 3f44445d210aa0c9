//! nsqd's `/config/drain`: what a drain waits for and how far it is. Not in NSQ.

use serde::{Deserialize, Serialize};

use crate::json::lenient;

/// The state of a drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainStatus {
    /// Whether nsqd refuses publishes because it drains.
    #[serde(deserialize_with = "lenient")]
    pub draining: bool,
    /// Whether no message is left for a consumer.
    #[serde(deserialize_with = "lenient")]
    pub drained: bool,
    /// Whether nsqd stops at the end.
    #[serde(deserialize_with = "lenient")]
    pub stops: bool,
    /// When it began, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<i64>,
    /// When nsqd no longer waits for consumers, in nanoseconds since 1970; `None` for never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<i64>,
    /// Messages in channels that are not finished, and messages on their way there.
    #[serde(deserialize_with = "lenient")]
    pub remaining_count: u64,
    /// Channels that have such messages.
    #[serde(deserialize_with = "lenient")]
    pub remaining_channels: u64,
    /// Those of `remaining_count` that are at a consumer.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: u64,
    /// Those of `remaining_count` that are not due yet.
    #[serde(deserialize_with = "lenient")]
    pub deferred_count: u64,
    /// Messages that a drain does not wait for: dead letters without a consumer, and messages of topics without channels.
    #[serde(deserialize_with = "lenient")]
    pub held_count: u64,
    /// The move of what is left to another node; `None` without a target.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moving: Option<MoveStatus>,
}

/// The move of the messages that are left at the deadline of a drain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveStatus {
    /// The HTTP address of the nsqd to which they move.
    #[serde(deserialize_with = "lenient")]
    pub to: String,
    /// How far it is.
    pub state: MoveState,
    /// Messages that were moved. A message counts once for each channel.
    #[serde(deserialize_with = "lenient")]
    pub moved_count: u64,
    /// Bytes of their bodies and headers.
    #[serde(deserialize_with = "lenient")]
    pub moved_bytes: u64,
    /// Messages that are left, with those that do not move because they are ephemeral.
    #[serde(deserialize_with = "lenient")]
    pub left_count: u64,
    /// Messages per second, from the beginning of the move to the newest batch.
    #[serde(deserialize_with = "lenient")]
    pub rate: u64,
    /// What was moved last: topic/channel, or a topic.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "String::is_empty")]
    pub subject: String,
    /// Why the move failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveState {
    /// It begins at the deadline of the drain.
    #[default]
    Waiting,
    /// It is under way.
    Moving,
    /// Everything was moved.
    Moved,
    /// What was not moved stays.
    Failed,
}
