//! Pure: what a topic remembers about messages that it adopted from other nodes, so that none is stored twice.
//!
//! A node that moves messages here sends one batch of a transfer after the other, and forgets a batch only when it has the
//! answer. After a crash on either side, or a lost answer, only the newest batch is in doubt. So that is all that is
//! remembered of each transfer: the messages of its newest batch, by their numbers on the other node.

use std::collections::VecDeque;

use crate::storage::SequenceRange;
use crate::storage::record::TransferId;

/// Most transfers of a topic that are remembered. One ends when it is complete; beyond this, the oldest is forgotten.
pub const MOST_TRANSFERS: usize = 1000;
/// Most messages in one batch of a transfer.
pub const MOST_MESSAGES: usize = 256;

/// Which run of the other node's drain sends each transfer. A request of an earlier run, which may still be on its way
/// after a crash there, is refused. Not saved: a start here ends all connections.
#[derive(Debug, Default)]
pub struct Sessions(VecDeque<(TransferId, u64)>);

impl Sessions {
    /// A run begins to send a transfer.
    pub fn begin(&mut self, transfer: TransferId, session: u64) {
        self.end(transfer);
        self.0.push_back((transfer, session));
        if self.0.len() > MOST_TRANSFERS {
            self.0.pop_front();
        }
    }

    /// Whether this run sends the transfer now.
    pub fn is_current(&self, transfer: TransferId, session: u64) -> bool {
        self.0.contains(&(transfer, session))
    }

    /// The transfer is complete.
    pub fn end(&mut self, transfer: TransferId) {
        self.0.retain(|(known, _)| *known != transfer);
    }
}

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Adoptions {
    /// Oldest first.
    newest: VecDeque<(TransferId, Vec<SequenceRange>)>,
}

impl Adoptions {
    /// The messages of the newest batch, by their numbers on the other node. Empty if there is none.
    pub fn of(&self, transfer: TransferId) -> &[SequenceRange] {
        self.newest.iter().find(|(known, _)| *known == transfer).map_or(&[], |(_, runs)| runs)
    }

    /// Whether this message was in the newest batch.
    pub fn has(&self, transfer: TransferId, source: u64) -> bool {
        self.of(transfer).iter().any(|run| (run.from..run.to).contains(&source))
    }

    /// A batch is stored. Without messages, the transfer is complete, and forgotten. Returns what was remembered before.
    pub fn replace(&mut self, transfer: TransferId, batch: Vec<SequenceRange>) -> Vec<SequenceRange> {
        let at = self.newest.iter().position(|(known, _)| *known == transfer);
        let before = at.and_then(|at| self.newest.remove(at)).map(|(_, runs)| runs).unwrap_or_default();
        if !batch.is_empty() {
            self.newest.push_back((transfer, batch));
            if self.newest.len() > MOST_TRANSFERS {
                self.newest.pop_front();
            }
        }
        before
    }

    /// Number of transfers that are not complete.
    pub fn count(&self) -> usize {
        self.newest.len()
    }

    /// The form of a checkpoint.
    pub fn save(&self) -> Vec<(u128, Vec<SequenceRange>)> {
        self.newest.iter().map(|(transfer, runs)| (transfer.0, runs.clone())).collect()
    }

    /// Restores what [`Adoptions::save`] returned.
    pub fn restore(saved: &[(u128, Vec<SequenceRange>)]) -> Self {
        let mut adoptions = Adoptions::default();
        for (transfer, runs) in saved {
            adoptions.replace(TransferId(*transfer), runs.clone());
        }
        adoptions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newest_batch_of_each_transfer_is_remembered() {
        let mut adoptions = Adoptions::default();
        let (one, two) = (TransferId(1), TransferId(2));
        assert!(!adoptions.has(one, 3));
        assert_eq!(adoptions.replace(one, vec![SequenceRange::new(3, 5)]), []);
        adoptions.replace(two, vec![SequenceRange::one(3), SequenceRange::one(9)]);
        assert!(adoptions.has(one, 4) && !adoptions.has(one, 9) && adoptions.has(two, 9));
        assert_eq!(adoptions.replace(one, vec![SequenceRange::one(7)]), [SequenceRange::new(3, 5)]);
        assert!(!adoptions.has(one, 4) && adoptions.has(one, 7));
        assert_eq!(Adoptions::restore(&adoptions.save()), adoptions);
        adoptions.replace(two, Vec::new());
        assert_eq!((adoptions.count(), adoptions.of(two)), (1, &[][..]));
        adoptions.replace(two, Vec::new());
        assert_eq!(adoptions.count(), 1, "a complete transfer is not remembered");
    }

    #[test]
    fn requests_of_an_earlier_run_are_refused() {
        let mut sessions = Sessions::default();
        let transfer = TransferId(1);
        assert!(!sessions.is_current(transfer, 7));
        sessions.begin(transfer, 7);
        sessions.begin(TransferId(2), 9);
        sessions.begin(transfer, 8);
        assert!(!sessions.is_current(transfer, 7) && sessions.is_current(transfer, 8));
        sessions.end(transfer);
        assert!(!sessions.is_current(transfer, 8) && sessions.is_current(TransferId(2), 9));
        (0..2 * MOST_TRANSFERS as u128).for_each(|number| sessions.begin(TransferId(number), 1));
        assert_eq!(sessions.0.len(), MOST_TRANSFERS);
    }

    #[test]
    fn the_oldest_transfer_is_forgotten_beyond_the_bound() {
        let mut adoptions = Adoptions::default();
        for number in 0..=MOST_TRANSFERS as u128 {
            adoptions.replace(TransferId(number), vec![SequenceRange::one(1)]);
        }
        assert_eq!(adoptions.count(), MOST_TRANSFERS);
        assert!(!adoptions.has(TransferId(0), 1) && adoptions.has(TransferId(1), 1));
    }
}
