//! Pure: stored messages in the form of JSON answers.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nsq_protocol::{PeekedMessage, headers};

use crate::channel::peeking::Standing;
use crate::log::chunk;

/// The headers and the body of a stored message: as text, or in base64 if it is not UTF-8.
pub struct Content {
    pub headers: BTreeMap<String, String>,
    pub body: Option<String>,
    pub body_base64: Option<String>,
    pub body_bytes: usize,
}

/// The content of a stored frame.
pub fn content(frame: &[u8]) -> Content {
    let (headers, body) = headers::split_stored(frame).unwrap_or((None, &[]));
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    let body_bytes = body.len();
    let (body, body_base64) = match std::str::from_utf8(body) {
        Ok(body) => (Some(body.to_owned()), None),
        Err(_) => (None, Some(BASE64_STANDARD.encode(body))),
    };
    Content {
        headers: headers.map(|(key, value)| (key.into_owned(), value.into_owned())).collect(),
        body,
        body_base64,
        body_bytes,
    }
}

/// The id of a stored frame, as clients see it.
pub fn id(frame: &[u8]) -> String {
    chunk::id(frame).map(|id| format!("{id:016x}")).unwrap_or_default()
}

/// A stored message, without where it stands.
pub fn message(sequence: u64, frame: &[u8]) -> PeekedMessage {
    let Content { headers, body, body_base64, body_bytes } = content(frame);
    PeekedMessage {
        id: id(frame),
        sequence,
        timestamp: chunk::timestamp(frame).unwrap_or_default(),
        headers,
        body,
        body_base64,
        body_bytes: body_bytes as u64,
        ..PeekedMessage::default()
    }
}

/// The word for where a message stands. *Ahead* is part of `waiting`.
pub fn state(standing: &Standing) -> &'static str {
    match standing {
        Standing::Ahead | Standing::Waiting => "waiting",
        Standing::Deferred { .. } => "deferred",
        Standing::InFlight { .. } => "in_flight",
        Standing::SetAside(_) | Standing::Departing => "dead_letter_pending",
    }
}
