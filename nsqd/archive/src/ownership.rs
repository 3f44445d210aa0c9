//! How a log is claimed and sealed, and how chunks are appended. Pure.
//!
//! [`Opening`] and [`Appending`] are state machines: [`request`](Opening::request) says what to ask the store next, and the
//! answer leads to the next state. An answer that was lost, or an error that says nothing about what happened, leads back to
//! the same request: each request may be repeated.
//!
//! ```text
//! Opening:   list the log -> read the newest claim -> check the epochs that may not be sealed
//!            -> create the claim of the next epoch -> seal each epoch before it -> Owned
//!               | exists: read it. Mine: go on. Another start: next epoch. A takeover: Lost
//!
//! sealing:   list chunks -> create a seal from the last one on -> list again: a later one? -> sealed
//!               | exists: read it. Mine: sealed. A chunk: next number. Another seal: sealed by somebody with
//!               |   a lower claim: good enough. With a higher one: Lost
//!
//! Appending: create chunk n -> appended
//!               | exists: read it. Mine: appended. A seal, or anything else: Lost
//! ```
//!
//! Why an epoch has one owner: the store lets one claim of it succeed. Why the prefix of an epoch has one owner: its owner creates
//! chunk n + 1 only after chunk n, and a sealer creates its seal at the first free number. The store lets one of the two succeed
//! there, and seals are never deleted. A sealer that pauses may create its seal where garbage collection has deleted a chunk
//! meanwhile. Such a seal fences nothing, and is recognised by the chunks behind it: the sealer goes on behind the last one.

use crate::chunk::{Found, Seal, inspect};
use crate::claim::{BadClaim, Claim, Why};
use crate::envelope::Nonce;
use crate::names::{Epoch, LogId, MAX_EPOCH, MAX_NUMBER, Name, Place, chunks_root, log_root};

/// How often an owner claims the next epoch because somebody else claimed one at the same time.
const MAX_CLAIMS: u32 = 16;

/// What to ask the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// The names of all objects that begin so.
    List {
        prefix: String,
    },
    Get {
        key: String,
    },
    /// Create the object unless it exists.
    Create {
        key: String,
        object: Vec<u8>,
    },
}

/// What the store said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Listed(Vec<String>),
    /// `None` if there is no such object.
    Got(Option<Vec<u8>>),
    Created,
    /// There is such an object. Perhaps this request, or an earlier one of the same owner, made it.
    Exists,
}

/// Why a log cannot be used any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("{owner} took the log over with epoch {epoch}")]
    TakenOver { epoch: Epoch, owner: String },
    #[error("{owner} sealed {place} with the claim of epoch {claimed}")]
    Sealed { place: Place, claimed: Epoch, owner: String },
    #[error("another process wrote chunk {place}")]
    Overtaken { place: Place },
    #[error("{MAX_CLAIMS} other processes claimed the log at the same time")]
    Contended,
    #[error("claim {epoch} cannot be read: {error}")]
    BadClaim { epoch: Epoch, error: BadClaim },
    #[error("the numbers of the log are used up")]
    UsedUp,
}

/// Who opens a log.
#[derive(Clone, Debug)]
pub struct Opener {
    pub log: LogId,
    pub owner: String,
    pub address: String,
    pub why: Why,
    /// Random: tells this opener's objects from those of others.
    pub nonce: Nonce,
    /// Unix nanoseconds.
    pub now: i64,
}

/// Claims the next epoch of a log and seals the epochs before it.
#[derive(Clone, Debug)]
pub struct Opening {
    me: Opener,
    /// The number of claims that others made first.
    overtaken: u32,
    /// All epochs before this one are sealed.
    sealed_before: Epoch,
    state: State,
}

/// A log that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    pub epoch: Epoch,
}

#[derive(Clone, Debug)]
enum State {
    ListLog,
    ReadNewest { newest: Epoch },
    CheckSealed { newest: Epoch, search: SealSearch },
    Claim { epoch: Epoch },
    ReadClaim { epoch: Epoch },
    Seal { epoch: Epoch, sealing: Sealing },
    Done(Result<Owned, Lost>),
}

impl Opening {
    pub fn new(me: Opener) -> Self {
        Opening { me, overtaken: 0, sealed_before: Epoch(1), state: State::ListLog }
    }

    /// What to ask the store next; `None` once [`Opening::outcome`] is known.
    pub fn request(&self) -> Option<Request> {
        let log = self.me.log;
        Some(match &self.state {
            State::ListLog => Request::List { prefix: log_root(log) },
            State::ReadNewest { newest: epoch } | State::ReadClaim { epoch } => {
                Request::Get { key: Name::Claim(*epoch).key(log) }
            }
            State::CheckSealed { search, .. } => search.request(log),
            State::Claim { epoch } => {
                Request::Create { key: Name::Claim(*epoch).key(log), object: self.claim(*epoch).encode() }
            }
            State::Seal { epoch, sealing } => sealing.request(&self.me, *epoch),
            State::Done(_) => return None,
        })
    }

    /// The end; `None` while there are requests.
    pub fn outcome(&self) -> Option<Result<Owned, Lost>> {
        match &self.state {
            State::Done(outcome) => Some(outcome.clone()),
            _ => None,
        }
    }

    /// Takes the answer to the last request.
    pub fn answer(&mut self, answer: Answer) {
        let state = std::mem::replace(&mut self.state, State::ListLog);
        self.state = self.next(state, answer).unwrap_or_else(|lost| State::Done(Err(lost)));
    }

    fn next(&mut self, state: State, answer: Answer) -> Result<State, Lost> {
        Ok(match (state, answer) {
            (State::ListLog, Answer::Listed(keys)) => match newest_claim(&keys, self.me.log) {
                None => State::Claim { epoch: Epoch(1) },
                Some(newest) => State::ReadNewest { newest },
            },
            (State::ReadNewest { newest }, Answer::Got(Some(object))) => {
                let claim =
                    Claim::decode(&object).map_err(|error| Lost::BadClaim { epoch: newest, error })?;
                if self.is_taken_by(&claim) {
                    return Err(Lost::TakenOver { epoch: newest, owner: claim.owner });
                }
                self.sealed_before = claim.sealed_before.min(newest);
                State::CheckSealed { newest, search: SealSearch::new(self.sealed_before) }
            }
            // Listed a moment ago, and claims are never deleted: the store is not consistent. Look again.
            (State::ReadNewest { .. }, Answer::Got(None)) => State::ListLog,
            (State::CheckSealed { newest, mut search }, answer) => match search.answer(answer, self.me.log) {
                None => State::CheckSealed { newest, search },
                Some(true) if search.epoch < newest => {
                    self.sealed_before = search.epoch.next();
                    State::CheckSealed { newest, search: SealSearch::new(self.sealed_before) }
                }
                Some(is_sealed) => {
                    if is_sealed {
                        self.sealed_before = search.epoch.next();
                    }
                    State::Claim { epoch: epoch_after(newest)? }
                }
            },
            (State::Claim { epoch }, Answer::Created) => self.seal_from(self.sealed_before, epoch),
            (State::Claim { epoch }, Answer::Exists) => State::ReadClaim { epoch },
            (State::ReadClaim { epoch }, Answer::Got(None)) => State::Claim { epoch },
            (State::ReadClaim { epoch }, Answer::Got(Some(object))) => {
                let claim = Claim::decode(&object).map_err(|error| Lost::BadClaim { epoch, error })?;
                if claim.nonce == self.me.nonce {
                    return Ok(self.seal_from(self.sealed_before, epoch));
                }
                if self.is_taken_by(&claim) || self.me.why == Why::Takeover {
                    return Err(Lost::TakenOver { epoch, owner: claim.owner });
                }
                self.overtaken += 1;
                if self.overtaken == MAX_CLAIMS {
                    return Err(Lost::Contended);
                }
                State::Claim { epoch: epoch_after(epoch)? }
            }
            (State::Seal { epoch, mut sealing }, answer) => match sealing.answer(answer, &self.me, epoch)? {
                false => State::Seal { epoch, sealing },
                true => self.seal_from(sealing.sealed.next(), epoch),
            },
            // An answer to something else: ask again.
            (state, _) => state,
        })
    }

    /// Whether a node that starts finds that another one has taken its log.
    fn is_taken_by(&self, claim: &Claim) -> bool {
        self.me.why == Why::Start && claim.why == Why::Takeover
    }

    fn seal_from(&self, from: Epoch, epoch: Epoch) -> State {
        match from < epoch {
            true => State::Seal { epoch, sealing: Sealing::new(from) },
            false => State::Done(Ok(Owned { epoch })),
        }
    }

    fn claim(&self, epoch: Epoch) -> Claim {
        Claim {
            format: crate::claim::FORMAT,
            epoch,
            owner: self.me.owner.clone(),
            address: self.me.address.clone(),
            nonce: self.me.nonce,
            why: self.me.why,
            sealed_before: self.sealed_before,
            made_at: self.me.now,
        }
    }
}

fn epoch_after(epoch: Epoch) -> Result<Epoch, Lost> {
    if epoch.0 < MAX_EPOCH { Ok(epoch.next()) } else { Err(Lost::UsedUp) }
}

fn newest_claim(keys: &[String], log: LogId) -> Option<Epoch> {
    let epochs = keys.iter().filter_map(|key| match Name::parse(key) {
        Some((of, Name::Claim(epoch))) if of == log => Some(epoch),
        _ => None,
    });
    epochs.max()
}

/// Numbers of the chunks and seals of an epoch among these names, in order.
fn chunk_numbers(keys: &[String], log: LogId, epoch: Epoch) -> Vec<u64> {
    let mut numbers: Vec<u64> = (keys.iter())
        .filter_map(|key| match Name::parse(key) {
            Some((of, Name::Chunk(place))) if of == log && place.epoch == epoch => Some(place.number),
            _ => None,
        })
        .collect();
    numbers.sort_unstable();
    numbers
}

/// Finds out whether an epoch is sealed: whether the last of its chunks is a seal. A seal before that is one that was created
/// where garbage collection had deleted a chunk, and fences nothing.
#[derive(Clone, Copy, Debug)]
struct SealSearch {
    epoch: Epoch,
    /// The last chunk; `None` before it is known.
    last: Option<u64>,
}

impl SealSearch {
    fn new(epoch: Epoch) -> Self {
        SealSearch { epoch, last: None }
    }

    fn request(&self, log: LogId) -> Request {
        match self.last {
            None => Request::List { prefix: chunks_root(log, self.epoch) },
            Some(number) => Request::Get { key: Name::Chunk(Place::new(self.epoch, number)).key(log) },
        }
    }

    /// Returns whether the epoch is sealed, once that is known.
    fn answer(&mut self, answer: Answer, log: LogId) -> Option<bool> {
        match (self.last, answer) {
            (None, Answer::Listed(keys)) => {
                self.last = chunk_numbers(&keys, log, self.epoch).last().copied();
                self.last.is_none().then_some(false)
            }
            (Some(number), Answer::Got(object)) => {
                let place = Place::new(self.epoch, number);
                Some(object.is_some_and(|object| matches!(inspect(&object, log, place), Found::Seal(..))))
            }
            _ => None,
        }
    }
}

/// Seals one epoch.
#[derive(Clone, Debug)]
struct Sealing {
    sealed: Epoch,
    step: SealStep,
}

#[derive(Clone, Copy, Debug)]
enum SealStep {
    List,
    Create {
        number: u64,
    },
    Read {
        number: u64,
    },
    /// The seal exists at this number.
    Verify {
        number: u64,
    },
}

impl Sealing {
    fn new(epoch: Epoch) -> Self {
        Sealing { sealed: epoch, step: SealStep::List }
    }

    fn request(&self, me: &Opener, claimed: Epoch) -> Request {
        let key = |number| Name::Chunk(Place::new(self.sealed, number)).key(me.log);
        match self.step {
            SealStep::List | SealStep::Verify { .. } => {
                Request::List { prefix: chunks_root(me.log, self.sealed) }
            }
            SealStep::Create { number } => {
                let seal = Seal { claimed, owner: me.owner.clone() };
                let place = Place::new(self.sealed, number);
                Request::Create { key: key(number), object: seal.object(me.log, place, me.nonce, me.now) }
            }
            SealStep::Read { number } => Request::Get { key: key(number) },
        }
    }

    /// Returns whether the epoch is sealed now.
    fn answer(&mut self, answer: Answer, me: &Opener, claimed: Epoch) -> Result<bool, Lost> {
        match (self.step, answer) {
            (SealStep::List, Answer::Listed(keys)) => {
                let last = chunk_numbers(&keys, me.log, self.sealed).last().copied();
                self.step = SealStep::Create { number: last.unwrap_or(0) };
            }
            (SealStep::Create { number }, Answer::Created) => self.step = SealStep::Verify { number },
            (SealStep::Create { number }, Answer::Exists) => self.step = SealStep::Read { number },
            (SealStep::Read { number }, Answer::Got(None)) => self.step = SealStep::Create { number },
            (SealStep::Read { number }, Answer::Got(Some(object))) => {
                let place = Place::new(self.sealed, number);
                match inspect(&object, me.log, place) {
                    Found::Seal(header, _) if header.nonce == me.nonce => {
                        self.step = SealStep::Verify { number };
                    }
                    Found::Seal(_, seal) if seal.claimed > claimed => {
                        return Err(Lost::Sealed { place, claimed: seal.claimed, owner: seal.owner });
                    }
                    Found::Seal(..) => self.step = SealStep::Verify { number },
                    Found::Chunk(_) | Found::Unreadable(_) if number < MAX_NUMBER => {
                        self.step = SealStep::Create { number: number + 1 };
                    }
                    Found::Chunk(_) | Found::Unreadable(_) => return Err(Lost::UsedUp),
                }
            }
            // A writer creates a chunk only after the one before. So a chunk behind the seal shows that garbage collection
            // had deleted the chunk whose number the seal got, and that the seal fences nothing.
            (SealStep::Verify { number }, Answer::Listed(keys)) => {
                match chunk_numbers(&keys, me.log, self.sealed).last() {
                    Some(&last) if last > number => self.step = SealStep::Create { number: last },
                    _ => return Ok(true),
                }
            }
            _ => {}
        }
        Ok(false)
    }
}

/// Creates one chunk.
#[derive(Clone, Debug)]
pub struct Appending {
    log: LogId,
    place: Place,
    nonce: Nonce,
    object: Vec<u8>,
    state: AppendState,
}

#[derive(Clone, Debug)]
enum AppendState {
    Create,
    Read,
    Done(Result<(), Lost>),
}

impl Appending {
    /// `object` is the chunk, with this `nonce`. The chunk before it must exist.
    pub fn new(log: LogId, place: Place, nonce: Nonce, object: Vec<u8>) -> Self {
        Appending { log, place, nonce, object, state: AppendState::Create }
    }

    /// What to ask the store next; `None` once [`Appending::outcome`] is known.
    pub fn request(&self) -> Option<Request> {
        let key = Name::Chunk(self.place).key(self.log);
        match self.state {
            AppendState::Create => Some(Request::Create { key, object: self.object.clone() }),
            AppendState::Read => Some(Request::Get { key }),
            AppendState::Done(_) => None,
        }
    }

    /// The end; `None` while there are requests.
    pub fn outcome(&self) -> Option<Result<(), Lost>> {
        match &self.state {
            AppendState::Done(outcome) => Some(outcome.clone()),
            _ => None,
        }
    }

    /// Takes the answer to the last request.
    pub fn answer(&mut self, answer: Answer) {
        self.state = match (&self.state, answer) {
            (AppendState::Create, Answer::Created) => AppendState::Done(Ok(())),
            (AppendState::Create, Answer::Exists) => AppendState::Read,
            (AppendState::Read, Answer::Got(None)) => AppendState::Create,
            (AppendState::Read, Answer::Got(Some(object))) => {
                AppendState::Done(match inspect(&object, self.log, self.place) {
                    Found::Chunk(header) if header.nonce == self.nonce => Ok(()),
                    Found::Seal(_, seal) => {
                        Err(Lost::Sealed { place: self.place, claimed: seal.claimed, owner: seal.owner })
                    }
                    Found::Chunk(_) | Found::Unreadable(_) => Err(Lost::Overtaken { place: self.place }),
                })
            }
            (state, _) => state.clone(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opener(log: LogId, nonce: u8, why: Why) -> Opener {
        Opener { log, owner: format!("n{nonce}"), address: String::new(), why, nonce: [nonce; 16], now: 0 }
    }

    const LOG: LogId = LogId([1; 16]);

    #[test]
    fn a_new_log_gets_epoch_1() {
        let mut opening = Opening::new(opener(LOG, 1, Why::Start));
        assert_eq!(opening.request(), Some(Request::List { prefix: log_root(LOG) }));
        opening.answer(Answer::Listed(Vec::new()));
        assert!(matches!(opening.request(), Some(Request::Create { .. })));
        opening.answer(Answer::Created);
        assert_eq!((opening.request(), opening.outcome()), (None, Some(Ok(Owned { epoch: Epoch(1) }))));
    }

    #[test]
    fn a_claim_that_landed_although_the_answer_was_lost_is_ones_own() {
        let mut opening = Opening::new(opener(LOG, 1, Why::Start));
        opening.answer(Answer::Listed(Vec::new()));
        let Some(Request::Create { object, .. }) = opening.request() else { panic!() };
        opening.answer(Answer::Exists);
        opening.answer(Answer::Got(Some(object)));
        assert_eq!(opening.outcome(), Some(Ok(Owned { epoch: Epoch(1) })));
    }

    #[test]
    fn a_start_claims_the_next_epoch_but_a_taker_gives_way() {
        let claim_of_other = |why| {
            let mut other = Opening::new(opener(LOG, 2, why));
            other.answer(Answer::Listed(Vec::new()));
            let Some(Request::Create { object, .. }) = other.request() else { panic!() };
            object
        };
        let after = |mine, other| {
            let mut opening = Opening::new(opener(LOG, 1, mine));
            opening.answer(Answer::Listed(Vec::new()));
            opening.answer(Answer::Exists);
            opening.answer(Answer::Got(Some(claim_of_other(other))));
            opening
        };
        let next = after(Why::Start, Why::Start).request();
        assert!(matches!(next, Some(Request::Create { key, .. }) if key == Name::Claim(Epoch(2)).key(LOG)));
        let taken = Some(Err(Lost::TakenOver { epoch: Epoch(1), owner: "n2".to_owned() }));
        assert_eq!(after(Why::Takeover, Why::Start).outcome(), taken);
        assert_eq!(after(Why::Takeover, Why::Takeover).outcome(), taken);
        assert_eq!(after(Why::Start, Why::Takeover).outcome(), taken);
    }

    #[test]
    fn a_claim_of_a_newer_version_is_not_overruled() {
        let mut opening = Opening::new(opener(LOG, 1, Why::Start));
        opening.answer(Answer::Listed(vec![Name::Claim(Epoch(4)).key(LOG)]));
        opening.answer(Answer::Got(Some(b"{\"format\": 9}".to_vec())));
        assert!(matches!(opening.outcome(), Some(Err(Lost::BadClaim { epoch: Epoch(4), .. }))));
    }
}
