//! Every setting of the library in one place: defaults, ranges, and how text becomes a value.
//!
//! [`Config`] has one typed setter per option, and [`Config::set`] takes the option's name and a loosely
//! typed value, as the NSQ tools do with `--consumer-opt name,value`. Both check the range; what depends
//! on several options at once is checked when a producer or consumer is built ([`Config::validate`]).
//!
//! Reading order: this file (the options), [`value`] (coercion and ranges), `duration` (Go's spelling of
//! durations).

mod duration;
mod secret;
mod value;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use secret::Secret;
pub use value::{BackoffStrategy, Interval, OptionValue, TlsVersion};
use value::{FromOption, Range};

use nsq_protocol::StartAt;

use crate::error::ConfigError;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Writes the struct, its defaults, its setters and the by-name setter from one table, so that an option
/// cannot be known to one of them and not to the others.
macro_rules! options {
    ($( $(#[$doc:meta])* $name:ident: $type:ty = $default:expr, $range:expr; )*) => {
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
            $( $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, value: impl Into<$type>) -> Self {
                self.$name = value.into();
                self
            } )*

            /// The names that [`Config::set`] knows.
            pub const OPTION_NAMES: &[&str] = &[$( stringify!($name), )*];

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
    /// How long one TCP connect may take.
    dial_timeout: Duration = SECOND, Range::Any;
    /// The deadline of a read while shaking hands, and the upper bound of `heartbeat_interval`.
    read_timeout: Duration = MINUTE, Range::Durations(100 * MS, 5 * MINUTE);
    /// How long one write may take before the connection counts as dead.
    write_timeout: Duration = 10 * SECOND, Range::Durations(100 * MS, 5 * MINUTE);
    /// The source address of connections.
    local_addr: Option<IpAddr> = None, Range::Any;
    /// How often lookupds are asked.
    lookupd_poll_interval: Duration = MINUTE, Range::Durations(10 * MS, 5 * MINUTE);
    /// Each pause between polls is lengthened by up to this share, so that consumers do not ask in step.
    lookupd_poll_jitter: f64 = 0.3, Range::Floats(0.0, 1.0);
    /// How long one lookup may take.
    lookupd_poll_timeout: Duration = 5 * SECOND, Range::Any;
    /// The longest delay that an automatic requeue asks for.
    max_requeue_delay: Duration = 15 * MINUTE, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// Times `attempts`: the delay of an automatic requeue.
    default_requeue_delay: Duration = 90 * SECOND, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// How the pauses of a backoff grow.
    backoff_strategy: BackoffStrategy = BackoffStrategy::Exponential, Range::Any;
    /// The longest pause of a backoff; zero turns backoff off.
    max_backoff_duration: Duration = 2 * MINUTE, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// The unit of backoff: the pause at level n is this times 2 to the n.
    backoff_multiplier: Duration = SECOND, Range::Durations(Duration::ZERO, 60 * MINUTE);
    /// One success ends a backoff, whatever its level, instead of lowering the level by one.
    backoff_fast_recovery: bool = false, Range::Any;
    /// A message delivered more often than this is given up: finished without being handled. 0 is never,
    /// because losing a message should be a decision.
    max_attempts: u16 = 0, Range::Any;
    /// When connections outnumber `max_in_flight`: how long one may wait without a message before another
    /// gets its turn. Otherwise: after how long without messages a connection lends its share to busy ones.
    low_rdy_idle_timeout: Duration = SECOND, Range::Durations(100 * MS, 5 * MINUTE);
    /// Accepted for NSQ's tools; `low_rdy_slice` is what bounds a turn.
    low_rdy_timeout: Duration = 30 * SECOND, Range::Durations(SECOND, 5 * MINUTE);
    /// When connections outnumber `max_in_flight`: how long a turn lasts while messages keep coming.
    low_rdy_slice: Duration = SECOND, Range::Durations(10 * MS, 5 * MINUTE);
    /// Accepted for NSQ's tools; RDY is redistributed when something changes, not periodically.
    rdy_redistribute_interval: Duration = 5 * SECOND, Range::Durations(MS, 5 * SECOND);
    /// Connections keep equal shares of `max_in_flight`, also while some are idle and others are busy.
    fair_share: bool = false, Range::Any;
    /// What nsqd's statistics show as the client's id; the short host name unless set.
    client_id: Option<String> = None, Range::Any;
    /// What nsqd's statistics show as the host; the host name unless set.
    hostname: Option<String> = None, Range::Any;
    /// What nsqd's statistics show as the program.
    user_agent: String = concat!("nsq-rs/", env!("CARGO_PKG_VERSION")).to_owned(), Range::Any;
    /// Where this client runs, for servers that prefer consumers nearby.
    topology_region: String = String::new(), Range::Any;
    /// Where this client runs, for servers that prefer consumers nearby.
    topology_zone: String = String::new(), Range::Any;
    /// How often nsqd asks for a sign of life. `Off` is for producers only: nsqd refuses such consumers.
    heartbeat_interval: Interval = Interval::Every(30 * SECOND), Range::Durations(SECOND, 5 * MINUTE);
    /// Where the channel starts, if subscribing makes it: see [`StartAt`]. A channel that is there goes on where it
    /// stands, and NSQ's own nsqd does not know this option.
    channel_start: StartAt = StartAt::Latest, Range::Any;
    /// Percent of the channel's messages that are delivered, the rest being dropped; 0 is all.
    sample_rate: u8 = 0, Range::Ints(0, 99);
    /// Ask nsqds for TLS. One that does not offer it is not used.
    tls_v1: bool = false, Range::Any;
    /// The certificate authorities to trust, as a PEM file; those of the system unless set. Like all `tls_` options
    /// for nsqds with `tls_v1`, and for lookupds whose address begins with `https://`.
    tls_root_ca_file: Option<PathBuf> = None, Range::Any;
    /// The client's certificate, as a PEM file.
    tls_cert: Option<PathBuf> = None, Range::Any;
    /// Its private key, as a PEM file.
    tls_key: Option<PathBuf> = None, Range::Any;
    /// The name that servers' certificates must have; unless set, the host of the address.
    tls_server_name: Option<String> = None, Range::Any;
    /// Trust any certificate.
    tls_insecure_skip_verify: bool = false, Range::Any;
    /// The lowest TLS version to accept. Below 1.2 there is none in this library.
    tls_min_version: TlsVersion = TlsVersion::Tls12, Range::Any;
    /// Ask nsqds for deflate compression. One that does not offer it is used without.
    deflate: bool = false, Range::Any;
    /// How hard deflate tries.
    deflate_level: u8 = 6, Range::Ints(1, 9);
    /// Ask nsqds for snappy compression. One that does not offer it is used without.
    snappy: bool = false, Range::Any;
    /// nsqd's output buffer for this connection, in bytes; -1 is unbuffered.
    output_buffer_size: i64 = 16384, Range::Ints(-1, i64::MAX);
    /// The longest time nsqd may keep a message in that buffer.
    output_buffer_timeout: Interval = Interval::ServerDefault, Range::Any;
    /// How many messages may be in flight to a consumer, over all its connections.
    max_in_flight: Option<u32> = None, Range::Any;
    /// How many messages are handled at a time.
    concurrency: u32 = 1, Range::Ints(1, 65_536);
    /// How long nsqd waits for an answer to a message before it delivers it again; zero is nsqd's default.
    msg_timeout: Duration = Duration::ZERO, Range::Any;
    /// The largest message to accept, in bytes; 0 is 64 MiB, or what the server allows if that is more.
    max_msg_size: u32 = 0, Range::Ints(0, i32::MAX as i64);
    /// The secret for AUTH, for servers that require it.
    auth_secret: Option<Secret> = None, Range::Any;
    /// A file that holds it instead, read again for each connection; the end of its last line does not count.
    auth_secret_file: Option<PathBuf> = None, Range::Any;
    /// Whether lookupds get the secret too; unless set, only over https.
    lookupd_authorization: Option<bool> = None, Range::Any;
    /// The pause before the second attempt to reconnect; it doubles from there.
    reconnect_initial: Duration = 100 * MS, Range::Durations(MS, 5 * MINUTE);
    /// The longest pause between attempts to reconnect.
    reconnect_max: Duration = 30 * SECOND, Range::Durations(MS, 60 * MINUTE);
    /// How long a node that lookupds no longer know is tried again after its connection broke.
    forget_after: Duration = 10 * MINUTE, Range::Any;
    /// How long a publish may take, with queueing, connecting and retries.
    publish_timeout: Duration = 10 * SECOND, Range::Durations(MS, 60 * MINUTE);
    /// How many publishes of one producer may be unanswered.
    max_pending: u32 = 10_000, Range::Ints(1, 16_777_216);
    /// How many bytes of unanswered publishes one producer may hold.
    max_pending_bytes: u32 = 64 << 20, Range::Ints(1 << 16, 1 << 30);
}

/// Changes of the byte stream to an nsqd, as a [`Config`] asks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Upgrades {
    /// TLS.
    pub tls: bool,
    /// Snappy.
    pub snappy: bool,
    /// Deflate, at this level.
    pub deflate: Option<u8>,
}

impl Config {
    /// The defaults.
    pub fn new() -> Self {
        Config::default()
    }

    /// Sets an option by its name; `-` and `_` are the same. Text is read as the option's type, numbers for
    /// durations are milliseconds, and `-1` turns off what can be off.
    pub fn set(&mut self, name: &str, value: impl Into<OptionValue>) -> Result<&mut Self, ConfigError> {
        let value = value.into();
        let canonical = name.replace('-', "_");
        if canonical == "skip_lookupd_authorization" {
            // Inverted where it comes from: true there means that the secret is sent.
            self.lookupd_authorization = read_option(&canonical, &value, &Range::Any).map(Some)?;
            return Ok(self);
        }
        self.set_by_name(&canonical, &value)
            .unwrap_or_else(|| Err(ConfigError::UnknownOption { name: name.to_owned() }))?;
        Ok(self)
    }

    /// Checks all ranges and what depends on several options.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.check_ranges()?;
        if let Interval::Every(interval) = self.heartbeat_interval
            && interval > self.read_timeout
        {
            return Err(ConfigError::Conflict("heartbeat_interval must not be above read_timeout"));
        }
        if self.deflate && self.snappy {
            return Err(ConfigError::Conflict("deflate and snappy cannot both be on"));
        }
        if self.auth_secret.is_some() && self.auth_secret_file.is_some() {
            return Err(ConfigError::Conflict("auth_secret and auth_secret_file cannot both be set"));
        }
        Ok(())
    }

    /// The secret for AUTH as it is now: the file may have changed.
    pub fn secret(&self) -> Result<Option<Secret>, ConfigError> {
        let Some(path) = &self.auth_secret_file else { return Ok(self.auth_secret.clone()) };
        let unusable = |reason: String| ConfigError::Secret { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() {
            Err(unusable("it is empty".to_owned()))
        } else {
            Ok(Some(Secret::from(secret)))
        }
    }

    /// What only a consumer needs, on top of [`Config::validate`].
    pub(crate) fn validate_consumer(&self) -> Result<(), ConfigError> {
        self.validate()?;
        if self.heartbeat_interval == Interval::Off {
            return Err(ConfigError::Conflict("a consumer needs heartbeats: nsqd refuses SUB without them"));
        }
        Ok(())
    }

    /// What is asked of nsqd about the byte stream.
    pub fn upgrades(&self) -> Upgrades {
        Upgrades {
            tls: self.tls_v1,
            snappy: self.snappy,
            deflate: self.deflate.then_some(self.deflate_level),
        }
    }

    /// Twice the concurrency unless set: enough that a handler never waits for the network.
    pub(crate) fn effective_max_in_flight(&self) -> u64 {
        u64::from(self.max_in_flight.unwrap_or(self.concurrency.saturating_mul(2)))
    }

    /// How long silence may last on a connection: two missed heartbeats and some slack.
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

    /// Every option of the Go client, with a value that its tools' users write.
    #[test]
    fn every_known_name_is_accepted() {
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
    fn ranges_are_enforced_by_name_and_when_built() {
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
    fn a_secret_stays_one() {
        let config = set("auth_secret", "hunter2").unwrap();
        assert_eq!(config.secret().unwrap().unwrap().reveal(), "hunter2");
        assert!(!format!("{config:?}").contains("hunter2"));
        let folder = std::env::temp_dir().join(format!("nsq-secret-{}", std::process::id()));
        let both = config.auth_secret_file(folder.clone());
        assert!(matches!(both.validate(), Err(ConfigError::Conflict(_))));
        let from_file = Config::new().auth_secret_file(folder.clone());
        assert!(matches!(from_file.secret(), Err(ConfigError::Secret { .. })));
        std::fs::write(&folder, "of a file\r\n").unwrap();
        assert_eq!(from_file.secret().unwrap().unwrap().reveal(), "of a file");
        std::fs::write(&folder, "\n").unwrap();
        assert!(from_file.secret().is_err());
        std::fs::remove_file(&folder).unwrap();
        assert_eq!(Config::new().secret().unwrap(), None);
    }

    #[test]
    fn values_coerce() {
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
    fn what_is_not_there_yet_is_said_when_building() {
        let both = Config::new().snappy(true).deflate(true);
        assert!(matches!(both.validate(), Err(ConfigError::Conflict(_))));
        let no_heartbeat = Config::new().heartbeat_interval(Interval::Off);
        no_heartbeat.validate().unwrap();
        assert!(no_heartbeat.validate_consumer().is_err());
    }
}
