//! The output buffer of one connection.
//!
//! Any thread encodes answers into the buffer without waiting. The connection's writer takes the whole buffer, writes
//! it at once, and then takes what has accumulated meanwhile. In this way answers share a write, and none waits for a
//! timer.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::error::Disconnect;
use crate::transport::WriteHalf;

/// Above this size, the outbox refuses TOUCH, which is optional. The messages in flight bound FIN and REQ.
const CROWDED_BYTES: usize = 1 << 20;
/// The writer frees a buffer with a larger capacity.
const MAX_KEPT_BYTES: usize = 256 << 10;

/// Why bytes were not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotQueued {
    /// Nothing more can be sent on the connection.
    Ended,
    /// Too many bytes wait to be sent.
    Crowded,
}

#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    phase: Phase,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The writer writes the buffer, then closes our side.
    Finishing,
    /// Nothing more is written.
    Closed,
}

impl Outbox {
    /// Queues the bytes that `encode` appends. Returns false if they can no longer be sent.
    pub(super) fn push(&self, encode: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.push_below(usize::MAX, encode).is_ok()
    }

    /// Like [`push`](Outbox::push), but refuses bytes if more than `CROWDED_BYTES` wait already.
    pub(super) fn push_if_room(&self, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotQueued> {
        self.push_below(CROWDED_BYTES, encode)
    }

    fn push_below(&self, max_bytes: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), NotQueued> {
        let mut state = self.state.lock();
        if state.phase != Phase::Open {
            return Err(NotQueued::Ended);
        }
        if state.bytes.len() > max_bytes {
            return Err(NotQueued::Crowded);
        }
        let was_empty = state.bytes.is_empty();
        encode(&mut state.bytes);
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// What waits to be written.
    #[cfg(feature = "test-util")]
    pub(crate) fn copy(&self) -> Vec<u8> {
        self.state.lock().bytes.clone()
    }

    /// Makes the writer write the buffer and then close our side.
    pub(super) fn finish(&self) {
        let mut state = self.state.lock();
        if state.phase == Phase::Open {
            state.phase = Phase::Finishing;
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Drops the buffer, because the connection has ended.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.bytes = Vec::new();
    }

    /// Writes until the connection fails, or all is written after [`finish`](Outbox::finish).
    pub(super) async fn write_to(&self, writer: &mut WriteHalf, timeout: Duration) -> Result<(), Disconnect> {
        let mut bytes = Vec::new();
        loop {
            let phase = {
                let mut state = self.state.lock();
                std::mem::swap(&mut state.bytes, &mut bytes);
                state.phase
            };
            if !bytes.is_empty() {
                writer.write(&bytes, timeout).await?;
                bytes.clear();
                if bytes.capacity() > MAX_KEPT_BYTES {
                    bytes = Vec::new();
                }
                continue;
            }
            if phase != Phase::Open {
                writer.finish().await;
                return Ok(());
            }
            self.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowded_outbox_refuses_only_what_is_optional() {
        let outbox = Outbox::default();
        assert_eq!(outbox.push_if_room(|out| out.resize(CROWDED_BYTES + 1, 0)), Ok(()));
        assert_eq!(outbox.push_if_room(|_| panic!("not encoded")), Err(NotQueued::Crowded));
        assert!(outbox.push(|out| out.push(0)));
        outbox.finish();
        assert_eq!(outbox.push_if_room(|_| panic!("not encoded")), Err(NotQueued::Ended));
        assert!(!outbox.push(|_| panic!("not encoded")));
    }
}
