//! TLS, compression and secret for connections to daemons, over TCP and HTTP.

use std::path::PathBuf;

use clap::Args;
use clap_complete::ArgValueCandidates;
use nsq::{Config, Secret, Tls};

use crate::client_options;
use crate::command::completion;
use crate::exit_status::Failure;
use crate::profile::{Profile, TlsDetails, TlsProfile};

/// Level of deflate without a flag.
const DEFLATE_LEVEL: u8 = 6;

impl Default for SecurityFlags {
    fn default() -> Self {
        SecurityFlags {
            tls: false,
            tls_ca: None,
            tls_cert: None,
            tls_key: None,
            tls_server_name: None,
            tls_insecure: false,
            auth_secret: std::env::var("NSQ_AUTH_SECRET").ok(),
            auth_secret_file: None,
            snappy: false,
            deflate: false,
            deflate_level: DEFLATE_LEVEL,
            options: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Security and compression")]
pub struct SecurityFlags {
    /// Publish and consume over TLS. Any other --tls flag implies it.
    #[arg(long, global = true)]
    tls: bool,
    /// PEM file with the certificate authority to trust. [default: the system's]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NSQ_TLS_CA",
        alias = "http-client-tls-root-ca-file"
    )]
    tls_ca: Option<PathBuf>,
    /// PEM file with the client certificate.
    #[arg(long, global = true, value_name = "FILE", env = "NSQ_TLS_CERT", alias = "http-client-tls-cert")]
    tls_cert: Option<PathBuf>,
    /// PEM file with the private key of the client certificate.
    #[arg(long, global = true, value_name = "FILE", env = "NSQ_TLS_KEY", alias = "http-client-tls-key")]
    tls_key: Option<PathBuf>,
    /// Name to expect in the daemons' certificates. [default: the host of the address]
    #[arg(long, global = true, value_name = "NAME", env = "NSQ_TLS_SERVER_NAME")]
    tls_server_name: Option<String>,
    /// Trust any certificate.
    #[arg(long, global = true, alias = "http-client-tls-insecure-skip-verify")]
    tls_insecure: bool,
    /// Secret for nsqds that require one, over TCP and HTTP. Other users of this machine can see a secret in a flag:
    /// prefer the environment variable or --auth-secret-file.
    #[arg(long, global = true, value_name = "SECRET", env = "NSQ_AUTH_SECRET", hide_env_values = true)]
    auth_secret: Option<String>,
    /// File with the secret.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "NSQ_AUTH_SECRET_FILE",
        conflicts_with = "auth_secret"
    )]
    auth_secret_file: Option<PathBuf>,
    /// Publish and consume with snappy compression.
    #[arg(long, global = true, conflicts_with = "deflate")]
    snappy: bool,
    /// Publish and consume with deflate compression.
    #[arg(long, global = true)]
    deflate: bool,
    /// Compression level of deflate, 1 to 9.
    #[arg(long, global = true, value_name = "LEVEL", default_value_t = DEFLATE_LEVEL,
          value_parser = clap::value_parser!(u8).range(1..=9))]
    deflate_level: u8,
    /// Option of the client library, such as max_attempts=3; overrides the other flags; may be repeated. -X help lists
    /// them.
    #[arg(long = "opt", global = true, value_name = "NAME=VALUE", short = 'X', aliases = ["consumer-opt", "producer-opt"],
          add = ArgValueCandidates::new(completion::client_options))]
    options: Vec<String>,
}

impl SecurityFlags {
    /// TLS and the file of the secret, for a profile.
    pub fn for_profile(&self) -> Result<(Option<TlsProfile>, Option<PathBuf>), Failure> {
        if self.auth_secret.is_some() {
            return Err(Failure::usage("a profile does not hold secrets").hint(
                "write the secret to a file that only you can read, and use --auth-secret-file FILE; unset NSQ_AUTH_SECRET",
            ));
        }
        let details = TlsDetails {
            ca: self.tls_ca.clone(),
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            server_name: self.tls_server_name.clone(),
            insecure: self.tls_insecure,
        };
        let tls = match details == TlsDetails::default() {
            false => Some(TlsProfile::Details(details)),
            true => self.tls.then_some(TlsProfile::On(true)),
        };
        Ok((tls, self.auth_secret_file.clone()))
    }

    fn completed_by(mut self, profile: &Profile) -> Self {
        match &profile.tls {
            Some(TlsProfile::On(is_on)) => self.tls |= is_on,
            Some(TlsProfile::Details(details)) => {
                self.tls = true;
                self.tls_ca = self.tls_ca.or_else(|| details.ca.clone());
                self.tls_cert = self.tls_cert.or_else(|| details.cert.clone());
                self.tls_key = self.tls_key.or_else(|| details.key.clone());
                self.tls_server_name = self.tls_server_name.or_else(|| details.server_name.clone());
                self.tls_insecure |= details.insecure;
            }
            None => {}
        }
        if self.auth_secret.is_none() {
            self.auth_secret_file = self.auth_secret_file.or_else(|| profile.auth_secret_file.clone());
        }
        self
    }
}

/// The validated settings.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Base configuration of producers and consumers.
    pub config: Config,
    /// TLS settings for HTTP.
    pub tls: Tls,
    /// Secret for HTTP.
    pub token: Option<Secret>,
}

impl Security {
    /// What a profile says, without flags.
    pub fn of_profile(profile: Option<&Profile>) -> Result<Self, Failure> {
        Self::resolve(SecurityFlags::default(), profile)
    }

    /// Validates the flags and reads the files that they name. What no flag and no variable says is taken from the
    /// profile.
    pub fn resolve(flags: SecurityFlags, profile: Option<&Profile>) -> Result<Self, Failure> {
        let flags = match profile {
            Some(profile) => flags.completed_by(profile),
            None => flags,
        };
        let is_named = flags.tls_ca.is_some() || flags.tls_cert.is_some() || flags.tls_key.is_some();
        let is_tls_requested = is_named || flags.tls_server_name.is_some() || flags.tls_insecure;
        let mut config = Config::new()
            .tls_v1(flags.tls || is_tls_requested)
            .tls_root_ca_file(flags.tls_ca)
            .tls_cert(flags.tls_cert)
            .tls_key(flags.tls_key)
            .tls_server_name(flags.tls_server_name)
            .tls_insecure_skip_verify(flags.tls_insecure)
            .auth_secret(flags.auth_secret.map(Secret::from))
            .auth_secret_file(flags.auth_secret_file)
            .snappy(flags.snappy)
            .deflate(flags.deflate)
            .deflate_level(flags.deflate_level);
        for option in &flags.options {
            let (name, value) = name_and_value(option);
            config.set(name, value).map_err(client_options::failure)?;
        }
        // Without TLS flags, no certificate is read until an https address is used.
        let tls =
            if is_tls_requested || !flags.options.is_empty() { Tls::new(&config)? } else { Tls::default() };
        let token = config.secret()?;
        Ok(Security { config, tls, token })
    }
}

/// Splits `name=value`, or `name,value` as in NSQ's tools. A name alone means `true`.
fn name_and_value(option: &str) -> (&str, &str) {
    option.split_once(['=', ',']).unwrap_or((option, "true"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        security: SecurityFlags,
    }

    fn resolve(words: &[&str]) -> Result<Security, Failure> {
        Security::resolve(Line::parse_from([&["nsq"], words].concat()).security, None)
    }

    #[test]
    fn profile_completes_the_flags() {
        let profile = Profile {
            tls: Some(TlsProfile::Details(TlsDetails {
                server_name: Some("of-profile".to_owned()),
                insecure: true,
                ..TlsDetails::default()
            })),
            ..Profile::default()
        };
        let line = Line::parse_from(["nsq"]);
        assert_eq!(line.security.for_profile().unwrap(), (None, None));
        let expected = Config::new().tls_v1(true).tls_insecure_skip_verify(true);
        let config = Security::resolve(line.security, Some(&profile)).unwrap().config;
        assert_eq!(config, expected.clone().tls_server_name(Some("of-profile".to_owned())));
        let line = Line::parse_from(["nsq", "--tls-server-name=of-flag"]);
        assert!(line.security.for_profile().unwrap().0.is_some());
        let config = Security::resolve(line.security, Some(&profile)).unwrap().config;
        assert_eq!(config, expected.tls_server_name(Some("of-flag".to_owned())));
        assert!(Line::parse_from(["nsq", "--auth-secret=s"]).security.for_profile().is_err());
    }

    #[test]
    fn flags_and_options_set_the_same_config() {
        let security =
            resolve(&["--deflate", "--deflate-level=3", "-X", "tls_v1", "--opt", "max_attempts,7"]).unwrap();
        let expected = Config::new().deflate(true).deflate_level(3u8).tls_v1(true).max_attempts(7u16);
        assert_eq!(security.config, expected);
        assert_eq!(resolve(&[]).unwrap().config, Config::new());
        let security = resolve(&["--auth-secret=s"]).unwrap();
        assert_eq!(security.token, Some(Secret::from("s")));
        assert_eq!(security.config, Config::new().auth_secret(Secret::from("s")));
        assert_eq!(
            resolve(&["--tls-insecure"]).unwrap().config,
            Config::new().tls_v1(true).tls_insecure_skip_verify(true)
        );
    }

    #[test]
    fn invalid_flags_are_rejected() {
        for words in [
            &["--tls-ca=/nonexistent/ca.pem"][..],
            &["--tls-cert=/nonexistent/c.pem"],
            &["--auth-secret-file=/nonexistent/secret"],
            &["-X", "no_such_option=1"],
            &["-X", "deflate_level=10"],
        ] {
            assert!(resolve(words).is_err(), "{words:?}");
        }
        assert!(Line::try_parse_from(["nsq", "--snappy", "--deflate"]).is_err());
    }
}
