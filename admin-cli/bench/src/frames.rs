//! Counts the frames in a buffer.

use nsq_protocol::{FRAME_HEADER_BYTES, MESSAGE_HEADER_BYTES, MessageView, frame};

/// A frame `OK` in wire form.
const OK_FRAME: &[u8; 10] = b"\0\0\0\x06\0\0\0\0OK";

/// Bytes of `FIN <id>\n`.
pub const FIN_BYTES: usize = 21;

/// Maximum size of a frame: more than any nsqd allows for a message.
pub const MAX_FRAME_BYTES: usize = 256 << 20;

/// Counts of frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// `OK` answers.
    pub oks: u64,
    /// Messages, including redelivered ones.
    pub messages: u64,
    /// Messages that were handed out before.
    pub redelivered: u64,
    /// FINs that came too late because the message had timed out.
    pub failed_fins: u64,
    /// Heartbeats; each needs an answer.
    pub heartbeats: u64,
    /// Whether `CLOSE_WAIT` arrived: nsqd has processed everything that was sent before CLS.
    pub is_closing: bool,
}

/// Why a stream of frames cannot be read any further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// nsqd sent an error frame.
    #[error("{0}")]
    Refused(String),
    /// The bytes are not frames.
    #[error("it sent bytes that are not a frame of NSQ's protocol")]
    OutOfStep,
}

/// Counts the complete frames at the start of `buf`, and passes each message to `on_message`. Returns the length of
/// these frames.
#[inline]
pub fn scan(
    buf: &[u8],
    tally: &mut Tally,
    mut on_message: impl FnMut(&MessageView<'_>),
) -> Result<usize, Fault> {
    let mut rest = buf;
    loop {
        // The most frequent frame for a publisher, in one comparison.
        while let Some(after) = rest.strip_prefix(OK_FRAME) {
            tally.oks += 1;
            rest = after;
        }
        let Some((header, after)) = rest.split_first_chunk::<FRAME_HEADER_BYTES>() else { break };
        let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if !(4..=MAX_FRAME_BYTES).contains(&size) {
            return Err(Fault::OutOfStep);
        }
        let Some((data, after)) = after.split_at_checked(size - 4) else { break };
        match header[4..] {
            [0, 0, 0, 2] => {
                let message = MessageView::parse(data).ok_or(Fault::OutOfStep)?;
                tally.messages += 1;
                tally.redelivered += u64::from(message.attempts > 1);
                on_message(&message);
            }
            [0, 0, 0, 0] => count_response(data, tally),
            [0, 0, 0, 1] if data.starts_with(b"E_FIN_FAILED") => tally.failed_fins += 1,
            [0, 0, 0, 1] => return Err(Fault::Refused(String::from_utf8_lossy(data).into_owned())),
            _ => return Err(Fault::OutOfStep),
        }
        rest = after;
    }
    Ok(buf.len() - rest.len())
}

fn count_response(data: &[u8], tally: &mut Tally) {
    match data {
        frame::HEARTBEAT => tally.heartbeats += 1,
        frame::CLOSE_WAIT => tally.is_closing = true,
        frame::OK => tally.oks += 1,
        _ => {}
    }
}

/// A single frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First<'a> {
    /// The frame type, as on the wire.
    pub kind: u32,
    pub data: &'a [u8],
    /// Length of the frame with its header.
    pub bytes: usize,
}

/// The first frame of `buf`; `None` if it is incomplete.
pub fn first(buf: &[u8]) -> Result<Option<First<'_>>, Fault> {
    let Some((header, after)) = buf.split_first_chunk::<FRAME_HEADER_BYTES>() else { return Ok(None) };
    let size = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if !(4..=MAX_FRAME_BYTES).contains(&size) {
        return Err(Fault::OutOfStep);
    }
    let kind = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Ok(after.get(..size - 4).map(|data| First { kind, data, bytes: 4 + size }))
}

/// Appends the FIN for a message.
#[inline]
pub fn put_fin(out: &mut Vec<u8>, message: &MessageView<'_>) {
    let mut fin = *b"FIN 0123456789abcdef\n";
    fin[4..20].copy_from_slice(message.id.as_bytes());
    out.extend_from_slice(&fin);
}

/// Appends the REQ for a message, without a delay.
pub fn put_requeue(out: &mut Vec<u8>, message: &MessageView<'_>) {
    out.extend_from_slice(b"REQ ");
    out.extend_from_slice(message.id.as_bytes());
    out.extend_from_slice(b" 0\n");
}

const _: () = assert!(FIN_BYTES == b"FIN 0123456789abcdef\n".len() && MESSAGE_HEADER_BYTES == 26);

#[cfg(test)]
mod tests {
    use super::*;
    use nsq_protocol::{Command, FrameType, MessageId, put_frame, put_message_frame};

    fn stream() -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, FrameType::Response, b"OK");
        put_frame(&mut out, FrameType::Response, b"OK");
        put_message_frame(&mut out, 5, 1, MessageId(*b"0123456789abcdef"), b"first");
        put_frame(&mut out, FrameType::Response, b"_heartbeat_");
        put_message_frame(&mut out, 6, 2, MessageId(*b"fedcba9876543210"), b"second");
        put_frame(&mut out, FrameType::Error, b"E_FIN_FAILED FIN 0123456789abcdef failed ID not in flight");
        put_frame(&mut out, FrameType::Response, b"CLOSE_WAIT");
        put_frame(&mut out, FrameType::Response, b"OK");
        out
    }

    #[test]
    fn frames_are_counted_at_any_split() {
        let stream = stream();
        for step in 1..=stream.len() {
            let (mut tally, mut bodies, mut buf) = (Tally::default(), Vec::new(), Vec::new());
            for piece in stream.chunks(step) {
                buf.extend_from_slice(piece);
                let used = scan(&buf, &mut tally, |message| bodies.push(message.body.to_vec())).unwrap();
                buf.drain(..used);
            }
            let expected = Tally {
                oks: 3,
                messages: 2,
                redelivered: 1,
                failed_fins: 1,
                heartbeats: 1,
                is_closing: true,
            };
            assert_eq!(tally, expected, "in pieces of {step}");
            assert_eq!(bodies, [b"first".to_vec(), b"second".to_vec()]);
            assert!(buf.is_empty());
        }
    }

    #[test]
    fn error_frame_ends_the_scan() {
        let mut out = Vec::new();
        put_frame(&mut out, FrameType::Response, b"OK");
        put_frame(&mut out, FrameType::Error, b"E_BAD_MESSAGE too big");
        let mut tally = Tally::default();
        let fault = scan(&out, &mut tally, |_| {}).unwrap_err();
        assert_eq!((tally.oks, fault), (1, Fault::Refused("E_BAD_MESSAGE too big".into())));
    }

    #[test]
    fn invalid_frame_ends_the_scan() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request"[..],
            b"\0\0\0\x03\0\0\0\0",
            b"\0\0\0\x06\0\0\0\x02ab",
            b"\0\0\0\x04\0\0\0\x03",
        ] {
            assert_eq!(scan(bytes, &mut Tally::default(), |_| {}), Err(Fault::OutOfStep), "{bytes:?}");
        }
    }

    #[test]
    fn first_returns_a_single_frame() {
        assert_eq!(first(OK_FRAME), Ok(Some(First { kind: 0, data: b"OK", bytes: 10 })));
        assert_eq!(first(&OK_FRAME[..9]), Ok(None));
        assert_eq!(first(b"\0\0"), Ok(None));
        assert_eq!(first(b"HTTP/1.1 "), Err(Fault::OutOfStep));
    }

    #[test]
    fn fin_and_req_have_the_form_of_the_protocol() {
        let id = MessageId(*b"18a1d53483a69000");
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        put_fin(&mut ours, &MessageView { timestamp_ns: 0, attempts: 1, id, body: b"" });
        Command::Fin { id }.encode(&mut theirs);
        assert_eq!(ours, theirs);
        assert_eq!(ours.len(), FIN_BYTES);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        put_requeue(&mut ours, &MessageView { timestamp_ns: 0, attempts: 1, id, body: b"" });
        Command::Req { id, delay_ms: 0 }.encode(&mut theirs);
        assert_eq!(ours, theirs);
    }
}
