//! Frames: everything that nsqd sends to a client.
//!
//! ```text
//! size(4)  counts what follows: 4 + length of data
//! type(4)  0 response, 1 error, 2 message
//! data
//! ```

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a frame before its data: size and type.
pub const FRAME_HEADER_BYTES: usize = 8;

/// Data of the heartbeat response, which a client answers with NOP.
pub const HEARTBEAT: &[u8] = b"_heartbeat_";

/// Data of the response to a publish, a SUB, and each upgrade of a connection.
pub const OK: &[u8] = b"OK";

/// Data of the response to CLS.
pub const CLOSE_WAIT: &[u8] = b"CLOSE_WAIT";

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FrameType {
    /// `OK`, `CLOSE_WAIT`, `_heartbeat_` or JSON.
    Response = 0,
    /// An error code and a description.
    Error = 1,
    /// A message for a consumer.
    Message = 2,
}

impl FrameType {
    /// The type with this number; `None` if unknown.
    pub fn from_wire(kind: u32) -> Option<Self> {
        match kind {
            0 => Some(Self::Response),
            1 => Some(Self::Error),
            2 => Some(Self::Message),
            _ => None,
        }
    }
}

/// Appends a whole frame to `out`.
///
/// `data` must be shorter than 2 GiB; the protocol's limits ensure this.
pub fn put_frame(out: &mut Vec<u8>, kind: FrameType, data: &[u8]) {
    out.reserve(FRAME_HEADER_BYTES + data.len());
    out.extend_from_slice(&(data.len() as u32 + 4).to_be_bytes());
    out.extend_from_slice(&(kind as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// A frame as a client receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The type of the frame.
    pub kind: FrameType,
    /// Everything after the frame's type; shares memory with the read buffer.
    pub data: Bytes,
}

impl Frame {
    /// Whether this is nsqd's heartbeat. The client must answer it with NOP.
    pub fn is_heartbeat(&self) -> bool {
        self.kind == FrameType::Response && self.data == HEARTBEAT
    }
}

/// An invalid frame. The stream is out of sync and the connection can no longer be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The size field leaves no room for a type.
    #[error("invalid frame size {0}")]
    InvalidSize(i32),
    /// The size field exceeds what the client accepts.
    #[error("frame too big {size} > {max}")]
    TooBig {
        /// The size field.
        size: usize,
        /// The decoder's limit.
        max: usize,
    },
    /// The type is unknown.
    #[error("unknown frame type {0}")]
    UnknownType(u32),
}

/// Splits the input of a client into frames.
#[derive(Clone, Copy, Debug)]
pub struct FrameDecoder {
    max_frame_bytes: usize,
}

impl FrameDecoder {
    /// A decoder that rejects frames whose size field exceeds `max_frame_bytes`.
    pub fn new(max_frame_bytes: usize) -> Self {
        Self { max_frame_bytes }
    }

    /// Takes the first frame out of `buf`. Returns `None` while the frame is incomplete. Once its header has arrived,
    /// `buf` then has capacity for the whole frame.
    ///
    /// Size and type are checked as soon as they have arrived. After an error `buf` is unchanged.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(size) = buf.first_chunk::<4>() else {
            return Ok(None);
        };
        let size = i32::from_be_bytes(*size);
        if size < 4 {
            return Err(FrameError::InvalidSize(size));
        }
        let size = size as usize;
        if size > self.max_frame_bytes {
            return Err(FrameError::TooBig { size, max: self.max_frame_bytes });
        }
        let Some(kind) = buf[4..].first_chunk::<4>() else {
            return Ok(None);
        };
        let kind = u32::from_be_bytes(*kind);
        let kind = FrameType::from_wire(kind).ok_or(FrameError::UnknownType(kind))?;
        let whole = 4 + size;
        if buf.len() < whole {
            buf.reserve(whole - buf.len());
            return Ok(None);
        }
        let mut data = buf.split_to(whole).freeze();
        data.advance(FRAME_HEADER_BYTES);
        Ok(Some(Frame { kind, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: FrameType, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, kind, data);
        out
    }

    #[test]
    fn frames_as_nsqd_sends_them() {
        assert_eq!(frame(FrameType::Response, OK), b"\0\0\0\x06\0\0\0\0OK");
        assert_eq!(frame(FrameType::Response, HEARTBEAT), b"\0\0\0\x0f\0\0\0\0_heartbeat_");
        assert_eq!(frame(FrameType::Response, CLOSE_WAIT), b"\0\0\0\x0e\0\0\0\0CLOSE_WAIT");
    }

    fn decode(bytes: &[u8]) -> Result<Option<Frame>, FrameError> {
        FrameDecoder::new(100).decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn invalid_frames_are_rejected_at_once() {
        assert_eq!(decode(b"\0\0\0\x03"), Err(FrameError::InvalidSize(3)));
        assert_eq!(decode(b"\xff\xff\xff\xff"), Err(FrameError::InvalidSize(-1)));
        assert_eq!(decode(b"\0\0\0\x65"), Err(FrameError::TooBig { size: 101, max: 100 }));
        assert_eq!(decode(b"\0\0\0\x06\0\0\0\x03"), Err(FrameError::UnknownType(3)));
        assert_eq!(decode(b"\0\0\0\x64\0\0\0\x02"), Ok(None));
    }

    #[test]
    fn a_frame_may_be_empty() {
        let frame = decode(b"\0\0\0\x04\0\0\0\0").unwrap().unwrap();
        assert_eq!(frame, Frame { kind: FrameType::Response, data: Bytes::new() });
    }

    fn kinds() -> impl Strategy<Value = FrameType> {
        prop_oneof![Just(FrameType::Response), Just(FrameType::Error), Just(FrameType::Message)]
    }

    proptest! {
        #[test]
        fn frames_survive_any_split(
            sent in prop::collection::vec((kinds(), prop::collection::vec(any::<u8>(), 0..90)), 0..6),
            step in 1usize..40,
        ) {
            let mut wire = Vec::new();
            sent.iter().for_each(|(kind, data)| put_frame(&mut wire, *kind, data));
            let mut decoder = FrameDecoder::new(100);
            let (mut buf, mut received) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(step) {
                buf.extend_from_slice(piece);
                while let Some(frame) = decoder.decode(&mut buf).unwrap() {
                    received.push((frame.kind, frame.data.to_vec()));
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn arbitrary_bytes_neither_panic_nor_grow_the_buffer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut buf = BytesMut::from(&bytes[..]);
            let mut decoder = FrameDecoder::new(1000);
            while let Ok(Some(_)) = decoder.decode(&mut buf) {}
            prop_assert!(buf.capacity() <= 4096);
        }
    }
}
