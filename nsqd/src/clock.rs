//! The only file that asks for the time. Everything that decides takes `now` as an argument.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds on the monotonic clock since the process first asked. Never goes back; used for every deadline.
pub type Nanos = u64;

static START: OnceLock<Instant> = OnceLock::new();

/// The monotonic time now.
pub fn monotonic() -> Nanos {
    START.get_or_init(Instant::now).elapsed().as_nanos() as Nanos
}

/// The `Instant` that a monotonic time stands for, for the runtime's timers.
pub fn instant(at: Nanos) -> Instant {
    *START.get_or_init(Instant::now) + Duration::from_nanos(at)
}

/// Nanoseconds of wall time since the Unix epoch: message timestamps, and deadlines that must outlive the process.
pub fn wall_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// What the wall clock is ahead of the monotonic one, as of the last [`follow_wall_clock`].
static WALL_AHEAD_NS: AtomicI64 = AtomicI64::new(i64::MIN);

/// The wall time at a monotonic time: nearly as good as [`wall_ns`], for statistics, without asking the system again.
pub fn wall_at(at: Nanos) -> i64 {
    let mut ahead = WALL_AHEAD_NS.load(Ordering::Relaxed);
    if ahead == i64::MIN {
        ahead = follow_wall_clock();
    }
    ahead.saturating_add_unsigned(at)
}

/// Takes note if somebody has set the wall clock: to be called now and then. Returns what it is ahead.
pub fn follow_wall_clock() -> i64 {
    let ahead = wall_ns().saturating_sub_unsigned(monotonic());
    WALL_AHEAD_NS.store(ahead, Ordering::Relaxed);
    ahead
}

/// Ticks of the runtime's timer. Those of equal intervals come together, so that an idle process wakes up once for all; one
/// that comes too late is left out.
pub fn ticks(interval: Duration) -> tokio::time::Interval {
    let next = monotonic().next_multiple_of(nanos(interval).max(1));
    let mut ticks = tokio::time::interval_at(instant(next).into(), interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

/// A span as nanoseconds, saturating.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
