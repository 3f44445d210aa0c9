//! Headers within the body, for nsqds without headers of their own.

use std::collections::BTreeMap;

use bytes::Bytes;
use nsq_protocol::headers::{HeadersBuf, put_published, split_published};

use super::{CodecError, DecodeBody, EncodeBody};

/// 0xc1 begins no text, no JSON and no MessagePack. The last byte is the version.
const MAGIC: &[u8; 5] = b"\xc1nsq\x01";

/// A value with headers, within the body of the message: `c1 6e 73 71 01`, then headers and body as in PUB_EXT.
///
/// NSQ's own nsqd has no headers. Consumers that know the envelope see these with every nsqd; a body without an envelope has
/// none. With an nsqd of nsq-rs, [`NewMessage::header`](crate::NewMessage::header) is better: filters, order by key and
/// deduplication see those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope<B> {
    /// Names are as in [`Producer::publish_with_headers`](crate::Producer::publish_with_headers).
    pub headers: BTreeMap<String, String>,
    /// The value within.
    pub body: B,
}

impl<B> Envelope<B> {
    /// An envelope without headers.
    pub fn new(body: B) -> Self {
        Envelope { headers: BTreeMap::new(), body }
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.insert(name.into(), value.into());
        self
    }
}

impl<B: EncodeBody> EncodeBody for Envelope<B> {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        let pairs = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers = HeadersBuf::of_producer(pairs).map_err(|error| CodecError::new("envelope", error))?;
        let mut out = MAGIC.to_vec();
        put_published(&mut out, headers.as_headers(), &self.body.encode_body()?);
        Ok(out.into())
    }
}

impl<B: DecodeBody> DecodeBody for Envelope<B> {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        let Some(sealed) = body.strip_prefix(MAGIC) else { return B::decode_body(body).map(Envelope::new) };
        let (headers, inner) = split_published(sealed).map_err(|error| CodecError::new("envelope", error))?;
        let headers = headers.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        Ok(Envelope { headers, body: B::decode_body(&body.slice_ref(inner))? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Json, Text};
    use super::*;

    #[test]
    fn headers_travel_with_the_body_and_bodies_without_envelope_pass() {
        let order = Envelope::new(Json(3_u32)).header("trace", "7").header("tenant", "a \"b\"");
        let body = order.encode_body().unwrap();
        assert_eq!(Envelope::<Json<u32>>::decode_body(&body), Ok(order));
        let bare = Envelope::<Json<u32>>::decode_body(&"3".into()).unwrap();
        assert_eq!(bare, Envelope::new(Json(3)));
        let empty = Envelope::new(Text(String::new())).encode_body().unwrap();
        assert_eq!(Envelope::<Text>::decode_body(&empty), Ok(Envelope::new(Text(String::new()))));
    }

    #[test]
    fn damaged_envelopes_and_bad_names_are_errors() {
        let body = Envelope::new(Text("x".into())).header("a", "b").encode_body().unwrap();
        for end in MAGIC.len()..body.len() - 1 {
            assert!(Envelope::<Text>::decode_body(&body.slice(..end)).is_err(), "{end}");
        }
        let error = Envelope::new(Text("x".into())).header("a b", "c").encode_body().unwrap_err();
        assert!(error.to_string().contains("header name"), "{error}");
    }
}
