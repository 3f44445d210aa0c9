//! Pure: why messages left a channel recently, otherwise than by a FIN. Bounded: the oldest are forgotten first.

use std::collections::VecDeque;

use crate::storage::SequenceRange;

/// Maximum number of ranges that a channel remembers.
const MOST: usize = 512;

/// Why messages are not in a channel any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Expired,
    /// The channel held too many.
    Overflow,
    /// They did not match the filter.
    Filtered,
    DeadLettered,
    /// They were moved to another topic, or deleted from a dead-letter topic.
    MovedAway,
    Cancelled,
    /// The channel was emptied.
    Emptied,
    /// The read cursor was moved forward over them.
    Skipped,
    /// An ephemeral topic or channel had no room for them.
    NoRoom,
    /// They could not be read from disk.
    Lost,
}

/// See the module. Forgotten at a restart.
#[derive(Debug, Default)]
pub struct Fates {
    ranges: VecDeque<(SequenceRange, Fate)>,
}

impl Fates {
    /// Remembers why these messages left.
    pub fn note(&mut self, range: SequenceRange, fate: Fate) {
        if range.is_empty() {
            return;
        }
        if let Some((newest, of_newest)) = self.ranges.back_mut()
            && *of_newest == fate
            && newest.to == range.from
        {
            newest.to = range.to;
            return;
        }
        if self.ranges.len() >= MOST {
            self.ranges.pop_front();
        }
        self.ranges.push_back((range, fate));
    }

    /// Why a message that is not in the channel left last, if that is still known.
    pub fn of(&self, sequence: u64) -> Option<Fate> {
        let newest_first = self.ranges.iter().rev();
        newest_first.filter(|(range, _)| range.contains(sequence)).map(|(_, fate)| *fate).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_fate_counts_and_neighbours_take_one_place() {
        let mut fates = Fates::default();
        for sequence in 0..100_000 {
            fates.note(SequenceRange::one(sequence), Fate::Filtered);
        }
        assert_eq!(fates.ranges.len(), 1);
        fates.note(SequenceRange::new(50, 60), Fate::Cancelled);
        fates.note(SequenceRange::new(60, 60), Fate::Lost);
        let of = [49, 50, 59, 60, 100_000].map(|sequence| fates.of(sequence));
        let filtered = Some(Fate::Filtered);
        assert_eq!(of, [filtered, Some(Fate::Cancelled), Some(Fate::Cancelled), filtered, None]);
    }

    #[test]
    fn only_the_newest_ranges_are_remembered() {
        let mut fates = Fates::default();
        let most = MOST as u64;
        (0..most + 3).for_each(|number| fates.note(SequenceRange::one(2 * number), Fate::Expired));
        assert_eq!(fates.ranges.len(), MOST);
        assert_eq!((fates.of(4), fates.of(6)), (None, Some(Fate::Expired)));
    }
}
