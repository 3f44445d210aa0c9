//! The harness of the end-to-end tests: start the real binaries, talk to them, wait, break them.
//!
//! It shares no code with what it tests: frames, commands and HTTP are spelled out here once more, so that
//! a mistake in `nsq-protocol` cannot cancel itself out. It starts only what `cargo build` produced, and it
//! never sleeps to let something happen: it waits for a condition, with a deadline and the last value seen.
//!
//! Modules in reading order:
//! - [`deadline`]: one test, one runtime, one overall deadline
//! - [`daemon`]: nsqd and nsqlookupd as processes: start, stop, kill -9, restart, their log
//! - [`wire`]: a bare peer of the TCP protocol: send bytes, expect frames
//! - [`certificates`]: authorities and certificates, made anew
//! - [`upgrade`]: TLS, snappy and deflate for such a peer
//! - [`http`]: a small HTTP/1.1 client, also for requests that no decent client would send
//! - [`auth_server`]: an auth server that answers what it is told to
//! - [`stats`]: what `/stats` says of a topic or a channel
//! - [`wait`]: wait until a condition holds
//! - [`prometheus`]: what `/metrics` says, and promtool
//! - [`process`]: what the kernel knows of a process: memory, bytes written
//! - [`foreign`]: the programs in `clients/`, written for NSQ's existing client libraries

pub mod deadline;

pub mod daemon;

pub mod wire;

pub mod certificates;

pub mod upgrade;

pub mod http;

pub mod auth_server;

pub mod stats;

pub mod wait;

pub mod prometheus;

pub mod process;

pub mod disk;

pub mod foreign;

pub use auth_server::AuthServer;
pub use certificates::Certificates;
pub use daemon::Daemon;
pub use deadline::{test, test_within};
pub use wire::Peer;
