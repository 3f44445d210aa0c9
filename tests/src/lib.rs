//! The harness of the end-to-end tests: it starts the real binaries, talks to them, waits, and injects faults.
//!
//! It shares no code with the code under test: frames, commands and HTTP are implemented here a second time, so that a
//! mistake in `nsq-protocol` cannot hide itself. It starts only binaries that `cargo build` produced. It never sleeps
//! to let something happen: it waits for a condition, with a deadline, and reports the last value seen.
//!
//! Modules in reading order:
//! - [`deadline`]: one test, one runtime, one overall deadline
//! - [`daemon`]: nsqd and nsqlookupd as processes: start, stop, kill -9, restart, their log
//! - [`wire`]: a bare peer of the TCP protocol: send bytes, expect frames
//! - [`certificates`]: authorities and certificates, generated for each test
//! - [`upgrade`]: TLS, snappy and deflate for such a peer
//! - [`http`]: a small HTTP/1.1 client, also for malformed requests
//! - [`websocket`]: a bare WebSocket
//! - [`auth_server`]: an auth server with configured replies
//! - [`stats`]: `/stats` of a topic or a channel
//! - [`wait`]: wait until a condition holds
//! - [`prometheus`]: `/metrics`, and promtool
//! - [`process`]: the kernel's data about a process: memory, bytes written
//! - [`disk`]: small and read-only directories
//! - [`foreign`]: the programs in `clients/`, written for NSQ's existing client libraries

pub mod deadline;

pub mod daemon;

pub mod wire;

pub mod certificates;

pub mod upgrade;

pub mod http;

pub mod websocket;

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
