//! Publishers wait for upkeep while the journal is about to fill its volume with obsolete records.
//!
//! A fast publisher fills a small volume in less time than passes between two rounds of upkeep. A delay of some
//! milliseconds is better than a refused publish. If upkeep cannot free space, no publisher waits: the publish is
//! accepted or refused at once.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// Maximum wait of one publisher.
const PATIENCE: Duration = Duration::from_secs(1);
/// A round may have started before the publisher arrived, so only the next round is sure to see everything.
const ROUNDS: u64 = 2;

/// See the module.
#[derive(Debug)]
pub struct Backpressure {
    wanted: Notify,
    rounds: watch::Sender<u64>,
}

impl Default for Backpressure {
    fn default() -> Self {
        Self { wanted: Notify::new(), rounds: watch::Sender::new(0) }
    }
}

impl Backpressure {
    /// Requests upkeep and waits while `is_tight`, for at most two rounds and one second. Dropping the future is safe.
    pub async fn wait_while(&self, is_tight: impl Fn() -> bool) {
        let mut rounds = self.rounds.subscribe();
        let end = *rounds.borrow_and_update() + ROUNDS;
        let waiting = async {
            while is_tight() && *rounds.borrow_and_update() < end {
                self.wanted.notify_one();
                // `self` owns the sender, so this cannot fail.
                let _ = rounds.changed().await;
            }
        };
        let _ = timeout(PATIENCE, waiting).await;
    }

    /// Waits until a publisher requests upkeep.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Reports that a round of upkeep ended, whether or not it freed space.
    pub fn round_is_over(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn publisher_waits_until_there_is_room_or_upkeep_can_make_none() {
        let backpressure = Backpressure::default();
        backpressure.wait_while(|| false).await;
        for rounds_until_room in [1, 2, u64::MAX] {
            let (rounds, tight) = (Cell::new(0), Cell::new(true));
            let upkeep = async {
                while rounds.get() < ROUNDS && tight.get() {
                    backpressure.wanted().await;
                    rounds.set(rounds.get() + 1);
                    tight.set(rounds.get() < rounds_until_room);
                    backpressure.round_is_over();
                }
            };
            tokio::join!(upkeep, backpressure.wait_while(|| tight.get()));
            assert_eq!(rounds.get(), rounds_until_room.min(ROUNDS));
        }
    }

    #[tokio::test]
    async fn wait_ends_when_upkeep_hangs() {
        Backpressure::default().wait_while(|| true).await;
    }
}
