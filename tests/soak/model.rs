//! Pure: what one topic's producers sent and its consumers saw, and what that allows.
//!
//! The model knows the contract and nothing of the engine: at least once, never early, never invented, and not again after a FIN that
//! nsqd had time to store. Time comes in as an argument. What must never happen is a [`Topic::violations`] entry at once; what has
//! an innocent explanation that may be on its way (a refused FIN, the end of a connection) is a suspicion, and becomes a violation
//! when nobody has explained it for [`PATIENCE`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a suspicion waits for an explanation.
const PATIENCE: Duration = Duration::from_secs(10);
/// A message is remembered for this long after its last delivery.
const MEMORY: Duration = Duration::from_secs(90);
/// A delivery may be read from a socket this much later than nsqd sent it.
const TRANSIT: Duration = Duration::from_secs(3);
/// Rounding of delays to milliseconds, and of clocks that are read one after the other.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(10);

/// What came of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// No answer came (yet): it may be there or not.
    Unknown,
    Acknowledged,
    Refused,
}

#[derive(Debug)]
struct Message {
    outcome: Outcome,
    sent_at: Instant,
    due: Instant,
    /// The life of nsqd in which it was acknowledged.
    epoch: u32,
    /// Its message id, once seen.
    id: Option<u64>,
    /// The topic was deleted after it was acknowledged: connections of later generations must not see it.
    deleted_in: Option<u32>,
}

/// What one channel saw of one message.
#[derive(Debug, Clone, Default)]
struct Delivery {
    /// The attempts of each delivery on connections of `epoch`.
    attempts: Vec<u16>,
    epoch: u32,
    last_at: Option<Instant>,
    finished_at: Option<Instant>,
    /// It was requeued and must not come before this.
    held_until: Option<Instant>,
    /// It was emptied or skipped: it need not come.
    is_optional: bool,
    /// The channel was moved back then: it must come again.
    must_come_after: Option<Instant>,
}

impl Delivery {
    fn is_missing(&self) -> bool {
        let must_come = self.last_at.is_none() || self.must_come_after > self.last_at;
        must_come && !self.is_optional
    }

    /// Nothing has happened to it for so long that it must be finished, whatever became of the last answer.
    fn is_settled(&self, now: Instant) -> bool {
        !self.is_missing() && self.last_at.is_none_or(|last| last + MEMORY < now)
    }
}

#[derive(Debug)]
struct Channel {
    name: String,
    is_durable: bool,
    deliveries: VecDeque<Delivery>,
    /// The channel was moved back at these times.
    moved_at: Vec<Instant>,
    /// While it is paused: how many more deliveries may have been on their way.
    paused_allowance: Option<i64>,
}

/// A consumer's connection: which life of nsqd and which generation of the topic it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// Kills and stops of nsqd so far.
    pub epoch: u32,
    /// Deletions of the topic so far.
    pub generation: u32,
}

/// One message as a consumer received it.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The number in its body.
    pub number: u64,
    /// Its message id.
    pub id: u64,
    /// Its attempts.
    pub attempts: u16,
    /// Of the connection that it came on.
    pub life: Life,
    /// When.
    pub at: Instant,
}

#[derive(Debug)]
struct Suspicion {
    channel: usize,
    number: u64,
    since: Instant,
    text: String,
}

/// Sums for the report.
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Messages that nsqd acknowledged.
    pub acknowledged: u64,
    /// Messages that nsqd refused.
    pub refused: u64,
    /// Deliveries of any kind.
    pub delivered: u64,
    /// Deliveries of messages that the channel had seen before.
    pub repeated: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Topic {
    name: String,
    is_ephemeral: bool,
    /// Number of the first message that is remembered.
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

    /// Deletions so far.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Sums so far.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// What must never have happened.
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    // Producers

    /// A message is about to be sent; its number.
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

    /// nsqd acknowledged a message.
    pub fn acknowledge(&mut self, number: u64, epoch: u32) {
        self.totals.acknowledged += 1;
        if let Some(message) = self.message(number) {
            message.outcome = Outcome::Acknowledged;
            message.epoch = epoch;
        }
    }

    /// nsqd refused a message; `may_come` if the refusal says that it may be delivered all the same.
    pub fn refuse(&mut self, number: u64, may_come: bool) {
        self.totals.refused += 1;
        if may_come {
            return;
        }
        let seen = self.channels.iter().any(|channel| {
            let index = number.checked_sub(self.base).map(|index| index as usize);
            index.and_then(|index| channel.deliveries.get(index)).is_some_and(|seen| seen.last_at.is_some())
        });
        if seen {
            self.violate(number, "was delivered and then refused");
        }
        if let Some(message) = self.message(number) {
            message.outcome = Outcome::Refused;
        }
    }

    /// Messages that some durable channel had not delivered at the last [`Topic::check`].
    pub fn backlog(&self) -> usize {
        self.backlog
    }

    // Consumers

    /// A message came. True if the channel had it finished before: then it must be answered, so that nsqd explains.
    pub fn deliver(&mut self, channel: usize, received: Received) -> bool {
        let Received { number, at, .. } = received;
        self.totals.delivered += 1;
        let Some(index) = number.checked_sub(self.base).map(|index| index as usize) else {
            self.violate(number, "came again long after its last delivery");
            return true;
        };
        let Some(message) = self.messages.get_mut(index) else {
            self.violate(number, "was delivered and never sent");
            return true;
        };
        let mut wrong = Vec::new();
        if message.outcome == Outcome::Refused {
            wrong.push("was delivered although it was refused");
        }
        if at + CLOCK_TOLERANCE < message.due {
            wrong.push("came before it was due");
        }
        if message.id.is_some_and(|id| id != received.id) {
            wrong.push("came with another id than before");
        }
        message.id.get_or_insert(received.id);
        if message.deleted_in.is_some_and(|generation| generation < received.life.generation) {
            wrong.push("came back after its topic was deleted");
        }
        let acknowledged = message.outcome == Outcome::Acknowledged;
        if self.is_ephemeral && acknowledged && message.epoch < received.life.epoch {
            wrong.push("of an ephemeral topic outlived nsqd");
        }
        if self.paused_since.is_some_and(|paused| message.sent_at > paused) {
            wrong.push("came although its topic was paused before it was sent");
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
                wrong.push("came from a paused channel");
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
            suspicious = Some(format!("came again {:?} after its FIN", at - finished));
        }
        if let Some(until) = seen.held_until.take()
            && at + CLOCK_TOLERANCE < until
        {
            suspicious = Some(format!("came {:?} before the end of its delay", until - at));
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

    /// FIN was sent.
    pub fn finish(&mut self, channel: usize, number: u64, now: Instant) {
        if let Some(seen) = self.seen(channel, number) {
            seen.finished_at = Some(now);
        }
    }

    /// REQ was sent, with this delay.
    pub fn requeue(&mut self, channel: usize, number: u64, now: Instant, delay: Duration) {
        if let Some(seen) = self.seen(channel, number) {
            seen.held_until = Some(now + delay);
        }
    }

    /// nsqd refused an answer, or may never have read it: it says nothing.
    pub fn forget_answer(&mut self, channel: usize, number: u64) {
        if let Some(seen) = self.seen(channel, number) {
            seen.finished_at = None;
            seen.held_until = None;
        }
        self.suspicions.retain(|suspicion| (suspicion.channel, suspicion.number) != (channel, number));
    }

    /// nsqd may not have stored any answer since `since`.
    pub fn forget_answers_since(&mut self, since: Instant) {
        for channel in &mut self.channels {
            for seen in &mut channel.deliveries {
                seen.finished_at = seen.finished_at.filter(|at| *at < since);
                seen.held_until = None;
            }
        }
    }

    // The operator

    /// Everything sent so far may be gone from a channel: it was emptied, or moved to the end.
    pub fn drop_all(&mut self, channel: usize) {
        for seen in &mut self.channels[channel].deliveries {
            seen.is_optional = true;
            seen.must_come_after = None;
        }
    }

    /// The same for all channels.
    pub fn drop_all_everywhere(&mut self) {
        for channel in 0..self.channels.len() {
            self.drop_all(channel);
        }
    }

    /// An id to move a channel to: of a message that it saw `within` the last time.
    pub fn recent_id(&self, channel: usize, now: Instant, within: Duration) -> Option<u64> {
        let seen = self.channels[channel].deliveries.iter().zip(&self.messages).rev();
        let recent = seen.filter(|(seen, message)| {
            let is_recent = message.sent_at + within >= now && message.due == message.sent_at;
            seen.last_at.is_some() && is_recent
        });
        recent.take(2000).last().and_then(|(_, message)| message.id)
    }

    /// The channel is about to be moved back.
    pub fn begin_move(&mut self, channel: usize, now: Instant) {
        let channel = &mut self.channels[channel];
        channel.moved_at.push(now);
        for seen in &mut channel.deliveries {
            seen.held_until = None;
        }
    }

    /// The channel was moved back to `id`, by a request that was sent at `asked_at`.
    pub fn moved(&mut self, channel: usize, id: u64, asked_at: Instant, now: Instant) {
        let channel = &mut self.channels[channel];
        channel.moved_at.push(now);
        for (seen, message) in channel.deliveries.iter_mut().zip(&self.messages) {
            seen.held_until = None;
            let was_seen = seen.last_at.is_some_and(|last| last < asked_at);
            if message.id.is_some_and(|known| known >= id) && was_seen && !seen.is_optional {
                seen.must_come_after = Some(asked_at);
            }
        }
    }

    /// The topic is paused, and said so; or is about to be unpaused.
    pub fn set_paused(&mut self, since: Option<Instant>) {
        self.paused_since = since;
    }

    /// A channel is paused, and said so: `allowance` messages may be on their way. Or it is about to be unpaused.
    pub fn set_channel_paused(&mut self, channel: usize, allowance: Option<i64>) {
        self.channels[channel].paused_allowance = allowance;
    }

    /// The topic is about to be deleted.
    pub fn begin_delete(&mut self) {
        for message in self.messages.iter_mut().filter(|message| message.outcome == Outcome::Acknowledged) {
            message.deleted_in.get_or_insert(self.generation);
        }
    }

    /// The topic was deleted.
    pub fn deleted(&mut self) {
        self.generation += 1;
        self.drop_all_everywhere();
    }

    // The judgement

    /// Turns old suspicions into violations and forgets what is long finished.
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
            let must_come =
                |channel: &Channel| channel.is_durable && message.outcome == Outcome::Acknowledged;
            let is_settled = |channel: &Channel| {
                let seen = &channel.deliveries[0];
                if must_come(channel) {
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

    /// Acknowledged messages that a durable channel still has to deliver.
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
    fn an_acknowledged_message_is_missing_until_it_comes() {
        let (mut topic, now) = topic();
        let number = topic.send(now, Duration::ZERO);
        assert_eq!(topic.missing().len(), 0);
        topic.acknowledge(number, 0);
        assert_eq!(topic.missing().len(), 1);
        topic.deliver(0, received(number, now));
        assert_eq!((topic.missing().len(), topic.violations().len()), (0, 0));
    }

    #[test]
    fn what_must_not_come_is_a_violation_at_once() {
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
        assert_eq!(topic.violations().len(), 4, "it was on its way");
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
    fn a_repetition_after_a_fin_needs_an_explanation() {
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
        assert_eq!(topic.missing().len(), 1, "it must come again");
        topic.deliver(0, received(number, now + seconds(33)));
        topic.check(now + seconds(60));
        assert_eq!((topic.violations().len(), topic.missing().len()), (1, 0));
    }

    #[test]
    fn a_deleted_topic_does_not_come_back() {
        let (mut topic, now) = topic();
        let old = topic.send(now, Duration::ZERO);
        topic.acknowledge(old, 0);
        topic.begin_delete();
        topic.deleted();
        assert_eq!(topic.missing().len(), 0);
        topic.deliver(0, received(old, now));
        assert_eq!(topic.violations().len(), 0, "an old connection may still have it");
        topic.deliver(0, Received { life: Life { epoch: 0, generation: 1 }, ..received(old, now) });
        assert_eq!(topic.violations().len(), 1);
    }

    #[test]
    fn a_message_that_nothing_happens_to_is_forgotten() {
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
