//! Pure: how many messages a channel may hand out now: a token bucket, and a limit of messages in flight.
//!
//! The bucket holds at most `burst` messages, and the beginning of the next one. So a take that comes late, because of a
//! late timer, loses nothing as long as it is late by less than the time of one message.

use crate::clock::Nanos;
use crate::policy::rate::{Limits, Rate};

/// After the bucket was empty, consumers are woken not before it has what is allowed in this time (if its burst is not
/// smaller): a high rate does not wake them for each single message.
const LEAST_WAIT: Nanos = 1_000_000;

/// A token bucket; see the module.
#[derive(Debug, Clone)]
pub struct Bucket {
    rate: Rate,
    /// Between how many nodes a total rate is divided.
    nodes: u64,
    burst: u64,
    /// In parts of a message: see [`Bucket::cost`].
    level: u128,
    /// When `level` was right.
    at: Nanos,
}

impl Bucket {
    /// A full bucket.
    pub fn new(rate: Rate, burst: u64, nodes: u64, now: Nanos) -> Self {
        let nodes = if rate.is_total { nodes.max(1) } else { 1 };
        let burst = if burst == 0 { rate.default_burst() } else { burst };
        let mut bucket = Bucket { rate, nodes, burst, level: 0, at: now };
        bucket.level = u128::from(burst) * bucket.cost();
        bucket
    }

    /// Changes its rate. It gets no fuller by that.
    pub fn change(&mut self, rate: Rate, burst: u64, nodes: u64, now: Nanos) {
        self.fill(now);
        let before = std::mem::replace(self, Bucket::new(rate, burst, nodes, self.at));
        // The same number of messages, in the parts of the new rate.
        let (messages, rest) = (before.level / before.cost(), before.level % before.cost());
        self.level = (messages * self.cost() + rest * self.cost() / before.cost()).min(self.most());
    }

    /// How many messages may be handed out at `now`.
    pub fn available(&mut self, now: Nanos) -> u64 {
        self.fill(now);
        u64::try_from(self.level / self.cost()).unwrap_or(u64::MAX)
    }

    /// These messages were handed out, at most as many as were available.
    pub fn take(&mut self, count: u64) {
        self.level = self.level.saturating_sub(u128::from(count) * self.cost());
    }

    /// When an empty bucket has messages again.
    pub fn ready_at(&self) -> Nanos {
        let in_least_wait = u128::from(LEAST_WAIT) * self.gain() / self.cost();
        let wanted = in_least_wait.clamp(1, u128::from(self.burst)) * self.cost();
        let wait = wanted.saturating_sub(self.level).div_ceil(self.gain());
        self.at.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// Parts that the bucket gains in a nanosecond.
    fn gain(&self) -> u128 {
        u128::from(self.rate.count.get())
    }

    /// Parts of one message.
    fn cost(&self) -> u128 {
        u128::from(self.rate.period.nanos()) * u128::from(self.nodes)
    }

    fn most(&self) -> u128 {
        u128::from(self.burst) * self.cost() + self.cost() - 1
    }

    fn fill(&mut self, now: Nanos) {
        let passed = u128::from(now.saturating_sub(self.at));
        self.level = self.level.saturating_add(passed * self.gain()).min(self.most());
        self.at = self.at.max(now);
    }
}

/// What limits the hand-out of a channel.
#[derive(Debug, Clone)]
pub struct Throttle {
    limits: Limits,
    bucket: Option<Bucket>,
    /// Consumers found the bucket empty: since when, and until when they are not woken.
    throttled: Option<(Nanos, Nanos)>,
    throttled_for: Nanos,
    /// How often consumers found it empty.
    throttled_count: u64,
}

/// What limits the hand-out of a channel now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThrottleReport {
    /// The bucket is empty and messages wait: when consumers are woken next.
    pub throttled_until: Option<Nanos>,
    /// For how long messages waited because of the rate, since the limits were set or nsqd started.
    pub throttled_for: Nanos,
    /// How often that happened.
    pub throttled_count: u64,
    /// The limit of messages in flight; 0 for none.
    pub max_in_flight: u64,
    /// It is reached.
    pub is_in_flight_limit_reached: bool,
}

impl Throttle {
    /// `None` if nothing is limited. Keeps what `before` measured, and how full its bucket is.
    pub fn new(limits: Limits, nodes: u64, before: Option<Throttle>, now: Nanos) -> Option<Self> {
        if limits.rate.is_none() && limits.max_in_flight == 0 {
            return None;
        }
        let before_bucket = before.as_ref().and_then(|before| before.bucket.clone());
        let bucket = limits.rate.map(|rate| match before_bucket {
            Some(mut bucket) => {
                bucket.change(rate, limits.burst, nodes, now);
                bucket
            }
            None => Bucket::new(rate, limits.burst, nodes, now),
        });
        let mut throttle = Throttle { limits, bucket, throttled: None, throttled_for: 0, throttled_count: 0 };
        if let Some(before) = before {
            throttle.throttled_for = before.throttled_for;
            throttle.throttled_count = before.throttled_count;
            if let Some((since, _)) = before.throttled {
                throttle.throttled_for += now.saturating_sub(since);
            }
        }
        Some(throttle)
    }

    /// How many messages may be handed out at `now`, while this many are in flight. If the rate allows none, the channel is
    /// throttled until [`Throttle::deadline`].
    pub fn room(&mut self, now: Nanos, in_flight: u64) -> u64 {
        let most = if self.limits.max_in_flight == 0 { u64::MAX } else { self.limits.max_in_flight };
        let in_flight_room = most.saturating_sub(in_flight);
        if in_flight_room == 0 {
            return 0;
        }
        let Some(bucket) = &mut self.bucket else { return in_flight_room };
        let available = bucket.available(now);
        if available == 0 {
            self.stop(now);
        } else {
            self.resume(now);
        }
        available.min(in_flight_room)
    }

    /// These messages were handed out. `has_more` says whether others wait.
    pub fn took(&mut self, count: u64, has_more: bool, now: Nanos) {
        let Some(bucket) = &mut self.bucket else { return };
        bucket.take(count);
        if has_more && bucket.available(now) == 0 {
            self.stop(now);
        }
    }

    /// Whether no consumer is woken, while this many messages are in flight.
    pub fn blocks(&self, in_flight: u64) -> bool {
        self.throttled.is_some() || self.is_in_flight_limit_reached(in_flight)
    }

    /// When consumers can be woken again.
    pub fn deadline(&self) -> Option<Nanos> {
        self.throttled.map(|(_, until)| until)
    }

    /// Time has passed: consumers can be woken if the bucket has messages.
    pub fn expire(&mut self, now: Nanos) {
        if self.throttled.is_some_and(|(_, until)| until <= now) {
            self.resume(now);
        }
    }

    pub fn report(&self, in_flight: u64, now: Nanos) -> ThrottleReport {
        let ongoing = self.throttled.map_or(0, |(since, _)| now.saturating_sub(since));
        ThrottleReport {
            throttled_until: self.deadline(),
            throttled_for: self.throttled_for + ongoing,
            throttled_count: self.throttled_count,
            max_in_flight: self.limits.max_in_flight,
            is_in_flight_limit_reached: self.is_in_flight_limit_reached(in_flight),
        }
    }

    fn is_in_flight_limit_reached(&self, in_flight: u64) -> bool {
        self.limits.max_in_flight > 0 && in_flight >= self.limits.max_in_flight
    }

    fn stop(&mut self, now: Nanos) {
        let Some(bucket) = &self.bucket else { return };
        if self.throttled.is_none() {
            self.throttled_count += 1;
        }
        let since = self.throttled.map_or(now, |(since, _)| since);
        self.throttled = Some((since, bucket.ready_at()));
    }

    fn resume(&mut self, now: Nanos) {
        if let Some((since, _)) = self.throttled.take() {
            self.throttled_for += now.saturating_sub(since);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn rate(text: &str) -> Rate {
        text.parse().unwrap()
    }

    /// Takes whatever is there whenever the bucket says so, each time late by `late`. Returns how many messages in total.
    fn run(bucket: &mut Bucket, until: Nanos, late: Nanos) -> u64 {
        let (mut now, mut total) = (0, 0);
        while now < until {
            let count = bucket.available(now);
            bucket.take(count);
            total += count;
            now = bucket.ready_at().max(now + 1) + late;
        }
        total
    }

    #[test]
    fn rates_are_kept_within_the_burst() {
        for (text, late) in [("10/s", 0), ("10/s", 30_000_000), ("1000/s", 500_000), ("50000/s", 2_000_000)] {
            let rate = rate(text);
            let mut bucket = Bucket::new(rate, 0, 1, 0);
            let total = run(&mut bucket, 10 * SECOND, late);
            let expected = rate.count.get() * 10;
            let most = expected + rate.default_burst();
            // What the last take would get is missing.
            let least = expected - rate.count.get() * (late + LEAST_WAIT) / SECOND - 1;
            assert!((least..=most).contains(&total), "{text}, {late} ns late: {total}");
        }
    }

    #[test]
    fn a_total_rate_is_divided() {
        let mut bucket = Bucket::new(rate("30/s total"), 3, 3, 0);
        assert_eq!(bucket.available(0), 3);
        bucket.take(3);
        assert_eq!(bucket.ready_at(), SECOND / 10);
        bucket.change(rate("30/s total"), 3, 1, SECOND / 20);
        assert_eq!(bucket.available(SECOND / 20), 0, "a change adds nothing");
        assert_eq!(bucket.available(SECOND / 20 + SECOND / 60 + 1), 1, "half a message was there");
        let mut of_one = Bucket::new(rate("30/s"), 3, 3, 0);
        of_one.take(3);
        assert_eq!(of_one.ready_at(), SECOND.div_ceil(30), "it is the rate of this node");
    }

    #[test]
    fn a_change_fills_nothing() {
        let mut bucket = Bucket::new(rate("10/s"), 10, 1, 0);
        bucket.take(9);
        bucket.change(rate("1000/s"), 500, 1, 0);
        assert_eq!(bucket.available(0), 1);
        bucket.change(rate("1/h"), 1, 1, SECOND);
        assert_eq!(bucket.available(SECOND), 1);
    }

    #[test]
    fn high_rates_wake_for_several_messages() {
        let mut bucket = Bucket::new(rate("50000/s"), 0, 1, 0);
        bucket.take(5000);
        assert_eq!(bucket.ready_at(), LEAST_WAIT);
        assert_eq!(bucket.available(LEAST_WAIT), 50);
        let mut slow = Bucket::new(rate("10/s"), 0, 1, 0);
        slow.take(1);
        assert_eq!(slow.ready_at(), SECOND / 10);
    }

    #[test]
    fn throttled_time_is_measured() {
        let limits = Limits { rate: Some(rate("10/s")), burst: 2, max_in_flight: 3 };
        let mut throttle = Throttle::new(limits, 1, None, 0).unwrap();
        assert_eq!(throttle.room(0, 0), 2);
        throttle.took(2, true, 0);
        assert!(throttle.blocks(2) && throttle.deadline() == Some(SECOND / 10));
        throttle.expire(SECOND / 20);
        assert!(throttle.blocks(2));
        throttle.expire(SECOND / 5);
        assert!(!throttle.blocks(2));
        assert_eq!(throttle.report(2, SECOND / 5).throttled_for, SECOND / 5);
        assert_eq!(throttle.room(SECOND / 5, 2), 1, "only one more may be in flight");
        throttle.took(1, true, SECOND / 5);
        let report = throttle.report(3, SECOND / 5);
        assert!(throttle.blocks(3) && report.is_in_flight_limit_reached && report.throttled_until.is_none());
        let slower = Throttle::new(Limits { max_in_flight: 0, ..limits }, 1, Some(throttle), SECOND).unwrap();
        assert_eq!((slower.report(9, SECOND).throttled_for, slower.blocks(9)), (SECOND / 5, false));
        assert!(Throttle::new(Limits::default(), 1, Some(slower), SECOND).is_none());
    }

    proptest! {
        #[test]
        fn no_window_gets_more_than_rate_and_burst(
            count in 1u64..2000, burst in 0u64..50, steps in prop::collection::vec((0u64..300_000_000, 1u64..100), 1..100),
        ) {
            let rate = Rate { count: count.try_into().unwrap(), ..rate("1/s") };
            let mut bucket = Bucket::new(rate, burst, 1, 0);
            let burst = if burst == 0 { rate.default_burst() } else { burst };
            let (mut now, mut taken) = (0, Vec::new());
            for (pass, want) in steps {
                now += pass;
                let got = bucket.available(now).min(want);
                bucket.take(got);
                taken.push((now, got));
            }
            for from in 0..taken.len() {
                let mut sum = 0;
                for &(at, got) in &taken[from..] {
                    sum += got;
                    let passed = u128::from(at - taken[from].0);
                    let most = u128::from(burst) + 1 + passed * u128::from(count) / u128::from(SECOND);
                    prop_assert!(u128::from(sum) <= most);
                }
            }
        }
    }
}
