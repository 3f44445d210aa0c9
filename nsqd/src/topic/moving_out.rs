//! What a topic gives to a drain that moves its messages to another node: the messages that no channel has yet, and the
//! transfers that are under way.

use nsq_protocol::ChannelName;
use nsq_protocol::headers::has_headers;

use super::Topic;
use crate::channel::Channel;
use crate::channel::transfer::Movable;
use crate::clock;
use crate::engine::StorageError;
use crate::log::Mark;
use crate::log::reader::CannotRead;
use crate::policy::setting::{Setting, Value};
use crate::policy::settings::{Change, Settings};
use crate::storage::record::{Record, TransferId};
use crate::storage::{ChannelNumber, SequenceRange};

/// Sequence numbers that are looked at in one step.
const WINDOW: u64 = 4096;

/// Messages that no channel has yet.
#[derive(Debug, Default)]
pub struct Held {
    /// Only this channel receives them; `None`: all.
    pub channel: Option<ChannelName>,
    /// In order, with their stored frames, all of one form.
    pub messages: Vec<(Movable, Vec<u8>)>,
    /// Their sequence numbers, and those between them that have no messages.
    pub range: SequenceRange,
}

/// What is known about one held message.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    is_skipped: bool,
    channel: Option<ChannelNumber>,
    attempts: u16,
    failures: u16,
    due: Option<clock::Nanos>,
}

impl Topic {
    /// Starts or ends moving the messages to another node. Meanwhile, none is released to the channels, and these hand out
    /// nothing. Leaves ephemeral channels alone.
    pub fn set_moving_out(&self, is_moving_out: bool) {
        let mut state = self.state.lock();
        let channels: Vec<_> = state.topic.channels().values().cloned().collect();
        state.topic.set_moving_out(is_moving_out);
        if !is_moving_out {
            self.advance(&mut state);
            self.update_gauge(&state);
        }
        drop(state);
        for channel in channels.iter().filter(|channel| !channel.is_ephemeral()) {
            channel.set_moving_out(is_moving_out);
        }
    }

    /// Messages that a drain can move: those of durable channels, and those that no channel has yet.
    pub fn movable_count(&self) -> u64 {
        let held = self.unreleased_count();
        let durable = self.channels().into_iter().filter(|channel| !channel.is_ephemeral());
        held + durable.map(|channel| channel.inspect(|state, _| state.unfinished_count())).sum::<u64>()
    }

    /// Reads the first messages that no channel has yet, at most `most`. `None` if there are none. Blocks on the disk.
    pub fn read_held(&self, most: usize) -> Result<Option<Held>, CannotRead> {
        let state = self.state.lock();
        let (from, committed) = (state.topic.point().released(), state.topic.point().committed());
        let marks = self.log.marks();
        let name_of = |number: ChannelNumber| {
            state
                .topic
                .channels()
                .iter()
                .find(|(_, channel)| channel.number() == number)
                .map(|(name, _)| name)
        };
        let window = SequenceRange::new(from, committed.min(from.saturating_add(WINDOW)));
        if window.is_empty() {
            return Ok(None);
        }
        // Messages for an ephemeral channel alone do not move.
        let known = known(window, &marks, |number| name_of(number).is_some_and(|name| !name.is_ephemeral()));
        let mut held = Held { range: SequenceRange::new(from, window.to), ..Held::default() };
        let mut movable: Vec<Movable> = Vec::new();
        let mut target = None;
        for (sequence, of) in window.iter().zip(&known).filter(|(_, of)| !of.is_skipped) {
            if movable.len() == most || target.is_some_and(|target| target != of.channel) {
                held.range.to = sequence;
                break;
            }
            target = Some(of.channel);
            movable.push(Movable { sequence, attempts: of.attempts, failures: of.failures, due: of.due });
        }
        held.channel = target.flatten().and_then(name_of).cloned();
        drop(state);
        self.read_into(&mut held, movable)?;
        Ok(Some(held))
    }

    /// Reads these messages. Ends before the first that has another form than those before, or did not fit.
    fn read_into(&self, held: &mut Held, movable: Vec<Movable>) -> Result<(), CannotRead> {
        let sequences: Vec<u64> = movable.iter().map(|message| message.sequence).collect();
        let (frames, result) = self.log.gather(&sequences);
        let read_to = frames.iter().last().map(|(sequence, _)| sequence);
        if read_to.is_none() {
            result?;
        }
        let mut frames = frames.iter().peekable();
        for message in movable {
            if read_to.is_some_and(|read_to| message.sequence > read_to) {
                held.range.to = message.sequence;
                break;
            }
            // One that is not there exists nowhere.
            let Some((_, frame)) = frames.next_if(|(sequence, _)| *sequence == message.sequence) else {
                continue;
            };
            let is_other = |(_, first): &(Movable, Vec<u8>)| has_headers(first) != has_headers(frame);
            if held.messages.first().is_some_and(is_other) {
                held.range.to = message.sequence;
                break;
            }
            held.messages.push((message, frame.to_vec()));
        }
        Ok(())
    }

    /// Removes messages that no channel has, because the other node has them. Waits until that is as durable as configured.
    /// Do not drop the future.
    pub async fn remove_held(&self, range: SequenceRange) -> Result<(), StorageError> {
        let SequenceRange { from, to } = range;
        let journal = self.engine.journal_for(self.name.is_ephemeral());
        let ticket = {
            let mut state = self.state.lock();
            if state.topic.point().released() != from {
                // They were emptied.
                return Ok(());
            }
            let record = Record::TopicSkipped { topic: self.number, from, to };
            let ticket = journal.map(|journal| journal.append(&record)).transpose()?;
            state.topic.skip(from, to);
            self.floor.store(to, std::sync::atomic::Ordering::Release);
            self.update_gauge(&state);
            ticket
        };
        self.log.trim();
        match journal.zip(ticket) {
            Some((journal, ticket)) => journal
                .commit(ticket)
                .await
                .map_err(|error| StorageError::of_commit(&error, "the messages may be there again")),
            None => Ok(()),
        }
    }

    /// The transfer of a channel's messages, or of those that no channel has, to this address. Continues one that is under
    /// way; otherwise begins one, which is not durable yet. With it comes the address of a transfer to another node that
    /// this one replaces.
    pub fn transfer_to(&self, channel: Option<&Channel>, target: &str) -> (TransferId, Option<String>) {
        let under_way = self.transfer(channel);
        match under_way {
            Some((transfer, to)) if to == target => (transfer, None),
            other => {
                let transfer = TransferId(fastrand::u128(1..));
                let mark = Value::Text(format!("{transfer} {target}"));
                self.change_own(channel, &Change::of([(Setting::MovingTo, mark)]));
                (transfer, other.map(|(_, to)| to))
            }
        }
    }

    /// The transfer that is under way, and its address.
    pub fn transfer(&self, channel: Option<&Channel>) -> Option<(TransferId, String)> {
        let own = channel.map_or_else(|| self.own_settings(), Channel::own_settings);
        transfer_in(&own)
    }

    /// The transfer is complete.
    pub fn forget_transfer(&self, channel: Option<&Channel>) {
        self.change_own(channel, &Change::removing(Setting::MovingTo));
    }

    fn change_own(&self, channel: Option<&Channel>, change: &Change) {
        // Only other settings can be refused.
        match channel {
            Some(channel) => _ = self.change_channel_settings(channel, change),
            None => _ = self.change_settings(change),
        }
    }
}

/// The transfer that these settings name.
fn transfer_in(own: &Settings) -> Option<(TransferId, String)> {
    let (transfer, target) = own.get(Setting::MovingTo)?.text().split_once(' ')?;
    Some((transfer.parse().ok()?, target.to_owned()))
}

/// What the marks say about the messages of `window`. Those of channels that do not exist any more are skipped.
fn known(window: SequenceRange, marks: &[Mark], exists: impl Fn(ChannelNumber) -> bool) -> Vec<Known> {
    let mut known = vec![Known::default(); window.len() as usize];
    for mark in marks {
        for sequence in mark.sequences().intersect(window).iter() {
            let of = &mut known[(sequence - window.from) as usize];
            match *mark {
                Mark::Skipped { .. } => of.is_skipped = true,
                Mark::Deferred { due, .. } => of.due = Some(due),
                Mark::Targeted { channel, .. } => of.channel = Some(channel),
                Mark::Adopted { channel, attempts, failures, due, .. } => {
                    *of = Known { channel: Some(channel), attempts, failures, due, ..*of };
                }
            }
            of.is_skipped |= of.channel.is_some_and(|channel| !exists(channel));
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_say_who_receives_a_held_message() {
        let (ours, gone) = (ChannelNumber(1), ChannelNumber(2));
        let marks = [
            Mark::Skipped { from: 8, to: 11 },
            Mark::Targeted { from: 11, to: 13, channel: ours },
            Mark::Adopted { from: 12, to: 13, channel: ours, attempts: 3, failures: 1, due: Some(9) },
            Mark::Targeted { from: 13, to: 14, channel: gone },
            Mark::Deferred { from: 14, to: 15, due: 7 },
        ];
        let known = known(SequenceRange::new(10, 16), &marks, |channel| channel == ours);
        let skipped: Vec<bool> = known.iter().map(|of| of.is_skipped).collect();
        assert_eq!(skipped, [true, false, false, true, false, false]);
        let channels: Vec<_> = known.iter().map(|of| of.channel).collect();
        assert_eq!(channels[1..3], [Some(ours); 2]);
        assert_eq!((known[2].attempts, known[2].failures, known[2].due), (3, 1, Some(9)));
        assert_eq!((known[4].due, known[5].due, known[5].channel), (Some(7), None, None));
    }

    #[test]
    fn a_transfer_is_read_from_the_settings() {
        let own = Settings::parse("moving_to=0000000000000000000000000000002a h:4151\n").0;
        assert_eq!(transfer_in(&own), Some((TransferId(42), "h:4151".to_owned())));
        assert_eq!(transfer_in(&Settings::parse("moving_to=nonsense\n").0), None);
        assert_eq!(transfer_in(&Settings::default()), None);
    }
}
