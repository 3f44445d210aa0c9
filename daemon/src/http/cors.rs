//! Lets pages of configured origins read responses (CORS). Pure.
//!
//! Only endpoints that are marked for it ([`Access::cors`](super::router::Access)) take part. Credentials that a browser adds by
//! itself, such as cookies, are never allowed: a page sends its token in a header that it sets.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue};

use super::origin::Origin;

/// How long a browser may remember the answer to its question, in seconds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Headers of responses that pages may read, beside those that they may always read.
const EXPOSED: HeaderValue = HeaderValue::from_static("Retry-After");

/// The origins whose pages may read responses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CorsOrigins {
    /// The origins as configured.
    texts: Vec<String>,
    origins: Vec<Origin>,
}

/// An unusable value of `--http-cors-origin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin; name each origin as scheme://host or scheme://host:port without a path, such as \
     https://app.example.com"
)]
pub struct InvalidCorsOrigin(pub String);

impl CorsOrigins {
    /// Each must be `scheme://host` or `scheme://host:port`; `*` is not allowed.
    pub fn new(origins: &[String]) -> Result<Self, InvalidCorsOrigin> {
        let parse = |text: &String| {
            let has_wildcard = text.contains('*');
            Origin::parse(text).filter(|_| !has_wildcard).ok_or_else(|| InvalidCorsOrigin(text.clone()))
        };
        let parsed = origins.iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { texts: origins.to_vec(), origins: parsed })
    }

    /// The origins as configured.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// The origin of the request's page, as it was sent, if it is one of these.
    pub(super) fn of_request(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        if self.origins.is_empty() {
            return None;
        }
        let mut values = headers.get_all(ORIGIN).iter();
        let (value, others) = (values.next()?, values.next());
        let origin = Origin::parse(value.to_str().ok()?)?;
        (others.is_none() && self.origins.contains(&origin)).then(|| value.clone())
    }
}

/// Lets the page of this origin read a response.
pub(super) fn allow(response: &mut HeaderMap, origin: HeaderValue) {
    response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    response.append(VARY, HeaderValue::from_static("Origin"));
}

/// Answers the question of a browser whether it may send a request for a page of this origin. `methods` are those of the
/// endpoint.
pub(super) fn allow_requests(
    response: &mut HeaderMap,
    origin: HeaderValue,
    methods: &str,
    request: &HeaderMap,
) {
    if !request.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return;
    }
    allow(response, origin);
    if let Ok(methods) = HeaderValue::try_from(methods) {
        response.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    // The page is trusted to choose its headers: names of message headers are arbitrary.
    if let Some(names) = request.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        response.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    response.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_origin(origin: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        headers
    }

    fn cors(origins: &[&str]) -> Result<CorsOrigins, InvalidCorsOrigin> {
        CorsOrigins::new(&origins.iter().map(|&origin| origin.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn only_configured_origins_may_read() {
        let cors = cors(&["https://App.example", "http://localhost:8000"]).unwrap();
        for origin in ["https://app.example", "https://app.example:443", "http://localhost:8000"] {
            assert_eq!(cors.of_request(&with_origin(origin)).unwrap(), origin);
        }
        for origin in ["http://app.example", "https://app.example.evil", "http://localhost", "null", ""] {
            assert_eq!(cors.of_request(&with_origin(origin)), None, "{origin}");
        }
        let mut two = with_origin("https://app.example");
        two.append(ORIGIN, HeaderValue::from_static("http://evil.example"));
        assert_eq!(cors.of_request(&two), None);
        assert_eq!(cors.of_request(&HeaderMap::new()), None);
        assert_eq!(CorsOrigins::default().of_request(&with_origin("https://app.example")), None);
    }

    #[test]
    fn answer_allows_the_requested_headers_but_no_credentials() {
        let mut request = with_origin("https://app.example");
        let origin = HeaderValue::from_static("https://app.example");
        let mut response = HeaderMap::new();
        allow_requests(&mut response, origin.clone(), "POST, OPTIONS", &request);
        assert!(response.is_empty(), "a plain OPTIONS request");
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("authorization"));
        allow_requests(&mut response, origin, "POST, OPTIONS", &request);
        assert_eq!(response[ACCESS_CONTROL_ALLOW_ORIGIN], "https://app.example");
        assert_eq!(response[ACCESS_CONTROL_ALLOW_METHODS], "POST, OPTIONS");
        assert_eq!(response[ACCESS_CONTROL_ALLOW_HEADERS], "authorization");
        assert_eq!(response[VARY], "Origin");
        assert!(!response.contains_key("access-control-allow-credentials"));
    }

    #[test]
    fn invalid_origin_is_an_error() {
        for text in ["*", "https://*.example", "app.example", "https://a/b", "null", ""] {
            let error = cors(&[text]).unwrap_err();
            assert!(error.to_string().contains("such as https://app.example.com"), "{error}");
        }
    }
}
