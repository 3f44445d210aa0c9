//! PUB, MPUB and DPUB; PUB_EXT, MPUB_EXT and DPUB_EXT for messages with headers.
//!
//! The publishes of one read are one batch: successive PUBs (or PUB_EXTs) to a topic are appended together. One write of
//! the journal makes all publishes of the connection's turn durable, before the first of them is answered.
//!
//! A publish to a full topic, or to a node that drains, is refused with an error that leaves the connection usable.
//!
//! A connection that was granted `pub_ids` gets `OK <id>` for a message, or `OK <id> DUP` if the topic has a message with
//! the same `nsq-id`; and `OK` for a batch, and for a message that an ephemeral topic has no room for.

use std::time::Duration;

use nsq_protocol::{Command, Decoded, ErrorCode, Limits, ProtocolError, TopicName, Verb, decode};

use super::{Connection, End};
use crate::clock;
use crate::topic::{Publication, PublishError, PublishedMessage, Topic};
use std::sync::Arc;

/// Maximum number of bodies appended at a time, so that the topic's lock is not held for long.
const RUN_BODIES: usize = 1024;

struct Pending {
    /// The error if the topic is full or the node drains; it leaves the connection usable.
    publication: Result<Publication, ProtocolError>,
    verb: Verb,
    commands: usize,
    /// The messages to name in the answers, one for each command; empty if none are.
    messages: Vec<Option<PublishedMessage>>,
}

impl Connection {
    /// Executes the publishes at the start of `data`, up to the first other command or the end of the turn. `data`
    /// starts with `first`, which took `consumed` bytes. Returns the bytes used.
    pub(super) async fn publish_run<'a>(
        &mut self,
        first: Command<'a>,
        consumed: usize,
        data: &'a [u8],
    ) -> Result<usize, End> {
        self.publish_began.get_or_insert_with(clock::monotonic);
        let context = self.context.clone();
        context.registry.engine().wait_for_room().await;
        let (mut command, mut consumed) = (first, consumed);
        let mut used = 0;
        let mut pending = Vec::new();
        let result = loop {
            match self.append(command, &data[used + consumed..], &context.limits, &mut pending).await {
                Ok(Some(more)) => used += consumed + more,
                Ok(None) => break Ok(used),
                Err(end) => break Err(end),
            }
            if self.turn.is_over() {
                break Ok(used);
            }
            match decode(&data[used..], &context.limits) {
                Decoded::Command { command: next, consumed: bytes } => (command, consumed) = (next, bytes),
                _ => break Ok(used),
            }
        };
        let appended =
            |pending: &Pending| pending.publication.as_ref().is_ok_and(Publication::depends_on_others);
        if pending.iter().any(appended) {
            for publication in pending.iter_mut().filter_map(|pending| pending.publication.as_mut().ok()) {
                publication.settle().await;
            }
        }
        // Publishes before a refused command are answered first.
        for Pending { publication, verb, commands, messages } in pending {
            match publication {
                Ok(publication) => publication.committed().await.map_err(|error| failed(verb, &error))?,
                Err(refusal) => {
                    self.output.error(&refusal);
                    continue;
                }
            }
            if messages.is_empty() {
                self.output.ok(commands);
            }
            messages.into_iter().for_each(|message| self.output.published(message));
        }
        result
    }

    /// Appends a publish. After a PUB or PUB_EXT, also those of the same kind to the same topic at the start of `rest`.
    /// Returns the bytes of `rest` used; `None` for a command that is no publish.
    async fn append<'a>(
        &mut self,
        command: Command<'a>,
        rest: &'a [u8],
        limits: &Limits,
        pending: &mut Vec<Pending>,
    ) -> Result<Option<usize>, End> {
        let verb = command.verb();
        let Some(form) = verb.published_form() else { return Ok(None) };
        let (mut used, mut commands) = (0, 1);
        let publication = match command {
            Command::Mpub { topic: name, messages } | Command::MpubExt { topic: name, messages } => {
                let topic = self.topic(name, verb).await?;
                self.count_published(name, messages.len() as u64);
                topic.and_then(|topic| topic.append_as(form, messages.iter(), messages.body_bytes(), None))
            }
            Command::Dpub { topic: name, delay_ms, body }
            | Command::DpubExt { topic: name, delay_ms, message: body } => {
                let topic = self.topic(name, verb).await?;
                let delay = (delay_ms > 0).then(|| Duration::from_millis(delay_ms));
                self.count_published(name, 1);
                topic.and_then(|topic| topic.append_as(form, [body].into_iter(), body.len(), delay))
            }
            Command::Pub { topic: name, body } | Command::PubExt { topic: name, message: body } => {
                let topic = self.topic(name, verb).await?;
                let mut bodies = vec![body];
                let mut body_bytes = body.len();
                while bodies.len() < RUN_BODIES
                    && let Decoded::Command { command: next, consumed } = decode(&rest[used..], limits)
                    && next.verb() == verb
                    && let Command::Pub { topic, body } | Command::PubExt { topic, message: body } = next
                    && topic == name
                {
                    bodies.push(body);
                    body_bytes += body.len();
                    used += consumed;
                }
                commands = bodies.len();
                self.count_published(name, commands as u64);
                let append = |bodies: &[&[u8]], bytes| match &topic {
                    Ok(topic) => topic.append_as(form, bodies.iter().copied(), bytes, None),
                    Err(error) => Err(error.clone()),
                };
                let appended = append(&bodies, body_bytes);
                if commands > 1 && matches!(appended, Err(PublishError::Full(_) | PublishError::Draining)) {
                    // Each gets its own answer. If the topic is full, there may be room for some of them.
                    for body in bodies {
                        let appended = append(&[body], body.len());
                        pending.push(self.pending(appended, verb, 1)?);
                    }
                    return Ok(Some(used));
                }
                appended
            }
            _ => return Ok(None),
        };
        pending.push(self.pending(publication, verb, commands)?);
        Ok(Some(used))
    }

    fn pending(
        &self,
        appended: Result<Publication, PublishError>,
        verb: Verb,
        commands: usize,
    ) -> Result<Pending, End> {
        let publication = match appended {
            Ok(publication) => Ok(publication),
            Err(PublishError::Full(full)) => {
                self.context.registry.engine().metrics().publishes_over_bound.add(1);
                Err(ProtocolError::new(failure_code(verb), full.to_string()))
            }
            Err(error @ PublishError::Draining) => {
                Err(ProtocolError::new(failure_code(verb), error.to_string()))
            }
            Err(error) => return Err(failed(verb, &error)),
        };
        let is_batch = matches!(verb, Verb::Mpub | Verb::MpubExt);
        let named = if self.settings.pub_ids && !is_batch { commands } else { 0 };
        let message = |index| publication.as_ref().ok()?.message(index);
        let messages = (0..named).map(message).collect();
        Ok(Pending { publication, verb, commands, messages })
    }

    /// The topic to publish to. The inner error, if the topic is missing while the node drains, leaves the connection
    /// usable.
    async fn topic(&mut self, name: &str, verb: Verb) -> Result<Result<Arc<Topic>, PublishError>, End> {
        if !self.may_publish(name) {
            self.authorize(verb, name, "").await?;
        }
        if let Some(topic) = &self.last_topic
            && topic.name().as_str() == name
            && !topic.is_closed()
        {
            return Ok(Ok(topic.clone()));
        }
        let bad_topic =
            |_| ProtocolError::new(ErrorCode::BadTopic, format!("{verb} topic name is not valid"));
        let name = TopicName::new(name).map_err(bad_topic)?;
        let topic = match self.context.registry.get_or_create(&name).await {
            Ok(topic) => topic,
            Err(error @ PublishError::Draining) => return Ok(Err(error)),
            Err(error) => return Err(failed(verb, &error)),
        };
        self.last_topic = Some(topic.clone());
        Ok(Ok(topic))
    }

    fn count_published(&mut self, topic: &str, count: u64) {
        self.turn.spend_commands(count as usize);
        self.info.count_published(topic, count);
        if self.producer.is_none() {
            self.producer = Some(self.context.producers.add(&self.info));
        }
    }
}

fn failed(verb: Verb, error: &PublishError) -> End {
    End::Error(ProtocolError::new(failure_code(verb), format!("{verb} failed {error}")))
}

fn failure_code(verb: Verb) -> ErrorCode {
    match verb {
        Verb::Mpub | Verb::MpubExt => ErrorCode::MpubFailed,
        Verb::Dpub | Verb::DpubExt => ErrorCode::DpubFailed,
        _ => ErrorCode::PubFailed,
    }
}
