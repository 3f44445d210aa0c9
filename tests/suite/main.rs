//! End-to-end tests with real daemons, sockets and clients. They are one binary, so that they link once.
//!
//! `tests/run` builds the binaries, installs the foreign clients and runs everything. To run one module:
//! `cargo test -p nsq-tests --test suite publish::`. The modules are in reading order, from the first byte of a
//! connection to a cluster that loses nodes:

/// The magic, the command syntax, and which command is legal in which state.
mod session;

/// IDENTIFY: decoding, bounds, the reply.
mod identify;

/// TLS, snappy, deflate: negotiation, certificates, required TLS.
mod upgrades;

/// AUTH: servers, permissions, expiry and renewal.
mod auth;

/// The token file, and its permissions on the HTTP API.
mod tokens;

/// PUB, MPUB, DPUB: limits, names, errors.
mod publish;

/// Headers: who gets them, and that they survive.
mod headers;

/// The dashboard: nsqadmin's API, actions, roles, partial failure.
mod dashboard;

/// The dashboard in a real browser.
mod dashboard_browser;

/// Deduplication: a topic stores the messages of one id once.
mod dedupe;

/// SUB: names, limits, fan-out, sharing among consumers.
mod subscribe;

/// RDY, flushing, sampling, slow consumers.
mod flow_control;

/// Topology-aware delivery: near consumers before far ones.
mod topology;

/// FIN, REQ, TOUCH, timeouts, disconnects.
mod acknowledge;

/// DPUB and delayed REQ: never early, in every channel.
mod defer;

/// Settings by policy file and over HTTP; retry schedules.
mod policies;

/// What a policy file would do: `/policy/test`.
mod policy_test;

/// Looking at messages; cancelling and rescheduling one.
mod peek;

/// Why a channel or a message does not move.
mod why;
/// Order by key, fair queueing, rate limits.
mod order;

/// Messages whose attempts are used up: the dead-letter topic, redrives.
mod dead_letters;

/// REJ: consumers that make messages dead letters at once.
mod reject;

/// Messages that are too old.
mod ttl;

/// Messages with a time to live of their own.
mod message_ttl;

/// Channels that deliver only messages with certain headers.
mod filter;

/// Bounds of channels and topics, and channels without consumers.
mod bounds;

/// Long poll with leases.
mod http_take;

/// Server-sent events.
mod http_events;

/// NSQ's protocol in WebSockets.
mod websocket;

/// What browsers and tokens may do with the endpoints that consume: origins, tickets, permissions.
mod http_consume_access;

/// A thousand consumers over HTTP.
mod http_consume_load;
/// Drains: a node refuses publishes until consumers have everything.
mod drain;
/// Drains that move what is left to another node.
mod drain_to;

/// Dry runs, and undoing an empty or a seek.
mod undo;

/// Heartbeats and deadlines.
mod liveness;

/// Pause, empty and delete, of topics and channels.
mod pause_empty_delete;

/// `#ephemeral` names.
mod ephemeral;

/// Malformed input on every port.
mod hostile_input;

/// Connections that send without pause do not block others.
mod fairness;

/// Clean stops, the memory limit, and how often data is written.
mod durability;

/// kill -9 under load.
mod recovery;

/// A full disk, no file descriptors, an unusable data directory.
mod faults;

/// Disk use follows the unfinished messages; deleting frees the disk.
mod space;

/// Files and directories that are removed or moved while nsqd runs.
mod vanishing;

/// Small volumes.
mod small_volumes;

/// The first start in a data directory of NSQ.
mod import;

/// `nsq data`: inspect, verify and export a data directory without a daemon.
mod data_cli;

/// `--archive` and `nsq archive`: a lost node is restored from an object store.
mod archive;

/// Retention; channels that start at an old message or seek.
mod retention;

/// nsqd's HTTP interface.
mod http_api;

/// The reference of both HTTP interfaces.
mod http_reference;

/// End-to-end latency percentiles.
mod latency;

/// Statistics pushed to a statsd.
mod statsd;

/// `/metrics`, the dashboards and the alert rules.
mod metrics;

/// Every flag, in every spelling, and in config files.
mod flags;

/// Unix sockets, JSON log lines.
mod process;

/// Daemons whose log pipe is not read.
mod unread_log;

/// nsqlookupd, and nsqd as its client.
mod lookup;

/// Statistics that nsqd sends to nsqlookupd with its heartbeats.
mod cluster_stats;

/// The client library of this project.
mod client_crate;

/// What the client library builds with and without its features.
mod client_features;

/// The client library while nsqd and nsqlookupd are killed: nothing is lost, handled twice or out of order.
mod client_kills;

/// The client library over TLS, snappy and deflate; certificates that rotate under load.
mod client_upgrades;

/// The guides in docs/: their shell examples run.
mod guides;

/// The examples of the client library, unchanged.
mod examples;

/// The `nsq` command.
mod cli;

/// What `nsq` says to users who made a mistake, its help pages and completion.
mod cli_texts;

/// `nsq sub` that is killed or whose programs fail, and streams of other commands.
mod cli_streams;

/// `nsq stat` by topic, channel or node, until a condition holds, and of a data directory.
mod cli_stat;

/// The examples on the help pages of `nsq`.
mod help_examples;

/// `nsq topic show`, `nsq channel show`, and pauses for a while.
mod cli_show;

/// Samples of a cluster, the problems that they show, `nsq check`, `nsq doctor` and `nsq top`.
mod cluster_watch;

/// NSQ's tools under their old names, and `nsq tail`.
mod old_tools;

/// `nsq to-file`, `nsq to-http`, `nsq to-nsq`: nothing is lost, whatever happens.
mod bridges;

/// The `nsq` command over TLS and with compression.
mod cli_security;

/// The commands of `nsq` for clusters, and the forms of its output.
mod tools;

/// Profiles of `nsq`.
mod profiles;

/// `nsq bench`, one small run of each mode.
mod bench;

/// Existing client libraries, unchanged.
mod interop;

/// Units, manifests and images in deploy/; service managers and health checks.
mod deploy;

/// The Debian package.
mod debian;

/// What the dependencies may be.
mod dependencies;

/// Facts about the source tree.
mod tidy;
