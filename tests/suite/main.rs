//! The end-to-end tests, in one binary so that they link once: real daemons, real sockets, real clients.
//!
//! `tests/run` builds the binaries, installs the foreign clients and runs everything; one module alone:
//! `cargo test -p nsq-tests --test suite publish::`. Modules in reading order, from the first byte of a
//! connection to a cluster that loses nodes:

/// The magic, the grammar of commands, what is allowed when.
mod session;

/// IDENTIFY: decoding, bounds, the reply.
mod identify;

/// TLS, snappy, deflate: negotiation, certificates, what is required.
mod upgrades;

/// AUTH: servers, permissions, lapse and renewal.
mod auth;

/// The token file, and the HTTP API under its permissions.
mod tokens;

/// PUB, MPUB, DPUB: limits, names, errors.
mod publish;

/// SUB: names, limits, fan-out, sharing among consumers.
mod subscribe;

/// RDY, flushing, sampling, slow consumers.
mod flow_control;

/// Near consumers before far ones.
mod topology;

/// FIN, REQ, TOUCH, timeouts, disconnects.
mod acknowledge;

/// DPUB and delayed REQ: never early, in every channel.
mod defer;

/// Heartbeats and deadlines.
mod liveness;

/// Pause, empty and delete, of topics and channels.
mod pause_empty_delete;

/// `#ephemeral` names.
mod ephemeral;

/// Bytes that no client would send, on every port.
mod hostile_input;

/// Peers that send without pause, and the others beside them.
mod fairness;

/// SIGTERM, the memory bound, what is written how often.
mod durability;

/// kill -9 under load.
mod recovery;

/// A full disk, no more files, a directory that cannot be used.
mod faults;

/// Disk and memory follow what is unfinished; what is deleted gives all back.
mod space;

/// Files and directories that somebody removes or moves while nsqd runs.
mod vanishing;

/// Volumes with little room.
mod small_volumes;

/// The first start in a data directory of NSQ.
mod import;

/// `nsq data`: a data directory without a daemon.
mod data_cli;

/// Retention, channels that start in the past or are moved.
mod replay;

/// nsqd's HTTP interface.
mod http_api;

/// End-to-end latency percentiles.
mod latency;

/// Statistics pushed to a statsd.
mod statsd;

/// `/metrics`, and what reads it.
mod metrics;

/// Every flag, in every spelling, and in config files.
mod flags;

/// Unix sockets, JSON log lines.
mod process;

/// A log that nobody reads.
mod unread_log;

/// nsqlookupd, and nsqd as its client.
mod lookup;

/// Statistics that ride on heartbeats to nsqlookupd.
mod cluster_stats;

/// The client library of this project.
mod client_crate;

/// The client library over TLS, snappy and deflate; certificates that rotate under load.
mod client_upgrades;

/// The guides in docs/: their shell examples run.
mod guides;

/// The examples of the client library, as they are.
mod examples;

/// The `nsq` command.
mod cli;

/// The `nsq` command over TLS and compressed.
mod cli_security;

/// `nsq bench`, one small run of each mode.
mod bench;

/// Existing client libraries, unchanged.
mod interop;

/// What deploy/ holds: units, manifests, images; service managers and health checks.
mod deploy;

/// Facts about the source tree.
mod tidy;
