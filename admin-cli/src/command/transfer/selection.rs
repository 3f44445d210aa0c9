//! Which messages `nsq move` and `nsq copy` take. Pure.

use nsq_protocol::headers::Headers;
use nsqd::policy::header_filter::HeaderFilter;
use regex::bytes::Regex;

/// Conditions that must all hold.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// The body matches.
    pub matching: Option<Regex>,
    /// The headers match.
    pub headers: Option<HeaderFilter>,
}

impl Selection {
    /// Whether every message is selected.
    pub fn is_all(&self) -> bool {
        self.matching.is_none() && self.headers.is_none()
    }

    /// Whether a message is selected.
    pub fn selects(&self, body: &[u8], headers: Option<Headers<'_>>) -> bool {
        self.matching.as_ref().is_none_or(|pattern| pattern.is_match(body))
            && self.headers.as_ref().is_none_or(|filter| filter.matches(headers))
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::HeadersBuf;

    use super::*;
    use crate::patterns::parse_pattern;

    #[test]
    fn body_and_headers_must_match() {
        let selection = Selection {
            matching: Some(parse_pattern("^a").unwrap()),
            headers: Some("tenant=x*".parse().unwrap()),
        };
        let headers = HeadersBuf::from_pairs([("tenant", "x1")]).unwrap();
        assert!(selection.selects(b"ab", Some(headers.as_headers())));
        assert!(!selection.selects(b"b", Some(headers.as_headers())));
        assert!(!selection.selects(b"ab", None));
        assert!(!selection.is_all() && Selection::default().is_all());
    }
}
