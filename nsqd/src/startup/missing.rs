//! Pure: which messages of a replayed topic are needed and missing in its log.

use super::replayed_topic::ReplayedTopic;
use crate::log::retention::{gaps, merged};
use crate::storage::SequenceRange;

/// Maximum number of missing messages reported per gap and channel.
const MOST_ABSENT: usize = 100_000;

impl ReplayedTopic {
    /// Needed messages that are missing from the log but are in the journal.
    pub fn restorable(&self) -> Vec<SequenceRange> {
        let mut found = Vec::new();
        for gap in self.log().gaps() {
            let overlaps = self.segments.iter().map(|range| range.intersect(gap));
            found.extend(overlaps.filter(|missing| !missing.is_empty() && self.needs_any(*missing)));
        }
        found
    }

    /// Needed messages that were in a damaged block.
    pub fn lost(&self) -> Vec<SequenceRange> {
        self.log().damaged().into_iter().filter(|range| self.needs_any(*range)).collect()
    }

    /// Messages that are needed, as far as is known, and are missing without an explanation.
    pub fn absent(&self) -> Vec<SequenceRange> {
        let mut absent = Vec::new();
        let (log, released) = (self.log(), self.state.point().released());
        let (lowest_needed, damaged) = (self.lowest_needed(), log.damaged());
        for gap in log.gaps().into_iter().chain([SequenceRange::new(log.end(), self.end)]) {
            let gap = gap.intersect(SequenceRange::new(lowest_needed, self.end));
            if gap.is_empty() {
                continue;
            }
            let mut explained = damaged.clone();
            // Neither a deferral nor a target explains why a message is missing.
            let void = log.void().into_iter().map(|void| void.intersect(gap));
            explained.extend(void.filter(|void| !void.is_empty()));
            let mut needed: Vec<SequenceRange> = (self.state.channels().values())
                .flat_map(|channel| channel.state.needed(gap.from, gap.to, MOST_ABSENT))
                .collect();
            let unreleased = SequenceRange::new(released.max(gap.from), gap.to);
            needed.extend((!unreleased.is_empty()).then_some(unreleased));
            for range in merged(needed) {
                absent.extend(gaps(range, merged(explained.clone())));
            }
        }
        absent
    }

    fn needs_any(&self, SequenceRange { from, to }: SequenceRange) -> bool {
        to > self.state.point().released()
            || to > self.log().retained_from()
            || self.state.channels().values().any(|channel| channel.state.needs_any(from, to))
    }
}
