//! What the fuzz targets in `targets/` share.
//!
//! - [`edit`]: valid bytes, and the changes to them that the fuzzer chooses
//! - [`memory_storage`]: files in memory, for targets that read damaged files
//! - [`frames`]: message frames as nsqd stores them
//! - [`number`]: numbers at which arithmetic fails
//!
//! `cargo test` runs each target on the same inputs every time, so that its result depends only on the code. See
//! `docs/TESTING.md` for runs that search for new inputs.

pub mod edit;
pub mod frames;
pub mod memory_storage;
pub mod number;
mod repeatable;

pub use repeatable::{is_searching, run};

#[doc(hidden)]
pub use bolero;

/// Inputs per run of a target that only reads bytes.
pub const BYTE_RUNS: u64 = 50_000;

/// Inputs per run of a target that reads a data directory.
pub const FILE_RUNS: u64 = 3_000;

/// Runs a target: `fuzz!(Type, RUNS, |input| ...)`. The closure gets a reference to a value of the type and panics if
/// it finds a fault.
#[macro_export]
macro_rules! fuzz {
    ($type:ty, $runs:expr, $target:expr $(,)?) => {{
        let target = $crate::target::<$type, _>($target);
        if $crate::is_searching() {
            $crate::bolero::check!().with_type::<$type>().for_each(target)
        } else {
            $crate::run::<$type>($runs, target)
        }
    }};
}

/// Gives a closure the type that [`fuzz`] needs.
#[doc(hidden)]
pub fn target<T, F: Fn(&T) + std::panic::RefUnwindSafe>(target: F) -> F {
    target
}
