//! Pure: how far a topic's messages have been released to its channels.
//!
//! ```text
//!   ... released | published, held back | being committed ...
//!                ^ release point        ^ committed       ^ end of the log
//! ```
//!
//! The release point follows the committed messages, except while the topic is paused, has no channel, or is being set
//! up. The first channel starts at the release point, so messages published before any channel exist for the first one
//! only.

use crate::storage::SequenceRange;
/// The release point of a topic; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasePoint {
    released: u64,
    committed: u64,
    paused: bool,
    has_channels: bool,
    starting: bool,
    moving_out: bool,
}

impl ReleasePoint {
    /// For a topic whose messages before `released` are released and those before `committed` are committed. `starting`
    /// holds all messages back until [`ReleasePoint::started`].
    pub fn new(released: u64, committed: u64, paused: bool, starting: bool) -> Self {
        ReleasePoint { released, committed, paused, has_channels: false, starting, moving_out: false }
    }

    /// Records that messages before `to` are committed.
    pub fn commit(&mut self, to: u64) {
        self.committed = self.committed.max(to);
    }

    /// Releases all committed messages, unless they are held back. Returns the range released now: from, to.
    pub fn advance(&mut self) -> Option<SequenceRange> {
        if !self.is_releasing() || self.released >= self.committed {
            return None;
        }
        let from = std::mem::replace(&mut self.released, self.committed);
        Some(SequenceRange::new(from, self.committed))
    }

    /// Whether messages are released as soon as they are committed.
    pub fn is_releasing(&self) -> bool {
        self.has_channels && !self.paused && !self.starting && !self.moving_out
    }

    /// Sets whether a drain moves the messages that are held back to another node.
    pub fn set_moving_out(&mut self, moving_out: bool) {
        self.moving_out = moving_out;
    }

    /// Moves the release point to `to`, if that is later, even if messages are held back.
    pub fn reach(&mut self, to: u64) {
        self.commit(to);
        self.released = self.released.max(to);
    }

    /// Moves the release point back to `from`, if that is earlier.
    pub fn hold_back(&mut self, from: u64) {
        self.released = self.released.min(from);
    }

    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Sets whether there is a channel to release to.
    pub fn set_has_channels(&mut self, has_channels: bool) {
        self.has_channels = has_channels;
    }

    /// Ends the setup of the topic.
    pub fn started(&mut self) {
        self.starting = false;
    }

    /// The release point: one past the last released message.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// One past the last committed message.
    pub fn committed(&self) -> u64 {
        self.committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_without_a_channel_while_paused_moving_out_and_starting() {
        let mut point = ReleasePoint::new(5, 5, false, true);
        point.commit(8);
        assert_eq!(point.advance(), None);
        point.set_has_channels(true);
        assert_eq!(point.advance(), None);
        point.started();
        assert_eq!(point.advance(), Some(SequenceRange::new(5, 8)));
        assert_eq!(point.advance(), None);
        point.set_paused(true);
        point.commit(9);
        point.commit(7);
        assert_eq!(point.advance(), None);
        point.reach(9);
        assert_eq!((point.released(), point.committed()), (9, 9));
        point.set_paused(false);
        assert_eq!(point.advance(), None);
        point.commit(10);
        point.set_moving_out(true);
        assert_eq!(point.advance(), None);
        point.set_moving_out(false);
        assert_eq!(point.advance(), Some(SequenceRange::one(9)));
    }
}
