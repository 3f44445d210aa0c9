//! Turns flags and config file into one [`Config`]: validated, complete, and immutable while the daemon runs.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use md5::{Digest, Md5};
#[cfg(feature = "archive")]
use nsq_archive::location::{BadLocation, Location as ArchiveLocation};
use nsq_daemon::flags::{self as daemon_flags, Exit, Parsed};
use nsq_daemon::http::{AllowedOrigins, CorsOrigins, InvalidCorsOrigin, InvalidOrigin};
use nsq_daemon::listen::{Address, parse_address};
use nsq_daemon::log::Logger;
use nsq_daemon::tls::{self, ClientAuth, TlsOptions};
use nsq_protocol::{IdentifyLimits, Limits};

#[cfg(feature = "archive")]
use crate::archive::ArchiveOptions;
use crate::auth::AuthOptions;
use crate::auth::servers::{AuthMethod, AuthServersOptions};
use crate::clock;
use crate::drain::MoveSetup;
use crate::drain::receiver::{InvalidTarget, ReceiverOptions, Target};
use crate::engine::{EngineLimits, LatencyOptions};
use crate::flags::{self, Flags, PROGRAM, QuantileList, TlsRequired, TlsVersion};
use crate::https::HttpsOptions;
use crate::locality::Location;
use crate::log::retention::Retention;
use crate::storage::Durability;

/// The only known experiment. Other names are ignored, as in NSQ.
const TOPOLOGY_AWARE_CONSUMPTION: &str = "topology-aware-consumption";

/// The smallest `--archive-interval`.
const MIN_ARCHIVE_INTERVAL: Duration = Duration::from_millis(10);

/// Node ids are below this limit.
const NODE_ID_LIMIT: u16 = 1024;

/// See the module: the flags, and beside them what is checked or completed. A field here hides the flag of the same
/// name, so only its checked value can be read.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    flags: Flags,
    /// Host name of this machine.
    pub hostname: String,
    /// Upper bits of message ids, below 1024.
    pub node_id: u16,
    /// HTTP listener; `None` if disabled.
    pub http_address: Option<Address>,
    /// Address announced to lookupd; the host name by default.
    pub broadcast_address: String,
    /// HTTP method for requests to auth servers.
    pub auth_http_request_method: AuthMethod,
    /// The token file; `None` if not set.
    pub auth_file: Option<PathBuf>,
    /// Web origins whose pages may make changes over HTTP.
    pub http_allowed_origins: AllowedOrigins,
    /// Web origins whose pages may publish and consume over HTTP and read the responses.
    pub http_cors_origins: CorsOrigins,
    /// Quantiles of the end-to-end latency, highest first.
    pub e2e_processing_latency_percentiles: Vec<f64>,
    /// Which listeners require TLS.
    pub tls_required: TlsRequired,
    /// Maximum deflate level, 1 to 9.
    pub max_deflate_level: u8,
}

impl Deref for Config {
    type Target = Flags;

    fn deref(&self) -> &Flags {
        &self.flags
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Flags {
        &mut self.flags
    }
}

/// What to do for a command line.
#[derive(Debug)]
pub enum Start {
    /// Run the daemon with this configuration and this logger.
    Run(Box<Config>, Logger),
    /// Exit: everything was printed, such as the answer to `--version` or an error.
    Exit(ExitCode),
}

/// Why a combination of flags, or a single flag's value, is invalid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A quantile is not a number.
    #[error("Could not parse: {0}")]
    NotANumber(String),
    /// A quantile is not in (0, 1].
    #[error("failed to instantiate nsqd - invalid E2E processing latency percentile: {0}")]
    PercentileOutOfRange(f64),
    /// The push interval is 0.
    #[error("failed to instantiate nsqd - --statsd-interval must be greater than 0")]
    StatsdInterval,
    /// The level of deflate is not in 1..=9.
    #[error("failed to instantiate nsqd - --max-deflate-level must be [1,9]")]
    DeflateLevel,
    /// The node id is not in 0..1024.
    #[error("failed to instantiate nsqd - --node-id must be [0,1024)")]
    NodeId,
    /// Only one of certificate and key is given.
    #[error("failed to instantiate nsqd - failed to build TLS config - {0}")]
    Certificate(&'static str),
    /// TLS is required, but there is no certificate and key.
    #[error("failed to instantiate nsqd - cannot require TLS client connections without TLS key and cert")]
    TlsWithoutCertificate,
    /// The file of certificate authorities cannot be used.
    #[error("failed to instantiate nsqd - failed to build TLS config - {0}")]
    RootCaFile(String),
    /// The policy is unknown. A misspelled policy would admit every client.
    #[error(
        "failed to instantiate nsqd - --tls-client-auth-policy {0:?}: must be one of request, require, \
         verify-if-given, require-verify"
    )]
    ClientAuthPolicy(String),
    /// The request method is unknown.
    #[error("failed to instantiate nsqd - --auth-http-request-method must be get or post")]
    AuthMethod,
    /// The HTTP API is to be protected, but there is no source of tokens.
    #[error("failed to instantiate nsqd - --http-auth needs --auth-file or --auth-http-address")]
    HttpAuthWithoutSource,
    /// The address of the nsqd to which a drain moves messages is invalid.
    #[error("failed to instantiate nsqd - --drain-to: {0}")]
    DrainTo(#[from] InvalidTarget),
    /// Nothing would move.
    #[error(
        "failed to instantiate nsqd - --drain-to needs a --drain-timeout greater than 0: messages move when it is over"
    )]
    DrainToWithoutTimeout,
    /// The archive's URL is invalid.
    #[cfg(feature = "archive")]
    #[error("failed to instantiate nsqd - --archive: {0}")]
    Archive(#[from] BadLocation),
    /// This program has no archive.
    #[cfg(not(feature = "archive"))]
    #[error("failed to instantiate nsqd - --archive: this nsqd was built without the feature archive")]
    NoArchive,
    /// There is no journal to archive.
    #[error("failed to instantiate nsqd - --archive needs --durability=write or --durability=sync")]
    ArchiveWithoutJournal,
    /// Uploading without pauses costs money.
    #[error("failed to instantiate nsqd - --archive-interval must be at least 10ms")]
    ArchiveInterval,
    /// An origin is invalid.
    #[error("failed to instantiate nsqd - --http-allowed-origin: {0}")]
    AllowedOrigin(#[from] InvalidOrigin),
    /// An origin is invalid.
    #[error("failed to instantiate nsqd - --http-cors-origin: {0}")]
    CorsOrigin(#[from] InvalidCorsOrigin),
}

impl Config {
    /// Reads a command line, program name first, and the config file that it names. Writes errors and warnings to
    /// stderr.
    ///
    /// Call it before starting threads, because the logger reads the local time zone.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Start {
        match Self::read(args) {
            Ok((config, warnings)) => {
                let logger =
                    Logger::with_format(config.log_prefix.clone(), config.log_level, config.log_format);
                for warning in warnings {
                    nsq_daemon::warn!(logger, "{warning}");
                }
                Start::Run(Box::new(config), logger)
            }
            Err(exit) => Start::Exit(exit.report(PROGRAM)),
        }
    }

    /// Reads a command line and the config file that it names. Also returns warnings about flags without effect. The
    /// error says how to exit: `--version`, `--help`, or a mistake with its exit code.
    pub fn read(args: impl IntoIterator<Item = OsString>) -> Result<(Self, Vec<String>), Exit> {
        let Parsed { flags, warnings: mut all_warnings } =
            daemon_flags::parse::<Flags>(PROGRAM, args.into_iter(), &flags::keys())?;
        all_warnings.extend(warnings(&flags));
        let config = Self::from_flags(flags, nsq_daemon::hostname());
        let config = config.and_then(|config| {
            check_root_ca_file(&config.tls_root_ca_file)?;
            Ok(config)
        });
        Ok((config.map_err(|error| Exit::Fatal(error.to_string()))?, all_warnings))
    }

    /// Pure: checks the flags in NSQ's order.
    pub fn from_flags(flags: Flags, hostname: String) -> Result<Self, ConfigError> {
        let max_deflate_level =
            u8::try_from(flags.max_deflate_level).ok().filter(|level| (1..=9).contains(level));
        let max_deflate_level = max_deflate_level.ok_or(ConfigError::DeflateLevel)?;
        let node_id = match flags.node_id {
            None => default_node_id(&hostname),
            Some(id) => u16::try_from(id).ok().filter(|id| *id < NODE_ID_LIMIT).ok_or(ConfigError::NodeId)?,
        };
        if client_auth(&flags.tls_client_auth_policy).is_none() {
            return Err(ConfigError::ClientAuthPolicy(flags.tls_client_auth_policy));
        }
        let tls_required = tls_required(&flags)?;
        let auth_http_request_method = match flags.auth_http_request_method.as_str() {
            "get" => AuthMethod::Get,
            "post" => AuthMethod::Post,
            _ => return Err(ConfigError::AuthMethod),
        };
        if flags.http_auth && flags.auth_file.is_empty() && flags.auth_http_address.is_empty() {
            return Err(ConfigError::HttpAuthWithoutSource);
        }
        if !flags.drain_to.is_empty() {
            Target::parse(&flags.drain_to)?;
            if flags.drain_timeout.is_zero() {
                return Err(ConfigError::DrainToWithoutTimeout);
            }
        }
        check_archive(&flags)?;
        let e2e_processing_latency_percentiles = percentiles(&flags.e2e_processing_latency_percentile)?;
        if !flags.statsd_address.is_empty() && flags.statsd_interval.is_zero() {
            return Err(ConfigError::StatsdInterval);
        }
        let broadcast_address = flags.broadcast_address.clone().filter(|address| !address.is_empty());
        let broadcast_address = broadcast_address.unwrap_or_else(|| hostname.clone());
        let own_names = [hostname.as_str(), broadcast_address.as_str()];
        let http_allowed_origins = AllowedOrigins::new(&flags.http_allowed_origin, &own_names)?;
        let http_cors_origins = CorsOrigins::new(&flags.http_cors_origin)?;
        Ok(Config {
            hostname,
            node_id,
            http_address: (!flags.http_address.is_empty()).then(|| parse_address(&flags.http_address)),
            broadcast_address,
            auth_http_request_method,
            auth_file: (!flags.auth_file.is_empty()).then(|| flags.auth_file.clone().into()),
            http_allowed_origins,
            http_cors_origins,
            e2e_processing_latency_percentiles,
            tls_required,
            max_deflate_level,
            flags,
        })
    }

    /// Region and zone of this node, for topology-aware delivery; `None` if it is disabled.
    pub fn location(&self) -> Option<Location> {
        let is_on = self.enable_experiment.iter().any(|name| name == TOPOLOGY_AWARE_CONSUMPTION);
        is_on.then(|| Location { region: self.topology_region.clone(), zone: self.topology_zone.clone() })
    }

    /// Limits on what a client may send.
    pub fn limits(&self) -> Limits {
        Limits {
            max_msg_size: self.max_msg_size,
            max_body_size: self.max_body_size,
            max_req_timeout_ms: u64::try_from(self.max_req_timeout.as_millis()).unwrap_or(u64::MAX),
            max_rdy_count: self.max_rdy_count,
            ..Limits::default()
        }
    }

    /// Certificate files and their use; `None` without TLS.
    pub fn tls_options(&self) -> Option<TlsOptions> {
        (!self.tls_cert.is_empty()).then(|| TlsOptions {
            certificate: self.tls_cert.clone().into(),
            key: self.tls_key.clone().into(),
            root_ca: self.root_ca(),
            client_auth: client_auth(&self.tls_client_auth_policy).unwrap_or_default(),
            only_tls13: self.tls_min_version == TlsVersion::Tls13,
        })
    }

    fn root_ca(&self) -> Option<PathBuf> {
        (!self.tls_root_ca_file.is_empty()).then(|| self.tls_root_ca_file.clone().into())
    }

    /// How drains move messages to another nsqd. `source` is the HTTP address of this one.
    pub fn move_setup(&self, source: String) -> MoveSetup {
        let token_file = &self.drain_to_token_file;
        let token_file = (!token_file.is_empty()).then(|| token_file.clone().into());
        MoveSetup {
            receiver: ReceiverOptions { https: self.https_options(), token_file, source },
            patience: self.drain_to_timeout,
        }
    }

    /// How to connect to other servers over HTTP.
    fn https_options(&self) -> HttpsOptions {
        HttpsOptions {
            connect_timeout: self.http_client_connect_timeout,
            root_ca: self.root_ca(),
            only_tls13: self.tls_min_version == TlsVersion::Tls13,
        }
    }

    /// Whether SIGHUP has files to reload.
    pub fn can_reload(&self) -> bool {
        !self.tls_cert.is_empty() || self.auth_file.is_some() || !self.policy_file.is_empty()
    }

    /// Limits on what a client may negotiate.
    pub fn identify_limits(&self) -> IdentifyLimits {
        IdentifyLimits {
            max_heartbeat_interval: self.max_heartbeat_interval,
            max_output_buffer_size: self.max_output_buffer_size,
            output_buffer_timeout: self.output_buffer_timeout,
            min_output_buffer_timeout: self.min_output_buffer_timeout,
            max_output_buffer_timeout: self.max_output_buffer_timeout,
            msg_timeout: self.msg_timeout,
            max_msg_timeout: self.max_msg_timeout,
            tls: !self.tls_cert.is_empty(),
            snappy: self.snappy,
            deflate: self.deflate,
            max_deflate_level: self.max_deflate_level,
            ..IdentifyLimits::default()
        }
    }

    /// Where secrets are checked: token file and auth servers.
    pub fn auth_options(&self) -> AuthOptions {
        let servers = AuthServersOptions {
            addresses: self.auth_http_address.clone(),
            method: self.auth_http_request_method,
            https: self.https_options(),
            request_timeout: self.http_client_request_timeout,
        };
        AuthOptions {
            token_file: self.auth_file.clone(),
            servers: (!servers.addresses.is_empty()).then_some(servers),
        }
    }

    /// Limits for topics and channels.
    pub fn engine_limits(&self) -> EngineLimits {
        EngineLimits {
            mem_queue_size: self.mem_queue_size,
            mem_queue_bytes: self.mem_queue_bytes,
            max_msg_timeout: self.max_msg_timeout,
            max_req_timeout: self.max_req_timeout,
            max_channel_consumers: self.max_channel_consumers,
            dedupe_max_ids: self.dedupe_max_ids,
            node_id: self.node_id,
            retention: Retention { age: clock::nanos(self.retain_for), bytes: self.retain_bytes },
            ttl: self.ttl,
            max_bytes_per_file: self.max_bytes_per_file,
            ..EngineLimits::DEFAULT
        }
    }
}

impl Config {
    /// How to archive; `None` if disabled. `tcp_port` is the port of this node.
    #[cfg(feature = "archive")]
    pub fn archive_options(&self, tcp_port: i64) -> Option<ArchiveOptions> {
        let port = broadcast_port(self.broadcast_tcp_port, tcp_port);
        Some(ArchiveOptions {
            // Checked before. An empty text is no location.
            location: self.archive.parse().ok()?,
            interval: self.archive_interval,
            snapshot_interval: self.archive_snapshot_interval,
            retain: self.archive_retain,
            max_lag: self.archive_max_lag,
            owner: self.hostname.clone(),
            address: format!("{}:{port}", self.broadcast_address),
        })
    }

    /// How to measure end-to-end latencies; `None` if disabled.
    pub fn latency_options(&self) -> Option<LatencyOptions> {
        let quantiles = self.e2e_processing_latency_percentiles.clone();
        let window = self.e2e_processing_latency_window_time;
        (!quantiles.is_empty()).then_some(LatencyOptions { quantiles, window })
    }
}

impl Default for Config {
    /// The configuration of an empty command line.
    fn default() -> Self {
        // The defaults are next to their flags; a test checks that they are valid.
        Self::read([PROGRAM.into()]).expect("the flags' defaults are valid").0
    }
}

/// The announced port: `set`, or `real` if `set` is 0.
pub fn broadcast_port(set: u16, real: i64) -> i64 {
    if set == 0 { real } else { set.into() }
}

/// CRC-32 of the host name's MD5, below 1024.
fn default_node_id(hostname: &str) -> u16 {
    (crc32fast::hash(&Md5::digest(hostname.as_bytes())) % u32::from(NODE_ID_LIMIT)) as u16
}

fn check_archive(flags: &Flags) -> Result<(), ConfigError> {
    if flags.archive.is_empty() {
        return Ok(());
    }
    check_archive_location(&flags.archive)?;
    if flags.durability == Durability::Overflow {
        return Err(ConfigError::ArchiveWithoutJournal);
    }
    if flags.archive_interval < MIN_ARCHIVE_INTERVAL { Err(ConfigError::ArchiveInterval) } else { Ok(()) }
}

#[cfg(feature = "archive")]
fn check_archive_location(url: &str) -> Result<(), ConfigError> {
    Ok(url.parse::<ArchiveLocation>().map(drop)?)
}

#[cfg(not(feature = "archive"))]
fn check_archive_location(_url: &str) -> Result<(), ConfigError> {
    Err(ConfigError::NoArchive)
}

/// Which listeners require TLS; fails if TLS is required but impossible. A policy for client certificates implies TLS,
/// even with `--tls-required=false`.
fn tls_required(flags: &Flags) -> Result<TlsRequired, ConfigError> {
    let required = match flags.tls_required {
        TlsRequired::No if !flags.tls_client_auth_policy.is_empty() => TlsRequired::Yes,
        required => required,
    };
    match (flags.tls_cert.is_empty(), flags.tls_key.is_empty()) {
        (true, true) if required == TlsRequired::No => Ok(required),
        (true, true) => Err(ConfigError::TlsWithoutCertificate),
        (false, false) => Ok(required),
        (false, true) => Err(ConfigError::Certificate("--tls-cert needs --tls-key")),
        (true, false) => Err(ConfigError::Certificate("--tls-key needs --tls-cert")),
    }
}

/// Returns `None` for an unknown policy. `request` and `verify-if-given` are not in NSQ. NSQ treats any other word as
/// no policy.
fn client_auth(policy: &str) -> Option<ClientAuth> {
    Some(match policy {
        "" => ClientAuth::None,
        "require" => ClientAuth::Require,
        "request" => ClientAuth::Request,
        "verify-if-given" => ClientAuth::VerifyIfGiven,
        "require-verify" => ClientAuth::RequireVerify,
        _ => return None,
    })
}

/// Warnings about flags that are set but have no effect.
fn warnings(flags: &Flags) -> Vec<String> {
    const DEPRECATED: &str = "is deprecated and has no effect";
    const DURABILITY: &str =
        "has no effect: with --durability=sync every publish is synced before it is acknowledged";
    const SCAN: &str = "has no effect: nsqd keeps deadlines in order and does not scan queues";
    const NO_TLS: &str = "has no effect without --tls-cert and --tls-key";
    let always_synced = flags.durability == Durability::Sync;
    let no_tls = flags.tls_cert.is_empty();
    let rows = [
        ("verbose", flags.verbose, DEPRECATED),
        ("worker-id", flags.worker_id, DEPRECATED),
        ("https-address", no_tls && !["", "0.0.0.0:4152"].contains(&flags.https_address.as_str()), NO_TLS),
        ("sync-every", always_synced && flags.sync_every != 2500, DURABILITY),
        ("sync-timeout", always_synced && flags.sync_timeout != Duration::from_secs(2), DURABILITY),
        ("queue-scan-worker-pool-max", flags.queue_scan_worker_pool_max != 4, SCAN),
        ("queue-scan-selection-count", flags.queue_scan_selection_count != 20, SCAN),
        ("tls-min-version", no_tls && flags.tls_min_version != TlsVersion::default(), NO_TLS),
    ];
    rows.into_iter().filter(|(_, set, _)| *set).map(|(flag, _, text)| format!("--{flag} {text}")).collect()
}

/// Quantiles, highest first.
fn percentiles(given: &[QuantileList]) -> Result<Vec<f64>, ConfigError> {
    let words = given.iter().flat_map(|list| list.0.split(',')).map(str::trim);
    let mut quantiles = words
        .map(|word| match word.parse::<f64>() {
            Ok(quantile) if quantile > 0.0 && quantile <= 1.0 => Ok(quantile),
            Ok(quantile) => Err(ConfigError::PercentileOutOfRange(quantile)),
            Err(_) => Err(ConfigError::NotANumber(word.to_owned())),
        })
        .collect::<Result<Vec<f64>, _>>()?;
    quantiles.sort_unstable_by(|a, b| b.total_cmp(a));
    Ok(quantiles)
}

/// Checks the file even if nothing uses it, as in NSQ, because the operator relies on it.
fn check_root_ca_file(path: &str) -> Result<(), ConfigError> {
    if path.is_empty() {
        return Ok(());
    }
    let read = tls::files::certificates(Path::new(path));
    read.map(drop).map_err(|error| ConfigError::RootCaFile(error.to_string()))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
