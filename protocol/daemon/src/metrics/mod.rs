//! Metrics as Prometheus reads them.
//!
//! What is counted on a hot path is a [`Counter`] or a [`Histogram`]: a few relaxed atomics that no two threads fight
//! for. What exists anyway (depths, numbers of connections) is looked up when somebody asks. A page is put together by
//! [`Exposition`], family by family.
//!
//! - [`counter`], [`histogram`]: what is written while the daemon works
//! - [`exposition`]: pure; the text format
//! - [`requests`]: HTTP requests by endpoint and code
//! - [`process`]: what the kernel knows of this process

pub mod counter;

pub mod histogram;

pub mod exposition;

pub mod requests;

pub mod process;

pub use counter::Counter;
pub use exposition::{Exposition, Kind};
pub use histogram::Histogram;
pub use requests::RequestCounts;
