//! The HTTP API under the permissions of tokens: `--http-auth`. Without it everything is open, as in NSQ.
//!
//! A request brings its token as `Authorization: Bearer TOKEN`. What it must allow:
//!
//! | request | permission | topic and channel |
//! |---|---|---|
//! | `/ping` | none, not even a token | |
//! | `/info` | none, but a token | |
//! | `/pub`, `/mpub` | `publish` | the topic, no channel |
//! | `/topic/create` | `publish` or `admin` | the topic, no channel |
//! | `/channel/create` | `subscribe` or `admin` | topic and channel |
//! | `/topic/delete`, `empty`, `pause`, `unpause`, `retain` | `admin` | the topic, no channel |
//! | `/channel/delete`, `empty`, `pause`, `unpause`, `seek` | `admin` | topic and channel |
//! | `/stats` | `monitor` | those that are asked for; none for all ([`Scope`]) |
//! | `/metrics` | `monitor` | none |
//! | `/config/...`, `/debug/...` | `admin` | none |
//!
//! As when publishing, a pattern must match the empty text where there is no topic or no channel. `admin` includes
//! `monitor`. Without a good token the answer is 401 `UNAUTHORIZED`, without the permission 403 `FORBIDDEN`, and while
//! no auth server answers 503 `AUTH_UNAVAILABLE`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use nsq_daemon::http::{HttpError, Request, Response, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Route;
use crate::auth::{AuthError, Authenticator, Credentials, Grant, Permission};
use crate::clock;

/// So many grants are remembered.
const MAX_KNOWN: usize = 10_000;

/// See the module.
pub struct HttpAuth {
    authenticator: Arc<Authenticator>,
    /// Grants of tokens that came before, so that a server is asked once per token and lapse.
    known: Mutex<HashMap<Caller, Arc<Grant>>>,
}

/// What a grant was given for. The token itself is not kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    token_hash: [u8; 32],
    remote_ip: Option<IpAddr>,
    is_tls: bool,
    common_name: String,
}

/// What a permitted request may be shown of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Node,
    /// What belongs to the topic and channel that it asks for: nothing of connections that only use others, and nothing
    /// that is counted over all topics.
    Asked,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Who are you?
    Unauthorized,
    /// Not you.
    Forbidden,
    /// Nobody can say who you are.
    Unavailable,
    /// The query string cannot be read, so what it is about is unknown.
    InvalidRequest,
}

impl Refusal {
    /// The answer.
    pub fn into_response(self, request: &Request) -> Response {
        let error = match self {
            Self::Unauthorized => HttpError::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED"),
            Self::Forbidden => HttpError::new(StatusCode::FORBIDDEN, "FORBIDDEN"),
            Self::Unavailable => HttpError::unavailable("AUTH_UNAVAILABLE"),
            Self::InvalidRequest => HttpError::INVALID_REQUEST,
        };
        let mut response = error.into_response(request.encoding);
        if self == Self::Unauthorized {
            let scheme = http::HeaderValue::from_static("Bearer realm=\"nsqd\"");
            response.headers_mut().insert(http::header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// What an endpoint asks of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Token,
    /// One of these.
    Any(&'static [Permission], About),
}

/// What a permission must be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Node,
    Topic,
    Channel,
}

/// The table above.
fn need(route: Route) -> Need {
    use Permission::{Admin, Monitor, Publish, Subscribe};
    match route {
        Route::Ping => Need::Nothing,
        Route::Info => Need::Token,
        Route::Publish | Route::PublishMany => Need::Any(&[Publish], About::Topic),
        Route::TopicCreate => Need::Any(&[Publish, Admin], About::Topic),
        Route::ChannelCreate => Need::Any(&[Subscribe, Admin], About::Channel),
        Route::TopicDelete | Route::TopicEmpty | Route::TopicPause(_) | Route::TopicRetain => {
            Need::Any(&[Admin], About::Topic)
        }
        Route::ChannelDelete | Route::ChannelEmpty | Route::ChannelPause(_) | Route::ChannelSeek => {
            Need::Any(&[Admin], About::Channel)
        }
        Route::Stats => Need::Any(&[Monitor], About::Channel),
        Route::Metrics => Need::Any(&[Monitor], About::Node),
        Route::ConfigGet | Route::ConfigPut | Route::Pprof(_) | Route::SetBlockRate | Route::FreeMemory => {
            Need::Any(&[Admin], About::Node)
        }
    }
}

impl HttpAuth {
    /// With grants from here.
    pub fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator, known: Mutex::default() }
    }

    /// Refuses a request that its token does not allow.
    pub async fn permit(&self, route: Route, request: &Request) -> Result<Scope, Refusal> {
        let need = need(route);
        if need == Need::Nothing {
            return Ok(Scope::Asked);
        }
        let token = bearer_token(request).ok_or(Refusal::Unauthorized)?;
        let grant = self.grant(token, request).await?;
        let Need::Any(permissions, about) = need else { return Ok(Scope::Asked) };
        let query = request.query().map_err(|_| Refusal::InvalidRequest)?;
        let parameter = |key| query.get(key).unwrap_or_default();
        let topic = if about == About::Node { Default::default() } else { parameter("topic") };
        let channel = if about == About::Channel { parameter("channel") } else { Default::default() };
        let allows = |topic: &str, channel: &str| {
            permissions.iter().any(|permission| grant.allows(*permission, topic, channel))
        };
        if !allows(&topic, &channel) {
            return Err(Refusal::Forbidden);
        }
        Ok(if allows("", "") { Scope::Node } else { Scope::Asked })
    }

    async fn grant(&self, token: &[u8], request: &Request) -> Result<Arc<Grant>, Refusal> {
        let remote_ip = request.remote.ip();
        let caller = Caller {
            token_hash: Sha256::digest(token).into(),
            remote_ip,
            is_tls: request.tls.is_some(),
            common_name: request.tls.as_ref().map(|tls| tls.common_name.clone()).unwrap_or_default(),
        };
        let known = self.known.lock().get(&caller).cloned();
        if let Some(grant) = known.filter(|grant| self.authenticator.is_current(grant, clock::monotonic())) {
            return Ok(grant);
        }
        let credentials =
            Credentials { secret: token, remote_ip, is_tls: caller.is_tls, common_name: &caller.common_name };
        let grant = self.authenticator.authenticate(&credentials).await.map_err(|error| match error {
            AuthError::Unknown => Refusal::Unauthorized,
            AuthError::Unavailable => Refusal::Unavailable,
        })?;
        let grant = Arc::new(grant);
        let mut known = self.known.lock();
        if known.len() >= MAX_KNOWN {
            let now = clock::monotonic();
            known.retain(|_, grant| self.authenticator.is_current(grant, now));
            if known.len() >= MAX_KNOWN {
                known.clear();
            }
        }
        known.insert(caller, grant.clone());
        Ok(grant)
    }
}

/// The token of `Authorization: Bearer TOKEN`.
fn bearer_token(request: &Request) -> Option<&[u8]> {
    let value = request.headers.get(http::header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}
