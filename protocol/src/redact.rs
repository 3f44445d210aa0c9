//! Removes passwords and tokens from addresses for display. Pure.

use std::borrow::Cow;

/// Removes user and password from all URLs in `text`, or from `text` itself if it is an address
/// (`user:password@host:port`).
///
/// ```
/// # use nsq_protocol::redact::without_user_info;
/// assert_eq!(without_user_info("cannot ask http://u:p@h:1/auth: refused"), "cannot ask http://h:1/auth: refused");
/// assert_eq!(without_user_info("u:p@h:4160"), "h:4160");
/// ```
pub fn without_user_info(text: &str) -> Cow<'_, str> {
    if text.contains("://") || text.contains(char::is_whitespace) {
        return without_user_info_of_urls(text);
    }
    Cow::Borrowed(after_user_info(text))
}

/// Removes user and password from all URLs in `text`.
pub fn without_user_info_of_urls(text: &str) -> Cow<'_, str> {
    if !text.contains('@') || !text.contains("://") {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(scheme_end) = rest.find("://") {
        let (before, authority) = rest.split_at(scheme_end + 3);
        shown.push_str(before);
        rest = after_user_info(authority);
    }
    shown.push_str(rest);
    Cow::Owned(shown)
}

/// Hides the ticket in the target of an HTTP request.
///
/// ```
/// # use nsq_protocol::redact::without_ticket;
/// assert_eq!(without_ticket("/v2?ticket=3f9a&a=b"), "/v2?ticket=***&a=b");
/// assert_eq!(without_ticket("/pub?topic=ticket"), "/pub?topic=ticket");
/// ```
pub fn without_ticket(target: &str) -> Cow<'_, str> {
    let Some((path, query)) = target.split_once('?') else { return Cow::Borrowed(target) };
    // An escaped key is the same key.
    let is_ticket = |pair: &str| {
        let key = pair.split('=').next().unwrap_or_default();
        key == "ticket" || (key.contains('%') && key.len() <= 3 * "ticket".len())
    };
    if !query.split('&').any(is_ticket) {
        return Cow::Borrowed(target);
    }
    let shown = |pair| if is_ticket(pair) { "ticket=***" } else { pair };
    let query: Vec<&str> = query.split('&').map(shown).collect();
    Cow::Owned(format!("{path}?{}", query.join("&")))
}

/// A URL or address that is safe to display: without user and password, and without its query, which may contain a
/// token.
///
/// ```
/// # use nsq_protocol::redact::shown_address;
/// assert_eq!(shown_address("https://u:p@h/auth?key=secret"), "https://h/auth?...");
/// ```
pub fn shown_address(address: &str) -> String {
    let shown = without_user_info(address);
    match shown.split_once('?') {
        Some((before, query)) if !query.is_empty() => format!("{before}?..."),
        _ => shown.into_owned(),
    }
}

/// Splits a URL into its user and password, in the form written there (`user:password`), and the URL without them.
pub fn split_user_info(url: &str) -> (Option<&str>, String) {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, authority) = url.split_at(start);
    let rest = after_user_info(authority);
    let user_info = authority[..authority.len() - rest.len()].strip_suffix('@');
    (user_info, format!("{scheme}{rest}"))
}

/// The part of `text` after the last `@` in the authority with which `text` begins.
fn after_user_info(text: &str) -> &str {
    let authority_end = text
        .find(|c: char| matches!(c, '/' | '?' | '#' | '"' | '\'' | '\\') || c.is_whitespace())
        .unwrap_or(text.len());
    match text[..authority_end].rfind('@') {
        Some(at) => &text[at + 1..],
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn user_info_is_removed_everywhere() {
        for (text, shown) in [
            ("http://user:pw@h:1/auth", "http://h:1/auth"),
            ("http://user:p@w@h:1", "http://h:1"),
            ("http://h:1/a@b", "http://h:1/a@b"),
            ("no address: a@b", "no address: a@b"),
            ("u:p@h:4160", "h:4160"),
            ("a http://u:p@h, b https://v:q@i/x", "a http://h, b https://i/x"),
            ("\"http://u:p@h\"", "\"http://h\""),
            ("http://[::1]:1/", "http://[::1]:1/"),
            ("/run/a@b.sock", "/run/a@b.sock"),
            ("", ""),
        ] {
            assert_eq!(without_user_info(text), shown, "{text}");
        }
    }

    #[test]
    fn queries_are_not_shown() {
        assert_eq!(shown_address("http://h/a?secret=s#f"), "http://h/a?...");
        assert_eq!(shown_address("http://h/a?"), "http://h/a?");
        assert_eq!(shown_address("h:1"), "h:1");
    }

    #[test]
    fn user_info_is_split_off() {
        assert_eq!(split_user_info("http://u:p@h/x"), (Some("u:p"), "http://h/x".to_owned()));
        assert_eq!(split_user_info("u@h:1"), (Some("u"), "h:1".to_owned()));
        assert_eq!(split_user_info("http://h/x@y"), (None, "http://h/x@y".to_owned()));
    }

    proptest! {
        #[test]
        fn password_is_never_shown(before in "[a-z ]{0,10}", password in "[A-Z@:%]{1,20}", after in "(/[a-z@]{0,10})?") {
            let shown = shown_address(&format!("{before}http://u:{password}Q@host:1{after}"));
            prop_assert_eq!(shown, format!("{before}http://host:1{after}"));
        }
    }
}
