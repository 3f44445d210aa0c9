//! Limits how much one connection may do before it yields to others.
//!
//! The runtime does not preempt tasks: a task that never waits keeps its thread. A connection whose peer sends without
//! pause never waits, especially if few bytes decompress to many. So each connection counts its work and yields when
//! its turn is over.

/// Approximate number of bytes read, decompressed, compressed or written in one turn; one command may exceed it.
pub const TURN_BYTES: usize = 256 * 1024;
/// Approximate number of commands executed in one turn; commands executed under one lock may exceed it.
pub const TURN_COMMANDS: usize = 2048;

/// The remaining work of a connection's turn.
#[derive(Debug)]
pub struct Turn {
    bytes_left: usize,
    commands_left: usize,
}

impl Default for Turn {
    fn default() -> Self {
        Turn { bytes_left: TURN_BYTES, commands_left: TURN_COMMANDS }
    }
}

impl Turn {
    /// Records that `count` bytes were moved.
    #[inline]
    pub fn spend_bytes(&mut self, count: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(count);
    }

    /// Records that `count` commands were executed or messages published.
    #[inline]
    pub fn spend_commands(&mut self, count: usize) {
        self.commands_left = self.commands_left.saturating_sub(count);
    }

    /// Whether the connection must yield before it continues.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.bytes_left == 0 || self.commands_left == 0
    }

    /// Starts a new turn, because the connection has waited or is about to.
    #[inline]
    pub fn begin_anew(&mut self) {
        *self = Turn::default();
    }

    /// Yields to other tasks if the turn is over; returns whether it was.
    #[inline]
    pub async fn pass_on(&mut self) -> bool {
        let is_over = self.is_over();
        if is_over {
            tokio::task::yield_now().await;
            self.begin_anew();
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_limit_ends_the_turn() {
        let mut turn = Turn::default();
        turn.spend_bytes(TURN_BYTES - 1);
        turn.spend_commands(TURN_COMMANDS - 1);
        assert!(!turn.is_over());
        turn.spend_bytes(usize::MAX);
        assert!(turn.is_over());
        turn.begin_anew();
        assert!(!turn.is_over());
        turn.spend_commands(TURN_COMMANDS);
        assert!(turn.is_over());
    }

    #[tokio::test]
    async fn other_tasks_run_only_when_the_turn_is_over() {
        let other = tokio::spawn(async {});
        let mut turn = Turn::default();
        assert!(!turn.pass_on().await);
        assert!(!other.is_finished());
        turn.spend_commands(TURN_COMMANDS);
        assert!(turn.pass_on().await);
        assert!(other.is_finished() && !turn.is_over());
    }
}
