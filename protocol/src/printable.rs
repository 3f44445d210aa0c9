//! Text from others, made fit for a terminal or a line of a log.
//!
//! What can come from the network may hold sequences that move a terminal's cursor, line ends that fake a line, or
//! marks that reverse the direction of what is read. All of them are escaped as Rust spells them: `\n`, `\u{1b}`.

use std::borrow::Cow;

/// Whether a character is shown and does nothing else.
pub fn is_printable(c: char) -> bool {
    !(c.is_control() || is_format(c))
}

/// Characters that are not shown and change how others are: line and paragraph separators, and what sets the direction
/// of text or is invisible in it.
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

/// The text as part of one line.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// The text with its line ends and tabs, for what consists of lines.
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
    fn what_plays_tricks_is_escaped() {
        assert_eq!(printable("\x1b[2J\x07\r\n\t\x7f"), r"\u{1b}[2J\u{7}\r\n\t\u{7f}");
        assert_eq!(
            printable("\u{9b}31m\u{202e}txt\u{2066}\u{2028}"),
            r"\u{9b}31m\u{202e}txt\u{2066}\u{2028}"
        );
        assert_eq!(printable_lines("a\tb\nc\x1bd\re"), "a\tb\nc\\u{1b}d\\re");
    }

    proptest! {
        #[test]
        fn nothing_else_comes_out(text in any::<String>()) {
            prop_assert!(printable(&text).chars().all(is_printable));
            prop_assert!(printable_lines(&text).chars().all(|c| is_printable(c) || c == '\n' || c == '\t'));
        }
    }
}
