//! TLS, compression and secret for connections to daemons, over TCP and HTTP.

use std::path::PathBuf;

use clap::Args;
use nsq::{Config, Secret, Tls};

use crate::exit_status::Failure;

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
    #[arg(long, global = true, value_name = "LEVEL", default_value_t = 6,
          value_parser = clap::value_parser!(u8).range(1..=9))]
    deflate_level: u8,
    /// Option of the client library, such as max_attempts=3; overrides the other flags; may be repeated.
    #[arg(long = "opt", global = true, value_name = "NAME=VALUE", short = 'X', aliases = ["consumer-opt", "producer-opt"])]
    options: Vec<String>,
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
    /// Validates the flags and reads the files that they name.
    pub fn resolve(flags: SecurityFlags) -> Result<Self, Failure> {
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
            config.set(name, value)?;
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
        Security::resolve(Line::parse_from([&["nsq"], words].concat()).security)
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
