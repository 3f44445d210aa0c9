//! The clock of this crate. Tests can pause it.

use std::time::Instant;

/// Returns the current time of tokio's clock.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
