//! The model of one topic: what producers sent, what consumers received, and what that allows. Pure.
//!
//! The model knows the contract and nothing about the implementation: at least once, never early, never invented, and
//! not again after a FIN that nsqd had time to store. Time is an argument. Something that must never happen becomes an
//! entry in [`Topic::violations`] at once. Something that may have an innocent explanation (a refused FIN, the end of a
//! connection) is a suspicion. It becomes a violation if no explanation arrives within [`PATIENCE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a suspicion waits for an explanation.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the model remembers a message after its last delivery.
const MEMORY: Duration = Duration::from_secs(90);
/// Maximum time between nsqd sending a delivery and a consumer reading it.
const TRANSIT: Duration = Duration::from_secs(3);
/// Rounding of delays to milliseconds, and the time between reading two clocks.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(10);

/// The result of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// No reply yet: nsqd may have the message or not.
    Unknown,
    Acknowledged,
    Refused,
}

#[derive(Debug)]
struct Message {
    outcome: Outcome,
    sent_at: Instant,
    due: Instant,
    /// The life of nsqd that acknowledged it.
    epoch: u32,
    /// Its message id, once seen.
    id: Option<u64>,
    /// Generation of the topic that was deleted after the acknowledgement. Later generations must not see the message.
    deleted_in: Option<u32>,
}

/// The deliveries of one message on one channel.
#[derive(Debug, Clone, Default)]
struct Delivery {
    /// The attempts of each delivery on connections of `epoch`.
    attempts: Vec<u16>,
    epoch: u32,
    last_at: Option<Instant>,
    finished_at: Option<Instant>,
    /// The message was requeued and must not be delivered before this.
    held_until: Option<Instant>,
    /// The message was emptied or skipped, so no delivery is required.
    is_optional: bool,
    /// The channel was moved back at this time, so the message must be delivered again.
    must_repeat_after: Option<Instant>,
}

impl Delivery {
    fn is_missing(&self) -> bool {
        let is_required = self.last_at.is_none() || self.must_repeat_after > self.last_at;
        is_required && !self.is_optional
    }

    /// Whether nothing has happened for so long that the message must be finished, whatever became of the last FIN.
    fn is_settled(&self, now: Instant) -> bool {
        !self.is_missing() && self.last_at.is_none_or(|last| last + MEMORY < now)
    }
}

#[derive(Debug)]
struct Channel {
    name: String,
    is_durable: bool,
    deliveries: VecDeque<Delivery>,
    /// Times at which the channel was moved back.
    moved_at: Vec<Instant>,
    /// While the channel is paused: how many more deliveries may have been in transit.
    paused_allowance: Option<i64>,
}

/// The life of nsqd and the generation of the topic that a consumer's connection belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Number of kills and stops of nsqd so far.
    pub epoch: u32,
    /// Number of deletions of the topic so far.
    pub generation: u32,
}

/// One message as a consumer received it.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The number in the message body.
    pub number: u64,
    pub id: u64,
    pub attempts: u16,
    /// The life of the connection.
    pub life: Life,
    /// Time of receipt.
    pub at: Instant,
}

#[derive(Debug)]
struct Suspicion {
    channel: usize,
    number: u64,
    since: Instant,
    text: String,
}

/// Totals for the report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Messages that nsqd acknowledged.
    pub acknowledged: u64,
    /// Messages that nsqd refused.
    pub refused: u64,
    /// Deliveries, including repeated ones.
    pub delivered: u64,
    /// Deliveries of messages that the channel had already delivered.
    pub repeated: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Topic {
    name: String,
    is_ephemeral: bool,
    /// Number of the oldest remembered message.
    base: u64,
    messages: VecDeque<Message>,
    channels: Vec<Channel>,
    paused_since: Option<Instant>,
    generation: u32,
    suspicions: Vec<Suspicion>,
    violations: Vec<String>,
    totals: Totals,
    backlog: usize,
}

impl Topic {
    /// A topic with these channels.
    pub fn new(name: &str, channels: &[&str]) -> Self {
        let is_ephemeral = name.ends_with("#ephemeral");
        let channels = channels.iter().map(|channel| Channel {
            name: (*channel).to_owned(),
            is_durable: !is_ephemeral && !channel.ends_with("#ephemeral"),
            deliveries: VecDeque::new(),
            moved_at: Vec::new(),
            paused_allowance: None,
        });
        Topic {
            name: name.to_owned(),
            is_ephemeral,
            base: 0,
            messages: VecDeque::new(),
            channels: channels.collect(),
            paused_since: None,
            generation: 0,
            suspicions: Vec::new(),
            violations: Vec::new(),
            totals: Totals::default(),
            backlog: 0,
        }
    }

    /// Number of deletions so far.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Totals so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Everything that happened although it must not.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    // Producers

    /// Records a message that is about to be sent; returns its number.
    pub fn send(&mut self, now: Instant, delay: Duration) -> u64 {
        let message = Message {
            outcome: Outcome::Unknown,
            sent_at: now,
            due: now + delay,
            epoch: 0,
            id: None,
            deleted_in: None,
        };
        self.messages.push_back(message);
        for channel in &mut self.channels {
            channel.deliveries.push_back(Delivery::default());
        }
        self.base + self.messages.len() as u64 - 1
    }

    /// Records that nsqd acknowledged a message.
    pub fn acknowledge(&mut self, number: u64, epoch: u32) {
        self.totals.acknowledged += 1;
        if let Some(message) = self.message(number) {
            message.outcome = Outcome::Acknowledged;
            message.epoch = epoch;
        }
    }

    /// Records that nsqd refused a message. `may_be_delivered` means that the error says it may still be delivered.
    pub fn refuse(&mut self, number: u64, may_be_delivered: bool) {
        self.totals.refused += 1;
        if may_be_delivered {
            return;
        }
        let seen = self.channels.iter().any(|channel| {
            let index = number.checked_sub(self.base).map(|index| index as usize);
            index.and_then(|index| channel.deliveries.get(index)).is_some_and(|seen| seen.last_at.is_some())
        });
        if seen {
            self.violate(number, "was delivered and then refused by nsqd");
        }
        if let Some(message) = self.message(number) {
            message.outcome = Outcome::Refused;
        }
    }

    /// Number of messages that some durable channel had not delivered at the last [`Topic::check`].
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    // Consumers

    /// Records a delivery. Returns true if the channel had finished the message before. The consumer must then answer
    /// it, so that nsqd explains the repetition.
    pub fn deliver(&mut self, channel: usize, received: Received) -> bool {
        let Received { number, at, .. } = received;
        self.totals.delivered += 1;
        let Some(index) = number.checked_sub(self.base).map(|index| index as usize) else {
            self.violate(number, "was repeated long after its last delivery");
            return true;
        };
        let Some(message) = self.messages.get_mut(index) else {
            self.violate(number, "was delivered but never sent");
            return true;
        };
        let mut wrong = Vec::new();
        if message.outcome == Outcome::Refused {
            wrong.push("was delivered although nsqd refused it");
        }
        if at + CLOCK_TOLERANCE < message.due {
            wrong.push("was delivered before it was due");
        }
        if message.id.is_some_and(|id| id != received.id) {
            wrong.push("was delivered with a different id than before");
        }
        message.id.get_or_insert(received.id);
        if message.deleted_in.is_some_and(|generation| generation < received.life.generation) {
            wrong.push("was delivered after its topic was deleted");
        }
        let acknowledged = message.outcome == Outcome::Acknowledged;
        if self.is_ephemeral && acknowledged && message.epoch < received.life.epoch {
            wrong.push("of an ephemeral topic survived a restart of nsqd");
        }
        if self.paused_since.is_some_and(|paused| message.sent_at > paused) {
            wrong.push("was delivered although its topic was paused before it was sent");
        }
        let is_repeated = self.check_channel(channel, index, received, &mut wrong);
        for text in wrong {
            let channel = &self.channels[channel];
            let seen = &channel.deliveries[index];
            self.violate(number, &format!("{text} (channel {}, {received:?}, {seen:?})", channel.name));
        }
        is_repeated
    }

    fn check_channel(
        &mut self,
        channel_index: usize,
        index: usize,
        received: Received,
        wrong: &mut Vec<&'static str>,
    ) -> bool {
        let Received { number, at, attempts, life, .. } = received;
        let channel = &mut self.channels[channel_index];
        if let Some(allowance) = &mut channel.paused_allowance {
            *allowance -= 1;
            if *allowance < 0 {
                wrong.push("was delivered by a paused channel");
            }
        }
        let seen = &mut channel.deliveries[index];
        let mut suspicious = None;
        let before = seen.last_at.replace(at);
        self.totals.repeated += u64::from(before.is_some());
        let finished = seen.finished_at.take();
        if let (Some(before), Some(finished)) = (before, finished)
            && !channel.moved_at.iter().any(|moved| *moved + TRANSIT >= before)
        {
            suspicious = Some(format!("was repeated {:?} after its FIN", at - finished));
        }
        if let Some(until) = seen.held_until.take()
            && at + CLOCK_TOLERANCE < until
        {
            suspicious = Some(format!("was delivered {:?} before the end of its delay", until - at));
        }
        if seen.epoch != life.epoch {
            seen.epoch = life.epoch;
            seen.attempts.clear();
        }
        // Not in order: a consumer may read an old delivery after another consumer has read a newer one.
        if attempts == 0 || (channel.moved_at.is_empty() && seen.attempts.contains(&attempts)) {
            wrong.push("came twice as the same attempt");
        }
        seen.attempts.push(attempts);
        if let Some(text) = suspicious {
            self.suspicions.push(Suspicion { channel: channel_index, number, since: at, text });
        }
        finished.is_some()
    }

    /// Records a FIN.
    pub fn finish(&mut self, channel: usize, number: u64, now: Instant) {
        if let Some(seen) = self.seen(channel, number) {
            seen.finished_at = Some(now);
        }
    }

    /// Records a REQ with this delay.
    pub fn requeue(&mut self, channel: usize, number: u64, now: Instant, delay: Duration) {
        if let Some(seen) = self.seen(channel, number) {
            seen.held_until = Some(now + delay);
        }
    }

    /// Forgets the last FIN or REQ for a message, because nsqd refused it or may never have read it.
    pub fn forget_answer(&mut self, channel: usize, number: u64) {
        if let Some(seen) = self.seen(channel, number) {
            seen.finished_at = None;
            seen.held_until = None;
        }
        self.suspicions.retain(|suspicion| (suspicion.channel, suspicion.number) != (channel, number));
    }

    /// Forgets every FIN since `since`, and every REQ: nsqd may not have stored them.
    pub fn forget_answers_since(&mut self, since: Instant) {
        for channel in &mut self.channels {
            for seen in &mut channel.deliveries {
                seen.finished_at = seen.finished_at.filter(|at| *at < since);
                seen.held_until = None;
            }
        }
    }

    // The operator

    /// Makes everything sent so far optional: the channel was emptied or moved to the end.
    pub fn drop_all(&mut self, channel: usize) {
        for seen in &mut self.channels[channel].deliveries {
            seen.is_optional = true;
            seen.must_repeat_after = None;
        }
    }

    /// Like [`Topic::drop_all`], for all channels.
    pub fn drop_all_everywhere(&mut self) {
        for channel in 0..self.channels.len() {
            self.drop_all(channel);
        }
    }

    /// An id to move a channel to: of a message sent `within` this time and already delivered by the channel.
    pub fn recent_id(&self, channel: usize, now: Instant, within: Duration) -> Option<u64> {
        let seen = self.channels[channel].deliveries.iter().zip(&self.messages).rev();
        let recent = seen.filter(|(seen, message)| {
            let is_recent = message.sent_at + within >= now && message.due == message.sent_at;
            seen.last_at.is_some() && is_recent
        });
        recent.take(2000).last().and_then(|(_, message)| message.id)
    }

    /// Records that the channel is about to be moved back.
    pub fn begin_move(&mut self, channel: usize, now: Instant) {
        let channel = &mut self.channels[channel];
        channel.moved_at.push(now);
        for seen in &mut channel.deliveries {
            seen.held_until = None;
        }
    }

    /// Records that the channel was moved to `id` by a request sent at `asked_at`. Normally that is a move back. If the
    /// channel has not yet repeated what an earlier move made it repeat, it can be a move forward, which skips messages.
    pub fn moved(&mut self, channel: usize, id: u64, asked_at: Instant, now: Instant) {
        let channel = &mut self.channels[channel];
        channel.moved_at.push(now);
        for (seen, message) in channel.deliveries.iter_mut().zip(&self.messages) {
            seen.held_until = None;
            let was_seen = seen.last_at.is_some_and(|last| last < asked_at);
            let Some(known) = message.id else { continue };
            if known < id {
                seen.is_optional |= seen.is_missing();
            } else if was_seen && !seen.is_optional {
                seen.must_repeat_after = Some(asked_at);
            }
        }
    }

    /// Records that the topic has been paused at `since`, or with `None` that it is about to be unpaused.
    pub fn set_paused(&mut self, since: Option<Instant>) {
        self.paused_since = since;
    }

    /// Records that a channel has been paused while up to `allowance` messages are in transit, or with `None` that it
    /// is about to be unpaused.
    pub fn set_channel_paused(&mut self, channel: usize, allowance: Option<i64>) {
        self.channels[channel].paused_allowance = allowance;
    }

    /// Records that the topic is about to be deleted.
    pub fn begin_delete(&mut self) {
        for message in self.messages.iter_mut().filter(|message| message.outcome == Outcome::Acknowledged) {
            message.deleted_in.get_or_insert(self.generation);
        }
    }

    /// Records that the topic was deleted.
    pub fn deleted(&mut self) {
        self.generation += 1;
        self.drop_all_everywhere();
    }

    // The verdict

    /// Turns old suspicions into violations and forgets messages that were finished long ago.
    pub fn check(&mut self, now: Instant) {
        let (old, young) = std::mem::take(&mut self.suspicions)
            .into_iter()
            .partition(|suspicion| suspicion.since + PATIENCE < now);
        self.suspicions = young;
        for Suspicion { channel, number, text, .. } in Vec::from_iter::<Vec<Suspicion>>(old) {
            let channel = self.channels[channel].name.clone();
            self.violate(number, &format!("{text} (channel {channel})"));
        }
        while let Some(message) = self.messages.front() {
            let is_required =
                |channel: &Channel| channel.is_durable && message.outcome == Outcome::Acknowledged;
            let is_settled = |channel: &Channel| {
                let seen = &channel.deliveries[0];
                if is_required(channel) {
                    seen.is_settled(now)
                } else {
                    seen.last_at.is_none_or(|last| last + MEMORY < now)
                }
            };
            if message.sent_at.max(message.due) + MEMORY > now || !self.channels.iter().all(is_settled) {
                break;
            }
            self.messages.pop_front();
            for channel in &mut self.channels {
                channel.deliveries.pop_front();
            }
            self.base += 1;
        }
        let missing = |channel: &Channel| channel.deliveries.iter().filter(|seen| seen.is_missing()).count();
        self.backlog =
            self.channels.iter().filter(|channel| channel.is_durable).map(missing).max().unwrap_or(0);
    }

    /// Acknowledged messages that a durable channel has yet to deliver.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for channel in self.channels.iter().filter(|channel| channel.is_durable) {
            for (index, (seen, message)) in channel.deliveries.iter().zip(&self.messages).enumerate() {
                if message.outcome == Outcome::Acknowledged && seen.is_missing() {
                    let number = self.base + index as u64;
                    missing.push(format!("{} {number} in channel {}: {seen:?}", self.name, channel.name));
                }
            }
        }
        missing
    }

    fn violate(&mut self, number: u64, text: &str) {
        let message = number.checked_sub(self.base).and_then(|index| self.messages.get(index as usize));
        self.violations.push(format!("message {number} of {} {text}: {message:?}", self.name));
    }

    fn message(&mut self, number: u64) -> Option<&mut Message> {
        self.messages.get_mut(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }

    fn seen(&mut self, channel: usize, number: u64) -> Option<&mut Delivery> {
        self.channels[channel].deliveries.get_mut(usize::try_from(number.checked_sub(self.base)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    const LIFE: Life = Life { epoch: 0, generation: 0 };

    fn topic() -> (Topic, Instant) {
        (Topic::new("t", &["c"]), Instant::now())
    }

    fn received(number: u64, at: Instant) -> Received {
        static ATTEMPTS: AtomicU16 = AtomicU16::new(10);
        let attempts = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        Received { number, id: number + 100, attempts, life: LIFE, at }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn acknowledged_message_is_missing_until_delivered() {
        let (mut topic, now) = topic();
        let number = topic.send(now, Duration::ZERO);
        assert_eq!(topic.missing().len(), 0);
        topic.acknowledge(number, 0);
        assert_eq!(topic.missing().len(), 1);
        topic.deliver(0, received(number, now));
        assert_eq!((topic.missing().len(), topic.violations().len()), (0, 0));
    }

    #[test]
    fn forbidden_delivery_is_a_violation_at_once() {
        let (mut topic, now) = topic();
        topic.deliver(0, received(0, now));
        assert_eq!(topic.violations().len(), 1, "never sent");
        let refused = topic.send(now, Duration::ZERO);
        topic.refuse(refused, false);
        topic.deliver(0, received(refused, now));
        assert_eq!(topic.violations().len(), 2, "refused");
        let early = topic.send(now, seconds(5));
        topic.deliver(0, received(early, now + seconds(4)));
        assert_eq!(topic.violations().len(), 3, "early");
        topic.deliver(0, Received { id: 1, ..received(early, now + seconds(6)) });
        assert_eq!(topic.violations().len(), 4, "another id");
        topic.set_channel_paused(0, Some(1));
        topic.deliver(0, received(early, now + seconds(7)));
        assert_eq!(topic.violations().len(), 4, "the delivery was in transit");
        topic.deliver(0, Received { attempts: 1, ..received(early, now + seconds(7)) });
        assert_eq!(topic.violations().len(), 5, "paused");
        topic.set_channel_paused(0, None);
        topic.deliver(0, Received { attempts: 1, ..received(early, now + seconds(7)) });
        assert_eq!(topic.violations().len(), 6, "the same attempt twice");
        topic.deliver(0, Received { attempts: 3, ..received(early, now + seconds(8)) });
        topic.deliver(0, Received { attempts: 2, ..received(early, now + seconds(8)) });
        assert_eq!(topic.violations().len(), 6, "read in another order");
    }

    #[test]
    fn repetition_after_fin_needs_an_explanation() {
        let (mut topic, now) = topic();
        let number = topic.send(now, Duration::ZERO);
        topic.acknowledge(number, 0);
        for explained in [true, false] {
            topic.deliver(0, received(number, now));
            topic.finish(0, number, now);
            assert!(topic.deliver(0, received(number, now + seconds(1))));
            if explained {
                topic.forget_answer(0, number);
            }
            topic.check(now + seconds(20));
            assert_eq!(topic.violations().is_empty(), explained);
        }
        topic.finish(0, number, now + seconds(30));
        topic.begin_move(0, now + seconds(31));
        topic.moved(0, number + 100, now + seconds(31), now + seconds(32));
        assert_eq!(topic.missing().len(), 1, "the message must be delivered again");
        topic.deliver(0, received(number, now + seconds(33)));
        topic.check(now + seconds(60));
        assert_eq!((topic.violations().len(), topic.missing().len()), (1, 0));
    }

    #[test]
    fn message_to_repeat_may_be_skipped_by_a_later_move() {
        let (mut topic, now) = topic();
        let numbers: Vec<u64> = (0..3).map(|_| topic.send(now, Duration::ZERO)).collect();
        for &number in &numbers {
            topic.acknowledge(number, 0);
            topic.deliver(0, received(number, now));
        }
        let later = now + seconds(1);
        topic.begin_move(0, later);
        topic.moved(0, numbers[0] + 100, later, later);
        assert_eq!(topic.missing().len(), 3);
        topic.deliver(0, received(numbers[0], now + seconds(2)));
        topic.begin_move(0, now + seconds(3));
        topic.moved(0, numbers[2] + 100, now + seconds(3), now + seconds(3));
        let missing = topic.missing();
        assert_eq!(missing.len(), 1, "the second message was skipped: {missing:?}");
        assert!(missing[0].starts_with("t 2 "), "{missing:?}");
    }

    #[test]
    fn message_of_a_deleted_topic_must_not_return() {
        let (mut topic, now) = topic();
        let old = topic.send(now, Duration::ZERO);
        topic.acknowledge(old, 0);
        topic.begin_delete();
        topic.deleted();
        assert_eq!(topic.missing().len(), 0);
        topic.deliver(0, received(old, now));
        assert_eq!(topic.violations().len(), 0, "an old connection may still deliver it");
        topic.deliver(0, Received { life: Life { epoch: 0, generation: 1 }, ..received(old, now) });
        assert_eq!(topic.violations().len(), 1);
    }

    #[test]
    fn idle_finished_message_is_forgotten() {
        let (mut topic, now) = topic();
        for _ in 0..3 {
            let number = topic.send(now, Duration::ZERO);
            topic.acknowledge(number, 0);
            topic.deliver(0, received(number, now));
        }
        topic.deliver(0, received(1, now + seconds(5)));
        let unseen = topic.send(now, Duration::ZERO);
        topic.acknowledge(unseen, 0);
        topic.check(now + MEMORY + seconds(1));
        assert_eq!((topic.base, topic.messages.len(), topic.backlog()), (1, 3, 1));
        topic.deliver(0, received(0, now + MEMORY));
        assert_eq!(topic.violations().len(), 1);
    }
}
