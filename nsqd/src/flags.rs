//! All flags as typed. An entry in the list `flags!` is everything about a flag but its use: name, default, help, key in
//! the config file, and how `/config` shows it.
//!
//! - An entry's name with dashes is the flag. With underscores it is the key in the config file, unless `key` names
//!   another one.
//! - `guard` marks a flag that protects the daemon: see [`Key::guard`].
//! - `no_key` keeps the flag out of the config file and `/config`.
//! - The type decides how the config file spells the value and how `/config` shows it: see `FlagType`.
//!
//! [`crate::config`] checks what no single value can tell, and completes values that depend on the host.

use std::convert::Infallible;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{ArgAction, Parser};
use nsq_daemon::config_file::{Key, Kind};
use nsq_daemon::listen::{Address, parse_address};
use nsq_daemon::log::{Format, Level};
use nsq_daemon::{go_duration, go_flags};
use nsq_protocol::redact::without_user_info;
use serde_json::{Value, json};

use crate::storage::Durability;

/// The program's name, in its version line and its fatal messages.
pub const PROGRAM: &str = "nsqd";

/// Makes [`Flags`] and [`ENTRIES`] from one list.
macro_rules! flags {
    ($($(#[$attribute:meta])* $name:ident: $type:ty $(, $change:ident $(($argument:literal))?)*;)*) => {
        /// The values from the command line and the config file.
        #[derive(Debug, Clone, PartialEq, Parser)]
        #[command(about = "Queue daemon: accepts messages for topics and pushes them to consumers of channels")]
        pub struct Flags {
            $($(#[$attribute])* pub $name: $type,)*
        }

        const ENTRIES: &[Entry] = &[$(
            Entry::new(stringify!($name), <$type as FlagType>::KIND, |flags| flags.$name.shown())
                $(.$change($($argument)?))*
        ),*];
    };
}

flags! {
    /// Print the version and exit.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool, no_key;
    /// Path of a TOML config file. Flags override it.
    #[arg(long, default_value = "", hide_default_value = true)]
    config: OsString, no_key;
    /// Lowest level to log: debug, info, warn, error or fatal.
    #[arg(long, default_value = "info")]
    log_level: Level;
    /// Text in front of every log line.
    #[arg(long, default_value = "[nsqd] ")]
    log_prefix: String;
    /// Format of log lines: text (as in NSQ) or json.
    #[arg(long, default_value = "text")]
    log_format: Format;
    /// Deprecated, no effect. Use --log-level.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    verbose: bool, no_key;
    /// Node number in message ids, 0 to 1023. [default: from the host name]
    #[arg(long, value_parser = go_flags::parse_int)]
    node_id: Option<i64>, key("id");
    /// Deprecated, no effect. Use --node-id.
    #[arg(long, action = ArgAction::Set, default_value_t = false, hide = true)]
    worker_id: bool, no_key;

    /// TCP listener for clients: host:port, or the path of a unix socket.
    #[arg(long, default_value = "0.0.0.0:4150", value_parser = address)]
    tcp_address: Address;
    /// HTTP listener: host:port, or the path of a unix socket; empty to disable.
    #[arg(long, default_value = "0.0.0.0:4151")]
    http_address: String;
    /// Permissions of unix socket files, octal, such as 0660. [default: from the umask]
    #[arg(long, value_parser = FileMode::parse)]
    unix_socket_mode: Option<FileMode>;
    /// HTTPS listener: host:port; empty to disable. Used only with --tls-cert and --tls-key.
    #[arg(long, default_value = "0.0.0.0:4152")]
    https_address: String;
    /// Address to announce to nsqlookupd. [default: the host name]
    #[arg(long)]
    broadcast_address: Option<String>;
    /// TCP port to announce to nsqlookupd; 0 for the real port.
    #[arg(long, default_value = "0", value_parser = port)]
    broadcast_tcp_port: u16;
    /// HTTP port to announce to nsqlookupd; 0 for the real port.
    #[arg(long, default_value = "0", value_parser = port)]
    broadcast_http_port: u16;
    /// nsqlookupd to register with: TCP host:port. May be repeated.
    #[arg(long)]
    lookupd_tcp_address: Vec<String>, key("nsqlookupd_tcp_addresses");
    /// Time to keep serving after SIGTERM or SIGINT, with /ping answering 503. A second signal stops nsqd at once.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    shutdown_delay: Duration;
    /// What to do at the first SIGTERM: stop, or drain (refuse publishes and wait until consumers have everything, then
    /// stop). Another SIGTERM or a SIGINT stops nsqd at once.
    #[arg(long, default_value = "stop", value_parser = OnSigterm::parse)]
    sigterm: OnSigterm;
    /// Maximum time to wait for consumers with --sigterm=drain; 0 for no limit.
    #[arg(long, default_value = "5m", value_parser = go_duration::parse)]
    drain_timeout: Duration;
    /// HTTP address of another nsqd, host:port or https://host:port. What a drain has left at its time limit moves there.
    #[arg(long, default_value = "", hide_default_value = true)]
    drain_to: String;
    /// Maximum time to move messages to --drain-to without success. Consumers have as long for their messages in flight.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    drain_to_timeout: Duration;
    /// File with a token that has the permission adopt at --drain-to.
    #[arg(long, default_value = "", hide_default_value = true)]
    drain_to_token_file: OsString;
    /// Timeout for connecting to nsqlookupd's HTTP port and to auth servers.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    http_client_connect_timeout: Duration;
    /// Timeout for a whole HTTP request to nsqlookupd or an auth server.
    #[arg(long, default_value = "5s", value_parser = go_duration::parse)]
    http_client_request_timeout: Duration;
    /// Auth server: host:port (queried at /auth) or a URL. May be repeated.
    #[arg(long)]
    auth_http_address: Vec<String>, key("auth_http_addresses"), guard;
    /// HTTP method for queries to auth servers: get or post.
    #[arg(long, default_value = "get")]
    auth_http_request_method: String, guard;
    /// File of tokens and their permissions, TOML or JSON; reloaded when it changes.
    #[arg(long, default_value = "", hide_default_value = true)]
    auth_file: OsString, guard;
    /// File of policies: settings of topics and channels by name pattern, TOML; reloaded when it changes.
    #[arg(long, default_value = "", hide_default_value = true)]
    policy_file: OsString;
    /// Require a token for the HTTP API: Authorization: Bearer TOKEN.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    http_auth: bool, guard;
    /// Allow web pages of this origin (scheme, host and port) to make changes over HTTP; * for every origin. May be
    /// repeated.
    #[arg(long)]
    http_allowed_origin: Vec<String>, key("http_allowed_origins"), guard;
    /// Allow web pages of this origin (scheme, host and port) to publish and consume over HTTP, and to read the responses
    /// (CORS). May be repeated.
    #[arg(long)]
    http_cors_origin: Vec<String>, key("http_cors_origins"), guard;
    /// Region of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    topology_region: String;
    /// Zone of this node.
    #[arg(long, default_value = "", hide_default_value = true)]
    topology_zone: String;
    /// Enable an experiment (topology-aware-consumption). May be repeated.
    #[arg(long)]
    enable_experiment: Vec<String>;

    /// Directory for all data files. [default: the working directory]
    #[arg(long, default_value = "", hide_default_value = true, value_parser = OsStringValueParser::new().map(data_path))]
    data_path: PathBuf;
    /// When to acknowledge a publish: overflow (in memory), write (survives a kill) or sync (survives a power failure).
    #[arg(long, default_value_t = Durability::Write)]
    durability: Durability;
    /// Maximum number of messages per topic in memory.
    #[arg(long, default_value = "10000", value_parser = count)]
    mem_queue_size: u64;
    /// Maximum bytes of messages per topic in memory.
    #[arg(long, default_value = "67108864", value_parser = size)]
    mem_queue_bytes: usize;
    /// Maximum size of a file of a topic's messages, in bytes.
    #[arg(long, default_value = "104857600", value_parser = positive)]
    max_bytes_per_file: u64;
    /// Time to retain finished messages, so that channels can start in the past; 0 for no time limit.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    retain_for: Duration;
    /// Bytes of its newest messages that a topic retains; 0 for no size limit. Without both limits, nothing is
    /// retained.
    #[arg(long, default_value = "0", value_parser = count)]
    retain_bytes: u64;
    /// How long after publishing messages are delivered, in all channels; 0 for no limit. Topics and channels may set a
    /// shorter time.
    #[arg(long, default_value = "0", value_parser = go_duration::parse)]
    ttl: Duration;
    /// Sync written data in the background after this many messages. No effect with --durability=sync.
    #[arg(long, default_value = "2500", value_parser = count)]
    sync_every: u64;
    /// Maximum time until written data is synced in the background. No effect with --durability=sync.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    sync_timeout: Duration;
    /// Archive of the journal, so that this node can be lost: file:///path, s3://bucket/prefix, az://container/prefix or
    /// gs://bucket/prefix; empty to disable.
    #[arg(long, default_value = "", hide_default_value = true)]
    archive: String;
    /// How often new messages are archived.
    #[arg(long, default_value = "1s", value_parser = go_duration::parse)]
    archive_interval: Duration;
    /// Maximum time between snapshots in the archive while messages are published. A restore reads what was archived since a
    /// snapshot.
    #[arg(long, default_value = "5m", value_parser = go_duration::parse)]
    archive_snapshot_interval: Duration;
    /// How far back the archive can restore the node.
    #[arg(long, default_value = "1h", value_parser = go_duration::parse)]
    archive_retain: Duration;
    /// Bytes of the journal that may wait for the archive on this disk. Beyond that they are deleted when no message needs
    /// them, and the archive continues with a snapshot.
    #[arg(long, default_value = "1073741824", value_parser = count)]
    archive_max_lag: u64;
    /// No effect: nsqd keeps deadlines in order and does not scan queues.
    #[arg(long, default_value = "4", value_parser = count)]
    queue_scan_worker_pool_max: u64;
    /// No effect: nsqd keeps deadlines in order and does not scan queues.
    #[arg(long, default_value = "20", value_parser = count)]
    queue_scan_selection_count: u64;

    /// In-flight timeout of a message, unless the client requests another.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    msg_timeout: Duration;
    /// Maximum in-flight timeout of a message.
    #[arg(long, default_value = "15m", value_parser = go_duration::parse)]
    max_msg_timeout: Duration;
    /// Maximum length of a message body, in bytes.
    #[arg(long, default_value = "1048576", value_parser = wire_size)]
    max_msg_size: usize;
    /// Maximum length of a command body, in bytes.
    #[arg(long, default_value = "5242880", value_parser = wire_size)]
    max_body_size: usize;
    /// Maximum delay of a message.
    #[arg(long, default_value = "1h", value_parser = go_duration::parse)]
    max_req_timeout: Duration;

    /// Maximum heartbeat interval that a client may request.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    max_heartbeat_interval: Duration;
    /// Maximum RDY count of a consumer.
    #[arg(long, default_value = "2500", value_parser = count)]
    max_rdy_count: u64;
    /// Maximum output buffer that a client may request, in bytes.
    #[arg(long, default_value = "65536", value_parser = size)]
    max_output_buffer_size: usize;
    /// Maximum output buffer timeout that a client may request.
    #[arg(long, default_value = "30s", value_parser = go_duration::parse)]
    max_output_buffer_timeout: Duration;
    /// Minimum output buffer timeout that a client may request.
    #[arg(long, default_value = "25ms", value_parser = go_duration::parse)]
    min_output_buffer_timeout: Duration;
    /// Output buffer timeout, unless the client requests another.
    #[arg(long, default_value = "250ms", value_parser = go_duration::parse)]
    output_buffer_timeout: Duration;
    /// Maximum number of consumers per channel; 0 for no limit.
    #[arg(long, default_value = "0", value_parser = size)]
    max_channel_consumers: usize;
    /// Maximum number of HTTP requests that consume at a time: waiting long polls and event streams.
    #[arg(long, default_value = "10000", value_parser = size)]
    max_http_consumers: usize;
    /// Maximum number of messages per channel that are leased to long polls at a time.
    #[arg(long, default_value = "10000", value_parser = positive)]
    max_http_leases: u64;
    /// Maximum number of message ids that a topic with the setting dedupe remembers; about 44 bytes each. The oldest are
    /// forgotten first.
    #[arg(long, default_value = "1000000", value_parser = wire_size)]
    dedupe_max_ids: usize;

    /// statsd server to push statistics to: UDP host:port.
    #[arg(long, default_value = "", hide_default_value = true, value_parser = statsd_address)]
    statsd_address: String;
    /// Prefix of statsd keys; %s is replaced by the host key.
    #[arg(long, default_value = "nsq.%s")]
    statsd_prefix: String;
    /// Interval between pushes to statsd.
    #[arg(long, default_value = "1m", value_parser = go_duration::parse)]
    statsd_interval: Duration;
    /// Push memory statistics to statsd.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    statsd_mem_stats: bool;
    /// Size of a UDP datagram to statsd, in bytes.
    #[arg(long, default_value = "508", value_parser = size)]
    statsd_udp_packet_size: usize;
    /// Omit ephemeral topics and channels from statsd.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    statsd_exclude_ephemeral: bool;

    /// Maximum number of topic and channel series in /metrics; the rest appear only in totals.
    #[arg(long, default_value = "20000", value_parser = count)]
    metrics_max_series: u64;

    /// Quantile of the time from publish to FIN to report, in (0, 1]. May be repeated or separated by commas.
    #[arg(long)]
    e2e_processing_latency_percentile: Vec<QuantileList>, key("e2e_processing_latency_percentiles");
    /// Window of samples for --e2e-processing-latency-percentile.
    #[arg(long, default_value = "10m", value_parser = go_duration::parse)]
    e2e_processing_latency_window_time: Duration;

    /// Certificate file (with the chain up to its root), PEM. Reloaded when it changes and on SIGHUP.
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_cert: String, guard;
    /// Private key file for --tls-cert, PEM.
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_key: String, guard;
    /// Policy for client certificates: require (any certificate) or require-verify (signed by an authority). request
    /// and verify-if-given check the same, but accept clients without a certificate. Implies
    /// --tls-required, unless that is tcp-https.
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_client_auth_policy: String, guard;
    /// File of certificate authorities, PEM. [default: the system's]
    #[arg(long, default_value = "", hide_default_value = true)]
    tls_root_ca_file: String, guard;
    /// Require TLS: true, false, or tcp-https (everything except plain HTTP).
    #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true", value_parser = TlsRequired::parse)]
    tls_required: TlsRequired, guard;
    /// Minimum TLS version: tls1.0, tls1.1, tls1.2 or tls1.3. nsqd never uses a version before TLS 1.2.
    #[arg(long, default_value = "tls1.0", value_parser = TlsVersion::parse)]
    tls_min_version: TlsVersion, guard;

    /// Allow clients to negotiate deflate.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    deflate: bool;
    /// Maximum deflate level, 1 to 9.
    #[arg(long, default_value = "6", value_parser = go_flags::parse_int)]
    max_deflate_level: i64;
    /// Allow clients to negotiate snappy.
    #[arg(long, action = ArgAction::Set, default_value_t = true)]
    snappy: bool;
}

/// The keys of the config file.
pub fn keys() -> Vec<Key> {
    ENTRIES.iter().filter_map(|entry| entry.key).collect()
}

/// The value of a key as `/config` shows it; `None` for an unknown key.
pub fn shown(flags: &Flags, key: &str) -> Option<Value> {
    let mut entries = ENTRIES.iter();
    let entry = entries.find(|entry| entry.key.is_some_and(|own| own.key == key))?;
    Some((entry.shown)(flags))
}

/// A flag outside the command line.
#[derive(Clone, Copy)]
struct Entry {
    /// `None` if the config file cannot set the flag.
    key: Option<Key>,
    shown: fn(&Flags) -> Value,
}

impl Entry {
    const fn new(id: &'static str, kind: Kind, shown: fn(&Flags) -> Value) -> Self {
        Self { key: Some(Key::new(id, kind)), shown }
    }

    const fn key(self, name: &'static str) -> Self {
        match self.key {
            Some(key) => Self { key: Some(key.named(name)), ..self },
            None => self,
        }
    }

    const fn guard(self) -> Self {
        match self.key {
            Some(key) => Self { key: Some(key.guard()), ..self },
            None => self,
        }
    }

    const fn no_key(self) -> Self {
        Self { key: None, ..self }
    }
}

/// How a flag's type appears outside the command line.
trait FlagType {
    /// How the config file spells a value.
    const KIND: Kind;

    /// The value in `/config`: the form of NSQ, with durations in nanoseconds.
    fn shown(&self) -> Value;
}

macro_rules! flag_types {
    ($($type:ty: $kind:ident, |$value:ident| $shown:expr;)*) => {
        $(impl FlagType for $type {
            const KIND: Kind = Kind::$kind;

            fn shown(&self) -> Value {
                let $value = self;
                json!($shown)
            }
        })*
    };
}

flag_types! {
    bool: Bool, |truth| truth;
    i64: Int, |number| number;
    u16: Int, |number| number;
    u64: Int, |number| number;
    usize: Int, |number| number;
    Duration: Duration, |span| i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    String: String, |text| text;
    OsString: String, |path| path.to_string_lossy();
    PathBuf: String, |path| path.to_string_lossy();
    Vec<String>: StringList, |texts| texts;
    Vec<QuantileList>: FloatList, |lists| lists.iter().map(|list| &list.0).collect::<Vec<_>>();
    Address: String, |address| address.to_string();
    FileMode: String, |mode| format!("{:04o}", mode.0);
    Level: String, |level| *level as u8;
    Format: String, |format| format.word();
    Durability: String, |durability| durability.to_string();
    TlsRequired: Word, |required| *required as u8;
    TlsVersion: String, |version| *version as u16;
    OnSigterm: String, |action| action.word();
}

/// An empty text means that the flag is not set.
impl<T: FlagType> FlagType for Option<T> {
    const KIND: Kind = T::KIND;

    fn shown(&self) -> Value {
        self.as_ref().map_or_else(|| json!(""), T::shown)
    }
}

/// Permissions of a file, at most 0777.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMode(pub u32);

impl FileMode {
    fn parse(text: &str) -> Result<Self, go_flags::InvalidValue> {
        go_flags::parse_mode(text).map(Self)
    }
}

/// Quantiles, separated by commas, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantileList(pub String);

impl From<String> for QuantileList {
    fn from(text: String) -> Self {
        Self(text)
    }
}

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
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.eq_ignore_ascii_case("tcp-https") {
            return Ok(Self::TcpHttps);
        }
        match go_flags::parse_bool(text) {
            Ok(true) => Ok(Self::Yes),
            Ok(false) => Ok(Self::No),
            Err(_) => Err(InvalidValue::TlsRequired),
        }
    }
}

/// `--sigterm`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnSigterm {
    #[default]
    Stop,
    Drain,
}

impl OnSigterm {
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "stop" => Ok(Self::Stop),
            "drain" => Ok(Self::Drain),
            _ => Err(InvalidValue::OnSigterm),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Drain => "drain",
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
    fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text.to_ascii_lowercase().as_str() {
            "" => Ok(Self::default()),
            "tls1.0" => Ok(Self::Tls10),
            "tls1.1" => Ok(Self::Tls11),
            "tls1.2" => Ok(Self::Tls12),
            "tls1.3" => Ok(Self::Tls13),
            _ => Err(InvalidValue::TlsVersion),
        }
    }
}

/// Why a flag's value is invalid. clap adds the flag and the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    #[error(transparent)]
    Go(#[from] go_flags::InvalidValue),
    #[error("must not be negative")]
    Negative,
    #[error("must not be 0")]
    Zero,
    #[error("must be at most {}", i32::MAX)]
    WireSize,
    #[error("must be a port, 0 to 65535")]
    Port,
    #[error("must be true, false or tcp-https")]
    TlsRequired,
    #[error("must be tls1.0, tls1.1, tls1.2 or tls1.3")]
    TlsVersion,
    #[error("must be stop or drain")]
    OnSigterm,
}

fn count(text: &str) -> Result<u64, InvalidValue> {
    u64::try_from(go_flags::parse_int(text)?).map_err(|_| InvalidValue::Negative)
}

fn positive(text: &str) -> Result<u64, InvalidValue> {
    count(text).and_then(|number| if number == 0 { Err(InvalidValue::Zero) } else { Ok(number) })
}

/// More than the address space means all of it.
fn size(text: &str) -> Result<usize, InvalidValue> {
    Ok(usize::try_from(count(text)?).unwrap_or(usize::MAX))
}

/// Sizes are signed 32-bit integers on the wire.
fn wire_size(text: &str) -> Result<usize, InvalidValue> {
    let size = i32::try_from(positive(text)?).map_err(|_| InvalidValue::WireSize)?;
    usize::try_from(size).map_err(|_| InvalidValue::Negative)
}

fn port(text: &str) -> Result<u16, InvalidValue> {
    u16::try_from(go_flags::parse_int(text)?).map_err(|_| InvalidValue::Port)
}

fn address(text: &str) -> Result<Address, Infallible> {
    Ok(parse_address(text))
}

/// Without a password, because the address is logged and shown.
fn statsd_address(text: &str) -> Result<String, Infallible> {
    Ok(without_user_info(text).into_owned())
}

/// An empty path means the working directory.
fn data_path(path: OsString) -> PathBuf {
    if path.is_empty() { Path::new(".").to_owned() } else { path.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_accepts_the_flag_definitions() {
        Flags::command().debug_assert();
    }

    #[test]
    fn every_flag_has_one_config_key() {
        const NOT_IN_FILE: [&str; 4] = ["version", "config", "verbose", "worker_id"];
        let command = Flags::command();
        let ids: Vec<&str> = command.get_arguments().map(|argument| argument.get_id().as_str()).collect();
        let keys = keys();
        for id in &ids {
            let count = keys.iter().filter(|key| key.id == *id).count();
            assert_eq!(count, usize::from(!NOT_IN_FILE.contains(id)), "{id}");
        }
        for key in &keys {
            let mut arguments = command.get_arguments();
            let argument = arguments.find(|argument| argument.get_id() == key.id);
            assert_eq!(argument.and_then(|argument| argument.get_long()), Some(&*key.flag()), "{}", key.key);
            assert_eq!(keys.iter().filter(|other| other.key == key.key).count(), 1, "{}", key.key);
        }
    }

    #[test]
    fn names_unlike_their_flags_are_nsqs() {
        let keys = keys();
        let named = keys.iter().filter(|key| key.key != key.id).map(|key| (key.id, key.key));
        assert_eq!(
            named.collect::<Vec<_>>(),
            [
                ("node_id", "id"),
                ("lookupd_tcp_address", "nsqlookupd_tcp_addresses"),
                ("auth_http_address", "auth_http_addresses"),
                ("http_allowed_origin", "http_allowed_origins"),
                ("http_cors_origin", "http_cors_origins"),
                ("e2e_processing_latency_percentile", "e2e_processing_latency_percentiles"),
            ]
        );
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
