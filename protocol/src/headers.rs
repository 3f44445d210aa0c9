//! Headers of a message: a JSON object of strings, which only connections that asked for headers see.
//!
//! The layouts are those of youzan/nsq. A producer sends with `PUB_EXT topic`, and for each message of `MPUB_EXT`:
//!
//! ```text
//! size(4)  length of the headers(2)  headers  body
//! ```
//!
//! A consumer that was granted `headers` gets message frames with this data:
//!
//! ```text
//! timestamp(8) attempts(2) id(16) version(1) = 4  length of the headers(2)  headers  body
//! timestamp(8) attempts(2) id(16) version(1) = 0  body
//! ```
//!
//! nsqd stores a message with headers as a frame of a type of its own, which never leaves it:
//!
//! ```text
//! size(4) type(4) = 258  timestamp(8) attempts(2) id(16)  length of the headers(2)  headers  body
//! ```

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Serialize, Serializer};

use crate::frame::FrameType;
use crate::message::{MESSAGE_FRAME_OVERHEAD, put_message_frame};
use crate::message_id::MessageId;
use crate::message_ttl::{self, InvalidTtl};

/// Maximum length of the headers of a message, in bytes.
pub const MAX_HEADERS_BYTES: usize = u16::MAX as usize;
/// Maximum length of a key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// Bytes that a delivered message has more if the connection was granted headers, besides the headers themselves.
pub const VERSION_BYTES: usize = 1;

/// Headers that nsqd understands begin with this. Others with it are refused.
pub const RESERVED_PREFIX: &str = "nsq-";
/// Reserved headers that a producer may set.
pub const OF_PRODUCERS: [&str; 3] = [message_ttl::TTL, KEY, ID];

/// Reserved header: by its value, ordered channels keep messages in order, and fair ones share.
pub const KEY: &str = "nsq-key";

/// The header that identifies a message, so that a topic can store it once.
pub const ID: &str = "nsq-id";
/// Maximum length of the value of [`ID`], in bytes.
pub const MAX_ID_BYTES: usize = 128;

/// The frame type of a stored message with headers.
const STORED_TYPE: u32 = 258;
const VERSION_PLAIN: u8 = 0;
const VERSION_HEADERS: u8 = 4;
const LENGTH_BYTES: usize = 2;

/// What the bytes of a published message are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The body.
    #[default]
    Plain,
    /// Length of the headers, headers and body: see [`split_published`].
    WithHeaders,
}

/// Why headers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHeaders {
    /// More than [`MAX_HEADERS_BYTES`].
    #[error("headers of {0} bytes exceed {MAX_HEADERS_BYTES}")]
    TooLong(usize),
    /// Not a JSON object, or a value is not a string.
    #[error("headers are not a JSON object of strings")]
    NotStrings,
    /// A key is empty, too long, or has a character that keys do not have.
    #[error("header name {0:?} is not 1 to {MAX_KEY_BYTES} characters of a-z A-Z 0-9 . _ - #")]
    Key(String),
    /// A key is there twice.
    #[error("header {0:?} is given twice")]
    Twice(String),
    /// A reserved header that no producer may set.
    #[error("header {0:?} is reserved; producers may set nsq-ttl, nsq-key and nsq-id")]
    Reserved(String),
    /// The value of [`ID`] is empty, or longer than [`MAX_ID_BYTES`].
    #[error("header \"nsq-id\" has {0} bytes; expected 1 to {MAX_ID_BYTES}")]
    Id(usize),
    /// The value of [`TTL`](message_ttl::TTL) is no valid time to live.
    #[error(transparent)]
    Ttl(#[from] InvalidTtl),
    /// The bytes end before the headers do.
    #[error("headers are cut off")]
    CutOff,
}

/// The headers of one message, as JSON that was checked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Checks headers that a producer sent.
    pub fn parse(json: &'a [u8]) -> Result<Self, InvalidHeaders> {
        if json.len() > MAX_HEADERS_BYTES {
            return Err(InvalidHeaders::TooLong(json.len()));
        }
        let pairs = pairs(json).ok_or(InvalidHeaders::NotStrings)?;
        for (index, (key, value)) in pairs.iter().enumerate() {
            check_key(key)?;
            if key == ID && !(1..=MAX_ID_BYTES).contains(&value.len()) {
                return Err(InvalidHeaders::Id(value.len()));
            }
            if key == message_ttl::TTL {
                message_ttl::parse(value)?;
            }
            if pairs[..index].iter().any(|(other, _)| other == key) {
                return Err(InvalidHeaders::Twice(key.to_string()));
            }
        }
        Ok(Headers(json))
    }

    /// Headers that were checked before, such as those of a stored message.
    pub fn trusted(json: &'a [u8]) -> Self {
        Headers(json)
    }

    /// The JSON object.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// The value of a header.
    pub fn get(&self, key: &str) -> Option<Cow<'a, str>> {
        match find(self.0, key) {
            Ok(value) => value.map(Cow::Borrowed),
            Err(HasEscapes) => self.iter().find(|(name, _)| name == key).map(|(_, value)| value),
        }
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        pairs(self.0).unwrap_or_default().into_iter()
    }
}

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl fmt::Debug for Headers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

fn check_key(key: &str) -> Result<(), InvalidHeaders> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-#".contains(&byte);
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !key.bytes().all(is_allowed) {
        return Err(InvalidHeaders::Key(key.chars().take(MAX_KEY_BYTES).collect()));
    }
    if key.starts_with(RESERVED_PREFIX) && !OF_PRODUCERS.contains(&key) {
        return Err(InvalidHeaders::Reserved(key.to_owned()));
    }
    Ok(())
}

/// The pairs of a JSON object of strings; `None` if it is anything else.
fn pairs(json: &[u8]) -> Option<Vec<(Cow<'_, str>, Cow<'_, str>)>> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let pairs = deserializer.deserialize_map(Pairs).ok()?;
    deserializer.end().ok().map(|()| pairs)
}

/// A string of the object has escapes.
struct HasEscapes;

/// The value of a header in a JSON object of strings, without parsing strings that have no escapes.
fn find<'a>(json: &'a [u8], key: &str) -> Result<Option<&'a str>, HasEscapes> {
    let symbol = |json: &'a [u8], symbol: u8| json.trim_ascii_start().strip_prefix(&[symbol]);
    let mut rest = symbol(json, b'{').ok_or(HasEscapes)?;
    if symbol(rest, b'}').is_some() {
        return Ok(None);
    }
    loop {
        let (name, after) = split_plain_string(rest).ok_or(HasEscapes)?;
        let after = symbol(after, b':').ok_or(HasEscapes)?;
        let (value, after) = split_plain_string(after).ok_or(HasEscapes)?;
        if name == key.as_bytes() {
            return std::str::from_utf8(value).map(Some).map_err(|_| HasEscapes);
        }
        match symbol(after, b',') {
            Some(next) => rest = next,
            None => return symbol(after, b'}').map(|_| None).ok_or(HasEscapes),
        }
    }
}

/// A JSON string without escapes, and what follows it.
fn split_plain_string(json: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = json.trim_ascii_start().strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', text)?;
    (text[end] == b'"').then(|| (&text[..end], &text[end + 1..]))
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(Cow<'de, str>, Cow<'de, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some((Text(key), Text(value))) = map.next_entry()? {
            pairs.push((key, value));
        }
        Ok(pairs)
    }
}

/// A string that borrows from the JSON if it has no escapes.
struct Text<'a>(Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visit)
    }
}

/// Headers that are put together from pairs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeadersBuf(Vec<u8>);

impl HeadersBuf {
    /// Encodes pairs, whose keys must be valid and differ.
    pub fn from_pairs<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidHeaders> {
        let mut json = vec![b'{'];
        for (key, value) in pairs {
            if json.len() > 1 {
                json.push(b',');
            }
            // Writing a string to memory cannot fail.
            let _ = serde_json::to_writer(&mut json, key);
            json.push(b':');
            let _ = serde_json::to_writer(&mut json, value);
        }
        json.push(b'}');
        if json.len() > MAX_HEADERS_BYTES {
            return Err(InvalidHeaders::TooLong(json.len()));
        }
        Ok(HeadersBuf(json))
    }

    /// Encodes and checks pairs that a producer gives.
    pub fn of_producer<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidHeaders> {
        let headers = Self::from_pairs(pairs)?;
        Headers::parse(&headers.0)?;
        Ok(headers)
    }

    /// The headers.
    pub fn as_headers(&self) -> Headers<'_> {
        Headers(&self.0)
    }
}

/// Splits what a producer sent for one message into headers and body.
pub fn split_published(message: &[u8]) -> Result<(Headers<'_>, &[u8]), InvalidHeaders> {
    let (json, body) = split_sized(message).ok_or(InvalidHeaders::CutOff)?;
    Headers::parse(json).map(|headers| (headers, body))
}

/// Appends what a producer sends for one message.
pub fn put_published(out: &mut Vec<u8>, headers: Headers<'_>, body: &[u8]) {
    out.extend_from_slice(&(headers.0.len() as u16).to_be_bytes());
    out.extend_from_slice(headers.0);
    out.extend_from_slice(body);
}

fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    rest.split_at_checked(u16::from_be_bytes(*length) as usize)
}

/// Appends the stored frame of a message; `published` is what the producer sent, in this form.
#[inline]
pub fn put_stored_frame(
    out: &mut Vec<u8>,
    timestamp_ns: i64,
    attempts: u16,
    id: MessageId,
    form: Form,
    published: &[u8],
) {
    let start = out.len();
    put_message_frame(out, timestamp_ns, attempts, id, published);
    if form == Form::WithHeaders {
        out[start + 4..start + 8].copy_from_slice(&STORED_TYPE.to_be_bytes());
    }
}

/// Headers and body of a stored frame. `None` if the frame is malformed.
pub fn split_stored(frame: &[u8]) -> Option<(Option<Headers<'_>>, &[u8])> {
    let rest = frame.get(MESSAGE_FRAME_OVERHEAD..)?;
    if !has_headers(frame) {
        return Some((None, rest));
    }
    let (json, body) = split_sized(rest)?;
    Some((Some(Headers(json)), body))
}

/// Whether a stored frame has headers.
#[inline]
pub fn has_headers(frame: &[u8]) -> bool {
    frame.get(4..8) == Some(&STORED_TYPE.to_be_bytes())
}

/// Turns the stored frames from `start` on into frames for a connection that gets no headers.
pub fn remove_headers(frames: &mut Vec<u8>, start: usize) {
    let (mut read, mut write) = (start, start);
    while let Some(frame) = next_frame(frames, read) {
        let end = read + frame.len();
        let body_at = if has_headers(frame) {
            split_stored(frame).map_or(MESSAGE_FRAME_OVERHEAD, |(_, body)| frame.len() - body.len())
        } else {
            MESSAGE_FRAME_OVERHEAD
        };
        let cut = body_at - MESSAGE_FRAME_OVERHEAD;
        if read != write || cut > 0 {
            let size = (end - read - cut - 4) as u32;
            frames.copy_within(read..read + MESSAGE_FRAME_OVERHEAD, write);
            frames[write..write + 4].copy_from_slice(&size.to_be_bytes());
            frames[write + 4..write + 8].copy_from_slice(&(FrameType::Message as u32).to_be_bytes());
            frames.copy_within(read + body_at..end, write + MESSAGE_FRAME_OVERHEAD);
        }
        write += end - read - cut;
        read = end;
    }
    frames.truncate(write);
}

/// Turns the stored frames from `start` on into frames for a connection that was granted headers.
pub fn add_versions(frames: &mut Vec<u8>, start: usize) {
    let stored = frames.split_off(start);
    let mut at = 0;
    while let Some(frame) = next_frame(&stored, at) {
        let version = if has_headers(frame) { VERSION_HEADERS } else { VERSION_PLAIN };
        frames.extend_from_slice(&((frame.len() - 4 + 1) as u32).to_be_bytes());
        frames.extend_from_slice(&(FrameType::Message as u32).to_be_bytes());
        frames.extend_from_slice(&frame[8..MESSAGE_FRAME_OVERHEAD]);
        frames.push(version);
        frames.extend_from_slice(&frame[MESSAGE_FRAME_OVERHEAD..]);
        at += frame.len();
    }
}

fn next_frame(frames: &[u8], at: usize) -> Option<&[u8]> {
    let size = u32::from_be_bytes(*frames.get(at..)?.first_chunk()?) as usize;
    frames.get(at..at + 4 + size).filter(|frame| frame.len() >= MESSAGE_FRAME_OVERHEAD)
}

/// Splits what follows the id in a message frame of a connection that was granted headers. `None` if it is malformed.
pub fn split_delivered(rest: &[u8]) -> Option<(Option<Headers<'_>>, &[u8])> {
    match rest.split_first()? {
        (&VERSION_HEADERS, rest) => split_sized(rest).map(|(json, body)| (Some(Headers(json)), body)),
        (_, body) => Some((None, body)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::FRAME_HEADER_BYTES;
    use crate::message::{MESSAGE_HEADER_BYTES, MessageView};

    const MESSAGE_ID: MessageId = MessageId(*b"18a1d53483a69000");

    #[test]
    fn a_json_object_of_strings_is_accepted() {
        let headers = Headers::parse(br#" {"a":"1", "B_c.d-e#":"\u00e4\n", "nsq-key":"k"} "#).unwrap();
        let pairs: Vec<_> = headers.iter().collect();
        assert_eq!(
            pairs,
            [("a".into(), "1".into()), ("B_c.d-e#".into(), "ä\n".into()), ("nsq-key".into(), "k".into())]
        );
        assert_eq!(headers.get("nsq-key").as_deref(), Some("k"));
        assert_eq!(headers.get("x"), None);
        assert_eq!(Headers::parse(b"{}").unwrap().iter().count(), 0);
        assert!(HeadersBuf::of_producer([("a", "b"), ("nsq-ttl", "5s")]).is_ok());
        let error = HeadersBuf::of_producer([("nsq-ttl", "5")]).unwrap_err().to_string();
        assert!(error.starts_with("header \"nsq-ttl\" is \"5\": missing unit"), "{error}");
        assert_eq!(
            HeadersBuf::of_producer([("a", ""), ("a", "")]),
            Err(InvalidHeaders::Twice("a".to_owned()))
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for json in
            ["", "[]", "null", r#""a""#, r#"{"a":1}"#, r#"{"a":{}}"#, r#"{"a":null}"#, r#"{"a":"b"} x"#, "{"]
        {
            assert_eq!(Headers::parse(json.as_bytes()), Err(InvalidHeaders::NotStrings), "{json}");
        }
        assert_eq!(Headers::parse(b"{\"a\":\"\xff\"}"), Err(InvalidHeaders::NotStrings));
        for (json, error) in [
            (r#"{"":"x"}"#, InvalidHeaders::Key(String::new())),
            (r#"{"a b":"x"}"#, InvalidHeaders::Key("a b".to_owned())),
            (r#"{"a":"x","a":"y"}"#, InvalidHeaders::Twice("a".to_owned())),
            (r#"{"nsq-dead-reason":"x"}"#, InvalidHeaders::Reserved("nsq-dead-reason".to_owned())),
        ] {
            assert_eq!(Headers::parse(json.as_bytes()), Err(error), "{json}");
        }
        let id = |length: usize| HeadersBuf::of_producer([("nsq-id", &*"x".repeat(length))]).map(drop);
        assert_eq!([id(1), id(128)], [Ok(()), Ok(())]);
        assert_eq!([id(0), id(129)], [Err(InvalidHeaders::Id(0)), Err(InvalidHeaders::Id(129))]);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_HEADERS_BYTES - 8));
        assert!(Headers::parse(long.as_bytes()).is_ok());
        let longer = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_HEADERS_BYTES - 7));
        assert_eq!(Headers::parse(longer.as_bytes()), Err(InvalidHeaders::TooLong(MAX_HEADERS_BYTES + 1)));
    }

    #[test]
    fn published_messages_are_split() {
        assert_eq!(split_published(b"\0\x09{\"a\":\"b\"}body"), Ok((Headers(br#"{"a":"b"}"#), &b"body"[..])));
        assert_eq!(split_published(b"\0\x02{}"), Ok((Headers(b"{}"), &b""[..])));
        for cut in [&b""[..], b"\0", b"\0\x03{}"] {
            assert_eq!(split_published(cut), Err(InvalidHeaders::CutOff));
        }
    }

    /// Stored frames of messages with and without headers.
    fn stored(messages: &[(Option<&str>, &[u8])]) -> Vec<u8> {
        let mut frames = b"before".to_vec();
        for (headers, body) in messages {
            let (mut published, mut form) = (body.to_vec(), Form::Plain);
            if let Some(json) = headers {
                published.clear();
                put_published(&mut published, Headers(json.as_bytes()), body);
                form = Form::WithHeaders;
            }
            put_stored_frame(&mut frames, -7, 3, MESSAGE_ID, form, &published);
        }
        frames
    }

    /// The data of consecutive frames.
    fn data(mut frames: &[u8]) -> Vec<&[u8]> {
        let mut all = Vec::new();
        while let Some(frame) = next_frame(frames, 0) {
            assert_eq!(frame[4..8], [0, 0, 0, 2]);
            all.push(&frame[FRAME_HEADER_BYTES..]);
            frames = &frames[frame.len()..];
        }
        assert!(frames.is_empty());
        all
    }

    proptest! {
        #[test]
        fn every_connection_gets_its_frames(
            messages in prop::collection::vec(
                (prop::option::of("[a-z ]{0,40}"), prop::collection::vec(any::<u8>(), 0..50)), 0..6),
        ) {
            let json = |value: &Option<String>| value.as_ref().map(|value| format!(r#"{{"a":"{value}"}}"#));
            let all: Vec<_> = messages.iter().map(|(value, body)| (json(value), body.as_slice())).collect();
            let all: Vec<_> = all.iter().map(|(json, body)| (json.as_deref(), *body)).collect();
            let frames = stored(&all);

            let mut at = 6;
            for (json, body) in &all {
                let frame = next_frame(&frames, at).unwrap();
                let headers = json.map(|json| Headers(json.as_bytes()));
                prop_assert_eq!(split_stored(frame), Some((headers, *body)));
                at += frame.len();
            }

            let mut plain = frames.clone();
            remove_headers(&mut plain, 6);
            let mut extended = frames;
            add_versions(&mut extended, 6);
            prop_assert!(plain.starts_with(b"before") && extended.starts_with(b"before"));
            let (plain, extended) = (data(&plain[6..]), data(&extended[6..]));
            prop_assert_eq!((plain.len(), extended.len()), (all.len(), all.len()));
            for (((json, body), plain), extended) in all.iter().zip(plain).zip(extended) {
                let view = MessageView::parse(plain).unwrap();
                prop_assert_eq!((view.timestamp_ns, view.attempts, view.id, view.body), (-7, 3, MESSAGE_ID, *body));
                prop_assert_eq!(&extended[..MESSAGE_HEADER_BYTES], &plain[..MESSAGE_HEADER_BYTES]);
                let headers = json.map(|json| Headers(json.as_bytes()));
                prop_assert_eq!(split_delivered(&extended[MESSAGE_HEADER_BYTES..]), Some((headers, *body)));
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            let _ = (Headers::parse(&bytes), split_published(&bytes), split_stored(&bytes), split_delivered(&bytes));
            remove_headers(&mut bytes.clone(), 0);
            add_versions(&mut bytes.clone(), 0);
        }

        #[test]
        fn one_header_is_found_as_by_parsing_all(
            // Strings of JSON, with and without escapes, and names in values.
            pairs in prop::collection::vec((r"[ab]{1,2}|\\u0061", r#"[ab:,}]{0,3}|\\"a|\\\\|é"#), 0..4),
            space in "[ \n]{0,2}",
        ) {
            let pair = |(key, value): &(String, String)| format!(r#"{space}"{key}"{space}:{space}"{value}"{space}"#);
            let json = format!("{space}{{{}{space}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","));
            let headers = Headers::trusted(json.as_bytes());
            prop_assert_eq!(headers.iter().count(), pairs.len(), "{}", json);
            for key in ["a", "b", "ab", "none", "\u{e9}"] {
                let expected = headers.iter().find(|(name, _)| name == key).map(|(_, value)| value);
                prop_assert_eq!(headers.get(key), expected, "{} in {}", key, json);
            }
        }

        #[test]
        fn pairs_round_trip(values in prop::collection::btree_map("[a-z]{1,8}", ".{0,20}", 0..6)) {
            let pairs = values.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let headers = HeadersBuf::from_pairs(pairs.clone()).unwrap();
            let checked = Headers::parse(headers.as_headers().as_bytes()).unwrap();
            let read: Vec<_> = checked.iter().map(|(key, value)| (key.into_owned(), value.into_owned())).collect();
            prop_assert_eq!(read, values.into_iter().collect::<Vec<_>>());
        }
    }
}
