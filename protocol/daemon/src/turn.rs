//! How long a connection may go on before others get their turn.
//!
//! The runtime interrupts nobody: a task that never has to wait keeps its thread. A connection whose peer sends
//! without pause never has to wait, least of all if few bytes decompress to many. So it counts what it does, and
//! yields when its turn is over.

/// Bytes read, decompressed, compressed or written in one turn, about; one command may exceed it.
pub const TURN_BYTES: usize = 256 * 1024;
/// Commands executed in one turn, about; those that are executed under one lock may exceed it.
pub const TURN_COMMANDS: usize = 2048;

/// What is left of a connection's turn.
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
    /// So many bytes were moved.
    #[inline]
    pub fn spend_bytes(&mut self, count: usize) {
        self.bytes_left = self.bytes_left.saturating_sub(count);
    }

    /// So many commands were executed, or messages published.
    #[inline]
    pub fn spend_commands(&mut self, count: usize) {
        self.commands_left = self.commands_left.saturating_sub(count);
    }

    /// Whether others must have their turn before this connection goes on.
    #[inline]
    pub fn is_over(&self) -> bool {
        self.bytes_left == 0 || self.commands_left == 0
    }

    /// The connection has waited, or begins to.
    #[inline]
    pub fn begin_anew(&mut self) {
        *self = Turn::default();
    }

    /// Lets others have their turn if this one is over; returns whether it was.
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
    fn either_limit_ends_a_turn() {
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
    async fn others_run_only_when_a_turn_is_over() {
        let other = tokio::spawn(async {});
        let mut turn = Turn::default();
        assert!(!turn.pass_on().await);
        assert!(!other.is_finished());
        turn.spend_commands(TURN_COMMANDS);
        assert!(turn.pass_on().await);
        assert!(other.is_finished() && !turn.is_over());
    }
}
