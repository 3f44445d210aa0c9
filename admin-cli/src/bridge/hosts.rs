//! Which of several addresses gets the next message. Pure.
//!
//! | mode | choice |
//! |---|---|
//! | round-robin | each in turn, whatever happens |
//! | hostpool | each in turn, except those that failed: they are tried again after 30 s, and after twice the pause each time |
//! | epsilon-greedy | usually a fast one, at random; sometimes as hostpool, to learn how fast the others are |

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// The pause before a failed address is tried again, and its maximum.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const MAX_PAUSE: Duration = Duration::from_secs(900);

/// How often epsilon-greedy explores: at the start, at least, and how it decreases with each time.
const FIRST_EPSILON: f64 = 0.3;
const MIN_EPSILON: f64 = 0.01;
const EPSILON_DECAY: f64 = 0.9;

/// Number of pieces of time over which response times are averaged.
const BUCKETS: usize = 120;
const BUCKET_TIME: Duration = Duration::from_millis(2500);

/// How an address is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    RoundRobin,
    HostPool,
    EpsilonGreedy,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "round-robin" => Ok(Mode::RoundRobin),
            "hostpool" => Ok(Mode::HostPool),
            "epsilon-greedy" => Ok(Mode::EpsilonGreedy),
            _ => Err("expected round-robin, hostpool or epsilon-greedy".to_owned()),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::RoundRobin => "round-robin",
            Mode::HostPool => "hostpool",
            Mode::EpsilonGreedy => "epsilon-greedy",
        })
    }
}

/// The state of all addresses, which are numbered from 0.
#[derive(Debug)]
pub struct Hosts {
    mode: Mode,
    hosts: Vec<Host>,
    next: usize,
    epsilon: f64,
    started_at: Instant,
}

#[derive(Debug, Clone, Default)]
struct Host {
    /// When a failed address may be tried, and the pause after that.
    dead: Option<(Instant, Duration)>,
    times: Times,
}

impl Hosts {
    /// `count` addresses, at least one.
    pub fn new(mode: Mode, count: usize, now: Instant) -> Self {
        assert!(count > 0, "there is an address");
        Hosts { mode, hosts: vec![Host::default(); count], next: 0, epsilon: FIRST_EPSILON, started_at: now }
    }

    /// Chooses an address. `random` returns numbers uniform in [0, 1).
    pub fn pick(&mut self, now: Instant, mut random: impl FnMut() -> f64) -> usize {
        match self.mode {
            Mode::RoundRobin => self.advance(),
            Mode::HostPool => self.next_alive(now),
            Mode::EpsilonGreedy if random() < self.epsilon => {
                self.epsilon = (self.epsilon * EPSILON_DECAY).max(MIN_EPSILON);
                self.next_alive(now)
            }
            Mode::EpsilonGreedy => self.fast_one(now, random()).unwrap_or_else(|| self.next_alive(now)),
        }
    }

    /// Records whether a message was taken, and after which time.
    pub fn report(&mut self, index: usize, is_good: bool, took: Duration, now: Instant) {
        let bucket = self.bucket(now);
        let host = &mut self.hosts[index];
        if is_good {
            host.dead = None;
            host.times.add(bucket, took);
        } else if host.dead.is_none() {
            host.dead = Some((now + FIRST_PAUSE, FIRST_PAUSE));
        }
    }

    fn advance(&mut self) -> usize {
        let index = self.next % self.hosts.len();
        self.next = index + 1;
        index
    }

    fn next_alive(&mut self, now: Instant) -> usize {
        for _ in 0..self.hosts.len() {
            let index = self.advance();
            match &mut self.hosts[index].dead {
                None => return index,
                Some((retry_at, pause)) if *retry_at <= now => {
                    *pause = (*pause * 2).min(MAX_PAUSE);
                    *retry_at = now + *pause;
                    return index;
                }
                Some(_) => {}
            }
        }
        // All are dead, which is worth another try.
        for host in &mut self.hosts {
            host.dead = None;
        }
        self.next = 1;
        0
    }

    /// A living address with known response times, with a probability in inverse proportion to them.
    fn fast_one(&mut self, now: Instant, random: f64) -> Option<usize> {
        let bucket = self.bucket(now);
        let weights: Vec<f64> = (self.hosts.iter())
            .map(|host| match (host.dead, host.times.average(bucket)) {
                (None, Some(seconds)) => 1.0 / seconds.max(1e-6),
                _ => 0.0,
            })
            .collect();
        let mut left = random * weights.iter().sum::<f64>();
        let known = weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0);
        let mut last = None;
        for (index, weight) in known {
            last = Some(index);
            left -= weight;
            if left < 0.0 {
                break;
            }
        }
        last
    }

    fn bucket(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.started_at).as_nanos() / BUCKET_TIME.as_nanos();
        u64::try_from(passed).unwrap_or(u64::MAX)
    }
}

/// Response times of the last minutes.
#[derive(Debug, Clone)]
struct Times {
    /// Of each piece of time: its number, how many answers, and the sum of their times in seconds.
    buckets: Vec<(u64, u32, f64)>,
}

impl Default for Times {
    fn default() -> Self {
        Times { buckets: vec![(0, 0, 0.0); BUCKETS] }
    }
}

impl Times {
    fn add(&mut self, number: u64, took: Duration) {
        let bucket = &mut self.buckets[usize::try_from(number % BUCKETS as u64).unwrap_or(0)];
        if bucket.0 != number {
            *bucket = (number, 0, 0.0);
        }
        bucket.1 += 1;
        bucket.2 += took.as_secs_f64();
    }

    /// The average in seconds; newer times weigh more.
    fn average(&self, now: u64) -> Option<f64> {
        let (mut count, mut sum) = (0.0, 0.0);
        for &(number, answers, seconds) in &self.buckets {
            let age = now.saturating_sub(number);
            if age < BUCKETS as u64 {
                let weight = (BUCKETS as u64 - age) as f64;
                count += weight * f64::from(answers);
                sum += weight * seconds;
            }
        }
        (count > 0.0).then(|| sum / count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn picks(hosts: &mut Hosts, now: Instant, count: usize) -> Vec<usize> {
        (0..count).map(|_| hosts.pick(now, || 0.99)).collect()
    }

    #[test]
    fn failed_addresses_rest_for_longer_and_longer() {
        let start = Instant::now();
        let mut hosts = Hosts::new(Mode::HostPool, 3, start);
        assert_eq!(picks(&mut hosts, start, 4), [0, 1, 2, 0]);
        hosts.report(1, false, SECOND, start);
        assert_eq!(picks(&mut hosts, start + 29 * SECOND, 3), [2, 0, 2]);
        // One trial after 30 s, the next a minute later.
        assert_eq!(picks(&mut hosts, start + 30 * SECOND, 3), [0, 1, 2]);
        hosts.report(1, false, SECOND, start + 31 * SECOND);
        assert!(!picks(&mut hosts, start + 89 * SECOND, 6).contains(&1));
        assert!(picks(&mut hosts, start + 90 * SECOND, 3).contains(&1));
        hosts.report(1, true, SECOND, start + 90 * SECOND);
        assert_eq!(picks(&mut hosts, start + 90 * SECOND, 6).iter().filter(|index| **index == 1).count(), 2);
    }

    #[test]
    fn if_all_are_dead_all_are_tried() {
        let start = Instant::now();
        let mut hosts = Hosts::new(Mode::HostPool, 2, start);
        for index in 0..2 {
            hosts.report(index, false, SECOND, start);
        }
        assert_eq!(picks(&mut hosts, start, 3), [0, 1, 0]);
    }

    #[test]
    fn round_robin_ignores_failures() {
        let start = Instant::now();
        let mut hosts = Hosts::new(Mode::RoundRobin, 2, start);
        hosts.report(1, false, SECOND, start);
        assert_eq!(picks(&mut hosts, start, 4), [0, 1, 0, 1]);
    }

    #[test]
    fn epsilon_greedy_prefers_fast_addresses_and_starves_none() {
        let start = Instant::now();
        let mut hosts = Hosts::new(Mode::EpsilonGreedy, 3, start);
        let mut random = fastrand::Rng::with_seed(1);
        let mut counts = [0; 3];
        for step in 0..20_000u32 {
            let now = start + Duration::from_millis(10) * step;
            let index = hosts.pick(now, || random.f64());
            counts[index] += 1;
            let took = Duration::from_millis([10, 100, 1000][index]);
            hosts.report(index, true, took, now);
        }
        assert!(counts[0] > 15_000, "{counts:?}");
        assert!(counts.iter().all(|count| *count > 20), "{counts:?}");
    }
}
