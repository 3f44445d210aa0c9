//! Requests to auth servers over HTTP: who owns a secret, and what it allows.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, LOCATION};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use nsq_daemon::tls::TlsError;
use nsq_protocol::AuthAnswer;
use nsq_protocol::json::{Reader, to_json};
use nsq_protocol::redact::{shown_address, split_user_info};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use serde::Serialize;

use super::Credentials;
use crate::https::{HttpsClient, HttpsOptions, root_cause};

/// Maximum size of an answer.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Maximum number of redirects per server.
const MAX_REDIRECTS: usize = 10;

/// The characters that a form keeps unencoded. A blank becomes `+`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// The HTTP method of requests to auth servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// Sends parameters in the query string.
    Get,
    /// Sends parameters as JSON in the body.
    Post,
}

impl AuthMethod {
    /// The value of `--auth-http-request-method`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

#[derive(Debug, Clone)]
pub struct AuthServersOptions {
    /// `host:port` or a complete URL of each server.
    pub addresses: Vec<String>,
    pub method: AuthMethod,
    pub https: HttpsOptions,
    /// Limit for a whole request, for each server.
    pub request_timeout: Duration,
}

/// The client for auth servers.
pub struct AuthServers {
    options: AuthServersOptions,
    client: HttpsClient,
}

/// Why no server gave a usable answer, for the log.
#[derive(Debug)]
pub struct AskFailure {
    /// The failure of each server.
    reasons: Vec<String>,
    /// Whether every server answered and refused the secret.
    pub is_refusal: bool,
}

impl fmt::Display for AskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons.join("; "))
    }
}

/// Why one server gave no usable answer. Never contains the secret.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("not a URL")]
    Address,
    #[error("{0}")]
    Http(String),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("answer is not valid JSON of the expected form")]
    Answer,
    #[error("too many redirects, or no Location header")]
    Redirect,
}

impl AuthServers {
    /// Sends no request yet.
    pub fn new(options: AuthServersOptions) -> Result<Self, TlsError> {
        Ok(Self { client: options.https.client()?, options })
    }

    /// Asks the servers in turn, beginning with a random one, until `read` accepts an answer. The error lists the
    /// failure of each server.
    pub async fn ask<T, E: fmt::Display>(
        &self,
        credentials: &Credentials<'_>,
        read: impl Fn(AuthAnswer) -> Result<T, E>,
    ) -> Result<T, AskFailure> {
        let addresses = &self.options.addresses;
        let start = if addresses.is_empty() { 0 } else { fastrand::usize(0..addresses.len()) };
        let mut failure = AskFailure { reasons: Vec::new(), is_refusal: true };
        for address in addresses[start..].iter().chain(&addresses[..start]) {
            let after = self.options.request_timeout;
            let answer = match tokio::time::timeout(after, self.ask_one(address, credentials)).await {
                Ok(answer) => answer,
                Err(_) => Err(AskError::TimedOut(after)),
            };
            failure.is_refusal &=
                matches!(answer, Err(AskError::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)));
            let accepted = match answer {
                Ok(answer) => read(answer).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match accepted {
                Ok(answer) => return Ok(answer),
                Err(reason) => failure.reasons.push(format!("{}: {reason}", shown_address(address))),
            }
        }
        Err(failure)
    }

    async fn ask_one(&self, address: &str, credentials: &Credentials<'_>) -> Result<AuthAnswer, AskError> {
        let mut target = endpoint(address);
        let mut method = Method::GET;
        let mut body = Bytes::new();
        match self.options.method {
            AuthMethod::Get => {
                target.push(if target.contains('?') { '&' } else { '?' });
                target.push_str(&form(credentials));
            }
            AuthMethod::Post => {
                method = Method::POST;
                body = json(credentials).into();
            }
        }
        let mut is_upgraded = false;
        for _ in 0..=MAX_REDIRECTS {
            let (user_info, bare) = split_user_info(&target);
            let uri: Uri = bare.parse().map_err(|_| AskError::Address)?;
            let basic = user_info.map(basic_authorization);
            let (status, location, answer) = self.exchange(method.clone(), uri, basic, body.clone()).await?;
            match status {
                StatusCode::OK => return AuthAnswer::parse(&answer).map_err(|_| AskError::Answer),
                StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT => {
                    target =
                        location.and_then(|location| join(&target, &location)).ok_or(AskError::Redirect)?;
                    let keeps_method =
                        matches!(status, StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT);
                    if !keeps_method {
                        method = Method::GET;
                        body = Bytes::new();
                    }
                }
                StatusCode::FORBIDDEN if !is_upgraded => {
                    target = https_instead(&target, &answer).ok_or(AskError::Status(status))?;
                    is_upgraded = true;
                }
                status => return Err(AskError::Status(status)),
            }
        }
        Err(AskError::Redirect)
    }

    async fn exchange(
        &self,
        method: Method,
        uri: Uri,
        basic: Option<String>,
        body: Bytes,
    ) -> Result<(StatusCode, Option<String>, Bytes), AskError> {
        let mut request =
            Request::builder().method(&method).uri(uri).header(ACCEPT, "application/vnd.nsq; version=1.0");
        if let Some(basic) = basic {
            request = request.header(AUTHORIZATION, basic);
        }
        if method == Method::POST {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::new(body)).map_err(|_| AskError::Address)?;
        let response = self.client.request(request).await;
        let response = response.map_err(|error| AskError::Http(root_cause(&error)))?;
        let status = response.status();
        let location =
            response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let answer = answer.map_err(|error| AskError::Http(root_cause(&*error)))?;
        Ok((status, location, answer.to_bytes()))
    }
}

/// Returns a URL unchanged; adds `http://` and `/auth` to a host and port.
fn endpoint(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}/auth") }
}

/// The `Authorization` header for the user and password of a URL.
fn basic_authorization(user_info: &str) -> String {
    let (user, password) = user_info.split_once(':').unwrap_or((user_info, ""));
    let mut plain: Vec<u8> = percent_decode_str(user).collect();
    plain.push(b':');
    plain.extend(percent_decode_str(password));
    format!("Basic {}", BASE64_STANDARD.encode(plain))
}

fn form(credentials: &Credentials<'_>) -> String {
    let encode = |bytes: &[u8]| percent_encode(bytes, FORM).to_string().replace(' ', "+");
    format!(
        "common_name={}&remote_ip={}&secret={}&tls={}",
        encode(credentials.common_name.as_bytes()),
        encode(credentials.remote_ip_text().as_bytes()),
        encode(credentials.secret),
        credentials.is_tls
    )
}

fn json(credentials: &Credentials<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Parameters<'a> {
        common_name: [&'a str; 1],
        remote_ip: [&'a str; 1],
        secret: [&'a str; 1],
        tls: [&'a str; 1],
    }
    let parameters = Parameters {
        common_name: [credentials.common_name],
        remote_ip: [&credentials.remote_ip_text()],
        secret: [&String::from_utf8_lossy(credentials.secret)],
        tls: [if credentials.is_tls { "true" } else { "false" }],
    };
    // Serializing strings cannot fail.
    to_json(&parameters).unwrap_or_default()
}

/// The URL that `location` refers to, relative to `target`.
fn join(target: &str, location: &str) -> Option<String> {
    let (scheme, rest) = target.split_once("://")?;
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    if location.contains("://") {
        Some(location.to_owned())
    } else if let Some(rest) = location.strip_prefix("//") {
        Some(format!("{scheme}://{rest}"))
    } else if location.starts_with('/') {
        Some(format!("{scheme}://{authority}{location}"))
    } else {
        let path = path.split('?').next().unwrap_or_default();
        let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
        Some(format!("{scheme}://{authority}{folder}{location}"))
    }
}

/// The https URL after NSQ's answer that TLS is required: a 403 whose body has the port.
fn https_instead(target: &str, answer: &[u8]) -> Option<String> {
    let rest = target.strip_prefix("http://")?;
    let mut port = None;
    let mut reader = Reader::new(answer);
    let read = reader.object(|key, value| {
        match key {
            "https_port" => port = value.integer()?,
            _ => value.skip()?,
        }
        Ok(())
    });
    read.ok()?;
    let port = u16::try_from(port?).ok()?;
    let (authority, path) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let host = match authority.rsplit_once(':') {
        Some((host, digits)) if !digits.contains(']') => host,
        _ => authority,
    };
    Some(format!("https://{host}:{port}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(secret: &'static [u8]) -> Credentials<'static> {
        Credentials { secret, remote_ip: Some([127, 0, 0, 1].into()), is_tls: false, common_name: "a b&c" }
    }

    #[test]
    fn host_and_port_become_a_url() {
        assert_eq!(endpoint("127.0.0.1:80"), "http://127.0.0.1:80/auth");
        assert_eq!(endpoint("https://a/x?y=1"), "https://a/x?y=1");
    }

    #[test]
    fn parameters_are_encoded_as_form_and_as_json() {
        assert_eq!(
            form(&credentials(b"a+b \xff/~")),
            "common_name=a+b%26c&remote_ip=127.0.0.1&secret=a%2Bb+%FF%2F~&tls=false"
        );
        let no_address = Credentials { remote_ip: None, is_tls: true, ..credentials(b"s") };
        assert_eq!(form(&no_address), "common_name=a+b%26c&remote_ip=&secret=s&tls=true");
        let expected =
            br#"{"common_name":["a b\u0026c"],"remote_ip":["127.0.0.1"],"secret":["s"],"tls":["false"]}"#;
        assert_eq!(json(&credentials(b"s")), expected);
    }

    #[test]
    fn user_and_password_of_a_url_become_basic_authorization() {
        assert_eq!(basic_authorization("Aladdin:open%20sesame"), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(basic_authorization("u"), "Basic dTo=");
    }

    #[test]
    fn redirects_resolve_relative_locations() {
        let from = "http://h:1/a/b?secret=s";
        assert_eq!(join(from, "https://x/y").unwrap(), "https://x/y");
        assert_eq!(join(from, "//x/y").unwrap(), "http://x/y");
        assert_eq!(join(from, "/y").unwrap(), "http://h:1/y");
        assert_eq!(join(from, "y?z").unwrap(), "http://h:1/a/y?z");
        assert_eq!(join("http://h:1", "y").unwrap(), "http://h:1/y");
    }

    #[test]
    fn forbidden_answer_can_name_the_https_port() {
        let answer = br#"{"message":"TLS_REQUIRED","https_port":4152}"#;
        assert_eq!(https_instead("http://h:1/a?b", answer).unwrap(), "https://h:4152/a?b");
        assert_eq!(https_instead("http://[::1]:1/a", answer).unwrap(), "https://[::1]:4152/a");
        assert_eq!(https_instead("https://h:1/a", answer), None);
        assert_eq!(https_instead("http://h:1/a", b"no"), None);
        assert_eq!(https_instead("http://h:1/a", b"{}"), None);
    }
}
