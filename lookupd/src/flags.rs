//! The flags as given by the user. This is the only place for their names, defaults and help texts.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nsq_daemon::config_file::{Key, Kind};
use nsq_daemon::flags::{Exit, Parsed};
use nsq_daemon::go_duration;
use nsq_daemon::log::{Format, Level};

/// The program's name in the version line and in fatal errors.
pub const PROGRAM: &str = "nsqlookupd";

/// The values of the command line and the config file.
#[derive(Debug, Clone, Parser)]
#[command(about = "Discovery daemon: reports which nodes have a topic")]
pub struct Flags {
    /// Print the version and exit
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide_possible_values = true)]
    pub version: bool,

    /// Path of a TOML config file. Flags override it
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub config: OsString,

    /// Lowest level to log: debug, info, warn, error or fatal
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    pub log_level: Level,

    /// Text in front of every log line
    #[arg(long, default_value = "[nsqlookupd] ", value_name = "TEXT")]
    pub log_prefix: String,

    /// Format of log lines: text (as in NSQ) or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,

    /// Deprecated, no effect. Use --log-level
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub verbose: bool,

    /// TCP listener for nodes: host:port; port 0 picks a free port
    #[arg(long, default_value = "0.0.0.0:4160", value_name = "ADDRESS")]
    pub tcp_address: String,

    /// HTTP listener for clients: host:port
    #[arg(long, default_value = "0.0.0.0:4161", value_name = "ADDRESS")]
    pub http_address: String,

    /// Address to announce to nodes [default: the host name]
    #[arg(long, default_value_t = nsq_daemon::hostname(), hide_default_value = true, value_name = "HOST")]
    pub broadcast_address: String,

    /// Allow web pages of this origin (scheme, host and port) to make changes over HTTP; * for every origin. May be
    /// repeated
    #[arg(long, value_name = "ORIGIN")]
    pub http_allowed_origin: Vec<String>,

    /// Hide a node that has been silent for longer than this
    #[arg(long, default_value = "5m", value_parser = go_duration::parse, value_name = "DURATION")]
    pub inactive_producer_timeout: Duration,

    /// Time for which a tombstone hides a node for a topic
    #[arg(long, default_value = "45s", value_parser = go_duration::parse, value_name = "DURATION")]
    pub tombstone_lifetime: Duration,
}

const KEYS: [Key; 9] = [
    Key::new("log_level", Kind::String),
    Key::new("log_prefix", Kind::String),
    Key::new("log_format", Kind::String),
    Key::new("tcp_address", Kind::String),
    Key::new("http_address", Kind::String),
    Key::new("broadcast_address", Kind::String),
    Key::new("http_allowed_origin", Kind::StringList).named("http_allowed_origins").guard(),
    Key::new("inactive_producer_timeout", Kind::Duration),
    Key::new("tombstone_lifetime", Kind::Duration),
];

/// Parses a command line, program name first, and the config file that it names.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed<Flags>, Exit> {
    nsq_daemon::flags::parse(PROGRAM, args, &KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Flags, Exit> {
        let line = std::iter::once(PROGRAM).chain(words.iter().copied()).map(OsString::from);
        parse(line).map(|parsed| parsed.flags)
    }

    #[test]
    fn defaults_are_nsqs() {
        let flags = run(&[]).unwrap();
        assert_eq!(flags.tcp_address, "0.0.0.0:4160");
        assert_eq!(flags.http_address, "0.0.0.0:4161");
        assert_eq!(flags.broadcast_address, nsq_daemon::hostname());
        assert_eq!(flags.inactive_producer_timeout, Duration::from_secs(300));
        assert_eq!(flags.tombstone_lifetime, Duration::from_secs(45));
        assert_eq!((flags.log_level, flags.log_prefix.as_str()), (Level::Info, "[nsqlookupd] "));
    }

    #[test]
    fn go_flag_syntax_is_accepted() {
        let flags = run(&["-tcp-address=:0", "--log-level", "WARN", "-verbose", "rest", "--nope"]).unwrap();
        assert_eq!(flags.tcp_address, ":0");
        assert_eq!(flags.log_level, Level::Warn);
        assert!(matches!(run(&["--log-level=warning"]), Err(Exit::WrongFlag(_))));
        assert!(matches!(run(&["--tombstone-lifetime=45"]), Err(Exit::WrongFlag(_))));
    }

    #[test]
    fn every_config_file_key_sets_its_flag() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsqlookupd.cfg");
        let text = "log_level = 'error'\nlog_prefix = 'p '\ntcp_address = ':1'\nhttp_address = ':2'\n\
                    broadcast_address = 'b'\nhttp_allowed_origins = ['http://a', 'http://b']\ninactive_producer_timeout = '1m'\ntombstone_lifetime = 1500\n";
        std::fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        let flags = run(&[&config, "--http-address=:3"]).unwrap();
        assert_eq!((flags.log_level, flags.log_prefix.as_str()), (Level::Error, "p "));
        assert_eq!((flags.tcp_address.as_str(), flags.http_address.as_str()), (":1", ":3"));
        assert_eq!(flags.broadcast_address, "b");
        assert_eq!(flags.http_allowed_origin, ["http://a", "http://b"]);
        assert_eq!(flags.inactive_producer_timeout, Duration::from_secs(60));
        assert_eq!(flags.tombstone_lifetime, Duration::from_millis(1500));
    }
}
