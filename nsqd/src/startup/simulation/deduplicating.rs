//! Messages with ids: the steps, their effect on the model, and what a start must remember.

use std::collections::{BTreeMap, BTreeSet};

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;
use nsq_protocol::headers::{Form, HeadersBuf, ID, put_published};

use super::model::{Body, TopicModel};
use super::observe::{self, ObservedTopic};
use super::world::{World, text};
use crate::policy::settings::{Change, DEFAULT, Level};
use crate::storage::Durability;
use crate::storage::block::BLOCK_HEADER_BYTES;

/// The ids of the workload are below this.
pub const ID_COUNT: u8 = 8;

impl World<'_> {
    pub(super) fn set_dedupe(&mut self, topic: u8, on: bool) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        let value = if on { "24h" } else { DEFAULT };
        let change = Change::parse(Level::Topic, [("dedupe", value)].into_iter()).map_err(text)?;
        self.topic(&name)?.change_settings(&change).map_err(text)?;
        let model = self.model_of(&name)?;
        if model.dedupe != on {
            model.ids.clear();
        }
        model.dedupe = on;
        Ok(false)
    }

    /// Publishes a batch of one to three messages with ids, which `seed` selects.
    pub(super) fn publish_once(&mut self, topic: u8, seed: u16) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        // Ephemeral topics may have no room for a message.
        if self.model_of(&name)?.is_ephemeral {
            return Ok(false);
        }
        let ids: Vec<u8> = (0..=seed % 3).map(|place| (seed >> (3 * place + 2)) as u8 % ID_COUNT).collect();
        let mut model = self.model_of(&name)?.clone();
        let (mut messages, mut expected, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        let mut doubtful = Vec::new();
        for id in ids {
            let number = self.next_body();
            let body = observe::body(number, 20);
            let mut message = Vec::new();
            let headers = HeadersBuf::of_producer([(ID, id.to_string().as_str())]).map_err(text)?;
            put_published(&mut message, headers.as_headers(), &body);
            let is_duplicate = model.dedupe && model.ids.iter().any(|(other, _)| *other == id);
            if !is_duplicate {
                stored.push(number);
                doubtful.push((id, number));
                let bytes = (message.len() + MESSAGE_FRAME_OVERHEAD + BLOCK_HEADER_BYTES) as u64;
                self.with_headers.insert(number);
                self.add_published(number, &name, bytes);
                if model.dedupe {
                    model.ids.push_back((id, number));
                }
            }
            expected.push(is_duplicate);
            messages.push(message);
        }
        let surplus = model.ids.len().saturating_sub(observe::LIMITS.dedupe_max_ids);
        model.ids.drain(..surplus);
        let bytes = messages.iter().map(Vec::len).sum();
        let bodies = messages.iter().map(Vec::as_slice);
        let topic = self.topic(&name)?;
        let appended = topic.append_as(Form::WithHeaders, bodies, bytes, None).map_err(text);
        let Some(publication) = self.if_possible(appended)? else { return Ok(false) };
        let answers: Vec<bool> = (0..expected.len())
            .filter_map(|index| publication.message(index))
            .map(|message| message.is_duplicate)
            .collect();
        if answers != expected {
            return Err(format!("duplicates are {answers:?} instead of {expected:?}"));
        }
        let first = topic.log().end() - stored.len() as u64;
        let committed = self.runtime.block_on(publication.committed()).map_err(text);
        if self.if_possible(committed)?.is_none() {
            // Older ids made room for those that are forgotten now.
            model.ids.retain(|(_, body)| !stored.contains(body));
            let before = self.model_of(&name)?.ids.clone();
            model.displaced.extend(before.iter().filter(|id| !model.ids.contains(id)).map(|(id, _)| *id));
            model.doubtful.extend(doubtful);
            *self.model_of(&name)? = model;
            return Ok(false);
        }
        model.publish(&stored, first, None);
        *self.model_of(&name)? = model;
        // Duplicates alone write nothing.
        Ok(self.contract.durability != Durability::Overflow && !stored.is_empty())
    }
}

/// The topic remembers exactly the ids of the model.
pub fn ids_match(model: &TopicModel, observed: &ObservedTopic) -> Result<(), String> {
    let expected: BTreeSet<u8> = model.ids.iter().map(|(id, _)| *id).collect();
    match expected == observed.ids {
        true => Ok(()),
        false => Err(format!("remembers the ids {:?} instead of {expected:?}", observed.ids)),
    }
}

/// The topic remembers only ids of these states, from the oldest to the newest. An id that the oldest state does not
/// have is remembered only if its message is there.
pub fn ids_are_between(models: &[&TopicModel], observed: &ObservedTopic) -> Result<(), String> {
    let came: BTreeSet<Body> = (observed.channels.values().flat_map(|channel| &channel.deliveries))
        .chain(&observed.held)
        .chain(&observed.retained)
        .map(|delivery| delivery.body)
        .collect();
    let doubtful = |model: &&TopicModel| model.doubtful.clone();
    let ids_of = |model: &TopicModel| -> BTreeMap<u8, Body> { model.ids.iter().copied().collect() };
    for id in &observed.ids {
        let known = models.iter().flat_map(|model| ids_of(model)).chain(models.iter().flat_map(doubtful));
        let bodies: Vec<Body> = known.filter(|(other, _)| other == id).map(|(_, body)| body).collect();
        let is_acknowledged = models.first().is_some_and(|oldest| ids_of(oldest).contains_key(id));
        let is_displaced = models.iter().any(|model| model.displaced.contains(id));
        if !is_acknowledged && !is_displaced && !bodies.iter().any(|body| came.contains(body)) {
            return Err(format!("remembers the id {id}, whose message is none of {came:?}: {bodies:?}"));
        }
    }
    Ok(())
}
