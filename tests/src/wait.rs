//! Waits until a condition holds, with a deadline, and reports the last value seen.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long [`until`] waits.
pub const PATIENCE: Duration = Duration::from_secs(15);

const PAUSE: Duration = Duration::from_millis(10);

/// Calls `check` repeatedly until it returns `Ok`. Panics after [`PATIENCE`] with `what`, which describes the
/// condition, and the last `Err` value seen.
pub async fn until<T, Seen: Debug>(what: &str, check: impl AsyncFnMut() -> Result<T, Seen>) -> T {
    until_within(PATIENCE, what, check).await
}

/// [`until`] with the given time limit.
pub async fn until_within<T, Seen: Debug>(
    patience: Duration,
    what: &str,
    mut check: impl AsyncFnMut() -> Result<T, Seen>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let seen = match check().await {
            Ok(value) => return value,
            Err(seen) => seen,
        };
        assert!(Instant::now() < deadline, "waited {patience:?} for: {what}; last seen: {seen:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// `Ok(value)` if `holds`, else `Err(value)`: the last line of most closures passed to [`until`].
pub fn when<T>(value: T, holds: impl FnOnce(&T) -> bool) -> Result<T, T> {
    if holds(&value) { Ok(value) } else { Err(value) }
}
