//! Topology-aware delivery: the nearest consumers come first, and a consumer that does not take blocks no one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::consumers::ConsumerKey;
use super::saved::Clocks;
use super::state::ChannelState;
use super::take::TakeEnd;
use crate::locality::Locality;
use crate::log::{Source, Supply};

const TIMEOUT: u64 = 1_000;

#[derive(Debug, Clone)]
enum Step {
    Publish(u64),
    /// A consumer subscribes with a RDY count, and tries to take.
    Subscribe(Locality, u64),
    Leave(usize),
    Ready(usize, u64),
    /// A consumer finishes some of its messages, and tries to take more.
    Finish(usize, usize),
    /// A consumer's client stops reading, so that its output has no room, or reads again.
    Stick(usize, bool),
    /// Everything in flight times out.
    TimeOut,
}

fn step() -> impl Strategy<Value = Step> {
    let locality = prop::sample::select(vec![Locality::Zone, Locality::Region, Locality::Global]);
    prop_oneof![
        6 => (1u64..20).prop_map(Step::Publish),
        2 => (locality, 0u64..8).prop_map(|(locality, ready_count)| Step::Subscribe(locality, ready_count)),
        1 => any::<usize>().prop_map(Step::Leave),
        2 => (any::<usize>(), 0u64..8).prop_map(|(who, ready_count)| Step::Ready(who, ready_count)),
        6 => (any::<usize>(), 1usize..10).prop_map(|(who, count)| Step::Finish(who, count)),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(who, is_stuck)| Step::Stick(who, is_stuck)),
        1 => Just(Step::TimeOut),
    ]
}

/// A consumer in the naive model.
#[derive(Debug, Clone)]
struct Consumer {
    locality: Locality,
    ready_count: u64,
    is_stuck: bool,
    in_flight: Vec<u64>,
}

impl Consumer {
    fn room(&self) -> u64 {
        self.ready_count.saturating_sub(self.in_flight.len() as u64)
    }
}

struct Output {
    is_stuck: bool,
    given: Vec<u64>,
}

impl Output {
    fn give(&mut self, from: u64, count: u64) -> Supply {
        if self.is_stuck {
            return Supply::Full;
        }
        self.given.extend(from..from + count);
        Supply::Given(count)
    }
}

impl Source for Output {
    fn first(&mut self, from: u64, max_count: u64) -> Supply {
        self.give(from, max_count)
    }

    fn again(&mut self, sequence: u64, _attempts: u16) -> Supply {
        self.give(sequence, 1)
    }
}

struct Model {
    state: ChannelState,
    consumers: BTreeMap<ConsumerKey, Consumer>,
    end: u64,
    now: u64,
    given_to: [u64; 3],
}

impl Model {
    fn new() -> Self {
        let state = ChannelState::new(1, u64::MAX);
        Model { state, consumers: BTreeMap::new(), end: 1, now: 0, given_to: [0; 3] }
    }

    fn pick(&self, number: usize) -> Option<ConsumerKey> {
        let keys: Vec<_> = self.consumers.keys().copied().collect();
        (!keys.is_empty()).then(|| keys[number % keys.len()])
    }

    fn subscribe(&mut self, locality: Locality, ready_count: u64) -> ConsumerKey {
        let key = self.state.add_consumer(TIMEOUT, 0, locality);
        self.state.set_ready_count(key, ready_count);
        self.consumers
            .insert(key, Consumer { locality, ready_count, is_stuck: false, in_flight: Vec::new() });
        self.try_take(key);
        key
    }

    fn publish(&mut self, count: u64) {
        self.end += count;
        self.state.release(self.end, &[], None);
        self.wake_all();
    }

    /// A consumer takes, as a connection does that was woken or has room again.
    fn try_take(&mut self, key: ConsumerKey) {
        let consumer = &self.consumers[&key];
        let mut output = Output { is_stuck: consumer.is_stuck, given: Vec::new() };
        let (count, end) = self.state.take(key, self.now, &mut output);
        assert_eq!(count, output.given.len() as u64);
        assert!(count <= consumer.room(), "RDY exceeded");
        assert!(end != TakeEnd::Full || consumer.is_stuck);
        if count > 0 {
            // Enough messages remain for the nearer consumers that read.
            let nearer = self.consumers.values().filter(|other| other.locality < consumer.locality);
            let wanted: u64 = nearer.filter(|other| !other.is_stuck).map(Consumer::room).sum();
            assert!(self.state.depth() >= wanted, "took messages that a nearer consumer has room for");
        }
        self.given_to[consumer.locality as usize] += count;
        self.consumers.get_mut(&key).unwrap().in_flight.extend(output.given);
    }

    fn wake_all(&mut self) {
        while let Some(key) = self.state.wake_next() {
            self.try_take(key);
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish(count) => self.publish(count),
            Step::Subscribe(locality, ready_count) => _ = self.subscribe(locality, ready_count),
            Step::Leave(number) => {
                if let Some(key) = self.pick(number) {
                    self.state.remove_consumer(key, usize::MAX);
                    self.consumers.remove(&key);
                }
            }
            Step::Ready(number, ready_count) => {
                if let Some(key) = self.pick(number) {
                    self.state.set_ready_count(key, ready_count);
                    self.consumers.get_mut(&key).unwrap().ready_count = ready_count;
                    self.try_take(key);
                }
            }
            Step::Finish(number, count) => {
                if let Some(key) = self.pick(number) {
                    let now = Clocks { monotonic: self.now, wall_ns: 0 };
                    let in_flight = &mut self.consumers.get_mut(&key).unwrap().in_flight;
                    for sequence in in_flight.drain(..count.min(in_flight.len())) {
                        self.state.finish(key, sequence, now).unwrap();
                    }
                    self.try_take(key);
                }
            }
            Step::Stick(number, is_stuck) => {
                if let Some(key) = self.pick(number) {
                    self.consumers.get_mut(&key).unwrap().is_stuck = is_stuck;
                    self.try_take(key);
                }
            }
            Step::TimeOut => {
                self.now += TIMEOUT;
                for key in self.state.expire(self.now, usize::MAX) {
                    self.consumers.get_mut(&key).unwrap().in_flight.clear();
                    self.try_take(key);
                }
            }
        }
        self.wake_all();
    }

    fn check(&self) {
        let room: u64 = self.consumers.values().filter(|one| !one.is_stuck).map(Consumer::room).sum();
        assert!(
            self.state.depth() == 0 || room == 0,
            "{} messages wait, but consumers have room for {room}",
            self.state.depth()
        );
        for locality in [Locality::Zone, Locality::Region, Locality::Global] {
            let mine = self.consumers.values().filter(|one| one.locality == locality);
            let eligible = mine.filter(|one| one.room() > 0).count();
            assert_eq!(self.state.consumers().eligible_count(locality), eligible);
            assert_eq!(self.state.consumers().message_count(locality), self.given_to[locality as usize]);
        }
    }
}

proptest! {
    #[test]
    fn nearest_consumers_come_first_and_none_starves(steps in prop::collection::vec(step(), 1..100)) {
        let mut model = Model::new();
        for step in steps {
            model.apply(step);
            model.check();
        }
    }
}

#[test]
fn zone_then_region_then_the_others_each_up_to_its_ready_count() {
    let mut model = Model::new();
    let localities = [Locality::Global, Locality::Zone, Locality::Region, Locality::Zone];
    let keys = localities.map(|locality| model.subscribe(locality, 3));
    let mut seen = Vec::new();
    for _ in 0..16 {
        let before: Vec<usize> = keys.iter().map(|key| model.consumers[key].in_flight.len()).collect();
        model.publish(1);
        let changed =
            keys.iter().zip(before).position(|(key, count)| model.consumers[key].in_flight.len() > count);
        seen.extend(changed);
    }
    assert_eq!(seen, [1, 3, 1, 3, 1, 3, 2, 2, 2, 0, 0, 0]);
    assert_eq!(model.state.depth(), 4);
}

#[test]
fn messages_beyond_near_capacity_go_to_far_consumers_at_once() {
    let mut model = Model::new();
    let near = model.subscribe(Locality::Zone, 2);
    let far = model.subscribe(Locality::Global, 10);
    model.publish(6);
    assert_eq!((model.consumers[&near].in_flight.len(), model.consumers[&far].in_flight.len()), (2, 4));
    model.consumers.get_mut(&near).unwrap().is_stuck = true;
    model.apply(Step::Finish(0, 2));
    model.publish(3);
    assert_eq!((model.consumers[&near].in_flight.len(), model.consumers[&far].in_flight.len()), (0, 7));
}
