//! Counts what a drain waits for.

use super::Topic;
use super::dead_lettering::REDRIVE_CHANNEL;
use super::registry::Registry;
use crate::channel::Channel;
use crate::engine::draining::Remaining;
use crate::log::Mark;

impl Registry {
    /// What is left in all topics. Takes some microseconds for each channel.
    pub fn remaining(&self) -> Remaining {
        let mut sum = Remaining { redrives: self.running_redrives() as u64, ..Remaining::default() };
        self.all_unsorted().iter().for_each(|topic| topic.add_remaining(&mut sum));
        sum
    }
}

impl Topic {
    fn add_remaining(&self, sum: &mut Remaining) {
        // Before the channels are counted: a message that is released meanwhile counts twice, not never.
        let (unreleased, channels) = (self.unreleased_count(), self.channels());
        if channels.is_empty() {
            sum.held += unreleased;
            return;
        }
        sum.messages += unreleased;
        let holds_dead_letters = self.own_settings().is_of_dead_letters();
        for channel in channels {
            self.add_channel(&channel, holds_dead_letters, sum);
        }
    }

    fn add_channel(&self, channel: &Channel, holds_dead_letters: bool, sum: &mut Remaining) {
        channel.inspect(|state, _| {
            let count = state.unfinished_count();
            let is_held = holds_dead_letters
                && channel.name().as_str() == REDRIVE_CHANNEL
                && state.consumers().is_empty()
                && state.in_flight_count() == 0;
            if is_held {
                sum.held += count;
                return;
            }
            sum.messages += count;
            sum.channels += u64::from(count > 0);
            sum.in_flight += state.in_flight_count() as u64;
            sum.deferred += state.deferred_count() as u64;
        });
    }

    /// Messages that no channel has received yet, including those whose publish is not acknowledged.
    pub fn unreleased_count(&self) -> u64 {
        let released = self.state.lock().topic.point().released();
        self.log.with_marks_and_end(|marks, end| {
            let skipped = marks.iter().map(|mark| match *mark {
                Mark::Skipped { from, to } => to.min(end).saturating_sub(from.max(released)),
                Mark::Deferred { .. } | Mark::Targeted { .. } | Mark::Adopted { .. } => 0,
            });
            end.saturating_sub(released).saturating_sub(skipped.sum())
        })
    }
}
