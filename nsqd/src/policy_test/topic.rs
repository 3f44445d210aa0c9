//! Tests one topic: its retention, then its channels, then its messages for duplicates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use nsq_protocol::{PolicyTestResponse, TestedChannel, TestedRetention, TestedTopic};

use super::Tested;
use super::duplicates::Duplicates;
use crate::channel::Channel;
use crate::channel::policy_test::{Outcome, TestedPolicy};
use crate::clock::{self, Nanos};
use crate::log::chunk;
use crate::log::reader::BATCH_MESSAGES;
use crate::log::retained::RetentionOutcome;
use crate::log::retention::gaps;
use crate::policy::bounds::Overflow;
use crate::policy::settings::Settings;
use crate::storage::SequenceRange;
use crate::topic::Topic;
use crate::topic::dedupe::IdDigest;

/// Outstanding messages that are visited under one lock of a channel.
const SLICE: usize = 1000;
/// The problem of a topic whose messages cannot be read.
const CANNOT_READ: &str = "messages cannot be read from disk; the log of nsqd says why";

/// What is left to do for a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Channels, and perhaps messages.
    Channels,
    /// Messages to read.
    Messages,
    Nothing,
}

/// See the module.
pub struct TopicTest {
    topic: Arc<Topic>,
    /// The topic's own settings.
    own: Settings,
    /// Channels whose test has not begun.
    channels: VecDeque<Arc<Channel>>,
    /// The ends of the messages that are older than these times to live.
    older: Vec<(Nanos, u64)>,
    /// Ranges of messages that are not read yet, in order.
    unread: VecDeque<SequenceRange>,
    duplicates: Option<Duplicates>,
    /// When the newest message that was read was published.
    read_until: Option<i64>,
    found: TestedTopic,
}

impl TopicTest {
    /// Begins a test. Blocks on the disk.
    pub fn new(topic: Arc<Topic>, tested: &Tested) -> Self {
        let (name, log) = (topic.name().as_str(), topic.log());
        let own = tested.own(topic.own_settings(), name, None);
        let policy = tested.sources.of_topic(name, &own);
        let to = log.end();
        let since = log.find_time_exactly(tested.since_ns);
        let from = since.unwrap_or(to);
        let mut found = TestedTopic {
            topic_name: name.to_owned(),
            problem: since.err().map(|_| CANNOT_READ.to_owned()),
            retains: log.is_retaining(),
            message_count: log.count_between(from, to),
            ..TestedTopic::default()
        };
        match log.test_retention(policy.retention, tested.wall_ns) {
            Ok(outcome) => found.retention = outcome.map(retention),
            Err(_) => found.problem = Some(CANNOT_READ.to_owned()),
        }
        let duplicates = (policy.dedupe > 0).then(|| Duplicates::new(policy.dedupe, tested.dedupe_max_ids));
        let unread = match duplicates {
            Some(_) => gaps(SequenceRange { from, to }, log.absent(from, to)).into(),
            None => VecDeque::new(),
        };
        let channels = topic.channels().into();
        TopicTest { topic, own, channels, older: Vec::new(), unread, duplicates, read_until: None, found }
    }

    /// Tests channels until about `until`, or reads one batch of messages. Adds what it reads to the sums of `answer`.
    /// Blocks on the disk.
    pub fn advance(&mut self, tested: &Tested, until: Instant, answer: &mut PolicyTestResponse) -> Left {
        while let Some(channel) = self.channels.pop_front() {
            let found = self.test_channel(&channel, tested);
            self.found.channels.push(found);
            if Instant::now() >= until {
                return self.left();
            }
        }
        let most = tested.options.max_messages.saturating_sub(answer.examined);
        let is_full = most == 0 || answer.examined_bytes >= tested.options.max_bytes;
        if !is_full && !self.unread.is_empty() {
            self.read(usize::try_from(most).unwrap_or(usize::MAX), answer);
        }
        self.left()
    }

    fn left(&self) -> Left {
        match () {
            () if !self.channels.is_empty() => Left::Channels,
            () if !self.unread.is_empty() => Left::Messages,
            () => Left::Nothing,
        }
    }

    fn test_channel(&mut self, channel: &Channel, tested: &Tested) -> TestedChannel {
        let (topic, name) = (self.topic.name().as_str(), channel.name().as_str());
        let own = tested.own(channel.own_settings(), topic, Some(name));
        let policy = tested.sources.of_channel(topic, &self.own, name, &own);
        let expired_before = match policy.ttl {
            0 => 0,
            ttl => self.end_of_older(ttl, tested.wall_ns),
        };
        // Without a topic for them, there are no dead letters.
        let max_attempts = if policy.dead_letter.is_some() { policy.max_attempts } else { 0 };
        let values = TestedPolicy { ttl: policy.ttl, expired_before, max_attempts };
        let mut outcome = Outcome::default();
        let counts_failures = channel.inspect(|state, _| {
            state.test_ahead(&values, &mut outcome);
            state.counts_failures()
        });
        let now = clock::monotonic();
        let mut next = Some(0);
        while let Some(from) = next {
            next =
                channel.inspect(|state, _| state.test_outstanding(&values, now, from, SLICE, &mut outcome));
        }
        let by = if counts_failures { "failures" } else { "deliveries" };
        TestedChannel {
            channel_name: name.to_owned(),
            unfinished_count: outcome.unfinished,
            expired_count: (policy.ttl > 0).then_some(outcome.expired),
            expired_become_dead_letters: policy.ttl > 0
                && policy.keeps_expired
                && policy.dead_letter.is_some(),
            dead_letter_count: (max_attempts > 0).then_some(outcome.exhausted),
            counted_by: (max_attempts > 0).then(|| by.to_owned()),
            overflow_count: (policy.bound.max_depth > 0).then(|| {
                let left = outcome.unfinished - outcome.expired - outcome.exhausted;
                left.saturating_sub(policy.bound.max_depth)
            }),
            dead_letter_topic: policy
                .dead_letter
                .filter(|_| {
                    max_attempts > 0 || policy.keeps_expired || policy.bound.overflow == Overflow::DeadLetter
                })
                .map(|topic| topic.to_string()),
        }
    }

    /// The end of the messages that are older than this time to live. Most channels have the same one.
    fn end_of_older(&mut self, ttl: Nanos, wall_ns: i64) -> u64 {
        if let Some((_, end)) = self.older.iter().find(|(known, _)| *known == ttl) {
            return *end;
        }
        let end = self.topic.log().end_of_older(wall_ns.saturating_sub_unsigned(ttl)).unwrap_or_else(|_| {
            self.found.problem = Some(CANNOT_READ.to_owned());
            0
        });
        self.older.push((ttl, end));
        end
    }

    /// Reads a batch of at most `most` messages.
    fn read(&mut self, most: usize, answer: &mut PolicyTestResponse) {
        let all = self.unread.iter().flat_map(|range| range.iter());
        let sequences: Vec<u64> = all.take(most.min(BATCH_MESSAGES)).collect();
        let (frames, result) = self.topic.log().gather(&sequences);
        let mut read_to = sequences.last().map_or(u64::MAX, |last| last + 1);
        if result.is_err() {
            self.found.problem = Some(CANNOT_READ.to_owned());
            self.unread.clear();
        }
        for (sequence, frame) in frames.iter() {
            let published_ns = chunk::timestamp(frame).unwrap_or(0);
            if let Some(duplicates) = &mut self.duplicates {
                duplicates.add(sequence, published_ns, IdDigest::of_stored(frame));
            }
            self.read_until = self.read_until.max(Some(published_ns));
            self.found.examined += 1;
            answer.examined += 1;
            answer.examined_bytes += frame.len() as u64;
        }
        // A batch is bounded in bytes as well. Messages that are missing at its end were deleted meanwhile.
        if let Some((last, _)) = frames.iter().last() {
            read_to = last + 1;
        }
        while let Some(SequenceRange { from, to }) = self.unread.pop_front() {
            if to > read_to {
                self.unread.push_front(SequenceRange::new(from.max(read_to), to));
                break;
            }
        }
    }

    /// What was found.
    pub fn conclude(mut self) -> TestedTopic {
        self.found.complete = self.left() == Left::Nothing && self.found.problem.is_none();
        self.found.examined_until = self.read_until.filter(|_| !self.found.complete);
        self.found.id_count = self.duplicates.as_ref().map(Duplicates::id_count);
        self.found.duplicate_count = self.duplicates.as_ref().map(Duplicates::duplicate_count);
        self.found
    }
}

fn retention(outcome: RetentionOutcome) -> TestedRetention {
    let RetentionOutcome { retained_count, retained_bytes, deleted_count, deleted_bytes } = outcome;
    TestedRetention { retained_count, retained_bytes, deleted_count, deleted_bytes }
}
