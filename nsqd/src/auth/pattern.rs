//! Pure: regular expressions as auth servers write them, in the dialect of Go.
//!
//! Go and the `regex` crate both use RE2's syntax, except for a few spellings, which are translated. Patterns are
//! shared: a thousand connections with the same permissions hold one compiled expression.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use regex::bytes::{Regex, RegexBuilder};

/// A pattern cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{pattern:?} is not a regular expression: {reason}")]
pub struct InvalidPattern {
    pub pattern: String,
    pub reason: String,
}

/// A compiled pattern. It is not anchored unless it contains `^` or `$`.
#[derive(Debug, Clone)]
pub struct Pattern(Arc<Regex>);

impl Pattern {
    /// Whether the pattern matches somewhere in `name`.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name.as_bytes())
    }
}

/// The compiled patterns in use.
#[derive(Debug, Default)]
pub struct Patterns(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    patterns: HashMap<String, Weak<Regex>>,
    /// Number of patterns at which unused ones are dropped.
    sweep_at: usize,
}

/// Below this number, unused patterns are not dropped.
const MIN_SWEEP: usize = 64;

impl Patterns {
    /// Returns the shared pattern, and compiles it if necessary.
    pub fn get(&self, pattern: &str) -> Result<Pattern, InvalidPattern> {
        if let Some(known) = self.0.lock().patterns.get(pattern).and_then(Weak::upgrade) {
            return Ok(Pattern(known));
        }
        // Compiling may take long, so it happens without the lock. At worst a pattern is compiled twice.
        let compiled = Arc::new(compile(pattern)?);
        let mut known = self.0.lock();
        if known.patterns.len() >= known.sweep_at {
            known.patterns.retain(|_, pattern| pattern.strong_count() > 0);
            known.sweep_at = (2 * known.patterns.len()).max(MIN_SWEEP);
        }
        known.patterns.insert(pattern.to_owned(), Arc::downgrade(&compiled));
        Ok(Pattern(compiled))
    }
}

fn compile(pattern: &str) -> Result<Regex, InvalidPattern> {
    let translated = from_go(pattern);
    // Go's classes and the names are ASCII, and ASCII compiles to much less. Only Unicode classes need the second try.
    let ascii = RegexBuilder::new(&translated).unicode(false).build();
    ascii.or_else(|_| Regex::new(&translated)).map_err(|error| InvalidPattern {
        pattern: pattern.to_owned(),
        // The last line has the reason; the lines before it mark the place.
        reason: error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    })
}

/// Translates Go's spellings: `\Q...\E` quotes; `{` is literal unless it starts a repetition; `[`, `&` and `~` are
/// literal within a class.
fn from_go(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut in_class = false;
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = after;
        match c {
            '\\' if after.starts_with('Q') && !in_class => {
                let quoted = &after[1..];
                let end = quoted.find("\\E");
                out.push_str(&regex::escape(&quoted[..end.unwrap_or(quoted.len())]));
                rest = end.map_or("", |end| &quoted[end + 2..]);
            }
            '\\' => {
                out.push(c);
                let escaped = after.chars().next();
                out.extend(escaped);
                rest = &after[escaped.map_or(0, char::len_utf8)..];
                if matches!(escaped, Some('p' | 'P' | 'x')) && rest.starts_with('{') {
                    let name = rest.find('}').map_or(rest.len(), |end| end + 1);
                    out.push_str(&rest[..name]);
                    rest = &rest[name..];
                }
            }
            '[' if !in_class => {
                in_class = true;
                // A bracket at the start of a class is literal.
                let head = after.strip_prefix('^').unwrap_or(after);
                let head = head.strip_prefix(']').unwrap_or(head);
                out.push(c);
                out.push_str(&after[..after.len() - head.len()]);
                rest = head;
            }
            '[' if after.starts_with(':') => match after.find(":]") {
                Some(end) => {
                    out.push(c);
                    out.push_str(&after[..end + 2]);
                    rest = &after[end + 2..];
                }
                None => out.push_str("\\["),
            },
            '[' | '&' | '~' if in_class => out.extend(['\\', c]),
            ']' if in_class => {
                in_class = false;
                out.push(c);
            }
            '{' if !in_class && !is_repetition(after) => out.push_str("\\{"),
            c => out.push(c),
        }
    }
    out
}

/// Whether `n}`, `n,}` or `n,m}` follows.
fn is_repetition(after: &str) -> bool {
    let Some((inside, _)) = after.split_once('}') else { return false };
    let (min, max) = inside.split_once(',').unwrap_or((inside, ""));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !min.is_empty() && is_number(min) && is_number(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Patterns::default().get(pattern).unwrap().matches(name)
    }

    #[test]
    fn patterns_are_not_anchored() {
        assert!(matches("test", "mytest2") && matches("", "anything") && matches("", ""));
        assert!(!matches("^test$", "mytest") && !matches("^foo$", ""));
        assert!(matches(".*", "") && matches("(?i)ORDERS", "orders"));
    }

    #[test]
    fn go_spellings_are_translated() {
        assert!(matches(r"^\Qa.b\E.c$", "a.bxc") && !matches(r"^\Qa.b\E", "axb"));
        assert!(matches(r"^\Qa.b", "a.b"));
        assert!(matches("^a{b}$", "a{b}") && matches("^a{,2}$", "a{,2}") && matches("^a{2,}$", "aaa"));
        assert!(matches("^[[a]$", "[") && matches("^[a&&b]+$", "a&b") && matches("^[]x]$", "]"));
        assert!(matches("^[^]x]$", "a") && !matches("^[^]x]$", "]"));
        assert!(matches("^[[:alpha:]_]+$", "ab_") && !matches("^[[:alpha:]]+$", "1"));
        assert!(matches(r"^\p{Greek}$", "α") && matches(r"^\w+[\d.-]*$", "topic-1.2"));
        assert!(matches(r"^[\]\[]$", "[") && matches(r"^\x{41}[\p{Lu}]$", "AB"));
    }

    #[test]
    fn invalid_patterns_are_refused() {
        for bad in ["(", "a**b(", r"(?=a)", r"\1", "[a", "a{2,1}", "*"] {
            assert!(Patterns::default().get(bad).is_err(), "{bad}");
        }
        let error = Patterns::default().get("(").unwrap_err();
        assert_eq!(error.to_string(), r#""(" is not a regular expression: unclosed group"#);
    }

    #[test]
    fn patterns_are_shared_while_in_use() {
        let patterns = Patterns::default();
        let first = patterns.get("a").unwrap();
        assert!(Arc::ptr_eq(&first.0, &patterns.get("a").unwrap().0));
        for n in 0..10 * MIN_SWEEP {
            patterns.get(&format!("x{n}")).unwrap();
        }
        assert!(patterns.0.lock().patterns.len() <= MIN_SWEEP);
        assert!(Arc::ptr_eq(&first.0, &patterns.get("a").unwrap().0));
    }
}
