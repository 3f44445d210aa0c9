//! What a user wants to be done. Pure.

use nsq_protocol::{StartAt, is_valid_name};
use serde::Deserialize;

use crate::access::Role;

/// An action, by its word in the API and in notifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    CreateTopic,
    CreateChannel,
    DeleteTopic,
    DeleteChannel,
    PauseTopic,
    UnpauseTopic,
    PauseChannel,
    UnpauseChannel,
    EmptyTopic,
    EmptyChannel,
    /// Hides a node from lookups of a topic. Its messages stay.
    Hide,
    /// As NSQ's nsqadmin does: hides a node, and deletes the topic there.
    Tombstone,
    /// Deletes a topic on one node only.
    DeleteTopicOnNode,
    Drain,
    EndDrain,
    Seek,
    Undo,
    Redrive,
    StopRedrive,
    DeleteDead,
    CancelMessage,
    RequeueMessage,
    Publish,
    SetTopic,
    SetChannel,
}

impl Verb {
    /// All of them, with their words.
    pub const ALL: [(Verb, &'static str); 25] = [
        (Verb::CreateTopic, "create_topic"),
        (Verb::CreateChannel, "create_channel"),
        (Verb::DeleteTopic, "delete_topic"),
        (Verb::DeleteChannel, "delete_channel"),
        (Verb::PauseTopic, "pause_topic"),
        (Verb::UnpauseTopic, "unpause_topic"),
        (Verb::PauseChannel, "pause_channel"),
        (Verb::UnpauseChannel, "unpause_channel"),
        (Verb::EmptyTopic, "empty_topic"),
        (Verb::EmptyChannel, "empty_channel"),
        (Verb::Hide, "hide_node"),
        (Verb::Tombstone, "tombstone_topic_producer"),
        (Verb::DeleteTopicOnNode, "delete_topic_on_node"),
        (Verb::Drain, "drain_node"),
        (Verb::EndDrain, "end_drain"),
        (Verb::Seek, "seek_channel"),
        (Verb::Undo, "undo"),
        (Verb::Redrive, "redrive"),
        (Verb::StopRedrive, "stop_redrive"),
        (Verb::DeleteDead, "delete_dead_letters"),
        (Verb::CancelMessage, "cancel_message"),
        (Verb::RequeueMessage, "requeue_message"),
        (Verb::Publish, "publish"),
        (Verb::SetTopic, "set_topic"),
        (Verb::SetChannel, "set_channel"),
    ];

    /// The word.
    pub fn word(self) -> &'static str {
        Verb::ALL.iter().find(|(verb, _)| *verb == self).map_or("", |(_, word)| word)
    }

    /// The action of a word.
    pub fn parse(word: &str) -> Option<Verb> {
        Verb::ALL.iter().find(|(_, known)| *known == word).map(|(verb, _)| *verb)
    }

    /// The role that it needs.
    pub fn role(self) -> Role {
        match self {
            Verb::CreateTopic
            | Verb::CreateChannel
            | Verb::PauseTopic
            | Verb::UnpauseTopic
            | Verb::PauseChannel
            | Verb::UnpauseChannel => Role::Operator,
            _ => Role::Admin,
        }
    }

    /// Whether it can destroy messages, so that the name must be typed.
    pub fn destroys(self) -> bool {
        matches!(
            self,
            Verb::DeleteTopic
                | Verb::DeleteChannel
                | Verb::EmptyTopic
                | Verb::EmptyChannel
                | Verb::Tombstone
                | Verb::DeleteTopicOnNode
                | Verb::DeleteDead
        )
    }

    /// Whether it needs a channel.
    pub fn needs_channel(self) -> bool {
        matches!(
            self,
            Verb::CreateChannel
                | Verb::DeleteChannel
                | Verb::PauseChannel
                | Verb::UnpauseChannel
                | Verb::EmptyChannel
                | Verb::Seek
                | Verb::CancelMessage
                | Verb::RequeueMessage
                | Verb::SetChannel
        )
    }

    /// Whether it concerns one node.
    pub fn needs_node(self) -> bool {
        matches!(
            self,
            Verb::Hide
                | Verb::Tombstone
                | Verb::DeleteTopicOnNode
                | Verb::Drain
                | Verb::EndDrain
                | Verb::Publish
        )
    }

    /// Whether the nodes themselves say what it would do: only for what NSQ's own nsqd does not know, since that ignores
    /// `dry_run` and acts.
    pub fn has_preview(self) -> bool {
        matches!(
            self,
            Verb::Seek
                | Verb::Undo
                | Verb::Redrive
                | Verb::DeleteDead
                | Verb::CancelMessage
                | Verb::RequeueMessage
        )
    }

    /// Whether it needs a topic.
    pub fn needs_topic(self) -> bool {
        !matches!(self, Verb::Drain | Verb::EndDrain)
    }
}

/// The body of `POST /api/v2/actions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Order {
    /// The word of a [`Verb`].
    pub action: String,
    pub topic: String,
    pub channel: String,
    /// `broadcast_address:http_port`, for actions on one node.
    pub node: String,
    /// Only these nodes, for example to repeat an action where it failed. Empty for all.
    pub nodes: Vec<String>,
    /// Change nothing; answer what would be lost.
    pub dry_run: bool,
    /// Why, for the audit.
    pub reason: String,
    /// Repeats the name of what is destroyed, if messages are lost.
    pub confirm: String,
    /// For `empty_topic`: also its channels.
    pub with_channels: bool,
    /// For a pause: seconds after which it ends.
    pub for_seconds: u64,
    /// For `seek_channel`: the position.
    pub to: String,
    /// For single messages: 16 hexadecimal digits.
    pub id: String,
    /// For `requeue_message`: milliseconds.
    pub delay_ms: u64,
    /// For `publish`: the body.
    pub body: String,
    /// For dead letters: which ones.
    pub filter: String,
    /// For dead letters: at most this many; 0 for all.
    pub max: u64,
    /// For `redrive`: messages per second; 0 for as fast as possible.
    pub rate: u64,
    /// For `set_topic` and `set_channel`: the setting.
    pub setting: String,
    /// For `set_topic` and `set_channel`: its value.
    pub value: String,
}

/// Longest reason.
const MAX_REASON_BYTES: usize = 500;
/// Longest automatic end of a pause: a week.
const MAX_PAUSE_SECONDS: u64 = 7 * 24 * 3600;

impl Order {
    /// Checks the order. The error is a word, sometimes with an explanation.
    pub fn check(&self) -> Result<Verb, String> {
        let verb = Verb::parse(&self.action).ok_or("INVALID_ACTION")?;
        if verb.needs_topic() && !is_valid_name(self.topic.as_bytes()) {
            return Err("INVALID_TOPIC".to_owned());
        }
        let has_channel = !self.channel.is_empty();
        if (verb.needs_channel() || has_channel) && !is_valid_name(self.channel.as_bytes()) {
            return Err("INVALID_CHANNEL".to_owned());
        }
        if verb.needs_node() && self.node.is_empty() {
            return Err(format!("INVALID_NODE: {} needs node, such as \"host:4151\"", self.action));
        }
        if self.reason.len() > MAX_REASON_BYTES {
            return Err(format!("INVALID_REASON: at most {MAX_REASON_BYTES} bytes"));
        }
        let is_pause = matches!(verb, Verb::PauseTopic | Verb::PauseChannel);
        if self.for_seconds > 0 && (!is_pause || self.for_seconds > MAX_PAUSE_SECONDS) {
            return Err(format!("INVALID_DURATION: for_seconds is for pauses, 1 to {MAX_PAUSE_SECONDS}"));
        }
        if matches!(verb, Verb::CancelMessage | Verb::RequeueMessage)
            && (self.id.len() != 16 || !self.id.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err("INVALID_ID: write 16 hexadecimal digits".to_owned());
        }
        if matches!(verb, Verb::SetTopic | Verb::SetChannel) && self.setting.is_empty() {
            return Err("INVALID_SETTING: name the setting".to_owned());
        }
        if verb == Verb::Seek && self.to.parse::<StartAt>().is_err() {
            return Err(format!(
                "INVALID_TO: {:?}; write earliest, latest, 15m or 2026-11-20T11:38:00Z",
                self.to
            ));
        }
        if verb == Verb::Publish && self.body.is_empty() {
            return Err("INVALID_BODY: a message must not be empty".to_owned());
        }
        Ok(verb)
    }

    /// The name to type before messages are destroyed.
    pub fn name(&self) -> &str {
        if self.channel.is_empty() { &self.topic } else { &self.channel }
    }

    /// The command of `nsq` that does the same.
    pub fn command(&self, verb: Verb) -> String {
        let topic = quote(&self.topic);
        let both = quote(&format!("{}/{}", self.topic, self.channel));
        let object = if self.channel.is_empty() { topic.clone() } else { both.clone() };
        match verb {
            Verb::CreateTopic => format!("nsq topic create {topic}"),
            Verb::CreateChannel => format!("nsq channel create {both}"),
            Verb::DeleteTopic => format!("nsq topic delete {topic}"),
            Verb::DeleteChannel => format!("nsq channel delete {both}"),
            Verb::PauseTopic => format!("nsq topic pause {topic}"),
            Verb::UnpauseTopic => format!("nsq topic unpause {topic}"),
            Verb::PauseChannel => format!("nsq channel pause {both}"),
            Verb::UnpauseChannel => format!("nsq channel unpause {both}"),
            Verb::EmptyTopic if self.with_channels => format!("nsq topic empty {topic} --channels"),
            Verb::EmptyTopic => format!("nsq topic empty {topic}"),
            Verb::EmptyChannel => format!("nsq channel empty {both}"),
            Verb::Hide | Verb::Tombstone => format!(
                "curl -X POST 'http://LOOKUPD/topic/tombstone?topic={}&node={}'",
                encode(&self.topic),
                encode(&self.node)
            ),
            Verb::DeleteTopicOnNode => format!("nsq --nsqd {} topic delete {topic}", quote(&self.node)),
            Verb::Drain => format!("nsq node drain {}", quote(&self.node)),
            Verb::EndDrain => format!("nsq node drain {} --stop-draining", quote(&self.node)),
            Verb::Seek => format!("nsq channel seek {both} --to {}", quote(&self.to)),
            Verb::Undo => format!("nsq undo {object}"),
            Verb::Redrive => format!("nsq dead redrive {topic}"),
            Verb::StopRedrive => format!("nsq dead stop {topic}"),
            Verb::DeleteDead => format!("nsq dead rm {topic}"),
            Verb::CancelMessage => format!("nsq message cancel {both} {}", self.id),
            Verb::RequeueMessage => format!("nsq message requeue {both} {}", self.id),
            Verb::Publish => format!("nsq --nsqd {} pub {topic} BODY", quote(&self.node)),
            Verb::SetTopic => {
                format!("nsq topic set {topic} {}", quote(&format!("{}={}", self.setting, self.value)))
            }
            Verb::SetChannel => {
                format!("nsq channel set {both} {}", quote(&format!("{}={}", self.setting, self.value)))
            }
        }
    }
}

/// A word for a shell.
pub fn quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@%+=".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(action: &str, topic: &str, channel: &str) -> Order {
        let (action, topic, channel) = (action.to_owned(), topic.to_owned(), channel.to_owned());
        Order { action, topic, channel, ..Order::default() }
    }

    #[test]
    fn words_are_read_back() {
        for (verb, word) in Verb::ALL {
            assert_eq!((verb.word(), Verb::parse(word)), (word, Some(verb)));
        }
    }

    #[test]
    fn wrong_orders_are_refused() {
        for (order, word) in [
            (order("explode", "t", ""), "INVALID_ACTION"),
            (order("pause_topic", "a b", ""), "INVALID_TOPIC"),
            (order("pause_channel", "t", ""), "INVALID_CHANNEL"),
            (order("hide_node", "t", ""), "INVALID_NODE"),
            (order("cancel_message", "t", "c"), "INVALID_ID"),
            (order("seek_channel", "t", "c"), "INVALID_TO"),
            (Order { for_seconds: 5, ..order("empty_topic", "t", "") }, "INVALID_DURATION"),
            (Order { reason: "x".repeat(501), ..order("pause_topic", "t", "") }, "INVALID_REASON"),
        ] {
            let error = order.check().unwrap_err();
            assert!(error.starts_with(word), "{order:?}: {error}");
        }
        assert_eq!(order("pause_topic", "t", "").check(), Ok(Verb::PauseTopic));
    }

    #[test]
    fn only_harmless_actions_are_for_operators() {
        for (verb, _) in Verb::ALL {
            if verb.role() == Role::Operator {
                assert!(!verb.destroys(), "{verb:?}");
            }
        }
    }

    #[test]
    fn commands_are_safe_to_paste() {
        let order = order("pause_channel", "t", "c#ephemeral");
        assert_eq!(order.command(Verb::PauseChannel), "nsq channel pause 't/c#ephemeral'");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
