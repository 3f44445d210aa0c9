//! Metrics in Prometheus' format.
//!
//! Hot paths count in a [`Counter`] or a [`Histogram`]: a few relaxed atomics without contention between threads.
//! Values that exist anyway (depths, numbers of connections) are read when a page is requested. An [`Exposition`]
//! writes a page, family by family.
//!
//! - [`counter`], [`histogram`]: updated while the daemon works
//! - [`exposition`]: pure; the text format
//! - [`requests`]: HTTP requests by endpoint and status code
//! - [`process`]: the kernel's data about this process

pub mod counter;

pub mod histogram;

pub mod exposition;

pub mod requests;

pub mod process;

pub use counter::Counter;
pub use exposition::{Exposition, Kind};
pub use histogram::Histogram;
pub use requests::RequestCounts;
