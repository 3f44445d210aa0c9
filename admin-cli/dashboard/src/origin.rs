//! Refuses changes that a browser sends for a page of another site. Pure.
//!
//! A change needs what a page of another site cannot send without being asked first by the browser: a JSON content type, or
//! the header `X-Requested-With`. If the browser says where the request comes from, that must be the dashboard itself. Calls
//! of programs have no such headers and pass.

use http::header::{CONTENT_TYPE, HOST, HeaderName, ORIGIN, USER_AGENT};
use http::{HeaderMap, Method};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether a request may change something. `allowed` are origins that may, besides the dashboard's own.
pub fn refuse(
    method: &Method,
    headers: &HeaderMap,
    allowed: &[String],
    is_behind_proxy: bool,
) -> Option<String> {
    if method.is_safe() {
        return None;
    }
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let origin = text(&ORIGIN);
    if let Some(origin) = origin {
        if allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) {
            return None;
        }
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        let is_own = |host: Option<&str>| match (authority, host) {
            (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
            _ => false,
        };
        let is_known = is_own(text(&HOST)) || (is_behind_proxy && is_own(text(&FORWARDED_HOST)));
        if !is_known {
            let shown: String = origin.chars().take(100).collect();
            return Some(format!(
                "CROSS_SITE_REQUEST: the page is of {shown}; if it may change something, allow it with --http-allowed-origin"
            ));
        }
    } else if headers.contains_key(ORIGIN) {
        return Some("CROSS_SITE_REQUEST: the Origin header is not readable".to_owned());
    }
    let site = text(&SEC_FETCH_SITE);
    if site.is_some_and(|site| site != "same-origin" && site != "none") {
        return Some("CROSS_SITE_REQUEST: the browser reports another site".to_owned());
    }
    let is_browser = origin.is_some()
        || site.is_some()
        || text(&USER_AGENT).is_some_and(|agent| agent.starts_with("Mozilla/"));
    let is_json = text(&CONTENT_TYPE)
        .is_some_and(|kind| kind.split(';').next().is_some_and(|kind| kind.trim() == "application/json"));
    if is_browser && !is_json && !headers.contains_key(REQUESTED_WITH) {
        return Some(
            "CROSS_SITE_REQUEST: a change needs Content-Type: application/json or X-Requested-With"
                .to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_refused(pairs: &[(&'static str, &str)]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("host", "nsqadmin.example:4171".parse().unwrap());
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        refuse(&Method::POST, &headers, &["https://ops.example".to_owned()], true).is_some()
    }

    #[test]
    fn programs_pass_without_headers() {
        assert!(!is_refused(&[]));
        assert!(!is_refused(&[("content-type", "text/plain"), ("user-agent", "curl/8")]));
    }

    #[test]
    fn own_pages_pass_with_json_or_a_header_of_their_own() {
        let own = ("origin", "http://nsqadmin.example:4171");
        let site = ("sec-fetch-site", "same-origin");
        assert!(!is_refused(&[own, site, ("content-type", "application/json; charset=utf-8")]));
        assert!(!is_refused(&[own, site, ("x-requested-with", "XMLHttpRequest")]));
        assert!(is_refused(&[own, site, ("content-type", "text/plain")]));
        assert!(is_refused(&[("user-agent", "Mozilla/5.0"), ("content-type", "text/plain")]));
    }

    #[test]
    fn other_sites_are_refused() {
        let json = ("content-type", "application/json");
        for origin in ["http://evil.example", "null", "http://nsqadmin.example:4171.evil.example"] {
            assert!(is_refused(&[("origin", origin), json]), "{origin}");
        }
        assert!(is_refused(&[("sec-fetch-site", "cross-site"), json]));
        assert!(is_refused(&[("sec-fetch-site", "same-site"), json]));
        assert!(!is_refused(&[("origin", "https://ops.example"), json]));
    }

    #[test]
    fn a_proxy_reports_the_host_that_the_browser_used() {
        let headers =
            [("origin", "https://q.example"), ("x-forwarded-host", "q.example"), ("x-requested-with", "x")];
        assert!(!is_refused(&headers));
        let mut map = HeaderMap::new();
        headers.iter().for_each(|(name, value)| drop(map.insert(*name, value.parse().unwrap())));
        assert!(refuse(&Method::POST, &map, &[], false).is_some(), "not behind a proxy");
    }

    #[test]
    fn reading_is_always_allowed() {
        let mut headers = HeaderMap::new();
        headers.insert("origin", "http://evil.example".parse().unwrap());
        assert_eq!(refuse(&Method::GET, &headers, &[], false), None);
    }
}
