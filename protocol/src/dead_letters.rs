//! Answers about dead letters and redrives. Not in NSQ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `GET /topic/dead`: the dead letters of a topic, counted by cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLettersResponse {
    /// The dead-letter topic.
    pub topic_name: String,
    /// The topic whose dead letters it was created for; `None` if nsqd did not create it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letters_of: Option<String>,
    /// All dead letters, also those that were not examined.
    pub total: u64,
    /// Dead letters that were examined, oldest first. Those at a consumer are left out.
    pub examined: u64,
    /// Whether there are more than those examined.
    pub more: bool,
    /// When the first of the examined died: UTC, RFC 3339. `None` if none says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<String>,
    /// When the last of the examined died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_at: Option<String>,
    /// The examined dead letters by cause, the most frequent first.
    pub groups: Vec<DeadLetterGroup>,
    /// Dead letters of causes beyond the number that nsqd distinguishes.
    #[serde(skip_serializing_if = "is_zero")]
    pub other_count: u64,
}

/// Dead letters of the same cause and origin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadLetterGroup {
    /// `attempts`; empty for a message that did not die but was published to the dead-letter topic.
    pub reason: String,
    /// The topic in which they died; empty as above.
    pub topic_name: String,
    /// The channel in which they died; empty as above.
    pub channel_name: String,
    /// The first line of the header `nsq-dead-error`; `None` without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of dead letters.
    pub count: u64,
    /// When the first of them died: UTC, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_at: Option<String>,
    /// When the last of them died.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest_at: Option<String>,
}

/// `GET /topic/dead/messages`: some dead letters, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadMessagesResponse {
    /// The dead-letter topic.
    pub topic_name: String,
    /// The dead letters that match.
    pub messages: Vec<DeadMessage>,
    /// Sequence number at which the next page starts; `None` at the end. A page may have fewer messages than requested,
    /// or none, although there are more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A dead letter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadMessage {
    /// Its id in the dead-letter topic, 16 hexadecimal digits. The header `nsq-dead-id` is the id where it died.
    pub id: String,
    /// Its sequence number in the dead-letter topic.
    pub sequence: u64,
    /// When it was moved to the dead-letter topic, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Its headers.
    pub headers: BTreeMap<String, String>,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
}

/// `/topic/redrive`: the last redrive of a dead-letter topic and its progress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedriveResponse {
    /// The dead-letter topic.
    pub topic_name: String,
    /// `running`, `completed`, `stopped` or `failed`.
    pub state: String,
    /// With `failed`: the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// When it started, in nanoseconds since 1970.
    pub started_at: i64,
    /// Dead letters when it started. It examines no later ones.
    pub total: u64,
    /// Dead letters examined so far.
    pub examined: u64,
    /// Messages moved so far.
    pub moved: u64,
    /// Dead letters that match and stay, because the channel in which they died does not exist.
    pub without_channel: u64,
    /// The parameters of the request, those that were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// See `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// See `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
    /// See `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// See `filter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

impl RedriveResponse {
    /// Whether it has not ended.
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }
}

/// `POST /topic/redrive?dry_run=true`: what a redrive would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedrivePlanResponse {
    /// The dead-letter topic.
    pub topic_name: String,
    /// True: nothing was moved.
    pub dry_run: bool,
    /// Messages that would be moved.
    pub moved: u64,
    /// Dead letters that match and would stay, because the channel in which they died does not exist.
    pub without_channel: u64,
    /// Where they would go.
    pub destinations: Vec<RedriveDestination>,
}

/// A topic or channel in [`RedrivePlanResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RedriveDestination {
    /// The topic; empty for messages that do not say where they died.
    pub topic_name: String,
    /// The only channel that receives the messages; `None` for all channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_name: Option<String>,
    /// Whether it exists. If not, the messages stay.
    pub exists: bool,
    /// Number of messages.
    pub count: u64,
}

/// `POST /topic/dead/delete`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeadDeleteResponse {
    /// The dead-letter topic.
    pub topic_name: String,
    /// Whether nothing was deleted.
    pub dry_run: bool,
    /// Dead letters that were deleted or, with `dry_run`, would be.
    pub deleted: u64,
}

// serde passes references.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
