//! AUTH, and whether a command is permitted.
//!
//! A connection keeps its grant and the topic that it was last allowed to publish to, so checking a publish costs two
//! comparisons. A command that needs an expired grant requests a new one, as in NSQ. A consumer that needs none
//! continues.

use nsq_protocol::{AuthReply, ErrorCode, ProtocolError, Verb, mpub_topic, quote};

use super::{Connection, End};
use crate::auth::{Credentials, Grant, Permission};
use crate::client_info::AuthIdentity;
use crate::clock;

/// Longest secret that a connection keeps, to limit its memory. When the grant for a longer one expires, the client
/// must reconnect and authenticate again.
const MAX_KEPT_SECRET_BYTES: usize = 64 * 1024;

/// The result of AUTH.
pub(super) struct AuthSession {
    /// Kept to request a new grant; `None` if it is longer than [`MAX_KEPT_SECRET_BYTES`], or if a request over HTTP
    /// authenticated the connection.
    secret: Option<Vec<u8>>,
    grant: Grant,
    /// The topic to which publishing is allowed while the grant is valid; empty for none.
    published_to: String,
}

impl Connection {
    /// Authenticates the connection before its first command. It then needs no AUTH, and cannot send one.
    pub fn authenticate_as(&mut self, grant: Grant) {
        self.info.authenticate(AuthIdentity {
            identity: grant.identity.clone(),
            identity_url: grant.identity_url.clone(),
        });
        self.auth_session = Some(Box::new(AuthSession { secret: None, grant, published_to: String::new() }));
    }

    /// Executes AUTH.
    pub(super) async fn authenticate(&mut self, secret: &[u8]) -> Result<(), End> {
        if self.auth_session.is_some() {
            return Err(ProtocolError::new(ErrorCode::Invalid, "AUTH already set").into());
        }
        if self.context.auth.is_none() {
            return Err(ProtocolError::new(ErrorCode::AuthDisabled, "AUTH disabled").into());
        }
        let grant = self.ask_for_grant(secret).await?;
        if grant.authorizations.is_empty() {
            let error = ProtocolError::new(ErrorCode::Unauthorized, "AUTH no authorizations found");
            return Err(error.into());
        }
        let reply = AuthReply {
            identity: grant.identity.clone(),
            identity_url: grant.identity_url.clone(),
            permission_count: i64::try_from(grant.authorizations.len()).unwrap_or(i64::MAX),
        };
        let failed = |error| ProtocolError::new(ErrorCode::AuthError, format!("AUTH error {error}"));
        self.output.respond(&nsq_protocol::json::to_json(&reply).map_err(failed)?);
        let secret = (secret.len() <= MAX_KEPT_SECRET_BYTES).then(|| secret.to_vec());
        self.auth_session = Some(Box::new(AuthSession { secret, grant, published_to: String::new() }));
        Ok(())
    }

    /// Whether publishing to a topic needs no further check. This is true for all publishes to a topic but the first.
    #[inline]
    pub(super) fn may_publish(&self, topic: &str) -> bool {
        match (&self.context.auth, &self.auth_session) {
            (None, _) => true,
            (Some(authenticator), Some(session)) => {
                session.published_to == topic && authenticator.is_current(&session.grant, clock::monotonic())
            }
            (Some(_), None) => false,
        }
    }

    /// Refuses commands that the grant does not allow; `channel` is empty for publishing. Requests a new grant if it
    /// has expired.
    pub(super) async fn authorize(&mut self, verb: Verb, topic: &str, channel: &str) -> Result<(), End> {
        let Some(authenticator) = self.context.auth.clone() else { return Ok(()) };
        let Some(mut session) = self.auth_session.take() else {
            let text = format!("AUTH required before {verb}");
            return Err(ProtocolError::new(ErrorCode::AuthFirst, text).into());
        };
        if !authenticator.is_current(&session.grant, clock::monotonic()) {
            let failed = || ProtocolError::new(ErrorCode::AuthFailed, "AUTH failed");
            let secret = session.secret.as_deref().ok_or_else(failed)?;
            let grant = self.ask_for_grant(secret).await?;
            session.grant = grant;
            session.published_to.clear();
        }
        let permission = if verb == Verb::Sub { Permission::Subscribe } else { Permission::Publish };
        if !session.grant.allows(permission, topic, channel) {
            let mut text = format!("AUTH failed for {verb} on ").into_bytes();
            text.extend_from_slice(&quote(topic.as_bytes()));
            text.push(b' ');
            text.extend_from_slice(&quote(channel.as_bytes()));
            return Err(ProtocolError::new(ErrorCode::Unauthorized, text).into());
        }
        if permission == Permission::Publish {
            topic.clone_into(&mut session.published_to);
        }
        self.auth_session = Some(session);
        Ok(())
    }

    /// Refuses an MPUB or MPUB_EXT that is not allowed before its body has arrived, whatever the body.
    pub(super) async fn authorize_before_body(&mut self, verb: Option<Verb>, data: &[u8]) -> Result<(), End> {
        if let Some(verb @ (Verb::Mpub | Verb::MpubExt)) = verb
            && let Some(topic) = mpub_topic(data, &self.context.limits)
            && !self.may_publish(topic)
        {
            self.authorize(verb, topic, "").await?;
        }
        Ok(())
    }

    async fn ask_for_grant(&self, secret: &[u8]) -> Result<Grant, End> {
        let failed = || ProtocolError::new(ErrorCode::AuthFailed, "AUTH failed");
        let authenticator = self.context.auth.as_ref().ok_or_else(failed)?;
        let tls = self.info.upgrades().tls;
        let credentials = Credentials {
            secret,
            remote_ip: self.info.remote_ip(),
            is_tls: tls.is_some(),
            common_name: tls.as_ref().map_or("", |tls| &tls.common_name),
        };
        let grant = authenticator.authenticate(&credentials).await.map_err(|_| failed())?;
        self.info.authenticate(AuthIdentity {
            identity: grant.identity.clone(),
            identity_url: grant.identity_url.clone(),
        });
        Ok(grant)
    }
}
