//! The JSON form of a message, and its lease.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nsq_protocol::headers;
use serde::Serialize;

use super::wall_deadline;
use crate::clock::Nanos;
use crate::connection::consume::Subscription;
use crate::lease::{Lease, LeaseKey};
use crate::log::chunk;

/// A message as a client gets it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct TakenMessage {
    /// 16 hexadecimal digits.
    id: String,
    /// Names this delivery in `/channel/finish`, `requeue` and `touch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease: Option<String>,
    /// When the lease ends, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_deadline: Option<i64>,
    /// When the message was published, in nanoseconds since 1970.
    timestamp: i64,
    /// Number of deliveries, with this one.
    attempts: u16,
    headers: BTreeMap<String, String>,
    /// The body, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

/// What the leases of one take have in common.
pub(super) struct Leases<'a> {
    pub(super) key: &'a LeaseKey,
    pub(super) taken_at: Nanos,
    pub(super) timeout: Nanos,
}

impl TakenMessage {
    /// Reads a stored frame. `None` if it is malformed, which a channel never supplies.
    pub(super) fn new(
        frame: &[u8],
        subscription: &Subscription,
        leases: Option<&Leases<'_>>,
    ) -> Option<Self> {
        let id = chunk::id(frame)?;
        let (headers, body) = headers::split_stored(frame)?;
        let headers = headers.into_iter().flat_map(|headers| headers.iter());
        let (body, body_base64) = match std::str::from_utf8(body) {
            Ok(body) => (Some(body.to_owned()), None),
            Err(_) => (None, Some(BASE64_STANDARD.encode(body))),
        };
        let sequence = subscription.topic().log().sequence_of_id(id)?;
        Some(Self {
            id: format!("{id:016x}"),
            lease: leases.map(|leases| {
                leases.key.text(&Lease {
                    topic: subscription.topic().number(),
                    channel: subscription.channel.number(),
                    sequence,
                    delivered_at: leases.taken_at,
                    timeout_ms: u32::try_from(leases.timeout / 1_000_000).unwrap_or(u32::MAX),
                })
            }),
            lease_deadline: leases
                .map(|leases| wall_deadline(leases.taken_at.saturating_add(leases.timeout))),
            timestamp: chunk::timestamp(frame)?,
            attempts: chunk::attempts(frame)?,
            headers: headers.map(|(key, value)| (key.into_owned(), value.into_owned())).collect(),
            body,
            body_base64,
        })
    }

    /// Its id, 16 hexadecimal digits.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}
