//! JSON as NSQ's programs read and write it.
//!
//! They accept keys in any letter case, duplicate keys (the last one counts), `null` for a missing value, and text that
//! is not UTF-8. Derived parsers reject all of these. Elsewhere NSQ's programs are strict: `1000.0` is not an integer.
//!
//! [`Reader`] passes a document's values to the caller one by one, without building a tree. [`to_json`] writes, and
//! [`lenient`] lets derived types accept `null`.

use serde::{Deserialize, Deserializer, Serialize};

/// Maximum nesting depth, as in NSQ's programs.
const MAX_DEPTH: usize = 10_000;

/// `value` as JSON, with `<`, `>`, `&`, U+2028 and U+2029 escaped as NSQ's programs do.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let plain = serde_json::to_vec(value)?;
    // Outside strings none of these bytes occurs in JSON, so they are escaped wherever they occur.
    let next = |bytes: &[u8]| bytes.iter().position(|byte| matches!(byte, b'<' | b'>' | b'&' | 0xe2));
    let Some(first) = next(&plain) else { return Ok(plain) };
    let mut out = Vec::with_capacity(plain.len() + 64);
    out.extend_from_slice(&plain[..first]);
    let mut rest = &plain[first..];
    while let Some(&byte) = rest.first() {
        let (escaped, taken): (&[u8], usize) = match byte {
            b'<' => (b"\\u003c", 1),
            b'>' => (b"\\u003e", 1),
            b'&' => (b"\\u0026", 1),
            _ if rest.starts_with(b"\xe2\x80\xa8") => (b"\\u2028", 3),
            _ if rest.starts_with(b"\xe2\x80\xa9") => (b"\\u2029", 3),
            _ => (&rest[..1], 1),
        };
        out.extend_from_slice(escaped);
        let after = &rest[taken..];
        let (unchanged, from_next) = after.split_at(next(after).unwrap_or(after.len()));
        out.extend_from_slice(unchanged);
        rest = from_next;
    }
    Ok(out)
}

/// For `#[serde(deserialize_with)]`: reads `null` as the default.
pub fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// Not JSON, or not of the expected type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not the expected JSON")]
pub struct JsonError;

/// Reads a document from front to back. For each value, call the method of its expected type or
/// [`skip`](Self::skip); at the end, call [`finish`](Self::finish).
///
/// The methods that read a value return `None` for `null`. The reader does not recurse; only the caller's closures do.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    /// The unread part of the document.
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the start of a document.
    pub fn new(document: &'a [u8]) -> Self {
        Self { rest: document }
    }

    /// Checks that only white space is left in the document.
    pub fn finish(mut self) -> Result<(), JsonError> {
        if self.peek().is_none() { Ok(()) } else { Err(JsonError) }
    }

    /// Reads an object: calls `each` with every key, and `each` must read or skip the value. Returns `false` for
    /// `null`.
    pub fn object(
        &mut self,
        mut each: impl FnMut(&str, &mut Self) -> Result<(), JsonError>,
    ) -> Result<bool, JsonError> {
        if self.take_null()? {
            return Ok(false);
        }
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(true);
        }
        loop {
            let key = self.text()?;
            self.expect(b':')?;
            each(&key, self)?;
            if !self.take(b',') {
                return self.expect(b'}').map(|()| true);
            }
        }
    }

    /// Reads an array: calls `each` for every element, and `each` must read or skip it. Returns `false` for `null`.
    pub fn array(
        &mut self,
        mut each: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<bool, JsonError> {
        if self.take_null()? {
            return Ok(false);
        }
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(true);
        }
        loop {
            each(self)?;
            if !self.take(b',') {
                return self.expect(b']').map(|()| true);
            }
        }
    }

    /// Reads a string. Invalid Unicode in it becomes U+FFFD.
    pub fn string(&mut self) -> Result<Option<String>, JsonError> {
        if self.take_null()? { Ok(None) } else { self.text().map(Some) }
    }

    /// Reads an integer, without fraction or exponent.
    pub fn integer(&mut self) -> Result<Option<i64>, JsonError> {
        if self.take_null()? {
            return Ok(None);
        }
        let number = std::str::from_utf8(self.number()?).map_err(|_| JsonError)?;
        number.parse().map(Some).map_err(|_| JsonError)
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self) -> Result<Option<bool>, JsonError> {
        if self.take_null()? {
            return Ok(None);
        }
        match self.peek() {
            Some(b't') => self.word(b"true").map(|()| Some(true)),
            _ => self.word(b"false").map(|()| Some(false)),
        }
    }

    /// Checks and skips any value. Nested values need no stack.
    pub fn skip(&mut self) -> Result<(), JsonError> {
        // The closing bracket of each open array and object.
        let mut open = Vec::new();
        loop {
            match self.peek().ok_or(JsonError)? {
                start @ (b'{' | b'[') => {
                    self.rest = &self.rest[1..];
                    let close = if start == b'{' { b'}' } else { b']' };
                    if !self.take(close) {
                        if open.len() == MAX_DEPTH {
                            return Err(JsonError);
                        }
                        open.push(close);
                        self.skip_key(close)?;
                        continue;
                    }
                }
                b'"' => self.skip_string()?,
                b't' => self.word(b"true")?,
                b'f' => self.word(b"false")?,
                b'n' => self.word(b"null")?,
                _ => self.number().map(drop)?,
            }
            // A value has ended; the arrays and objects around it may end too.
            loop {
                let Some(&close) = open.last() else {
                    return Ok(());
                };
                if self.take(b',') {
                    self.skip_key(close)?;
                    break;
                }
                self.expect(close)?;
                open.pop();
            }
        }
    }

    /// In an object, skips the key and the colon before a value.
    fn skip_key(&mut self, close: u8) -> Result<(), JsonError> {
        if close == b'}' {
            self.peek();
            self.skip_string()?;
            self.expect(b':')?;
        }
        Ok(())
    }

    /// Skips white space and returns the next byte without consuming it.
    fn peek(&mut self) -> Option<u8> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let at = self.rest.iter().position(|byte| !is_space(byte)).unwrap_or(self.rest.len());
        self.rest = &self.rest[at..];
        self.rest.first().copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        if is_there {
            self.rest = &self.rest[1..];
        }
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.take(byte) { Ok(()) } else { Err(JsonError) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        self.rest = self.rest.strip_prefix(word).ok_or(JsonError)?;
        Ok(())
    }

    fn take_null(&mut self) -> Result<bool, JsonError> {
        if self.peek() != Some(b'n') {
            return Ok(false);
        }
        self.word(b"null").map(|()| true)
    }

    /// Reads a number and returns its text.
    fn number(&mut self) -> Result<&'a [u8], JsonError> {
        self.peek();
        let start = self.rest;
        self.rest = self.rest.strip_prefix(b"-").unwrap_or(self.rest);
        // No digit may follow a leading zero.
        match self.rest.strip_prefix(b"0") {
            Some(rest) => self.rest = rest,
            None => self.digits()?,
        }
        if let Some(rest) = self.rest.strip_prefix(b".") {
            self.rest = rest;
            self.digits()?;
        }
        if let Some((b'e' | b'E', rest)) = self.rest.split_first() {
            self.rest = rest.strip_prefix(b"+").or(rest.strip_prefix(b"-")).unwrap_or(rest);
            self.digits()?;
        }
        Ok(&start[..start.len() - self.rest.len()])
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
        if count > 0 { Ok(()) } else { Err(JsonError) }
    }

    fn skip_string(&mut self) -> Result<(), JsonError> {
        self.scan_string(|_| {})
    }

    fn text(&mut self) -> Result<String, JsonError> {
        self.peek();
        let mut text = String::new();
        self.scan_string(|piece| match piece {
            Piece::Plain(bytes) => put_lossy(&mut text, bytes),
            Piece::Char(c) => text.push(c),
        })?;
        Ok(text)
    }

    /// Reads a string and passes its parts to `put`.
    fn scan_string(&mut self, mut put: impl FnMut(Piece<'a>)) -> Result<(), JsonError> {
        self.rest = self.rest.strip_prefix(b"\"").ok_or(JsonError)?;
        loop {
            let end = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
            let at = self.rest.iter().position(end).ok_or(JsonError)?;
            let (plain, rest) = self.rest.split_at(at);
            put(Piece::Plain(plain));
            self.rest = &rest[1..];
            match rest[0] {
                b'"' => return Ok(()),
                b'\\' => put(Piece::Char(self.escape()?)),
                _ => return Err(JsonError),
            }
        }
    }

    /// Reads the rest of an escape after the backslash.
    fn escape(&mut self) -> Result<char, JsonError> {
        let (&kind, rest) = self.rest.split_first().ok_or(JsonError)?;
        self.rest = rest;
        Ok(match kind {
            b'"' | b'\\' | b'/' => kind as char,
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => self.unicode_escape()?,
            _ => return Err(JsonError),
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonError> {
        let (first, rest) = hex4(self.rest).ok_or(JsonError)?;
        self.rest = rest;
        if let Some(c) = char::from_u32(first) {
            return Ok(c);
        }
        // A surrogate. A lone one becomes U+FFFD; what follows it is then read separately.
        let second = rest.strip_prefix(b"\\u").and_then(hex4);
        if let (0xd800..0xdc00, Some((low @ 0xdc00..0xe000, rest))) = (first, second) {
            self.rest = rest;
            let code = 0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00);
            return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
        }
        Ok(char::REPLACEMENT_CHARACTER)
    }
}

/// A part of a string.
enum Piece<'a> {
    Plain(&'a [u8]),
    Char(char),
}

fn hex4(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = bytes.split_first_chunk::<4>()?;
    let code = digits.iter().try_fold(0, |code, &digit| Some(code << 4 | (digit as char).to_digit(16)?))?;
    Some((code, rest))
}

fn put_lossy(text: &mut String, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        chunk.invalid().iter().for_each(|_| text.push(char::REPLACEMENT_CHARACTER));
    }
}

/// Folds the letter case of `key`: keys that differ only in case give the same result.
///
/// Besides the ASCII letters, two other letters count as `s` and `k` in another case.
pub fn fold_key(key: &str) -> String {
    key.chars()
        .map(|c| match c {
            '\u{17f}' => 's',
            '\u{212a}' => 'k',
            c => c.to_ascii_lowercase(),
        })
        .collect()
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
