//! Which objects of a log nothing needs any more. Pure.
//!
//! Claims are never deleted. Neither is the last object among the chunks of an epoch, which is its seal once it is sealed: a
//! delayed create of an earlier owner must find it.
//!
//! Only the owner of the newest epoch may delete, and only by a snapshot that is *confirmed*: the owner has created a chunk
//! after the snapshot. That proves that the epoch was not sealed when the snapshot was made. So whoever seals it later finds
//! this snapshot or a newer one, and needs nothing that was deleted.

use std::collections::BTreeSet;

use crate::chain::Listing;
use crate::names::{Name, Place};
use crate::snapshot::Snapshot;

/// A snapshot, and when it was made: Unix nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dated {
    pub place: Place,
    pub made_at: i64,
}

/// The snapshots to keep: the newest, those made within the last `retain_ns`, and the last one before these, so that each
/// moment of that time can be restored. `snapshots` are in order. `None` if there is none at all.
pub fn retained(snapshots: &[Dated], now: i64, retain_ns: i64) -> Option<&[Dated]> {
    let (_, older) = snapshots.split_last()?;
    let since = now.saturating_sub(retain_ns);
    let in_time = older.iter().rposition(|snapshot| snapshot.made_at < since);
    // One that was made before that time is needed only if it is followed by chunks of that time.
    let newest_is_old = snapshots.last().is_some_and(|newest| newest.made_at < since);
    let from = if newest_is_old { snapshots.len() - 1 } else { in_time.unwrap_or(0) };
    Some(&snapshots[from..])
}

/// The objects that no snapshot of `kept` needs. `kept` has all snapshots to keep, in order; the last one must be confirmed.
/// Parts from `unfinished` on belong to a snapshot that is being made.
pub fn unneeded(listing: &Listing, kept: &[(Place, Snapshot)], unfinished: Place) -> Vec<Name> {
    let Some((newest, _)) = kept.last() else { return Vec::new() };
    let first_chunk = kept.iter().map(|(_, snapshot)| snapshot.first_chunk).min().unwrap_or(*newest);
    let kept_places: BTreeSet<Place> = kept.iter().map(|&(place, _)| place).collect();
    let kept_parts: BTreeSet<Place> = kept.iter().flat_map(|(_, snapshot)| snapshot.parts()).collect();
    let is_last_of_epoch = |place: &Place| {
        let next_epoch = Place::new(place.epoch.next(), 0);
        listing.chunks.range(*place..next_epoch).nth(1).is_none()
    };
    let chunks = listing.chunks.range(..first_chunk).filter(|place| !is_last_of_epoch(place));
    let snapshots = listing.snapshots.range(..newest).filter(|place| !kept_places.contains(place));
    let parts = listing.parts.range(..unfinished).filter(|place| !kept_parts.contains(place));
    let snapshots = snapshots.copied().map(Name::Snapshot);
    // A snapshot goes before what it needs, so that no listed snapshot is incomplete.
    snapshots.chain(chunks.copied().map(Name::Chunk)).chain(parts.copied().map(Name::Part)).collect()
}

#[cfg(test)]
mod tests {
    use nsq_storage::journal::Lsn;
    use proptest::prelude::*;

    use super::*;
    use crate::names::Epoch;
    use crate::snapshot::{File, FileName, PartOf};

    fn at(epoch: u32, number: u64) -> Place {
        Place::new(Epoch(epoch), number)
    }

    fn snapshot(first_chunk: Place, parts: &[Place]) -> Snapshot {
        let parts = parts.iter().map(|&place| PartOf { place, offset: 0, bytes: 1 }).collect();
        let files = vec![File { name: FileName::Checkpoint, tail: 0, parts }];
        Snapshot { first_chunk, from: Lsn(0), to: Lsn(0), files }
    }

    fn dated(made_at: &[i64]) -> Vec<Dated> {
        (made_at.iter().zip(0..)).map(|(&made_at, number)| Dated { place: at(1, number), made_at }).collect()
    }

    #[test]
    fn snapshots_cover_the_whole_time_to_retain() {
        let snapshots = dated(&[10, 20, 30, 40]);
        let kept = |now, retain| retained(&snapshots, now, retain).unwrap().first().unwrap().made_at;
        assert_eq!(kept(45, 0), 40, "only the newest");
        assert_eq!(kept(45, 10), 30, "the state at 35 needs the snapshot of 30");
        assert_eq!(kept(45, 15), 20);
        assert_eq!(kept(45, 1000), 10);
        assert_eq!(retained(&[], 45, 0), None);
    }

    #[test]
    fn claims_seals_and_what_a_kept_snapshot_needs_stay() {
        let listing = Listing {
            claims: [Epoch(1), Epoch(2)].into(),
            chunks: [at(1, 7), at(1, 8), at(1, 9), at(2, 0), at(2, 1), at(2, 2)].into(),
            snapshots: [at(1, 8), at(2, 0), at(2, 1)].into(),
            parts: [at(1, 1), at(1, 2), at(2, 0), at(2, 1), at(2, 2)].into(),
        };
        let kept = [(at(2, 1), snapshot(at(2, 1), &[at(1, 2), at(2, 0)]))];
        assert_eq!(
            unneeded(&listing, &kept, at(2, 2)),
            [
                Name::Snapshot(at(1, 8)),
                Name::Snapshot(at(2, 0)),
                Name::Chunk(at(1, 7)),
                Name::Chunk(at(1, 8)),
                Name::Chunk(at(2, 0)),
                Name::Part(at(1, 1)),
                Name::Part(at(2, 1)),
            ]
        );
        assert_eq!(unneeded(&listing, &[], at(9, 0)), []);
    }

    fn any_places() -> impl Strategy<Value = BTreeSet<Place>> {
        prop::collection::btree_set((1_u32..4, 0_u64..9).prop_map(|(epoch, number)| at(epoch, number)), 0..20)
    }

    proptest! {
        #[test]
        fn nothing_needed_is_ever_deleted(
            chunks in any_places(), snapshots in any_places(), parts in any_places(),
            kept in prop::collection::btree_map((1_u32..4, 0_u64..9).prop_map(|(e, n)| at(e, n)), (0_u64..9, any_places()), 1..4),
            unfinished in (1_u32..4, 0_u64..9),
        ) {
            let kept: Vec<(Place, Snapshot)> = kept.into_iter().map(|(place, (back, parts))| {
                let first = Place::new(place.epoch, place.number.saturating_sub(back));
                (place, snapshot(first, &parts.into_iter().collect::<Vec<_>>()))
            }).collect();
            let unfinished = at(unfinished.0, unfinished.1);
            let listing = Listing { claims: BTreeSet::new(), chunks: chunks.clone(), snapshots, parts };
            for name in unneeded(&listing, &kept, unfinished) {
                match name {
                    Name::Chunk(place) => {
                        prop_assert!(kept.iter().all(|(_, snapshot)| place < snapshot.first_chunk));
                        prop_assert!(chunks.iter().any(|other| other.epoch == place.epoch && other.number > place.number));
                    }
                    Name::Snapshot(place) => {
                        prop_assert!(kept.iter().all(|&(kept, _)| kept != place));
                        prop_assert!(place < kept.last().unwrap().0);
                    }
                    Name::Part(place) => {
                        prop_assert!(kept.iter().all(|(_, snapshot)| snapshot.parts().all(|part| part != place)));
                        prop_assert!(place < unfinished);
                    }
                    Name::About | Name::Claim(_) => prop_assert!(false, "{name:?} is never deleted"),
                }
            }
        }
    }
}
