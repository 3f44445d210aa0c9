//! Pure: a condition on the headers of a message.
//!
//! `NAME=GLOB` holds if the header is there and its value matches, `NAME!=GLOB` if not. Several conditions, separated by
//! commas, must all hold. A message without headers matches negated conditions only.

use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use nsq_protocol::headers::{Headers, MAX_KEY_BYTES};

/// See the module.
#[derive(Debug, Clone)]
pub struct HeaderFilter {
    text: String,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Condition {
    name: String,
    value: GlobMatcher,
    is_negated: bool,
}

/// Why a filter is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    #[error("{0:?} is not NAME=GLOB or NAME!=GLOB")]
    Form(String),
    /// No header can have this name.
    #[error("{0:?} is not the name of a header: 1 to {MAX_KEY_BYTES} characters of a-z A-Z 0-9 . _ - #")]
    Name(String),
    #[error("{glob:?} is not a pattern: {reason}")]
    Glob { glob: String, reason: String },
}

impl std::str::FromStr for HeaderFilter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        let conditions = text.split(',').map(condition).collect::<Result<_, _>>()?;
        Ok(HeaderFilter { text: text.to_owned(), conditions })
    }
}

fn condition(text: &str) -> Result<Condition, InvalidFilter> {
    let refused = || InvalidFilter::Form(text.to_owned());
    let (name, glob) = text.split_once('=').ok_or_else(refused)?;
    let (name, is_negated) = match name.strip_suffix('!') {
        Some(name) => (name, true),
        None => (name, false),
    };
    let (name, glob) = (name.trim(), glob.trim());
    if name.is_empty() || glob.is_empty() {
        return Err(refused());
    }
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"._-#".contains(&byte);
    if name.len() > MAX_KEY_BYTES || !name.bytes().all(is_of_names) {
        return Err(InvalidFilter::Name(name.to_owned()));
    }
    let value = GlobBuilder::new(glob)
        .literal_separator(false)
        .build()
        .map_err(|error| InvalidFilter::Glob { glob: glob.to_owned(), reason: error.kind().to_string() })?;
    Ok(Condition { name: name.to_owned(), value: value.compile_matcher(), is_negated })
}

impl HeaderFilter {
    /// Whether a message with these headers matches.
    pub fn matches(&self, headers: Option<Headers<'_>>) -> bool {
        let all: Vec<_> = headers.iter().flat_map(Headers::iter).collect();
        self.conditions.iter().all(|condition| {
            let value = all.iter().find(|(name, _)| *name == condition.name);
            value.is_some_and(|(_, value)| condition.value.is_match(&**value)) != condition.is_negated
        })
    }
}

impl PartialEq for HeaderFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for HeaderFilter {}

impl fmt::Display for HeaderFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::headers::HeadersBuf;

    use super::*;

    fn matches(filter: &str, headers: &[(&str, &str)]) -> bool {
        let headers = HeadersBuf::from_pairs(headers.iter().copied()).unwrap();
        filter.parse::<HeaderFilter>().unwrap().matches(Some(headers.as_headers()))
    }

    #[test]
    fn all_conditions_must_hold() {
        let headers = [("color", "dark/red"), ("size", "9")];
        assert!(matches("color=dark*", &headers));
        assert!(matches("color=*red,size=9", &headers));
        assert!(!matches("color=*red,size=8", &headers));
        assert!(matches("color!=blue, size!=1?", &headers));
        assert!(!matches("weight=*", &headers));
        assert!(matches("weight!=*", &headers));
        assert!("a!=b".parse::<HeaderFilter>().unwrap().matches(None));
        assert!(!"a=b".parse::<HeaderFilter>().unwrap().matches(None));
    }

    #[test]
    fn malformed_filters_are_refused() {
        for text in ["", "color", "=red", "color=", "a=b,,c=d", "!=x"] {
            assert!(matches!(text.parse::<HeaderFilter>(), Err(InvalidFilter::Form(_))), "{text}");
        }
        let error = "a b=c".parse::<HeaderFilter>().unwrap_err();
        assert!(error.to_string().starts_with("\"a b\" is not the name of a header"), "{error}");
        let error = "a=[b".parse::<HeaderFilter>().unwrap_err();
        assert!(error.to_string().starts_with("\"[b\" is not a pattern: "), "{error}");
    }
}
