//! Where messages go that are given up.

use std::sync::Arc;

use nsq_protocol::headers;

use super::message::Delivery;
use crate::error::{HandlerError, PublishError};
use crate::producer::{NewMessage, Topic, stable_hash};

/// What happens to a message that is given up, after `max_attempts` or by
/// [`Outcome::GiveUp`](super::Outcome::GiveUp). If it fails, the message is requeued: it is never lost.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum DeadLetter {
    /// Publish the body to this topic, from [`Producer::topic`](crate::Producer::topic), then finish the message. The dead
    /// letter has the headers of the message, if the consumer [requests them](crate::Config::headers), and `dead-reason`,
    /// `dead-topic`, `dead-channel`, `dead-id` and `dead-attempts`; without headers if the nsqd does not support them. Its
    /// `nsq-id` is the same for each attempt, so a topic with the setting `dedupe` has it once.
    Topic(Topic),
    /// Reject the message: nsqd moves it to the dead-letter topic of the channel. See
    /// [`Message::reject`](super::Message::reject); NSQ's own nsqd does not support it.
    Server,
}

impl Delivery {
    /// Publishes the message's body to a topic of dead letters, with the headers that [`DeadLetter::Topic`] lists. Does not
    /// finish the message: do so if this succeeds.
    pub async fn publish_dead_letter(&self, topic: &Topic, reason: &str) -> Result<(), HandlerError> {
        publish(topic, self, reason).await
    }
}

/// Publishes a dead letter.
pub(super) async fn publish(topic: &Topic, message: &Delivery, reason: &str) -> Result<(), HandlerError> {
    let own = [
        ("dead-reason", one_line(reason)),
        ("dead-topic", message.topic().to_owned()),
        ("dead-channel", message.channel().to_owned()),
        ("dead-id", message.id().to_string()),
        ("dead-attempts", message.attempts().to_string()),
        (headers::ID, letter_id(message)),
    ];
    let body = message.body();
    let mut letter = NewMessage::new(body.clone());
    if let Some(headers) = message.headers() {
        let kept = headers.iter().filter(|(name, _)| {
            let is_from_nsqd = name.starts_with("nsq-");
            !is_from_nsqd && !own.iter().any(|(own, _)| own == name)
        });
        letter = kept.fold(letter, |letter, (name, value)| letter.header(name, value));
    }
    let letter = own.into_iter().fold(letter, |letter, (name, value)| letter.header(name, value));
    match topic.publish(letter).await {
        Err(PublishError::HeadersUnsupported { .. }) => topic.publish(body.clone()).await.map(drop)?,
        published => published.map(drop)?,
    }
    Ok(())
}

/// The same for each attempt to publish the dead letter of a message, so that a topic with `dedupe` has it once. Ids of messages
/// repeat in other topics.
fn letter_id(message: &Delivery) -> String {
    let origin = stable_hash(format!("{}/{}", message.topic(), message.channel()).as_bytes());
    format!("dead-{}-{origin:016x}", message.id())
}

/// A header value is one line.
fn one_line(reason: &str) -> String {
    let cut =
        Arc::<str>::from(reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>());
    cut.chars().take(MAX_REASON_CHARS).collect()
}

const MAX_REASON_CHARS: usize = 500;
