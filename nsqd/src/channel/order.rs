//! Pure: which messages of a channel wait for others with the same key, and whose turn it is.
//!
//! The channel reads messages in the order of its log and learns their keys. A message whose key may not have (another)
//! one in flight is *held*: it is behind the cursor, not finished, and waits until it is its turn.
//!
//! ```text
//!                  admit                         its key is free
//!   (unlearned) -----+-----> active <---- ready <----------------- held
//!                    |         |                                     ^
//!                    |         +--> idle: keeps nobody waiting       |
//!                    +-----------------------------------------------+
//! ```
//!
//! - *active*: it keeps its key busy: in flight, or waiting for its redelivery, deferred, about to become a dead letter
//! - *ready*: active, and the next one to be handed out
//! - *unlearned*: its key is not known yet: after a start, after a change of the setting, or because it was due just now.
//!   Nothing is handed out while it is not known which keys the active ones keep busy. Those that wait are looked at in the
//!   order of their sequence numbers
//! - messages that are none of these have no key
//!
//! With [`Rule::Fair`], a key may have several messages in flight, but none above its share while others wait; only
//! messages in flight are active.

use std::collections::BTreeSet;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;

use smallvec::{SmallVec, smallvec};

use super::number_map::NumberMap;
use crate::policy::ordering::{Ordering, Rule};

/// Most messages of a channel that are held at a time. Then it reads no further.
pub const MOST_READ_PAST: usize = 10_000;
/// A fair channel gives each tenth message to the longest held one, so that no key waits forever.
const OLDEST_EVERY: u32 = 10;
/// Bytes of a key that reports show.
const SHOWN_KEY_BYTES: usize = 256;

/// The hash of a key, with a secret. If two keys have the same one, they wait for each other.
type Key = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    Ready,
    Held,
    Idle,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    key: Key,
    state: State,
}

/// The messages of one key. Without any, the key is forgotten.
#[derive(Debug, Default)]
struct OfKey {
    /// The key, or its beginning. Empty until a message of the key may have to wait.
    shown: Box<str>,
    /// Mostly one.
    active: SmallVec<[u64; 2]>,
    held: BTreeSet<u64>,
    idle_count: usize,
}

impl OfKey {
    fn is_busy(&self) -> bool {
        !self.active.is_empty() || !self.held.is_empty()
    }

    /// Whether the key has this message alone, and it is active.
    fn is_only(&self, sequence: u64) -> bool {
        self.active[..] == [sequence] && self.held.is_empty() && self.idle_count == 0
    }
}

/// See the module.
#[derive(Debug)]
pub struct Order {
    ordering: Ordering,
    hasher: RandomState,
    keys: NumberMap<OfKey>,
    /// Outstanding messages with a key.
    known: NumberMap<Known>,
    held: BTreeSet<u64>,
    ready: BTreeSet<u64>,
    /// Messages that wait and whose keys are not known.
    unlearned: BTreeSet<u64>,
    /// Messages that may keep their keys busy, but it is not known which.
    unlearned_active: BTreeSet<u64>,
    /// Keys with active or held messages.
    busy_count: usize,
    /// Active messages.
    active_count: usize,
    /// With [`Rule::Fair`]: keys with held messages, by how many are in flight and by their oldest held message.
    by_load: BTreeSet<(usize, u64, Key)>,
    /// With [`Rule::Fair`]: messages to hand out before it is the turn of the oldest held one.
    until_oldest: u32,
}

/// What happens to a message that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    HandOut,
    /// It is held now.
    Hold,
    /// It would have to be held, but too many are: it stays unlearned.
    Stop,
}

/// Where a message waits that came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// In the channel's queue of waiting messages.
    Queued,
    /// Here: it is held, ready or unlearned.
    Here,
}

/// What an ordered or fair channel holds back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderReport {
    /// Messages that were read and wait for others of their key.
    pub held_count: u64,
    /// Keys with such messages.
    pub blocked_key_count: u64,
    /// Whether the channel reads no further, because it holds [`MOST_READ_PAST`] messages.
    pub is_stopped: bool,
    /// The key with most messages held.
    pub blocked: Option<BlockedKey>,
}

/// A key whose messages wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockedKey {
    /// The key, or its first 256 bytes; empty with `order=all`.
    pub key: String,
    /// The message that they wait for. `None` if it is not known (with `fair`).
    pub holder: Option<u64>,
    /// How many messages of the key are held.
    pub queue_length: u64,
}

impl Order {
    pub fn new(ordering: Ordering) -> Self {
        Order {
            ordering,
            hasher: RandomState::new(),
            keys: NumberMap::default(),
            known: NumberMap::default(),
            held: BTreeSet::new(),
            ready: BTreeSet::new(),
            unlearned: BTreeSet::new(),
            unlearned_active: BTreeSet::new(),
            busy_count: 0,
            active_count: 0,
            by_load: BTreeSet::new(),
            until_oldest: OLDEST_EVERY,
        }
    }

    pub fn ordering(&self) -> Ordering {
        self.ordering
    }

    /// Whether all messages are one after the other, so that their keys do not matter.
    pub fn is_of_all(&self) -> bool {
        self.ordering.rule == Rule::All
    }

    fn is_fair(&self) -> bool {
        self.ordering.rule == Rule::Fair
    }

    /// Adds a message whose key is not known. `may_be_active`: it does not wait, and may keep its key busy.
    pub fn add_unlearned(&mut self, sequence: u64, may_be_active: bool) {
        if may_be_active {
            self.unlearned_active.insert(sequence);
        } else {
            self.unlearned.insert(sequence);
        }
    }

    /// A message whose key must be learned before anything is handed out.
    pub fn must_learn(&self) -> Option<u64> {
        self.unlearned_active.first().copied()
    }

    /// The key of [`Order::must_learn`] is this; `None` also if the message cannot be read. `is_deferred`: it is held back
    /// after a failed delivery.
    pub fn learn(&mut self, sequence: u64, key: Option<&str>, is_deferred: bool) {
        self.unlearned_active.remove(&sequence);
        let passes = self.is_fair() || self.ordering.skips_requeued;
        let state = if is_deferred && passes { State::Idle } else { State::Active };
        if let Some(hash) = self.hash(key) {
            self.enter(hash, key.unwrap_or_default());
            self.set(sequence, hash, Some(state));
        }
    }

    /// Whether the key of this message, which is about to be handed out again, is not known yet.
    pub fn is_unlearned(&self, sequence: u64) -> bool {
        self.unlearned.contains(&sequence)
    }

    /// Decides about a message that was never handed out, or is unlearned, when its turn has come.
    pub fn admit(&mut self, sequence: u64, key: Option<&str>) -> Admission {
        let Some(hash) = self.hash(key) else {
            self.unlearned.remove(&sequence);
            self.count_turn();
            return Admission::HandOut;
        };
        let may_wait = self.ordering.skips_requeued || self.is_fair();
        let (active, held) = match self.keys.entry(hash) {
            Entry::Occupied(of_key) => (of_key.get().active.len(), of_key.get().held.len()),
            // The usual case, made short: it is the only one of its key.
            Entry::Vacant(of_key) => {
                let shown =
                    if may_wait { shown(self.ordering.rule, key.unwrap_or_default()) } else { "".into() };
                of_key.insert(OfKey { shown, active: smallvec![sequence], ..OfKey::default() });
                self.known.insert(sequence, Known { key: hash, state: State::Active });
                self.active_count += 1;
                self.busy_count += 1;
                self.unlearned.remove(&sequence);
                self.count_turn();
                return Admission::HandOut;
            }
        };
        // Older ones of its key come first.
        let is_free = held == 0 && active < if self.is_fair() { self.share() } else { 1 };
        if !is_free && !self.may_hold() {
            return Admission::Stop;
        }
        self.unlearned.remove(&sequence);
        self.enter(hash, key.filter(|_| may_wait || !is_free).unwrap_or_default());
        if is_free {
            self.set(sequence, hash, Some(State::Active));
            self.count_turn();
            Admission::HandOut
        } else {
            self.set(sequence, hash, Some(State::Held));
            self.release(hash);
            Admission::Hold
        }
    }

    /// Whether messages can be looked at. If not, and no other is ready, the turn of waiting messages has come.
    pub fn may_read(&self) -> bool {
        if self.is_of_all() { self.busy_count == 0 } else { self.may_hold() }
    }

    /// Whether another message can be held.
    fn may_hold(&self) -> bool {
        // With one key for all, there is nothing to find behind the message that is in flight.
        !self.is_of_all() && self.held.len() < MOST_READ_PAST
    }

    /// The message behind the cursor whose turn it is. It may be unlearned.
    pub fn next(&self, cursor: u64) -> Option<u64> {
        let may_read = self.may_read();
        let unlearned = self.unlearned.first().copied().filter(|sequence| may_read && *sequence < cursor);
        let ready = match self.ordering.rule {
            Rule::Key | Rule::All => self.ready.first().copied(),
            Rule::Fair if self.until_oldest == 0 => self.held.first().copied(),
            Rule::Fair => {
                let share = self.share();
                self.by_load.first().filter(|(active, ..)| *active < share).map(|&(_, oldest, _)| oldest)
            }
        };
        ready.into_iter().chain(unlearned).min()
    }

    /// The message to hand out if nothing else can be: with [`Rule::Fair`], one whose key has its share.
    pub fn next_beyond_share(&self) -> Option<u64> {
        self.by_load.first().map(|&(_, oldest, _)| oldest)
    }

    /// Number of messages here that can be looked at or handed out now.
    pub fn available(&self, cursor: u64) -> u64 {
        let can_look = self.may_read() && self.unlearned.first().is_some_and(|sequence| *sequence < cursor);
        let unlearned = if can_look { self.unlearned.len() } else { 0 };
        let held = if self.is_fair() { self.held.len() } else { 0 };
        (self.ready.len() + unlearned + held) as u64
    }

    /// Number of messages that wait here.
    pub fn len(&self) -> u64 {
        (self.ready.len() + self.unlearned.len() + self.held.len()) as u64
    }

    /// Number of messages that are held.
    pub fn held_count(&self) -> u64 {
        self.held.len() as u64
    }

    /// Whether no message waits here.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The messages that wait here, unordered.
    pub fn waiting(&self) -> impl Iterator<Item = u64> + '_ {
        self.ready.iter().chain(&self.unlearned).chain(&self.held).copied()
    }

    /// The oldest message that waits here.
    pub fn oldest(&self) -> Option<u64> {
        [&self.ready, &self.unlearned, &self.held].into_iter().filter_map(|set| set.first()).min().copied()
    }

    /// Messages that are needed from the log, roughly in the order in which they are needed.
    pub fn wanted(&self) -> impl Iterator<Item = u64> + '_ {
        let unlearned = self.unlearned.iter().filter(|_| self.may_read());
        let held = self.held.iter().filter(|_| self.is_fair());
        self.unlearned_active.iter().chain(&self.ready).chain(unlearned).chain(held).copied()
    }

    /// A message is handed out (again) that was admitted before.
    pub fn taken(&mut self, sequence: u64) {
        if self.held.first() == Some(&sequence) {
            self.until_oldest = OLDEST_EVERY;
        }
        self.count_turn();
        if let Some(Known { key, .. }) = self.known.get(&sequence).copied() {
            self.set(sequence, key, Some(State::Active));
        }
    }

    /// A message that was in flight is deferred by a REQ with a delay or by a retry schedule.
    pub fn defer(&mut self, sequence: u64) {
        if (self.ordering.skips_requeued || self.is_fair())
            && let Some(Known { key, .. }) = self.known.get(&sequence).copied()
        {
            self.set(sequence, key, Some(State::Idle));
            self.release(key);
        }
    }

    /// A message that waits, or is deferred, is deferred on demand; [`Order::defer`] follows. If it was handed out before, it
    /// keeps its key busy as one that failed. If not, it takes part again when it is due, as one that was published deferred.
    pub fn put_off(&mut self, sequence: u64, was_handed_out: bool) {
        if !was_handed_out {
            return self.forget(sequence);
        }
        if self.unlearned.remove(&sequence) {
            self.unlearned_active.insert(sequence);
        }
        if let Some(Known { key, state: State::Ready | State::Held }) = self.known.get(&sequence).copied() {
            self.set(sequence, key, Some(State::Active));
        }
    }

    /// A message waits to be handed out again.
    pub fn wait(&mut self, sequence: u64) -> Waits {
        let Some(Known { key, state }) = self.known.get(&sequence).copied() else {
            if self.unlearned_active.remove(&sequence) {
                self.unlearned.insert(sequence);
            }
            return if self.unlearned.contains(&sequence) { Waits::Here } else { Waits::Queued };
        };
        if self.is_fair() {
            self.set(sequence, key, Some(State::Idle));
            return Waits::Queued;
        }
        let (active, oldest_held) = match self.keys.get(&key) {
            Some(of_key) => (of_key.active.len(), of_key.held.first().copied()),
            None => (0, None),
        };
        let is_alone = active == usize::from(matches!(state, State::Active | State::Ready));
        if is_alone && oldest_held.is_none_or(|held| held > sequence) {
            self.set(sequence, key, Some(State::Active));
            return Waits::Queued;
        }
        // Several of its key were in flight when the order began or were taken out, or another one passed it.
        self.set(sequence, key, Some(State::Held));
        self.release(key);
        Waits::Here
    }

    /// A message waits in the order of the log, as if its key were not known.
    pub fn relearn(&mut self, sequence: u64) {
        self.forget(sequence);
        self.unlearned.insert(sequence);
    }

    /// A message is set aside or departs: it keeps its key busy until it is forgotten or waits again.
    pub fn set_aside(&mut self, sequence: u64) {
        let state = if self.is_fair() { State::Idle } else { State::Active };
        if let Some(Known { key, .. }) = self.known.get(&sequence).copied() {
            self.set(sequence, key, Some(state));
        } else {
            self.unlearned.remove(&sequence);
            self.unlearned_active.insert(sequence);
        }
    }

    /// A message is finished or gone: the next one of its key may be handed out.
    pub fn forget(&mut self, sequence: u64) {
        let Some(Known { key, state }) = self.known.remove(&sequence) else {
            self.unlearned.remove(&sequence);
            self.unlearned_active.remove(&sequence);
            return;
        };
        // The usual case, made short: it is the only one of its key.
        if state == State::Active
            && let Entry::Occupied(of_key) = self.keys.entry(key)
            && of_key.get().is_only(sequence)
        {
            of_key.remove();
            self.active_count -= 1;
            self.busy_count -= 1;
            return;
        }
        self.change(sequence, key, Some(state), None);
        self.release(key);
    }

    /// Forgets all messages.
    pub fn clear(&mut self) {
        *self = Order::new(self.ordering);
    }

    /// What is held back.
    pub fn report(&self) -> OrderReport {
        let blocked = self.keys.values().filter(|of_key| !of_key.held.is_empty());
        let longest = blocked
            .clone()
            .max_by_key(|of_key| (of_key.held.len(), std::cmp::Reverse(of_key.held.first().copied())));
        OrderReport {
            held_count: self.held.len() as u64,
            blocked_key_count: blocked.count() as u64,
            is_stopped: !self.is_of_all() && !self.may_hold(),
            blocked: longest.map(|of_key| BlockedKey {
                key: of_key.shown.to_string(),
                holder: of_key.active.first().copied(),
                queue_length: of_key.held.len() as u64,
            }),
        }
    }

    /// What this message waits for, if it waits because of its key.
    pub fn waits_for(&self, sequence: u64) -> Option<BlockedKey> {
        let key = match self.known.get(&sequence) {
            Some(Known { key, state: State::Held }) => *key,
            None if self.is_of_all() => self.hash(None)?,
            _ => return None,
        };
        let of_key = self.keys.get(&key).filter(|of_key| of_key.is_busy() && !self.is_fair())?;
        Some(BlockedKey {
            key: of_key.shown.to_string(),
            holder: of_key.active.first().copied(),
            queue_length: of_key.held.range(..sequence).count() as u64,
        })
    }

    /// How many messages are handed out before this one, which waits here.
    pub fn ready_before(&self, sequence: u64) -> u64 {
        let before = |set: &BTreeSet<u64>| set.range(..sequence).count() as u64;
        before(&self.ready) + before(&self.unlearned)
    }

    /// How many messages of one key may be in flight: those in flight divided by the keys that have any in flight or held,
    /// and one more for a key that may come; rounded up.
    fn share(&self) -> usize {
        (self.active_count + 1).div_ceil(self.busy_count + 1)
    }

    fn count_turn(&mut self) {
        self.until_oldest = self.until_oldest.saturating_sub(1);
    }

    fn hash(&self, key: Option<&str>) -> Option<Key> {
        match self.ordering.rule {
            Rule::All => Some(0),
            Rule::Key | Rule::Fair => key.filter(|key| !key.is_empty()).map(|key| self.hasher.hash_one(key)),
        }
    }

    /// Adds a key, if it is not there, and remembers its text, if one is given.
    fn enter(&mut self, key: Key, text: &str) {
        let of_key = self.keys.entry(key).or_default();
        if of_key.shown.is_empty() && !text.is_empty() {
            of_key.shown = shown(self.ordering.rule, text);
        }
    }

    /// Changes the state of a message, whose key must be there; `None` if it is gone.
    fn set(&mut self, sequence: u64, key: Key, to: Option<State>) {
        let from = match to {
            Some(state) => self.known.insert(sequence, Known { key, state }),
            None => self.known.remove(&sequence),
        };
        self.change(sequence, key, from.map(|known| known.state), to);
    }

    /// The state of a message has changed in `known`: changes everything else accordingly.
    fn change(&mut self, sequence: u64, key: Key, from: Option<State>, to: Option<State>) {
        let Some(of_key) = self.keys.get_mut(&key).filter(|_| from != to) else { return };
        let (was_busy, load) = (of_key.is_busy(), (of_key.active.len(), of_key.held.first().copied()));
        match from {
            Some(State::Active) => of_key.active.retain(|active| *active != sequence),
            Some(State::Ready) => {
                self.ready.remove(&sequence);
                of_key.active.retain(|active| *active != sequence);
            }
            Some(State::Held) => {
                self.held.remove(&sequence);
                of_key.held.remove(&sequence);
            }
            Some(State::Idle) => of_key.idle_count -= 1,
            None => {}
        }
        match to {
            Some(State::Active) => of_key.active.push(sequence),
            Some(State::Ready) => {
                self.ready.insert(sequence);
                of_key.active.push(sequence);
            }
            Some(State::Held) => {
                self.held.insert(sequence);
                of_key.held.insert(sequence);
            }
            Some(State::Idle) => of_key.idle_count += 1,
            None => {}
        }
        self.active_count = self.active_count + of_key.active.len() - load.0;
        self.busy_count = self.busy_count + usize::from(of_key.is_busy()) - usize::from(was_busy);
        if self.ordering.rule == Rule::Fair {
            if let (active, Some(oldest)) = load {
                self.by_load.remove(&(active, oldest, key));
            }
            if let Some(&oldest) = of_key.held.first() {
                self.by_load.insert((of_key.active.len(), oldest, key));
            }
        }
        if !of_key.is_busy() && of_key.idle_count == 0 {
            self.keys.remove(&key);
        }
    }

    /// Makes the oldest held message of a key ready, if none is active or only a newer one that was not handed out yet.
    fn release(&mut self, key: Key) {
        if self.is_fair() {
            return;
        }
        let Some(of_key) = self.keys.get(&key) else { return };
        let Some(&oldest) = of_key.held.first() else { return };
        match of_key.active[..] {
            [] => {}
            [newer] if newer > oldest && self.ready.contains(&newer) => {
                self.set(newer, key, Some(State::Held))
            }
            _ => return,
        }
        self.set(oldest, key, Some(State::Ready));
    }
}

/// The text of a key in reports.
fn shown(rule: Rule, key: &str) -> Box<str> {
    if rule == Rule::All { "".into() } else { beginning(key).into() }
}

/// The first [`SHOWN_KEY_BYTES`] of a key, or fewer: whole characters.
fn beginning(key: &str) -> &str {
    let most = key.len().min(SHOWN_KEY_BYTES);
    &key[..(0..=most).rev().find(|&at| key.is_char_boundary(at)).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(rule: Rule, skips_requeued: bool) -> Order {
        Order::new(Ordering { rule, skips_requeued })
    }

    #[test]
    fn next_one_of_a_key_is_ready_when_the_one_before_is_finished() {
        let mut order = order(Rule::Key, false);
        assert_eq!(order.admit(1, Some("a")), Admission::HandOut);
        assert_eq!(order.admit(2, Some("a")), Admission::Hold);
        assert_eq!(order.admit(3, Some("b")), Admission::HandOut);
        assert_eq!(order.admit(4, Some("a")), Admission::Hold);
        assert_eq!(order.admit(5, None), Admission::HandOut);
        assert_eq!((order.next(6), order.len(), order.available(6)), (None, 2, 0));
        let blocked = BlockedKey { key: "a".to_owned(), holder: Some(1), queue_length: 2 };
        let report = order.report();
        assert_eq!((report.held_count, report.blocked_key_count, report.is_stopped), (2, 1, false));
        assert_eq!(report.blocked, Some(blocked));
        order.forget(1);
        assert_eq!((order.next(6), order.held_count()), (Some(2), 1));
        order.taken(2);
        assert_eq!(order.next(6), None);
        // It failed: it stays before the others of its key, whatever happens to these.
        assert_eq!(order.wait(2), Waits::Queued);
        order.forget(4);
        order.forget(2);
        assert!(order.is_empty() && order.keys.len() == 1);
    }

    #[test]
    fn reading_stops_when_too_many_are_held() {
        let mut order = order(Rule::Key, false);
        assert_eq!(order.admit(1, Some("a")), Admission::HandOut);
        let most = MOST_READ_PAST as u64;
        (2..2 + most).for_each(|sequence| assert_eq!(order.admit(sequence, Some("a")), Admission::Hold));
        assert!(!order.may_read() && order.report().is_stopped);
        assert_eq!(order.admit(2 + most, Some("a")), Admission::Stop);
        assert_eq!(order.admit(2 + most, Some("b")), Admission::HandOut);
        order.forget(1);
        assert!(order.may_read() && order.next(u64::MAX) == Some(2));
    }

    #[test]
    fn requeued_message_blocks_its_key_unless_others_may_pass() {
        for (skips, next) in [(false, None), (true, Some(2))] {
            let mut order = order(Rule::Key, skips);
            order.admit(1, Some("a"));
            order.admit(2, Some("a"));
            order.defer(1);
            assert_eq!(order.next(3), next);
            if skips {
                order.taken(2);
                assert_eq!(order.wait(1), Waits::Here, "it waits for the one that passed");
                order.forget(2);
                assert_eq!(order.next(3), Some(1));
            } else {
                assert_eq!(order.wait(1), Waits::Queued);
            }
        }
    }

    #[test]
    fn keys_of_messages_in_flight_are_learned_before_others_are_looked_at() {
        let mut order = order(Rule::Key, false);
        order.add_unlearned(5, false);
        order.add_unlearned(7, true);
        order.add_unlearned(8, true);
        assert_eq!(order.wanted().collect::<Vec<_>>(), [7, 8, 5]);
        for sequence in [7, 8] {
            assert_eq!(order.must_learn(), Some(sequence));
            order.learn(sequence, Some("a"), false);
        }
        assert_eq!((order.must_learn(), order.next(5), order.next(6)), (None, None, Some(5)));
        assert_eq!(order.admit(5, Some("a")), Admission::Hold);
        order.forget(7);
        assert_eq!(order.wait(8), Waits::Here, "an older one of its key waits");
        assert_eq!(order.next(9), Some(5));
    }

    #[test]
    fn message_that_is_learned_again_comes_before_a_newer_one_of_its_key() {
        let mut order = order(Rule::Key, false);
        order.admit(1, Some("a"));
        order.admit(2, Some("a"));
        // It comes back after the cursor was moved over it.
        order.relearn(1);
        assert_eq!(order.next(3), Some(1));
        assert_eq!(order.admit(1, Some("a")), Admission::Hold);
        assert_eq!((order.next(3), order.held_count()), (Some(1), 1));
        order.taken(1);
        assert_eq!(order.next(3), None);
    }

    #[test]
    fn message_that_is_put_off_keeps_its_key_busy_only_if_it_was_handed_out() {
        let mut order = order(Rule::Key, false);
        order.admit(1, Some("a"));
        order.admit(2, Some("a"));
        order.admit(3, Some("a"));
        order.put_off(2, false);
        order.forget(1);
        assert_eq!((order.next(4), order.held_count()), (Some(3), 0));
        order.taken(3);
        order.wait(3);
        order.put_off(3, true);
        order.defer(3);
        order.relearn(2);
        assert_eq!(order.admit(2, Some("a")), Admission::Hold);
        assert_eq!(order.next(4), None, "message 3 failed");
        order.add_unlearned(9, false);
        order.put_off(9, true);
        assert_eq!((order.must_learn(), order.is_unlearned(9)), (Some(9), false));
    }

    #[test]
    fn all_messages_are_one_after_the_other() {
        let mut order = order(Rule::All, false);
        assert!(order.may_read());
        assert_eq!(order.admit(1, None), Admission::HandOut);
        assert!(!order.may_read() && !order.report().is_stopped);
        assert_eq!(order.admit(2, None), Admission::Stop);
        order.forget(1);
        assert!(order.may_read());
    }

    #[test]
    fn a_key_above_its_share_waits_but_not_for_ever() {
        let mut order = order(Rule::Fair, false);
        assert_eq!(order.admit(1, Some("loud")), Admission::HandOut);
        for sequence in 2..100 {
            assert_eq!(order.admit(sequence, Some("loud")), Admission::Hold, "{sequence}");
        }
        assert_eq!((order.next(100), order.next_beyond_share()), (None, Some(2)));
        order.taken(2);
        // A new key comes first, and with two of them the loud one may have two.
        assert_eq!(order.admit(100, Some("quiet")), Admission::HandOut);
        assert_eq!(order.admit(101, Some("quiet")), Admission::HandOut);
        assert_eq!(order.admit(102, Some("quiet")), Admission::Hold);
        order.forget(100);
        assert_eq!(order.next(103), Some(102), "it has less than its share");
        let mut quiet = 200;
        let mut since = 0;
        while order.next(u64::MAX) != Some(3) {
            order.admit(quiet, Some(&format!("quiet{quiet}")));
            quiet += 1;
            since += 1;
            assert!(since <= OLDEST_EVERY, "the oldest held message waits for ever");
        }
    }

    #[test]
    fn long_keys_differ_by_their_end() {
        let mut order = order(Rule::Key, false);
        let keys = ["a", "b"].map(|end| format!("{}\u{e4}{end}", "x".repeat(SHOWN_KEY_BYTES - 1)));
        assert_eq!(order.admit(1, Some(&keys[0])), Admission::HandOut);
        assert_eq!(order.admit(2, Some(&keys[1])), Admission::HandOut);
        assert_eq!(order.admit(3, Some(&keys[1])), Admission::Hold);
        assert_eq!(order.report().blocked.unwrap().key, "x".repeat(SHOWN_KEY_BYTES - 1));
    }

    proptest! {
        #[test]
        fn sets_and_counts_agree(
            rule in prop::sample::select(vec![Rule::Key, Rule::All, Rule::Fair]),
            skips in any::<bool>(),
            steps in prop::collection::vec((0u64..40, 0u8..9), 1..300),
        ) {
            let mut order = order(rule, skips);
            for (sequence, step) in steps {
                let key = ["a", "b", "c"].get((sequence % 4) as usize).copied();
                let is_here = order.waiting().any(|waiting| waiting == sequence);
                let known = order.known.contains_key(&sequence);
                match step {
                    0 | 1 if !known && !order.unlearned_active.contains(&sequence) => _ = order.admit(sequence, key),
                    2 => order.forget(sequence),
                    3 if !is_here => order.defer(sequence),
                    4 if !is_here => _ = order.wait(sequence),
                    5 => order.set_aside(sequence),
                    6 => order.relearn(sequence),
                    7 => if let Some(next) = order.must_learn() { order.learn(next, key, sequence % 2 == 0) },
                    _ => if let Some(next) = order.next(20) && !order.is_unlearned(next) { order.taken(next) },
                }
                for of_key in order.keys.values() {
                    let is_blocked = !of_key.held.is_empty() && rule != Rule::Fair;
                    prop_assert!(!is_blocked || !of_key.active.is_empty(), "a key waits for nothing");
                    prop_assert!(of_key.is_busy() || of_key.idle_count > 0);
                }
                let sum = |count: fn(&OfKey) -> usize| order.keys.values().map(count).sum::<usize>();
                prop_assert_eq!(order.active_count, sum(|of_key| of_key.active.len()));
                prop_assert_eq!(order.busy_count, sum(|of_key| usize::from(of_key.is_busy())));
                prop_assert_eq!(order.held.len(), sum(|of_key| of_key.held.len()));
                prop_assert_eq!(
                    order.known.len(),
                    sum(|of_key| of_key.active.len() + of_key.held.len() + of_key.idle_count)
                );
                let loaded = sum(|of_key| usize::from(!of_key.held.is_empty()));
                prop_assert_eq!(order.by_load.len(), if rule == Rule::Fair { loaded } else { 0 });
            }
        }
    }
}
