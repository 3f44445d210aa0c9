//! The only file that reads the clocks. All code that decides takes `now` as an argument.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Nanoseconds on the monotonic clock since its first use in this process. Never decreases; used for every deadline.
pub type Nanos = u64;

static START: OnceLock<Instant> = OnceLock::new();

pub fn monotonic() -> Nanos {
    START.get_or_init(Instant::now).elapsed().as_nanos() as Nanos
}

/// Converts a monotonic time to an `Instant`, for the runtime's timers.
pub fn instant(at: Nanos) -> Instant {
    *START.get_or_init(Instant::now) + Duration::from_nanos(at)
}

/// Nanoseconds of wall time since the Unix epoch. For message timestamps and for deadlines that must outlive the
/// process.
pub fn wall_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Offset between wall clock and monotonic clock, as of the last [`follow_wall_clock`].
static WALL_AHEAD_NS: AtomicI64 = AtomicI64::new(i64::MIN);

/// Converts a monotonic time to wall time without a system call. Less exact than [`wall_ns`]; for statistics.
pub fn wall_at(at: Nanos) -> i64 {
    let mut ahead = WALL_AHEAD_NS.load(Ordering::Relaxed);
    if ahead == i64::MIN {
        ahead = follow_wall_clock();
    }
    ahead.saturating_add_unsigned(at)
}

/// Updates the offset, in case someone has set the wall clock. Call it regularly. Returns the offset in nanoseconds.
pub fn follow_wall_clock() -> i64 {
    let ahead = wall_ns().saturating_sub_unsigned(monotonic());
    WALL_AHEAD_NS.store(ahead, Ordering::Relaxed);
    ahead
}

/// Ticks of the runtime's timer. Timers of equal interval tick at the same moment, so an idle process wakes up once for
/// all of them. A missed tick is skipped.
pub fn ticks(interval: Duration) -> tokio::time::Interval {
    let next = monotonic().next_multiple_of(nanos(interval).max(1));
    let mut ticks = tokio::time::interval_at(instant(next).into(), interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    ticks
}

/// A duration in nanoseconds, saturating.
pub fn nanos(span: Duration) -> Nanos {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
