//! Pure: how much a channel holds, and removing what exceeds its bound.

use super::outstanding::Place;
use super::state::ChannelState;
use crate::log::sizes::{Amount, Sizes};
use crate::policy::bounds::{Bound, IdleExpiry};
use crate::policy::dead_letter::Reason;

/// Maximum number of messages whose sizes are looked up for those that are not ahead.
const SAMPLE: usize = 256;

impl ChannelState {
    /// How much the channel may hold.
    pub fn bound(&self) -> Bound {
        self.policy.bound
    }

    /// Whether messages beyond the bound are removed.
    #[inline]
    pub fn sheds(&self) -> bool {
        self.policy.bound.sheds()
    }

    /// What happens to the channel when it has no consumer for a while.
    pub fn idle_expiry(&self) -> Option<IdleExpiry> {
        self.policy.idle_expiry
    }

    /// Unfinished messages: ahead, waiting, deferred and in flight, without those that are about to become dead letters.
    pub fn held_count(&self) -> u64 {
        self.end - self.cursor - self.skipped.count() + self.behind_count()
    }

    /// Unfinished messages and about how many bytes they have. Bytes are 0 if `sizes` knows nothing.
    pub fn held(&self, sizes: &Sizes) -> Amount {
        let plain = self.end - self.cursor - self.skipped.count();
        let ahead = share(sizes.between(self.cursor, self.end), plain, self.end - self.cursor);
        let behind = self.behind_bytes(sizes);
        Amount { messages: self.held_count(), bytes: ahead.saturating_add(behind) }
    }

    fn behind_count(&self) -> u64 {
        (self.outstanding.len() - self.exhausted_count()) as u64
    }

    /// About how many bytes the messages have that are not ahead: exact for a few, otherwise by a sample.
    fn behind_bytes(&self, sizes: &Sizes) -> u64 {
        let count = self.behind_count();
        if count == 0 || sizes.total() == 0 {
            return 0;
        }
        let (mut bytes, mut seen) = (0, 0);
        self.outstanding.sample(SAMPLE, |entry| {
            if entry.place != Place::Exhausted {
                bytes += sizes.between(entry.sequence, entry.sequence + 1);
                seen += 1;
            }
        });
        share(bytes, count, seen)
    }

    /// Removes the oldest messages that wait, first those that were handed out before, until the rest is within the bound.
    /// They are dropped, or set aside to be dead-lettered: not too many at a time, so call it again when these are gone.
    pub fn shed(&mut self, sizes: &Sizes) {
        let bound = self.bound();
        if !bound.sheds() {
            return;
        }
        let held = self.held(sizes);
        let excess = |held: u64, most: u64| if most == 0 { 0 } else { held.saturating_sub(most) };
        let (mut messages, mut bytes) =
            (excess(held.messages, bound.max_depth), excess(held.bytes, bound.max_bytes));
        while (messages > 0 || bytes > 0)
            && let Some((slot, queue)) = self.oldest_waiting()
        {
            if !self.has_room_to_set_aside(Reason::Overflow) {
                return;
            }
            let sequence = self.outstanding.entry(slot).sequence;
            let gone = sizes.between(sequence, sequence + 1).max(1);
            self.leave_queue(queue);
            self.leave(slot, Reason::Overflow);
            (messages, bytes) = (messages.saturating_sub(1), bytes.saturating_sub(gone));
        }
        let by_bytes = match bytes {
            0 => self.cursor,
            bytes => sizes.sequence_at(sizes.before(self.cursor).saturating_add(bytes)),
        };
        self.leave_ahead(by_bytes.max(self.ahead_after(messages)), Reason::Overflow);
    }

    /// Where the cursor is when this many messages ahead have left.
    fn ahead_after(&self, count: u64) -> u64 {
        let (mut to, mut left) = (self.cursor, count);
        for range in self.skipped.gaps(self.cursor, self.end) {
            if left == 0 {
                break;
            }
            let taken = left.min(range.len());
            (to, left) = (range.from + taken, left - taken);
        }
        to
    }
}

/// `part / whole` of `amount`; 0 of nothing.
fn share(amount: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Source, Supply};
    use crate::policy::bounds::Overflow;
    use crate::policy::effective::ChannelPolicy;
    use crate::storage::SequenceRange;

    /// Supplies every requested message.
    struct Everything;

    impl Source for Everything {
        fn first(&mut self, _: u64, max_count: u64) -> Supply {
            Supply::Given(max_count)
        }

        fn again(&mut self, _: u64, _: u16) -> Supply {
            Supply::Given(1)
        }
    }

    fn channel(bound: Bound) -> (ChannelState, Sizes) {
        let mut state = ChannelState::new(1, u64::MAX);
        state.set_policy(ChannelPolicy { bound, ..ChannelPolicy::default() }, 0);
        let mut sizes = Sizes::default();
        assert!(sizes.set_smallest(1000));
        sizes.note(1, 0);
        (state, sizes)
    }

    #[test]
    fn oldest_messages_leave_until_the_bytes_are_within_the_bound() {
        let bound = Bound { max_depth: 0, max_bytes: 1000, overflow: Overflow::DropOldest };
        let (mut state, mut sizes) = channel(bound);
        for (end, bytes) in [(11, 500), (21, 400), (31, 600)] {
            sizes.note(end, bytes);
            state.release(end, &[], None);
            state.shed(&sizes);
        }
        // Ten of 50 bytes, ten of 40 and ten of 60 are too much by 500.
        assert_eq!(state.held(&sizes), Amount { messages: 20, bytes: 1000 });
        assert_eq!((state.cursor(), state.counters().overflow_count), (11, 10));
        assert_eq!(state.drain_removed().unwrap().iter().collect::<Vec<_>>(), [SequenceRange::new(1, 11)]);
        sizes.note(32, 5000);
        state.release(32, &[], None);
        state.shed(&sizes);
        assert_eq!(state.held(&sizes), Amount::default(), "a message that is larger than the bound");
    }

    #[test]
    fn finished_messages_do_not_change_what_the_others_weigh() {
        let bound = Bound { max_depth: 0, max_bytes: 1_000_000, overflow: Overflow::Reject };
        let (mut state, mut sizes) = channel(bound);
        let key = state.add_consumer(u64::MAX, 0, crate::locality::Locality::default());
        state.set_ready_count(key, u64::MAX);
        sizes.note(101, 100);
        (102..=125).for_each(|end| sizes.note(end, 50_000));
        state.release(125, &[], None);
        state.take(key, 0, &mut Everything);
        let now = crate::channel::saved::Clocks { monotonic: 0, wall_ns: 0 };
        (101..125).for_each(|sequence| state.finish(key, sequence, now).unwrap());
        // The resolution is 1,000 bytes.
        assert!(state.held(&sizes).bytes < 2000, "{:?}", state.held(&sizes));
    }

    #[test]
    fn deferred_messages_stay_and_count() {
        let bound = Bound { max_depth: 3, max_bytes: 0, overflow: Overflow::DropOldest };
        let (mut state, sizes) = channel(bound);
        state.release(7, &[crate::log::Mark::Deferred { from: 2, to: 4, due: 9 }], None);
        state.shed(&sizes);
        assert_eq!((state.held_count(), state.deferred_count(), state.depth()), (3, 2, 1));
        assert_eq!(state.needed(0, 7, 10).as_slice(), [SequenceRange::new(2, 4), SequenceRange::one(6)]);
    }
}
