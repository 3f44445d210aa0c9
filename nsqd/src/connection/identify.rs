//! IDENTIFY: the client's information, and negotiation.

use std::time::Duration;

use nsq_protocol::compression::{Compressor, Decompressor};
use nsq_protocol::{
    ErrorCode, IdentifyLimits, IdentifyReply, IdentifyRequest, Negotiated, ProtocolError, StartAt, negotiate,
};

use super::{Connection, End};
use crate::client_info::Identity;
use crate::clock::{self, Nanos};

/// Negotiated settings of a connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Interval of heartbeats; liveness deadlines depend on it. `None`: no heartbeats and no deadlines.
    pub heartbeat_interval: Option<Nanos>,
    /// How long a message may be in flight.
    pub message_timeout: Nanos,
    /// Percentage of messages that the consumer wants; 0 means all.
    pub sample_rate: u8,
    /// Start of a channel that SUB creates.
    pub channel_start: StartAt,
    /// Whether messages are delivered with their headers.
    pub headers: bool,
    /// Whether a publish of one message is answered with its id.
    pub pub_ids: bool,
    /// Whether REJ is a command.
    pub reject: bool,
}

impl Settings {
    /// The settings of a connection that sends no IDENTIFY.
    pub fn default_for(limits: &IdentifyLimits) -> Self {
        Settings {
            heartbeat_interval: Some(clock::nanos(limits.heartbeat_interval)),
            message_timeout: clock::nanos(limits.msg_timeout),
            sample_rate: 0,
            channel_start: StartAt::Latest,
            headers: false,
            pub_ids: false,
            reject: false,
        }
    }

    fn negotiated(negotiated: &Negotiated) -> Self {
        Settings {
            heartbeat_interval: negotiated.heartbeat_interval.map(clock::nanos),
            message_timeout: clock::nanos(negotiated.msg_timeout),
            sample_rate: negotiated.sample_rate,
            channel_start: negotiated.channel_start.unwrap_or_default(),
            headers: negotiated.headers(),
            pub_ids: negotiated.pub_ids(),
            reject: negotiated.reject(),
        }
    }
}

/// Maximum time for the client to read pending responses before an upgrade.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

impl Connection {
    /// Executes IDENTIFY. Returns whether the byte stream was upgraded. `output_buffer_size` and
    /// `output_buffer_timeout` limit how long nsqd may hold messages back. This nsqd never does, so they are negotiated
    /// but have no effect.
    pub(super) async fn identify(&mut self, body: &[u8]) -> Result<bool, End> {
        let request = IdentifyRequest::parse(body)?;
        let negotiated = negotiate(&request, &self.offer())?;
        self.settings = Settings::negotiated(&negotiated);
        self.info.identify(Identity {
            client_id: negotiated.client_id.clone(),
            hostname: negotiated.hostname.clone(),
            user_agent: negotiated.user_agent.clone(),
            sample_rate: negotiated.sample_rate,
            topology_zone: negotiated.topology_zone.clone(),
            topology_region: negotiated.topology_region.clone(),
            locality: self
                .context
                .location
                .as_ref()
                .map(|location| location.locality(&negotiated.topology_region, &negotiated.topology_zone)),
        });
        let mut upgraded = false;
        if negotiated.feature_negotiation {
            let reply = match self.auth_session {
                None => nsq_protocol::json::to_json(&negotiated.reply(&self.context.reply)),
                // The request for the WebSocket has authenticated the client.
                Some(_) => {
                    let reply = IdentifyReply { auth_required: false, ..self.context.reply.clone() };
                    nsq_protocol::json::to_json(&negotiated.reply(&reply))
                }
            };
            self.output.respond(&reply.map_err(failed)?);
            upgraded = negotiated.tls_v1 || negotiated.snappy || negotiated.deflate;
            if upgraded {
                // Boxed: otherwise every connection would contain the memory that a handshake needs.
                Box::pin(self.upgrade(&negotiated)).await?;
            }
        } else {
            self.output.ok(1);
        }
        let now = clock::monotonic();
        self.last_command_at = now;
        self.next_heartbeat = now.saturating_add(self.settings.heartbeat_interval.unwrap_or(0));
        self.arm_timer(now);
        Ok(upgraded)
    }

    /// The features on offer: each upgrade only once per connection, and TLS only before compression.
    fn offer(&self) -> IdentifyLimits {
        let limits = &self.context.identify;
        let is_compressed = self.transport.is_compressed();
        IdentifyLimits {
            tls: limits.tls && self.transport.can_start_tls(),
            snappy: limits.snappy && !is_compressed,
            deflate: limits.deflate && !is_compressed,
            ..limits.clone()
        }
    }

    /// Upgrades the byte stream as negotiated. `OK` on the upgraded stream confirms each step.
    async fn upgrade(&mut self, negotiated: &Negotiated) -> Result<(), End> {
        if negotiated.tls_v1
            && let Some(tls) = self.context.tls.clone()
        {
            self.flush().await?;
            let session = self.transport.start_tls(tls.config()).await.map_err(failed)?;
            self.info.upgrade(|upgrades| upgrades.tls = Some(session));
            self.output.ok(1);
        }
        if negotiated.snappy || negotiated.deflate {
            self.flush().await?;
            let (compressor, decompressor) = match negotiated.snappy {
                true => (Compressor::snappy(), Decompressor::snappy()),
                false => (Compressor::deflate(negotiated.deflate_level), Decompressor::deflate()),
            };
            self.transport.start_compression(compressor, decompressor);
            self.info.upgrade(|upgrades| {
                upgrades.snappy = negotiated.snappy;
                upgrades.deflate = negotiated.deflate;
            });
            self.output.ok(1);
        }
        Ok(())
    }

    /// Writes all pending output to the stream as it is now.
    async fn flush(&mut self) -> Result<(), End> {
        match tokio::time::timeout(FLUSH_TIMEOUT, self.transport.write_all(self.output.pending())).await {
            Ok(written) => written.map_err(End::Io)?,
            Err(_) => return Err(End::Close),
        }
        self.output.consume(self.output.pending().len());
        Ok(())
    }
}

fn failed(error: impl std::fmt::Display) -> ProtocolError {
    ProtocolError::new(ErrorCode::IdentifyFailed, format!("IDENTIFY failed {error}"))
}
