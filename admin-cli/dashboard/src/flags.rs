//! The flags: those of nsqadmin with their defaults, and those that only the dashboard has.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nsq_cluster::series::DEFAULT_SERIES_BYTES;
use nsq_daemon::config_file::{Key, Kind};
use nsq_daemon::flags::{Exit, Parsed};
use nsq_daemon::go_duration;
use nsq_daemon::log::{Format, Level};

/// The name in the version line and in fatal errors.
pub const PROGRAM: &str = "nsqadmin";

/// The default listener of NSQ's nsqadmin, which containers rely on.
pub const NSQADMIN_ADDRESS: &str = "0.0.0.0:4171";

/// The default listener of `nsq admin`.
pub const NSQ_ADMIN_ADDRESS: &str = "127.0.0.1:4171";

/// The values of the command line and the config file.
#[derive(Debug, Clone, Parser)]
#[command(about = "Dashboard: the web interface of a cluster")]
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
    #[arg(long, default_value = "[nsqadmin] ", value_name = "TEXT")]
    pub log_prefix: String,

    /// Format of log lines: text (as in NSQ) or json
    #[arg(long, default_value = "text", value_name = "FORMAT")]
    pub log_format: Format,

    /// Deprecated, no effect. Use --log-level
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub verbose: bool,

    /// Listener: host:port; port 0 picks a free port [default: 0.0.0.0:4171 as nsqadmin, 127.0.0.1:4171 as nsq admin]
    #[arg(long, default_value = NSQADMIN_ADDRESS, hide_default_value = true, value_name = "ADDRESS")]
    pub http_address: String,

    /// Path in front of every route, for a proxy that serves other things too
    #[arg(long, default_value = "/", value_name = "PATH")]
    pub base_path: String,

    /// HTTP address of an nsqlookupd. May be repeated; not together with --nsqd-http-address
    #[arg(long, alias = "lookupd", value_name = "ADDRESS")]
    pub lookupd_http_address: Vec<String>,

    /// HTTP address of an nsqd. May be repeated; not together with --lookupd-http-address
    #[arg(long, alias = "nsqd", value_name = "ADDRESS")]
    pub nsqd_http_address: Vec<String>,

    /// Maximum time to connect to a daemon
    #[arg(long, default_value = "2s", value_parser = go_duration::parse, value_name = "DURATION")]
    pub http_client_connect_timeout: Duration,

    /// Maximum time for a whole request to a daemon
    #[arg(long, default_value = "5s", value_parser = go_duration::parse, value_name = "DURATION")]
    pub http_client_request_timeout: Duration,

    /// Trust any certificate of a daemon
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide_possible_values = true)]
    pub http_client_tls_insecure_skip_verify: bool,

    /// PEM file with the certificate authority of the daemons [default: the system's]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub http_client_tls_root_ca_file: OsString,

    /// PEM file with the certificate to show to the daemons; needs --http-client-tls-key
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub http_client_tls_cert: OsString,

    /// PEM file with the key of --http-client-tls-cert
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub http_client_tls_key: OsString,

    /// File with the secret for nsqds whose HTTP interface requires one
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub auth_secret_file: OsString,

    /// Header in which a proxy names the user
    #[arg(long, default_value = "X-Forwarded-User", value_name = "NAME")]
    pub acl_http_header: String,

    /// User who may do everything. May be repeated. Without any user, everyone may
    #[arg(long, value_name = "USER")]
    pub admin_user: Vec<String>,

    /// User who may pause, unpause and create. May be repeated
    #[arg(long, value_name = "USER")]
    pub operator_user: Vec<String>,

    /// User who may look. May be repeated; without one, everyone may look
    #[arg(long, value_name = "USER")]
    pub viewer_user: Vec<String>,

    /// TOML file with users, their roles, and hashes of their passwords or tokens
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub users_file: OsString,

    /// Network of proxies whose --acl-http-header and X-Forwarded-For count. May be repeated [default: loopback and
    /// private networks]
    #[arg(long, value_name = "CIDR")]
    pub trusted_proxy: Vec<String>,

    /// Origin (scheme, host and port) of a page that may send changes, besides the dashboard's own. May be repeated
    #[arg(long, value_name = "ORIGIN")]
    pub http_allowed_origin: Vec<String>,

    /// Network that may use /config; empty for everyone
    #[arg(long, default_value = "127.0.0.1/8", value_name = "CIDR")]
    pub allow_config_from_cidr: String,

    /// URL that receives a POST for each action
    #[arg(long, default_value = "", hide_default_value = true, value_name = "URL")]
    pub notification_http_endpoint: String,

    /// File to which each action is appended, one JSON object per line
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub audit_log: OsString,

    /// Hide the bodies of messages from everyone but admins
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide_possible_values = true)]
    pub hide_bodies: bool,

    /// Time between two samples of the cluster: 1s to 1m
    #[arg(long, default_value = "5s", value_parser = go_duration::parse, value_name = "DURATION")]
    pub sample_interval: Duration,

    /// Maximum memory for the history of figures, in bytes: at least 1048576
    #[arg(long, default_value_t = DEFAULT_SERIES_BYTES, value_name = "BYTES")]
    pub history_bytes: usize,

    /// TOML file whose table "problems" has the thresholds of the problem list
    #[arg(long, default_value = "", hide_default_value = true, value_name = "FILE")]
    pub problems_file: OsString,

    /// URL of Graphite; turns its graphs on
    #[arg(long, default_value = "", hide_default_value = true, value_name = "URL")]
    pub graphite_url: String,

    /// Forward /render to Graphite
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide_possible_values = true)]
    pub proxy_graphite: bool,

    /// Prefix of statsd keys; %s is the node. Must equal nsqd's
    #[arg(long, default_value = "nsq.%s", value_name = "TEXT")]
    pub statsd_prefix: String,

    /// Format of the keys of counters; empty for none
    #[arg(long, default_value = "stats.counters.%s.count", value_name = "TEXT")]
    pub statsd_counter_format: String,

    /// Format of the keys of gauges; empty for none
    #[arg(long, default_value = "stats.gauges.%s", value_name = "TEXT")]
    pub statsd_gauge_format: String,

    /// Time between two reports of nsqd to statsd. Must equal nsqd's
    #[arg(long, default_value = "60s", value_parser = go_duration::parse, value_name = "DURATION")]
    pub statsd_interval: Duration,

    /// Serve the assets from this directory, for development
    #[arg(long, default_value = "", hide_default_value = true, value_name = "DIR")]
    pub dev_static_dir: OsString,
}

const KEYS: [Key; 38] = [
    Key::new("log_level", Kind::String),
    Key::new("log_prefix", Kind::String),
    Key::new("log_format", Kind::String),
    Key::new("verbose", Kind::Bool),
    Key::new("http_address", Kind::String),
    Key::new("base_path", Kind::String),
    Key::new("lookupd_http_address", Kind::StringList).named("nsqlookupd_http_addresses"),
    Key::new("nsqd_http_address", Kind::StringList).named("nsqd_http_addresses"),
    Key::new("http_client_connect_timeout", Kind::Duration),
    Key::new("http_client_request_timeout", Kind::Duration),
    Key::new("http_client_tls_insecure_skip_verify", Kind::Bool),
    Key::new("http_client_tls_root_ca_file", Kind::String),
    Key::new("http_client_tls_cert", Kind::String),
    Key::new("http_client_tls_key", Kind::String),
    Key::new("auth_secret_file", Kind::String),
    Key::new("acl_http_header", Kind::String),
    Key::new("admin_user", Kind::StringList).named("admin_users").guard(),
    Key::new("operator_user", Kind::StringList).named("operator_users"),
    Key::new("viewer_user", Kind::StringList).named("viewer_users").guard(),
    Key::new("users_file", Kind::String).guard(),
    Key::new("trusted_proxy", Kind::StringList).named("trusted_proxies").guard(),
    Key::new("http_allowed_origin", Kind::StringList).named("http_allowed_origins"),
    // Its empty value allows everyone, as in NSQ.
    Key::new("allow_config_from_cidr", Kind::String),
    Key::new("notification_http_endpoint", Kind::String),
    Key::new("audit_log", Kind::String),
    Key::new("hide_bodies", Kind::Bool).guard(),
    Key::new("sample_interval", Kind::Duration),
    Key::new("history_bytes", Kind::Int),
    Key::new("problems_file", Kind::String),
    Key::new("graphite_url", Kind::String),
    Key::new("proxy_graphite", Kind::Bool),
    Key::new("statsd_prefix", Kind::String),
    Key::new("statsd_counter_format", Kind::String),
    Key::new("statsd_gauge_format", Kind::String),
    Key::new("statsd_interval", Kind::Duration),
    Key::new("dev_static_dir", Kind::String),
    Key::new("version", Kind::Bool),
    Key::new("config", Kind::String),
];

/// The keys of the config file: all flags but `--version` and `--config`.
fn keys() -> &'static [Key] {
    &KEYS[..KEYS.len() - 2]
}

/// Parses a command line, program name first, and the config file that it names.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed<Flags>, Exit> {
    nsq_daemon::flags::parse(PROGRAM, args, keys())
}

/// Whether the command line sets a flag, in any of Go's spellings.
pub fn sets(args: &[OsString], flag: &str) -> bool {
    args.iter().any(|word| {
        let word = word.to_string_lossy();
        let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or_default();
        name.split('=').next() == Some(flag)
    })
}

/// A path that may be empty.
pub(crate) fn path(text: &OsString) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(words: &[&str]) -> Result<Flags, Exit> {
        let line = std::iter::once(PROGRAM).chain(words.iter().copied()).map(OsString::from);
        parse(line).map(|parsed| parsed.flags)
    }

    #[test]
    fn defaults_are_those_of_nsqadmin() {
        let flags = run(&[]).unwrap();
        assert_eq!((flags.http_address.as_str(), flags.base_path.as_str()), ("0.0.0.0:4171", "/"));
        assert_eq!(flags.http_client_connect_timeout, Duration::from_secs(2));
        assert_eq!(flags.http_client_request_timeout, Duration::from_secs(5));
        assert_eq!((flags.acl_http_header.as_str(), flags.admin_user.len()), ("X-Forwarded-User", 0));
        assert_eq!(flags.allow_config_from_cidr, "127.0.0.1/8");
        assert_eq!(flags.statsd_prefix, "nsq.%s");
        assert_eq!(flags.statsd_counter_format, "stats.counters.%s.count");
        assert_eq!(flags.statsd_gauge_format, "stats.gauges.%s");
        assert_eq!(flags.statsd_interval, Duration::from_secs(60));
    }

    #[test]
    fn config_file_keys_are_those_of_nsqadmin() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nsqadmin.cfg");
        let text = "http_address = '127.0.0.1:0'\nbase_path = '/q'\nnsqlookupd_http_addresses = ['a:1', 'b:2']\n\
                    admin_users = ['ann']\nproxy_graphite = true\nstatsd_interval = '10s'\n";
        std::fs::write(&path, text).unwrap();
        let flags = run(&[&format!("-config={}", path.display()), "-base-path", "/r"]).unwrap();
        assert_eq!((flags.http_address.as_str(), flags.base_path.as_str()), ("127.0.0.1:0", "/r"));
        assert_eq!(flags.lookupd_http_address, ["a:1", "b:2"]);
        assert_eq!((flags.admin_user, flags.proxy_graphite), (vec!["ann".to_owned()], true));
        assert_eq!(flags.statsd_interval, Duration::from_secs(10));
    }

    #[test]
    fn a_flag_is_found_in_each_spelling() {
        let line = ["nsq", "-http-address", "x", "--base-path=/y"].map(OsString::from);
        assert!(sets(&line, "http-address") && sets(&line, "base-path") && !sets(&line, "config"));
    }
}
