//! Several messages published at once: the body of MPUB, and of a binary `/mpub`.
//!
//! ```text
//! count(4)  count * ( size(4) body(size) )
//! ```
//!
//! MPUB sends the length of the batch before it. That length is checked against the limit but does not delimit the
//! batch: count and sizes do, as in NSQ. Since the sizes can add up to any total, the total has its own limit here.

use crate::command::Verb;
use crate::error::{ErrorCode, ProtocolError};
use crate::headers::{InvalidHeaders, split_published};
use crate::limits::Limits;

/// Bytes of the size before each message.
const SIZE_BYTES: usize = 4;
/// Bytes of the smallest message in a batch: its size and a body of one byte.
const MIN_ITEM_BYTES: usize = SIZE_BYTES + 1;

/// A validated batch that borrows from the read buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageBatch<'a> {
    /// All sizes and bodies, nothing else.
    items: &'a [u8],
    count: usize,
}

impl<'a> MessageBatch<'a> {
    /// Parses a batch at the start of `buf`; also returns the number of bytes it took. Ignores the bytes after it.
    ///
    /// Checks run from front to back. The first failing check decides, even if the rest of the batch has not arrived.
    pub fn parse_binary(buf: &'a [u8], limits: &Limits) -> Result<(Self, usize), BatchError> {
        Self::resume_binary(buf, Checked::default(), limits)
    }

    /// Like [`Self::parse_binary`], for a batch whose beginning was checked before: `checked` comes from the last
    /// [`BatchError::Incomplete`] for the same batch. A batch that arrives in many pieces costs no more than one that
    /// arrives whole.
    pub(crate) fn resume_binary(
        buf: &'a [u8],
        checked: Checked,
        limits: &Limits,
    ) -> Result<(Self, usize), BatchError> {
        let Some((count, items)) = buf.split_first_chunk::<4>() else {
            return Err(BatchError::Incomplete { part: BatchPart::Count, needed: 4, checked });
        };
        let claimed = i32::from_be_bytes(*count);
        let count = usize::try_from(claimed).unwrap_or(0);
        if count == 0 || count > limits.max_batch_count() {
            return Err(BatchError::InvalidCount(claimed));
        }
        let max_total = limits.max_batch_bytes();
        let mut at = checked.bytes;
        for index in checked.messages..count {
            let checked = Checked { messages: index, bytes: at };
            let Some(size) = items.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
                let needed = 4 + at + SIZE_BYTES;
                return Err(BatchError::Incomplete { part: BatchPart::Size(index), needed, checked });
            };
            let claimed = i32::from_be_bytes(*size);
            let size = usize::try_from(claimed).unwrap_or(0);
            if size == 0 {
                return Err(BatchError::InvalidSize { index, size: claimed });
            }
            if size > limits.max_msg_size {
                return Err(BatchError::MessageTooBig { size, max: limits.max_msg_size });
            }
            at += SIZE_BYTES + size;
            let messages_left = count - index - 1;
            let min_total = 4 + at + messages_left * MIN_ITEM_BYTES;
            if min_total > max_total {
                return Err(BatchError::BatchTooBig { size: min_total, max: max_total });
            }
            if at > items.len() {
                // The size of the next message can be invalid; the rest of this body cannot.
                let next_size = if messages_left > 0 { SIZE_BYTES } else { 0 };
                let needed = 4 + at + next_size;
                return Err(BatchError::Incomplete { part: BatchPart::Body(index), needed, checked });
            }
        }
        Ok((Self { items: &items[..at], count }, 4 + at))
    }

    /// Appends `[count] ([size] [body])*` to `out`: the body of a binary `/mpub`. A batch must be
    /// shorter than 2 GiB.
    pub fn encode_bodies<B: AsRef<[u8]>>(bodies: &[B], out: &mut Vec<u8>) {
        out.reserve(encoded_bytes(bodies));
        out.extend_from_slice(&(bodies.len() as u32).to_be_bytes());
        for body in bodies {
            out.extend_from_slice(&(body.as_ref().len() as u32).to_be_bytes());
            out.extend_from_slice(body.as_ref());
        }
    }

    /// Number of messages; never zero.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Checks that each message is in the form of [`split_published`], and its body is not empty.
    pub(crate) fn check_headers(&self) -> Result<(), BatchError> {
        for (index, message) in self.iter().enumerate() {
            match split_published(message) {
                Ok((_, [])) => return Err(BatchError::InvalidSize { index, size: 0 }),
                Ok(_) => {}
                Err(error) => return Err(BatchError::InvalidHeaders { index, error }),
            }
        }
        Ok(())
    }

    /// Total bytes of all bodies.
    pub fn body_bytes(&self) -> usize {
        self.items.len() - 4 * self.count
    }

    /// The bodies, in order.
    pub fn iter(&self) -> Bodies<'a> {
        Bodies { items: self.items, left: self.count }
    }

    /// Appends length, count and messages, in the form that follows MPUB's line.
    pub(crate) fn put_sized(&self, out: &mut Vec<u8>) {
        out.reserve(8 + self.items.len());
        out.extend_from_slice(&(4 + self.items.len() as u32).to_be_bytes());
        out.extend_from_slice(&(self.count as u32).to_be_bytes());
        out.extend_from_slice(self.items);
    }
}

impl<'a> IntoIterator for MessageBatch<'a> {
    type Item = &'a [u8];
    type IntoIter = Bodies<'a>;
    fn into_iter(self) -> Bodies<'a> {
        self.iter()
    }
}

impl<'a> IntoIterator for &MessageBatch<'a> {
    type Item = &'a [u8];
    type IntoIter = Bodies<'a>;
    fn into_iter(self) -> Bodies<'a> {
        self.iter()
    }
}

/// The bodies of a [`MessageBatch`], in order.
#[derive(Clone, Debug)]
pub struct Bodies<'a> {
    items: &'a [u8],
    left: usize,
}

impl<'a> Iterator for Bodies<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let (size, rest) = self.items.split_first_chunk::<4>()?;
        let (body, rest) = rest.split_at_checked(u32::from_be_bytes(*size) as usize)?;
        self.items = rest;
        self.left -= 1;
        Some(body)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Bodies<'_> {}

/// Appends a whole MPUB command to `out`, straight from the bodies. It must be shorter than 2 GiB.
pub fn put_mpub<B: AsRef<[u8]>>(out: &mut Vec<u8>, topic: &str, bodies: &[B]) {
    put_batch_command(out, Verb::Mpub, topic, bodies);
}

/// Like [`put_mpub`], for MPUB_EXT; each message is in the form of [`split_published`].
pub fn put_mpub_ext<B: AsRef<[u8]>>(out: &mut Vec<u8>, topic: &str, messages: &[B]) {
    put_batch_command(out, Verb::MpubExt, topic, messages);
}

fn put_batch_command<B: AsRef<[u8]>>(out: &mut Vec<u8>, verb: Verb, topic: &str, bodies: &[B]) {
    out.extend_from_slice(verb.name().as_bytes());
    out.push(b' ');
    out.extend_from_slice(topic.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&(encoded_bytes(bodies) as u32).to_be_bytes());
    MessageBatch::encode_bodies(bodies, out);
}

fn encoded_bytes<B: AsRef<[u8]>>(bodies: &[B]) -> usize {
    4 + bodies.iter().map(|body| 4 + body.as_ref().len()).sum::<usize>()
}

/// Why a batch is invalid or incomplete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Valid so far, but incomplete.
    #[error("batch is incomplete")]
    Incomplete {
        /// The part in which the buffer ends.
        part: BatchPart,
        /// Bytes of the batch needed for the next decision: that it is complete, or that the next count or size is
        /// invalid. With fewer bytes the result stays `Incomplete`.
        needed: usize,
        /// The part that need not be checked again.
        checked: Checked,
    },
    /// The count is not positive, or too large even for messages of the smallest size.
    #[error("invalid message count {0}")]
    InvalidCount(i32),
    /// A message has a zero or negative size.
    #[error("invalid message({index}) body size {size}")]
    InvalidSize {
        /// Index of the message, from 0.
        index: usize,
        /// Its size field.
        size: i32,
    },
    /// The headers of a message are invalid.
    #[error("invalid message({index}) {error}")]
    InvalidHeaders {
        /// Index of the message, from 0.
        index: usize,
        /// What is wrong with its headers.
        error: InvalidHeaders,
    },
    /// A message exceeds [`Limits::max_msg_size`].
    #[error("message too big {size} > {max}")]
    MessageTooBig {
        /// Size of the message, in bytes.
        size: usize,
        /// The limit.
        max: usize,
    },
    /// The batch exceeds [`Limits::max_batch_bytes`].
    #[error("body too big {size} > {max}")]
    BatchTooBig {
        /// Minimum size of the whole batch, in bytes.
        size: usize,
        /// [`Limits::max_batch_bytes`].
        max: usize,
    },
}

/// The complete and valid messages at the start of an incomplete batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    messages: usize,
    /// Bytes of their sizes and bodies, without the count before them.
    bytes: usize,
}

/// A part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchPart {
    /// The count at its start.
    Count,
    /// The size of the message with this index.
    Size(usize),
    /// The body of the message with this index.
    Body(usize),
}

impl BatchError {
    /// Whether the error concerns the batch as a whole and not one of its messages.
    pub fn is_about_batch(&self) -> bool {
        matches!(
            self,
            Self::InvalidCount(_)
                | Self::BatchTooBig { .. }
                | Self::Incomplete { part: BatchPart::Count, .. }
        )
    }

    /// The error response to MPUB or MPUB_EXT. For an incomplete batch, the response if no more bytes arrive.
    pub fn to_protocol_error(self, verb: Verb) -> ProtocolError {
        let code = if self.is_about_batch() { ErrorCode::BadBody } else { ErrorCode::BadMessage };
        let text = match self {
            Self::Incomplete { part: BatchPart::Count, .. } => format!("{verb} failed to read message count"),
            Self::Incomplete { part: BatchPart::Size(index), .. } => {
                format!("{verb} failed to read message({index}) body size")
            }
            Self::Incomplete { part: BatchPart::Body(_), .. } => {
                format!("{verb} failed to read message body")
            }
            wrong => format!("{verb} {wrong}"),
        };
        ProtocolError::new(code, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits() -> Limits {
        Limits { max_msg_size: 10, max_body_size: 54, ..Limits::default() }
    }

    fn error(bytes: &[u8]) -> BatchError {
        MessageBatch::parse_binary(bytes, &limits()).unwrap_err()
    }

    fn incomplete(part: BatchPart, needed: usize, checked: Checked) -> BatchError {
        BatchError::Incomplete { part, needed, checked }
    }

    #[test]
    fn batch_is_parsed_in_place() {
        let bytes = b"\0\0\0\x02\0\0\0\x01x\0\0\0\x02yyrest";
        let (batch, consumed) = MessageBatch::parse_binary(bytes, &limits()).unwrap();
        assert_eq!((batch.len(), batch.body_bytes(), consumed), (2, 3, 15));
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&b"x"[..], b"yy"]);
        assert_eq!(batch.iter().len(), 2);
    }

    #[test]
    fn mpub_is_encoded_as_clients_send_it() {
        let mut out = Vec::new();
        put_mpub(&mut out, "t", &["x", "yy"]);
        assert_eq!(out, b"MPUB t\n\0\0\0\x0f\0\0\0\x02\0\0\0\x01x\0\0\0\x02yy");
        out.clear();
        put_mpub_ext(&mut out, "t", &["\0\x02{}x"]);
        assert_eq!(out, b"MPUB_EXT t\n\0\0\0\x0d\0\0\0\x01\0\0\0\x05\0\x02{}x");
    }

    #[test]
    fn headers_of_every_message_are_checked() {
        let check = |messages: &[&[u8]]| {
            let mut bytes = Vec::new();
            MessageBatch::encode_bodies(messages, &mut bytes);
            MessageBatch::parse_binary(&bytes, &limits()).unwrap().0.check_headers()
        };
        assert_eq!(check(&[b"\0\x02{}x", b"\0\x02{}y"]), Ok(()));
        assert_eq!(check(&[b"\0\x02{}x", b"\0\x02{}"]), Err(BatchError::InvalidSize { index: 1, size: 0 }));
        let invalid = |index, error| Err(BatchError::InvalidHeaders { index, error });
        assert_eq!(check(&[b"x", b"\0\x02{}y"]), invalid(0, InvalidHeaders::CutOff));
        assert_eq!(check(&[b"\0\x02{}x", b"\0\x02[]y"]), invalid(1, InvalidHeaders::NotStrings));
    }

    #[test]
    fn count_above_the_limit_is_rejected() {
        // (54 - 4) / 5 = 10
        assert_eq!(error(b"\0\0\0\0"), BatchError::InvalidCount(0));
        assert_eq!(error(b"\xff\xff\xff\xff"), BatchError::InvalidCount(-1));
        assert_eq!(error(b"\0\0\0\x0b"), BatchError::InvalidCount(11));
        assert_eq!(error(b"\0\0\0\x0a"), incomplete(BatchPart::Size(0), 8, Checked::default()));
    }

    #[test]
    fn sizes_are_checked_before_bodies_arrive() {
        assert_eq!(error(b"\0\0\0\x01\0\0\0\0"), BatchError::InvalidSize { index: 0, size: 0 });
        assert_eq!(
            error(b"\0\0\0\x02\0\0\0\x01x\x80\0\0\0"),
            BatchError::InvalidSize { index: 1, size: i32::MIN }
        );
        assert_eq!(error(b"\0\0\0\x01\0\0\0\x0b"), BatchError::MessageTooBig { size: 11, max: 10 });
        assert_eq!(
            error(b"\0\0\0\x02\0\0\0\x0a"),
            incomplete(BatchPart::Body(0), 4 + 14 + 4, Checked::default())
        );
        assert_eq!(
            error(b"\0\0\0\x02\0\0\0\x01x\0\0\0\x02"),
            incomplete(BatchPart::Body(1), 4 + 5 + 6, Checked { messages: 1, bytes: 5 })
        );
    }

    #[test]
    fn checked_messages_are_not_checked_again() {
        let mut bytes = b"\0\0\0\x02\0\0\0\x01x\0\0\0\x02y".to_vec();
        let BatchError::Incomplete { checked, .. } = error(&bytes) else { panic!() };
        // Only a check from the beginning would reject this.
        bytes[4] = 0xff;
        bytes.push(b'z');
        let (batch, consumed) = MessageBatch::resume_binary(&bytes, checked, &limits()).unwrap();
        assert_eq!((batch.len(), consumed), (2, 15));
        assert_eq!(error(&bytes), BatchError::InvalidSize { index: 0, size: -16_777_215 });
    }

    #[test]
    fn total_size_is_limited() {
        let mut bytes = Vec::new();
        MessageBatch::encode_bodies(&[[b'x'; 10]; 4], &mut bytes);
        assert!(MessageBatch::parse_binary(&bytes, &limits()).is_ok());
        bytes.clear();
        MessageBatch::encode_bodies(&[[b'x'; 10]; 5], &mut bytes);
        assert_eq!(error(&bytes), BatchError::BatchTooBig { size: 65, max: 64 });
    }

    #[test]
    fn errors_have_the_texts_of_nsqd() {
        let cases: &[(BatchError, &str)] = &[
            (
                incomplete(BatchPart::Count, 4, Checked::default()),
                "E_BAD_BODY MPUB failed to read message count",
            ),
            (BatchError::InvalidCount(-1), "E_BAD_BODY MPUB invalid message count -1"),
            (
                incomplete(BatchPart::Size(3), 4, Checked::default()),
                "E_BAD_MESSAGE MPUB failed to read message(3) body size",
            ),
            (
                BatchError::InvalidHeaders { index: 1, error: InvalidHeaders::CutOff },
                "E_BAD_MESSAGE MPUB invalid message(1) headers are cut off",
            ),
            (
                BatchError::InvalidSize { index: 2, size: 0 },
                "E_BAD_MESSAGE MPUB invalid message(2) body size 0",
            ),
            (BatchError::MessageTooBig { size: 9, max: 8 }, "E_BAD_MESSAGE MPUB message too big 9 > 8"),
            (
                incomplete(BatchPart::Body(3), 4, Checked::default()),
                "E_BAD_MESSAGE MPUB failed to read message body",
            ),
            (BatchError::BatchTooBig { size: 9, max: 8 }, "E_BAD_BODY MPUB body too big 9 > 8"),
        ];
        for (error, text) in cases {
            assert_eq!(error.clone().to_protocol_error(Verb::Mpub).to_string(), *text);
            let with_headers = error.clone().to_protocol_error(Verb::MpubExt).to_string();
            assert_eq!(with_headers, text.replace("MPUB", "MPUB_EXT"));
        }
    }

    proptest! {
        #[test]
        fn bodies_round_trip(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 1..20),
        ) {
            let mut bytes = Vec::new();
            MessageBatch::encode_bodies(&bodies, &mut bytes);
            let (batch, consumed) = MessageBatch::parse_binary(&bytes, &Limits::default()).unwrap();
            prop_assert_eq!(consumed, bytes.len());
            prop_assert_eq!(batch.iter().map(<[u8]>::to_vec).collect::<Vec<_>>(), bodies);
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_need_too_much(
            bytes in prop::collection::vec(prop_oneof![4 => 0u8..3, 1 => any::<u8>()], 0..100),
        ) {
            let limits = limits();
            match MessageBatch::parse_binary(&bytes, &limits) {
                Ok((batch, consumed)) => {
                    prop_assert!(consumed <= bytes.len());
                    prop_assert_eq!(batch.iter().count(), batch.len());
                    prop_assert_eq!(batch.iter().map(<[u8]>::len).sum::<usize>(), batch.body_bytes());
                }
                Err(BatchError::Incomplete { needed, .. }) => {
                    prop_assert!(needed > bytes.len() && needed <= limits.max_batch_bytes());
                }
                Err(_) => {}
            }
        }
    }
}
