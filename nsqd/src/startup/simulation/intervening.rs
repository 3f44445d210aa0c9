//! Cancelled and rescheduled messages: the steps and their effect on the model.

use std::time::Duration;

use super::model::{Body, Due, MessageModel};
use super::observe;
use super::world::{World, text};
use crate::channel::Channel;
use crate::channel::peeking::{Seen, Standing, Wanted};
use crate::clock;

impl World<'_> {
    /// A message of the channel that is neither in flight nor about to become a dead letter, and that the model knows.
    fn some_message(&self, name: &(String, String), channel: &Channel, which: u8) -> Option<(Seen, Body)> {
        let mut seen = Vec::new();
        let wanted = Wanted { waiting: true, deferred: true, ..Wanted::NONE };
        channel.inspect(|state, _| state.look(0, usize::MAX, wanted, &mut seen));
        let seen = *seen.get(usize::from(which) % seen.len().max(1))?;
        // A disk that may fail cannot be asked.
        let (frames, _) = channel.log().gather(&[seen.sequence]);
        let (_, frame) = frames.iter().next()?;
        let body = observe::messages(frame).ok()?.first()?.body;
        let model = self.model().topics.get(&name.0)?.channels.get(&name.1)?;
        let message = model.messages.get(&body)?;
        let is_known = message.in_flight.is_none() && !message.is_set_aside;
        is_known.then_some((seen, body))
    }

    pub(super) fn cancel(&mut self, pick: u8, which: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(pick) else { return Ok(false) };
        let Some((seen, body)) = self.some_message(&name, &channel, which) else { return Ok(false) };
        let cancelled = channel.cancel(seen.sequence, false);
        cancelled.map_err(|error| format!("cannot cancel {body}: {error:?}"))?;
        self.model.channel(&name).ok_or("no channel")?.messages.remove(&body);
        self.cancelled_count += 1;
        Ok(false)
    }

    pub(super) fn reschedule(&mut self, pick: u8, which: u8, delay_s: u16) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(pick) else { return Ok(false) };
        let Some((seen, body)) = self.some_message(&name, &channel, which) else { return Ok(false) };
        let from_ns = clock::wall_ns();
        let delay = Duration::from_secs(delay_s.into());
        let was = channel.reschedule(seen.sequence, clock::nanos(delay), false);
        let was = match was {
            Err(crate::channel::intervening::Refused::NoRoom) => return Ok(false),
            was => was.map_err(|error| format!("cannot reschedule {body}: {error:?}"))?,
        };
        let topic = self.model_of(&name.0)?;
        // A topic that begins to retain takes it for one that was published deferred.
        topic.has_rescheduled |= seen.attempts == 0 && !delay.is_zero();
        let channel = topic.channels.get_mut(&name.1).ok_or("no channel")?;
        let message = channel.messages.get_mut(&body).ok_or("no message")?;
        if delay.is_zero() && !matches!(was, Standing::Deferred { .. }) {
            return Ok(false);
        }
        message.due = Some(if delay.is_zero() { Due::NOW } else { Due::between(from_ns, delay) });
        message.attempts_kept = message.attempts_kept.max(seen.attempts);
        message.may_be_deferred = false;
        self.rescheduled_count += 1;
        Ok(false)
    }
}

impl Due {
    /// Of a message that was deferred and is delivered now: a start must not find it deferred.
    pub const NOW: Due = Due { from_ns: 0, to_ns: 0, passed: true };

    pub fn is_now(&self) -> bool {
        self.to_ns == 0
    }
}

impl MessageModel {
    /// Whether it was deferred and then delivered at once on request.
    pub(super) fn is_run_now(&self) -> bool {
        self.due.is_some_and(|due| due.is_now())
    }
}

#[test]
fn workloads_cancel_and_reschedule_messages() {
    use super::explore::runtime;
    use super::steps::steps;
    use super::world::{Contract, Crash, Lost};
    use crate::storage::Durability;

    let contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };
    let (runtime, mut cancelled, mut rescheduled) = (runtime(), 0, 0);
    for seed in 1..=200 {
        let mut world = World::new(contract, seed, &runtime).unwrap();
        world.run(&steps(seed)).unwrap_or_else(|error| panic!("seed {seed}: {}", text(error)));
        cancelled += world.cancelled_count;
        rescheduled += world.rescheduled_count;
    }
    // Otherwise the simulation shows nothing about them.
    assert!(cancelled > 100 && rescheduled > 100, "{cancelled}, {rescheduled}");
}
