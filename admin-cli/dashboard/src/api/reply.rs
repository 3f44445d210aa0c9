//! Replies of the JSON API.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};

use crate::actions::Refusal;
use crate::upstream::Failed;

const NSQ_CONTENT_TYPE: HeaderName = HeaderName::from_static("x-nsq-content-type");

/// An error, as a status and a word.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub message: String,
    /// More fields.
    pub detail: Option<Value>,
}

impl ApiError {
    pub fn new(status: u16, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ApiError { status, message: message.into(), detail: None }
    }
}

impl From<Failed> for ApiError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Unknown => ApiError::new(404, "TOPIC_NOT_FOUND"),
            all => ApiError::new(502, format!("UPSTREAM_ERROR: {all}")),
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Forbidden => ApiError::new(403, "FORBIDDEN"),
            Refusal::Invalid(word) => ApiError::new(400, word),
            Refusal::NotFound(word) => ApiError::new(404, word),
            Refusal::Upstream(text) => ApiError::new(502, format!("UPSTREAM_ERROR: {text}")),
            Refusal::Audit(text) => ApiError::new(500, format!("AUDIT_FAILED: nothing was changed: {text}")),
            Refusal::Unconfirmed(plan) => {
                let message = "CONFIRMATION_REQUIRED: messages would be lost; repeat the name in confirm";
                let detail = serde_json::to_value(&plan).ok();
                ApiError { detail, ..ApiError::new(409, message) }
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "message": self.message });
        if let Some(detail) = self.detail {
            body["detail"] = detail;
        }
        reply(self.status, &body)
    }
}

/// A reply in JSON.
pub fn reply<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match nsq_protocol::json::to_json(body) {
        Ok(body) => {
            let headers = [
                (CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8")),
                (CACHE_CONTROL, HeaderValue::from_static("no-store")),
                (NSQ_CONTENT_TYPE, HeaderValue::from_static("nsq; version=1.0")),
            ];
            (status, headers, body).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

pub type ApiResult = Result<Response, ApiError>;

/// A successful reply.
pub fn ok<T: Serialize>(body: &T) -> ApiResult {
    Ok(reply(StatusCode::OK, body))
}

/// A reply with the field `message`: empty, or a warning.
pub fn with_message<T: Serialize>(body: &T, warnings: &[String]) -> ApiResult {
    let mut body = serde_json::to_value(body).map_err(|error| ApiError::new(500, error.to_string()))?;
    body["message"] = json!(warning(warnings));
    ok(&body)
}

/// The text of warnings; empty without any.
pub fn warning(warnings: &[String]) -> String {
    if warnings.is_empty() { String::new() } else { format!("WARNING: {}", warnings.join("; ")) }
}
