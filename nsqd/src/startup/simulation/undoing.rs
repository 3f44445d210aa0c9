//! Undoing an empty or a move forward: the step and its effect on the model.

use std::collections::BTreeMap;

use super::dead_letters::{dead_topic, is_dead_topic};
use super::model::{Body, ChannelModel, Due, Lost, MessageModel};
use super::world::{World, text};
use crate::channel::UndoError;

impl World<'_> {
    pub(super) fn empty_channel(&mut self, channel: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        channel.empty();
        let is_retaining = !self.model_of(&name.0)?.retention.is_off();
        let model = self.model.channel(&name).ok_or("no channel")?;
        let messages = std::mem::take(&mut model.messages);
        model.dropped.clear();
        if is_retaining {
            model.note_loss(messages.into_iter());
        }
        Ok(false)
    }

    pub(super) fn undo(&mut self, channel: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
        let has_dead = self.model.topics.contains_key(&dead_topic(&name.0, &name.1));
        let topic = self.model_of(&name.0)?;
        let is_off = topic.retention.is_off();
        let published = topic.published.clone();
        let model = topic.channels.get_mut(&name.1).ok_or("no channel")?;
        let is_followed = !is_dead_topic(&name.0) && !has_dead && !model.may_drop && !model.has_removed;
        if !is_followed || model.max_depth > 0 || model.lost == Lost::Unknown {
            return Ok(false);
        }
        let lost = match (&model.lost, is_off) {
            (Lost::Messages(messages), false) => messages.clone(),
            // After a crash, the engine may remember what the model does not, and the other way round.
            _ if model.is_loss_doubtful => return Ok(false),
            (Lost::Messages(_), true) => {
                return expect(
                    &channel.undo(false, false).map(|undone| undone.count),
                    UndoError::NothingRetained,
                );
            }
            _ => {
                return expect(
                    &channel.undo(false, false).map(|undone| undone.count),
                    UndoError::NothingToUndo,
                );
            }
        };
        if lost.keys().any(|body| published.get(body).is_none_or(|message| !message.retained)) {
            return Ok(false);
        }
        let count = match channel.undo(false, false) {
            Err(UndoError::NothingToUndo) if model.is_loss_doubtful => return Ok(false),
            undone => undone.map_err(text)?.count,
        };
        if count != lost.len() as u64 {
            return Err(format!("{name:?}: {count} messages came back instead of {}", lost.len()));
        }
        if let Some((first, _)) = lost.first_key_value() {
            model.last_first = model.last_first.min(first - 1);
        }
        for (body, before) in lost {
            let due = published.get(&body).and_then(|message| message.due).map(Due::or_passed);
            let is_out_of_turn = due.is_some();
            let fresh = MessageModel { due, is_out_of_turn, ..MessageModel::default() };
            let again = match model.dropped.remove(&body) {
                // A crash forgets that it was handed out.
                Some(sequence) => MessageModel {
                    in_flight: Some(sequence),
                    attempts_kept: 0,
                    is_recalled: false,
                    is_out_of_turn: true,
                    due,
                    ..before
                },
                None => fresh,
            };
            model.messages.insert(body, again);
        }
        model.lost = Lost::Nothing;
        self.undone_count += count;
        Ok(false)
    }
}

fn expect(undone: &Result<u64, UndoError>, error: UndoError) -> Result<bool, String> {
    match undone {
        Err(found) if *found == error => Ok(false),
        other => Err(format!("undo returned {other:?} instead of {error:?}")),
    }
}

impl ChannelModel {
    /// These messages were finished by an empty or a move forward.
    pub(super) fn note_loss(&mut self, messages: impl Iterator<Item = (Body, MessageModel)>) {
        let messages: BTreeMap<Body, MessageModel> = messages.collect();
        if self.gone_count > 0 {
            // The engine may take finished messages for unfinished ones.
            self.lost = Lost::Unknown;
            return;
        }
        if messages.is_empty() {
            return;
        }
        let is_unclear = messages.values().any(|message| {
            message.may_be_gone || message.is_redriven || message.is_dead || message.is_set_aside
        });
        self.lost = if is_unclear { Lost::Unknown } else { Lost::Messages(messages) };
        self.is_loss_doubtful = false;
    }
}
