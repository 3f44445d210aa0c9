//! Every flag, as typed: name, default, help and key in the config file. What the values mean together is decided in
//! [`crate::config`].

use std::ffi::OsString;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nsq_daemon::config_file::{Key, Kind};
use nsq_daemon::log::{Format, Level};
use nsq_daemon::{go_duration, go_flags};

use crate::storage::Durability;

/// The program's name, in its version line and its last words.
pub const PROGRAM: &str = "nsqd";

/// What the command line and the config file say.
#[derive(Debug, Clone, Parser)]
#[command(about = "The queue daemon: topics, channels, and consumers that messages are pushed to")]
pub struct Flags {
    /// Print the version and exit.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub version: bool,
    /// Path of a TOML config file. Flags win over it.
    #[arg(long, default_value = "")]
    pub config: OsString,
    /// Lowest level of log lines: debug, info, warn, error or fatal.
    #[arg(long, default_value = "info")]
    pub log_level: Level,
    /// Put in front of every log line.
    #[arg(long, default_value = "[nsqd] ")]
    pub log_prefix: String,
    /// What a log line looks like: text (NSQ's) or json.
    #[arg(long, default_value = "text")]
    pub log_format: Format,
    /// Deprecated, no effect: see --log-level.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub verbose: bool,
    /// Part of message ids, 0 to 1023. [default: from the host name]
    #[arg(long, value_parser = go_flags::parse_int)]
    pub node_id: Option<i64>,
    /// Deprecated, no effect: see --node-id.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    pub worker_id: bool,

    /// Where clients connect: host:port, or the path of a unix socket.
    #[arg(long, default_value = "0.0.0.0:4150")]
    pub tcp_address: String,
    /// Where HTTP is served: host:port, or the path of a unix socket; empty for nowhere.
    #[arg(long, default_value = "0.0.0.0:4151")]
    pub http_address: String,
    /// Permissions of the files of unix sockets, octal, such as 0660. [default: what the umask leaves]
    #[arg(long, value_parser = go_flags::parse_mode)]
    pub unix_socket_mode: Option<u32>,
    /// Where HTTPS is served, if there is a certificate; empty for nowhere.
    #[arg(long, default_value = "0.0.0.0:4152")]
    pub https_address: String,
    /// Address that lookupd gives to clients. [default: the host name]
    #[arg(long)]
    pub broadcast_address: Option<String>,
    /// TCP port that lookupd gives to clients; 0 for the real one.
    #[arg(long, default_value = "0", value_parser = port)]
    pub broadcast_tcp_port: u16,
    /// HTTP port that lookupd gives to tools; 0 for the real one.
    #[arg(long, default_value = "0", value_parser = port)]
    pub broadcast_http_port: u16,
    /// A lookupd's host:port for TCP. May be repeated.
    #[arg(long)]
    pub lookupd_tcp_address: Vec<String>,
    /// How long to go on after SIGTERM or SIGINT, with /ping answering 503, before stopping; a second signal ends it.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    pub shutdown_delay: Duration,
    /// Limit for connecting to lookupd's HTTP and to auth servers.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    pub http_client_connect_timeout: Duration,
    /// Limit for a whole request to them.
    #[arg(long, default_value = "5s", value_parser = go_duration::parse)]
    pub http_client_request_timeout: Duration,
    /// An auth server: host:port (asked at /auth) or a URL. May be repeated.
    #[arg(long)]
    pub auth_http_address: Vec<String>,
    /// How auth servers are asked: get or post.
    #[arg(long, default_value = "get")]
    pub auth_http_request_method: String,
    /// File of tokens and what they allow, TOML or JSON; read again when it changes.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub auth_file: OsString,
    /// The HTTP API needs a token, too: Authorization: Bearer TOKEN.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub http_auth: bool,
    /// Accept changes over HTTP that a browser sends for pages of this origin (scheme, host and port); * for
    /// every site. May be repeated.
    #[arg(long)]
    pub http_allowed_origin: Vec<String>,
    /// Region that this node is in.
    #[arg(long, default_value = "")]
    pub topology_region: String,
    /// Zone that this node is in.
    #[arg(long, default_value = "")]
    pub topology_zone: String,
    /// Switches an experiment on (topology-aware-consumption). May be repeated.
    #[arg(long)]
    pub enable_experiment: Vec<String>,

    /// Directory of all files. [default: the working directory]
    #[arg(long, default_value = "", hide_default_value = true)]
    pub data_path: OsString,
    /// When a publish is acknowledged: in memory (overflow), survives a kill (write), survives a power failure (sync).
    #[arg(long, default_value_t = Durability::Write)]
    pub durability: Durability,
    /// Messages per topic that are held in memory.
    #[arg(long, default_value = "10000", value_parser = count)]
    pub mem_queue_size: u64,
    /// Bytes of messages per topic that are held in memory.
    #[arg(long, default_value = "67108864", value_parser = count)]
    pub mem_queue_bytes: u64,
    /// Bytes per file of a topic's messages.
    #[arg(long, default_value = "104857600", value_parser = positive)]
    pub max_bytes_per_file: u64,
    /// How long a topic keeps finished messages, so that channels can start in the past; 0 for not at all.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    pub retain_for: Duration,
    /// How many bytes of its newest messages a topic keeps though finished; 0 for no limit but --retain-for's.
    #[arg(long, default_value = "0", value_parser = count)]
    pub retain_bytes: u64,
    /// Messages after which what was written is synced in the background; with --durability=sync it always is.
    #[arg(long, default_value = "2500", value_parser = count)]
    pub sync_every: u64,
    /// How long what was written may wait for that.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    pub sync_timeout: Duration,
    /// No effect here: deadlines are kept in order, so that nothing is scanned.
    #[arg(long, default_value = "4", value_parser = count)]
    pub queue_scan_worker_pool_max: u64,
    /// No effect here: deadlines are kept in order, so that nothing is scanned.
    #[arg(long, default_value = "20", value_parser = count)]
    pub queue_scan_selection_count: u64,

    /// How long a message may be in flight, unless the client asks for another time.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub msg_timeout: Duration,
    /// How long a message may be in flight at most.
    #[arg(long, default_value = "15m", value_parser = go_duration::parse)]
    pub max_msg_timeout: Duration,
    /// Longest body of a message, in bytes.
    #[arg(long, default_value = "1048576", value_parser = wire_size)]
    pub max_msg_size: u64,
    /// Longest body of a command, in bytes.
    #[arg(long, default_value = "5242880", value_parser = wire_size)]
    pub max_body_size: u64,
    /// Longest delay of a message.
    #[arg(long, default_value = "1h", value_parser = go_duration::parse)]
    pub max_req_timeout: Duration,

    /// Longest heartbeat interval that a client may ask for.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub max_heartbeat_interval: Duration,
    /// Highest RDY count.
    #[arg(long, default_value = "2500", value_parser = count)]
    pub max_rdy_count: u64,
    /// Largest output buffer that a client may ask for, in bytes.
    #[arg(long, default_value = "65536", value_parser = count)]
    pub max_output_buffer_size: u64,
    /// Longest output buffer timeout that a client may ask for.
    #[arg(long, default_value = "30s", value_parser = go_duration::parse)]
    pub max_output_buffer_timeout: Duration,
    /// Shortest output buffer timeout that a client may ask for.
    #[arg(long, default_value = "25ms", value_parser = go_duration::parse)]
    pub min_output_buffer_timeout: Duration,
    /// Output buffer timeout, unless the client asks for another.
    #[arg(long, default_value = "250ms", value_parser = go_duration::parse)]
    pub output_buffer_timeout: Duration,
    /// Most consumers of a channel; 0 for no limit.
    #[arg(long, default_value = "0", value_parser = count)]
    pub max_channel_consumers: u64,

    /// A statsd's host:port for UDP.
    #[arg(long, default_value = "")]
    pub statsd_address: String,
    /// Prefix of statsd keys; %s stands for the host key.
    #[arg(long, default_value = "nsq.%s")]
    pub statsd_prefix: String,
    /// Time between pushes to statsd.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    pub statsd_interval: Duration,
    /// Tell statsd about memory.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    pub statsd_mem_stats: bool,
    /// Bytes per datagram to statsd.
    #[arg(long, default_value = "508", value_parser = count)]
    pub statsd_udp_packet_size: u64,
    /// Do not tell statsd about ephemeral topics and channels.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    pub statsd_exclude_ephemeral: bool,

    /// Most series of topics and channels in /metrics; what is beyond is told in sums only.
    #[arg(long, default_value = "20000", value_parser = count)]
    pub metrics_max_series: u64,

    /// A quantile in (0, 1] of the time from publishing to FIN. May be repeated or joined by commas.
    #[arg(long)]
    pub e2e_processing_latency_percentile: Vec<String>,
    /// Window of samples for it.
    #[arg(long, default_value = "10m", value_parser = go_duration::parse)]
    pub e2e_processing_latency_window_time: Duration,

    /// Certificate (with the chain up to its root), PEM. Read again when it changes, and on SIGHUP.
    #[arg(long, default_value = "")]
    pub tls_cert: String,
    /// Its key, PEM.
    #[arg(long, default_value = "")]
    pub tls_key: String,
    /// Client certificates: require (any), require-verify (from an authority), request or verify-if-given (the same,
    /// of clients that have one). Makes --tls-required true.
    #[arg(long, default_value = "")]
    pub tls_client_auth_policy: String,
    /// Certificates of authorities, PEM. [default: the system's]
    #[arg(long, default_value = "")]
    pub tls_root_ca_file: String,
    /// Insist on TLS: true, false, or tcp-https for all but HTTP.
    #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true", value_parser = TlsRequired::parse)]
    pub tls_required: TlsRequired,
    /// Oldest version of TLS: tls1.0, tls1.1, tls1.2 or tls1.3. There is none before 1.2 here.
    #[arg(long, default_value = "tls1.0", value_parser = TlsVersion::parse)]
    pub tls_min_version: TlsVersion,

    /// Let clients negotiate deflate.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    pub deflate: bool,
    /// Highest level of deflate, 1 to 9.
    #[arg(long, default_value = "6", value_parser = go_flags::parse_int)]
    pub max_deflate_level: i64,
    /// Let clients negotiate snappy.
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

/// `--tls-required`; its number is what `/config/tls_required` tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsRequired {
    /// TLS is up to the client.
    #[default]
    No = 0,
    /// All but plain HTTP needs TLS.
    TcpHttps = 1,
    /// Everything needs TLS.
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

/// `--tls-min-version`; its number is TLS's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.0.
    #[default]
    Tls10 = 0x301,
    /// TLS 1.1.
    Tls11 = 0x302,
    /// TLS 1.2.
    Tls12 = 0x303,
    /// TLS 1.3.
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
        if size > i32::MAX as u64 { Err(format!("must not be more than {}", i32::MAX)) } else { Ok(size) }
    })
}

fn port(text: &str) -> Result<u16, String> {
    u16::try_from(go_flags::parse_int(text)?).map_err(|_| "must be a port, 0 to 65535".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Flags that are only for the command line.
    const NOT_IN_FILE: [&str; 5] = ["version", "config", "verbose", "worker-id", "help"];

    /// Keys that are not their flag with underscores.
    const NAMED_OTHERWISE: [&str; 5] = [
        "id",
        "nsqlookupd_tcp_addresses",
        "auth_http_addresses",
        "http_allowed_origins",
        "e2e_processing_latency_percentiles",
    ];

    #[test]
    fn the_clap_tree_is_sound() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_flag_has_its_key() {
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
    fn words_of_tls() {
        assert_eq!(TlsRequired::parse("TCP-https"), Ok(TlsRequired::TcpHttps));
        assert_eq!(TlsRequired::parse("T"), Ok(TlsRequired::Yes));
        assert!(TlsRequired::parse("maybe").is_err());
        assert_eq!(TlsVersion::parse("TLS1.2"), Ok(TlsVersion::Tls12));
        assert_eq!(TlsVersion::parse(""), Ok(TlsVersion::Tls10));
        assert!(TlsVersion::parse("ssl3.0").is_err());
        assert_eq!(TlsVersion::Tls13 as u16, 772);
    }

    #[test]
    fn numbers_have_ranges() {
        assert_eq!(count("0x10"), Ok(16));
        assert!(count("-1").is_err());
        assert!(positive("0").is_err());
        assert!(wire_size("2147483648").is_err());
        assert_eq!(port("65535"), Ok(65535));
        assert!(port("65536").is_err());
    }
}
