//! Pure: what a topic's journal records mean: its release point, channels and retention.
//!
//! A running topic and recovery change a topic only through [`TopicState`], so each record has one meaning. A running
//! topic makes a change and records it; recovery reads the record and makes the same change. Recovery may read records
//! that the checkpoint already contains, so a change that moves the release point to a place where it has been has no
//! effect. The records of a channel have their meaning in [`crate::channel::ChannelState`].

use std::collections::BTreeMap;
use std::sync::Arc;

use super::release::ReleasePoint;
use crate::channel::Channel;
use crate::clock::Nanos;
use crate::log::retention::Retention;
use crate::log::{Mark, TopicLog};
use crate::policy::settings::Settings;
use crate::storage::{ChannelNumber, SequenceRange};

/// A channel, as its topic sees it: it follows the release point.
pub trait Follower {
    /// The channel's number in records.
    fn number(&self) -> ChannelNumber;

    /// Adds the messages before `to`. `marks` are those that are not handed out in order. Changes nothing for messages
    /// that the channel already has.
    fn release(&mut self, to: u64, marks: &[Mark]);

    /// Messages that were published deferred and are not due, with their due times, in any order.
    fn published_deferred(&self) -> Vec<(u64, Nanos)>;
}

impl Follower for Arc<Channel> {
    fn number(&self) -> ChannelNumber {
        Channel::number(self)
    }

    fn release(&mut self, to: u64, marks: &[Mark]) {
        Channel::release(self, to, marks);
    }

    fn published_deferred(&self) -> Vec<(u64, Nanos)> {
        self.inspect(|state, _| state.published_deferred())
    }
}

/// The state of a topic, with channels `C` by key `K`; see the module. Every method that moves the release point also
/// releases to all channels: the end of each channel is the release point.
pub struct TopicState<K, C> {
    log: Arc<TopicLog>,
    point: ReleasePoint,
    channels: BTreeMap<K, C>,
    own: Settings,
}

impl<K: Ord, C: Follower> TopicState<K, C> {
    /// A topic without channels. `own` are its own settings.
    pub fn new(log: Arc<TopicLog>, point: ReleasePoint, own: Settings) -> Self {
        TopicState { log, point, channels: BTreeMap::new(), own }
    }

    pub fn log(&self) -> &Arc<TopicLog> {
        &self.log
    }

    pub fn point(&self) -> &ReleasePoint {
        &self.point
    }

    pub fn channels(&self) -> &BTreeMap<K, C> {
        &self.channels
    }

    pub fn channel_mut(&mut self, key: &K) -> Option<&mut C> {
        self.channels.get_mut(key)
    }

    /// The topic's own settings.
    pub fn own(&self) -> &Settings {
        &self.own
    }

    /// Publish: the messages before `to` are durable. Releases them, unless the topic holds them back. Returns the new
    /// release point if it moved.
    pub fn commit(&mut self, to: u64) -> Option<u64> {
        self.point.commit(to);
        self.advance()
    }

    /// Releases all committed messages, unless the topic holds them back. Returns the new release point if it moved.
    pub fn advance(&mut self) -> Option<u64> {
        let SequenceRange { to, .. } = self.point.advance()?;
        self.release(to);
        Some(to)
    }

    /// TopicState: pauses or resumes releasing. [`TopicState::advance`] must follow.
    pub fn set_paused(&mut self, paused: bool) {
        self.point.set_paused(paused);
    }

    /// A drain moves the messages that are held back to another node. [`TopicState::advance`] must follow.
    pub fn set_moving_out(&mut self, moving_out: bool) {
        self.point.set_moving_out(moving_out);
    }

    /// TopicSkipped: the messages `from..to`, which no channel has received, are dropped.
    pub fn skip(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        self.log.take_marks(to);
        self.log.add_void(from, to);
        self.point.reach(to);
        for channel in self.channels.values_mut() {
            channel.release(to, &[Mark::Skipped { from, to }]);
        }
    }

    /// TopicSettings: replaces the topic's own settings. [`TopicState::set_retention`] must follow.
    pub fn set_own(&mut self, own: Settings) {
        self.own = own;
    }

    /// TopicRetention: finished messages from `from` on are retained, or from a later one if earlier ones were deleted
    /// already. `retention` are the limits in force.
    pub fn set_retention(&mut self, retention: Retention, from: u64) {
        let was_retaining = self.log.is_retaining();
        self.log.set_retention(retention, from);
        if !was_retaining {
            self.remember_deferred();
        }
    }

    /// Records in the log which messages were published deferred while nothing was retained: channels that reach them
    /// later must know their due times.
    fn remember_deferred(&self) {
        for (sequence, due) in self.channels.values().flat_map(C::published_deferred) {
            self.log.add_deferred(sequence, sequence + 1, due);
        }
        for mark in self.log.marks() {
            if let Mark::Deferred { from, to, due } = mark {
                self.log.add_deferred(from, to, due);
            }
        }
    }

    /// ChannelCreated: adds a channel whose end is the release point. Messages are released once
    /// [`TopicState::set_has_channels`] is called: a channel that is not durable yet may have to be removed again.
    pub fn insert(&mut self, key: K, channel: C) {
        self.channels.insert(key, channel);
    }

    /// Allows releasing messages, because there is a channel that stays. [`TopicState::advance`] must follow.
    pub fn set_has_channels(&mut self) {
        self.point.set_has_channels(true);
    }

    /// ChannelDeleted: removes a channel. Without channels, the topic holds its messages back.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<C>
    where
        K: std::borrow::Borrow<Q>,
    {
        let removed = self.channels.remove(key);
        if self.channels.is_empty() {
            self.point.set_has_channels(false);
        }
        removed
    }

    /// Removes all channels of a deleted topic, or of one whose recovery is complete.
    pub fn take_channels(&mut self) -> BTreeMap<K, C> {
        self.point.set_has_channels(false);
        std::mem::take(&mut self.channels)
    }

    /// Ends the setup of the topic. [`TopicState::advance`] must follow.
    pub fn started(&mut self) {
        self.point.started();
    }

    /// For recovery: a record shows that all messages before `to` were released, even if the topic seems to hold them
    /// back.
    pub fn reach(&mut self, to: u64) {
        if to > self.point.released() {
            self.point.reach(to);
            self.release(to);
        }
    }

    /// For recovery: a record shows that no message from `from` on was released. Only for a topic without channels.
    pub fn hold_back(&mut self, from: u64) {
        self.point.hold_back(from);
    }

    fn release(&mut self, to: u64) {
        let marks = self.log.take_marks(to);
        let is_same_for_all = !marks.iter().any(Mark::is_of_one_channel);
        for channel in self.channels.values_mut() {
            if is_same_for_all {
                channel.release(to, &marks);
            } else {
                let number = Some(channel.number());
                let own: Vec<Mark> = marks.iter().filter_map(|mark| mark.for_channel(number)).collect();
                channel.release(to, &own);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogContext;
    use crate::log::index::{LogIndex, MemoryBound};
    use crate::storage::faulty::FaultyStorage;
    use crate::storage::segment::SegmentStore;

    /// Remembers what it received.
    #[derive(Default)]
    struct Received {
        number: ChannelNumber,
        end: u64,
        marks: Vec<Mark>,
    }

    impl Follower for Received {
        fn number(&self) -> ChannelNumber {
            self.number
        }

        fn release(&mut self, to: u64, marks: &[Mark]) {
            self.end = self.end.max(to);
            self.marks.extend_from_slice(marks);
        }

        fn published_deferred(&self) -> Vec<(u64, Nanos)> {
            Vec::new()
        }
    }

    /// A topic with a channel `c` and ten messages that are not committed.
    fn topic() -> TopicState<&'static str, Received> {
        let bound = MemoryBound { messages: 1000, bytes: 1 << 20, chunk_bytes: 1 << 20 };
        let segments = SegmentStore::new(Arc::new(FaultyStorage::default()), "/d/t", 1 << 20);
        let log = Arc::new(TopicLog::new(LogIndex::new(10, 0, bound), segments, "t", LogContext::default()));
        let mut topic = TopicState::new(log, ReleasePoint::new(0, 0, false, false), Settings::default());
        topic.insert("c", Received::default());
        topic.set_has_channels();
        topic
    }

    fn received<'a>(topic: &'a TopicState<&'static str, Received>) -> (u64, &'a [Mark]) {
        let received = &topic.channels()["c"];
        (received.end, &received.marks)
    }

    #[test]
    fn release_passes_only_marks_before_its_end() {
        let mut topic = topic();
        topic.log().mark(Mark::Skipped { from: 8, to: 9 });
        topic.log().mark(Mark::Deferred { from: 3, to: 6, due: 7 });
        assert_eq!(topic.commit(4), Some(4));
        assert_eq!(received(&topic), (4, &[Mark::Deferred { from: 3, to: 4, due: 7 }][..]));
        assert_eq!(topic.commit(4), None);
        assert_eq!(topic.commit(10), Some(10));
        let rest = [Mark::Deferred { from: 4, to: 6, due: 7 }, Mark::Skipped { from: 8, to: 9 }];
        assert_eq!((received(&topic).0, &received(&topic).1[1..]), (10, &rest[..]));
    }

    #[test]
    fn skipping_and_reaching_release_to_all_channels_even_while_paused() {
        let mut topic = topic();
        topic.set_paused(true);
        assert_eq!(topic.commit(4), None);
        assert_eq!(received(&topic).0, 0);
        topic.log().mark(Mark::Deferred { from: 2, to: 3, due: 7 });
        topic.skip(0, 4);
        assert_eq!(received(&topic), (4, &[Mark::Skipped { from: 0, to: 4 }][..]));
        assert_eq!(topic.log().void(), [SequenceRange::new(0, 4)]);
        topic.reach(6);
        assert_eq!((received(&topic).0, topic.point().released()), (6, 6));
        // Recovery may read records from before a checkpoint again.
        topic.reach(5);
        assert_eq!((received(&topic).0, topic.point().released()), (6, 6));
    }

    #[test]
    fn targeted_messages_reach_one_channel() {
        let mut topic = topic();
        topic.insert("d", Received { number: ChannelNumber(2), ..Received::default() });
        topic.log().mark(Mark::Targeted { from: 2, to: 5, channel: ChannelNumber(2) });
        topic.commit(10);
        assert_eq!(received(&topic), (10, &[Mark::Skipped { from: 2, to: 5 }][..]));
        assert_eq!((topic.channels()["d"].end, &topic.channels()["d"].marks[..]), (10, &[][..]));
        // A channel that reaches them later.
        let later = |channel| topic.log().void_marks_between(0, 10, channel);
        assert_eq!(later(None), [Mark::Skipped { from: 2, to: 5 }]);
        assert_eq!(later(Some(ChannelNumber(2))), []);
    }

    #[test]
    fn topic_without_channels_holds_messages_back() {
        let mut topic = topic();
        assert!(topic.remove("c").is_some());
        assert_eq!(topic.commit(4), None);
        assert_eq!((topic.point().released(), topic.point().committed()), (0, 4));
    }
}
