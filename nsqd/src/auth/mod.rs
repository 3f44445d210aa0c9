//! Authorization: exchanges a secret for a [`Grant`].
//!
//! Grants come from the token file if it contains the secret, else from auth servers. A grant expires; its user then
//! requests a new one. Nothing is renewed in the background. Connections keep their grant (`connection::auth`); the
//! HTTP API caches grants by secret (`http::auth`).
//!
//! - [`pattern`]: pure; regular expressions in Go's dialect
//! - [`grant`]: pure; permissions, and what a grant allows
//! - [`tokens`]: pure; the token file
//! - [`servers`]: requests to auth servers
//! - this file: [`Authenticator`], which combines them

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
use nsq_daemon::watched_file::{FileError, WatchedFile};
use nsq_protocol::AuthAnswer;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use self::grant::{Authorization, InvalidAuthorization};
pub use self::grant::{Grant, Permission};
use self::pattern::Patterns;
use self::servers::{AuthServers, AuthServersOptions};
use self::tokens::{Form, InvalidTokens, Token, Tokens};
use crate::clock::{self, Nanos};

/// The parameters of a request to an auth server.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The secret that the client sent; opaque.
    pub secret: &'a [u8],
    /// The client's address; `None` on a unix socket.
    pub remote_ip: Option<IpAddr>,
    /// Whether the connection uses TLS.
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
    /// Neither the token file nor an auth server knows the secret.
    Unknown,
    /// No auth server gave a usable answer.
    Unavailable,
}

/// The sources of grants.
#[derive(Debug, Clone, Default)]
pub struct AuthOptions {
    pub token_file: Option<PathBuf>,
    pub servers: Option<AuthServersOptions>,
}

/// Looks up grants in the token file and at auth servers.
pub struct Authenticator {
    token_file: Option<TokenFile>,
    servers: Option<AuthServers>,
    patterns: Patterns,
    logger: Logger,
}

struct TokenFile {
    file: WatchedFile,
    current: RwLock<Reading>,
}

/// The last valid contents of the file; each reading has its own number.
#[derive(Clone)]
struct Reading {
    number: u64,
    tokens: Arc<Tokens>,
}

/// Why the authenticator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The token file cannot be used.
    #[error("failed to read --auth-file - {0}")]
    TokenFile(#[from] FileError<InvalidTokens>),
    /// The certificates for auth servers cannot be used.
    #[error("failed to build TLS config - {0}")]
    Tls(#[from] TlsError),
}

impl Authenticator {
    /// Reads the token file; contacts no server. `None` without token file and servers: then no secret is required.
    pub async fn new(options: AuthOptions, logger: Logger) -> Result<Option<Self>, StartError> {
        if options.token_file.is_none() && options.servers.is_none() {
            return Ok(None);
        }
        let patterns = Patterns::default();
        let token_file = match options.token_file {
            None => None,
            Some(path) => {
                let form = form_of(&path);
                let (file, tokens) =
                    WatchedFile::open(path, |text| Tokens::parse(text, form, &patterns)).await?;
                nsq_daemon::info!(logger, "AUTH: {} tokens from {}", tokens.len(), file.path().display());
                let current = RwLock::new(Reading { number: 0, tokens: Arc::new(tokens) });
                Some(TokenFile { file, current })
            }
        };
        let servers = options.servers.map(AuthServers::new).transpose()?;
        Ok(Some(Self { token_file, servers, patterns, logger }))
    }

    /// Returns the grant of a secret, which may allow nothing. Logs failures. Dropping the future loses nothing.
    pub async fn authenticate(&self, credentials: &Credentials<'_>) -> Result<Grant, AuthError> {
        if let Some(grant) = self.known_token(credentials.secret) {
            return Ok(grant);
        }
        let Some(servers) = &self.servers else {
            nsq_daemon::error!(self.logger, "AUTH: unknown token from {}", credentials.remote_ip_text());
            return Err(AuthError::Unknown);
        };
        let asked_at = clock::monotonic();
        let answered = servers.ask(credentials, |answer| self.grant(answer, asked_at)).await;
        answered.map_err(|failure| {
            nsq_daemon::error!(self.logger, "AUTH: no auth server answers - {failure}");
            if failure.is_refusal { AuthError::Unknown } else { AuthError::Unavailable }
        })
    }

    /// Whether a grant is still valid.
    pub fn is_current(&self, grant: &Grant, now: Nanos) -> bool {
        now < grant.valid_until
            && grant.reading.is_none_or(|number| {
                self.token_file.as_ref().is_some_and(|file| file.current.read().number == number)
            })
    }

    /// Reads the token file now. If it cannot be used, logs the reason and keeps the current tokens.
    pub async fn reload(&self) {
        let Some(TokenFile { file, current }) = &self.token_file else { return };
        let form = form_of(file.path());
        match file.read(|text| Tokens::parse(text, form, &self.patterns)).await {
            None => {}
            Some(Ok(tokens)) => {
                let count = tokens.len();
                {
                    let mut current = current.write();
                    *current = Reading { number: current.number + 1, tokens: Arc::new(tokens) };
                }
                // Logged once the tokens are in use: tests and operators may wait for this line.
                nsq_daemon::info!(self.logger, "AUTH: {count} tokens from {}", file.path().display());
            }
            Some(Err(error)) => {
                nsq_daemon::error!(self.logger, "AUTH: keeping the current tokens - {error}");
            }
        }
    }

    /// Reads the token file whenever it changes, until `stop` is cancelled.
    pub async fn watch(&self, stop: CancellationToken) {
        let Some(TokenFile { file, .. }) = &self.token_file else { return };
        loop {
            tokio::select! {
                () = file.changed() => self.reload().await,
                () = stop.cancelled() => return,
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

    fn grant(&self, answer: AuthAnswer, asked_at: Nanos) -> Result<Grant, UnusableAnswer> {
        let ttl = u64::try_from(answer.ttl).ok().filter(|ttl| *ttl > 0);
        let ttl = ttl.ok_or(UnusableAnswer::Ttl(answer.ttl))?;
        Ok(Grant {
            identity: answer.identity,
            identity_url: answer.identity_url,
            authorizations: Authorization::compile_all(&answer.authorizations, &self.patterns)?,
            valid_until: asked_at.saturating_add(clock::nanos(Duration::from_secs(ttl))),
            reading: None,
        })
    }
}

/// Why the answer of an auth server grants nothing.
#[derive(Debug, thiserror::Error)]
enum UnusableAnswer {
    #[error("invalid TTL {0} (must be > 0)")]
    Ttl(i64),
    #[error(transparent)]
    Authorization(#[from] InvalidAuthorization),
}

fn form_of(path: &Path) -> Form {
    let is_json = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
    if is_json { Form::Json } else { Form::Toml }
}
