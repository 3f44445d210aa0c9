//! All settings of the library: defaults, ranges, and how text is parsed.
//!
//! [`Config`] has one typed setter per option. [`Config::set`] takes the option's name and a loosely typed value, as
//! NSQ's tools do with `--consumer-opt name,value`, and checks its range at once. [`Config::validate`] checks all
//! ranges and the rules between options when a producer or consumer is built.
//!
//! Reading order: this file (the options), [`value`] (coercion and ranges), `duration` (Go's spelling of
//! durations), `info` (descriptions of the options).

mod duration;
mod info;
mod secret;
mod setting;
mod value;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use info::OptionInfo;
use info::{about, values};
pub use secret::Secret;
pub use setting::Setting;
pub use value::{BackoffStrategy, Interval, OptionValue, TlsVersion};
use value::{FromOption, Range};

use nsq_protocol::StartAt;

use crate::error::ConfigError;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Generates the struct, its defaults, its setters and the by-name setter from one table, so that they always agree.
macro_rules! options {
    ($( $(#[doc = $doc:literal])* $name:ident: $type:ty = $default:expr, $range:expr; )*) => {
        /// The settings of a [`Producer`](crate::Producer) or [`Consumer`](crate::Consumer).
        ///
        /// ```
        /// use std::time::Duration;
        /// let mut config = nsq::Config::new().max_in_flight(200).msg_timeout(Duration::from_secs(30));
        /// config.set("backoff-multiplier", "500ms")?;
        /// assert!(config.set("sample_rate", 100).is_err());
        /// # Ok::<(), nsq::ConfigError>(())
        /// ```
        #[derive(Clone, Debug, PartialEq)]
        pub struct Config { $( pub(crate) $name: $type, )* }

        impl Default for Config {
            fn default() -> Self {
                Config { $( $name: $default, )* }
            }
        }

        impl Config {
            $( $(#[doc = $doc])*
            #[must_use]
            pub fn $name(mut self, value: impl Setting<$type>) -> Self {
                self.$name = value.into_setting();
                self
            } )*

            /// The option names that [`Config::set`] accepts.
            pub const OPTION_NAMES: &[&str] = &[$( stringify!($name), )*];

            /// Describes all options, in the order of [`Config::OPTION_NAMES`].
            pub fn options() -> Vec<OptionInfo> {
                let defaults = Config::default();
                vec![$( OptionInfo {
                    name: stringify!($name),
                    about: about(concat!($($doc,)*)),
                    values: values::<$type>(&$range),
                    default: Some(defaults.$name.to_text()).filter(|text| !text.is_empty()),
                }, )*]
            }

            fn set_by_name(&mut self, name: &str, value: &OptionValue) -> Option<Result<(), ConfigError>> {
                match name {
                    $( stringify!($name) => Some(read_option(name, value, &$range).map(|v| self.$name = v)), )*
                    _ => None,
                }
            }

            fn check_ranges(&self) -> Result<(), ConfigError> {
                $( self.$name.check(&$range).map_err(|range| ConfigError::OutOfRange {
                    name: stringify!($name),
                    value: format!("{:?}", self.$name),
                    range,
                })?; )*
                Ok(())
            }
        }
    };
}

options! {
    /// Timeout of opening a TCP connection.
    dial_timeout: Duration = SECOND, Range::Any;
    /// Timeout of a connection's handshake, capped at 20 s; also the upper bound of `heartbeat_interval`.
    read_timeout: Duration = MINUTE, Range::Durations(100 * MS, 5 * MINUTE);
    /// Timeout of one write. When it expires, the connection is closed.
    write_timeout: Duration = 10 * SECOND, Range::Durations(100 * MS, 5 * MINUTE);
    /// Source address of connections.
    local_addr: Option<IpAddr> = None, Range::Any;
    /// Interval between queries to the lookupds.
    lookupd_poll_interval: Duration = MINUTE, Range::Durations(10 * MS, 5 * MINUTE);
    /// Maximum share by which each poll interval is lengthened at random, so that consumers do not poll in step.
    lookupd_poll_jitter: f64 = 0.3, Range::Floats(0.0, 1.0);
    /// Timeout of one query to a lookupd.
    lookupd_poll_timeout: Duration = 5 * SECOND, Range::Any;
    /// Maximum delay of an automatic requeue ([`Requeue::Auto`](crate::Requeue::Auto)).
    max_requeue_delay: Duration = 15 * MINUTE, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// Delay of an automatic requeue, multiplied by the number of attempts.
    default_requeue_delay: Duration = 90 * SECOND, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// How the pauses of a backoff grow.
    backoff_strategy: BackoffStrategy = BackoffStrategy::Exponential, Range::Any;
    /// Maximum pause of a backoff; zero turns backoff off.
    max_backoff_duration: Duration = 2 * MINUTE, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// Unit of backoff: the pause at level n is this times 2 to the n.
    backoff_multiplier: Duration = SECOND, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// One success ends a backoff of any level, instead of lowering the level by one.
    backoff_fast_recovery: bool = false, Range::Any;
    /// Maximum number of deliveries. A message delivered more often is given up: finished without being handled. 0, the
    /// default, gives up no message, because dropping messages must be an explicit choice.
    max_attempts: u16 = 0, Range::Any;
    /// Time without messages after which a connection is idle. With more connections than `max_in_flight`, the turn of
    /// an idle one ends. Otherwise, an idle one lends its share to busy ones.
    low_rdy_idle_timeout: Duration = SECOND, Range::Durations(100 * MS, 5 * MINUTE);
    /// Accepted for NSQ's tools and ignored; `low_rdy_slice` limits a turn.
    low_rdy_timeout: Duration = 30 * SECOND, Range::Durations(SECOND, 5 * MINUTE);
    /// With more connections than `max_in_flight`: maximum length of a turn while messages keep arriving.
    low_rdy_slice: Duration = SECOND, Range::Durations(10 * MS, 5 * MINUTE);
    /// Accepted for NSQ's tools and ignored; RDY is redistributed when something changes, not periodically.
    rdy_redistribute_interval: Duration = 5 * SECOND, Range::Durations(MS, 5 * SECOND);
    /// Connections keep equal shares of `max_in_flight`, even while some are idle and others are busy.
    fair_share: bool = false, Range::Any;
    /// Client id in nsqd's statistics [default: the short host name].
    client_id: Option<String> = None, Range::Any;
    /// Host name in nsqd's statistics [default: the host name].
    hostname: Option<String> = None, Range::Any;
    /// Program name and version in nsqd's statistics.
    user_agent: String = concat!("nsq-rs/", env!("CARGO_PKG_VERSION")).to_owned(), Range::Any;
    /// Region of this client, for servers that prefer nearby consumers.
    topology_region: String = String::new(), Range::Any;
    /// Zone of this client, for servers that prefer nearby consumers.
    topology_zone: String = String::new(), Range::Any;
    /// Interval of nsqd's heartbeats. `Off` is for producers only: nsqd refuses SUB without heartbeats.
    heartbeat_interval: Interval = Interval::Every(30 * SECOND), Range::Durations(SECOND, 5 * MINUTE);
    /// Where the channel starts if subscribing creates it: see [`StartAt`]. An existing channel keeps its position.
    /// NSQ's own nsqd ignores this option.
    channel_start: StartAt = StartAt::Latest, Range::Any;
    /// Request the headers of messages from nsqd: see [`Delivery::headers`](crate::Delivery::headers). An nsqd that has
    /// no headers, such as NSQ's own, delivers messages without them.
    headers: bool = false, Range::Any;
    /// Send the trace context of OpenTelemetry with published messages, in the headers `traceparent` and `tracestate`, and
    /// continue the trace in handlers. Needs the feature `otel`, and nsqds with headers: NSQ's own refuse the messages.
    trace_headers: bool = false, Range::Any;
    /// Request the ids of published messages from nsqd: see [`Receipt::message`](crate::Receipt::message). NSQ's own nsqd
    /// does not report them.
    pub_ids: bool = false, Range::Any;
    /// Percentage of the channel's messages that nsqd delivers; it drops the rest. 0 delivers all.
    sample_rate: u8 = 0, Range::Ints(0, 99);
    /// Require TLS from nsqds. Connecting to one that does not offer it fails.
    tls_v1: bool = false, Range::Any;
    /// PEM file of the trusted certificate authorities [default: those of the system]. All `tls_` options apply to
    /// nsqds with `tls_v1`, and to lookupds whose address begins with `https://`.
    tls_root_ca_file: Option<PathBuf> = None, Range::Any;
    /// PEM file of the client's certificate. Requires `tls_key`.
    tls_cert: Option<PathBuf> = None, Range::Any;
    /// PEM file of the private key of `tls_cert`.
    tls_key: Option<PathBuf> = None, Range::Any;
    /// Name for which the servers' certificates must be valid [default: the host of the address].
    tls_server_name: Option<String> = None, Range::Any;
    /// Accept any server certificate.
    tls_insecure_skip_verify: bool = false, Range::Any;
    /// Minimum TLS version. This library supports 1.2 and 1.3, so lower values act as 1.2.
    tls_min_version: TlsVersion = TlsVersion::Tls12, Range::Any;
    /// Request deflate compression. Connections to nsqds that do not offer it are not compressed.
    deflate: bool = false, Range::Any;
    /// Deflate level: 1 is fastest, 9 compresses most.
    deflate_level: u8 = 6, Range::Ints(1, 9);
    /// Request snappy compression. Connections to nsqds that do not offer it are not compressed.
    snappy: bool = false, Range::Any;
    /// Size of nsqd's output buffer for this connection, in bytes; -1 turns buffering off.
    output_buffer_size: i64 = 16384, Range::Ints(-1, i64::MAX);
    /// Maximum time that nsqd keeps a message in that buffer.
    output_buffer_timeout: Interval = Interval::ServerDefault, Range::Any;
    /// Maximum number of messages in flight to a consumer, over all connections [default: twice `concurrency`].
    max_in_flight: Option<u32> = None, Range::Any;
    /// How many messages are handled at the same time.
    concurrency: u32 = 1, Range::Ints(1, 65_536);
    /// While a handler runs, TOUCH its message before the message times out, up to nsqd's maximum.
    keep_alive: bool = false, Range::Any;
    /// Maximum time of one call of a handler; then its future is dropped, and the message is requeued as after an error.
    /// Zero is no limit.
    handler_timeout: Duration = Duration::ZERO, Range::Any;
    /// Maximum number of messages that handlers receive per second, over all nsqds; 0 is no limit. Messages that wait for it
    /// count for `max_in_flight`, so keep that below what is handled within `msg_timeout`.
    rate_limit: f64 = 0.0, Range::Floats(0.0, 1_000_000.0);
    /// How many finished messages to remember. One of them that nsqd delivers again, because its answer came too late or
    /// got lost, is finished without being handled. 0 remembers none.
    remember_finished: u32 = 0, Range::Ints(0, 10_000_000);
    /// How long nsqd waits for the answer to a message before it delivers the message again; zero is nsqd's default.
    msg_timeout: Duration = Duration::ZERO, Range::Any;
    /// Maximum size of a received message, in bytes; 0 is 64 MiB, or nsqd's limit if that is higher. Also the maximum
    /// size of a published message if nsqd does not report its limit.
    max_msg_size: u32 = 0, Range::Ints(0, i32::MAX as i64);
    /// Secret for AUTH, for nsqds that require it.
    auth_secret: Option<Secret> = None, Range::Any;
    /// File that holds the secret, read again for each connection. Line ends at the end of the file are ignored.
    auth_secret_file: Option<PathBuf> = None, Range::Any;
    /// Whether to send the secret to lookupds too [default: only over https].
    lookupd_authorization: Option<bool> = None, Range::Any;
    /// Pause before the second attempt to reconnect. It doubles with each further attempt.
    reconnect_initial: Duration = 100 * MS, Range::Durations(MS, 5 * MINUTE);
    /// Maximum pause between attempts to reconnect.
    reconnect_max: Duration = 30 * SECOND, Range::Durations(MS, 60 * MINUTE);
    /// How long to retry a node that lookupds no longer list after its connection broke.
    forget_after: Duration = 10 * MINUTE, Range::Any;
    /// Timeout of one publish, including queueing, connecting and retries.
    publish_timeout: Duration = 10 * SECOND, Range::Durations(MS, 60 * MINUTE);
    /// How long a publish that may share a batch waits for others. 0 sends it at once, with those that are queued already.
    linger: Duration = Duration::ZERO, Range::Durations(Duration::ZERO, MINUTE);
    /// Maximum number of messages in an automatic batch; 1 turns batches off.
    batch_messages: u32 = 1_000, Range::Ints(1, 65_536);
    /// Maximum size of an automatic batch, in bytes; nsqd's limit applies too.
    batch_bytes: u32 = 1 << 20, Range::Ints(1, 1 << 30);
    /// Maximum number of unanswered publishes of one producer.
    max_pending: u32 = 10_000, Range::Ints(1, 16_777_216);
    /// Maximum size of the unanswered publishes of one producer, in bytes.
    max_pending_bytes: u32 = 64 << 20, Range::Ints(1 << 16, 1 << 30);
}

/// The upgrades of the byte stream that a [`Config`] requests from nsqd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Upgrades {
    /// Whether TLS is required.
    pub tls: bool,
    /// Whether snappy is requested.
    pub snappy: bool,
    /// The level, if deflate is requested.
    pub deflate: Option<u8>,
}

impl Config {
    /// Returns the default settings.
    pub fn new() -> Self {
        Config::default()
    }

    /// Sets an option by its name; `-` and `_` are equivalent. Text is parsed as the option's type. Numbers for
    /// durations are milliseconds. `-1` turns an [`Interval`] off. Fails if the option is unknown, or the value is of
    /// the wrong type or out of range.
    pub fn set(&mut self, name: &str, value: impl Into<OptionValue>) -> Result<&mut Self, ConfigError> {
        let value = value.into();
        let canonical = name.replace('-', "_");
        if canonical == "skip_lookupd_authorization" {
            // The Go client inverts the meaning of this name: true sends the secret.
            self.lookupd_authorization = read_option(&canonical, &value, &Range::Any).map(Some)?;
            return Ok(self);
        }
        self.set_by_name(&canonical, &value)
            .unwrap_or_else(|| Err(ConfigError::UnknownOption { name: name.to_owned() }))?;
        Ok(self)
    }

    /// Checks all ranges and the rules between options.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_ranges()?;
        if let Interval::Every(interval) = self.heartbeat_interval
            && interval > self.read_timeout
        {
            return Err(ConfigError::Conflict("heartbeat_interval must not exceed read_timeout"));
        }
        if self.deflate && self.snappy {
            return Err(ConfigError::Conflict("deflate and snappy cannot both be on"));
        }
        let wanted = [
            (self.tls_v1, cfg!(feature = "tls"), "tls_v1", "tls"),
            (self.snappy, cfg!(feature = "snappy"), "snappy", "snappy"),
            (self.deflate, cfg!(feature = "deflate"), "deflate", "deflate"),
            (self.trace_headers, cfg!(feature = "otel"), "trace_headers", "otel"),
        ];
        if let Some((_, _, what, feature)) = wanted.into_iter().find(|(on, built, ..)| *on && !built) {
            return Err(ConfigError::FeatureOff { what, feature });
        }
        if self.auth_secret.is_some() && self.auth_secret_file.is_some() {
            return Err(ConfigError::Conflict("auth_secret and auth_secret_file cannot both be set"));
        }
        Ok(())
    }

    /// Returns the secret for AUTH. Reads `auth_secret_file` at each call, and fails if it is unreadable or empty.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        let Some(path) = &self.auth_secret_file else { return Ok(self.auth_secret.clone()) };
        let unusable = |reason: String| ConfigError::Secret { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() {
            Err(unusable("the file is empty".to_owned()))
        } else {
            Ok(Some(Secret::from(secret)))
        }
    }

    /// Checks what a consumer needs, in addition to [`Config::validate`].
    pub(crate) fn validate_consumer(&self) -> Result<(), ConfigError> {
        self.validate()?;
        if self.heartbeat_interval == Interval::Off {
            return Err(ConfigError::Conflict("a consumer needs heartbeats: nsqd refuses SUB without them"));
        }
        Ok(())
    }

    /// Returns the upgrades of the byte stream to request from nsqd.
    pub fn upgrades(&self) -> Upgrades {
        Upgrades {
            tls: self.tls_v1,
            snappy: self.snappy,
            deflate: self.deflate.then_some(self.deflate_level),
        }
    }

    /// Returns `max_in_flight`, by default twice the concurrency: then a handler never waits for the network.
    pub(crate) fn effective_max_in_flight(&self) -> u64 {
        u64::from(self.max_in_flight.unwrap_or(self.concurrency.saturating_mul(2)))
    }

    /// The maximum silence on a connection: two heartbeat intervals and 5 s. `None` without heartbeats.
    pub(crate) fn silence_limit(&self) -> Option<Duration> {
        match self.heartbeat_interval {
            Interval::Every(interval) => Some(2 * interval + 5 * SECOND),
            Interval::ServerDefault => Some(65 * SECOND),
            Interval::Off => None,
        }
    }
}

fn read_option<T: FromOption>(name: &str, value: &OptionValue, range: &Range) -> Result<T, ConfigError> {
    let read = T::from_option(value).ok_or_else(|| ConfigError::InvalidValue {
        name: name.to_owned(),
        value: value.to_string(),
        expected: T::EXPECTED,
    })?;
    match read.check(range) {
        Ok(()) => Ok(read),
        Err(range) => Err(ConfigError::OutOfRange {
            // Names come from the table, so this finds the static spelling.
            name: Config::OPTION_NAMES.iter().find(|known| **known == name).copied().unwrap_or("option"),
            value: value.to_string(),
            range,
        }),
    }
}

/// The name of this machine; empty if it is unknown.
#[cfg(unix)]
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The name of this machine; empty if it is unknown.
#[cfg(not(unix))]
pub(crate) fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: impl Into<OptionValue>) -> Result<Config, ConfigError> {
        let mut config = Config::new();
        config.set(name, value)?;
        Ok(config)
    }

    #[test]
    fn defaults_are_valid() {
        Config::new().validate().unwrap();
        Config::new().validate_consumer().unwrap();
    }

    /// Every option of the Go client, with a value as users of its tools write it.
    #[test]
    fn every_option_of_the_go_client_is_accepted() {
        let options = [
            ("dial_timeout", "2s"),
            ("read_timeout", "1m"),
            ("write_timeout", "1500"),
            ("local_addr", "127.0.0.1"),
            ("lookupd_poll_interval", "10s"),
            ("lookupd_poll_jitter", "0.5"),
            ("lookupd_poll_timeout", "1m0s"),
            ("max_requeue_delay", "15m"),
            ("default_requeue_delay", "90s"),
            ("backoff_strategy", "full_jitter"),
            ("max_backoff_duration", "0"),
            ("backoff_multiplier", "1s"),
            ("max_attempts", "65535"),
            ("low_rdy_idle_timeout", "10s"),
            ("low_rdy_timeout", "30s"),
            ("rdy_redistribute_interval", "5s"),
            ("client_id", "me"),
            ("hostname", "here"),
            ("user_agent", "x/1"),
            ("topology_region", "r"),
            ("topology_zone", "z"),
            ("heartbeat_interval", "-1"),
            ("sample_rate", "99"),
            ("tls_v1", "true"),
            ("tls_root_ca_file", "/ca"),
            ("tls_cert", "/cert"),
            ("tls_key", "/key"),
            ("tls_insecure_skip_verify", "t"),
            ("tls_min_version", "tls1.2"),
            ("deflate", "1"),
            ("deflate_level", "9"),
            ("snappy", "TRUE"),
            ("output_buffer_size", "-1"),
            ("output_buffer_timeout", "-1"),
            ("max_in_flight", "2500"),
            ("msg_timeout", "1m30s"),
            ("max_msg_size", "0"),
            ("auth_secret", "s"),
            ("auth_secret_file", "/secret"),
            ("skip_lookupd_authorization", "false"),
        ];
        for (name, value) in options {
            set(name, value).unwrap_or_else(|e| panic!("{name}: {e}"));
            set(&name.replace('_', "-"), value).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }

    #[test]
    fn ranges_are_checked_by_set_and_by_validate() {
        let refused = [
            ("read_timeout", "99ms"),
            ("read_timeout", "301s"),
            ("lookupd_poll_jitter", "1.1"),
            ("lookupd_poll_interval", "9"),
            ("sample_rate", "100"),
            ("deflate_level", "0"),
            ("max_attempts", "65536"),
            ("max_backoff_duration", "61m"),
            ("output_buffer_size", "-2"),
            ("max_in_flight", "-1"),
            ("msg_timeout", "-1"),
        ];
        for (name, value) in refused {
            assert!(set(name, value).is_err(), "{name}={value}");
        }
        let too_short = Config::new().read_timeout(MS);
        assert!(matches!(too_short.validate(), Err(ConfigError::OutOfRange { name: "read_timeout", .. })));
        let slow = Config::new().heartbeat_interval(Interval::Every(90 * SECOND));
        assert!(matches!(slow.validate(), Err(ConfigError::Conflict(_))));
    }

    #[test]
    fn unknown_names_and_wrong_types_are_refused() {
        assert!(matches!(set("max_inflight", 1), Err(ConfigError::UnknownOption { .. })));
        assert!(matches!(set("tls_config", "x"), Err(ConfigError::UnknownOption { .. })));
        for (name, value) in [
            ("tls_v1", "maybe"),
            ("dial_timeout", "soon"),
            ("backoff_strategy", "linear"),
            ("sample_rate", "1.5"),
        ] {
            assert!(matches!(set(name, value), Err(ConfigError::InvalidValue { .. })), "{name}={value}");
        }
    }

    #[test]
    fn secret_is_hidden_in_debug_output_and_read_from_its_file() {
        let config = set("auth_secret", "hunter2").unwrap();
        assert_eq!(config.secret().unwrap().unwrap().reveal(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
        let path = std::env::temp_dir().join(format!("nsq-secret-{}", std::process::id()));
        let both = config.auth_secret_file(path.clone());
        assert!(matches!(both.validate(), Err(ConfigError::Conflict(_))));
        let from_file = Config::new().auth_secret_file(path.clone());
        assert!(matches!(from_file.secret(), Err(ConfigError::Secret { .. })));
        std::fs::write(&path, "of a file\r\n").unwrap();
        assert_eq!(from_file.secret().unwrap().unwrap().reveal(), "of a file");
        std::fs::write(&path, "\n").unwrap();
        assert!(from_file.secret().is_err());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Config::new().secret().unwrap(), None);
    }

    #[test]
    fn values_are_converted_to_the_type_of_the_option() {
        assert_eq!(set("dial_timeout", 250).unwrap().dial_timeout, 250 * MS);
        assert_eq!(set("dial_timeout", "250").unwrap().dial_timeout, 250 * MS);
        assert_eq!(set("dial_timeout", 2 * SECOND).unwrap().dial_timeout, 2 * SECOND);
        assert!(set("fair_share", 1).unwrap().fair_share);
        assert_eq!(set("lookupd_poll_jitter", 1).unwrap().lookupd_poll_jitter, 1.0);
        assert_eq!(set("heartbeat_interval", -1).unwrap().heartbeat_interval, Interval::Off);
        assert_eq!(set("skip_lookupd_authorization", true).unwrap().lookupd_authorization, Some(true));
        assert_eq!(set("max_in_flight", "7").unwrap().effective_max_in_flight(), 7);
        assert_eq!(Config::new().concurrency(8u32).effective_max_in_flight(), 16);
    }

    #[test]
    fn setters_take_the_types_that_one_has() {
        let config = Config::new()
            .client_id("me")
            .tls_root_ca_file("ca.pem")
            .auth_secret("s")
            .tls_server_name(String::from("nsqd"))
            .max_in_flight(200)
            .concurrency(8)
            .sample_rate(5)
            .heartbeat_interval(SECOND)
            .local_addr(std::net::Ipv4Addr::LOCALHOST)
            .lookupd_authorization(true);
        assert_eq!(config.client_id.as_deref(), Some("me"));
        assert_eq!(config.tls_root_ca_file, Some(PathBuf::from("ca.pem")));
        assert_eq!(config.auth_secret, Some(Secret::from("s")));
        assert_eq!(config.client_id(None::<String>).client_id, None);
    }

    #[test]
    fn conflicting_options_fail_validation() {
        let both = Config::new().snappy(true).deflate(true);
        assert!(matches!(both.validate(), Err(ConfigError::Conflict(_))));
        let no_heartbeat = Config::new().heartbeat_interval(Interval::Off);
        no_heartbeat.validate().unwrap();
        assert!(no_heartbeat.validate_consumer().is_err());
    }
}
