//! Pure: leases, which clients without a connection get for messages.
//!
//! A lease names a channel and one delivery of a message. nsqd does not store it: the channel knows which messages are in
//! flight since when. A lease carries a check value, made with a key that each start of nsqd chooses at random. So a lease is
//! not made up by accident, and those of an earlier start are invalid.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::clock::Nanos;
use crate::storage::{ChannelNumber, TopicNumber};

/// One delivery of a message to a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub topic: TopicNumber,
    pub channel: ChannelNumber,
    pub sequence: u64,
    /// When the message was handed out.
    pub delivered_at: Nanos,
    /// How long the message is in flight without TOUCH, in milliseconds.
    pub timeout_ms: u32,
}

/// Makes and reads leases.
pub struct LeaseKey([u8; KEY_BYTES]);

/// Length of a key.
pub const KEY_BYTES: usize = 32;
const FIELDS_BYTES: usize = 4 + 4 + 8 + 8 + 4;
const CHECK_BYTES: usize = 14;
const LEASE_BYTES: usize = FIELDS_BYTES + CHECK_BYTES;

/// Length of a lease as text.
pub const LEASE_LEN: usize = LEASE_BYTES / 3 * 4;

const _: () = assert!(LEASE_BYTES.is_multiple_of(3), "the text needs no padding");

impl LeaseKey {
    /// `key` must be random.
    pub fn new(key: [u8; KEY_BYTES]) -> Self {
        Self(key)
    }

    /// The lease as text: 56 letters, digits, `-` and `_`.
    pub fn text(&self, lease: &Lease) -> String {
        let fields = lease.fields();
        let mut bytes = [0; LEASE_BYTES];
        bytes[..FIELDS_BYTES].copy_from_slice(&fields);
        bytes[FIELDS_BYTES..].copy_from_slice(&self.check(&fields));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// `None` if this key did not make the text.
    pub fn read(&self, text: &str) -> Option<Lease> {
        let mut bytes = [0; LEASE_BYTES];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        let (fields, check) = bytes.split_first_chunk::<FIELDS_BYTES>()?;
        let is_ours = length == LEASE_BYTES && bool::from(self.check(fields).ct_eq(check));
        is_ours.then(|| Lease::of_fields(fields)).flatten()
    }

    /// The fields have a fixed length, so this is as good as an HMAC.
    fn check(&self, fields: &[u8; FIELDS_BYTES]) -> [u8; CHECK_BYTES] {
        let hash = Sha256::new().chain_update(self.0).chain_update(fields).finalize();
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(&hash[..CHECK_BYTES]);
        check
    }
}

impl Lease {
    fn fields(&self) -> [u8; FIELDS_BYTES] {
        let mut fields = [0; FIELDS_BYTES];
        fields[..4].copy_from_slice(&self.topic.0.to_be_bytes());
        fields[4..8].copy_from_slice(&self.channel.0.to_be_bytes());
        fields[8..16].copy_from_slice(&self.sequence.to_be_bytes());
        fields[16..24].copy_from_slice(&self.delivered_at.to_be_bytes());
        fields[24..].copy_from_slice(&self.timeout_ms.to_be_bytes());
        fields
    }

    fn of_fields(fields: &[u8; FIELDS_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| Some(u32::from_be_bytes(*fields.get(at..)?.first_chunk()?));
        let u64_at = |at: usize| Some(u64::from_be_bytes(*fields.get(at..)?.first_chunk()?));
        Some(Lease {
            topic: TopicNumber(u32_at(0)?),
            channel: ChannelNumber(u32_at(4)?),
            sequence: u64_at(8)?,
            delivered_at: u64_at(16)?,
            timeout_ms: u32_at(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Lease = Lease {
        topic: TopicNumber(3),
        channel: ChannelNumber(70_000),
        sequence: 1 << 50,
        delivered_at: 123_456_789,
        timeout_ms: 60_000,
    };

    #[test]
    fn text_names_the_delivery() {
        let key = LeaseKey::new([7; KEY_BYTES]);
        let text = key.text(&LEASE);
        assert_eq!(text.len(), LEASE_LEN);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{text}");
        assert_eq!(key.read(&text), Some(LEASE));
        assert_ne!(key.text(&Lease { delivered_at: 123_456_790, ..LEASE }), text);
    }

    #[test]
    fn changed_text_is_no_lease() {
        let key = LeaseKey::new([7; KEY_BYTES]);
        let text = key.text(&LEASE);
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert_eq!(key.read(std::str::from_utf8(&changed).unwrap()), None, "{at}");
        }
        for bad in
            ["", "A", &text[1..], &format!("{text}A"), &format!("{text}="), &text.replace(&text[..1], "ä")]
        {
            assert_eq!(key.read(bad), None, "{bad}");
        }
    }

    #[test]
    fn lease_of_another_start_is_invalid() {
        let text = LeaseKey::new([7; KEY_BYTES]).text(&LEASE);
        assert_eq!(LeaseKey::new([8; KEY_BYTES]).read(&text), None);
    }
}
