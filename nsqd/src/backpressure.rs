//! Publishers wait for upkeep while the journal is about to fill its volume with what nobody needs any more.
//!
//! A fast publisher fills a small volume in less time than passes between two rounds of upkeep. It is better held up for some
//! milliseconds than refused. Where upkeep can make no room, nobody waits: the publish is taken, or refused at once.

use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// A publisher waits this long at most.
const PATIENCE: Duration = Duration::from_secs(1);
/// A round may have begun before the publisher came: only the next one has seen all.
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
    /// Asks for upkeep, and waits for it while `is_tight`: two rounds, and a second at most. Dropping the future harms nothing.
    pub async fn wait_while(&self, is_tight: impl Fn() -> bool) {
        let mut rounds = self.rounds.subscribe();
        let end = *rounds.borrow_and_update() + ROUNDS;
        let waiting = async {
            while is_tight() && *rounds.borrow_and_update() < end {
                self.wanted.notify_one();
                // The sender is ours, so it is there.
                let _ = rounds.changed().await;
            }
        };
        let _ = timeout(PATIENCE, waiting).await;
    }

    /// Upkeep waits here for somebody to ask.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A round of upkeep is over, whatever it has done.
    pub fn round_is_over(&self) {
        self.rounds.send_modify(|rounds| *rounds += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test]
    async fn who_waits_goes_on_when_there_is_room_or_none_can_be_made() {
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
    async fn upkeep_that_hangs_is_not_waited_for() {
        Backpressure::default().wait_while(|| true).await;
    }
}
