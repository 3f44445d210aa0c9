//! Pure: which messages of a replayed topic are needed and missing in its log.

use super::replayed_topic::ReplayedTopic;
use crate::log::retention::{gaps, merged};

/// Maximum number of missing messages reported per gap and channel.
const MOST_ABSENT: usize = 100_000;

impl ReplayedTopic {
    /// Needed messages that are missing from the log but are in the journal.
    pub fn restorable(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        for (from, to) in self.log().gaps() {
            let overlaps = self
                .segments
                .iter()
                .map(|(first, end)| (first.max(from), end.min(to)))
                .filter(|(f, t)| f < t);
            found.extend(overlaps.filter(|&(from, to)| self.needs_any(from, to)));
        }
        found
    }

    /// Needed messages that were in a damaged block.
    pub fn lost(&self) -> Vec<(u64, u64)> {
        self.log().damaged().into_iter().filter(|&(from, to)| self.needs_any(from, to)).collect()
    }

    /// Messages that are needed, as far as is known, and are missing without an explanation.
    pub fn absent(&self) -> Vec<(u64, u64)> {
        let mut absent = Vec::new();
        let (log, released) = (self.log(), self.state.point().released());
        let (lowest_needed, damaged) = (self.lowest_needed(), log.damaged());
        for (from, to) in log.gaps().into_iter().chain([(log.end(), self.end)]) {
            let (from, to) = (from.max(lowest_needed), to.min(self.end));
            if from >= to {
                continue;
            }
            let mut explained = damaged.clone();
            // Neither a deferral nor a target explains why a message is missing.
            let void = log.void().into_iter().map(|(start, end)| (start.max(from), end.min(to)));
            explained.extend(void.filter(|(from, to)| from < to));
            let mut needed: Vec<(u64, u64)> = (self.state.channels().values())
                .flat_map(|channel| channel.state.needed(from, to, MOST_ABSENT))
                .collect();
            needed.extend((released < to).then_some((released.max(from), to)));
            for (from, to) in merged(needed) {
                absent.extend(gaps(from, to, merged(explained.clone())));
            }
        }
        absent
    }

    fn needs_any(&self, from: u64, to: u64) -> bool {
        to > self.state.point().released()
            || to > self.log().retained_from()
            || self.state.channels().values().any(|channel| channel.state.needs_any(from, to))
    }
}
