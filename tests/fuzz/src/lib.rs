//! What the fuzz targets in `targets/` share.
//!
//! - [`edit`]: valid bytes, and the changes to them that the fuzzer chooses
//! - [`memory_storage`]: files in memory, for targets that read damaged files
//! - [`frames`]: message frames as nsqd stores them
//! - [`number`]: numbers at which arithmetic fails
//!
//! A target runs with `cargo test` for [`RUN_TIME`]. See `docs/TESTING.md` for longer runs.

pub mod edit;
pub mod frames;
pub mod memory_storage;
pub mod number;

use std::time::Duration;

/// How long a target runs, unless `BOLERO_RANDOM_TEST_TIME_MS` says otherwise.
pub const RUN_TIME: Duration = Duration::from_millis(1000);
