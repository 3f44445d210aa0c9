//! `/config/:opt`: reads an option by its key in the config file. Two options can be changed while nsqd runs.

use std::path::Path;

use nsq_daemon::http::{BodyError, HttpError, Request, Response, response};
use nsq_daemon::listen::Address;
use nsq_daemon::log::Level;
use nsq_protocol::redact::shown_address;
use serde_json::{Value, json};

use super::HttpContext;
use super::stats::nanoseconds;
use crate::config::{Config, broadcast_port};
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

/// Options that can change or are known only at run time; [`set_at_start`] has the others.
fn value(context: &HttpContext, option: &str) -> Option<Value> {
    let config = &context.config;
    let value = match option {
        "log_level" => json!(context.logger.level() as u8),
        "nsqlookupd_tcp_addresses" => json!(context.lookupd_addresses.get()),
        "broadcast_tcp_port" => json!(broadcast_port(config.broadcast_tcp_port, context.tcp_port)),
        "broadcast_http_port" => json!(broadcast_port(config.broadcast_http_port, context.http_port)),
        "statsd_prefix" => {
            let port = broadcast_port(config.broadcast_http_port, context.http_port);
            json!(expand_prefix(&config.statsd.prefix, &config.broadcast_address, port))
        }
        option => return set_at_start(config, option),
    };
    Some(value)
}

fn set_at_start(config: &Config, option: &str) -> Option<Value> {
    let value = match option {
        "id" => json!(config.node_id),
        "log_prefix" => json!(config.log_prefix),
        "log_format" => json!(config.log_format.word()),
        "tcp_address" => json!(config.tcp_address.to_string()),
        "http_address" => json!(config.http_address.as_ref().map(Address::to_string).unwrap_or_default()),
        "unix_socket_mode" => {
            json!(config.unix_socket_mode.map(|mode| format!("{mode:04o}")).unwrap_or_default())
        }
        "https_address" => json!(config.https_address),
        "broadcast_address" => json!(config.broadcast_address),
        "auth_http_addresses" => {
            json!(config.auth_http_addresses.iter().map(|address| shown_address(address)).collect::<Vec<_>>())
        }
        "auth_http_request_method" => json!(config.auth_http_request_method.word()),
        "auth_file" => json!(config.auth_file.as_deref().map(Path::to_string_lossy).unwrap_or_default()),
        "http_auth" => json!(config.http_auth),
        "http_allowed_origins" => json!(config.http_allowed_origins.texts()),
        "shutdown_delay" => json!(nanoseconds(config.shutdown_delay)),
        "http_client_connect_timeout" => json!(nanoseconds(config.http_client_connect_timeout)),
        "http_client_request_timeout" => json!(nanoseconds(config.http_client_request_timeout)),
        "topology_region" => json!(config.topology_region),
        "topology_zone" => json!(config.topology_zone),
        "enable_experiment" => json!(config.enable_experiment),
        "data_path" => json!(config.data_path.to_string_lossy()),
        "durability" => json!(config.durability.to_string()),
        "mem_queue_size" => json!(config.mem_queue_size),
        "mem_queue_bytes" => json!(config.mem_queue_bytes),
        "max_bytes_per_file" => json!(config.max_bytes_per_file),
        "retain_for" => json!(nanoseconds(config.retain_for)),
        "retain_bytes" => json!(config.retain_bytes),
        "sync_every" => json!(config.sync_every),
        "sync_timeout" => json!(nanoseconds(config.sync_timeout)),
        "queue_scan_selection_count" => json!(config.queue_scan_selection_count),
        "queue_scan_worker_pool_max" => json!(config.queue_scan_worker_pool_max),
        "msg_timeout" => json!(nanoseconds(config.msg_timeout)),
        "max_msg_timeout" => json!(nanoseconds(config.max_msg_timeout)),
        "max_msg_size" => json!(config.max_msg_size),
        "max_body_size" => json!(config.max_body_size),
        "max_req_timeout" => json!(nanoseconds(config.max_req_timeout)),
        "max_heartbeat_interval" => json!(nanoseconds(config.max_heartbeat_interval)),
        "max_rdy_count" => json!(config.max_rdy_count),
        "max_output_buffer_size" => json!(config.max_output_buffer_size),
        "max_output_buffer_timeout" => json!(nanoseconds(config.max_output_buffer_timeout)),
        "min_output_buffer_timeout" => json!(nanoseconds(config.min_output_buffer_timeout)),
        "output_buffer_timeout" => json!(nanoseconds(config.output_buffer_timeout)),
        "max_channel_consumers" => json!(config.max_channel_consumers),
        "statsd_address" => json!(config.statsd.address),
        "statsd_interval" => json!(nanoseconds(config.statsd.interval)),
        "statsd_mem_stats" => json!(config.statsd.mem_stats),
        "statsd_udp_packet_size" => json!(config.statsd.udp_packet_size),
        "statsd_exclude_ephemeral" => json!(config.statsd.exclude_ephemeral),
        "metrics_max_series" => json!(config.metrics_max_series),
        "e2e_processing_latency_window_time" => json!(nanoseconds(config.e2e_processing_latency_window_time)),
        "e2e_processing_latency_percentiles" => json!(config.e2e_processing_latency_percentiles),
        "tls_cert" => json!(config.tls_cert),
        "tls_key" => json!(config.tls_key),
        "tls_client_auth_policy" => json!(config.tls_client_auth_policy),
        "tls_required" => json!(config.tls_required as u8),
        "tls_root_ca_file" => json!(config.tls_root_ca_file),
        "tls_min_version" => json!(config.tls_min_version as u16),
        "deflate" => json!(config.deflate),
        "max_deflate_level" => json!(config.max_deflate_level),
        "snappy" => json!(config.snappy),
        _ => return None,
    };
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::KEYS;

    /// The keys that [`value`] itself answers.
    const AT_RUN_TIME: [&str; 5] = [
        "log_level",
        "nsqlookupd_tcp_addresses",
        "broadcast_tcp_port",
        "broadcast_http_port",
        "statsd_prefix",
    ];

    #[test]
    fn every_config_file_key_can_be_read() {
        let config = Config::default();
        for key in KEYS {
            let is_known = AT_RUN_TIME.contains(&key.key) || set_at_start(&config, key.key).is_some();
            assert!(is_known, "{}", key.key);
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
