//! What a policy file would do with the messages of a node. Not in NSQ.

use serde::{Deserialize, Serialize};

/// `/policy/test`. A test changes nothing. The node goes on meanwhile, so the numbers are not of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyTestResponse {
    /// Number of policies in the file.
    pub policies: u64,
    /// Valid values that may not have the expected effect.
    pub warnings: Vec<PolicyWarning>,
    /// Messages that were published before this are not examined for duplicates. Unix nanoseconds.
    pub since: i64,
    /// Whether all topics and messages were examined.
    pub complete: bool,
    /// The limit at which the test stopped: `messages`, `bytes` or `time`; `None` if it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<String>,
    /// Number of messages that were read, and their bytes.
    pub examined: u64,
    /// See `examined`.
    pub examined_bytes: u64,
    /// Topics for which the file has a policy, but which the test did not reach.
    pub untested_topics: u64,
    /// Topics for which the file has a policy, in the order of their names.
    pub topics: Vec<TestedTopic>,
}

/// A warning about a valid policy file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyWarning {
    /// The line on which the policy begins.
    pub line: u64,
    /// What may be unexpected.
    pub reason: String,
}

/// One topic in [`PolicyTestResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestedTopic {
    /// The topic.
    pub topic_name: String,
    /// Whether everything of this topic was examined.
    pub complete: bool,
    /// Why it was not, if the reason is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the topic retains finished messages now. If not, the topic has only unfinished ones.
    pub retains: bool,
    /// Messages since the start of the test's time range that the topic still has.
    pub message_count: u64,
    /// How many of these were read. They are read only if the file sets `dedupe` for the topic.
    pub examined: u64,
    /// When the newest of these was published, if not all were read. Unix nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub examined_until: Option<i64>,
    /// How many of these have an `nsq-id`. `None` without `dedupe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id_count: Option<u64>,
    /// How many of these would not have been stored, because an earlier one within the window has the same `nsq-id`.
    /// `None` without `dedupe`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_count: Option<u64>,
    /// What retention would delete. `None` if the topic retains nothing now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<TestedRetention>,
    /// All channels of the topic, in the order of their names.
    pub channels: Vec<TestedChannel>,
}

/// Retained messages of a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestedRetention {
    /// Retained now: messages, and the bytes of the files and chunks that hold them.
    pub retained_count: u64,
    /// See `retained_count`.
    pub retained_bytes: u64,
    /// The part that the tested limits would delete at once. Messages that a channel has not finished stay.
    pub deleted_count: u64,
    /// See `deleted_count`.
    pub deleted_bytes: u64,
}

/// One channel in [`TestedTopic`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestedChannel {
    /// The channel.
    pub channel_name: String,
    /// Messages that are not finished: not handed out yet, waiting, deferred or in flight.
    pub unfinished_count: u64,
    /// Messages that would expire at once: not in flight, not deferred, and older than the time to live. `None` without
    /// `ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expired_count: Option<u64>,
    /// Whether these would become dead letters. Otherwise they would be dropped.
    pub expired_become_dead_letters: bool,
    /// Messages whose failed deliveries reach `max_attempts`. `None` without `max_attempts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_count: Option<u64>,
    /// With `dead_letter_count`: `failures`, or `deliveries` if the channel does not count failures now. Deliveries are
    /// at least as many as failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_by: Option<String>,
    /// Messages beyond `max_depth`, after the ones above have left. `None` without `max_depth`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overflow_count: Option<u64>,
    /// The topic that would get the dead letters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_topic: Option<String>,
}
