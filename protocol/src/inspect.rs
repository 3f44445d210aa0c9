//! Answers about single messages and about what holds a channel up: peek, cancel, requeue, why. Not in NSQ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A line of `/channel/peek` and `/topic/peek`: a message, or the last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PeekLine {
    /// The last line.
    End {
        /// Why and where the answer ends.
        end: PeekEnd,
    },
    /// A message.
    Message(Box<PeekedMessage>),
}

/// A message, as it is stored and where it stands now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeekedMessage {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Its place in the topic.
    pub sequence: u64,
    /// When it was published, in nanoseconds since 1970.
    pub timestamp: i64,
    /// Deliveries so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u16>,
    /// `waiting`, `in_flight`, `deferred`, `dead_letter_pending` or `finished`; of a topic's history: `held` or `released`.
    pub state: String,
    /// In flight: to whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<PeekedConsumer>,
    /// In flight: when it was handed out, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_at: Option<i64>,
    /// In flight: when it times out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_at: Option<i64>,
    /// Deferred: when it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<i64>,
    /// Its headers.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Length of the body.
    pub body_bytes: u64,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// The body in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body_base64: Option<String>,
    /// `from=` of a request that continues after this message.
    pub cursor: String,
}

/// The consumer that a message is in flight to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeekedConsumer {
    /// What it sent in IDENTIFY.
    pub client_id: String,
    /// What it sent in IDENTIFY.
    pub hostname: String,
    /// Its address.
    pub remote_address: String,
}

/// The last line of a peek.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PeekEnd {
    /// `end`, `limit`, `messages`, `bytes`, `time` or `unreadable`.
    pub stopped_by: String,
    /// Messages that were looked at.
    pub examined: u64,
    /// Bytes of messages that were read.
    pub examined_bytes: u64,
    /// `from=` of the next page; `None` at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `POST /message/cancel` and `POST /message/requeue`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessageResponse {
    /// The topic.
    pub topic_name: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The channels in which it was changed.
    pub channels: Vec<ChangedMessage>,
}

/// What was done with a message in one channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangedMessage {
    /// The channel.
    pub channel_name: String,
    /// Where it stood before; see [`PeekedMessage::state`].
    pub was: String,
    /// Where it stands now: `cancelled`, `waiting` or `deferred`.
    pub state: String,
    /// Deferred: when it is due, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_at: Option<i64>,
}

/// `GET /channel/why`: what holds a channel or a message up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyResponse {
    /// The topic.
    pub topic_name: String,
    /// The channel.
    pub channel_name: String,
    /// The message, if one was asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Worst first; never empty.
    pub causes: Vec<WhyCause>,
}

/// One reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyCause {
    /// Stable, such as `no_consumer`.
    pub code: String,
    /// Whether it holds the channel or message up now. Otherwise it is only worth knowing.
    pub holds_up: bool,
    /// One sentence.
    pub text: String,
    /// The command that helps, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_differs_from_messages() {
        let line = r#"{"end":{"stopped_by":"limit","examined":3,"examined_bytes":7,"next":"seq:8"}}"#;
        let PeekLine::End { end } = serde_json::from_str(line).unwrap() else { panic!("{line}") };
        assert_eq!((end.stopped_by.as_str(), end.next.as_deref()), ("limit", Some("seq:8")));
        let message = PeekedMessage { id: "0".repeat(16), sequence: 7, ..PeekedMessage::default() };
        let line = serde_json::to_string(&PeekLine::Message(Box::new(message.clone()))).unwrap();
        assert_eq!(serde_json::from_str::<PeekLine>(&line).unwrap(), PeekLine::Message(Box::new(message)));
    }
}
