//! Who may do what: a secret becomes a [`Grant`].
//!
//! Grants come from the token file, if it knows the secret, else from auth servers. They hold for a while and are then
//! asked for again by who uses them: nothing happens in the background. Connections keep their grant
//! (`connection::auth`), the HTTP API finds it again by the secret (`http::auth`).
//!
//! - [`pattern`]: pure; regular expressions in Go's dialect
//! - [`grant`]: pure; permissions, and what a grant allows
//! - [`tokens`]: pure; the token file
//! - [`servers`]: asking auth servers
//! - this file: [`Authenticator`], all of it together

pub mod grant;
pub mod pattern;
pub mod servers;
pub mod tokens;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_daemon::tls::TlsError;
use nsq_daemon::watch::{Fingerprint, Watch};
use nsq_protocol::AuthAnswer;
use parking_lot::{Mutex, RwLock};
use tokio_util::sync::CancellationToken;

use self::grant::Authorization;
pub use self::grant::{Grant, Permission};
use self::pattern::Patterns;
use self::servers::{AuthServers, AuthServersOptions};
use self::tokens::{Form, InvalidTokens, Token, Tokens};
use crate::clock::{self, Nanos};

/// What an auth server is told.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// What the client sent; opaque.
    pub secret: &'a [u8],
    /// Where it comes from; none on a unix socket.
    pub remote_ip: Option<IpAddr>,
    /// Whether it came over TLS.
    pub is_tls: bool,
    /// The common name of the client's certificate; empty without one.
    pub common_name: &'a str,
}

impl Credentials<'_> {
    fn remote_ip_text(&self) -> String {
        self.remote_ip.map_or_else(String::new, |ip| ip.to_string())
    }
}

/// Why there is no grant. The log says more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthError {
    /// Nobody knows the secret.
    Unknown,
    /// No auth server has a usable answer.
    Unavailable,
}

/// Where grants come from.
#[derive(Debug, Clone, Default)]
pub struct AuthOptions {
    /// The token file.
    pub token_file: Option<PathBuf>,
    /// Auth servers.
    pub servers: Option<AuthServersOptions>,
}

/// See the module.
pub struct Authenticator {
    token_file: Option<TokenFile>,
    servers: Option<AuthServers>,
    patterns: Patterns,
    logger: Logger,
}

struct TokenFile {
    path: PathBuf,
    current: RwLock<Reading>,
    /// What was last read, or tried.
    watch: Mutex<Watch>,
}

/// How often the file is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The file as it was read last.
#[derive(Clone)]
struct Reading {
    number: u64,
    tokens: Arc<Tokens>,
}

/// Why nobody can be asked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The token file is no good.
    #[error("failed to read --auth-file - {0}")]
    TokenFile(#[from] TokenFileError),
    /// The certificates for auth servers are no good.
    #[error("failed to build TLS config - {0}")]
    Tls(#[from] TlsError),
}

/// Why the token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("open {}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What it says makes no sense.
    #[error("{}: {source}", path.display())]
    Invalid {
        /// Which.
        path: PathBuf,
        /// Why.
        source: InvalidTokens,
    },
}

impl Authenticator {
    /// Reads the token file; asks no server. None if there is neither: then nobody needs a secret.
    pub async fn new(options: AuthOptions, logger: Logger) -> Result<Option<Self>, StartError> {
        if options.token_file.is_none() && options.servers.is_none() {
            return Ok(None);
        }
        let patterns = Patterns::default();
        let token_file = match options.token_file {
            None => None,
            Some(path) => {
                // Before the file is read: what changes meanwhile is read again.
                let watch = Watch::new(Fingerprint::of([path.as_path()]).await);
                let tokens = Arc::new(read_tokens(&path, &patterns).await?);
                nsq_daemon::info!(logger, "AUTH: {} tokens from {}", tokens.len(), path.display());
                let current = RwLock::new(Reading { number: 0, tokens });
                Some(TokenFile { path, current, watch: Mutex::new(watch) })
            }
        };
        let servers = options.servers.map(AuthServers::new).transpose()?;
        Ok(Some(Self { token_file, servers, patterns, logger }))
    }

    /// Finds out what a secret allows; possibly nothing at all. Logs why it fails. Dropping the future does no harm.
    pub async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Grant, AuthError> {
        if let Some(grant) = self.known_token(credentials.secret) {
            return Ok(grant);
        }
        let Some(servers) = &self.servers else {
            nsq_daemon::error!(self.logger, "AUTH: an unknown token from {}", credentials.remote_ip_text());
            return Err(AuthError::Unknown);
        };
        let asked_at = clock::monotonic();
        let answered = servers.ask(credentials, |answer| self.grant(answer, asked_at)).await;
        answered.map_err(|failure| {
            nsq_daemon::error!(self.logger, "AUTH: no auth server answers - {failure}");
            if failure.is_refusal { AuthError::Unknown } else { AuthError::Unavailable }
        })
    }

    /// Whether a grant need not be asked for again.
    pub fn is_current(&self, grant: &Grant, now: Nanos) -> bool {
        now < grant.valid_until
            && grant.reading.is_none_or(|number| {
                self.token_file.as_ref().is_some_and(|file| file.current.read().number == number)
            })
    }

    /// Reads the token file now. If it is no good, all tokens stay as they are, and the log says why.
    pub async fn reload(&self) {
        let Some(file) = &self.token_file else { return };
        let fingerprint = Fingerprint::of([file.path.as_path()]).await;
        file.watch.lock().seen(fingerprint);
        match read_tokens(&file.path, &self.patterns).await {
            Ok(tokens) => {
                file.watch.lock().outcome(None);
                let count = tokens.len();
                {
                    let mut current = file.current.write();
                    *current = Reading { number: current.number + 1, tokens: Arc::new(tokens) };
                }
                // Not before they hold: whoever waits for this line goes by them.
                nsq_daemon::info!(self.logger, "AUTH: {count} tokens from {}", file.path.display());
            }
            Err(error) => {
                let unreadable = match &error {
                    TokenFileError::Unreadable { source, .. } => Some(source),
                    TokenFileError::Invalid { .. } => None,
                };
                if file.watch.lock().outcome(unreadable) {
                    nsq_daemon::error!(self.logger, "AUTH: tokens stay as they are - {error}");
                }
            }
        }
    }

    /// Reads the token file whenever it changes, until told to stop.
    pub async fn watch(&self, stop: CancellationToken) {
        let Some(file) = &self.token_file else { return };
        loop {
            tokio::select! {
                () = tokio::time::sleep(WATCH_INTERVAL) => {}
                () = stop.cancelled() => return,
            }
            let fingerprint = Fingerprint::of([file.path.as_path()]).await;
            let is_due = file.watch.lock().observe(fingerprint);
            if is_due {
                self.reload().await;
            }
        }
    }

    fn known_token(&self, secret: &[u8]) -> Option<Grant> {
        let Reading { number, tokens } = self.token_file.as_ref()?.current.read().clone();
        let token = tokens.find(secret)?;
        let valid_until = match token.expires_at {
            None => Nanos::MAX,
            Some(at) => {
                let left = u64::try_from(at - i128::from(clock::wall_ns())).ok().filter(|left| *left > 0)?;
                clock::monotonic().saturating_add(left)
            }
        };
        let Token { identity, identity_url, authorizations, .. } = token.clone();
        Some(Grant { identity, identity_url, authorizations, valid_until, reading: Some(number) })
    }

    fn grant(&self, answer: AuthAnswer, asked_at: Nanos) -> Result<Grant, String> {
        let ttl = u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or_else(|| format!("invalid TTL {} (must be > 0)", answer.ttl))?;
        let authorizations = Authorization::compile_all(&answer.authorizations, &self.patterns);
        Ok(Grant {
            identity: answer.identity,
            identity_url: answer.identity_url,
            authorizations: authorizations.map_err(|error| error.to_string())?,
            valid_until: asked_at.saturating_add(clock::nanos(Duration::from_secs(ttl))),
            reading: None,
        })
    }
}

async fn read_tokens(path: &Path, patterns: &Patterns) -> Result<Tokens, TokenFileError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| TokenFileError::Unreadable { path: path.to_owned(), source })?;
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    let form = if is_json { Form::Json } else { Form::Toml };
    Tokens::parse(&text, form, patterns)
        .map_err(|source| TokenFileError::Invalid { path: path.to_owned(), source })
}
