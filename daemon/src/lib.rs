//! Code shared by nsqd and nsqlookupd: flags, config file, log, listeners, TLS, HTTP, metrics and shutdown.
//!
//! Nothing here knows topics or channels. The modules in reading order, which is the order in which a daemon uses
//! them:
//!
//! 1. [`go_flags`] and [`go_duration`]: command lines and durations in the syntax of Go programs.
//! 2. [`config_file`] and [`flags`]: the TOML file; command line and file combined.
//! 3. [`log`]: log lines in NSQ's format.
//! 4. [`open_files`]: the limit of open files; [`listen`]: addresses, listeners, streams; [`accept`]: accepting
//!    connections while descriptors are available.
//! 5. [`tls`]: certificates, handshakes; [`watch`]: when to reread files that change;
//!    [`watched_file`]: such a file.
//! 6. [`http`]: requests, routing, responses, the server.
//! 7. [`metrics`]: counters, histograms and the Prometheus text format.
//! 8. [`notify`]: notifications to the service manager.
//! 9. [`shutdown`]: waiting for SIGINT or SIGTERM.
//! 10. [`turn`]: how much one connection may do before it yields to others.

pub mod go_flags;

pub use nsq_protocol::go_duration;

pub mod config_file;

pub mod flags;

pub mod log;

pub mod open_files;

pub mod listen;

pub mod accept;

pub mod watch;

pub mod watched_file;

pub mod tls;

pub mod http;

pub mod metrics;

pub mod notify;

pub mod shutdown;

pub mod turn;

/// The NSQ version whose behaviour the daemons reproduce. Clients receive it and parse it as a semantic version to
/// learn what the daemon supports.
pub const NSQ_VERSION: &str = "1.3.0";

/// The line that `--version` prints and that a daemon logs first.
///
/// ```
/// assert_eq!(nsq_daemon::version_line("nsqd"), "nsqd v1.3.0 (built w/rustc)");
/// ```
pub fn version_line(program: &str) -> String {
    format!("{program} v{NSQ_VERSION} (built w/rustc)")
}

/// The host name that the operating system reports: the default broadcast address.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
