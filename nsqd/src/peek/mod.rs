//! Looks at messages of a channel or topic, without changing anything: `/channel/peek` and `/topic/peek`.
//!
//! - [`request`]: pure; what to look at, and what matches
//! - [`shown`]: pure; stored messages as JSON
//! - this file: finds the messages, step by step
//!
//! A look takes limited work: messages, bytes read, and time. Each step visits a limited number of places under the lock
//! of a channel, reads their messages from the log, and keeps those that match. What is read is not kept for consumers.

pub mod request;
pub mod shown;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_protocol::{PeekEnd, PeekedConsumer, PeekedMessage};

use self::request::{From, PeekRequest, PeekState};
use crate::channel::Channel;
use crate::channel::peeking::{Seen, Standing, Wanted};
use crate::channel::saved::Clocks;
use crate::clock;
use crate::log::TopicLog;
use crate::log::retention::gaps;
use crate::storage::SequenceRange;
use crate::topic::Topic;

/// A look ends after this time.
const MAX_TIME: Duration = Duration::from_secs(5);
/// Maximum number of messages that a look examines.
pub const MAX_EXAMINED: u64 = 100_000;
/// Maximum bytes of messages that a look reads; one batch may exceed it.
const MAX_READ_BYTES: u64 = 64 << 20;
/// A page is full once its messages have this size.
const MAX_PAGE_BYTES: usize = 4 << 20;
/// Places that are visited, and messages that are read, in one step.
const STEP: usize = 1000;
/// Sequence numbers of which a step finds the finished or retained messages.
const RANGE: u64 = 10_000;

/// Where to look.
pub enum Place {
    Channel(Arc<Channel>),
    Topic(Arc<Topic>),
}

/// A look in progress.
pub struct Peek {
    place: Place,
    request: PeekRequest,
    /// Where to continue: the first sequence number, or for a look back the one after it. `None` at the end.
    next: Option<u64>,
    /// The end of a look at finished or retained messages; its beginning for a look back.
    bounds: SequenceRange,
    pub messages: Vec<PeekedMessage>,
    page_bytes: usize,
    examined: u64,
    examined_bytes: u64,
    stop_at: Instant,
    stopped_by: Option<&'static str>,
}

/// A message to read, and where it stands.
struct Found {
    sequence: u64,
    seen: Option<Seen>,
    state: &'static str,
}

impl Peek {
    /// Prepares a look. May read from disk to find a time or an id.
    pub fn new(place: Place, request: PeekRequest) -> Self {
        let (log, end) = match &place {
            Place::Channel(channel) => (channel.log(), channel.inspect(|state, _| state.end())),
            Place::Topic(topic) => (&**topic.log(), topic.log().end()),
        };
        let first = log.first_present().min(end);
        let start = match request.from {
            From::Head => 0,
            From::Tail => u64::MAX,
            From::Sequence(sequence) | From::Before(sequence) => sequence,
            From::Time(time_ns) => log.find_time(time_ns).0,
        };
        let is_back = request.is_back();
        let bounds = SequenceRange::new(first, end);
        let next = match request.looks_at_log() {
            true if is_back => start.clamp(first, end),
            true => start.max(first),
            false => start,
        };
        Peek {
            place,
            request,
            next: Some(next),
            bounds,
            messages: Vec::new(),
            page_bytes: 0,
            examined: 0,
            examined_bytes: 0,
            stop_at: Instant::now() + MAX_TIME,
            stopped_by: None,
        }
    }

    /// Takes a step. Returns whether there is more to do. Blocks on the disk.
    pub fn advance(&mut self) -> bool {
        if self.stopped_by.is_some() {
            return false;
        }
        let Some(at) = self.next else { return self.stop("end") };
        if self.examined >= MAX_EXAMINED {
            return self.stop("messages");
        }
        if self.examined_bytes >= MAX_READ_BYTES {
            return self.stop("bytes");
        }
        if Instant::now() >= self.stop_at {
            return self.stop("time");
        }
        let (found, next) = match self.request.looks_at_log() {
            true => self.find_in_log(at),
            false => self.find_unfinished(at),
        };
        self.next = next;
        self.read(found);
        self.stopped_by.is_none()
    }

    fn stop(&mut self, by: &'static str) -> bool {
        self.stopped_by.get_or_insert(by);
        false
    }

    /// How many messages a step looks at: not more than are shown, if all match.
    fn step(&self) -> usize {
        match self.request.matches_all() {
            true => (self.request.limit - self.messages.len()).min(STEP),
            false => STEP,
        }
    }

    /// Unfinished messages of a channel.
    fn find_unfinished(&self, at: u64) -> (Vec<Found>, Option<u64>) {
        let Place::Channel(channel) = &self.place else { return (Vec::new(), None) };
        let wanted = match self.request.state {
            None => Wanted::ALL,
            Some(PeekState::Waiting) => Wanted { waiting: true, ..Wanted::NONE },
            Some(PeekState::InFlight) => Wanted { in_flight: true, ..Wanted::NONE },
            Some(PeekState::Deferred) => Wanted { deferred: true, ..Wanted::NONE },
            Some(PeekState::DeadLetterPending) => Wanted { set_aside: true, ..Wanted::NONE },
            Some(PeekState::Finished) => Wanted::NONE,
        };
        let (mut seen, is_back) = (Vec::new(), self.request.is_back());
        let mut next = channel.inspect(|state, _| match is_back {
            true => state.look_back(at, STEP, wanted, &mut seen),
            false => state.look(at, STEP, wanted, &mut seen),
        });
        let step = self.step();
        if seen.len() > step {
            seen.truncate(step);
            next = seen.last().map(|last| if is_back { last.sequence } else { last.sequence + 1 });
        }
        let found = |seen: Seen| Found {
            sequence: seen.sequence,
            state: shown::state(&seen.standing),
            seen: Some(seen),
        };
        (seen.into_iter().map(found).collect(), next)
    }

    /// Finished messages of a channel, or all of a topic, that are in the log.
    fn find_in_log(&self, at: u64) -> (Vec<Found>, Option<u64>) {
        let SequenceRange { from: first, to: end } = self.bounds;
        let is_back = self.request.is_back();
        let window = match is_back {
            true => SequenceRange::new(at.saturating_sub(RANGE).max(first), at),
            false => SequenceRange::new(at, at.saturating_add(RANGE).min(end)),
        };
        if window.is_empty() {
            return (Vec::new(), None);
        }
        let (log, ranges, released) = match &self.place {
            Place::Channel(channel) => {
                (channel.log(), channel.inspect(|state, _| state.finished_between(window)), 0)
            }
            Place::Topic(topic) => (&**topic.log(), vec![window], topic.released_to()),
        };
        let state = |sequence| match &self.place {
            Place::Channel(_) => "finished",
            Place::Topic(_) if sequence >= released => "held",
            Place::Topic(_) => "released",
        };
        let present = ranges.into_iter().flat_map(|range| gaps(range, log.absent(range.from, range.to)));
        let found = |sequence| Found { sequence, seen: None, state: state(sequence) };
        let mut found: Vec<Found> = present.flat_map(SequenceRange::iter).map(found).collect();
        let step = self.step();
        if is_back {
            found.reverse();
        }
        let is_cut = found.len() > step;
        found.truncate(step);
        let last = found.last().map(|found| found.sequence);
        let next = match (is_back, last) {
            (true, Some(last)) if is_cut => last,
            (false, Some(last)) if is_cut => last + 1,
            (true, _) => window.from,
            (false, _) => window.to,
        };
        let is_over = if is_back { next <= first } else { next >= end };
        (found, (!is_over).then_some(next))
    }

    /// Reads messages, and keeps those that match.
    fn read(&mut self, found: Vec<Found>) {
        let is_back = self.request.is_back();
        let infos = self.consumers(&found);
        let mut part = if is_back { BACK_PART } else { usize::MAX };
        let mut rest = &found[..];
        while let Some(first) = rest.first() {
            let offered = &rest[..rest.len().min(part)];
            let mut sequences: Vec<u64> = offered.iter().map(|found| found.sequence).collect();
            sequences.sort_unstable();
            let (frames, result) = self.log().gather(&sequences);
            let frames: Vec<(u64, Vec<u8>)> =
                frames.iter().map(|(sequence, frame)| (sequence, frame.to_vec())).collect();
            // A batch is bounded in bytes. Messages that are missing before its end do not exist any more.
            let read_to = frames.last().map_or(u64::MAX, |(last, _)| last + 1);
            let is_cut = result.is_err() || read_to <= sequences.last().copied().unwrap_or(0);
            let covered = match (is_cut, is_back) {
                (false, _) => offered.len(),
                (true, false) => offered.iter().take_while(|found| found.sequence < read_to).count(),
                // The newest are missing, which come first.
                (true, true) if result.is_ok() && part > 1 => {
                    part = (offered.len() / 2).max(1);
                    continue;
                }
                (true, true) => 0,
            };
            let covered = if result.is_err() && frames.is_empty() { 0 } else { covered };
            let at = |found: &Found| if is_back { found.sequence + 1 } else { found.sequence };
            for found in &offered[..covered] {
                let frame = frames.binary_search_by_key(&found.sequence, |(sequence, _)| *sequence);
                if let Ok(index) = frame
                    && !self.add(found, &frames[index].1, &infos)
                {
                    return;
                }
            }
            rest = &rest[covered..];
            if result.is_err() {
                self.next = Some(rest.first().map_or_else(|| at(first), at));
                self.stop("unreadable");
                return;
            }
            if self.examined_bytes >= MAX_READ_BYTES
                && let Some(first) = rest.first()
            {
                self.next = Some(at(first));
                self.stop("bytes");
                return;
            }
        }
    }

    fn log(&self) -> &TopicLog {
        match &self.place {
            Place::Channel(channel) => channel.log(),
            Place::Topic(topic) => topic.log(),
        }
    }

    /// Adds a message if it matches. Returns whether the page has room for more.
    fn add(&mut self, found: &Found, frame: &[u8], infos: &HashMap<u32, PeekedConsumer>) -> bool {
        let is_back = self.request.is_back();
        self.examined += 1;
        self.examined_bytes += frame.len() as u64;
        if !self.request.matches(frame) {
            return true;
        }
        let cursor = match is_back {
            true => From::Before(found.sequence),
            false => From::Sequence(found.sequence + 1),
        };
        let mut message = shown::message(found.sequence, frame);
        message.state = found.state.to_owned();
        message.cursor = cursor.to_string();
        if let Some(seen) = &found.seen {
            let monotonic = clock::monotonic();
            let clocks = Clocks { monotonic, wall_ns: clock::wall_at(monotonic) };
            message.attempts = Some(seen.attempts);
            match seen.standing {
                Standing::Deferred { due } => message.due_at = Some(clocks.to_wall(due)),
                Standing::InFlight { owner, delivered_at, deadline } => {
                    message.consumer = infos.get(&owner).cloned();
                    message.delivered_at = Some(clocks.to_wall(delivered_at));
                    message.deadline_at = Some(clocks.to_wall(deadline));
                }
                _ => {}
            }
        }
        self.page_bytes += frame.len();
        self.messages.push(message);
        let is_full = self.messages.len() >= self.request.limit;
        if is_full || self.page_bytes >= MAX_PAGE_BYTES {
            let next = if is_back { found.sequence } else { found.sequence + 1 };
            // The step may have looked further.
            self.next = Some(next);
            self.stop(if is_full { "limit" } else { "bytes" });
            return false;
        }
        true
    }

    /// The consumers of these messages in flight.
    fn consumers(&self, found: &[Found]) -> HashMap<u32, PeekedConsumer> {
        let Place::Channel(channel) = &self.place else { return HashMap::new() };
        let is_in_flight =
            |found: &Found| found.seen.is_some_and(|seen| matches!(seen.standing, Standing::InFlight { .. }));
        if !found.iter().any(is_in_flight) {
            return HashMap::new();
        }
        let infos: Vec<_> =
            channel.inspect(|_, infos| infos.iter().map(|(key, info)| (key, info.clone())).collect());
        let consumer = |(key, info): (u32, Arc<crate::client_info::ClientInfo>)| {
            let identity = info.identity();
            let consumer = PeekedConsumer {
                client_id: identity.client_id,
                hostname: identity.hostname,
                remote_address: info.remote_address.clone(),
            };
            (key, consumer)
        };
        infos.into_iter().map(consumer).collect()
    }

    /// Why and where it ended.
    pub fn end(&self) -> PeekEnd {
        let cursor = |at| if self.request.is_back() { From::Before(at) } else { From::Sequence(at) };
        PeekEnd {
            stopped_by: self.stopped_by.unwrap_or("end").to_owned(),
            examined: self.examined,
            examined_bytes: self.examined_bytes,
            next: self.next.map(|at| cursor(at).to_string()),
        }
    }
}

/// Messages of a look back that are read at once.
const BACK_PART: usize = 100;
