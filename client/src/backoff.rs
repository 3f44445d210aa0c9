//! Backoff: while handling fails, a consumer requests fewer messages. Pure: `now` and randomness are arguments.
//!
//! ```text
//!            failure                     pause over
//!  Normal ───────────▶ Paused{level} ───────────────▶ Probing{level}
//!    ▲                     ▲    ▲                        │  │  │
//!    │                     │    └── failure: level + 1 ──┘  │  │
//!    │                     └────── success: level − 1 ──────┘  │     neutral: same level
//!    └──────────────────────── success at level 1 ─────────────┘
//! ```
//!
//! Answers during a pause, and answers to messages delivered before the pause began, are ignored. Therefore many messages
//! that fail together count as one failure.

use std::time::{Duration, Instant};

use crate::config::BackoffStrategy;

/// How an answer counts for backoff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// The message was finished.
    Success,
    /// The message was requeued because handling failed.
    Failure,
    /// The answer does not show whether handling works.
    Neutral,
}

/// The number of the latest pause. A message carries the number that was current when it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Epoch(pub(crate) u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackoffState {
    /// No failure since the last recovery.
    Normal,
    /// The consumer requests no messages until `until`.
    Paused {
        /// At least 1: up by one with each failure, down by one with each success.
        level: u32,
        until: Instant,
    },
    /// The consumer requests one message, to test whether handling works again.
    Probing { level: u32 },
}

#[derive(Clone, Debug)]
pub(crate) struct BackoffOptions {
    pub(crate) strategy: BackoffStrategy,
    pub(crate) multiplier: Duration,
    /// Zero turns backoff off.
    pub(crate) max: Duration,
    pub(crate) fast_recovery: bool,
}

#[derive(Debug)]
pub(crate) struct Backoff {
    options: BackoffOptions,
    state: BackoffState,
    epoch: Epoch,
}

impl Backoff {
    pub(crate) fn new(options: BackoffOptions) -> Self {
        Backoff { options, state: BackoffState::Normal, epoch: Epoch(0) }
    }

    pub(crate) fn state(&self) -> BackoffState {
        self.state
    }

    /// The epoch of messages that are delivered now.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Records the answer to a message. `random` is uniform in [0, 1). Returns whether the state changed.
    pub(crate) fn answered(&mut self, signal: Signal, epoch: Epoch, now: Instant, random: f64) -> bool {
        if self.options.max.is_zero() || epoch != self.epoch {
            return false;
        }
        let level = match (self.state, signal) {
            (BackoffState::Paused { .. }, _) => return false,
            (BackoffState::Normal, Signal::Failure) => 1,
            (BackoffState::Normal, Signal::Success | Signal::Neutral) => return false,
            (BackoffState::Probing { level }, Signal::Failure) => (level + 1).min(self.top_level()),
            (BackoffState::Probing { level }, Signal::Neutral) => level,
            (BackoffState::Probing { .. }, Signal::Success) if self.options.fast_recovery => 0,
            (BackoffState::Probing { level }, Signal::Success) => level - 1,
        };
        if level == 0 {
            self.state = BackoffState::Normal;
        } else {
            self.epoch = Epoch(self.epoch.0.wrapping_add(1));
            self.state = BackoffState::Paused { level, until: now + self.duration(level, random) };
        }
        true
    }

    /// Ends a pause that is over. Returns whether the state changed.
    pub(crate) fn tick(&mut self, now: Instant) -> bool {
        match self.state {
            BackoffState::Paused { level, until } if until <= now => {
                self.state = BackoffState::Probing { level };
                true
            }
            _ => false,
        }
    }

    fn duration(&self, level: u32, random: f64) -> Duration {
        let full = self.full_duration(level);
        match self.options.strategy {
            BackoffStrategy::Exponential => full,
            BackoffStrategy::FullJitter => full.mul_f64(0.1 + 0.9 * random.clamp(0.0, 1.0)),
        }
    }

    fn full_duration(&self, level: u32) -> Duration {
        let factor = 1u32.checked_shl(level).unwrap_or(u32::MAX);
        self.options.multiplier.saturating_mul(factor).min(self.options.max)
    }

    /// The lowest level with the longest pause. Higher levels would only delay the recovery.
    fn top_level(&self) -> u32 {
        (1..=31).find(|level| self.full_duration(*level) == self.full_duration(31)).unwrap_or(31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn options() -> BackoffOptions {
        BackoffOptions {
            strategy: BackoffStrategy::Exponential,
            multiplier: SECOND,
            max: 120 * SECOND,
            fast_recovery: false,
        }
    }

    fn paused_for(backoff: &Backoff, now: Instant) -> Option<Duration> {
        match backoff.state() {
            BackoffState::Paused { until, .. } => Some(until - now),
            _ => None,
        }
    }

    fn end_pause(backoff: &mut Backoff, now: &mut Instant) {
        if let BackoffState::Paused { until, .. } = backoff.state() {
            *now = until;
            assert!(backoff.tick(*now));
        }
        assert!(matches!(backoff.state(), BackoffState::Probing { .. }));
    }

    #[test]
    fn pauses_double_up_to_the_maximum_and_shrink_again() {
        let mut backoff = Backoff::new(options());
        let mut now = Instant::now();
        for seconds in [2, 4, 8, 16, 32, 64, 120, 120, 120] {
            assert!(backoff.answered(Signal::Failure, backoff.epoch(), now, 0.0));
            assert_eq!(paused_for(&backoff, now), Some(seconds * SECOND));
            end_pause(&mut backoff, &mut now);
        }
        for seconds in [64, 32, 16, 8, 4, 2] {
            assert!(backoff.answered(Signal::Success, backoff.epoch(), now, 0.0));
            assert_eq!(paused_for(&backoff, now), Some(seconds * SECOND));
            end_pause(&mut backoff, &mut now);
        }
        assert!(backoff.answered(Signal::Success, backoff.epoch(), now, 0.0));
        assert_eq!(backoff.state(), BackoffState::Normal);
    }

    #[test]
    fn simultaneous_failures_count_once() {
        let mut backoff = Backoff::new(options());
        let mut now = Instant::now();
        let before = backoff.epoch();
        assert!(backoff.answered(Signal::Failure, before, now, 0.0));
        assert!(!backoff.answered(Signal::Failure, before, now, 0.0), "during the pause");
        end_pause(&mut backoff, &mut now);
        assert!(!backoff.answered(Signal::Failure, before, now, 0.0), "delivered before the pause");
        assert!(!backoff.answered(Signal::Success, before, now, 0.0));
        assert_eq!(backoff.state(), BackoffState::Probing { level: 1 });
    }

    #[test]
    fn neutral_answer_repeats_the_pause() {
        let mut backoff = Backoff::new(options());
        let mut now = Instant::now();
        backoff.answered(Signal::Failure, backoff.epoch(), now, 0.0);
        end_pause(&mut backoff, &mut now);
        assert!(backoff.answered(Signal::Neutral, backoff.epoch(), now, 0.0));
        assert_eq!(paused_for(&backoff, now), Some(2 * SECOND));
    }

    #[test]
    fn fast_recovery_needs_one_success() {
        let mut backoff = Backoff::new(BackoffOptions { fast_recovery: true, ..options() });
        let mut now = Instant::now();
        for _ in 0..3 {
            backoff.answered(Signal::Failure, backoff.epoch(), now, 0.0);
            end_pause(&mut backoff, &mut now);
        }
        backoff.answered(Signal::Success, backoff.epoch(), now, 0.0);
        assert_eq!(backoff.state(), BackoffState::Normal);
    }

    #[test]
    fn zero_maximum_turns_backoff_off_and_zero_multiplier_is_allowed() {
        let mut off = Backoff::new(BackoffOptions { max: Duration::ZERO, ..options() });
        assert!(!off.answered(Signal::Failure, off.epoch(), Instant::now(), 0.0));
        let jitter = BackoffStrategy::FullJitter;
        let mut zero =
            Backoff::new(BackoffOptions { multiplier: Duration::ZERO, strategy: jitter, ..options() });
        let mut now = Instant::now();
        for _ in 0..5 {
            zero.answered(Signal::Failure, zero.epoch(), now, 0.5);
            assert_eq!(paused_for(&zero, now), Some(Duration::ZERO));
            end_pause(&mut zero, &mut now);
        }
        assert_eq!(zero.state(), BackoffState::Probing { level: 1 });
    }

    proptest! {
        /// For every sequence of answers and ticks, levels stay between 1 and 31 and pauses do not exceed the
        /// maximum. Enough successes always lead back to `Normal`.
        #[test]
        fn always_recovers(
            multiplier_ms in 0u64..100_000,
            max_ms in 1u64..600_000,
            jitter: bool,
            steps in prop::collection::vec((0u8..3, 0.0f64..1.0, any::<bool>()), 0..100),
        ) {
            let strategy = if jitter { BackoffStrategy::FullJitter } else { BackoffStrategy::Exponential };
            let multiplier = Duration::from_millis(multiplier_ms);
            let max = Duration::from_millis(max_ms);
            let mut backoff = Backoff::new(BackoffOptions { strategy, multiplier, max, fast_recovery: false });
            let mut now = Instant::now();
            for (signal, random, wait) in steps {
                let signal = [Signal::Success, Signal::Failure, Signal::Neutral][usize::from(signal)];
                backoff.answered(signal, backoff.epoch(), now, random);
                if let BackoffState::Paused { level, until } = backoff.state() {
                    prop_assert!((1..=31).contains(&level));
                    prop_assert!(until - now <= max || !wait);
                    if wait {
                        now = until;
                    }
                }
                backoff.tick(now);
            }
            for _ in 0..40 {
                if let BackoffState::Paused { until, .. } = backoff.state() {
                    now = until;
                    backoff.tick(now);
                }
                backoff.answered(Signal::Success, backoff.epoch(), now, 0.0);
            }
            prop_assert_eq!(backoff.state(), BackoffState::Normal);
        }
    }
}
