//! Protocol Buffers.

use bytes::Bytes;

use super::{CodecError, DecodeBody, EncodeBody};

/// A message of `prost` as Protocol Buffers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Proto<T>(pub T);

/// A message whose fields all have their defaults is empty, and nsqd refuses empty bodies.
impl<T: prost::Message> EncodeBody for Proto<T> {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        Ok(self.0.encode_to_vec().into())
    }
}

impl<T: prost::Message + Default> DecodeBody for Proto<T> {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        T::decode(body.clone()).map(Proto).map_err(|error| CodecError::new("Protocol Buffers message", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_return_from_their_bodies() {
        // Scalars are messages with one field: those of google.protobuf.StringValue and UInt32Value.
        let body = Proto("apple".to_owned()).encode_body().unwrap();
        assert_eq!(&body[..], b"\x0a\x05apple");
        assert_eq!(Proto::decode_body(&body), Ok(Proto("apple".to_owned())));
        assert!(Proto::<u32>::decode_body(&body).is_err(), "another type");
        assert!(Proto::<String>::decode_body(&Bytes::from_static(b"\x0a\x05app")).is_err(), "cut off");
    }
}
