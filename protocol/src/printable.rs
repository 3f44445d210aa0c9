//! Escapes untrusted text for terminals and log lines.
//!
//! Text from the network may contain sequences that move a terminal's cursor, line ends that fake a line, or marks that
//! reverse the direction of text. All of them are escaped in Rust's notation: `\n`, `\u{1b}`.

use std::borrow::Cow;

/// Whether a character is neither a control character nor an invisible format character.
pub fn is_printable(c: char) -> bool {
    !(c.is_control() || is_format(c))
}

/// Characters that are invisible or change how others are displayed: line and paragraph separators, direction marks and
/// other invisible characters.
fn is_format(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Escapes `text` for use within one line. Borrows if nothing needs escaping.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// Like [`printable`], for text of several lines: keeps `\n` and tabs.
pub fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| matches!(c, '\n' | '\t'))
}

fn escaped(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_fit = |c: char| is_printable(c) || is_kept(c);
    if text.chars().all(is_fit) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_fit(c) { out.push(c) } else { out.extend(c.escape_default()) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_text_is_borrowed() {
        for text in ["", "a b", "Grüße, 世界 🎉 \u{301}"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }

    #[test]
    fn control_and_format_characters_are_escaped() {
        assert_eq!(printable("\x1b[2J\x07\r\n\t\x7f"), r"\u{1b}[2J\u{7}\r\n\t\u{7f}");
        assert_eq!(
            printable("\u{9b}31m\u{202e}txt\u{2066}\u{2028}"),
            r"\u{9b}31m\u{202e}txt\u{2066}\u{2028}"
        );
        assert_eq!(printable_lines("a\tb\nc\x1bd\re"), "a\tb\nc\\u{1b}d\\re");
    }

    proptest! {
        #[test]
        fn output_is_always_printable(text in any::<String>()) {
            prop_assert!(printable(&text).chars().all(is_printable));
            prop_assert!(printable_lines(&text).chars().all(|c| is_printable(c) || c == '\n' || c == '\t'));
        }
    }
}
