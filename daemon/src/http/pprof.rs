//! `/debug/pprof`: the pages of Go's profiler that make sense here, and a clear refusal for the others.

use std::os::unix::ffi::OsStringExt as _;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use nsq_protocol::redact::{shown_address, without_user_info};

use super::{HttpError, Response, response};

/// A page below `/debug/pprof/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Last part of the path.
    pub name: &'static str,
    /// Full path.
    pub path: &'static str,
}

/// The pages that NSQ routes, for GET. Both daemons add one route for each.
pub const PAGES: [Page; 7] = [
    Page { name: "cmdline", path: "/debug/pprof/cmdline" },
    Page { name: "symbol", path: "/debug/pprof/symbol" },
    Page { name: "profile", path: "/debug/pprof/profile" },
    Page { name: "heap", path: "/debug/pprof/heap" },
    Page { name: "goroutine", path: "/debug/pprof/goroutine" },
    Page { name: "block", path: "/debug/pprof/block" },
    Page { name: "threadcreate", path: "/debug/pprof/threadcreate" },
];

const INDEX: &str = "<!DOCTYPE html>\n<title>/debug/pprof/</title>\n<h1>/debug/pprof/</h1>\n<p>\
    <a href=\"/debug/pprof/cmdline\">cmdline</a>, <a href=\"/debug/pprof/symbol\">symbol</a></p>\n\
    <p>Go runtime profiles are not available. Use <code>perf record -g -p &lt;pid&gt;</code>: \
    the binaries include line tables.</p>\n";

/// The page that links to the others.
pub fn index() -> Response {
    let mut response = response::plain(StatusCode::OK, INDEX);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// The page with this name; the empty name is the index. Unknown names are `404 NOT_FOUND`.
pub fn page(name: &str) -> Result<Response, HttpError> {
    match name {
        "" => Ok(index()),
        "cmdline" => Ok(response::plain(StatusCode::OK, cmdline())),
        "symbol" => Ok(response::plain(StatusCode::OK, "num_symbols: 1\n")),
        name if PAGES.iter().any(|page| page.name == name) => Ok(response::plain(
            StatusCode::NOT_IMPLEMENTED,
            format!(
                "the {name} profile is not available: this is not a Go program; use perf record -g -p {}\n",
                std::process::id()
            ),
        )),
        _ => Err(HttpError::NOT_FOUND),
    }
}

/// The process's arguments, separated by NUL bytes, with passwords removed.
fn cmdline() -> Vec<u8> {
    let arguments = std::env::args_os().map(|argument| match argument.to_str() {
        Some(text) => shown_argument(text).into_bytes(),
        None => argument.into_vec(),
    });
    arguments.collect::<Vec<_>>().join(&0)
}

/// Removes passwords from `--flag=address` or an address. Any other text is unchanged.
fn shown_argument(argument: &str) -> String {
    let (flag, value) = match argument.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') => (flag, value),
        _ => ("", argument),
    };
    let shown =
        if value.contains("://") { shown_address(value) } else { without_user_info(value).into_owned() };
    if flag.is_empty() { shown } else { format!("{flag}={shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_shown_without_passwords() {
        for (argument, shown) in [
            ("--auth-http-address=http://u:p@h/a?key=k", "--auth-http-address=http://h/a?..."),
            ("http://u:p@h", "http://h"),
            ("--lookupd-tcp-address=u:p@h:4160", "--lookupd-tcp-address=h:4160"),
            ("--log-prefix=[a?b] ", "--log-prefix=[a?b] "),
            ("-worker-id", "-worker-id"),
        ] {
            assert_eq!(shown_argument(argument), shown);
        }
    }
}
