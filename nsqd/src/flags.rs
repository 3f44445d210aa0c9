//! All flags as typed: name, default, help and config file key. [`crate::config`] validates their values together.

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nsq_daemon::config_file::{Key, Kind};
use nsq_daemon::log::{Format, Level};
use nsq_daemon::{go_duration, go_flags};

use crate::storage::Durability;

/// The program's name, in its version line and its fatal messages.
pub const PROGRAM: &str = "nsqd";

/// The values from the command line and the config file.
#[derive(Debug, Clone, Parser)]
#[command(about = "Queue daemon: accepts messages for topics and pushes them to consumers of channels")]
pub struct Flags {
    /// Print the version and exit.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub version: bool,
    /// Path of a TOML config file. Flags override it.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub config: OsString,
    /// Lowest level to log: debug, info, warn, error or fatal.
    #[arg(long, default_value = "info")]
    pub log_level: Level,
    /// Text in front of every log line.
    #[arg(long, default_value = "[nsqd] ")]
    pub log_prefix: String,
    /// Format of log lines: text (as in NSQ) or json.
    #[arg(long, default_value = "text")]
    pub log_format: Format,
    /// Deprecated, no effect. Use --log-level.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub verbose: bool,
    /// Node number in message ids, 0 to 1023. [default: from the host name]
    #[arg(long, value_parser = go_flags::parse_int)]
    pub node_id: Option<i64>,
    /// Deprecated, no effect. Use --node-id.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub worker_id: bool,

    /// TCP listener for clients: host:port, or the path of a unix socket.
    #[arg(long, default_value = "0.0.0.0:4150")]
    pub tcp_address: String,
    /// HTTP listener: host:port, or the path of a unix socket; empty to disable.
    #[arg(long, default_value = "0.0.0.0:4151")]
    pub http_address: String,
    /// Permissions of unix socket files, octal, such as 0660. [default: from the umask]
    #[arg(long, value_parser = go_flags::parse_mode)]
    pub unix_socket_mode: Option<u32>,
    /// HTTPS listener: host:port; empty to disable. Used only with --tls-cert and --tls-key.
    #[arg(long, default_value = "0.0.0.0:4152")]
    pub https_address: String,
    /// Address to announce to nsqlookupd. [default: the host name]
    #[arg(long)]
    pub broadcast_address: Option<String>,
    /// TCP port to announce to nsqlookupd; 0 for the real port.
    #[arg(long, default_value = "0", value_parser = port)]
    pub broadcast_tcp_port: u16,
    /// HTTP port to announce to nsqlookupd; 0 for the real port.
    #[arg(long, default_value = "0", value_parser = port)]
    pub broadcast_http_port: u16,
    /// nsqlookupd to register with: TCP host:port. May be repeated.
    #[arg(long)]
    pub lookupd_tcp_address: Vec<String>,
    /// Time to keep serving after SIGTERM or SIGINT, with /ping answering 503. A second signal stops nsqd at once.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    pub shutdown_delay: Duration,
    /// Timeout for connecting to nsqlookupd's HTTP port and to auth servers.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    pub http_client_connect_timeout: Duration,
    /// Timeout for a whole HTTP request to nsqlookupd or an auth server.
    #[arg(long, default_value = "5s", value_parser = go_duration::parse)]
    pub http_client_request_timeout: Duration,
    /// Auth server: host:port (queried at /auth) or a URL. May be repeated.
    #[arg(long)]
    pub auth_http_address: Vec<String>,
    /// HTTP method for queries to auth servers: get or post.
    #[arg(long, default_value = "get")]
    pub auth_http_request_method: String,
    /// File of tokens and their permissions, TOML or JSON; reloaded when it changes.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub auth_file: OsString,
    /// Require a token for the HTTP API: Authorization: Bearer TOKEN.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub http_auth: bool,
    /// Allow web pages of this origin (scheme, host and port) to make changes over HTTP; * for every origin. May be
    /// repeated.
    #[arg(long)]
    pub http_allowed_origin: Vec<String>,
    /// Region of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub topology_region: String,
    /// Zone of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub topology_zone: String,
    /// Enable an experiment (topology-aware-consumption). May be repeated.
    #[arg(long)]
    pub enable_experiment: Vec<String>,

    /// Directory for all data files. [default: the working directory]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub data_path: OsString,
    /// When to acknowledge a publish: overflow (in memory), write (survives a kill) or sync (survives a power failure).
    #[arg(long, default_value_t = Durability::Write)]
    pub durability: Durability,
    /// Maximum number of messages per topic in memory.
    #[arg(long, default_value = "10000", value_parser = count)]
    pub mem_queue_size: u64,
    /// Maximum bytes of messages per topic in memory.
    #[arg(long, default_value = "67108864", value_parser = count)]
    pub mem_queue_bytes: u64,
    /// Maximum size of a file of a topic's messages, in bytes.
    #[arg(long, default_value = "104857600", value_parser = positive)]
    pub max_bytes_per_file: u64,
    /// Time to retain finished messages, so that channels can start in the past; 0 for no time limit.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    pub retain_for: Duration,
    /// Bytes of its newest messages that a topic retains; 0 for no size limit. Without both limits, nothing is
    /// retained.
    #[arg(long, default_value = "0", value_parser = count)]
    pub retain_bytes: u64,
    /// Sync written data in the background after this many messages. No effect with --durability=sync.
    #[arg(long, default_value = "2500", value_parser = count)]
    pub sync_every: u64,
    /// Maximum time until written data is synced in the background. No effect with --durability=sync.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    pub sync_timeout: Duration,
    /// No effect: nsqd keeps deadlines in order and does not scan queues.
    #[arg(long, default_value = "4", value_parser = count)]
    pub queue_scan_worker_pool_max: u64,
    /// No effect: nsqd keeps deadlines in order and does not scan queues.
    #[arg(long, default_value = "20", value_parser = count)]
    pub queue_scan_selection_count: u64,

    /// In-flight timeout of a message, unless the client requests another.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub msg_timeout: Duration,
    /// Maximum in-flight timeout of a message.
    #[arg(long, default_value = "15m", value_parser = go_duration::parse)]
    pub max_msg_timeout: Duration,
    /// Maximum length of a message body, in bytes.
    #[arg(long, default_value = "1048576", value_parser = wire_size)]
    pub max_msg_size: u64,
    /// Maximum length of a command body, in bytes.
    #[arg(long, default_value = "5242880", value_parser = wire_size)]
    pub max_body_size: u64,
    /// Maximum delay of a message.
    #[arg(long, default_value = "1h", value_parser = go_duration::parse)]
    pub max_req_timeout: Duration,

    /// Maximum heartbeat interval that a client may request.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub max_heartbeat_interval: Duration,
    /// Maximum RDY count of a consumer.
    #[arg(long, default_value = "2500", value_parser = count)]
    pub max_rdy_count: u64,
    /// Maximum output buffer that a client may request, in bytes.
    #[arg(long, default_value = "65536", value_parser = count)]
    pub max_output_buffer_size: u64,
    /// Maximum output buffer timeout that a client may request.
    #[arg(long, default_value = "30s", value_parser = go_duration::parse)]
    pub max_output_buffer_timeout: Duration,
    /// Minimum output buffer timeout that a client may request.
    #[arg(long, default_value = "25ms", value_parser = go_duration::parse)]
    pub min_output_buffer_timeout: Duration,
    /// Output buffer timeout, unless the client requests another.
    #[arg(long, default_value = "250ms", value_parser = go_duration::parse)]
    pub output_buffer_timeout: Duration,
    /// Maximum number of consumers per channel; 0 for no limit.
    #[arg(long, default_value = "0", value_parser = count)]
    pub max_channel_consumers: u64,

    /// statsd server to push statistics to: UDP host:port.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub statsd_address: String,
    /// Prefix of statsd keys; %s is replaced by the host key.
    #[arg(long, default_value = "nsq.%s")]
    pub statsd_prefix: String,
    /// Interval between pushes to statsd.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub statsd_interval: Duration,
    /// Push memory statistics to statsd.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    pub statsd_mem_stats: bool,
    /// Size of a UDP datagram to statsd, in bytes.
    #[arg(long, default_value = "508", value_parser = count)]
    pub statsd_udp_packet_size: u64,
    /// Omit ephemeral topics and channels from statsd.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub statsd_exclude_ephemeral: bool,

    /// Maximum number of topic and channel series in /metrics; the rest appear only in totals.
    #[arg(long, default_value = "20000", value_parser = count)]
    pub metrics_max_series: u64,

    /// Quantile of the time from publish to FIN to report, in (0, 1]. May be repeated or separated by commas.
    #[arg(long)]
    pub e2e_processing_latency_percentile: Vec<String>,
    /// Window of samples for --e2e-processing-latency-percentile.
    #[arg(long, default_value = "10m", value_parser = go_duration::parse)]
    pub e2e_processing_latency_window_time: Duration,

    /// Certificate file (with the chain up to its root), PEM. Reloaded when it changes and on SIGHUP.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tls_cert: String,
    /// Private key file for --tls-cert, PEM.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tls_key: String,
    /// Policy for client certificates: require (any certificate) or require-verify (signed by an authority). request
    /// and verify-if-given check the same, but accept clients without a certificate. Implies
    /// --tls-required, unless that is tcp-https.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tls_client_auth_policy: String,
    /// File of certificate authorities, PEM. [default: the system's]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub tls_root_ca_file: String,
    /// Require TLS: true, false, or tcp-https (everything except plain HTTP).
    #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true", value_parser = TlsRequired::parse)]
    pub tls_required: TlsRequired,
    /// Minimum TLS version: tls1.0, tls1.1, tls1.2 or tls1.3. nsqd never uses a version before TLS 1.2.
    #[arg(long, default_value = "tls1.0", value_parser = TlsVersion::parse)]
    pub tls_min_version: TlsVersion,

    /// Allow clients to negotiate deflate.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    pub deflate: bool,
    /// Maximum deflate level, 1 to 9.
    #[arg(long, default_value = "6", value_parser = go_flags::parse_int)]
    pub max_deflate_level: i64,
    /// Allow clients to negotiate snappy.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    pub snappy: bool,
}

/// The keys of the config file.
pub const KEYS: &[Key] = &[
    Key::new("log_level", "log-level", Kind::String),
    Key::new("log_prefix", "log-prefix", Kind::String),
    Key::new("log_format", "log-format", Kind::String),
    Key::new("id", "node-id", Kind::Int),
    Key::new("tcp_address", "tcp-address", Kind::String),
    Key::new("http_address", "http-address", Kind::String),
    Key::new("unix_socket_mode", "unix-socket-mode", Kind::String),
    Key::new("https_address", "https-address", Kind::String),
    Key::new("broadcast_address", "broadcast-address", Kind::String),
    Key::new("broadcast_tcp_port", "broadcast-tcp-port", Kind::Int),
    Key::new("broadcast_http_port", "broadcast-http-port", Kind::Int),
    Key::new("nsqlookupd_tcp_addresses", "lookupd-tcp-address", Kind::StringList),
    Key::new("shutdown_delay", "shutdown-delay", Kind::Duration),
    Key::new("http_client_connect_timeout", "http-client-connect-timeout", Kind::Duration),
    Key::new("http_client_request_timeout", "http-client-request-timeout", Kind::Duration),
    Key::guard("auth_http_addresses", "auth-http-address", Kind::StringList),
    Key::guard("auth_http_request_method", "auth-http-request-method", Kind::String),
    Key::guard("auth_file", "auth-file", Kind::String),
    Key::guard("http_auth", "http-auth", Kind::Bool),
    Key::guard("http_allowed_origins", "http-allowed-origin", Kind::StringList),
    Key::new("topology_region", "topology-region", Kind::String),
    Key::new("topology_zone", "topology-zone", Kind::String),
    Key::new("enable_experiment", "enable-experiment", Kind::StringList),
    Key::new("data_path", "data-path", Kind::String),
    Key::new("durability", "durability", Kind::String),
    Key::new("mem_queue_size", "mem-queue-size", Kind::Int),
    Key::new("mem_queue_bytes", "mem-queue-bytes", Kind::Int),
    Key::new("max_bytes_per_file", "max-bytes-per-file", Kind::Int),
    Key::new("retain_for", "retain-for", Kind::Duration),
    Key::new("retain_bytes", "retain-bytes", Kind::Int),
    Key::new("sync_every", "sync-every", Kind::Int),
    Key::new("sync_timeout", "sync-timeout", Kind::Duration),
    Key::new("queue_scan_worker_pool_max", "queue-scan-worker-pool-max", Kind::Int),
    Key::new("queue_scan_selection_count", "queue-scan-selection-count", Kind::Int),
    Key::new("msg_timeout", "msg-timeout", Kind::Duration),
    Key::new("max_msg_timeout", "max-msg-timeout", Kind::Duration),
    Key::new("max_msg_size", "max-msg-size", Kind::Int),
    Key::new("max_body_size", "max-body-size", Kind::Int),
    Key::new("max_req_timeout", "max-req-timeout", Kind::Duration),
    Key::new("max_heartbeat_interval", "max-heartbeat-interval", Kind::Duration),
    Key::new("max_rdy_count", "max-rdy-count", Kind::Int),
    Key::new("max_output_buffer_size", "max-output-buffer-size", Kind::Int),
    Key::new("max_output_buffer_timeout", "max-output-buffer-timeout", Kind::Duration),
    Key::new("min_output_buffer_timeout", "min-output-buffer-timeout", Kind::Duration),
    Key::new("output_buffer_timeout", "output-buffer-timeout", Kind::Duration),
    Key::new("max_channel_consumers", "max-channel-consumers", Kind::Int),
    Key::new("statsd_address", "statsd-address", Kind::String),
    Key::new("statsd_prefix", "statsd-prefix", Kind::String),
    Key::new("statsd_interval", "statsd-interval", Kind::Duration),
    Key::new("statsd_mem_stats", "statsd-mem-stats", Kind::Bool),
    Key::new("statsd_udp_packet_size", "statsd-udp-packet-size", Kind::Int),
    Key::new("statsd_exclude_ephemeral", "statsd-exclude-ephemeral", Kind::Bool),
    Key::new("metrics_max_series", "metrics-max-series", Kind::Int),
    Key::new("e2e_processing_latency_percentiles", "e2e-processing-latency-percentile", Kind::FloatList),
    Key::new("e2e_processing_latency_window_time", "e2e-processing-latency-window-time", Kind::Duration),
    Key::guard("tls_cert", "tls-cert", Kind::String),
    Key::guard("tls_key", "tls-key", Kind::String),
    Key::guard("tls_client_auth_policy", "tls-client-auth-policy", Kind::String),
    Key::guard("tls_root_ca_file", "tls-root-ca-file", Kind::String),
    Key::guard("tls_required", "tls-required", Kind::Word),
    Key::guard("tls_min_version", "tls-min-version", Kind::String),
    Key::new("deflate", "deflate", Kind::Bool),
    Key::new("max_deflate_level", "max-deflate-level", Kind::Int),
    Key::new("snappy", "snappy", Kind::Bool),
];

/// `--tls-required`. `/config/tls_required` reports its number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsRequired {
    /// The client decides.
    #[default]
    No = 0,
    /// Everything except plain HTTP requires TLS.
    TcpHttps = 1,
    /// Everything requires TLS.
    Yes = 2,
}

impl TlsRequired {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("tcp-https") {
            return Ok(Self::TcpHttps);
        }
        match go_flags::parse_bool(text) {
            Ok(true) => Ok(Self::Yes),
            Ok(false) => Ok(Self::No),
            Err(_) => Err("must be true, false or tcp-https".to_owned()),
        }
    }
}

/// `--tls-min-version`. Its numbers are those of the TLS protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    #[default]
    Tls10 = 0x301,
    Tls11 = 0x302,
    Tls12 = 0x303,
    Tls13 = 0x304,
}

impl TlsVersion {
    fn parse(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "" => Ok(Self::default()),
            "tls1.0" => Ok(Self::Tls10),
            "tls1.1" => Ok(Self::Tls11),
            "tls1.2" => Ok(Self::Tls12),
            "tls1.3" => Ok(Self::Tls13),
            _ => Err("must be tls1.0, tls1.1, tls1.2 or tls1.3".to_owned()),
        }
    }
}

fn count(text: &str) -> Result<u64, String> {
    u64::try_from(go_flags::parse_int(text)?).map_err(|_| "must not be negative".to_owned())
}

fn positive(text: &str) -> Result<u64, String> {
    count(text).and_then(|number| if number == 0 { Err("must not be 0".to_owned()) } else { Ok(number) })
}

/// Sizes are signed 32-bit integers on the wire.
fn wire_size(text: &str) -> Result<u64, String> {
    positive(text).and_then(|size| {
        if size > i32::MAX as u64 { Err(format!("must be at most {}", i32::MAX)) } else { Ok(size) }
    })
}

fn port(text: &str) -> Result<u16, String> {
    u16::try_from(go_flags::parse_int(text)?).map_err(|_| "must be a port, 0 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Flags that have no config file key.
    const NOT_IN_FILE: [&str; 5] = ["version", "config", "verbose", "worker-id", "help"];

    /// Keys that differ from their flag's name with underscores.
    const NAMED_OTHERWISE: [&str; 5] = [
        "id",
        "nsqlookupd_tcp_addresses",
        "auth_http_addresses",
        "http_allowed_origins",
        "e2e_processing_latency_percentiles",
    ];

    #[test]
    fn clap_accepts_the_flag_definitions() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_flag_has_one_config_key() {
        let mut command = Flags::command();
        command.build();
        let flags: Vec<&str> = command.get_arguments().filter_map(|argument| argument.get_long()).collect();
        for flag in &flags {
            let keys = KEYS.iter().filter(|key| key.flag == *flag).count();
            assert_eq!(keys, usize::from(!NOT_IN_FILE.contains(flag)), "--{flag}");
        }
        for key in KEYS {
            assert!(flags.contains(&key.flag), "{}", key.key);
            let derived = key.flag.replace('-', "_");
            assert!(key.key == derived || NAMED_OTHERWISE.contains(&key.key), "{}", key.key);
        }
    }

    #[test]
    fn tls_options_are_parsed_in_any_case() {
        assert_eq!(TlsRequired::parse("TCP-https"), Ok(TlsRequired::TcpHttps));
        assert_eq!(TlsRequired::parse("T"), Ok(TlsRequired::Yes));
        assert!(TlsRequired::parse("maybe").is_err());
        assert_eq!(TlsVersion::parse("TLS1.2"), Ok(TlsVersion::Tls12));
        assert_eq!(TlsVersion::parse(""), Ok(TlsVersion::Tls10));
        assert!(TlsVersion::parse("ssl3.0").is_err());
        assert_eq!(TlsVersion::Tls13 as u16, 772);
    }

    #[test]
    fn numbers_out_of_range_are_rejected() {
        assert_eq!(count("0x10"), Ok(16));
        assert!(count("-1").is_err());
        assert!(positive("0").is_err());
        assert!(wire_size("2147483648").is_err());
        assert_eq!(port("65535"), Ok(65535));
        assert!(port("65536").is_err());
    }
}
