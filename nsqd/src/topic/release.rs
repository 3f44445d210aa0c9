//! Pure: how far a topic's messages have been released to its channels.
//!
//! ```text
//!   ... released | published, held back | being committed ...
//!                ^ release point        ^ committed       ^ end of the log
//! ```
//!
//! The release point follows what is committed, but stands still while the topic is paused, has no channel, or is
//! still being set up. The first channel starts at it: that is how messages published before any channel exist for
//! the first one only.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleasePoint {
    released: u64,
    committed: u64,
    paused: bool,
    has_channels: bool,
    starting: bool,
}

impl ReleasePoint {
    /// A topic whose messages before `released` were released and before `committed` published. `starting` holds
    /// everything back until [`ReleasePoint::started`].
    pub fn new(released: u64, committed: u64, paused: bool, starting: bool) -> Self {
        ReleasePoint { released, committed, paused, has_channels: false, starting }
    }

    /// Messages before `to` are committed.
    pub fn commit(&mut self, to: u64) {
        self.committed = self.committed.max(to);
    }

    /// What can be released now and was not: from, to.
    pub fn advance(&mut self) -> Option<(u64, u64)> {
        if !self.is_releasing() || self.released >= self.committed {
            return None;
        }
        let from = std::mem::replace(&mut self.released, self.committed);
        Some((from, self.committed))
    }

    /// Whether messages go to channels as soon as they are committed.
    pub fn is_releasing(&self) -> bool {
        self.has_channels && !self.paused && !self.starting
    }

    /// Drops what is held back; returns it: from, to.
    pub fn empty(&mut self) -> (u64, u64) {
        (std::mem::replace(&mut self.released, self.committed), self.committed)
    }

    /// Pause or unpause.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Whether there is a channel to release to.
    pub fn set_has_channels(&mut self, has_channels: bool) {
        self.has_channels = has_channels;
    }

    /// The topic is set up.
    pub fn started(&mut self) {
        self.starting = false;
    }

    /// The release point.
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
    fn stands_still_without_a_channel_while_paused_and_while_starting() {
        let mut point = ReleasePoint::new(5, 5, false, true);
        point.commit(8);
        assert_eq!(point.advance(), None);
        point.set_has_channels(true);
        assert_eq!(point.advance(), None);
        point.started();
        assert_eq!(point.advance(), Some((5, 8)));
        assert_eq!(point.advance(), None);
        point.set_paused(true);
        point.commit(9);
        point.commit(7);
        assert_eq!(point.advance(), None);
        assert_eq!(point.empty(), (8, 9));
        point.set_paused(false);
        assert_eq!(point.advance(), None);
        point.commit(10);
        assert_eq!(point.advance(), Some((9, 10)));
    }
}
