//! Addresses of HTTP requests: with the message in the body, or in place of `%s`. Pure.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use nsq_protocol::redact::without_user_info_of_urls;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// The characters of a query value that Go escapes; a space becomes `+` afterwards.
const QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b' ');

/// Where to send requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The address before the message, or all of it.
    before: String,
    /// The address after the message; `None` if the message is not part of it.
    after: Option<String>,
}

impl Address {
    /// An address for requests with a body.
    pub fn for_body(text: &str) -> Result<Self, String> {
        check(text)?;
        Ok(Address { before: text.to_owned(), after: None })
    }

    /// An address that contains `%s` exactly once.
    pub fn with_message(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split("%s").collect();
        let [before, after] = parts[..] else {
            return Err("the address must contain %s once, where the message is inserted".to_owned());
        };
        check(&format!("{before}x{after}"))?;
        Ok(Address { before: before.to_owned(), after: Some(after.to_owned()) })
    }

    pub fn is_https(&self) -> bool {
        self.before.to_ascii_lowercase().starts_with("https:")
    }

    /// The address of a request.
    pub fn uri(&self, message: &[u8]) -> Result<Uri, http::uri::InvalidUri> {
        match &self.after {
            None => Uri::from_str(&self.before),
            Some(after) => {
                let encoded = percent_encode(message, QUERY).to_string().replace(' ', "+");
                Uri::from_str(&format!("{}{encoded}{after}", self.before))
            }
        }
    }
}

/// The address for log lines and metrics, without a password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match &self.after {
            None => self.before.clone(),
            Some(after) => format!("{}%s{after}", self.before),
        };
        f.write_str(&without_user_info_of_urls(&text))
    }
}

fn check(text: &str) -> Result<(), String> {
    let uri = Uri::from_str(text).map_err(|error| error.to_string())?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => Ok(()),
        _ => Err("expected http://HOST:PORT/PATH or https://HOST:PORT/PATH".to_owned()),
    }
}

/// The target of a redirect.
pub fn redirected(from: &Uri, location: &str) -> Option<Uri> {
    if let Some(rest) = location.strip_prefix("//") {
        return format!("{}://{rest}", from.scheme_str()?).parse().ok();
    }
    if location.contains("://") {
        return location.parse().ok().filter(|uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")));
    }
    let folder = match location.starts_with('/') {
        true => "",
        false => from.path().rsplit_once('/').map_or("", |(folder, _)| folder),
    };
    let separator = if location.starts_with('/') { "" } else { "/" };
    format!("{}://{}{folder}{separator}{location}", from.scheme_str()?, from.authority()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_is_inserted_as_a_query_value() {
        let address = Address::with_message("http://h:1/a%20b?m=%s&n=1").unwrap();
        let uri = address.uri("a b&c/d~é+%".as_bytes()).unwrap();
        assert_eq!(uri.to_string(), "http://h:1/a%20b?m=a+b%26c%2Fd~%C3%A9%2B%25&n=1");
        assert_eq!(address.to_string(), "http://h:1/a%20b?m=%s&n=1");
        for bad in ["http://h/", "http://h/%s%s", "ftp://h/%s", "/%s", "h:1/%s"] {
            assert!(Address::with_message(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        let address = Address::for_body("http://user:secret@h:1/x").unwrap();
        assert!(!address.to_string().contains("secret"), "{address}");
        assert!(Address::for_body("h:1").is_err());
    }

    #[test]
    fn redirects_are_resolved() {
        let from = "http://h:1/a/b?c".parse().unwrap();
        for (location, target) in [
            ("https://x/y", Some("https://x/y")),
            ("//x/y", Some("http://x/y")),
            ("/y?z", Some("http://h:1/y?z")),
            ("y", Some("http://h:1/a/y")),
            ("ftp://x/", None),
        ] {
            assert_eq!(
                redirected(&from, location).map(|uri| uri.to_string()).as_deref(),
                target,
                "{location}"
            );
        }
    }
}
