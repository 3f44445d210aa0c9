//! Values that are encoded incrementally: the lists of a struct are written item by item.

use serde::Serialize;

use super::Encoding;
use super::response::encoded;

/// Encodes a struct whose `lists` are empty, and cuts the result at each of them. `lists` are field names in the order
/// of the fields. Fill each cut with a [`List`]. Returns the parts before, between and after the lists.
///
/// # Panics
/// If a field of that name is missing or is not an empty list.
pub fn split<T: Serialize>(encoding: Encoding, value: &T, lists: &[&str]) -> Vec<Vec<u8>> {
    let mut rest = encoded(encoding, value).unwrap_or_default();
    let mut parts = Vec::with_capacity(lists.len() + 1);
    for list in lists {
        // Nothing else matches this. In JSON, a quote within a text is escaped, and a colon follows only a key. In
        // MessagePack, the empty list's byte follows the letters of the key, which is not UTF-8 within a text, and a
        // number is shorter or starts differently.
        let (key, empty) = match encoding {
            Encoding::Json => (format!("\"{list}\":").into_bytes(), &b"[]"[..]),
            Encoding::MessagePack => (rmp_serde::to_vec(list).unwrap_or_default(), &b"\x90"[..]),
        };
        let needle = [&key[..], empty].concat();
        let at = memchr::memmem::find(&rest, &needle);
        let at = at.unwrap_or_else(|| panic!("{list} is not an empty list")) + key.len();
        let behind = rest.split_off(at + empty.len());
        rest.truncate(at);
        parts.push(std::mem::replace(&mut rest, behind));
    }
    parts.push(rest);
    parts
}

/// A list that is being written.
#[derive(Debug)]
pub struct List {
    encoding: Encoding,
    is_first: bool,
}

impl List {
    /// Starts a list of `len` items. Exactly that many items must follow.
    pub fn begin(encoding: Encoding, len: usize, out: &mut Vec<u8>) -> Self {
        match (encoding, u32::try_from(len).unwrap_or(u32::MAX)) {
            (Encoding::Json, _) => out.push(b'['),
            (Encoding::MessagePack, len @ 0..16) => out.push(0x90 | len as u8),
            (Encoding::MessagePack, len @ 16..0x1_0000) => {
                out.push(0xdc);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            (Encoding::MessagePack, len) => {
                out.push(0xdd);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        Self { encoding, is_first: true }
    }

    /// Writes the separator. Call it before each item that is written directly.
    pub fn next(&mut self, out: &mut Vec<u8>) {
        if !self.is_first && self.encoding == Encoding::Json {
            out.push(b',');
        }
        self.is_first = false;
    }

    /// Writes an item.
    pub fn item<T: Serialize>(&mut self, item: &T, out: &mut Vec<u8>) {
        self.next(out);
        put(self.encoding, item, out);
    }

    /// Ends the list. Call it after the last item.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.encoding == Encoding::Json {
            out.push(b']');
        }
    }
}

/// A map with arbitrary keys that is being written.
#[derive(Debug)]
pub struct Map {
    encoding: Encoding,
    is_first: bool,
}

impl Map {
    /// Starts a map of `len` entries. Exactly that many entries must follow.
    pub fn begin(encoding: Encoding, len: usize, out: &mut Vec<u8>) -> Self {
        match (encoding, u32::try_from(len).unwrap_or(u32::MAX)) {
            (Encoding::Json, _) => out.push(b'{'),
            (Encoding::MessagePack, len @ 0..16) => out.push(0x80 | len as u8),
            (Encoding::MessagePack, len @ 16..0x1_0000) => {
                out.push(0xde);
                out.extend_from_slice(&(len as u16).to_be_bytes());
            }
            (Encoding::MessagePack, len) => {
                out.push(0xdf);
                out.extend_from_slice(&len.to_be_bytes());
            }
        }
        Self { encoding, is_first: true }
    }

    /// Writes a key. Its value must follow; see [`put`].
    pub fn key(&mut self, key: &str, out: &mut Vec<u8>) {
        if !self.is_first && self.encoding == Encoding::Json {
            out.push(b',');
        }
        self.is_first = false;
        put(self.encoding, key, out);
        if self.encoding == Encoding::Json {
            out.push(b':');
        }
    }

    /// Ends the map. Call it after the last value.
    pub fn end(self, out: &mut Vec<u8>) {
        if self.encoding == Encoding::Json {
            out.push(b'}');
        }
    }
}

/// Encodes a value at the end of `out`.
pub fn put<T: Serialize + ?Sized>(encoding: Encoding, value: &T, out: &mut Vec<u8>) {
    // Only a value whose `Serialize` fails is omitted, and the client then sees that something is missing.
    out.extend_from_slice(&encoded(encoding, value).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn maps_of_any_length_match_the_serializer() {
        for encoding in [Encoding::Json, Encoding::MessagePack] {
            for len in [0, 1, 2, 15, 16, 17, 65_535, 65_536] {
                let whole: std::collections::BTreeMap<String, usize> =
                    (0..len).map(|number| (format!("<{number:05}>"), number)).collect();
                let mut out = Vec::new();
                let mut map = Map::begin(encoding, len, &mut out);
                for (key, number) in &whole {
                    map.key(key, &mut out);
                    put(encoding, number, &mut out);
                }
                map.end(&mut out);
                assert!(out == encoded(encoding, &whole).unwrap(), "{encoding:?} {len}");
            }
        }
    }

    #[derive(Serialize, Clone)]
    struct Outer {
        text: String,
        number: u64,
        first: Vec<String>,
        between: String,
        second: Option<Vec<u32>>,
        last: i64,
    }

    proptest! {
        #[test]
        fn incremental_encoding_matches_the_serializer(
            text in "\\PC{0,8}|\"first\":\\[\\]|.?first|second\":\\[\\]",
            number in any::<u64>(),
            first in prop_oneof![
                prop::collection::vec("\\PC{0,4}|[<>&]", 0..20),
                (15usize..18).prop_map(|len| vec![String::new(); len]),
                (65_534usize..65_538).prop_map(|len| vec![String::new(); len]),
            ],
            second in prop::option::of(prop::collection::vec(any::<u32>(), 0..5)),
            is_packed in any::<bool>(),
        ) {
            let encoding = if is_packed { Encoding::MessagePack } else { Encoding::Json };
            let whole = Outer { text: text.clone(), number, first, between: text, second, last: -1 };
            let hollow = Outer { first: Vec::new(), second: whole.second.as_ref().map(|_| Vec::new()), ..whole.clone() };
            let lists: &[&str] = if whole.second.is_some() { &["first", "second"] } else { &["first"] };
            let mut parts = split(encoding, &hollow, lists).into_iter();
            let mut out = parts.next().unwrap();
            let mut list = List::begin(encoding, whole.first.len(), &mut out);
            whole.first.iter().for_each(|item| list.item(item, &mut out));
            list.end(&mut out);
            out.extend(parts.next().unwrap());
            if let Some(second) = &whole.second {
                let mut list = List::begin(encoding, second.len(), &mut out);
                second.iter().for_each(|item| list.item(item, &mut out));
                list.end(&mut out);
                out.extend(parts.next().unwrap());
            }
            prop_assert_eq!(out, encoded(encoding, &whole).unwrap());
        }
    }
}
