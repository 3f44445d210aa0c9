//! Values as bodies of messages: [`Json`], [`Text`], with features [`MsgPack`](crate::MsgPack) and [`Proto`](crate::Proto), and
//! [`Envelope`] around one of them.
//!
//! ```
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use nsq::{DecodeBody, Json, NewMessage};
//!
//! let message = NewMessage::encode(&Json(("apple", 3)))?.header("trace", "7");
//! let Json((fruit, count)) = Json::<(String, u32)>::decode_body(&"[\"apple\",3]".into())?;
//! # Ok(())
//! # }
//! ```
//!
//! A handler takes them as arguments: see [`arguments`](crate::arguments). A form of your own implements [`EncodeBody`] and
//! [`DecodeBody`].

mod envelope;
#[cfg(feature = "msgpack")]
mod msgpack;
#[cfg(feature = "proto")]
mod proto;

use bytes::Bytes;
pub use envelope::Envelope;
#[cfg(feature = "msgpack")]
pub use msgpack::MsgPack;
#[cfg(feature = "proto")]
pub use proto::Proto;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A value that can be the body of a message.
pub trait EncodeBody {
    /// Returns the body. nsqd refuses an empty one.
    fn encode_body(&self) -> Result<Bytes, CodecError>;
}

/// A value that is read from the body of a message.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be read from the body of a message",
    note = "wrap it: `nsq::Json<{Self}>` if it implements `serde::Deserialize` and owns its data, or implement `nsq::DecodeBody`"
)]
pub trait DecodeBody: Sized {
    /// Reads the value.
    fn decode_body(body: &Bytes) -> Result<Self, CodecError>;
}

/// A value has no form as a body, or a body does not hold the expected value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not the expected {format}: {reason}")]
pub struct CodecError {
    format: &'static str,
    reason: String,
}

impl CodecError {
    /// An error in a form with this name, such as `JSON`.
    pub fn new(format: &'static str, reason: impl ToString) -> Self {
        CodecError { format, reason: reason.to_string() }
    }
}

/// A value as JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Json<T>(pub T);

impl<T: Serialize> EncodeBody for Json<T> {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        serde_json::to_vec(&self.0).map(Bytes::from).map_err(|error| CodecError::new("JSON", error))
    }
}

impl<T: DeserializeOwned> DecodeBody for Json<T> {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        serde_json::from_slice(body).map(Json).map_err(|error| CodecError::new("JSON", error))
    }
}

/// A text as UTF-8.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text(pub String);

impl EncodeBody for Text {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        Ok(Bytes::copy_from_slice(self.0.as_bytes()))
    }
}

impl DecodeBody for Text {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        let text = std::str::from_utf8(body).map_err(|error| CodecError::new("text", error))?;
        Ok(Text(text.to_owned()))
    }
}

/// The bytes as they are.
impl EncodeBody for Bytes {
    fn encode_body(&self) -> Result<Bytes, CodecError> {
        Ok(self.clone())
    }
}

/// The bytes as they are.
impl DecodeBody for Bytes {
    fn decode_body(body: &Bytes) -> Result<Self, CodecError> {
        Ok(body.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_return_from_their_bodies() {
        let body = Json(("apple", 3)).encode_body().unwrap();
        assert_eq!(&body[..], b"[\"apple\",3]");
        assert_eq!(Json::decode_body(&body), Ok(Json(("apple".to_owned(), 3))));
        let text = Text("ümlaut".into());
        assert_eq!(Text::decode_body(&text.encode_body().unwrap()), Ok(text));
        let raw = Bytes::from_static(&[0xff, 0]);
        assert_eq!(Bytes::decode_body(&raw.encode_body().unwrap()), Ok(raw));
    }

    #[test]
    fn other_bodies_are_errors_that_name_the_form() {
        let error = Json::<u32>::decode_body(&"x".into()).unwrap_err();
        assert!(error.to_string().starts_with("not the expected JSON: "), "{error}");
        assert!(Text::decode_body(&Bytes::from_static(&[0xff])).is_err());
        let keys = std::collections::BTreeMap::from([((1, 2), 3)]);
        assert!(Json(keys).encode_body().is_err(), "keys of JSON are texts");
    }
}
