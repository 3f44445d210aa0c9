//! Messages that `nsq sub --exec` gives up because their program failed too often.

use nsq::{Delivery, Producer, Topic};

use super::SubscribeFlags;
use crate::command::Context;
use crate::exit_status::Failure;
use crate::names::Object;
use crate::sources::{self, Purpose};

/// When a message is given up, and where it goes.
pub struct GivenUp {
    max_attempts: u16,
    /// `None` drops the messages.
    topic: Option<Topic>,
}

impl GivenUp {
    /// What the flags ask for; `None` without `--max-attempts`.
    pub async fn new(context: &Context, flags: &SubscribeFlags) -> Result<Option<Self>, Failure> {
        let Some(max_attempts) = flags.max_attempts else { return Ok(None) };
        let topic = match &flags.dead_letter {
            None => None,
            Some(name) => {
                if Object::parse(name)?.channel.is_some() {
                    return Err(Failure::usage(format_args!(
                        "--dead-letter {name} names a channel, not a topic"
                    )));
                }
                let nsqds = sources::find(&context.targets, Purpose::Publish).await?.nsqds;
                let config = context.targets.security.config.clone();
                let producer = Producer::builder().nsqd(&nsqds).config(config).build()?;
                Some(producer.topic(name).map_err(Failure::usage)?)
            }
        };
        Ok(Some(GivenUp { max_attempts, topic }))
    }

    /// Whether a message whose program has failed is given up.
    pub fn concerns(&self, message: &Delivery) -> bool {
        message.attempts() >= self.max_attempts
    }

    /// Publishes the message to the dead-letter topic, if there is one. After an error, it must be requeued.
    pub async fn put_away(&self, message: &Delivery) -> Result<(), String> {
        let Some(topic) = &self.topic else { return Ok(()) };
        let reason = format!("the program failed {} times", message.attempts());
        message.publish_dead_letter(topic, &reason).await.map_err(|error| error.to_string())
    }

    /// What happened to a message, for the log.
    pub fn describe(&self, message: &Delivery) -> String {
        let (id, attempts) = (message.id(), message.attempts());
        match &self.topic {
            Some(topic) => format!("! message {id} failed {attempts} times: published to {}", topic.name()),
            None => format!("! message {id} failed {attempts} times: dropped"),
        }
    }
}
