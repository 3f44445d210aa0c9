//! MessagePack.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{CodecError, DecodeBody, EncodeBody};

const FORMAT: &str = "MessagePack";

/// A value as MessagePack. Structs are maps with the names of their fields, so that fields can be added later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct MsgPack<T>(pub T);

impl<T: Serialize> EncodeBody for MsgPack<T> {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        rmp_serde::to_vec_named(&self.0).map(Bytes::from).map_err(|error| CodecError::new(FORMAT, error))
    }
}

/// Accepts structs as maps and as arrays. Bytes after the value are an error.
impl<T: DeserializeOwned> DecodeBody for MsgPack<T> {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        let mut rest = &body[..];
        let value = rmp_serde::from_read(&mut rest).map_err(|error| CodecError::new(FORMAT, error))?;
        match rest.len() {
            0 => Ok(MsgPack(value)),
            count => Err(CodecError::new(FORMAT, format!("{count} bytes after the value"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Order {
        fruit: String,
        count: u32,
    }

    #[test]
    fn values_return_and_arrays_are_accepted_too() {
        let order = MsgPack(Order { fruit: "apple".into(), count: 3 });
        let body = order.encode_body().unwrap();
        assert_eq!(&body[..], b"\x82\xa5fruit\xa5apple\xa5count\x03");
        assert_eq!(MsgPack::decode_body(&body), Ok(order));
        let array = Bytes::from_static(b"\x92\xa5apple\x03");
        assert_eq!(MsgPack::<Order>::decode_body(&array).unwrap().0.count, 3);
        for wrong in [&b"\x92\xa5apple"[..], b"\x92\xa5apple\x03\x03", b"\x01"] {
            let error = MsgPack::<Order>::decode_body(&Bytes::copy_from_slice(wrong)).unwrap_err();
            assert!(error.to_string().starts_with("not the expected MessagePack: "), "{error}");
        }
    }
}
