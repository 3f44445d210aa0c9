//! The limits for commands of nsqd's clients.

/// Maximum sizes and numbers in a client's commands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of a message body, in bytes.
    pub max_msg_size: usize,
    /// Maximum size of the body of IDENTIFY, AUTH and MPUB, in bytes.
    pub max_body_size: usize,
    /// Maximum length of a line in bytes, LF included.
    pub max_line_bytes: usize,
    /// Maximum delay of DPUB, in milliseconds. The delay of REQ is not checked here: nsqd clamps it.
    pub max_req_timeout_ms: u64,
    /// Maximum RDY count.
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
    /// Maximum number of messages in a batch: as many of the smallest size as fit into a body.
    pub fn max_batch_count(&self) -> usize {
        self.max_body_size.saturating_sub(4) / 5
    }

    /// Maximum size of a batch, in bytes: that of a body plus one message. NSQ does not hold a batch to the length that
    /// precedes it, so clients that miscount still work.
    pub fn max_batch_bytes(&self) -> usize {
        self.max_body_size.saturating_add(self.max_msg_size)
    }
}
