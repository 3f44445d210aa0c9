//! IDENTIFY: what a client tells of itself, and what is agreed on.

use nsq_protocol::{ErrorCode, IdentifyLimits, IdentifyRequest, Negotiated, ProtocolError, negotiate};

use super::{Connection, End};
use crate::client_info::Identity;
use crate::clock::{self, Nanos};

/// What was agreed on for one connection.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How often it gets a heartbeat; liveness follows from it. None: never, and no deadlines.
    pub heartbeat_interval: Option<Nanos>,
    /// How long a message may be in flight to it.
    pub message_timeout: Nanos,
    /// Percent of messages that it wants; 0 means all.
    pub sample_rate: u8,
}

impl Settings {
    /// For a connection that never identifies itself.
    pub fn default_for(limits: &IdentifyLimits) -> Self {
        Settings {
            heartbeat_interval: Some(clock::nanos(limits.heartbeat_interval)),
            message_timeout: clock::nanos(limits.msg_timeout),
            sample_rate: 0,
        }
    }

    fn negotiated(negotiated: &Negotiated) -> Self {
        Settings {
            heartbeat_interval: negotiated.heartbeat_interval.map(clock::nanos),
            message_timeout: clock::nanos(negotiated.msg_timeout),
            sample_rate: negotiated.sample_rate,
        }
    }
}

impl Connection {
    /// Executes IDENTIFY. `output_buffer_size` and `_timeout` bound how long nsqd may hold messages back; we never
    /// hold any back, so that they are agreed on and have nothing to do.
    pub(super) fn identify(&mut self, body: &[u8]) -> Result<(), End> {
        let request = IdentifyRequest::parse(body)?;
        let negotiated = negotiate(&request, &self.context.identify)?;
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
        if negotiated.feature_negotiation {
            let reply = nsq_protocol::json::to_json(&negotiated.reply(&self.context.reply));
            let failed =
                |error| ProtocolError::new(ErrorCode::IdentifyFailed, format!("IDENTIFY failed {error}"));
            self.output.respond(&reply.map_err(failed)?);
        } else {
            self.output.ok(1);
        }
        let now = clock::monotonic();
        self.last_command_at = now;
        self.next_heartbeat = now.saturating_add(self.settings.heartbeat_interval.unwrap_or(0));
        self.arm_timer(now);
        Ok(())
    }
}
