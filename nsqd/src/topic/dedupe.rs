//! Pure: the ids that a topic remembers, so that it stores the messages of one id once within a window of time.
//!
//! ```text
//!           offer                      settle(accepted)
//! unknown ─────────▶ offered, unsettled ─────────────▶ remembered
//!    ▲    ◀─withdraw─────┴──settle(refused)──┘             │
//!    └──────── expired, beyond the limit, forgotten ───────┘
//! ```
//!
//! An id is remembered only together with its message: it enters the window when its message enters the log, and leaves
//! it at once if the message is refused. So no message is lost to an id whose own message does not exist. The window
//! counts from when the message was stored; a duplicate does not extend it.
//!
//! The window holds a digest of each id, 128 bits of SHA-256, so its size does not depend on the ids.

mod learned;

use std::collections::VecDeque;

use hashbrown::HashTable;
use nsq_protocol::headers::{self, Headers};
use sha2::{Digest, Sha256};

pub use self::learned::LearnedIds;
use super::dead_letter;
use crate::channel::saved::Clocks;
use crate::clock::Nanos;
use crate::storage::SequenceRange;
use crate::storage::id_list::{DIGEST_BYTES, SavedId};

/// Digest of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdDigest([u8; DIGEST_BYTES]);

impl IdDigest {
    /// The digest of this id.
    pub fn of(id: &str) -> Self {
        let mut digest = [0; DIGEST_BYTES];
        digest.copy_from_slice(&Sha256::digest(id.as_bytes())[..DIGEST_BYTES]);
        IdDigest(digest)
    }

    /// The digest of the id in these headers, if they have one.
    pub fn in_headers(headers: Headers<'_>) -> Option<Self> {
        headers.get(headers::ID).map(|id| Self::of(&id))
    }

    /// The digest of the id of a published message with headers.
    pub fn of_published(message: &[u8]) -> Option<Self> {
        headers::split_published(message).ok().and_then(|(headers, _)| Self::in_headers(headers))
    }

    /// The digest of the id of a stored message. `None` for a dead letter: it does not enter the window of its topic.
    pub fn of_stored(frame: &[u8]) -> Option<Self> {
        if !headers::has_headers(frame) {
            return None;
        }
        let (headers, _) = headers::split_stored(frame)?;
        let id = Self::in_headers(headers?)?;
        headers?.get(dead_letter::TOPIC).is_none().then_some(id)
    }

    /// Any part of a digest is a good hash.
    fn hash(self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A sequence number of an offered message that has none yet: this, plus its place among the new messages of its batch.
const OFFERED: u64 = 1 << 63;

/// The digest of an entry whose id is forgotten.
const REMOVED: IdDigest = IdDigest([0; DIGEST_BYTES]);

/// A remembered id. Entries are in the order of their messages, and of `stored_at`.
#[derive(Clone, Copy, Debug)]
struct Entry {
    digest: IdDigest,
    /// The message that has the id.
    sequence: u64,
    /// When it was stored, on the monotonic clock. Negative if before the start of the process.
    stored_at: i64,
}

/// There may be a million.
const _: () = assert!(size_of::<Entry>() == 32);

/// What becomes of one offered message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The topic must store it. Its place among the new messages of the batch.
    New(u64),
    /// It has the id of this new message of the same batch.
    Repeats(u64),
    /// It has the id of this stored message.
    Stored(u64),
}

/// What becomes of a batch. Either [`Window::accept`] or [`Window::withdraw`] must follow, before anything else.
#[derive(Debug)]
#[must_use = "the window holds ids of messages that are not stored yet"]
pub struct Offer<T> {
    /// One for each message, in order.
    pub verdicts: Vec<Verdict>,
    /// Number of messages to store.
    pub new_count: u64,
    /// Batches that are not settled and hold messages with the ids of duplicates: their first sequence number and their
    /// outcome.
    pub unsettled: Vec<(u64, T)>,
    /// Number of entries added to the window.
    added: usize,
}

/// Numbers for statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Ids remembered now.
    pub id_count: u64,
    /// Messages that were not stored, because their id was remembered.
    pub duplicate_count: u64,
    /// Ids forgotten within the window, because there were too many.
    pub dropped_id_count: u64,
}

/// The ids of a topic; see the module. `T` is a handle to the outcome of a batch.
#[derive(Debug)]
pub struct Window<T> {
    /// How long an id is remembered.
    length: Nanos,
    /// Maximum number of ids.
    most: usize,
    /// The ids of messages before this are forgotten.
    forgotten_before: u64,
    entries: VecDeque<Entry>,
    /// Number of the first entry; wraps around.
    first: u32,
    /// Numbers of the entries that are not removed, by digest.
    numbers: HashTable<u32>,
    /// Batches whose outcome is not known, in order: their messages, and their outcome.
    unsettled: VecDeque<(SequenceRange, T)>,
    duplicate_count: u64,
    dropped_id_count: u64,
}

impl<T: Clone> Window<T> {
    /// An empty window. `most` is from 1 to 2^31.
    pub fn new(length: Nanos, most: usize, forgotten_before: u64) -> Self {
        Window {
            length,
            most: most.clamp(1, 1 << 31),
            forgotten_before,
            entries: VecDeque::new(),
            first: 0,
            numbers: HashTable::new(),
            unsettled: VecDeque::new(),
            duplicate_count: 0,
            dropped_id_count: 0,
        }
    }

    /// Changes how long ids are remembered, including those already there.
    pub fn set_length(&mut self, length: Nanos) {
        self.length = length;
    }

    /// The ids of messages before this are forgotten.
    pub fn forgotten_before(&self) -> u64 {
        self.forgotten_before
    }

    /// Looks up the ids of a batch at `now`, and remembers those that are unknown. Messages without an id are new.
    pub fn offer(&mut self, ids: impl Iterator<Item = Option<IdDigest>>, now: Nanos) -> Offer<T> {
        self.expire(now);
        let mut offer = Offer { verdicts: Vec::new(), new_count: 0, unsettled: Vec::new(), added: 0 };
        for id in ids {
            let known = id.and_then(|id| self.find(id));
            let verdict = match known.map(|entry| entry.sequence) {
                Some(sequence) if sequence >= OFFERED => Verdict::Repeats(sequence - OFFERED),
                Some(sequence) => {
                    self.await_outcome(sequence, &mut offer.unsettled);
                    Verdict::Stored(sequence)
                }
                None => {
                    let place = offer.new_count;
                    offer.new_count += 1;
                    if let Some(id) = id {
                        self.push(id, OFFERED + place, signed(now));
                        offer.added += 1;
                    }
                    Verdict::New(place)
                }
            };
            offer.verdicts.push(verdict);
        }
        offer
    }

    /// The new messages of the batch are in the log, from `first` on. Returns each message's sequence number, and
    /// whether it is a duplicate. `outcome` must be settled.
    pub fn accept(&mut self, offer: &Offer<T>, first: u64, outcome: T) -> Vec<(u64, bool)> {
        let added = self.entries.len() - offer.added;
        for entry in self.entries.range_mut(added..) {
            entry.sequence = first + (entry.sequence - OFFERED);
        }
        if offer.added > 0 {
            self.unsettled.push_back((SequenceRange::new(first, first + offer.new_count), outcome));
        }
        while self.numbers.len() > self.most {
            self.remove_first();
            self.dropped_id_count += 1;
        }
        self.drop_removed();
        let answers: Vec<(u64, bool)> = (offer.verdicts.iter())
            .map(|verdict| match *verdict {
                Verdict::New(place) => (first + place, false),
                Verdict::Repeats(place) => (first + place, true),
                Verdict::Stored(sequence) => (sequence, true),
            })
            .collect();
        self.duplicate_count += offer.verdicts.len() as u64 - offer.new_count;
        answers
    }

    /// The batch was refused before any of its messages was in the log.
    pub fn withdraw(&mut self, offer: &Offer<T>) {
        for index in self.entries.len() - offer.added..self.entries.len() {
            self.remove(index);
        }
        self.entries.truncate(self.entries.len() - offer.added);
    }

    /// The outcome of the batch that begins with `first` is known. If it was refused, its ids are forgotten.
    pub fn settle(&mut self, first: u64, accepted: bool) {
        let Ok(at) = self.unsettled.binary_search_by_key(&first, |(batch, _)| batch.from) else { return };
        let Some((SequenceRange { from, to }, _)) = self.unsettled.remove(at) else { return };
        if accepted {
            return;
        }
        let start = self.entries.partition_point(|entry| entry.sequence < from);
        let end = self.entries.partition_point(|entry| entry.sequence < to);
        for index in start..end {
            self.remove(index);
        }
        self.drop_removed();
    }

    /// Forgets the ids of all messages before this one, which is at or after the end of the log.
    pub fn forget_before(&mut self, sequence: u64) {
        self.forgotten_before = self.forgotten_before.max(sequence);
        self.entries = VecDeque::new();
        self.numbers = HashTable::new();
    }

    /// Forgets what is older than the window, and frees memory that is no longer needed.
    pub fn expire(&mut self, now: Nanos) {
        let newest_expired = signed(now) - signed(self.length);
        if self.entries.back().is_some_and(|entry| entry.stored_at <= newest_expired) {
            self.entries = VecDeque::new();
            self.numbers = HashTable::new();
        }
        while self.entries.front().is_some_and(|entry| entry.stored_at <= newest_expired) {
            self.remove_first();
        }
        self.drop_removed();
        if self.entries.capacity() > SMALL && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.len() * 2);
            self.numbers.shrink_to(self.numbers.len() * 2, hasher(&self.entries, self.first));
        }
    }

    /// Whether the id is remembered.
    pub fn remembers(&self, id: IdDigest) -> bool {
        self.find(id).is_some()
    }

    pub fn counts(&self) -> WindowCounts {
        WindowCounts {
            id_count: self.numbers.len() as u64,
            duplicate_count: self.duplicate_count,
            dropped_id_count: self.dropped_id_count,
        }
    }

    /// Passes about `most` ids of acknowledged messages from `from` on to `save`. Returns the message from which to
    /// continue, if there are more.
    pub fn save_slice(
        &self,
        from: u64,
        most: usize,
        clocks: Clocks,
        mut save: impl FnMut(SavedId),
    ) -> Option<u64> {
        let start = self.entries.partition_point(|entry| entry.sequence < from);
        for (count, entry) in self.entries.range(start..).enumerate() {
            if count == most {
                return Some(entry.sequence);
            }
            // A start learns the others from their records, if these were written.
            if entry.digest != REMOVED && self.unsettled_batch(entry.sequence).is_none() {
                save(SavedId {
                    digest: entry.digest.0,
                    sequence: entry.sequence,
                    stored_ns: clocks.wall_ns.saturating_add(entry.stored_at - signed(clocks.monotonic)),
                });
            }
        }
        None
    }

    fn find(&self, id: IdDigest) -> Option<&Entry> {
        let number = self.numbers.find(id.hash(), |&number| self.entry(number).digest == id)?;
        Some(self.entry(*number))
    }

    fn entry(&self, number: u32) -> &Entry {
        &self.entries[number.wrapping_sub(self.first) as usize]
    }

    fn push(&mut self, digest: IdDigest, sequence: u64, stored_at: i64) {
        let number = self.first.wrapping_add(self.entries.len() as u32);
        self.entries.push_back(Entry { digest, sequence, stored_at });
        self.numbers.insert_unique(digest.hash(), number, hasher(&self.entries, self.first));
    }

    fn remove(&mut self, index: usize) {
        let digest = std::mem::replace(&mut self.entries[index].digest, REMOVED);
        if digest == REMOVED {
            return;
        }
        let (number, hash) = (self.first.wrapping_add(index as u32), digest.hash());
        if let Ok(occupied) = self.numbers.find_entry(hash, |&other| other == number) {
            occupied.remove();
        }
    }

    fn remove_first(&mut self) {
        self.drop_removed();
        if !self.entries.is_empty() {
            self.remove(0);
            self.drop_removed();
        }
    }

    fn drop_removed(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.digest == REMOVED) {
            self.entries.pop_front();
            self.first = self.first.wrapping_add(1);
        }
    }

    fn unsettled_batch(&self, sequence: u64) -> Option<&(SequenceRange, T)> {
        let after = self.unsettled.partition_point(|(batch, _)| batch.from <= sequence);
        self.unsettled.get(after.checked_sub(1)?).filter(|(batch, _)| sequence < batch.to)
    }

    fn await_outcome(&self, sequence: u64, unsettled: &mut Vec<(u64, T)>) {
        if let Some((SequenceRange { from, .. }, outcome)) = self.unsettled_batch(sequence)
            && !unsettled.iter().any(|(known, _)| known == from)
        {
            unsettled.push((*from, outcome.clone()));
        }
    }
}

/// A window of this capacity is not shrunk.
const SMALL: usize = 1024;

fn hasher(entries: &VecDeque<Entry>, first: u32) -> impl Fn(&u32) -> u64 {
    move |number| entries[number.wrapping_sub(first) as usize].digest.hash()
}

fn signed(nanos: Nanos) -> i64 {
    i64::try_from(nanos).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn id(number: u32) -> IdDigest {
        IdDigest::of(&number.to_string())
    }

    /// A topic as its window sees it: the end of its log, and its clock.
    struct Topic {
        window: Window<&'static str>,
        end: u64,
        now: Nanos,
    }

    impl Topic {
        fn new(seconds: u64, most: usize) -> Self {
            Topic { window: Window::new(seconds * SECOND, most, 0), end: 100, now: SECOND }
        }

        /// Publishes a batch that is not settled yet. Returns the answers, and the outcomes to wait for.
        fn append(&mut self, ids: &[u32], name: &'static str) -> (Vec<(u64, bool)>, Vec<&'static str>) {
            let offer = self.window.offer(ids.iter().map(|&number| Some(id(number))), self.now);
            let first = self.end;
            self.end += offer.new_count;
            let answers = self.window.accept(&offer, first, name);
            (answers, offer.unsettled.into_iter().map(|(_, outcome)| outcome).collect())
        }

        fn publish(&mut self, ids: &[u32]) -> Vec<(u64, bool)> {
            let first = self.end;
            let (answers, _) = self.append(ids, "");
            self.window.settle(first, true);
            answers
        }
    }

    #[test]
    fn an_id_is_stored_once_within_the_window_and_again_after_it() {
        let mut topic = Topic::new(5, 100);
        assert_eq!(topic.publish(&[1]), [(100, false)]);
        topic.now += 4 * SECOND;
        assert_eq!(topic.publish(&[1, 2]), [(100, true), (101, false)]);
        // The duplicate did not extend the window.
        topic.now += SECOND;
        assert_eq!(topic.publish(&[1, 2]), [(102, false), (101, true)]);
        assert_eq!(topic.window.counts().duplicate_count, 2);
    }

    #[test]
    fn duplicates_within_a_batch_are_dropped() {
        let mut topic = Topic::new(5, 100);
        assert_eq!(topic.publish(&[1, 2, 1, 1]), [(100, false), (101, false), (100, true), (100, true)]);
        assert_eq!(topic.end, 102);
    }

    #[test]
    fn messages_without_an_id_are_always_new() {
        let mut window: Window<()> = Window::new(SECOND, 10, 0);
        let offer = window.offer([None, Some(id(1)), None, Some(id(1))].into_iter(), 0);
        assert_eq!(offer.verdicts, [Verdict::New(0), Verdict::New(1), Verdict::New(2), Verdict::Repeats(1)]);
        assert_eq!(window.accept(&offer, 7, ()), [(7, false), (8, false), (9, false), (8, true)]);
    }

    #[test]
    fn a_duplicate_waits_for_the_outcome_of_the_first() {
        let mut topic = Topic::new(5, 100);
        assert_eq!(topic.append(&[1, 2], "a"), (vec![(100, false), (101, false)], vec![]));
        assert_eq!(topic.append(&[3], "b").1, Vec::<&str>::new());
        assert_eq!(
            topic.append(&[2, 3, 1], "c"),
            (vec![(101, true), (102, true), (100, true)], vec!["a", "b"])
        );
        topic.window.settle(100, true);
        assert_eq!(topic.append(&[2, 3], "d").1, ["b"]);
    }

    #[test]
    fn a_refused_id_is_forgotten_and_others_stay() {
        let mut topic = Topic::new(5, 100);
        topic.publish(&[1]);
        topic.append(&[2, 3], "a");
        topic.publish(&[4]);
        topic.window.settle(101, false);
        assert_eq!(topic.publish(&[1, 2, 3, 4]), [(100, true), (104, false), (105, false), (103, true)]);
    }

    #[test]
    fn a_withdrawn_batch_leaves_nothing() {
        let mut topic = Topic::new(5, 100);
        topic.publish(&[1]);
        let offer = topic.window.offer([Some(id(2)), Some(id(1)), Some(id(3))].into_iter(), topic.now);
        topic.window.withdraw(&offer);
        assert_eq!(topic.window.counts(), WindowCounts { id_count: 1, ..WindowCounts::default() });
        assert_eq!(topic.publish(&[2, 1]), [(101, false), (100, true)]);
    }

    #[test]
    fn the_oldest_ids_beyond_the_limit_are_dropped_and_counted() {
        let mut topic = Topic::new(5, 3);
        topic.publish(&[1, 2, 3]);
        assert_eq!(topic.window.counts().dropped_id_count, 0);
        topic.publish(&[4, 5]);
        assert_eq!(
            topic.window.counts(),
            WindowCounts { id_count: 3, duplicate_count: 0, dropped_id_count: 2 }
        );
        assert_eq!(
            topic.publish(&[3, 4, 5, 1]).iter().map(|answer| answer.1).collect::<Vec<_>>(),
            [true, true, true, false]
        );
        // More at once than the limit.
        topic.publish(&[10, 11, 12, 13, 14]);
        assert_eq!(topic.window.counts().id_count, 3);
        assert!([12, 13, 14].iter().all(|&number| topic.window.remembers(id(number))));
    }

    #[test]
    fn forgetting_clears_the_window() {
        let mut topic = Topic::new(5, 10);
        topic.publish(&[1]);
        topic.append(&[2], "a");
        topic.window.forget_before(topic.end);
        topic.window.settle(101, false);
        assert_eq!((topic.window.counts().id_count, topic.window.forgotten_before()), (0, 102));
        assert_eq!(topic.publish(&[1, 2]), [(102, false), (103, false)]);
    }

    #[test]
    fn an_idle_window_frees_its_memory() {
        let mut topic = Topic::new(5, 100_000);
        (0..20_000).for_each(|number| drop(topic.publish(&[number])));
        topic.now += 5 * SECOND;
        topic.window.expire(topic.now);
        assert_eq!(topic.window.counts().id_count, 0);
        assert!(topic.window.entries.capacity() <= SMALL && topic.window.numbers.capacity() <= SMALL);
    }

    fn clocks(monotonic: Nanos, wall_ns: i64) -> Clocks {
        Clocks { monotonic, wall_ns }
    }

    fn saved(window: &Window<&'static str>, clocks: Clocks, slice: usize) -> Vec<SavedId> {
        let (mut all, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            next = window.save_slice(from, slice, clocks, |id| all.push(id));
        }
        all
    }

    const WALL: i64 = 1_700_000_000_000_000_000;

    /// Restores the ids of a topic at a later wall time, in a process that has just started.
    fn restored(topic: &Topic, length: Nanos, later_ns: i64) -> Window<&'static str> {
        let mut learned = LearnedIds::new(100);
        saved(&topic.window, clocks(topic.now, WALL), 2).into_iter().for_each(|id| learned.add(id));
        learned.into_window(length, clocks(7, WALL + later_ns))
    }

    #[test]
    fn the_rest_of_the_window_survives_a_restart() {
        let mut topic = Topic::new(10, 100);
        topic.publish(&[1]);
        topic.now += 4 * SECOND;
        topic.publish(&[2]);
        topic.append(&[3], "a");
        let window = restored(&topic, 10 * SECOND, 5 * SECOND as i64);
        assert_eq!([1, 2, 3].map(|number| window.remembers(id(number))), [true, true, false]);
        let mut window = restored(&topic, 10 * SECOND, 7 * SECOND as i64);
        assert_eq!([1, 2].map(|number| window.remembers(id(number))), [false, true]);
        window.expire(7 + 3 * SECOND);
        assert!(!window.remembers(id(2)));
    }

    #[test]
    fn a_wall_clock_that_jumps_never_extends_the_window() {
        let mut topic = Topic::new(10, 100);
        topic.publish(&[1, 2]);
        let year = 365 * 86400 * SECOND as i64;
        assert!(!restored(&topic, 10 * SECOND, year).remembers(id(1)));
        let mut back = restored(&topic, 10 * SECOND, -year);
        back.expire(9 * SECOND);
        assert!(back.remembers(id(1)) && back.remembers(id(2)));
        back.expire(11 * SECOND);
        assert_eq!(back.counts().id_count, 0);
    }

    #[test]
    fn records_can_be_learned_in_any_order_and_again() {
        let frames = |sequence: u64, ids: &[Option<&str>]| {
            let mut frames = Vec::new();
            for (id, sequence) in ids.iter().zip(sequence..) {
                let message_id = nsq_protocol::message_id::MessageId::from_u64(sequence);
                let (mut body, mut form) = (b"body".to_vec(), headers::Form::Plain);
                if let Some(id) = id {
                    let headers = headers::HeadersBuf::of_producer([("a", "b"), ("nsq-id", *id)]).unwrap();
                    body.clear();
                    headers::put_published(&mut body, headers.as_headers(), b"body");
                    form = headers::Form::WithHeaders;
                }
                headers::put_stored_frame(&mut frames, WALL, 1, message_id, form, &body);
            }
            frames
        };
        let mut learned = LearnedIds::new(3);
        learned.add_published(20, &frames(20, &[Some("c"), None, Some("d")]));
        learned.add_published(10, &frames(10, &[Some("a"), Some("b")]));
        learned.add_published(20, &frames(20, &[Some("c"), None, Some("d")]));
        learned.add_published(30, b"cut off");
        assert_eq!(learned.ids.keys().copied().collect::<Vec<_>>(), [11, 20, 22]);
        learned.forget_before(20);
        learned.add_published(10, &frames(10, &[Some("a"), Some("b")]));
        // Refused, published again, and found twice.
        learned.add_published(25, &frames(25, &[Some("c")]));
        let mut window: Window<()> = learned.into_window(SECOND, clocks(0, WALL));
        assert_eq!(window.counts().id_count, 2);
        let offer = window.offer(["c", "d", "b"].into_iter().map(|id| Some(IdDigest::of(id))), 0);
        assert_eq!(offer.verdicts, [Verdict::Stored(25), Verdict::Stored(22), Verdict::New(0)]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Publish(Vec<Option<u32>>),
        /// The log refuses the batch at once.
        Refuse(Vec<Option<u32>>),
        /// The oldest or newest unsettled batch.
        Settle {
            newest: bool,
            accepted: bool,
        },
        Advance(u64),
        Forget,
        SetLength(u64),
        Restart,
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let ids = || prop::collection::vec(prop::option::weighted(0.9, 0u32..12), 1..6);
        prop::collection::vec(
            prop_oneof![
                6 => ids().prop_map(Op::Publish),
                1 => ids().prop_map(Op::Refuse),
                4 => any::<(bool, bool)>().prop_map(|(newest, accepted)| Op::Settle { newest, accepted }),
                3 => (0u64..4).prop_map(Op::Advance),
                1 => Just(Op::Forget),
                1 => (1u64..6).prop_map(Op::SetLength),
                1 => Just(Op::Restart),
            ],
            0..60,
        )
    }

    /// All ids that were stored, in order: id, message, time, and the batch whose outcome is not known.
    #[derive(Default)]
    struct Naive {
        ids: Vec<(u32, u64, u64, Option<u64>)>,
    }

    const MOST: usize = 6;

    proptest! {
        #[test]
        fn the_window_agrees_with_a_naive_list(ops in ops()) {
            let mut topic = Topic::new(3, MOST);
            let mut naive = Naive::default();
            let (mut length, mut unsettled) = (3, Vec::new());
            // In seconds, while the process runs.
            let mut time = 1;
            for op in ops {
                naive.ids.retain(|(_, _, at, _)| at + length > time);
                match op {
                    Op::Publish(ids) => {
                        let offer = topic.window.offer(ids.iter().map(|id_| id_.map(id)), topic.now);
                        let first = topic.end;
                        topic.end += offer.new_count;
                        let answers = topic.window.accept(&offer, first, "");
                        let mut next = first;
                        let mut waits = BTreeSet::new();
                        for (number, answer) in ids.iter().zip(answers) {
                            let known = naive.ids.iter().find(|(other, ..)| Some(*other) == *number);
                            let expected = known.map_or((next, false), |(_, sequence, ..)| (*sequence, true));
                            prop_assert_eq!(answer, expected);
                            match known {
                                Some((.., batch)) => waits.extend(batch.filter(|batch| *batch != first)),
                                None => {
                                    naive.ids.extend(number.map(|number| (number, next, time, Some(first))));
                                    next += 1;
                                }
                            }
                        }
                        prop_assert_eq!(offer.unsettled.iter().map(|(from, _)| *from).collect::<BTreeSet<_>>(), waits);
                        if naive.ids.iter().any(|(.., batch)| *batch == Some(first)) {
                            unsettled.push(first);
                        }
                        let surplus = naive.ids.len().saturating_sub(MOST);
                        naive.ids.drain(..surplus);
                    }
                    Op::Refuse(ids) => {
                        let offer = topic.window.offer(ids.iter().map(|id_| id_.map(id)), topic.now);
                        topic.window.withdraw(&offer);
                    }
                    Op::Settle { newest, accepted } => {
                        if unsettled.is_empty() {
                            continue;
                        }
                        let first = unsettled.remove(if newest { unsettled.len() - 1 } else { 0 });
                        topic.window.settle(first, accepted);
                        for entry in &mut naive.ids {
                            entry.3 = entry.3.filter(|batch| *batch != first || !accepted);
                        }
                        naive.ids.retain(|(.., batch)| *batch != Some(first));
                    }
                    Op::Advance(seconds) => {
                        time += seconds;
                        topic.now += seconds * SECOND;
                    }
                    Op::Forget => {
                        topic.window.forget_before(topic.end);
                        naive.ids.clear();
                    }
                    Op::SetLength(seconds) => {
                        length = seconds;
                        topic.window.set_length(seconds * SECOND);
                    }
                    Op::Restart => {
                        let all = saved(&topic.window, clocks(topic.now, WALL), 2);
                        let mut learned = LearnedIds::new(MOST);
                        learned.forget_before(topic.window.forgotten_before());
                        all.into_iter().for_each(|id| learned.add(id));
                        topic.now = SECOND / 2;
                        topic.window = learned.into_window(length * SECOND, clocks(topic.now, WALL));
                        naive.ids.retain(|(.., batch)| batch.is_none());
                        unsettled.clear();
                    }
                }
                topic.window.expire(topic.now);
                naive.ids.retain(|(_, _, at, _)| at + length > time);
                prop_assert_eq!(topic.window.counts().id_count, naive.ids.len() as u64);
                for number in 0..12 {
                    let known = naive.ids.iter().any(|(other, ..)| *other == number);
                    prop_assert_eq!(topic.window.remembers(id(number)), known, "{}", number);
                }
            }
        }
    }
}
