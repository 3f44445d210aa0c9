//! What nsqd would do or has undone: answers to `dry_run=true`, and of `/channel/undo` and `/topic/undo`. Not in NSQ.

use serde::{Deserialize, Serialize};

use crate::json::lenient;

/// `/topic/empty`, `/topic/delete`, `/channel/empty` and `/channel/delete` with `dry_run=true`: what they would drop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DryRunResponse {
    /// True: nothing was changed.
    #[serde(deserialize_with = "lenient")]
    pub dry_run: bool,
    /// The topic.
    #[serde(deserialize_with = "lenient")]
    pub topic_name: String,
    /// Messages of the topic that no channel has received yet and that would be dropped.
    #[serde(deserialize_with = "lenient")]
    pub held_count: u64,
    /// The channels that would lose messages or be deleted.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<DryRunChannel>,
    /// Bytes of the topic's segment files, which deleting the topic would free. `None` for anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment_bytes: Option<u64>,
    /// Whether `undo` could bring the messages of the channels back.
    #[serde(deserialize_with = "lenient")]
    pub can_be_undone: bool,
}

/// A channel in [`DryRunResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DryRunChannel {
    /// The channel.
    #[serde(deserialize_with = "lenient")]
    pub channel_name: String,
    /// Unfinished messages, which would be dropped.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Those of them that are at a consumer.
    #[serde(deserialize_with = "lenient")]
    pub in_flight_count: u64,
    /// Those of them that are not due yet.
    #[serde(deserialize_with = "lenient")]
    pub deferred_count: u64,
    /// Consumers.
    #[serde(deserialize_with = "lenient")]
    pub client_count: u64,
}

/// `/channel/undo` and `/topic/undo`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UndoResponse {
    /// Whether nothing was changed.
    #[serde(deserialize_with = "lenient", skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// The topic.
    #[serde(deserialize_with = "lenient")]
    pub topic_name: String,
    /// The channels.
    #[serde(deserialize_with = "lenient")]
    pub channels: Vec<UndoneChannel>,
}

/// A channel in [`UndoResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UndoneChannel {
    /// The channel.
    #[serde(deserialize_with = "lenient")]
    pub channel_name: String,
    /// What was undone: `empty` or `seek`.
    #[serde(deserialize_with = "lenient")]
    pub undone: String,
    /// When that happened, in nanoseconds since 1970; `None` if nsqd was restarted since and does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<i64>,
    /// Messages that are unfinished again.
    #[serde(deserialize_with = "lenient")]
    pub message_count: u64,
    /// Messages that are no longer retained.
    #[serde(deserialize_with = "lenient")]
    pub lost_count: u64,
    /// Messages that can be handed out.
    #[serde(deserialize_with = "lenient")]
    pub depth: u64,
}
