//! `/config/:opt`: reads an option by its key in the config file. Two options can be changed while nsqd runs.

use nsq_daemon::http::{BodyError, HttpError, Request, Response, response};
use nsq_daemon::listen::Address;
use nsq_daemon::log::Level;
use nsq_protocol::redact::shown_address;
use serde_json::{Value, json};

use super::HttpContext;
use crate::config::{Config, broadcast_port};
use crate::flags;
use crate::statsd::expand_prefix;

const INVALID_OPTION: HttpError = HttpError::bad_request("INVALID_OPTION");
const INVALID_VALUE: HttpError = HttpError::bad_request("INVALID_VALUE");
const NO_VALUE: HttpError = HttpError::too_large("INVALID_VALUE");

/// `GET /config/:opt`: answers strings as plain text, everything else as JSON; durations in nanoseconds.
pub async fn get(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    request.body.discard().await?;
    answer(context, request)
}

/// `PUT /config/:opt`: sets the option to the body, and answers with the new value.
pub async fn put(context: &HttpContext, request: &mut Request) -> Result<Response, HttpError> {
    let body = request.body.read_limited(context.config.max_msg_size).await;
    let body = body.map_err(|error| match error {
        BodyError::TooBig => NO_VALUE,
        BodyError::Busy => HttpError::BUSY,
        BodyError::Unreadable(_) => HttpError::INTERNAL_ERROR,
    })?;
    if body.is_empty() {
        return Err(NO_VALUE);
    }
    match request.parameter.as_deref() {
        Some("nsqlookupd_tcp_addresses") => {
            let addresses = addresses(&body)?;
            let is_null = addresses.is_none();
            context.lookupd_addresses.set(addresses.unwrap_or_default());
            if is_null {
                return Ok(response::value(request.encoding, &Value::Null));
            }
        }
        Some("log_level") => context.logger.set_level(level(&body)?),
        _ => return Err(INVALID_OPTION),
    }
    answer(context, request)
}

fn answer(context: &HttpContext, request: &Request) -> Result<Response, HttpError> {
    let option = request.parameter.as_deref().unwrap_or_default();
    match value(context, option).ok_or(INVALID_OPTION)? {
        Value::String(text) => Ok(response::text(text)),
        value => Ok(response::value(request.encoding, &value)),
    }
}

/// Parses a JSON array of strings, or `null` for none.
fn addresses(body: &[u8]) -> Result<Option<Vec<String>>, HttpError> {
    serde_json::from_slice(body).map_err(|_| INVALID_VALUE)
}

/// Parses a log level without quotes.
fn level(body: &[u8]) -> Result<Level, HttpError> {
    std::str::from_utf8(body).ok().and_then(|word| word.parse().ok()).ok_or(INVALID_VALUE)
}

/// Options that change or are known only at run time. [`set_at_start`] has the others.
fn value(context: &HttpContext, option: &str) -> Option<Value> {
    let config = &context.config;
    let value = match option {
        "log_level" => json!(context.logger.level() as u8),
        "nsqlookupd_tcp_addresses" => json!(context.lookupd_addresses.get()),
        "broadcast_tcp_port" => json!(broadcast_port(config.broadcast_tcp_port, context.tcp_port)),
        "broadcast_http_port" => json!(broadcast_port(config.broadcast_http_port, context.http_port)),
        "statsd_prefix" => {
            let port = broadcast_port(config.broadcast_http_port, context.http_port);
            json!(expand_prefix(&config.statsd_prefix, &config.broadcast_address, port))
        }
        option => return set_at_start(config, option),
    };
    Some(value)
}

/// Flags are shown as typed, except those that the configuration completes and those with secrets.
fn set_at_start(config: &Config, option: &str) -> Option<Value> {
    let value = match option {
        "id" => json!(config.node_id),
        "http_address" => json!(config.http_address.as_ref().map(Address::to_string).unwrap_or_default()),
        "broadcast_address" => json!(config.broadcast_address),
        "auth_http_addresses" => {
            json!(config.auth_http_address.iter().map(|address| shown_address(address)).collect::<Vec<_>>())
        }
        "http_allowed_origins" => json!(config.http_allowed_origins.texts()),
        "http_cors_origins" => json!(config.http_cors_origins.texts()),
        "e2e_processing_latency_percentiles" => json!(config.e2e_processing_latency_percentiles),
        "tls_required" => json!(config.tls_required as u8),
        option => return flags::shown(config, option),
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_config_file_key_can_be_read() {
        let config = Config::default();
        for key in flags::keys() {
            assert!(set_at_start(&config, key.key).is_some(), "{}", key.key);
        }
        for unknown in ["node_id", "config", "version", "queue_scan_interval", ""] {
            assert_eq!(set_at_start(&config, unknown), None, "{unknown}");
        }
    }

    #[test]
    fn values_have_the_same_form_as_in_nsq() {
        let config = Config::default();
        assert_eq!(set_at_start(&config, "msg_timeout"), Some(json!(60_000_000_000_i64)));
        assert_eq!(set_at_start(&config, "tls_min_version"), Some(json!(769)));
        assert_eq!(set_at_start(&config, "http_address"), Some(json!("0.0.0.0:4151")));
    }

    #[test]
    fn put_values_are_parsed() {
        assert_eq!(addresses(b"[\"a:1\",\"b:2\"]").unwrap().unwrap(), ["a:1", "b:2"]);
        assert_eq!(addresses(b"null").unwrap(), None);
        assert!(addresses(b"a:1").is_err() && addresses(b"[1]").is_err());
        assert_eq!(level(b"DEBUG"), Ok(Level::Debug));
        for bad in [&b"warning"[..], b"2", b"info\n", b"\"info\"", b"\xff"] {
            assert_eq!(level(bad), Err(INVALID_VALUE));
        }
    }
}
