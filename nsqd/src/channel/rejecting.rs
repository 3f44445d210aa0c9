//! Pure: REJ, which sets a message aside to become a dead letter, and what consumers said about it.
//!
//! That a message is rejected is known in memory only, until it is a dead letter. A start in between delivers it again, as
//! any message in flight.

use std::collections::BTreeMap;

use super::consumers::ConsumerKey;
use super::outstanding::Recall;
use super::state::{AckError, ChannelState};
use crate::policy::dead_letter::Reason;

/// Maximum bytes of the errors that a channel keeps. Messages that are rejected beyond it have none.
const MAX_ERROR_BYTES: usize = 4 << 20;

/// What consumers said about rejected messages, until these are dead letters. Bounded in bytes.
#[derive(Debug, Default)]
pub struct Rejections {
    errors: BTreeMap<u64, Box<str>>,
    /// Sum of their lengths.
    bytes: usize,
}

impl Rejections {
    /// Keeps the error of a message, unless it is empty or there is no room.
    fn insert(&mut self, sequence: u64, error: &str) {
        self.remove(sequence);
        if !error.is_empty() && self.bytes + error.len() <= MAX_ERROR_BYTES {
            self.bytes += error.len();
            self.errors.insert(sequence, error.into());
        }
    }

    pub(super) fn remove(&mut self, sequence: u64) {
        if let Some(error) = self.errors.remove(&sequence) {
            self.bytes -= error.len();
        }
    }

    /// Forgets the errors of messages for which `is_kept` returns false.
    pub(super) fn retain(&mut self, is_kept: impl Fn(u64) -> bool) {
        let bytes = &mut self.bytes;
        self.errors.retain(|&sequence, error| {
            let is_kept = is_kept(sequence);
            *bytes -= if is_kept { 0 } else { error.len() };
            is_kept
        });
    }
}

impl ChannelState {
    /// REJ: sets a message in flight to this consumer aside to become a dead letter. `error` is what the consumer says about
    /// it; empty for nothing. If the cursor was moved over the message in flight, that decides what becomes of it.
    pub fn reject(&mut self, key: ConsumerKey, sequence: u64, error: &str) -> Result<(), AckError> {
        let slot = self.owned(key, sequence)?;
        if self.policy.dead_letter.is_none() {
            return Err(AckError::NoDeadLetterTopic);
        }
        self.leave_flight(slot, |_| {});
        if self.outstanding.entry(slot).recall != Recall::No {
            self.come_back(slot);
            return Ok(());
        }
        self.exhaust(slot, Reason::Rejected);
        self.departures.rejections.insert(sequence, error);
        Ok(())
    }

    /// What a consumer said about a message that it rejected.
    pub fn error_of(&self, sequence: u64) -> Option<&str> {
        self.departures.rejections.errors.get(&sequence).map(|error| &**error)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn errors_behave_like_a_map_and_are_bounded(
            steps in prop::collection::vec((0u64..30, 0usize..1200, 0u8..4), 1..200),
        ) {
            let (mut rejections, mut model) = (Rejections::default(), BTreeMap::new());
            for (sequence, length, action) in steps {
                match action {
                    0 => {
                        rejections.remove(sequence);
                        model.remove(&sequence);
                    }
                    1 => {
                        rejections.retain(|kept| kept >= sequence / 2);
                        model.retain(|&kept, _| kept >= sequence / 2);
                    }
                    _ => {
                        rejections.insert(sequence, &"x".repeat(length));
                        model.remove(&sequence);
                        if length > 0 {
                            model.insert(sequence, length);
                        }
                    }
                }
                prop_assert_eq!(rejections.bytes, model.values().sum::<usize>());
                let kept: BTreeMap<u64, usize> =
                    rejections.errors.iter().map(|(&sequence, error)| (sequence, error.len())).collect();
                prop_assert_eq!(&kept, &model);
            }
        }
    }

    #[test]
    fn errors_beyond_the_limit_are_not_kept() {
        let (mut rejections, error) = (Rejections::default(), "x".repeat(1024));
        let most = (MAX_ERROR_BYTES / error.len()) as u64;
        (0..most + 5).for_each(|sequence| rejections.insert(sequence, &error));
        assert_eq!((rejections.bytes, rejections.errors.len() as u64), (MAX_ERROR_BYTES, most));
        rejections.remove(0);
        rejections.insert(most, &error);
        assert!(rejections.errors.contains_key(&most));
    }
}
