//! Responses in NSQ's two styles: `v1` (raw text, nothing, or JSON; errors as `{"message":"<WORD>"}`) and `plain` (raw
//! text).

use std::borrow::Cow;
use std::convert::Infallible;

use bytes::Bytes;
use http::header::{ACCEPT, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::ext::ReasonPhrase;
use nsq_protocol::json::to_json;
use serde::Serialize;

use super::body::AnswerBody;

pub use http::header::CONTENT_TYPE;

/// An HTTP response.
pub type Response = http::Response<AnswerBody>;

/// The header of every `v1` response.
pub const NSQ_CONTENT_TYPE: HeaderName = HeaderName::from_static("x-nsq-content-type");
const NSQ_V1: HeaderValue = HeaderValue::from_static("nsq; version=1.0");
/// The content type of texts.
pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// The content type of JSON.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
/// The content type of JSON, one value on each line.
pub const JSON_LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson; charset=utf-8");
const MESSAGE_PACK: HeaderValue = HeaderValue::from_static("application/msgpack");

/// How to encode values that are more than text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// NSQ's encoding.
    #[default]
    Json,
    /// MessagePack with named fields, if the client accepts `application/msgpack`.
    MessagePack,
}

impl Encoding {
    /// The content type of this encoding.
    pub fn content_type(self) -> HeaderValue {
        match self {
            Self::Json => JSON,
            Self::MessagePack => MESSAGE_PACK,
        }
    }

    /// The encoding that the `Accept` headers request.
    pub fn accepted(headers: &HeaderMap) -> Self {
        let asked = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).any(|value| {
            value.split(',').any(|range| {
                let media_type = range.split(';').next().unwrap_or_default().trim();
                media_type.eq_ignore_ascii_case("application/msgpack")
            })
        });
        if asked { Self::MessagePack } else { Self::Json }
    }
}

/// `v1` success without a value: an empty body, and therefore no content type.
pub fn empty() -> Response {
    let mut response = Response::default();
    response.headers_mut().insert(NSQ_CONTENT_TYPE, NSQ_V1);
    response
}

/// `v1` success with a raw text.
pub fn text(text: impl Into<Bytes>) -> Response {
    let text = text.into();
    let mut response = empty();
    if !text.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, TEXT);
    }
    *response.body_mut() = text.into();
    response
}

/// `v1` success with an encoded value.
pub fn value<T: Serialize + ?Sized>(encoding: Encoding, value: &T) -> Response {
    with_value(StatusCode::OK, encoding, value)
}

/// A plain text without the `v1` header.
pub fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(AnswerBody::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

fn with_value<T: Serialize + ?Sized>(status: StatusCode, encoding: Encoding, value: &T) -> Response {
    let mut response = empty();
    match encoded(encoding, value) {
        Some(body) => {
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, encoding.content_type());
            *response.body_mut() = body.into();
        }
        // Reached only if the type's `Serialize` fails.
        None => {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response.headers_mut().insert(CONTENT_TYPE, JSON);
            *response.body_mut() = Bytes::from_static(br#"{"message":"INTERNAL_ERROR"}"#).into();
        }
    }
    response
}

/// `None` if the type's `Serialize` fails.
pub(super) fn encoded<T: Serialize + ?Sized>(encoding: Encoding, value: &T) -> Option<Vec<u8>> {
    match encoding {
        Encoding::Json => to_json(&value).ok(),
        Encoding::MessagePack => rmp_serde::to_vec_named(value).ok(),
    }
}

/// A refusal: a status, and a word by which clients distinguish refusals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {word}", status.as_u16())]
pub struct HttpError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The word, such as `TOPIC_NOT_FOUND`; the `message` of the response.
    pub word: Cow<'static, str>,
}

impl HttpError {
    /// `400 INVALID_REQUEST`: the query string or the body is unreadable.
    pub const INVALID_REQUEST: Self = Self::bad_request("INVALID_REQUEST");
    /// `404 NOT_FOUND`: no such route.
    pub const NOT_FOUND: Self = Self::not_found("NOT_FOUND");
    /// `503 BUSY`: too much work is in progress; try again later.
    pub const BUSY: Self = Self::unavailable("BUSY");
    /// `429 TOO_MANY_REQUESTS`: there is no room now; the response has `Retry-After`.
    pub const TOO_MANY_REQUESTS: Self = Self::new(StatusCode::TOO_MANY_REQUESTS, "TOO_MANY_REQUESTS");
    /// `500 INTERNAL_ERROR`: a fault in the daemon.
    pub const INTERNAL_ERROR: Self = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR");

    /// An error with this status and word.
    pub const fn new(status: StatusCode, word: &'static str) -> Self {
        Self { status, word: Cow::Borrowed(word) }
    }

    /// Status 400.
    pub const fn bad_request(word: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, word)
    }

    /// Status 404.
    pub const fn not_found(word: &'static str) -> Self {
        Self::new(StatusCode::NOT_FOUND, word)
    }

    /// Status 413.
    pub const fn too_large(word: &'static str) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, word)
    }

    /// Status 503.
    pub const fn unavailable(word: &'static str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, word)
    }

    /// The `v1` response: `{"message":"<WORD>"}`.
    pub fn into_response(self, encoding: Encoding) -> Response {
        #[derive(Serialize)]
        struct Message<'a> {
            message: &'a str,
        }
        let mut response = with_value(self.status, encoding, &Message { message: &self.word });
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            // The former name of status 413, which Go still sends.
            response.extensions_mut().insert(ReasonPhrase::from_static(b"Request Entity Too Large"));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            // Seconds.
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

impl From<super::InvalidQuery> for HttpError {
    fn from(_: super::InvalidQuery) -> Self {
        Self::INVALID_REQUEST
    }
}

impl From<Infallible> for HttpError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn body(response: Response) -> Bytes {
        response.into_body().collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn v1_content_type_depends_on_the_body() {
        let nothing = empty();
        assert_eq!(nothing.headers()[NSQ_CONTENT_TYPE], "nsq; version=1.0");
        assert!(!nothing.headers().contains_key(CONTENT_TYPE));
        assert!(!text("").headers().contains_key(CONTENT_TYPE));
        assert_eq!(text("OK").headers()[CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(body(text("OK")).await, "OK");
        let number = value(Encoding::Json, &7);
        assert_eq!(number.headers()[CONTENT_TYPE], "application/json; charset=utf-8");
        assert_eq!(body(number).await, "7");
    }

    #[tokio::test]
    async fn plain_responses_have_no_v1_header() {
        let response = plain(StatusCode::INTERNAL_SERVER_ERROR, "NOK - disk");
        assert_eq!(response.status(), 500);
        assert!(!response.headers().contains_key(NSQ_CONTENT_TYPE));
        assert_eq!(body(response).await, "NOK - disk");
    }

    #[tokio::test]
    async fn error_response_has_status_and_word() {
        let error = HttpError::too_large("MSG_TOO_BIG");
        assert_eq!(error.to_string(), "413 MSG_TOO_BIG");
        let response = error.clone().into_response(Encoding::Json);
        assert_eq!(response.status(), 413);
        assert_eq!(response.headers()[NSQ_CONTENT_TYPE], "nsq; version=1.0");
        assert_eq!(body(response).await, r#"{"message":"MSG_TOO_BIG"}"#);
        let packed = error.into_response(Encoding::MessagePack);
        assert_eq!(packed.headers()[CONTENT_TYPE], "application/msgpack");
        assert_eq!(body(packed).await, &b"\x81\xa7message\xabMSG_TOO_BIG"[..]);
    }

    #[test]
    fn message_pack_is_used_if_accepted() {
        let accepted = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            Encoding::accepted(&headers)
        };
        assert_eq!(accepted(&[]), Encoding::Json);
        assert_eq!(accepted(&["application/vnd.nsq; version=1.0"]), Encoding::Json);
        assert_eq!(accepted(&["*/*"]), Encoding::Json);
        assert_eq!(accepted(&["application/MsgPack;q=0.9"]), Encoding::MessagePack);
        assert_eq!(accepted(&["text/plain", "application/json, application/msgpack"]), Encoding::MessagePack);
    }
}
