//! Flags of all bridges.

use clap::Args;
use nsq_daemon::log::{Format, Level, Logger};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operation")]
pub struct BridgeFlags {
    /// Serve /metrics for Prometheus, and /ping, on this address, such as 127.0.0.1:9117. [default: off]
    #[arg(long, value_name = "ADDR")]
    pub metrics_address: Option<String>,
    /// Lowest level of log lines: debug, info, warn, error or fatal.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: Level,
    /// Format of log lines on stderr: text or json.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: Format,
    /// Start of each log line. [default: the name of the program in brackets]
    #[arg(long, value_name = "TEXT")]
    pub log_prefix: Option<String>,
}

impl BridgeFlags {
    /// The logger of a program with this name.
    pub fn logger(&self, name: &str) -> Logger {
        let prefix = self.log_prefix.clone().unwrap_or_else(|| format!("[{name}] "));
        Logger::with_format(prefix, self.log_level, self.log_format)
    }
}
