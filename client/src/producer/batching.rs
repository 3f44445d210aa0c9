//! Which publishes share one MPUB, and when a batch is due. Pure.

use std::time::{Duration, Instant};

/// The limits of an automatic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchLimits {
    pub(super) messages: usize,
    /// Including the framing of MPUB.
    pub(super) bytes: usize,
}

impl BatchLimits {
    /// The limits for an nsqd that accepts batches up to this size, in bytes.
    pub(super) fn within(self, max_body_size: usize) -> Self {
        BatchLimits { bytes: self.bytes.min(max_body_size), ..self }
    }
}

/// Bytes before a batch (its number of messages), and before each message (its size).
pub(super) const BATCH_COUNT_BYTES: usize = 4;
pub(super) const BATCH_SIZE_BYTES: usize = 4;

/// The size of the batch that is being filled.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filling {
    messages: usize,
    bytes: usize,
}

impl Filling {
    /// A batch with one message.
    pub(super) fn with(body_bytes: usize) -> Self {
        Filling { messages: 1, bytes: BATCH_COUNT_BYTES + BATCH_SIZE_BYTES + body_bytes }
    }

    /// Adds a message if the limits allow it.
    pub(super) fn add(&mut self, body_bytes: usize, limits: &BatchLimits) -> bool {
        let bytes = self.bytes + BATCH_SIZE_BYTES + body_bytes;
        let fits = self.messages < limits.messages && bytes <= limits.bytes;
        if fits {
            self.messages += 1;
            self.bytes = bytes;
        }
        fits
    }
}

/// What waits to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    /// When the oldest publish was queued.
    pub(super) oldest: Instant,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// Something waits that is not for a batch, or someone waits for the queue to empty.
    pub(super) is_urgent: bool,
}

/// Returns how long the writer still waits for more messages; `None` if it writes now.
pub(super) fn wait_for_more(
    waiting: &Waiting,
    linger: Duration,
    limits: &BatchLimits,
    now: Instant,
) -> Option<Duration> {
    if waiting.is_urgent || waiting.messages >= limits.messages || waiting.bytes >= limits.bytes {
        return None;
    }
    (waiting.oldest + linger).checked_duration_since(now).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { messages: 3, bytes: 40 };

    #[test]
    fn a_batch_ends_at_its_limits() {
        let mut filling = Filling::with(10);
        assert!(filling.add(10, &LIMITS));
        assert!(!filling.add(5, &LIMITS), "4 + 14 + 14 + 9 bytes exceed 40");
        assert!(filling.add(4, &LIMITS), "exactly full");
        assert!(!Filling::with(100).add(1, &LIMITS), "a large message is alone");
        let mut small = Filling::with(1);
        assert!(small.add(1, &LIMITS) && small.add(1, &LIMITS));
        assert!(!small.add(1, &LIMITS), "three messages");
        assert!(!Filling::with(1).add(1, &BatchLimits { messages: 1, bytes: 40 }), "1 turns batches off");
    }

    #[test]
    fn the_writer_waits_until_the_oldest_lingered_or_the_batch_is_full() {
        let oldest = Instant::now();
        let linger = Duration::from_millis(10);
        let waiting = Waiting { oldest, messages: 1, bytes: 1, is_urgent: false };
        let left = |waiting, after| wait_for_more(&waiting, linger, &LIMITS, oldest + after);
        assert_eq!(left(waiting, Duration::ZERO), Some(linger));
        assert_eq!(left(waiting, Duration::from_millis(4)), Some(Duration::from_millis(6)));
        assert_eq!(left(waiting, linger), None);
        assert_eq!(left(Waiting { messages: 3, ..waiting }, Duration::ZERO), None);
        assert_eq!(left(Waiting { bytes: 40, ..waiting }, Duration::ZERO), None);
        assert_eq!(left(Waiting { is_urgent: true, ..waiting }, Duration::ZERO), None);
        assert_eq!(wait_for_more(&waiting, Duration::ZERO, &LIMITS, oldest), None);
    }
}
