//! Compares the channel with a naive model: runs random operations on both, and checks the invariants after each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nsq_protocol::headers::HeadersBuf;
use proptest::prelude::*;

use super::departures::Departed;
use super::fates::Fate;
use super::latency::no_latencies;
use super::outstanding::Recall;
use super::peeking::{Seen, Standing, Wanted};
use super::rescheduling::{NotChanged, Rescheduled};
use super::saved::Clocks;
use super::state::{AckError, ChannelState, HeldBack, Requeued};
use super::take::TakeEnd;
use crate::locality::Locality;
use crate::log::sizes::{Amount, Sizes};
use crate::log::{Mark, OwnTtl, Source, Supplied, Supply};
use crate::policy::bounds::{Bound, Overflow};
use crate::policy::dead_letter::Reason;
use crate::policy::effective::ChannelPolicy;
use crate::policy::ordering::{Ordering, Rule};
use crate::policy::rate::Limits;
use crate::storage::SequenceRange;

const TIMEOUT: u64 = 1_000;
/// Longer than a test runs: only the steps expire messages.
const TTL: u64 = 1 << 60;
const MAX_TIMEOUT: u64 = 3_000;
/// The time to live of each fifth message. It counts from the beginning of the test, or from when the message was due.
const OWN_TTL: u64 = 4_000;
/// Shorter than the shortest delay of a schedule, so that every delay is this one.
const RETRY_DELAY: u64 = 700;
/// Longer than a test runs.
const LATENCY_WINDOW: u64 = 1_000_000_000;

#[derive(Debug, Clone)]
enum Step {
    Publish(u8),
    PublishDeferred(u8, u16),
    Refuse(u8),
    Subscribe(Locality),
    Disconnect(u8),
    /// One consumer gets the messages in flight to another one.
    HandOver(u8, u8),
    Ready(u8, u8),
    Take(u8, u8),
    /// This many messages are in memory; later ones are on disk.
    TakeFromDisk(u8, u8),
    /// Waiting messages are sorted in log order.
    Sort,
    Finish(u8),
    Requeue(u8, u16),
    Touch(u8),
    Reject(u8),
    Pass(u16),
    Pause(bool),
    /// Whether failed messages are held back by a retry schedule.
    Retry(bool),
    /// After this many failures, a message is set aside; 0 for never.
    MaxAttempts(u16),
    /// Delivers only messages that have a color, or only those that have none, or all.
    Filter(Option<bool>),
    Cancel(u8),
    /// By this delay.
    Reschedule(u8, u16),
    /// Which messages wait for others of their key.
    Order(Option<Ordering>),
    /// Whether there is a rate, and how many messages may be in flight; 0 for no limit.
    Limit(bool, u8),
    /// Takes messages out of the channel, from a share of what was published on.
    Depart(u8, u8),
    /// Whether what departs is gone or comes back.
    EndDeparture(bool),
    Forgive,
    /// Messages before a share of all expire.
    Expire(u8),
    /// Whether expired messages become dead letters.
    KeepExpired(bool),
    Empty,
    /// Maximum number of unfinished messages, and whether the others become dead letters.
    Bound(u8, bool),
    /// Back by a share of what was published.
    MoveBack(u8),
    /// Forward by a share of what is ahead.
    MoveForward(u8),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..20).prop_map(Step::Publish),
        1 => (1u8..4, 1u16..3000).prop_map(|(count, delay)| Step::PublishDeferred(count, delay)),
        1 => (1u8..4).prop_map(Step::Refuse),
        1 => prop::sample::select(vec![Locality::Zone, Locality::Global]).prop_map(Step::Subscribe),
        1 => any::<u8>().prop_map(Step::Disconnect),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Step::HandOver(from, to)),
        3 => (any::<u8>(), 0u8..12).prop_map(|(who, count)| Step::Ready(who, count)),
        8 => (any::<u8>(), 1u8..8).prop_map(|(who, room)| Step::Take(who, room)),
        2 => (any::<u8>(), 0u8..4).prop_map(|(who, in_memory)| Step::TakeFromDisk(who, in_memory)),
        1 => Just(Step::Sort),
        8 => any::<u8>().prop_map(Step::Finish),
        3 => (any::<u8>(), prop_oneof![Just(0u16), 1u16..3000]).prop_map(|(which, delay)| Step::Requeue(which, delay)),
        2 => any::<u8>().prop_map(Step::Touch),
        2 => any::<u8>().prop_map(Step::Reject),
        3 => (1u16..1500).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => any::<bool>().prop_map(Step::Retry),
        1 => (0u16..4).prop_map(Step::MaxAttempts),
        1 => any::<Option<bool>>().prop_map(Step::Filter),
        3 => any::<u8>().prop_map(Step::Cancel),
        4 => (any::<u8>(), prop_oneof![Just(0u16), 1u16..3000]).prop_map(|(which, delay)| Step::Reschedule(which, delay)),
        2 => ordering().prop_map(Step::Order),
        1 => (any::<bool>(), 0u8..8).prop_map(|(rate, most)| Step::Limit(rate, most)),
        2 => (any::<u8>(), 1u8..12).prop_map(|(share, count)| Step::Depart(share, count)),
        2 => any::<bool>().prop_map(Step::EndDeparture),
        1 => Just(Step::Forgive),
        1 => (0u8..100).prop_map(Step::Expire),
        1 => any::<bool>().prop_map(Step::KeepExpired),
        1 => (0u8..20, any::<bool>()).prop_map(|(most, keep)| Step::Bound(most, keep)),
        1 => Just(Step::Empty),
        2 => any::<u8>().prop_map(Step::MoveBack),
        1 => any::<u8>().prop_map(Step::MoveForward),
        1 => Just(Step::Restart),
    ]
}

fn ordering() -> impl Strategy<Value = Option<Ordering>> {
    let rule =
        prop::sample::select(vec![None, Some(Rule::Key), Some(Rule::Key), Some(Rule::All), Some(Rule::Fair)]);
    (rule, any::<bool>()).prop_map(|(rule, skips_requeued)| Some(Ordering { rule: rule?, skips_requeued }))
}

/// One message in [`RATE_INTERVAL`], and at most [`BURST`] at once.
const RATE: &str = "2000000/s";
const RATE_INTERVAL: u64 = 500;
const BURST: u64 = 3;

/// The key of a message.
fn key_of(sequence: u64) -> Option<&'static str> {
    ["a", "b", "c"].get((sequence % 7 / 2) as usize).copied()
}

/// The state of a message in the model.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Where {
    Ready,
    InFlight {
        key: u32,
        deadline: u64,
        delivered: u64,
        recall: Recall,
    },
    Deferred {
        due: u64,
    },
    Exhausted,
    /// Its departure is not durable yet.
    Departing,
}

/// Supplies all requested messages, up to its room.
struct AnySource {
    room: u64,
    /// Messages after this many are on disk.
    in_memory: u64,
    given: Vec<(u64, u16)>,
    /// How many of them the last call supplied.
    given_last: usize,
    /// The last message supplied for its first delivery.
    last_first: u64,
    /// Messages that were taken back.
    taken_back: Vec<u64>,
    /// Whether messages have a time to live of their own.
    has_own_ttls: bool,
}

/// The headers of a message, if it has any.
fn headers_of(sequence: u64) -> Option<HeadersBuf> {
    let color = is_colored(sequence).then_some(("color", "red"));
    let pairs: Vec<_> = color.into_iter().chain(key_of(sequence).map(|key| ("nsq-key", key))).collect();
    (!pairs.is_empty()).then(|| HeadersBuf::from_pairs(pairs).unwrap())
}

fn is_colored(sequence: u64) -> bool {
    sequence.is_multiple_of(3)
}

/// The time to live that a message has of its own.
fn own_ttl(sequence: u64) -> Option<OwnTtl> {
    sequence.is_multiple_of(5).then_some(OwnTtl { published_at: 0, ttl: OWN_TTL })
}

/// Messages are more than a day apart, so that a mix-up would show in the latencies.
fn published_at(sequence: u64) -> i64 {
    -(sequence as i64) * 100_000_000_000_000
}

impl Default for AnySource {
    fn default() -> Self {
        AnySource {
            room: u64::MAX,
            in_memory: u64::MAX,
            given: Vec::new(),
            given_last: 0,
            last_first: 0,
            taken_back: Vec::new(),
            has_own_ttls: false,
        }
    }
}

impl Source for AnySource {
    fn timestamps(&self, mut visit: impl FnMut(i64)) {
        let given = &self.given[self.given.len() - self.given_last..];
        given.iter().for_each(|&(sequence, _)| visit(published_at(sequence)));
    }

    fn may_have_own_ttl(&self, _: u64) -> bool {
        self.has_own_ttls
    }

    fn retain(&mut self, first: u64, mut is_kept: impl FnMut(Supplied<'_>) -> bool) -> usize {
        let supplied = self.given.split_off(self.given.len() - self.given_last);
        self.given_last = 0;
        for (sequence, (supplied, attempts)) in (first..).zip(supplied) {
            assert_eq!(supplied, sequence);
            let headers = headers_of(sequence);
            let headers = headers.as_ref().map(HeadersBuf::as_headers);
            if is_kept(Supplied { sequence, headers, own_ttl: own_ttl(sequence) }) {
                self.given.push((sequence, attempts));
                self.given_last += 1;
            } else {
                self.taken_back.push(sequence);
            }
        }
        0
    }

    fn first(&mut self, from: u64, max_count: u64) -> Supply {
        let count = max_count.min(self.room);
        if count == 0 {
            return Supply::Full;
        }
        let count = count.min(self.in_memory);
        if count == 0 {
            return Supply::OnDisk;
        }
        self.in_memory -= count;
        assert!(from > self.last_first, "first deliveries follow publishing order");
        self.last_first = from + count - 1;
        self.room -= count;
        self.given.extend((from..from + count).map(|sequence| (sequence, 1)));
        self.given_last = count as usize;
        Supply::Given(count)
    }

    fn again(&mut self, sequence: u64, attempts: u16) -> Supply {
        if self.room == 0 {
            return Supply::Full;
        }
        if self.in_memory == 0 {
            return Supply::OnDisk;
        }
        self.in_memory -= 1;
        self.room -= 1;
        self.given.push((sequence, attempts));
        self.given_last = 1;
        Supply::Given(1)
    }
}

struct Pair {
    state: ChannelState,
    /// Every message that is not finished, with its attempts.
    model: BTreeMap<u64, (Where, u16)>,
    /// Every message, with its due time if it was published deferred.
    published: BTreeMap<u64, Option<u64>>,
    /// RDY by consumer.
    ready_counts: BTreeMap<u32, u64>,
    is_near: BTreeMap<u32, bool>,
    end: u64,
    now: u64,
    paused: bool,
    /// How long the retry schedule holds failed messages back; 0 without one.
    retry_delay: u64,
    max_attempts: u16,
    keeps_expired: bool,
    expired_before: u64,
    expired_count: u64,
    /// Whether messages with or without a color are delivered.
    filter: Option<bool>,
    filtered_count: u64,
    bound: Bound,
    overflow_count: u64,
    /// Unfinished messages that expired, exceeded the bound or were rejected, and become dead letters.
    set_aside: BTreeMap<u64, Reason>,
    /// Unfinished messages that were published deferred and when they came due: these expire by their due time.
    due_based: BTreeMap<u64, u64>,
    /// Failed deliveries of unfinished messages.
    failures: BTreeMap<u64, u16>,
    ordering: Option<Ordering>,
    /// Messages that were deferred or set aside: others of their key may have passed them.
    passed: BTreeSet<u64>,
    has_rate: bool,
    max_in_flight: u64,
    /// Since the rate is in force: when it began, and how many messages were handed out.
    rated: (u64, u64),
    /// From publishing to FIN.
    latencies: Vec<u64>,
}

impl Pair {
    fn new() -> Self {
        let mut state = ChannelState::new(100, MAX_TIMEOUT);
        state.measure_latencies(LATENCY_WINDOW);
        let mut pair = Pair {
            state,
            model: BTreeMap::new(),
            published: BTreeMap::new(),
            ready_counts: BTreeMap::new(),
            is_near: BTreeMap::new(),
            end: 100,
            now: 0,
            paused: false,
            retry_delay: 0,
            max_attempts: 0,
            keeps_expired: false,
            expired_before: 0,
            expired_count: 0,
            filter: None,
            filtered_count: 0,
            bound: Bound::default(),
            overflow_count: 0,
            set_aside: BTreeMap::new(),
            due_based: BTreeMap::new(),
            failures: BTreeMap::new(),
            ordering: None,
            passed: BTreeSet::new(),
            has_rate: false,
            max_in_flight: 0,
            rated: (0, 0),
            latencies: Vec::new(),
        };
        pair.state.set_policy(pair.policy(), 0);
        pair
    }

    fn policy(&self) -> ChannelPolicy {
        let retry = "list 1ms".parse().map(Arc::new).ok().filter(|_| self.retry_delay > 0);
        let dead_letter = nsq_protocol::TopicName::new("dead").ok();
        ChannelPolicy {
            retry,
            longest_delay: RETRY_DELAY,
            max_attempts: self.max_attempts,
            dead_letter,
            ttl: TTL,
            keeps_expired: self.keeps_expired,
            bound: self.bound,
            idle_expiry: None,
            filter: self.filter.map(|with| {
                let filter = if with { "color=red" } else { "color!=red" };
                Arc::new(filter.parse().unwrap())
            }),
            ordering: self.ordering,
            limits: Limits {
                rate: self.has_rate.then(|| RATE.parse().unwrap()),
                burst: BURST,
                max_in_flight: self.max_in_flight,
            },
        }
    }

    /// What a message is ordered by, in an ordered channel.
    fn order_key(&self, sequence: u64) -> Option<&'static str> {
        match self.ordering?.rule {
            Rule::Key => key_of(sequence),
            Rule::All => Some(""),
            Rule::Fair => None,
        }
    }

    /// Unfinished messages that another one of the same key must follow.
    fn blockers(&self, key: &str) -> Vec<u64> {
        let is_blocking = |sequence: u64, place: Where, attempts: u16| match place {
            Where::Ready => false,
            Where::InFlight { .. } => true,
            Where::Deferred { .. } => attempts > 0,
            Where::Exhausted | Where::Departing => {
                !matches!(self.set_aside.get(&sequence), Some(Reason::Expired | Reason::Overflow))
            }
        };
        let of_key = self.model.iter().filter(|(sequence, _)| self.order_key(**sequence) == Some(key));
        let blocking =
            of_key.filter(|&(&sequence, &(place, attempts))| is_blocking(sequence, place, attempts));
        blocking.map(|(&sequence, _)| sequence).collect()
    }

    /// A message may be handed out if no other one of its key is in flight, and none that was published before waits.
    fn check_order(&self, sequence: u64, attempts: u16) {
        let Some(key) = self.order_key(sequence) else { return };
        let skips = self.ordering.is_some_and(|ordering| ordering.skips_requeued);
        for blocker in self.blockers(key) {
            let is_in_flight = matches!(self.model[&blocker].0, Where::InFlight { .. });
            if blocker > sequence && !is_in_flight {
                // It was taken out of its turn.
                continue;
            }
            let is_skipped = skips && matches!(self.model[&blocker].0, Where::Deferred { .. });
            assert!(
                is_skipped || self.passed.contains(&blocker),
                "{sequence} before {blocker}: {:?}",
                self.model[&blocker]
            );
            assert!(!is_in_flight, "{sequence} is in flight beside {blocker} of the same key");
        }
        // A message that failed comes again before the others of its key.
        if attempts == 0 {
            let earlier = self.model.range(..sequence).find(|&(earlier, (place, _))| {
                *place == Where::Ready
                    && !self.passed.contains(earlier)
                    && self.order_key(*earlier) == Some(key)
                    && !self.must_leave(*earlier)
            });
            assert_eq!(earlier, None, "{sequence} before an earlier one of its key");
        }
    }

    /// Whether a message leaves the channel when its turn comes.
    fn must_leave(&self, sequence: u64) -> bool {
        let due_at = self.due_based.get(&sequence).copied();
        own_ttl(sequence).is_some_and(|ttl| ttl.has_passed(due_at, self.now))
            || self.filter.is_some_and(|with| is_colored(sequence) != with)
    }

    /// A take that made no progress left nothing behind that could be handed out.
    fn check_nothing_is_left(&self) {
        for (&sequence, (place, _)) in &self.model {
            if *place == Where::Ready {
                let key = self.order_key(sequence);
                let is_blocked = key.is_some_and(|key| !self.blockers(key).is_empty());
                assert!(is_blocked, "{sequence} was not handed out");
            }
        }
        assert!(self.state.wake_would_be_idle(), "a woken consumer would find nothing");
    }

    fn clocks(&self) -> Clocks {
        Clocks { monotonic: self.now, wall_ns: 1_000_000 + self.now as i64 }
    }

    fn consumer(&self, pick: u8) -> Option<u32> {
        let keys: Vec<_> = self.ready_counts.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[pick as usize % keys.len()])
    }

    fn some_message(&self, pick: u8) -> Option<(u64, Where)> {
        let all: Vec<_> = self.model.iter().map(|(&sequence, &(place, _))| (sequence, place)).collect();
        (!all.is_empty()).then(|| all[pick as usize % all.len()])
    }

    fn in_flight(&self, key: u32) -> u64 {
        self.model
            .values()
            .filter(|(place, _)| matches!(place, Where::InFlight { key: k, .. } if *k == key))
            .count() as u64
    }

    fn is_exhausted(&self, sequence: u64) -> bool {
        let failures = self.failures.get(&sequence).copied().unwrap_or(0);
        self.max_attempts > 0 && failures >= self.max_attempts
    }

    /// Counts a failed delivery. Returns the failures so far.
    fn fail(&mut self, sequence: u64) -> u16 {
        if self.max_attempts == 0 {
            return 0;
        }
        let failures = self.failures.entry(sequence).or_default();
        *failures += 1;
        *failures
    }

    /// What a message that can be handed out is.
    fn ready(&self, sequence: u64) -> Where {
        if self.is_exhausted(sequence) { Where::Exhausted } else { Where::Ready }
    }

    fn give_back(&mut self, which: impl Fn(Where) -> bool) {
        let exhausted: Vec<u64> =
            self.model.keys().copied().filter(|&sequence| self.is_exhausted(sequence)).collect();
        self.model.retain(|sequence, (place, _)| {
            let comes_back = which(*place);
            let is_over = matches!(place, Where::InFlight { recall: Recall::Finish, .. });
            let is_recalled = matches!(place, Where::InFlight { recall: Recall::HandOut, .. });
            if comes_back {
                let is_exhausted = !is_recalled && exhausted.binary_search(sequence).is_ok();
                *place = if is_exhausted { Where::Exhausted } else { Where::Ready };
            }
            !(comes_back && is_over)
        });
    }

    /// The marks for a channel whose cursor is moved to `from`.
    fn marks(&self, from: u64) -> Vec<Mark> {
        let mark = |sequence: u64| match self.published.get(&sequence) {
            None => Some(Mark::Skipped { from: sequence, to: sequence + 1 }),
            Some(Some(due)) if *due > self.now => {
                Some(Mark::Deferred { from: sequence, to: sequence + 1, due: *due })
            }
            Some(_) => None,
        };
        (from..self.end).filter_map(mark).collect()
    }

    fn move_back(&mut self, to: u64) {
        self.state.move_back(to, &self.marks(to));
        for (&sequence, due) in self.published.range(to..) {
            let still_deferred = due.filter(|due| *due > self.now);
            let fresh = (still_deferred.map_or(Where::Ready, |due| Where::Deferred { due }), 0);
            let (place, attempts) = self.model.entry(sequence).or_insert(fresh);
            match place {
                Where::InFlight { recall, .. } => (*recall, *attempts) = (Recall::HandOut, 0),
                Where::Deferred { .. } if *attempts == 0 => continue,
                _ => (*place, *attempts) = fresh,
            }
            self.failures.remove(&sequence);
            self.due_based.remove(&sequence);
            self.set_aside.remove(&sequence);
        }
        self.expire();
    }

    fn move_forward(&mut self, to: u64) {
        self.state.move_forward(to);
        self.model.retain(|&sequence, (place, _)| match place {
            _ if sequence >= to => true,
            Where::InFlight { recall, .. } => {
                *recall = Recall::Finish;
                true
            }
            _ => false,
        });
        self.failures.retain(|sequence, _| self.model.contains_key(sequence));
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish(count) => self.publish(count, None),
            Step::PublishDeferred(count, delay) => self.publish(count, Some(self.now + u64::from(delay))),
            Step::Refuse(count) => {
                let from = self.end;
                self.end += u64::from(count);
                self.state.release(self.end, &[Mark::Skipped { from, to: self.end }], None);
            }
            Step::Subscribe(locality) => {
                let key = self.state.add_consumer(TIMEOUT, 0, locality);
                assert!(self.ready_counts.insert(key, 0).is_none());
                self.is_near.insert(key, locality == Locality::Zone);
            }
            Step::Disconnect(pick) => {
                if let Some(key) = self.consumer(pick) {
                    while !self.state.remove_consumer(key, 2) {}
                    self.ready_counts.remove(&key);
                    self.give_back(|place| matches!(place, Where::InFlight { key: k, .. } if k == key));
                }
            }
            Step::HandOver(from, to) => {
                if let (Some(from), Some(to)) = (self.consumer(from), self.consumer(to)) {
                    self.state.hand_over(from, to);
                    for (place, _) in self.model.values_mut() {
                        if let Where::InFlight { key, .. } = place
                            && *key == from
                        {
                            *key = to;
                        }
                    }
                }
            }
            Step::Ready(pick, count) => {
                if let Some(key) = self.consumer(pick) {
                    self.state.set_ready_count(key, u64::from(count));
                    self.ready_counts.insert(key, u64::from(count));
                }
            }
            Step::Take(pick, room) => self.take(pick, room, u64::MAX),
            Step::TakeFromDisk(pick, in_memory) => self.take(pick, u8::MAX, in_memory.into()),
            Step::Sort => self.state.sort_waiting(),
            Step::Finish(pick) => self.finish(pick),
            Step::Requeue(pick, delay) => self.requeue(pick, u64::from(delay)),
            Step::Reject(pick) => self.reject(pick),
            Step::Touch(pick) => {
                if let Some((sequence, Where::InFlight { key, delivered, recall, .. })) =
                    self.some_message(pick)
                {
                    assert_eq!(self.state.touch(key, sequence, self.now), Ok(()));
                    let deadline = (self.now + TIMEOUT).min(delivered + MAX_TIMEOUT);
                    self.model.get_mut(&sequence).unwrap().0 =
                        Where::InFlight { key, deadline, delivered, recall };
                }
            }
            Step::Pass(time) => {
                self.now += u64::from(time);
                while self.state.next_deadline().is_some_and(|at| at <= self.now) {
                    self.state.expire(self.now, 3);
                }
                let (now, retry_delay) = (self.now, self.retry_delay);
                let mut held_back = self.state.drain_held_back();
                held_back.sort_unstable_by_key(|held_back| held_back.sequence);
                let mut expected = Vec::new();
                let timed_out = |(&sequence, &(place, attempts)): (&u64, &(Where, u16))| match place {
                    Where::InFlight { deadline, recall: Recall::No, .. } => {
                        (deadline <= now).then_some((sequence, attempts))
                    }
                    _ => None,
                };
                let timed_out: Vec<_> = self.model.iter().filter_map(timed_out).collect();
                for (sequence, attempts) in timed_out {
                    let failures = self.fail(sequence);
                    let is_held_back = retry_delay > 0 && !self.is_exhausted(sequence);
                    let due = is_held_back.then_some(now + retry_delay);
                    let place = due.map_or_else(|| self.ready(sequence), |due| Where::Deferred { due });
                    self.model.get_mut(&sequence).unwrap().0 = place;
                    if due.is_some() {
                        self.passed.insert(sequence);
                    }
                    if due.is_some() || failures > 0 {
                        expected.push(HeldBack { sequence, attempts, failures, due });
                    }
                }
                assert_eq!(held_back, expected);
                let came_due = self.model.iter().filter_map(|(&sequence, &(place, attempts))| match place {
                    Where::Deferred { due } if attempts == 0 && due <= now => Some((sequence, due)),
                    _ => None,
                });
                self.due_based.extend(came_due);
                self.give_back(|place| match place {
                    Where::InFlight { deadline, .. } => deadline <= now,
                    Where::Deferred { due } => due <= now,
                    Where::Ready | Where::Exhausted | Where::Departing => false,
                });
            }
            Step::Retry(on) => {
                self.retry_delay = if on { RETRY_DELAY } else { 0 };
                self.state.set_policy(self.policy(), self.now);
            }
            Step::MaxAttempts(max_attempts) => {
                self.max_attempts = max_attempts;
                self.state.set_policy(self.policy(), self.now);
                self.forgive_by_policy();
                self.exhaust_all();
            }
            Step::Expire(share) => {
                let before = 100 + (self.end - 100) * u64::from(share) / 255;
                self.expired_before = self.expired_before.max(before);
                self.expire();
            }
            Step::KeepExpired(keeps_expired) => {
                self.keeps_expired = keeps_expired;
                self.state.set_policy(self.policy(), self.now);
                self.forgive_by_policy();
            }
            Step::Bound(max_depth, keeps) => {
                let overflow = if keeps { Overflow::DeadLetter } else { Overflow::DropOldest };
                self.bound = Bound { max_depth: max_depth.into(), max_bytes: 0, overflow };
                self.state.set_policy(self.policy(), self.now);
                self.forgive_by_policy();
                self.shed();
            }
            Step::Filter(filter) => {
                self.filter = filter;
                self.state.set_policy(self.policy(), self.now);
            }
            Step::Order(ordering) => {
                self.ordering = ordering;
                self.state.set_policy(self.policy(), self.now);
            }
            Step::Limit(has_rate, max_in_flight) => {
                (self.has_rate, self.max_in_flight) = (has_rate, max_in_flight.into());
                self.rated = (self.now, 0);
                self.state.set_policy(self.policy(), self.now);
            }
            Step::Cancel(pick) => self.cancel(pick),
            Step::Reschedule(pick, delay) => self.reschedule(pick, u64::from(delay)),
            Step::Depart(share, count) => self.depart(share, count),
            Step::EndDeparture(is_gone) => self.end_departure(is_gone),
            Step::Forgive => {
                self.state.forgive(&self.state.exhausted(usize::MAX));
                self.forgive();
            }
            Step::Pause(paused) => {
                self.state.set_paused(paused);
                self.paused = paused;
            }
            Step::Empty => {
                drop(self.state.empty());
                self.model.clear();
                self.failures.clear();
            }
            Step::MoveBack(share) => {
                let back = (self.state.cursor() - 100) * u64::from(share) / 255;
                self.move_back(self.state.cursor() - back);
            }
            Step::MoveForward(share) => {
                let ahead = self.end - self.state.cursor();
                self.move_forward(self.state.cursor() + ahead * u64::from(share) / 255);
            }
            Step::Restart => self.restart(),
        }
    }

    fn publish(&mut self, count: u8, due: Option<u64>) {
        let from = self.end;
        self.end += u64::from(count);
        let marks: Vec<_> = due.map(|due| Mark::Deferred { from, to: self.end, due }).into_iter().collect();
        self.state.release(self.end, &marks, None);
        let place = due.map_or(Where::Ready, |due| Where::Deferred { due });
        self.model.extend((from..self.end).map(|sequence| (sequence, (place, 0))));
        self.published.extend((from..self.end).map(|sequence| (sequence, due)));
        if due.is_some() {
            self.passed.extend(from..self.end);
        }
        self.shed();
    }

    /// What a channel does after each release and change of its bound.
    fn shed(&mut self) {
        let is_held = |place: Where| !matches!(place, Where::Exhausted | Where::Departing);
        let held = self.model.values().filter(|(place, _)| is_held(*place)).count() as u64;
        let ready: BTreeSet<u64> = (self.model.iter())
            .filter(|(_, (place, _))| *place == Where::Ready)
            .map(|(&sequence, _)| sequence)
            .collect();
        let is_ahead = |sequence: &u64| {
            *sequence >= self.state.cursor() && self.state.outstanding.find(*sequence).is_none()
        };
        let ahead: BTreeSet<u64> = ready.iter().copied().filter(is_ahead).collect();
        self.state.shed(&Sizes::default());
        let needed = self.state.needed(0, self.end, usize::MAX);
        let is_left = |sequence: u64| {
            needed.iter().any(|range| range.contains(sequence)) && self.state.reason_of(sequence).is_none()
        };
        let (left, gone): (Vec<u64>, Vec<u64>) = ready.iter().partition(|&&sequence| is_left(sequence));
        let excess = if self.bound.max_depth == 0 { 0 } else { held.saturating_sub(self.bound.max_depth) };
        assert_eq!(gone.len() as u64, excess.min(ready.len() as u64));
        // Messages ahead leave last, and in order.
        let last_gone = gone.iter().filter(|sequence| ahead.contains(sequence)).max();
        if let Some(last_gone) = last_gone {
            assert!(left.iter().all(|sequence| ahead.contains(sequence) && sequence > last_gone));
        }
        for sequence in gone {
            if self.bound.overflow == Overflow::DeadLetter {
                assert_eq!(self.state.reason_of(sequence), Some(Reason::Overflow));
                self.set_aside.insert(sequence, Reason::Overflow);
                self.passed.insert(sequence);
                self.model.get_mut(&sequence).unwrap().0 = Where::Exhausted;
            } else {
                self.model.remove(&sequence);
                self.failures.remove(&sequence);
                self.overflow_count += 1;
            }
        }
    }

    fn take(&mut self, pick: u8, room: u8, in_memory: u64) {
        let Some(key) = self.consumer(pick) else { return };
        self.expire();
        let available = self.model.values().filter(|(place, _)| *place == Where::Ready).count() as u64;
        let before = self.in_flight(key);
        let has_own_ttls = true;
        let mut source = AnySource { room: u64::from(room), in_memory, has_own_ttls, ..AnySource::default() };
        let (count, end) = self.state.take(key, self.now, &mut source);
        assert_eq!(count, source.given.len() as u64);
        let taken_back = source.taken_back.len() as u64;
        self.take_back(&source.taken_back);
        assert!(count == 0 || !self.paused, "a paused channel hands out nothing");
        let allowed = self.ready_counts[&key].saturating_sub(before);
        assert!(count <= allowed, "RDY exceeded");
        let nearer = self.ready_counts.keys().filter(|other| self.is_near[other] && !self.is_near[&key]);
        let wanted: u64 =
            nearer.map(|other| self.ready_counts[other].saturating_sub(self.in_flight(*other))).sum();
        let throttle = self.state.throttle_report(self.now);
        let is_throttled = throttle.is_some_and(|throttle| {
            throttle.throttled_until.is_some() || throttle.is_in_flight_limit_reached
        });
        if !self.paused && allowed > 0 && available > wanted && !is_throttled && self.ordering.is_none() {
            assert!(
                count + taken_back > 0 || in_memory == 0,
                "messages and room are available, but nothing was handed out"
            );
        }
        let may_progress = !self.paused && allowed > 0 && wanted == 0 && in_memory > 0 && !is_throttled;
        if self.ordering.is_some() && may_progress && count + taken_back == 0 {
            self.check_nothing_is_left();
        }
        assert_eq!(end == TakeEnd::Full, count + taken_back == u64::from(room) && end == TakeEnd::Full);
        if end == TakeEnd::OnDisk {
            assert_eq!(
                (count + taken_back, self.state.wake_next()),
                (in_memory, None),
                "a woken consumer could only wait too"
            );
            self.state.set_unstalled();
        }
        let in_flight =
            self.model.values().filter(|(place, _)| matches!(place, Where::InFlight { .. })).count();
        if self.max_in_flight > 0 && count > 0 {
            assert!(in_flight as u64 + count <= self.max_in_flight, "too many in flight");
        }
        if self.has_rate {
            self.rated.1 += count;
            let most = BURST + 1 + (self.now - self.rated.0) / RATE_INTERVAL;
            assert!(self.rated.1 <= most, "{} messages instead of {most}", self.rated.1);
        }
        for (sequence, attempts) in source.given {
            let (place, seen) =
                self.model.get_mut(&sequence).expect("handed out, but finished or never published");
            assert_eq!(*place, Where::Ready, "message {sequence} handed out twice or too early");
            let seen_before = *seen;
            self.check_order(sequence, seen_before);
            let (place, seen) = self.model.get_mut(&sequence).unwrap();
            let due_at = self.due_based.get(&sequence).copied();
            let is_late = own_ttl(sequence).is_some_and(|ttl| ttl.has_passed(due_at, self.now));
            assert!(!is_late, "message {sequence} handed out too late");
            assert!(
                self.filter.is_none_or(|with| is_colored(sequence) == with),
                "message {sequence} does not match"
            );
            *seen += 1;
            assert_eq!(attempts, *seen);
            *place = Where::InFlight {
                key,
                deadline: self.now + TIMEOUT,
                delivered: self.now,
                recall: Recall::No,
            };
        }
    }

    /// These messages were too old when their turn came, or did not match the filter.
    fn take_back(&mut self, sequences: &[u64]) {
        for &sequence in sequences {
            let (place, _) = self.model[&sequence];
            if place != Where::Ready || (self.ordering.is_some() && !self.must_leave(sequence)) {
                // Its key was looked at.
                assert!(self.ordering.is_some());
                continue;
            }
            if self.filter.is_some_and(|with| is_colored(sequence) != with) {
                self.model.remove(&sequence);
                self.failures.remove(&sequence);
                self.filtered_count += 1;
                continue;
            }
            let due_at = self.due_based.get(&sequence).copied();
            let is_late = own_ttl(sequence).is_some_and(|ttl| ttl.has_passed(due_at, self.now));
            assert!(is_late, "message {sequence} expired early");
            self.expire_one(sequence);
        }
        assert_eq!(self.state.counters().expired_count, self.expired_count);
        assert_eq!(self.state.counters().filtered_count, self.filtered_count);
    }

    fn expire_one(&mut self, sequence: u64) {
        if self.keeps_expired {
            self.model.get_mut(&sequence).unwrap().0 = Where::Exhausted;
            self.set_aside.insert(sequence, Reason::Expired);
            assert_eq!(self.state.reason_of(sequence), Some(Reason::Expired));
        } else {
            self.model.remove(&sequence);
            self.failures.remove(&sequence);
            self.expired_count += 1;
        }
    }

    fn finish(&mut self, pick: u8) {
        let Some((sequence, place)) = self.some_message(pick) else { return };
        match place {
            Where::InFlight { key, recall, .. } => {
                let now = self.clocks();
                assert_eq!(self.state.finish(key + 1, sequence, now), Err(AckError::NotOwner));
                assert_eq!(self.state.finish(key, sequence, now), Ok(()));
                assert_eq!(self.state.finish(key, sequence, now), Err(AckError::NotInFlight));
                self.latencies.push((now.wall_ns - published_at(sequence)) as u64);
                match recall {
                    Recall::HandOut => {
                        self.model.get_mut(&sequence).unwrap().0 = Where::Ready;
                        self.due_based.remove(&sequence);
                    }
                    Recall::No | Recall::Finish => {
                        self.model.remove(&sequence);
                        self.failures.remove(&sequence);
                    }
                }
            }
            _ => assert_eq!(self.state.finish(0, sequence, self.clocks()), Err(AckError::NotInFlight)),
        }
    }

    fn requeue(&mut self, pick: u8, delay: u64) {
        let Some((sequence, Where::InFlight { key, recall, .. })) = self.some_message(pick) else { return };
        let requeued = self.state.requeue(key, sequence, delay, self.now).unwrap();
        if recall == Recall::Finish {
            assert_eq!(requeued, None);
            self.model.remove(&sequence);
            return;
        }
        if recall == Recall::HandOut && delay == 0 {
            assert_eq!(requeued, None);
            self.model.get_mut(&sequence).unwrap().0 = Where::Ready;
            return;
        }
        let failures = self.fail(sequence);
        let delay = match (self.is_exhausted(sequence), delay) {
            (true, _) => 0,
            (false, 0) => self.retry_delay,
            (false, delay) => delay,
        };
        let ready = self.ready(sequence);
        let (place, seen) = self.model.get_mut(&sequence).unwrap();
        assert_eq!(requeued, Some(Requeued { attempts: *seen, failures, delay }));
        *place = if delay == 0 { ready } else { Where::Deferred { due: self.now + delay } };
        if delay > 0 {
            self.passed.insert(sequence);
        }
    }

    fn reject(&mut self, pick: u8) {
        let Some((sequence, place)) = self.some_message(pick) else { return };
        let Where::InFlight { key, recall, .. } = place else {
            assert_eq!(self.state.reject(0, sequence, ""), Err(AckError::NotInFlight));
            return;
        };
        let error = "no such tenant";
        assert_eq!(self.state.reject(key + 1, sequence, error), Err(AckError::NotOwner));
        assert_eq!(self.state.reject(key, sequence, error), Ok(()));
        let (place, _) = self.model.get_mut(&sequence).unwrap();
        match recall {
            Recall::HandOut => {
                *place = Where::Ready;
                self.due_based.remove(&sequence);
            }
            Recall::Finish => {
                self.model.remove(&sequence);
                self.failures.remove(&sequence);
            }
            Recall::No => {
                *place = Where::Exhausted;
                self.set_aside.insert(sequence, Reason::Rejected);
                assert_eq!(self.state.reason_of(sequence), Some(Reason::Rejected));
                assert_eq!(self.state.error_of(sequence), Some(error));
            }
        }
    }

    fn cancel(&mut self, pick: u8) {
        let Some((sequence, place)) = self.some_message(pick) else { return };
        let before = self.state.counters().cancelled_count;
        let cancelled = self.state.cancel(sequence);
        match place {
            Where::InFlight { key, .. } => assert_eq!(cancelled, Err(NotChanged::InFlight(key))),
            Where::Departing => assert_eq!(cancelled, Err(NotChanged::Leaving)),
            _ => {
                assert!(cancelled.is_ok());
                assert_eq!(self.state.cancel(sequence), Err(NotChanged::Unknown));
                assert_eq!(self.state.fate_of(sequence), Some(Fate::Cancelled));
                assert_eq!(self.state.counters().cancelled_count, before + 1);
                self.model.remove(&sequence);
                self.failures.remove(&sequence);
                self.set_aside.remove(&sequence);
                self.due_based.remove(&sequence);
            }
        }
    }

    fn reschedule(&mut self, pick: u8, delay: u64) {
        let Some((sequence, place)) = self.some_message(pick) else { return };
        let rescheduled = self.state.reschedule(sequence, delay, self.now);
        let failures = self.failures.get(&sequence).copied().unwrap_or(0);
        let due = (delay > 0).then_some(self.now + delay);
        let (stands, seen) = self.model.get_mut(&sequence).unwrap();
        match place {
            Where::InFlight { key, .. } => assert_eq!(rescheduled, Err(NotChanged::InFlight(key))),
            Where::Departing | Where::Exhausted => assert_eq!(rescheduled, Err(NotChanged::Leaving)),
            Where::Ready if delay == 0 => assert_eq!(rescheduled.unwrap().1, None),
            Where::Ready | Where::Deferred { .. } => {
                assert_eq!(rescheduled.unwrap().1, Some(Rescheduled { attempts: *seen, failures, due }));
                *stands = due.map_or(Where::Ready, |due| Where::Deferred { due });
                if due.is_none() && *seen == 0 {
                    self.due_based.insert(sequence, self.now);
                }
            }
        }
    }

    /// Messages that are set aside do not become dead letters.
    fn forgive(&mut self) {
        for sequence in self.exhausted() {
            self.failures.remove(&sequence);
            match self.set_aside.remove(&sequence) {
                Some(Reason::Expired) => self.expired_count += 1,
                Some(Reason::Overflow) => self.overflow_count += 1,
                _ => {
                    self.model.get_mut(&sequence).unwrap().0 = Where::Ready;
                    continue;
                }
            }
            self.model.remove(&sequence);
        }
    }

    /// After a change of the policy: only rejected messages become dead letters, if nothing else does any more.
    fn forgive_by_policy(&mut self) {
        let keeps_overflow = !self.bound.is_off() && self.bound.overflow == Overflow::DeadLetter;
        if self.max_attempts > 0 || self.keeps_expired || keeps_overflow {
            return;
        }
        for sequence in self.exhausted() {
            match self.set_aside.get(&sequence) {
                Some(Reason::Rejected) => continue,
                Some(Reason::Expired) => {
                    self.model.remove(&sequence);
                    self.failures.remove(&sequence);
                    self.expired_count += 1;
                }
                reason => {
                    if reason.is_none() {
                        self.failures.remove(&sequence);
                    }
                    self.model.get_mut(&sequence).unwrap().0 = Where::Ready;
                }
            }
            self.set_aside.remove(&sequence);
        }
    }

    fn exhausted(&self) -> Vec<u64> {
        let exhausted = self.model.iter().filter(|(_, (place, _))| *place == Where::Exhausted);
        exhausted.map(|(&sequence, _)| sequence).collect()
    }

    fn exhaust_all(&mut self) {
        let all: Vec<u64> =
            self.model.keys().copied().filter(|&sequence| self.is_exhausted(sequence)).collect();
        for sequence in all {
            if let Some((place @ (Where::Ready | Where::Deferred { .. }), _)) = self.model.get_mut(&sequence)
            {
                *place = Where::Exhausted;
            }
        }
    }

    /// What upkeep does, and each take.
    fn expire(&mut self) {
        self.state.expire_before(self.expired_before);
        self.state.expire_waiting(self.now);
        let is_expired = |sequence: &u64, place: &Where| {
            *place == Where::Ready
                && *sequence < self.expired_before
                && !self.due_based.contains_key(sequence)
        };
        let all = self.model.iter().filter(|(sequence, (place, _))| is_expired(sequence, place));
        let expired: Vec<u64> = all.map(|(&sequence, _)| sequence).collect();
        expired.into_iter().for_each(|sequence| self.expire_one(sequence));
        assert_eq!(self.state.counters().expired_count, self.expired_count);
    }

    fn depart(&mut self, share: u8, count: u8) {
        let from = 100 + (self.end - 100) * u64::from(share) / 255;
        let (sequences, _) = self.state.departable(from, self.end, usize::from(count));
        let can_depart = |place: &Where| !matches!(place, Where::InFlight { .. } | Where::Departing);
        let expected = self.model.range(from..).filter(|(_, (place, _))| can_depart(place));
        let expected: Vec<(u64, u16)> = expected
            .filter(|(sequence, _)| sequences.contains(sequence))
            .map(|(&sequence, &(_, attempts))| (sequence, attempts))
            .collect();
        assert_eq!(expected.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), sequences);
        // Others are left out.
        let all: Vec<u64> = (from..self.end)
            .filter(|sequence| {
                sequences.contains(sequence)
                    || !self.model.get(sequence).is_some_and(|(place, _)| can_depart(place))
            })
            .collect();
        let departed = self.state.depart(&all);
        let departed: Vec<(u64, u16)> = departed.iter().map(|gone| (gone.sequence, gone.attempts)).collect();
        assert_eq!(departed, expected);
        for (sequence, _) in expected {
            self.due_based.remove(&sequence);
            self.model.get_mut(&sequence).unwrap().0 = Where::Departing;
        }
    }

    fn end_departure(&mut self, is_gone: bool) {
        let departing = self.model.iter().filter(|(_, (place, _))| *place == Where::Departing);
        let departing: Vec<Departed> =
            departing.map(|(&sequence, &(_, attempts))| Departed { sequence, attempts }).collect();
        if is_gone {
            self.state.departed(&departing, Fate::MovedAway);
        } else {
            self.state.put_back(&departing);
        }
        for Departed { sequence, .. } in departing {
            if is_gone {
                self.model.remove(&sequence);
                self.failures.remove(&sequence);
            } else {
                let is_set_aside = self.set_aside.contains_key(&sequence);
                let place = if is_set_aside { Where::Exhausted } else { self.ready(sequence) };
                self.model.get_mut(&sequence).unwrap().0 = place;
            }
        }
        if !is_gone {
            self.forgive_by_policy();
        }
    }

    /// A clean stop and start: messages in flight come back, everything else stays.
    fn restart(&mut self) {
        for key in std::mem::take(&mut self.ready_counts).into_keys() {
            while !self.state.remove_consumer(key, 2) {}
        }
        self.give_back(|place| matches!(place, Where::InFlight { .. }));
        // The record of their departure is in the journal.
        self.model.retain(|_, (place, _)| *place != Where::Departing);
        self.failures.retain(|sequence, _| self.model.contains_key(sequence));
        self.set_aside.clear();
        let used_up: Vec<u64> =
            self.model.keys().copied().filter(|&sequence| self.is_exhausted(sequence)).collect();
        for (sequence, (place, _)) in &mut self.model {
            // That a message has expired is found again.
            if *place == Where::Exhausted && used_up.binary_search(sequence).is_err() {
                *place = Where::Ready;
            }
        }
        let saved = self.state.save(self.clocks());
        let clocks = self.clocks();
        let due = |due_ns| clocks.to_future(due_ns, u64::MAX / 4);
        // Handed out never, and behind the cursor: they were deferred. When they were due is not known any more.
        let were_due =
            saved.outstanding.iter().filter(|entry| entry.attempts == 0 && due(entry.due_ns).is_none());
        self.due_based = were_due.map(|entry| (entry.sequence, 0)).collect();
        let mut state = ChannelState::restore(&saved, self.end, MAX_TIMEOUT, due);
        state.recovered();
        assert_eq!(state.save(self.clocks()), saved);
        // A message that is due now is not deferred any more.
        state.expire(self.now, usize::MAX);
        self.state = state;
        self.state.set_policy(self.policy(), self.now);
        self.exhaust_all();
        self.shed();
        self.expire();
        self.state.measure_latencies(LATENCY_WINDOW);
        self.latencies.clear();
        // The bucket is full again.
        self.rated = (self.now, 0);
    }

    /// Looking shows all unfinished messages, and where each stands.
    fn check_looks(&self) {
        let (mut seen, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = self.state.look(from, 3, Wanted::ALL, &mut seen);
        }
        let staying = self.model.iter().filter(|(_, (place, _))| *place != Where::Departing);
        let staying: Vec<(u64, u16)> =
            staying.map(|(&sequence, &(_, attempts))| (sequence, attempts)).collect();
        let found: Vec<(u64, u16)> = seen.iter().map(|seen| (seen.sequence, seen.attempts)).collect();
        assert_eq!(found, staying);
        for Seen { sequence, standing, .. } in &seen {
            assert_eq!(self.state.standing(*sequence), Some(*standing));
            let is_right = match (self.model[sequence].0, standing) {
                (Where::Ready, Standing::Ahead | Standing::Waiting) => {
                    self.state.turn_of(*sequence).is_some_and(|turn| turn.before < self.state.depth())
                }
                (
                    Where::InFlight { key, deadline, .. },
                    Standing::InFlight { owner, deadline: until, .. },
                ) => key == *owner && deadline == *until,
                (Where::Deferred { due }, Standing::Deferred { due: until }) => due == *until,
                (Where::Exhausted, Standing::SetAside(_)) => true,
                _ => false,
            };
            assert!(is_right, "{sequence}: {standing:?}, {:?}", self.model[sequence]);
        }
        let (mut back, mut before) = (Vec::new(), Some(u64::MAX));
        while let Some(at) = before {
            before = self.state.look_back(at, 3, Wanted::ALL, &mut back);
        }
        back.reverse();
        assert_eq!(back, seen);
        let only_deferred = Wanted { deferred: true, ..Wanted::NONE };
        let mut deferred = Vec::new();
        assert_eq!(self.state.look(0, usize::MAX, only_deferred, &mut deferred), None);
        assert_eq!(deferred.len(), self.state.deferred_count());
        let finished = self.state.finished_between(SequenceRange::new(100, self.end + 5));
        let finished: Vec<u64> = finished.into_iter().flat_map(SequenceRange::iter).collect();
        let expected = (100..self.end).filter(|sequence| !self.model.contains_key(sequence));
        assert_eq!(finished, expected.collect::<Vec<_>>());
    }

    fn check(&self) {
        let ready = self.model.values().filter(|(place, _)| *place == Where::Ready).count() as u64;
        let deferred =
            self.model.values().filter(|(place, _)| matches!(place, Where::Deferred { .. })).count();
        let in_flight =
            self.model.values().filter(|(place, _)| matches!(place, Where::InFlight { .. })).count();
        assert_eq!(self.state.depth(), ready);
        let held = ready + deferred as u64 + in_flight as u64;
        assert_eq!(self.state.held(&Sizes::default()), Amount { messages: held, bytes: 0 });
        assert_eq!(self.state.counters().overflow_count, self.overflow_count);
        assert_eq!(self.state.deferred_count(), deferred);
        assert_eq!(self.state.in_flight_count(), in_flight);
        let exhausted = self.model.iter().filter(|(_, (place, _))| *place == Where::Exhausted);
        let exhausted: Vec<u64> = exhausted.map(|(&sequence, _)| sequence).collect();
        assert_eq!(self.state.exhausted(usize::MAX), exhausted);
        let pending = |sequence: &u64| {
            let place = self.model.get(sequence).map(|(place, _)| *place);
            self.set_aside.get(sequence) == Some(&Reason::Rejected)
                && matches!(place, Some(Where::Exhausted | Where::Departing))
        };
        for sequence in 100..self.end {
            assert_eq!(self.state.error_of(sequence).is_some(), pending(&sequence), "{sequence}");
        }
        for sequence in self.model.keys() {
            let failures = self.failures.get(sequence).copied().unwrap_or(0);
            let is_departing = self.model[sequence].0 == Where::Departing;
            assert!(is_departing || self.state.failures_of(*sequence) == failures, "{sequence}");
        }
        let needed = self.state.needed(0, self.end, usize::MAX);
        let needed: Vec<u64> = needed.into_iter().flat_map(SequenceRange::iter).collect();
        assert_eq!(needed, self.model.keys().copied().collect::<Vec<_>>());
        self.check_looks();
        let oldest = self.model.keys().next().copied().unwrap_or(self.end);
        assert!(self.state.lowest_needed() <= oldest, "the log would delete a message that is needed");
        let deadline = self.model.values().filter_map(|(place, _)| match place {
            Where::InFlight { deadline, .. } => Some(*deadline),
            Where::Deferred { due } => Some(*due),
            Where::Ready | Where::Exhausted | Where::Departing => None,
        });
        let throttled = self.state.throttle_report(self.now).and_then(|throttle| throttle.throttled_until);
        let deadline = deadline.chain(throttled).min();
        assert!(
            self.state.next_deadline().unwrap_or(u64::MAX) <= deadline.unwrap_or(u64::MAX),
            "the deadline would be missed"
        );
        if deadline.is_none() {
            assert!(self.state.next_deadline().is_none_or(|at| at <= self.now + TIMEOUT));
        }
        for (&key, &rdy) in &self.ready_counts {
            let consumer = self.state.consumers().get(key).unwrap();
            assert_eq!(consumer.in_flight_count, self.in_flight(key));
            assert_eq!(consumer.ready_count, rdy);
        }
        let mut measured = no_latencies();
        self.state.add_latencies_to(&mut measured, self.now);
        assert_eq!(measured.len(), self.latencies.len() as u64);
        let mean = self.latencies.iter().map(|&latency| latency as f64).sum::<f64>() / measured.len() as f64;
        assert!(measured.is_empty() || (measured.mean() - mean).abs() < mean / 100.0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn channel_behaves_like_the_model(steps in proptest::collection::vec(step(), 1..120)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.apply(step);
            pair.check();
        }
    }

    #[test]
    fn parked_consumers_get_all_released_messages(consumers in 1usize..6, batches in proptest::collection::vec(1u64..40, 1..30)) {
        let mut state = ChannelState::new(1, MAX_TIMEOUT);
        let keys: Vec<_> = (0..consumers).map(|_| state.add_consumer(TIMEOUT, 0, Locality::Global)).collect();
        let mut source = AnySource::default();
        for &key in &keys {
            state.set_ready_count(key, 2500);
            state.take(key, 0, &mut source);
        }
        let mut end = 1;
        for batch in batches {
            end += batch;
            state.release(end, &[], None);
            // Each woken consumer takes once. The chain of wakes must leave no message behind.
            while let Some(key) = state.wake_next() {
                let (count, _) = state.take(key, 0, &mut source);
                prop_assert!(count > 0);
            }
            prop_assert_eq!(state.depth(), 0);
        }
        prop_assert_eq!(source.given.len() as u64, end - 1);
    }
}

#[test]
fn no_consumer_is_woken_until_the_disk_read_ends() {
    let mut state = ChannelState::new(1, MAX_TIMEOUT);
    let keys = [(); 2].map(|()| state.add_consumer(TIMEOUT, 0, Locality::Global));
    keys.iter().for_each(|&key| state.set_ready_count(key, 10));
    state.release(5, &[], None);
    let mut on_disk = AnySource { in_memory: 0, ..AnySource::default() };
    assert_eq!(state.take(keys[0], 0, &mut on_disk), (0, TakeEnd::OnDisk));
    state.take(keys[1], 0, &mut on_disk);
    state.release(6, &[], None);
    assert_eq!(state.wake_next(), None);
    state.set_unstalled();
    assert_eq!(state.wake_next(), Some(keys[0]));
    assert_eq!(state.take(keys[0], 0, &mut AnySource::default()).0, 3);
    assert_eq!(state.wake_next(), Some(keys[1]));
}

#[test]
fn messages_due_together_are_delivered_in_log_order() {
    let mut state = ChannelState::new(1, MAX_TIMEOUT);
    let key = state.add_consumer(TIMEOUT, 0, Locality::Global);
    state.set_ready_count(key, 100);
    for (sequence, due) in [(1, 9), (2, 3), (3, 7), (4, 5), (5, 100)] {
        state.release(sequence + 1, &[Mark::Deferred { from: sequence, to: sequence + 1, due }], None);
    }
    state.expire(10, usize::MAX);
    let mut source = AnySource::default();
    state.take(key, 10, &mut source);
    assert_eq!(source.given.iter().map(|(sequence, _)| *sequence).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[test]
fn waiting_messages_are_sorted_and_later_ones_stay_behind() {
    let mut state = ChannelState::new(1, MAX_TIMEOUT);
    let key = state.add_consumer(TIMEOUT, 0, Locality::Global);
    state.set_ready_count(key, 100);
    state.release(11, &[], None);
    state.take(key, 0, &mut AnySource::default());
    for sequence in [8, 2, 6, 4] {
        state.requeue(key, sequence, 0, 0).unwrap();
    }
    state.sort_waiting();
    state.requeue(key, 1, 0, 0).unwrap();
    state.sort_waiting();
    assert_eq!(state.waiting_sequences().collect::<Vec<_>>(), [2, 4, 6, 8, 1]);
    state.release(12, &[], None);
    state.requeue(key, 3, 0, 0).unwrap();
    assert_eq!(
        state.waiting_sequences().collect::<Vec<_>>(),
        [2, 4, 6, 8, 1],
        "its turn is after the released messages"
    );
}
