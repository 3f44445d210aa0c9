//! A cluster as a whole. `nsq admin`, `nsq top`, `nsq check` and `nsq doctor` share it.
//!
//! - [`Cluster`] finds the daemons and asks all of them once: for commands, and for actions.
//! - [`Sampler`] asks them again and again. It publishes a [`Snapshot`] with the figures of all nodes, topics and
//!   channels, keeps [`Series`], and finds problems ([`problems()`]).
//!
//! In reading order: `config`, `answers`, `find`, `samples` (one question); `snapshot`, `series`, `problems` (pure);
//! `sampler`; `check`.

mod answers;
pub mod check;
mod config;
mod find;
mod names;
mod samples;

pub mod problems;
mod sampler;
pub mod series;
pub mod snapshot;

pub use answers::{Answers, NodeError};
pub use config::{ClusterConfig, DEFAULT_LOOKUPD, DEFAULT_NSQD, host_port};
pub use find::{Cluster, FindError, Lookupd, Node};
pub use problems::{History, Place, Problem, RuleId, Severity, Thresholds, problems};
pub use sampler::{Sampler, SamplerConfig, SamplerHandle};
pub use samples::{Ask, ClusterSamples, Sample, Samples};
pub use series::{Series, SeriesKey};
pub use snapshot::{Reach, Snapshot};
