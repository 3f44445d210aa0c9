//! What nsqd and nsqlookupd share: how a daemon takes its flags, writes its log, listens, answers
//! HTTP and stops.
//!
//! Nothing here knows a topic or a channel. The modules in reading order, which is the order in
//! which a daemon uses them:
//!
//! 1. [`go_flags`] and [`go_duration`]: command lines and durations as Go programs take them.
//! 2. [`config_file`] and [`flags`]: the TOML file, and both together, in two passes of clap.
//! 3. [`log`]: NSQ's log line.
//! 4. [`open_files`]: how many there may be; [`listen`]: addresses, listeners, streams; [`accept`]: taking connections
//!    while there is room.
//! 5. [`tls`]: certificates, handshakes; [`watch`]: when files that change are worth reading again.
//! 6. [`http`]: requests, routing, answers, serving.
//! 7. [`metrics`]: what Prometheus is told.
//! 8. [`notify`]: telling the service manager.
//! 9. [`shutdown`]: waiting for SIGINT or SIGTERM.
//! 10. [`turn`]: how long one connection may go on before others get their turn.

pub mod go_flags;

pub mod go_duration;

pub mod config_file;

pub mod flags;

pub mod log;

pub mod open_files;

pub mod listen;

pub mod accept;

pub mod watch;

pub mod tls;

pub mod http;

pub mod metrics;

pub mod notify;

pub mod shutdown;

pub mod turn;

/// The NSQ version whose behaviour we reproduce. Told to clients, which parse it as a semantic
/// version to learn what the daemon can do.
pub const NSQ_VERSION: &str = "1.3.0";

/// The line that `--version` prints and that a daemon logs first.
///
/// ```
/// assert_eq!(nsq_daemon::version_line("nsqd"), "nsqd v1.3.0 (built w/rustc)");
/// ```
pub fn version_line(program: &str) -> String {
    format!("{program} v{NSQ_VERSION} (built w/rustc)")
}

/// The host name as the operating system has it: the default broadcast address.
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
