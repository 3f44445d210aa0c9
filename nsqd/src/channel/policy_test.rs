//! Pure: what a time to live or a limit of attempts would do with the unfinished messages of a channel.
//!
//! A test follows the rules of [`super::departures`], but changes nothing. It visits outstanding messages in slices, so
//! that the channel's lock is held for a short time.

use super::outstanding::{Entry, Place, Recall};
use super::state::ChannelState;
use crate::clock::Nanos;
use crate::storage::SequenceRange;

/// The values to test.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TestedPolicy {
    /// How long messages are delivered after they were published; 0 for no limit.
    pub ttl: Nanos,
    /// All messages before this are older than `ttl`.
    pub expired_before: u64,
    /// After how many failures a message becomes a dead letter; 0 for never.
    pub max_attempts: u16,
}

/// What the values would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Messages that are not finished, without those that are leaving the channel already.
    pub unfinished: u64,
    /// Messages that would expire at once.
    pub expired: u64,
    /// Messages whose attempts are used up.
    pub exhausted: u64,
}

impl ChannelState {
    /// Whether the channel counts failed deliveries now. If not, [`ChannelState::test_outstanding`] goes by deliveries.
    pub fn counts_failures(&self) -> bool {
        self.policy.max_attempts > 0
    }

    /// Adds the messages that were never handed out.
    pub fn test_ahead(&self, tested: &TestedPolicy, outcome: &mut Outcome) {
        outcome.unfinished += self.end - self.cursor - self.skipped.count();
        if tested.ttl > 0 {
            let expired = self.skipped.gaps(self.cursor, tested.expired_before.min(self.end));
            outcome.expired += expired.map(SequenceRange::len).sum::<u64>();
        }
    }

    /// Adds about `most` outstanding messages from `from` on. Returns where to continue; `None` at the end.
    pub fn test_outstanding(
        &self,
        tested: &TestedPolicy,
        now: Nanos,
        from: u64,
        most: usize,
        outcome: &mut Outcome,
    ) -> Option<u64> {
        self.outstanding.slice(from, most, |entry| {
            let is_leaving = match entry.place {
                Place::InFlight => entry.recall == Recall::Finish,
                Place::Exhausted | Place::Free => true,
                Place::Waiting | Place::Deferred => false,
            };
            if is_leaving {
                return;
            }
            outcome.unfinished += 1;
            if tested.max_attempts > 0 && self.failures_at_most(entry) >= tested.max_attempts {
                outcome.exhausted += 1;
            } else if entry.place == Place::Waiting && self.would_expire(entry.sequence, tested, now) {
                outcome.expired += 1;
            }
        })
    }

    /// The failures of a message; if they are not counted, its completed deliveries, which are at least as many.
    fn failures_at_most(&self, entry: &Entry) -> u16 {
        match self.counts_failures() {
            true => self.failures_of(entry.sequence),
            false if entry.place == Place::InFlight => entry.attempts.saturating_sub(1),
            false => entry.attempts,
        }
    }

    fn would_expire(&self, sequence: u64, tested: &TestedPolicy, now: Nanos) -> bool {
        tested.ttl > 0
            && match self.departures.due_at(sequence) {
                Some(due_at) => due_at.saturating_add(tested.ttl) <= now,
                None => sequence < tested.expired_before,
            }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::channel::ConsumerKey;
    use crate::channel::saved::Clocks;
    use crate::log::{Mark, Source, Supply};
    use crate::policy::effective::ChannelPolicy;

    const TTL: Nanos = 1000;
    const TIMEOUT: Nanos = 50;

    /// Supplies everything.
    struct All(Vec<u64>);

    impl Source for All {
        fn first(&mut self, from: u64, max_count: u64) -> Supply {
            self.0.extend(from..from + max_count);
            Supply::Given(max_count)
        }

        fn again(&mut self, sequence: u64, _: u16) -> Supply {
            self.0.push(sequence);
            Supply::Given(1)
        }
    }

    fn policy(max_attempts: u16, ttl: Nanos) -> ChannelPolicy {
        let dead_letter = nsq_protocol::TopicName::new("dead").ok();
        ChannelPolicy { max_attempts, dead_letter, ttl, ..ChannelPolicy::default() }
    }

    fn channel(max_attempts: u16) -> (ChannelState, ConsumerKey) {
        let mut state = ChannelState::new(0, u64::MAX);
        state.set_policy(policy(max_attempts, 0), 0);
        let key = state.add_consumer(TIMEOUT, 0, Default::default());
        (state, key)
    }

    fn take(state: &mut ChannelState, key: ConsumerKey, count: u64, now: Nanos) -> Vec<u64> {
        let in_flight = state.in_flight_count() as u64;
        state.set_ready_count(key, in_flight + count);
        let mut all = All(Vec::new());
        state.take(key, now, &mut all);
        state.set_ready_count(key, 0);
        all.0
    }

    fn outcome(state: &ChannelState, tested: &TestedPolicy, now: Nanos) -> Outcome {
        let mut outcome = Outcome::default();
        state.test_ahead(tested, &mut outcome);
        let mut next = Some(0);
        while let Some(from) = next {
            next = state.test_outstanding(tested, now, from, 2, &mut outcome);
        }
        outcome
    }

    #[test]
    fn without_limits_messages_are_only_counted() {
        let (mut state, key) = channel(0);
        state.release(10, &[Mark::Deferred { from: 8, to: 10, due: 100 }], None);
        take(&mut state, key, 3, 0);
        let expected = Outcome { unfinished: 10, expired: 0, exhausted: 0 };
        assert_eq!(outcome(&state, &TestedPolicy::default(), 0), expected);
    }

    #[test]
    fn messages_in_flight_and_deferred_ones_do_not_expire() {
        let (mut state, key) = channel(0);
        state.release(10, &[Mark::Deferred { from: 2, to: 4, due: 100 }], None);
        take(&mut state, key, 2, 0);
        state.requeue(key, 0, 0, 0).unwrap();
        let tested = TestedPolicy { ttl: TTL, expired_before: 6, max_attempts: 0 };
        // 0 waits, 1 is in flight, 2 and 3 are deferred, 4 and 5 are ahead.
        assert_eq!(outcome(&state, &tested, 0), Outcome { unfinished: 10, expired: 3, exhausted: 0 });
    }

    #[test]
    fn without_counted_failures_completed_deliveries_count() {
        let (mut state, key) = channel(0);
        state.release(3, &[], None);
        take(&mut state, key, 3, 0);
        state.requeue(key, 0, 0, 0).unwrap();
        state.requeue(key, 1, 7, 0).unwrap();
        let by = |max_attempts| TestedPolicy { max_attempts, ..TestedPolicy::default() };
        assert!(!state.counts_failures());
        assert_eq!(outcome(&state, &by(1), 0).exhausted, 2, "the first delivery of 2 is not over");
        assert_eq!(outcome(&state, &by(2), 0).exhausted, 0);
    }

    proptest! {
        /// Setting the tested values does what the test says.
        #[test]
        fn predicts_what_happens(
            steps in prop::collection::vec((0u8..6, 0u64..8), 1..60),
            max_attempts in 0u16..4,
            expires in any::<bool>(),
            expired_before in 0u64..60,
        ) {
            let (mut state, key) = channel(10);
            let (mut end, mut now) = (0, 0);
            let mut in_flight: Vec<u64> = Vec::new();
            for (step, pick) in steps {
                now += 1;
                match step {
                    0 => {
                        let marks = [Mark::Deferred { from: end + 1, to: end + 2, due: now + pick * 10 }];
                        state.release(end + 3, &marks[..usize::from(pick % 2 == 0)], None);
                        end += 3;
                    }
                    1 => in_flight.extend(take(&mut state, key, pick, now)),
                    2 | 3 if !in_flight.is_empty() => {
                        let sequence = in_flight.swap_remove(pick as usize % in_flight.len());
                        let delay = if step == 2 { 0 } else { pick * 5 };
                        state.requeue(key, sequence, delay, now).unwrap();
                    }
                    4 if !in_flight.is_empty() => {
                        let sequence = in_flight.swap_remove(pick as usize % in_flight.len());
                        state.finish(key, sequence, Clocks { monotonic: now, wall_ns: 0 }).unwrap();
                    }
                    _ => {
                        now += pick * 5;
                        state.expire(now, usize::MAX);
                        in_flight.retain(|sequence| {
                            let slot = state.outstanding.find(*sequence);
                            slot.is_some_and(|slot| state.outstanding.entry(slot).place == Place::InFlight)
                        });
                    }
                }
            }
            let ttl = if expires { TTL } else { 0 };
            let tested = TestedPolicy { ttl, expired_before, max_attempts };
            let predicted = outcome(&state, &tested, now);
            prop_assert_eq!(predicted.unfinished, state.depth() + (state.in_flight_count() + state.deferred_count()) as u64);
            let failed_in_flight = in_flight.iter().filter(|sequence| {
                max_attempts > 0 && state.failures_of(**sequence) >= max_attempts
            }).count();
            state.set_policy(policy(max_attempts, ttl), 0);
            if ttl > 0 {
                state.expire_before(expired_before);
                state.expire_waiting(now);
            }
            prop_assert_eq!(predicted.expired, state.counters().expired_count);
            prop_assert_eq!(predicted.exhausted, (state.exhausted_count() + failed_in_flight) as u64);
        }
    }
}
