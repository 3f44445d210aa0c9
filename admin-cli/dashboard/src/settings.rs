//! The validated flags, and what `/config` reads and changes.

use std::collections::HashMap;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use nsq::{Config, Secret, Tls};
use nsq_cluster::Thresholds;
use nsq_daemon::listen::{Address, parse_address};
use nsq_daemon::log::Level;
use serde_json::{Value, json};

use crate::access::Rules;
use crate::flags::{Flags, path};
use crate::graphite::Keys;
use crate::network::Network;
use crate::users::Users;

/// Limits of `--sample-interval`.
const SAMPLE_INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The least `--history-bytes`: an hour per minute of some 500 objects.
const LEAST_HISTORY_BYTES: usize = 1 << 20;

/// What the dashboard runs with.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) address: Address,
    /// Starts with a slash and has none at the end; empty for the root.
    pub(crate) base_path: String,
    pub(crate) lookupds: Vec<String>,
    pub(crate) nsqds: Vec<String>,
    pub(crate) connect_timeout: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) tls: Tls,
    pub(crate) token: Option<Secret>,
    pub(crate) rules: Rules,
    pub(crate) users: Option<Users>,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) config_network: Option<Network>,
    pub(crate) notification_endpoint: Option<String>,
    pub(crate) audit_log: Option<PathBuf>,
    pub(crate) hide_bodies: bool,
    pub(crate) sample_interval: Duration,
    pub(crate) history_bytes: usize,
    pub(crate) thresholds: Thresholds,
    pub(crate) graphite_url: Option<String>,
    pub(crate) proxy_graphite: bool,
    pub(crate) keys: Keys,
    pub(crate) statsd_interval: Duration,
    pub(crate) static_dir: Option<PathBuf>,
    /// What `/config` answers for options that cannot change.
    pub(crate) shown: HashMap<&'static str, Value>,
}

impl Settings {
    /// Checks the flags and reads the files that they name. An error names the flag.
    pub fn resolve(flags: &Flags) -> Result<Self, String> {
        let (lookupds, nsqds) = (flags.lookupd_http_address.clone(), flags.nsqd_http_address.clone());
        if lookupds.is_empty() && nsqds.is_empty() {
            return Err("--nsqd-http-address or --lookupd-http-address required".to_owned());
        }
        if !lookupds.is_empty() && !nsqds.is_empty() {
            return Err("use --nsqd-http-address or --lookupd-http-address not both".to_owned());
        }
        for (flag, addresses) in [("lookupd-http-address", &lookupds), ("nsqd-http-address", &nsqds)] {
            addresses.iter().try_for_each(|address| check_address(flag, address))?;
        }
        if !SAMPLE_INTERVALS.contains(&flags.sample_interval) {
            return Err(format!("--sample-interval {:?}: use 1s to 1m, such as 5s", flags.sample_interval));
        }
        if flags.history_bytes < LEAST_HISTORY_BYTES {
            return Err(format!(
                "--history-bytes {}: use at least {LEAST_HISTORY_BYTES} (1 MiB)",
                flags.history_bytes
            ));
        }
        let statsd_seconds = flags.statsd_interval.as_secs();
        if statsd_seconds == 0 {
            return Err(format!("--statsd-interval {:?}: use at least 1s", flags.statsd_interval));
        }
        if flags.proxy_graphite && flags.graphite_url.is_empty() {
            return Err("--proxy-graphite needs --graphite-url, such as http://graphite:8080".to_owned());
        }
        for (flag, url) in [
            ("graphite-url", &flags.graphite_url),
            ("notification-http-endpoint", &flags.notification_http_endpoint),
        ] {
            check_url(flag, url)?;
        }
        if http::HeaderName::from_bytes(flags.acl_http_header.as_bytes()).is_err() {
            return Err(format!("--acl-http-header {:?} is not a header name", flags.acl_http_header));
        }
        let network = |flag: &str, text: &String| {
            text.parse::<Network>().map_err(|error| format!("failed to parse --{flag} ({text}) - {error}"))
        };
        let config_network = match flags.allow_config_from_cidr.as_str() {
            "" => None,
            _ => Some(network("allow-config-from-cidr", &flags.allow_config_from_cidr)?),
        };
        let trusted = flags.trusted_proxy.iter().map(|text| network("trusted-proxy", text));
        let trusted = trusted.collect::<Result<Vec<_>, _>>()?;
        let users = path(&flags.users_file).map(|path| Users::read(&path)).transpose()?;
        let rules = Rules {
            acl_header: flags.acl_http_header.clone(),
            admins: flags.admin_user.clone(),
            operators: flags.operator_user.clone(),
            viewers: flags.viewer_user.clone(),
            has_users_file: users.is_some(),
            trusted_proxies: if trusted.is_empty() { Network::private() } else { trusted },
        };
        let (tls, token) = upstream_security(flags)?;
        Ok(Settings {
            address: parse_address(&flags.http_address),
            base_path: normalize_base_path(&flags.base_path),
            lookupds,
            nsqds,
            connect_timeout: flags.http_client_connect_timeout,
            request_timeout: flags.http_client_request_timeout,
            tls,
            token,
            rules,
            users,
            allowed_origins: flags.http_allowed_origin.clone(),
            config_network,
            notification_endpoint: some(&flags.notification_http_endpoint),
            audit_log: path(&flags.audit_log),
            hide_bodies: flags.hide_bodies,
            sample_interval: flags.sample_interval,
            history_bytes: flags.history_bytes,
            thresholds: thresholds(flags)?,
            graphite_url: some(&flags.graphite_url).map(|url| url.trim_end_matches('/').to_owned()),
            proxy_graphite: flags.proxy_graphite,
            keys: Keys {
                prefix: flags.statsd_prefix.clone(),
                counter_format: flags.statsd_counter_format.clone(),
                gauge_format: flags.statsd_gauge_format.clone(),
            },
            statsd_interval: flags.statsd_interval,
            static_dir: path(&flags.dev_static_dir),
            shown: shown(flags),
        })
    }

    /// Where the dashboard listens; used by programs that start it themselves.
    #[must_use]
    pub fn listening_on(mut self, address: Address) -> Self {
        self.address = address;
        self
    }
}

/// The table `[problems]` of the config file.
fn thresholds(flags: &Flags) -> Result<Thresholds, String> {
    let Some(path) = path(&flags.problems_file) else { return Ok(Thresholds::default()) };
    let shown = path.display();
    let text = std::fs::read_to_string(&path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    Thresholds::from_toml(&text).map_err(|error| format!("{shown}: {error}"))
}

fn upstream_security(flags: &Flags) -> Result<(Tls, Option<Secret>), String> {
    let (cert, key) = (path(&flags.http_client_tls_cert), path(&flags.http_client_tls_key));
    match (&cert, &key) {
        (Some(_), None) => {
            return Err("--http-client-tls-key must be specified with --http-client-tls-cert".to_owned());
        }
        (None, Some(_)) => {
            return Err("--http-client-tls-cert must be specified with --http-client-tls-key".to_owned());
        }
        _ => {}
    }
    let ca = path(&flags.http_client_tls_root_ca_file);
    let is_named = ca.is_some() || cert.is_some() || flags.http_client_tls_insecure_skip_verify;
    let config = Config::new()
        .tls_v1(is_named)
        .tls_root_ca_file(ca)
        .tls_cert(cert)
        .tls_key(key)
        .tls_insecure_skip_verify(flags.http_client_tls_insecure_skip_verify)
        .auth_secret_file(path(&flags.auth_secret_file));
    // Without these flags, no certificate is read until an https address is used.
    let tls = if is_named { Tls::new(&config).map_err(|error| error.to_string())? } else { Tls::default() };
    let token = config.secret().map_err(|error| format!("--auth-secret-file: {error}"))?;
    Ok((tls, token))
}

/// Refuses an address that cannot be parsed, or whose name does not resolve.
pub(crate) fn check_address(flag: &str, address: &str) -> Result<(), String> {
    nsq::admin::NsqdClient::new(address).map_err(|error| format!("--{flag}: {error}"))?;
    if address.contains("://") || nsq::is_socket_path(address) {
        return Ok(());
    }
    let found = address.to_socket_addrs().map(|mut found| found.next().is_some());
    match found {
        Ok(true) => Ok(()),
        Ok(false) => Err(format!("failed to resolve --{flag} ({address}) - the name has no address")),
        Err(error) => Err(format!("failed to resolve --{flag} ({address}) - {error}")),
    }
}

fn check_url(flag: &str, url: &str) -> Result<(), String> {
    let is_usable = url.parse::<http::Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
    });
    if url.is_empty() || is_usable {
        return Ok(());
    }
    Err(format!("failed to parse --{flag} ({url}) - write a URL such as http://host:port"))
}

/// Adds the leading slash and removes `.`, `..` and doubled slashes. Empty for the root.
fn normalize_base_path(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.iter().map(|part| format!("/{part}")).collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

/// The options by the names of the config file, as `/config` shows them: strings, lists, and durations in nanoseconds.
fn shown(flags: &Flags) -> HashMap<&'static str, Value> {
    let text = |text: &std::ffi::OsString| json!(text.to_string_lossy());
    let ns = |duration: Duration| json!(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    HashMap::from([
        ("log_prefix", json!(flags.log_prefix)),
        ("http_address", json!(flags.http_address)),
        ("base_path", json!(format!("/{}", normalize_base_path(&flags.base_path).trim_start_matches('/')))),
        ("dev_static_dir", text(&flags.dev_static_dir)),
        ("graphite_url", json!(flags.graphite_url)),
        ("proxy_graphite", json!(flags.proxy_graphite)),
        ("statsd_prefix", json!(flags.statsd_prefix)),
        ("statsd_counter_format", json!(flags.statsd_counter_format)),
        ("statsd_gauge_format", json!(flags.statsd_gauge_format)),
        ("statsd_interval", ns(flags.statsd_interval)),
        ("nsqd_http_addresses", json!(flags.nsqd_http_address)),
        ("http_client_connect_timeout", ns(flags.http_client_connect_timeout)),
        ("http_client_request_timeout", ns(flags.http_client_request_timeout)),
        ("http_client_tls_insecure_skip_verify", json!(flags.http_client_tls_insecure_skip_verify)),
        ("http_client_tls_root_ca_file", text(&flags.http_client_tls_root_ca_file)),
        ("http_client_tls_cert", text(&flags.http_client_tls_cert)),
        ("http_client_tls_key", text(&flags.http_client_tls_key)),
        ("allow_config_from_cidr", json!(flags.allow_config_from_cidr)),
        ("notification_http_endpoint", json!(flags.notification_http_endpoint)),
        ("acl_http_header", json!(flags.acl_http_header)),
        ("admin_users", json!(flags.admin_user)),
        ("operator_users", json!(flags.operator_user)),
        ("viewer_users", json!(flags.viewer_user)),
        ("trusted_proxies", json!(flags.trusted_proxy)),
        ("http_allowed_origins", json!(flags.http_allowed_origin)),
        ("audit_log", text(&flags.audit_log)),
        ("hide_bodies", json!(flags.hide_bodies)),
        ("sample_interval", ns(flags.sample_interval)),
        ("history_bytes", json!(flags.history_bytes)),
    ])
}

/// A level as `PUT /config/log_level` spells it.
pub(crate) fn parse_level(body: &[u8]) -> Option<Level> {
    std::str::from_utf8(body).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn resolve(words: &[&str]) -> Result<Settings, String> {
        Settings::resolve(
            &Flags::try_parse_from(std::iter::once(&"nsqadmin").chain(words)).expect("valid flags"),
        )
    }

    #[test]
    fn exactly_one_kind_of_upstream_is_required() {
        let lookupd = "--lookupd-http-address=127.0.0.1:4161";
        let nsqd = "--nsqd-http-address=127.0.0.1:4151";
        assert_eq!(resolve(&[]).unwrap_err(), "--nsqd-http-address or --lookupd-http-address required");
        assert_eq!(
            resolve(&[lookupd, nsqd]).unwrap_err(),
            "use --nsqd-http-address or --lookupd-http-address not both"
        );
        assert!(resolve(&[lookupd]).is_ok() && resolve(&[nsqd]).is_ok());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (flag, part) in [
            ("--allow-config-from-cidr=here", "--allow-config-from-cidr"),
            ("--trusted-proxy=10.0.0.0", "--trusted-proxy"),
            ("--proxy-graphite=true", "--graphite-url"),
            ("--graphite-url=graphite", "--graphite-url"),
            ("--notification-http-endpoint=ftp://x", "--notification-http-endpoint"),
            ("--sample-interval=100ms", "1s to 1m"),
            ("--history-bytes=1000", "at least 1048576"),
            ("--http-client-tls-cert=x", "--http-client-tls-key"),
            ("--users-file=/nowhere/users", "/nowhere/users"),
            ("--acl-http-header=a b", "--acl-http-header"),
            ("--nsqd-http-address=nowhere", "nowhere"),
        ] {
            let nsqd = "--nsqd-http-address=127.0.0.1:4151";
            let error = resolve(&[nsqd, flag]).unwrap_err();
            assert!(error.contains(part), "{flag}: {error}");
        }
    }

    #[test]
    fn base_path_is_cleaned() {
        for (given, cleaned) in
            [("/", ""), ("", ""), ("nsq", "/nsq"), ("/a//b/", "/a/b"), ("/a/../b", "/b"), ("../x", "/x")]
        {
            assert_eq!(normalize_base_path(given), cleaned);
        }
    }
}
