//! Cost of a message in a channel's state alone: no log, no journal, no lock.
//! `cargo bench -p nsqd --bench channel`; instructions instead of time: `nsqd/benches/instructions`.
//!
//! `instructions` counts only the functions called `measured_...`; the code around them is preparation.

use divan::Bencher;
use divan::counter::ItemsCount;
use nsq_protocol::headers::Headers;
use nsqd::channel::saved::Clocks;
use nsqd::channel::{ChannelState, ConsumerKey};
use nsqd::locality::Locality;
use nsqd::log::{Source, Supplied, Supply};
use nsqd::policy::effective::ChannelPolicy;
use nsqd::policy::ordering::{Ordering, Rule};

fn main() {
    divan::main();
}

const SECOND: u64 = 1_000_000_000;
const NOW: Clocks = Clocks { monotonic: SECOND, wall_ns: 0 };
/// Messages handled in one iteration.
const BATCH: u64 = 1000;
/// Other messages in flight or deferred, besides the handled ones.
const OUTSTANDING: [u64; 3] = [0, 1_000, 1_000_000];

/// Supplies every requested message.
struct Endless;

impl Source for Endless {
    fn first(&mut self, _from: u64, max_count: u64) -> Supply {
        Supply::Given(max_count)
    }

    fn again(&mut self, _sequence: u64, _attempts: u16) -> Supply {
        Supply::Given(1)
    }
}

/// Supplies every requested message with headers of its own.
struct Keyed {
    headers: Vec<String>,
    /// Messages supplied last.
    given: u64,
    handed_out: Vec<u64>,
}

impl Source for Keyed {
    fn first(&mut self, _from: u64, max_count: u64) -> Supply {
        self.given = max_count.min(200);
        Supply::Given(self.given)
    }

    fn again(&mut self, _sequence: u64, _attempts: u16) -> Supply {
        self.given = 1;
        Supply::Given(1)
    }

    fn retain(&mut self, first: u64, mut is_kept: impl FnMut(Supplied<'_>) -> bool) -> usize {
        for sequence in first..first + self.given {
            let json = &self.headers[sequence as usize % self.headers.len()];
            let headers = Some(Headers::trusted(json.as_bytes()));
            if is_kept(Supplied { sequence, headers, own_ttl: None }) {
                self.handed_out.push(sequence);
            }
        }
        0
    }
}

/// A channel with one consumer that holds `outstanding` messages, and `ahead` more ready for delivery.
fn channel(outstanding: u64, ahead: u64) -> (ChannelState, ConsumerKey) {
    let mut state = ChannelState::new(0, 900 * SECOND);
    let key = state.add_consumer(60 * SECOND, 0, Locality::default());
    state.set_ready_count(key, u64::MAX);
    state.release(outstanding, &[], None);
    state.take(key, 0, &mut Endless);
    state.release(outstanding + ahead, &[], None);
    (state, key)
}

/// The same channel, with `count` further messages in flight too.
fn in_flight(outstanding: u64, count: u64) -> (ChannelState, ConsumerKey) {
    let (mut state, key) = channel(outstanding, count);
    state.take(key, SECOND, &mut Endless);
    (state, key)
}

#[divan::bench(args = OUTSTANDING)]
fn take(bencher: Bencher, outstanding: u64) {
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| channel(outstanding, BATCH))
        .bench_local_refs(|(state, key)| measured_take(state, *key));
}

#[inline(never)]
fn measured_take(state: &mut ChannelState, key: ConsumerKey) -> u64 {
    state.take(key, SECOND, &mut Endless).0
}

#[divan::bench(args = OUTSTANDING)]
fn finish(bencher: Bencher, outstanding: u64) {
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| in_flight(outstanding, BATCH))
        .bench_local_refs(|(state, key)| measured_finish(state, *key, outstanding));
}

#[inline(never)]
fn measured_finish(state: &mut ChannelState, key: ConsumerKey, from: u64) {
    for sequence in from..from + BATCH {
        let _ = divan::black_box(state.finish(key, sequence, NOW));
    }
    divan::black_box(state.drain_finished());
}

/// Requeues every message with REQ 0 and takes it again.
#[divan::bench(args = OUTSTANDING)]
fn requeue(bencher: Bencher, outstanding: u64) {
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| in_flight(outstanding, BATCH))
        .bench_local_refs(|(state, key)| measured_requeue(state, *key, outstanding));
}

#[inline(never)]
fn measured_requeue(state: &mut ChannelState, key: ConsumerKey, from: u64) -> u64 {
    for sequence in from..from + BATCH {
        let _ = divan::black_box(state.requeue(key, sequence, 0, SECOND));
    }
    state.take(key, SECOND, &mut Endless).0
}

/// Defers every message by a REQ with a delay, until it is due.
#[divan::bench(args = OUTSTANDING)]
fn defer(bencher: Bencher, outstanding: u64) {
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| in_flight(outstanding, BATCH))
        .bench_local_refs(|(state, key)| measured_defer(state, *key, outstanding));
}

#[inline(never)]
fn measured_defer(state: &mut ChannelState, key: ConsumerKey, from: u64) {
    for sequence in from..from + BATCH {
        let _ = divan::black_box(state.requeue(key, sequence, SECOND + sequence, SECOND));
    }
    divan::black_box(state.expire(3 * SECOND, usize::MAX));
}

/// Times out messages in flight.
#[divan::bench(args = OUTSTANDING)]
fn time_out(bencher: Bencher, outstanding: u64) {
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| {
            let (mut state, key) = channel(outstanding, BATCH);
            // The other messages have a much later deadline.
            let other = state.add_consumer(SECOND, 0, Locality::default());
            state.set_ready_count(other, u64::MAX);
            state.set_ready_count(key, 0);
            state.take(other, SECOND, &mut Endless);
            state
        })
        .bench_local_refs(measured_time_out);
}

#[inline(never)]
fn measured_time_out(state: &mut ChannelState) {
    divan::black_box(state.expire(2 * SECOND, usize::MAX));
}

/// Takes and finishes messages in order by key. `keys`: how many different ones there are; with few, most messages wait for
/// the one before.
#[divan::bench(args = [10, 10_000])]
fn ordered(bencher: Bencher, keys: u64) {
    let headers: Vec<String> = (0..keys)
        .map(|key| format!(r#"{{"trace":"4bf92f3577b34da6","nsq-key":"customer {key}"}}"#))
        .collect();
    bencher
        .counter(ItemsCount::new(BATCH))
        .with_inputs(|| {
            let (mut state, key) = channel(0, 0);
            let ordering = Ordering { rule: Rule::Key, skips_requeued: false };
            state.set_policy(ChannelPolicy { ordering: Some(ordering), ..ChannelPolicy::default() }, 0);
            state.release(BATCH, &[], None);
            (state, key, Keyed { headers: headers.clone(), given: 0, handed_out: Vec::new() })
        })
        .bench_local_refs(|(state, key, source)| measured_ordered(state, *key, source));
}

#[inline(never)]
fn measured_ordered(state: &mut ChannelState, key: ConsumerKey, source: &mut Keyed) {
    let mut finished = 0;
    while finished < BATCH {
        state.take(key, SECOND, source);
        for sequence in source.handed_out.drain(..) {
            let _ = divan::black_box(state.finish(key, sequence, NOW));
            finished += 1;
        }
        divan::black_box(state.drain_finished());
    }
}
