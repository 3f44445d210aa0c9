//! Cancels and reschedules messages, for operators and producers.

use super::Channel;
use super::peeking::Standing;
use super::rescheduling::{NotChanged, Rescheduled};
use super::saved::Clocks;
use crate::clock::{self, Nanos};
use crate::storage::record::Record;

/// Why a message was not changed, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// The channel does not have it.
    Unknown,
    /// It is in flight to this consumer, until this wall time in nanoseconds.
    InFlight { consumer: String, until: i64 },
    /// It is about to become a dead letter or to move to another topic.
    Leaving,
    /// An ephemeral topic or channel has no room for it.
    NoRoom,
}

impl Channel {
    /// Finishes a message that is not in flight, or only tells whether that is possible. Returns where it stood.
    pub fn cancel(&self, sequence: u64, dry_run: bool) -> Result<Standing, Refused> {
        let mut inner = self.inner.lock();
        let cancelled = match dry_run {
            true => inner.state.can_cancel(sequence),
            false => inner.state.cancel(sequence),
        };
        let cancelled = cancelled.map_err(|error| inner.refused(sequence, error));
        if !dry_run && cancelled.is_ok() {
            // Consumers at their RDY count do not matter: the message was not in flight.
            self.after_change(inner);
        }
        cancelled
    }

    /// Defers a message that is not in flight, or hands it out behind all that are there now if the delay is 0; or only
    /// tells whether that is possible. Returns where it stood.
    pub fn reschedule(&self, sequence: u64, delay: Nanos, dry_run: bool) -> Result<Standing, Refused> {
        let monotonic = clock::monotonic();
        let now = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
        let mut inner = self.inner.lock();
        if dry_run {
            let standing = inner.state.can_reschedule(sequence, delay);
            return standing.map_err(|error| inner.refused(sequence, error));
        }
        inner.state.set_has_own_ttls(self.parts.log.may_have_own_ttls());
        let (standing, rescheduled) = (inner.state.reschedule(sequence, delay, monotonic))
            .map_err(|error| inner.refused(sequence, error))?;
        if let Some(Rescheduled { attempts, failures, due }) = rescheduled {
            self.record(&Record::Requeue {
                topic: self.parts.topic_number,
                channel: self.parts.number,
                sequence,
                attempts,
                failures,
                due_ns: due.map_or(0, |due| now.to_wall(due)),
            });
            inner.schedule(due);
            self.after_change(inner);
        }
        Ok(standing)
    }
}

impl super::Inner {
    fn refused(&self, sequence: u64, error: NotChanged) -> Refused {
        match error {
            NotChanged::Unknown => Refused::Unknown,
            NotChanged::Leaving => Refused::Leaving,
            NotChanged::NoRoom => Refused::NoRoom,
            NotChanged::InFlight(key) => {
                let info = self.signals.get(key as usize).and_then(Option::as_ref);
                let monotonic = clock::monotonic();
                let now = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
                let deadline = match self.state.standing(sequence) {
                    Some(Standing::InFlight { deadline, .. }) => deadline,
                    _ => monotonic,
                };
                Refused::InFlight {
                    consumer: info.map_or_else(String::new, |(_, info)| info.description()),
                    until: now.to_wall(deadline),
                }
            }
        }
    }
}
