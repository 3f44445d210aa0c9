//! What a log contains, and which chunks a restore reads. Pure.
//!
//! A restore takes the files of a snapshot, and the journal records of the chunks from the snapshot's first one on. A chunk
//! belongs to the chain if its records begin where those of the chunk before end. The chain goes on in the next epoch if its
//! first chunk does. It ends at a seal with no such chunk behind it, at the last chunk, and before a chunk that is missing or
//! damaged. A snapshot can be restored if the chain covers what it needs.

use std::collections::BTreeSet;

use nsq_storage::journal::Lsn;

use crate::chunk::Found;
use crate::envelope::Malformed;
use crate::names::{Epoch, LogId, Name, Place};
use crate::snapshot::Snapshot;

/// The objects of a log, by name only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub claims: BTreeSet<Epoch>,
    /// Chunks and seals.
    pub chunks: BTreeSet<Place>,
    pub snapshots: BTreeSet<Place>,
    pub parts: BTreeSet<Place>,
}

impl Listing {
    /// Sorts names. Ignores those of other objects.
    pub fn of<'k>(keys: impl IntoIterator<Item = &'k str>, log: LogId) -> Self {
        let mut listing = Listing::default();
        for (of, name) in keys.into_iter().filter_map(Name::parse) {
            if of != log {
                continue;
            }
            match name {
                Name::About => {}
                Name::Claim(epoch) => {
                    listing.claims.insert(epoch);
                }
                Name::Chunk(place) => {
                    listing.chunks.insert(place);
                }
                Name::Snapshot(place) => {
                    listing.snapshots.insert(place);
                }
                Name::Part(place) => {
                    listing.parts.insert(place);
                }
            }
        }
        listing
    }

    /// The first chunk of the first epoch after this one that has any.
    fn first_chunk_after(&self, epoch: Epoch) -> Option<Place> {
        self.chunks.range(Place::new(epoch.next(), 0)..).next().copied()
    }
}

/// Why a snapshot cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incomplete {
    #[error("chunk {0} is missing")]
    Missing(Place),
    #[error("chunk {0} cannot be read: {1}")]
    Unreadable(Place, Malformed),
    #[error("the journal from {from} to {to} is missing before chunk {place}")]
    Gap { place: Place, from: Lsn, to: Lsn },
    #[error("it needs the journal up to {needed}, and the chunks end at {end}")]
    Short { needed: Lsn, end: Lsn },
}

/// Why a chain ends where it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing follows.
    Last,
    /// The next chunks are later than requested.
    Until,
    /// More chunks follow, but this is before them.
    Broken(Incomplete),
}

/// Follows the chunks of a snapshot, one after the other.
#[derive(Clone, Debug)]
pub struct Chain {
    listing: Listing,
    snapshot: Place,
    needed: Lsn,
    needed_from: Lsn,
    until: Option<i64>,
    /// The chunk to read.
    next: Option<Place>,
    /// Where the records read so far end.
    end: Option<Lsn>,
    why_ended: End,
}

/// What to do with what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// The chunk belongs to the chain.
    Take,
    /// It is a seal, or it does not belong to the chain.
    Skip,
}

impl Chain {
    /// Begins at the first chunk of a snapshot. `until` leaves out chunks made later: Unix nanoseconds.
    pub fn new(listing: Listing, place: Place, snapshot: &Snapshot, until: Option<i64>) -> Self {
        Chain {
            next: Some(snapshot.first_chunk),
            listing,
            snapshot: place,
            needed: snapshot.to,
            needed_from: snapshot.from,
            until,
            end: None,
            why_ended: End::Last,
        }
    }

    /// The chunk to read next; `None` at the end.
    pub fn next_chunk(&mut self) -> Option<Place> {
        let place = self.next?;
        if self.listing.chunks.contains(&place) {
            return Some(place);
        }
        let later_in_epoch = self.listing.chunks.range(place..Place::new(place.epoch.next(), 0)).next();
        if place <= self.snapshot || later_in_epoch.is_some() {
            self.break_off(Incomplete::Missing(place));
        } else {
            self.next = self.listing.first_chunk_after(place.epoch);
        }
        self.next
    }

    /// Takes what is stored under the name that [`Chain::next_chunk`] returned; `None` if it is missing after all.
    pub fn found(&mut self, found: Option<&Found>) -> Use {
        let Some(place) = self.next else { return Use::Skip };
        match found {
            None => self.break_off(Incomplete::Missing(place)),
            Some(Found::Unreadable(error)) => self.break_off(Incomplete::Unreadable(place, error.clone())),
            Some(Found::Seal(..)) => self.next = self.listing.first_chunk_after(place.epoch),
            Some(Found::Chunk(header)) => {
                // The first chunk may begin before what is needed.
                let begins_at = self.end.unwrap_or(self.needed_from.min(header.from));
                if header.from != begins_at {
                    self.break_off(Incomplete::Gap { place, from: begins_at, to: header.from });
                    return Use::Skip;
                }
                if place > self.snapshot && self.until.is_some_and(|until| header.made_at > until) {
                    self.next = None;
                    self.why_ended = End::Until;
                    return Use::Skip;
                }
                self.end = Some(header.to);
                self.next = Some(Place::new(place.epoch, place.number + 1));
                return Use::Take;
            }
        }
        Use::Skip
    }

    fn break_off(&mut self, why: Incomplete) {
        self.next = None;
        self.why_ended = End::Broken(why);
    }

    /// Where the journal that was read ends, and why. Fails if the snapshot needs more.
    pub fn finish(self) -> Result<(Lsn, End), Incomplete> {
        let end = self.end.unwrap_or(self.needed_from);
        match self.why_ended {
            End::Broken(why) if end < self.needed => Err(why),
            _ if end < self.needed => Err(Incomplete::Short { needed: self.needed, end }),
            why => Ok((end, why)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::chunk::Seal;
    use crate::envelope::{Header, Kind};

    const LOG: LogId = LogId([1; 16]);

    fn at(epoch: u32, number: u64) -> Place {
        Place::new(Epoch(epoch), number)
    }

    fn header(kind: Kind, place: Place, from: u64, to: u64) -> Header {
        let made_at = to as i64;
        Header { kind, log: LOG, place, from: Lsn(from), to: Lsn(to), nonce: [0; 16], made_at }
    }

    fn chunk(place: Place, from: u64, to: u64) -> (Place, Found) {
        (place, Found::Chunk(header(Kind::Chunk, place, from, to)))
    }

    fn seal(place: Place) -> (Place, Found) {
        let seal = Seal { claimed: place.epoch.next(), owner: String::new() };
        (place, Found::Seal(header(Kind::Seal, place, 0, 0), seal))
    }

    fn snapshot(first: Place, from: u64, to: u64) -> Snapshot {
        Snapshot { first_chunk: first, from: Lsn(from), to: Lsn(to), files: Vec::new() }
    }

    type Outcome = (Vec<Place>, Result<(Lsn, End), Incomplete>);

    fn follow(objects: &[(Place, Found)], place: Place, snapshot: &Snapshot, until: Option<i64>) -> Outcome {
        let objects: BTreeMap<Place, Found> = objects.iter().cloned().collect();
        let listing = Listing { chunks: objects.keys().copied().collect(), ..Listing::default() };
        let mut chain = Chain::new(listing, place, snapshot, until);
        let mut taken = Vec::new();
        while let Some(place) = chain.next_chunk() {
            if chain.found(objects.get(&place)) == Use::Take {
                taken.push(place);
            }
        }
        (taken, chain.finish())
    }

    #[test]
    fn a_chain_goes_on_in_the_next_epoch() {
        let objects = [
            chunk(at(1, 4), 100, 200),
            chunk(at(1, 5), 200, 300),
            seal(at(1, 6)),
            seal(at(2, 0)),
            chunk(at(3, 0), 300, 400),
        ];
        let (taken, end) = follow(&objects, at(1, 4), &snapshot(at(1, 4), 150, 200), None);
        assert_eq!(taken, [at(1, 4), at(1, 5), at(3, 0)]);
        assert_eq!(end, Ok((Lsn(400), End::Last)));
    }

    #[test]
    fn an_epoch_that_begins_elsewhere_does_not_continue_the_chain() {
        let objects = [chunk(at(1, 0), 100, 200), seal(at(1, 1)), chunk(at(2, 0), 150, 400)];
        let (taken, end) = follow(&objects, at(1, 0), &snapshot(at(1, 0), 100, 200), None);
        assert_eq!(taken, [at(1, 0)]);
        let gap = Incomplete::Gap { place: at(2, 0), from: Lsn(200), to: Lsn(150) };
        assert_eq!(end, Ok((Lsn(200), End::Broken(gap))));
    }

    #[test]
    fn chunks_behind_a_seal_belong_to_nobody() {
        let objects = [chunk(at(1, 0), 100, 200), seal(at(1, 1)), chunk(at(1, 2), 200, 300)];
        assert_eq!(follow(&objects, at(1, 0), &snapshot(at(1, 0), 100, 200), None).0, [at(1, 0)]);
    }

    #[test]
    fn a_snapshot_that_needs_a_missing_chunk_is_incomplete() {
        let objects = [chunk(at(1, 0), 100, 200), chunk(at(1, 2), 300, 400)];
        let outcome = |to| follow(&objects, at(1, 2), &snapshot(at(1, 0), 100, to), None).1;
        assert_eq!(outcome(400), Err(Incomplete::Missing(at(1, 1))));
        assert_eq!(outcome(200), Ok((Lsn(200), End::Broken(Incomplete::Missing(at(1, 1))))));
        let later = follow(&objects[1..], at(1, 2), &snapshot(at(1, 2), 250, 400), None).1;
        assert_eq!(later, Err(Incomplete::Gap { place: at(1, 2), from: Lsn(250), to: Lsn(300) }));
        let short = follow(&objects[..1], at(1, 0), &snapshot(at(1, 0), 100, 250), None).1;
        assert_eq!(short, Err(Incomplete::Short { needed: Lsn(250), end: Lsn(200) }));
    }

    #[test]
    fn later_chunks_are_left_out_but_what_the_snapshot_needs_is_not() {
        let objects = [chunk(at(1, 0), 100, 200), chunk(at(1, 1), 200, 300), chunk(at(1, 2), 300, 400)];
        let outcome = |until| follow(&objects, at(1, 0), &snapshot(at(1, 0), 100, 200), Some(until));
        assert_eq!(outcome(300), (vec![at(1, 0), at(1, 1)], Ok((Lsn(300), End::Until))));
        assert_eq!(outcome(1), (vec![at(1, 0)], Ok((Lsn(200), End::Until))));
    }

    proptest! {
        /// Whatever is missing, sealed or damaged: what is taken is contiguous, and no chunk twice.
        #[test]
        fn every_chain_is_contiguous_and_ends(
            kinds in prop::collection::vec((0_u8..8, 0_u64..3), 1..40),
            first in 0_u64..5,
        ) {
            let (mut objects, mut place, mut end) = (Vec::new(), at(1, first), 100);
            for (kind, skew) in kinds {
                match kind {
                    0 => {
                        objects.push(seal(place));
                        place = at(place.epoch.0 + 1, 0);
                        continue;
                    }
                    1 => objects.push((place, Found::Unreadable(Malformed::Content))),
                    2 => {}
                    3 => objects.push(chunk(place, end + skew, end + 10)),
                    _ => objects.push(chunk(place, end, end + 10)),
                }
                end += 10;
                place.number += 1;
            }
            let (taken, _) = follow(&objects, at(1, first), &snapshot(at(1, first), 100, 100), None);
            let by_place: BTreeMap<Place, Found> = objects.iter().cloned().collect();
            let mut reached = 100;
            for place in taken {
                let Found::Chunk(header) = &by_place[&place] else { panic!("{place} is not a chunk") };
                prop_assert_eq!(header.from, Lsn(reached));
                reached = header.to.0;
            }
        }
    }
}
