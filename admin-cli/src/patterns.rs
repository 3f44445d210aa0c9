//! Regular expressions on the command line, with Go's meaning of `\d`, `\w` and `\s`: ASCII only. Pure.

use regex::bytes::{Regex, RegexBuilder};

/// Maximum size of a compiled pattern, in bytes.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles a pattern. Usable as a clap value parser.
pub fn parse_pattern(text: &str) -> Result<Regex, String> {
    RegexBuilder::new(text).unicode(false).size_limit(SIZE_LIMIT).build().map_err(|error| {
        // The last line of a syntax error says what is wrong.
        let text = error.to_string();
        text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_anywhere_and_digits_are_ascii() {
        let pattern = parse_pattern(r"^orders-\d+").unwrap();
        assert!(pattern.is_match(b"orders-12.eu") && !pattern.is_match(b"my-orders-12"));
        assert!(!pattern.is_match("orders-\u{664}".as_bytes()));
        assert_eq!(parse_pattern("a(").unwrap_err(), "unclosed group");
    }
}
