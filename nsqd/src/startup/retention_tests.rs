//! The part of the engine model for retention: channels that are moved or start in the past, and retained messages.

use std::collections::BTreeSet;
use std::sync::Arc;

use nsq_protocol::{ChannelName, StartAt};

use super::engine_tests::{CHANNELS, ModelChannel, World, messages};
use crate::channel::Channel;
use crate::log::Mark;
use crate::log::retention::Retention;
use crate::topic::retention::RetentionError;

/// The first retained message; `None` if nothing is retained.
pub(super) type RetainedFrom = Option<u64>;

impl ModelChannel {
    /// Whether the message was in flight when the channel was moved forward over it. It must not be delivered again.
    pub(super) fn dropped(&self, number: u64) -> bool {
        !self.recalled.contains(&number) && !self.needed.contains(&number) && !self.maybe.contains(&number)
    }
}

impl World {
    /// The sequence number at `share`/255 of all published messages.
    fn at_share(&self, share: u8) -> u64 {
        let (Some((&first, _)), Some((&last, _))) =
            (self.published.first_key_value(), self.published.last_key_value())
        else {
            return 0;
        };
        first + (last + 1 - first) * u64::from(share) / 255
    }

    /// The messages from `from` on that were released to channels, by sequence number.
    fn released_from(&self, from: u64) -> BTreeSet<u64> {
        let published = self.published.range(from..).map(|(_, &number)| number);
        published.filter(|number| !self.held.contains(number)).collect()
    }

    pub(super) fn move_channel(&mut self, pick: u8, share: u8) {
        let Some((name, channel, _)) = self.pick(pick) else { return };
        let (topic, place) = (self.topic(), self.at_share(share));
        let (before, end) = channel.inspect(|state, _| (state.cursor(), state.end()));
        let moved = self.runtime.block_on(topic.move_channel(&channel, StartAt::Sequence(place)));
        self.flush();
        if !topic.log().is_retaining() && place < before {
            assert_eq!(moved.unwrap_err(), RetentionError::NothingRetained);
            return;
        }
        let (placed, depth) = moved.unwrap();
        assert!(placed.sequence <= channel.inspect(|state, _| state.cursor()));
        let oldest = topic.log().oldest_retained();
        let (again, over) = (self.released_from(placed.sequence), self.published.range(..placed.sequence));
        let over: BTreeSet<u64> =
            over.chain(self.gone.range(..placed.sequence)).map(|(_, &number)| number).collect();
        let gone: BTreeSet<u64> = self.gone.range(placed.sequence..).map(|(_, &number)| number).collect();
        let model = self.model.get_mut(&name).unwrap();
        if place > before || place >= end {
            assert_eq!(placed.sequence, place.min(end));
            model.needed.retain(|number| !over.contains(number));
            model.maybe.retain(|number| !over.contains(number));
            model.recalled.retain(|number| !over.contains(number));
        } else {
            assert_eq!(placed.sequence, place.max(oldest.min(before)));
            model.maybe.retain(|number| !again.contains(number));
            model.maybe.extend(gone);
            model.recalled.extend(model.in_flight.values().filter(|number| again.contains(number)));
            model.needed.extend(again);
            let all_that_can_come = model.needed.len() + model.maybe.len();
            assert!(depth as usize <= all_that_can_come, "depth {depth} of {all_that_can_come}");
        }
    }

    pub(super) fn channel_at(&mut self, pick: u8, share: u8) {
        let name = ChannelName::new(format!("c{}", pick as usize % CHANNELS)).unwrap();
        if self.consumers.contains_key(name.as_str()) {
            return;
        }
        let (topic, place) = (self.topic(), self.at_share(share));
        let is_first = self.model.is_empty();
        let made = self.runtime.block_on(topic.get_or_create_channel_at(&name, StartAt::Sequence(place)));
        let channel: Arc<Channel> = made.unwrap();
        // A deferred message at the very start is already behind the cursor.
        let from = channel.inspect(|state, _| state.lowest_needed());
        let mut model = ModelChannel::default();
        if topic.log().is_retaining() {
            model.needed = self.released_from(from);
            model.maybe.extend(self.gone.range(from..).map(|(_, &number)| number));
        }
        self.subscribe(channel);
        self.model.insert(name.to_string(), model);
        if is_first || !self.held.is_empty() {
            self.release();
        }
    }

    /// Retains this many bytes from now on; 0 for the setting of the flags.
    pub(super) fn retain(&mut self, bytes: u64) {
        let topic = self.topic();
        let was_retaining = topic.log().is_retaining();
        topic.set_retention((bytes > 0).then_some(Retention { age: 0, bytes })).unwrap();
        self.flush();
        if !was_retaining && topic.log().is_retaining() {
            self.forget_deleted_messages();
        }
        topic.retain().unwrap();
        self.flush();
        if bytes > 0 {
            let retained = topic.log().retained().unwrap();
            let biggest_batch = 40 * 500;
            assert!(retained.bytes <= bytes + biggest_batch, "{retained:?} of {bytes} bytes");
        }
    }

    /// Messages finished before retention was set may be missing here and there. No others may be missing.
    fn forget_deleted_messages(&mut self) {
        let log = self.topic().log().clone();
        for mark in log.marks_between(log.oldest_retained(), log.end(), None) {
            let Mark::Skipped { from, to } = mark else { continue };
            for (sequence, number) in self.published.extract_if(from..to, |_, _| true) {
                self.gone.insert(sequence, number);
                let is_needed = self.model.values().any(|model| model.needed.contains(&number));
                assert!(!is_needed && !self.held.contains(&number), "{number} is needed and gone");
            }
        }
    }

    /// The first retained message.
    pub(super) fn retained_from(&self) -> RetainedFrom {
        let log = self.topic().log().clone();
        log.is_retaining().then(|| log.oldest_retained())
    }

    /// Checks after a start that retained messages are still retained.
    pub(super) fn still_retains(&self, retained_from: RetainedFrom) {
        let Some(from) = retained_from else { return };
        let retained = self.topic().log().retained().expect("it retains nothing");
        let expected = self.published.range(from..).count() as u64;
        assert!(retained.message_count >= expected, "{retained:?}, but {expected} from {from} on");
    }

    /// A new channel that starts at the oldest message gets all retained messages, complete and in order.
    pub(super) fn all_retained_messages_are_delivered(&mut self) {
        let Some(from) = self.retained_from() else { return };
        let topic = self.topic();
        let name = ChannelName::new("retained#ephemeral").unwrap();
        let made = self.runtime.block_on(topic.get_or_create_channel_at(&name, StartAt::Earliest));
        let channel = made.unwrap();
        self.subscribe(channel);
        let (channel, key) = self.consumers.remove(name.as_str()).unwrap();
        let mut came = Vec::new();
        loop {
            crate::timers::Expire::expire(&*channel, u64::MAX / 2);
            let mut out = Vec::new();
            self.take_into(&channel, key, &mut out, 1 << 20);
            if out.is_empty() {
                break;
            }
            let mut run = channel.acknowledge(key);
            for (sequence, number) in messages(&out) {
                run.finish(sequence).unwrap();
                came.push((sequence, number));
            }
        }
        came.sort_unstable();
        // The first channel of a topic gets what was held back for it, even if that is older.
        let from = came.first().map_or(from, |&(sequence, _)| sequence.min(from));
        came.retain(|(sequence, number)| self.gone.get(sequence) != Some(number));
        let expected: Vec<(u64, u64)> = self.published.range(from..).map(|(&s, &n)| (s, n)).collect();
        assert_eq!(came, expected, "all retained messages from {from} on");
        topic.delete_channel(name.as_str());
    }
}
