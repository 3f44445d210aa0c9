//! Refuses requests that a browser sends for a page of another site. Pure.
//!
//! A page can make its visitor's browser send requests to any address that the browser reaches, including a daemon on a
//! port that is closed to the outside. The page cannot read the response, but the request takes effect. Browsers report
//! the source of a request in `Origin` and `Sec-Fetch-Site`; other clients send neither and are not affected.
//!
//! A request is the daemon's own if its page was served from the daemon's address. The owner of a domain can point its
//! name to the daemon (DNS rebinding), and then their page seems to be the daemon's own. So this counts only for
//! addresses that no one else can own: IP addresses, names without a dot, and the names that the daemon knows as its
//! own.
//!
//! Some endpoints change something although their method is GET, such as one that delivers messages: *guarded* ones. There
//! every method counts as a change. A browser names no source when it loads an image or a script from a plain HTTP
//! address in the network; a guarded endpoint then decides by `Referer`, and refuses a browser that sends none.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::{HOST, HeaderName, ORIGIN, REFERER, USER_AGENT};
use http::{HeaderMap, Method};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A refusal quotes at most this much of an origin.
const MAX_QUOTED_CHARS: usize = 100;

/// The sites whose pages may change something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedOrigins {
    /// The origins as configured.
    texts: Vec<String>,
    any: bool,
    origins: Vec<Origin>,
    /// Names of this daemon's host, in lower case.
    own_names: Vec<String>,
}

/// Scheme, host and port, in lower case and without the scheme's default port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    authority: String,
}

/// An unusable value of `--http-allowed-origin`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin; use scheme://host or scheme://host:port without a path, or * for every site"
)]
pub struct InvalidOrigin(pub String);

impl AllowedOrigins {
    /// Allows the daemon's own pages and those of these origins (`https://host:port`; `*` for all). `own_names` are
    /// names of the daemon's host.
    pub fn new(origins: &[String], own_names: &[&str]) -> Result<Self, InvalidOrigin> {
        let mut allowed = AllowedOrigins {
            texts: origins.to_vec(),
            own_names: own_names.iter().map(|name| name.to_ascii_lowercase()).collect(),
            ..Self::default()
        };
        for text in origins {
            match Origin::parse(text) {
                _ if text == "*" => allowed.any = true,
                Some(origin) => allowed.origins.push(origin),
                None => return Err(InvalidOrigin(text.clone())),
            }
        }
        Ok(allowed)
    }

    /// The origins as configured.
    pub fn texts(&self) -> &[String] {
        &self.texts
    }

    /// Returns the text of a refusal if the request may change something and comes from another site's page.
    pub(super) fn refuse(&self, method: &Method, headers: &HeaderMap, is_guarded: bool) -> Option<String> {
        if self.any || (method.is_safe() && !is_guarded) {
            return None;
        }
        let mut origins = headers.get_all(ORIGIN).iter();
        let mut origin = origins.next().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let site = headers.get(SEC_FETCH_SITE).map(|value| value.as_bytes());
        if origin.is_none() && site.is_none() && is_guarded && is_browser(headers) {
            origin =
                Some(Cow::Owned(origin_of_referer(headers).unwrap_or_else(|| "an unknown site".to_owned())));
        }
        if origin.is_none() && site.is_none_or(|site| site == b"none") {
            return None;
        }
        let is_single = origins.next().is_none();
        let parsed = origin.as_deref().filter(|_| is_single).and_then(Origin::parse);
        if parsed.as_ref().is_some_and(|origin| self.origins.contains(origin)) {
            return None;
        }
        let host = headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_own_page = match (&origin, &parsed) {
            (Some(_), Some(origin)) => origin.is_of(host),
            (Some(_), None) => false,
            (None, _) => true,
        };
        let is_own_site = site.is_none_or(|site| site == b"same-origin" || site == b"none");
        if is_own_page && is_own_site && self.is_unclaimable(host) {
            return None;
        }
        let quoted: String = match &origin {
            Some(origin) => origin.chars().take(MAX_QUOTED_CHARS).collect(),
            None => "another site".to_owned(),
        };
        Some(format!(
            "CROSS_SITE_REQUEST: a browser sent this for a page of {quoted}; use --http-allowed-origin to allow it"
        ))
    }

    /// Whether the `Host` header names an address that no other site can claim as its own.
    fn is_unclaimable(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        !name.is_empty()
            && (!name.contains('.')
                || address.parse::<IpAddr>().is_ok()
                || name.ends_with(".localhost")
                || self.own_names.contains(&name)
                || self.origins.iter().any(|origin| without_port(&origin.authority) == name))
    }
}

impl Origin {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let is_scheme = !scheme.is_empty()
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        let is_authority = !without_port(authority).is_empty()
            && authority.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@\\*".contains(&byte));
        (is_scheme && is_authority).then(|| Origin { authority: normal(authority, &scheme), scheme })
    }

    fn is_of(&self, host: &str) -> bool {
        self.authority == normal(host, &self.scheme)
    }
}

/// Whether the client says that it is a browser; each of them does, and a page cannot change it.
fn is_browser(headers: &HeaderMap) -> bool {
    headers.get(USER_AGENT).is_some_and(|value| value.as_bytes().starts_with(b"Mozilla/"))
}

fn origin_of_referer(headers: &HeaderMap) -> Option<String> {
    let referer = headers.get(REFERER)?.to_str().ok()?;
    let (scheme, rest) = referer.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    Some(format!("{scheme}://{authority}"))
}

/// In lower case, and without the port if it is the scheme's default.
fn normal(authority: &str, scheme: &str) -> String {
    let lower = authority.to_ascii_lowercase();
    let port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return lower,
    };
    lower.strip_suffix(port).map_or(lower.clone(), str::to_owned)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn is_refused(allowed: &AllowedOrigins, pairs: &[(&'static str, &str)]) -> bool {
        allowed.refuse(&Method::POST, &headers(pairs), false).is_some()
    }

    #[test]
    fn clients_other_than_browsers_are_not_affected() {
        let none = AllowedOrigins::default();
        for host in ["127.0.0.1:4151", "nsqd.example.com", ""] {
            assert!(!is_refused(&none, &[("host", host)]), "{host}");
            assert!(!is_refused(&none, &[("host", host), ("sec-fetch-site", "none")]), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let none = AllowedOrigins::default();
        let host = ("host", "127.0.0.1:4151");
        for origin in [
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:4152",
            "http://127.0.0.1:41511",
            "null",
            "",
            "http://127.0.0.1:4151/",
            "http://evil.example@127.0.0.1:4151",
            "127.0.0.1:4151",
        ] {
            assert!(is_refused(&none, &[host, ("origin", origin)]), "{origin}");
            assert!(
                is_refused(&none, &[host, ("origin", origin), ("sec-fetch-site", "same-origin")]),
                "{origin}"
            );
        }
        for site in ["cross-site", "same-site", "CROSS-SITE", ""] {
            assert!(is_refused(&none, &[host, ("sec-fetch-site", site)]), "{site}");
            let own = ("origin", "http://127.0.0.1:4151");
            assert!(is_refused(&none, &[host, own, ("sec-fetch-site", site)]), "{site}");
        }
        let two = [host, ("origin", "http://127.0.0.1:4151"), ("origin", "http://evil.example")];
        assert!(is_refused(&none, &two));
        let text =
            none.refuse(&Method::PUT, &headers(&[host, ("origin", "http://evil.example")]), false).unwrap();
        assert!(text.starts_with("CROSS_SITE_REQUEST: ") && text.contains("http://evil.example"), "{text}");
    }

    #[test]
    fn safe_methods_are_always_allowed() {
        let none = AllowedOrigins::default();
        let foreign = headers(&[("host", "h"), ("origin", "http://evil.example")]);
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(none.refuse(&method, &foreign, false), None);
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
            assert!(none.refuse(&method, &foreign, false).is_some());
        }
    }

    #[test]
    fn guarded_endpoints_refuse_safe_methods_too() {
        let none = AllowedOrigins::default();
        let refused = |pairs: &[(&'static str, &str)]| {
            let pairs: Vec<_> =
                [("host", "10.0.0.1:4151")].into_iter().chain(pairs.iter().copied()).collect();
            none.refuse(&Method::GET, &headers(&pairs), true).is_some()
        };
        assert!(!refused(&[]));
        assert!(!refused(&[("user-agent", "curl/8.5.0")]));
        assert!(!refused(&[("origin", "http://10.0.0.1:4151")]));
        assert!(refused(&[("origin", "http://evil.example")]));
        assert!(refused(&[("sec-fetch-site", "cross-site")]));
        let browser = ("user-agent", "Mozilla/5.0 (X11)");
        assert!(refused(&[browser]));
        assert!(refused(&[browser, ("referer", "http://evil.example/http://10.0.0.1:4151")]));
        assert!(!refused(&[browser, ("referer", "http://10.0.0.1:4151/page?a=b")]));
        assert!(!refused(&[browser, ("sec-fetch-site", "none")]), "the user opened it");
    }

    #[test]
    fn own_pages_are_allowed() {
        let allowed = AllowedOrigins::new(&[], &["Node1.example.com"]).unwrap();
        for (host, origin) in [
            ("127.0.0.1:4151", "http://127.0.0.1:4151"),
            ("[::1]:4151", "http://[::1]:4151"),
            ("localhost:4151", "http://LocalHost:4151"),
            ("nsqd:4151", "http://nsqd:4151"),
            ("10.0.0.1", "http://10.0.0.1:80"),
            ("10.0.0.1:443", "https://10.0.0.1"),
            ("node1.example.com:4151", "http://node1.example.com:4151"),
        ] {
            assert!(!is_refused(&allowed, &[("host", host), ("origin", origin)]), "{origin}");
            assert!(!is_refused(&allowed, &[("host", host), ("sec-fetch-site", "same-origin")]), "{host}");
        }
    }

    #[test]
    fn rebound_name_does_not_count_as_own() {
        let allowed = AllowedOrigins::new(&[], &["node1.example.com"]).unwrap();
        for host in ["evil.example:4151", "127.0.0.1.evil.example:4151", "node1.example.com.evil.example"] {
            let origin = format!("http://{host}");
            assert!(is_refused(&allowed, &[("host", host), ("origin", &origin)]), "{host}");
            assert!(is_refused(&allowed, &[("host", host), ("sec-fetch-site", "same-origin")]), "{host}");
        }
    }

    #[test]
    fn configured_origins_are_allowed() {
        let list = ["https://Admin.example".to_owned(), "http://ops.example:8080".to_owned()];
        let allowed = AllowedOrigins::new(&list, &[]).unwrap();
        let host = ("host", "127.0.0.1:4151");
        for origin in ["https://admin.example", "https://admin.example:443", "http://ops.example:8080"] {
            let cross_site = ("sec-fetch-site", "cross-site");
            assert!(!is_refused(&allowed, &[host, ("origin", origin), cross_site]), "{origin}");
        }
        for origin in ["http://admin.example", "https://admin.example.evil", "http://ops.example", "null"] {
            assert!(is_refused(&allowed, &[host, ("origin", origin)]), "{origin}");
        }
        let any = AllowedOrigins::new(&["*".to_owned()], &[]).unwrap();
        assert!(!is_refused(&any, &[host, ("origin", "null"), ("sec-fetch-site", "cross-site")]));
    }

    #[test]
    fn invalid_origin_is_an_error() {
        for text in [
            "",
            "null",
            "admin.example",
            "https://",
            "https://a/b",
            "https://*.example",
            "https://a b",
            "://a",
        ] {
            let error = AllowedOrigins::new(&[text.to_owned()], &[]).unwrap_err();
            assert_eq!(error, InvalidOrigin(text.to_owned()));
        }
    }
}
