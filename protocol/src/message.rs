//! A message frame, which is also how nsqd keeps a message in its log.
//!
//! ```text
//! offset in frame   in data
//!  0                        size(4)
//!  4                        type(4) = 2
//!  8                0       timestamp(8)  signed, nanoseconds since 1970, when it was published
//! 16                8       attempts(2)   1 on first delivery
//! 18                10      id(16)
//! 34                26      body
//! ```

use bytes::{Buf, Bytes};

use crate::frame::{FRAME_HEADER_BYTES, FrameType};
use crate::message_id::MessageId;

/// Bytes of a message before its body: timestamp, attempts, id.
pub const MESSAGE_HEADER_BYTES: usize = 26;

/// Bytes of a message frame before the body.
pub const MESSAGE_FRAME_OVERHEAD: usize = FRAME_HEADER_BYTES + MESSAGE_HEADER_BYTES;

const _: () = assert!(MESSAGE_FRAME_OVERHEAD == 34 && MESSAGE_HEADER_BYTES == 8 + 2 + MessageId::BYTES);

/// Appends a whole message frame to `out`. `body` must be shorter than 2 GiB.
#[inline]
pub fn put_message_frame(out: &mut Vec<u8>, timestamp_ns: i64, attempts: u16, id: MessageId, body: &[u8]) {
    // The header is built on the stack, so that `out` is grown and written twice, not six times.
    let mut header = [0; MESSAGE_FRAME_OVERHEAD];
    header[..4].copy_from_slice(&((4 + MESSAGE_HEADER_BYTES + body.len()) as u32).to_be_bytes());
    header[4..8].copy_from_slice(&(FrameType::Message as u32).to_be_bytes());
    header[8..16].copy_from_slice(&timestamp_ns.to_be_bytes());
    header[16..18].copy_from_slice(&attempts.to_be_bytes());
    header[18..].copy_from_slice(id.as_bytes());
    out.reserve(MESSAGE_FRAME_OVERHEAD + body.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(body);
}

/// Overwrites the attempts in an encoded message frame. A slice that is too short stays unchanged.
#[inline]
pub fn set_attempts(frame: &mut [u8], attempts: u16) {
    debug_assert!(frame.len() >= MESSAGE_FRAME_OVERHEAD, "not a message frame");
    if let Some(field) = frame.get_mut(16..18) {
        field.copy_from_slice(&attempts.to_be_bytes());
    }
}

/// A message that borrows from the buffer it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageView<'a> {
    /// When the message was published, in nanoseconds since 1970.
    pub timestamp_ns: i64,
    /// How often the message was handed out, including this time.
    pub attempts: u16,
    /// Id of the message.
    pub id: MessageId,
    /// The publisher's bytes.
    pub body: &'a [u8],
}

impl<'a> MessageView<'a> {
    /// Parses the data of a message frame (the part after the frame's header); `None` if it is too short.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let (timestamp, rest) = data.split_first_chunk::<8>()?;
        let (attempts, rest) = rest.split_first_chunk::<2>()?;
        let (id, body) = rest.split_first_chunk::<16>()?;
        Some(Self {
            timestamp_ns: i64::from_be_bytes(*timestamp),
            attempts: u16::from_be_bytes(*attempts),
            id: MessageId(*id),
            body,
        })
    }
}

/// An owned message, whose body shares memory with its frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// When the message was published, in nanoseconds since 1970.
    pub timestamp_ns: i64,
    /// How often the message was handed out, including this time.
    pub attempts: u16,
    /// Id of the message.
    pub id: MessageId,
    /// The publisher's bytes.
    pub body: Bytes,
}

impl Message {
    /// Parses the data of a message frame without copying the body; `None` if it is too short.
    pub fn parse(mut data: Bytes) -> Option<Self> {
        let MessageView { timestamp_ns, attempts, id, .. } = MessageView::parse(&data)?;
        data.advance(MESSAGE_HEADER_BYTES);
        Some(Self { timestamp_ns, attempts, id, body: data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SAMPLE: &[u8] = b"\0\0\0\x1f\0\0\0\x02\x18\xe9\xbe\x1d\x45\xe1\x3c\xe3\0\x0118a1d53483a69000x";

    #[test]
    fn frame_is_encoded_as_nsqd_sends_it() {
        let mut frame = Vec::new();
        let id = MessageId::from_u64(0x18a1_d534_83a6_9000);
        put_message_frame(&mut frame, 0x18e9_be1d_45e1_3ce3, 1, id, b"x");
        assert_eq!(frame, SAMPLE);
    }

    #[test]
    fn attempts_are_overwritten_in_place() {
        let mut frame = SAMPLE.to_vec();
        set_attempts(&mut frame, 0x1234);
        assert_eq!(MessageView::parse(&frame[FRAME_HEADER_BYTES..]).unwrap().attempts, 0x1234);
        set_attempts(&mut frame, 1);
        assert_eq!(frame, SAMPLE);
    }

    #[test]
    fn too_short_data_is_rejected() {
        let data = &SAMPLE[FRAME_HEADER_BYTES..];
        for len in 0..MESSAGE_HEADER_BYTES {
            assert_eq!(MessageView::parse(&data[..len]), None);
            assert_eq!(Message::parse(Bytes::copy_from_slice(&data[..len])), None);
        }
        assert_eq!(MessageView::parse(&data[..MESSAGE_HEADER_BYTES]).unwrap().body, b"");
    }

    proptest! {
        #[test]
        fn messages_round_trip(timestamp_ns: i64, attempts: u16, id: [u8; 16], body: Vec<u8>) {
            let id = MessageId(id);
            let mut frame = Vec::new();
            put_message_frame(&mut frame, timestamp_ns, attempts, id, &body);
            let data = &frame[FRAME_HEADER_BYTES..];
            let view = MessageView { timestamp_ns, attempts, id, body: &body };
            prop_assert_eq!(MessageView::parse(data), Some(view));
            let owned = Message::parse(Bytes::copy_from_slice(data)).unwrap();
            prop_assert_eq!(owned, Message { timestamp_ns, attempts, id, body: body.into() });
        }
    }
}
