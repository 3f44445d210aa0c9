//! Message frames as nsqd stores them.

use nsq_protocol::{MessageId, MessageView, put_message_frame};

/// A message without its id.
pub type Stored = (i64, Vec<u8>);

/// Appends the frame of message number `sequence`, whose content depends only on that number.
pub fn put(out: &mut Vec<u8>, sequence: u64) {
    let body: Vec<u8> =
        (0..10 + sequence % 60).map(|at| sequence.wrapping_mul(31).wrapping_add(at) as u8).collect();
    let timestamp_ns = 1_700_000_000_000_000_000_i64.wrapping_add(sequence as i64);
    put_message_frame(out, timestamp_ns, 1, MessageId::from_u64(sequence), &body);
}

/// The frames of messages with consecutive numbers, back to back.
pub fn run(from: u64, count: u32) -> Vec<u8> {
    let mut frames = Vec::new();
    (from..from + u64::from(count)).for_each(|sequence| put(&mut frames, sequence));
    frames
}

/// The message in a stored frame.
///
/// # Panics
///
/// If it is not a message frame.
pub fn stored(frame: &[u8]) -> Stored {
    let data = frame.get(8..).expect("a frame has a header");
    let MessageView { timestamp_ns, body, .. } = MessageView::parse(data).expect("a frame holds a message");
    (timestamp_ns, body.to_vec())
}
