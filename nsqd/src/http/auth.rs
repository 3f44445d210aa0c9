//! Permissions for the HTTP API: `--http-auth`. Without the flag every request is allowed, as in NSQ.
//!
//! A request carries its token as `Authorization: Bearer TOKEN`. The token must allow:
//!
//! | request | permission | topic and channel |
//! |---|---|---|
//! | `/ping` | none; needs no token | |
//! | `/info` | none; needs a valid token | |
//! | `/pub`, `/mpub` | `publish` | the topic, no channel |
//! | `/topic/create` | `publish` or `admin` | the topic, no channel |
//! | `/channel/create` | `subscribe` or `admin` | topic and channel |
//! | `/topic/delete`, `empty`, `pause`, `unpause`, `retain`, `set`, `undo` | `admin` | the topic, no channel |
//! | `/channel/delete`, `empty`, `pause`, `unpause`, `seek`, `set`, `undo` | `admin` | topic and channel |
//! | `/policy/explain` | `monitor` | topic and channel, if one is given |
//! | `/policy/test` | `monitor` | the topic, if one is given; no channel |
//! | `/topic/dead`, `GET /topic/redrive` | `monitor` | the topic, no channel |
//! | `/topic/dead/messages` | `subscribe` | the topic, channel `redrive`: bodies are data |
//! | `/topic/dead/delete`, `DELETE /topic/redrive` | `admin` | the topic, no channel |
//! | `POST /topic/redrive` | `admin` | the topic, no channel; with `to`, also `publish` or `admin` for that topic |
//! | `/channel/peek` | `read` | topic and channel: bodies are data |
//! | `/topic/peek` | `read` | the topic, no channel |
//! | `/message/cancel` | `admin` | the topic, and the channel if one is given |
//! | `/message/requeue` | `admin` | topic and channel |
//! | `/channel/why` | `monitor` | topic and channel |
//! | `/channel/adopt` | `adopt` | topic and channel; no channel for messages that no channel has |
//! | `/channel/take`, `finish`, `requeue`, `touch`, `events` | `subscribe` | topic and channel |
//! | `/ticket` | each requested right | topic and channel, if one is given |
//! | `/v2` | none; a valid token replaces AUTH | |
//! | `/stats` | `monitor` | the requested ones; none for all ([`Scope`]) |
//! | `/metrics` | `monitor` | none |
//! | `GET /config/drain` | `monitor` | none |
//! | other `/config/...`, `/debug/...` | `admin` | none |
//!
//! Instead of a token, `/channel/events` and `/v2` accept a ticket (`?ticket=`), which has the rights that it was requested with.
//!
//! Without a topic or channel, the pattern must match the empty string, as for publishing. `admin` includes `monitor`.
//! Errors: 401 `UNAUTHORIZED` without a valid token, 403 `FORBIDDEN` without the permission, 503 `AUTH_UNAVAILABLE`
//! while no auth server answers.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use nsq_daemon::http::{HttpError, Request, Response, StatusCode};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::Route;
use super::consume::tickets::{Ticket, TicketRequest, Tickets};
use crate::auth::{AuthError, Authenticator, Credentials, Grant, Permission};
use crate::clock;
use crate::topic::dead_lettering::REDRIVE_CHANNEL;

/// Maximum number of cached grants.
const MAX_KNOWN: usize = 10_000;

/// Checks the token of each HTTP request.
pub struct HttpAuth {
    authenticator: Arc<Authenticator>,
    /// Cached grants, so that each token is looked up once until its grant expires.
    known: Mutex<HashMap<Caller, Arc<Grant>>>,
}

/// The caller that a grant belongs to. The token itself is not stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Caller {
    token_hash: [u8; 32],
    remote_ip: Option<IpAddr>,
    is_tls: bool,
    common_name: String,
}

/// How much of the node's statistics a permitted request may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Node,
    /// Only the requested topic and channel: no connections that use only others, and no figures that cover all topics.
    Asked,
}

/// A request that may be answered.
pub struct Permitted {
    pub scope: Scope,
    /// What the token or ticket allows; `None` without one.
    pub grant: Option<Arc<Grant>>,
}

/// Checks the ticket or the token of a request. Without `auth`, every request is allowed.
pub async fn permit(
    auth: Option<&HttpAuth>,
    tickets: &Tickets,
    route: Route,
    request: &Request,
) -> Result<Permitted, Refusal> {
    if matches!(route, Route::ChannelEvents | Route::WebSocket) {
        let query = request.query().map_err(|_| Refusal::InvalidRequest)?;
        if let Some(text) = query.get("ticket") {
            let ticket = tickets.redeem(&text).ok_or(Refusal::Unauthorized)?;
            let parameter = |key| query.get(key).unwrap_or_default();
            let is_allowed = route == Route::WebSocket
                || ticket.allows(Permission::Subscribe, &parameter("topic"), &parameter("channel"));
            let Ticket { grant, .. } = ticket;
            let is_known = auth.is_none_or(|auth| {
                grant.as_ref().is_some_and(|grant| auth.authenticator.is_current(grant, clock::monotonic()))
            });
            return match (is_allowed, is_known) {
                (true, true) => Ok(Permitted { scope: Scope::Asked, grant }),
                (_, false) => Err(Refusal::Unauthorized),
                (false, true) => Err(Refusal::Forbidden),
            };
        }
    }
    match auth {
        None => Ok(Permitted { scope: Scope::Node, grant: None }),
        Some(auth) => auth.permit(route, request).await,
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or an unknown one.
    Unauthorized,
    /// The token lacks the permission.
    Forbidden,
    /// No auth server has a usable answer.
    Unavailable,
    /// The query string is invalid, so topic and channel are unknown.
    InvalidRequest,
}

impl Refusal {
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

/// What an endpoint requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    Token,
    /// One of these permissions.
    Any(&'static [Permission], About),
}

/// What a permission must cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum About {
    Node,
    Topic,
    Channel,
    /// The channel of a dead-letter topic that holds the dead letters.
    DeadLetters,
}

/// The table in the module documentation.
fn need(route: Route) -> Need {
    use Permission::{Admin, Adopt, Monitor, Publish, Read, Subscribe};
    match route {
        Route::Ping => Need::Nothing,
        Route::Info => Need::Token,
        Route::Publish | Route::PublishMany => Need::Any(&[Publish], About::Topic),
        Route::TopicCreate => Need::Any(&[Publish, Admin], About::Topic),
        Route::ChannelCreate => Need::Any(&[Subscribe, Admin], About::Channel),
        Route::TopicDelete
        | Route::TopicEmpty
        | Route::TopicPause(_)
        | Route::TopicRetain
        | Route::TopicSet
        | Route::TopicUndo
        | Route::DeadDelete
        | Route::RedriveStart
        | Route::RedriveStop => Need::Any(&[Admin], About::Topic),
        Route::ChannelDelete
        | Route::ChannelEmpty
        | Route::ChannelPause(_)
        | Route::ChannelSeek
        | Route::MessageCancel
        | Route::MessageRequeue
        | Route::ChannelUndo
        | Route::ChannelSet => Need::Any(&[Admin], About::Channel),
        Route::ChannelAdopt => Need::Any(&[Adopt], About::Channel),
        Route::ChannelPeek => Need::Any(&[Read], About::Channel),
        Route::TopicPeek => Need::Any(&[Read], About::Topic),
        Route::Stats | Route::PolicyExplain | Route::ChannelWhy => Need::Any(&[Monitor], About::Channel),
        Route::PolicyTest | Route::DeadLetters | Route::RedriveGet => Need::Any(&[Monitor], About::Topic),
        Route::DeadMessages => Need::Any(&[Subscribe], About::DeadLetters),
        Route::ChannelTake
        | Route::ChannelFinish
        | Route::ChannelRequeue
        | Route::ChannelTouch
        | Route::ChannelEvents => Need::Any(&[Subscribe], About::Channel),
        // `permit` checks the requested rights.
        Route::Ticket => Need::Token,
        // The connection checks each command, as over TCP.
        Route::WebSocket => Need::Nothing,
        Route::Metrics | Route::DrainGet => Need::Any(&[Monitor], About::Node),
        Route::DrainBegin | Route::DrainEnd => Need::Any(&[Admin], About::Node),
        Route::ConfigGet | Route::ConfigPut | Route::Pprof(_) | Route::SetBlockRate | Route::FreeMemory => {
            Need::Any(&[Admin], About::Node)
        }
    }
}

impl HttpAuth {
    pub fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator, known: Mutex::default() }
    }

    /// Refuses a request that its token does not allow.
    async fn permit(&self, route: Route, request: &Request) -> Result<Permitted, Refusal> {
        let need = need(route);
        let token = match (need, bearer_token(request)) {
            (Need::Nothing, Some(token)) if route == Route::WebSocket => token,
            (Need::Nothing, _) => return Ok(Permitted { scope: Scope::Asked, grant: None }),
            (_, token) => token.ok_or(Refusal::Unauthorized)?,
        };
        let grant = self.grant(token, request).await?;
        let scope = Self::scope(route, need, &grant, request)?;
        Ok(Permitted { scope, grant: Some(grant) })
    }

    fn scope(route: Route, need: Need, grant: &Grant, request: &Request) -> Result<Scope, Refusal> {
        let query = request.query().map_err(|_| Refusal::InvalidRequest)?;
        if route == Route::Ticket
            && let Ok(asked) = TicketRequest::parse(&query)
            && !asked.is_allowed_by(grant)
        {
            return Err(Refusal::Forbidden);
        }
        let Need::Any(permissions, about) = need else { return Ok(Scope::Asked) };
        let parameter = |key| query.get(key).unwrap_or_default();
        let topic = if about == About::Node { Default::default() } else { parameter("topic") };
        let channel = match about {
            About::Channel => parameter("channel"),
            About::DeadLetters => Cow::Borrowed(REDRIVE_CHANNEL),
            About::Node | About::Topic => Cow::Borrowed(""),
        };
        let allows = |topic: &str, channel: &str| {
            permissions.iter().any(|permission| grant.allows(*permission, topic, channel))
        };
        if !allows(&topic, &channel) {
            return Err(Refusal::Forbidden);
        }
        if route == Route::RedriveStart
            && let Some(to) = query.get("to")
        {
            let topic = to.split('/').next().unwrap_or_default();
            let may_publish =
                [Permission::Publish, Permission::Admin].iter().any(|kind| grant.allows(*kind, topic, ""));
            if !may_publish {
                return Err(Refusal::Forbidden);
            }
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
