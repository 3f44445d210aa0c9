//! The limits for what a client of nsqd sends.

/// How much a client may send at once, and how far its numbers may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest body of a message.
    pub max_msg_size: usize,
    /// Longest body of IDENTIFY, AUTH and MPUB.
    pub max_body_size: usize,
    /// Longest line, LF included.
    pub max_line_bytes: usize,
    /// Longest delay of DPUB, in milliseconds. REQ is not checked here: nsqd clamps it.
    pub max_req_timeout_ms: u64,
    /// Largest count of RDY.
    pub max_rdy_count: u64,
}

impl Default for Limits {
    /// NSQ's defaults.
    fn default() -> Self {
        Self {
            max_msg_size: 1 << 20,
            max_body_size: 5 << 20,
            max_line_bytes: 16 << 10,
            max_req_timeout_ms: 3_600_000,
            max_rdy_count: 2500,
        }
    }
}

impl Limits {
    /// Most messages in a batch: as many of the smallest as fit a body.
    pub fn max_batch_count(&self) -> usize {
        self.max_body_size.saturating_sub(4) / 5
    }

    /// Most bytes of a batch. One message more than a body may have, because NSQ does not hold a
    /// batch to the length that precedes it, and a client that miscounts still works.
    pub fn max_batch_bytes(&self) -> usize {
        self.max_body_size.saturating_add(self.max_msg_size)
    }
}
