//! Messages with a time to live of their own, which passes before most of them are taken.

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;
use nsq_protocol::headers::{Form, HeadersBuf, put_published};
use nsq_protocol::message_ttl::TTL;

use super::dead_letters::is_dead_topic;
use super::model::{Body, ChannelModel};
use super::observe;
use super::world::{World, text};
use crate::storage::Durability;
use crate::storage::block::BLOCK_HEADER_BYTES;

impl World<'_> {
    /// Publishes messages that may be delivered now, and never again after a moment.
    pub(super) fn publish_short_lived(&mut self, topic: u8, count: u8) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        let model = self.model_of(&name)?;
        // The model does not follow messages that may or may not be held back, retained, counted by a bound or
        // dead letters.
        if is_dead_topic(&name)
            || model.is_ephemeral
            || model.paused
            || model.channels.is_empty()
            || !model.retention.is_off()
            || model.channels.values().any(|channel| channel.keeps_expired || channel.max_depth > 0)
        {
            return Ok(false);
        }
        let headers = HeadersBuf::of_producer([(TTL, "1ms")]).map_err(text)?;
        let numbers: Vec<Body> = (0..count).map(|_| self.next_body()).collect();
        let mut messages = Vec::new();
        for &number in &numbers {
            let mut message = Vec::new();
            put_published(&mut message, headers.as_headers(), &observe::body(number, 20));
            let bytes = (message.len() + MESSAGE_FRAME_OVERHEAD + BLOCK_HEADER_BYTES) as u64;
            self.with_headers.insert(number);
            self.add_published(number, &name, bytes);
            messages.push(message);
        }
        let bytes = messages.iter().map(Vec::len).sum();
        let bodies = messages.iter().map(Vec::as_slice);
        let topic = self.topic(&name)?;
        let appended = topic.append_as(Form::WithHeaders, bodies, bytes, None).map_err(text);
        let Some(publication) = self.if_possible(appended)? else { return Ok(false) };
        let first = topic.log().end() - u64::from(count);
        let committed = self.runtime.block_on(publication.committed()).map_err(text);
        if self.if_possible(committed)?.is_none() {
            return Ok(false);
        }
        let model = self.model_of(&name)?;
        model.publish(&numbers, first, None);
        model.has_short_lived = true;
        for channel in model.channels.values_mut() {
            // A removal is recorded like those of dead letters.
            channel.has_removed = true;
            for body in &numbers {
                channel.messages.entry(*body).and_modify(|message| {
                    message.may_be_gone = true;
                    message.is_short_lived = true;
                });
            }
        }
        self.short_lived_count += u64::from(count);
        Ok(self.contract.durability != Durability::Overflow)
    }
}

impl ChannelModel {
    /// All messages that could be taken were taken: short-lived ones are gone.
    pub(super) fn drop_short_lived(&mut self) {
        self.messages.retain(|_, message| {
            // Whether one that was held back is due already is not known.
            !message.is_short_lived || message.in_flight.is_some() || message.due.is_some()
        });
    }
}
