//! The remembered ids of a topic's messages in a checkpoint, in about 20 bytes each: there may be a million. Pure.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::record::{Fields, put_varint, unzigzag, zigzag};

/// Length of the digest of an id.
pub const DIGEST_BYTES: usize = 16;

/// An id that a topic remembers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SavedId {
    /// Digest of the id.
    pub digest: [u8; DIGEST_BYTES],
    /// The message that has it.
    pub sequence: u64,
    /// When the message was stored, wall clock, nanoseconds.
    pub stored_ns: i64,
}

/// Ids in insertion order. The list is small if that is the order of their messages.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct IdList {
    /// For each id its digest and, as varints, the differences to the previous sequence number and to the previous time.
    bytes: Vec<u8>,
    last: SavedId,
}

impl IdList {
    pub fn push(&mut self, id: SavedId) {
        self.bytes.extend_from_slice(&id.digest);
        put_varint(&mut self.bytes, zigzag(id.sequence.wrapping_sub(self.last.sequence) as i64));
        put_varint(&mut self.bytes, zigzag(id.stored_ns.wrapping_sub(self.last.stored_ns)));
        self.last = id;
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = SavedId> {
        decode(&self.bytes)
    }
}

/// The ids up to the first that is cut off.
fn decode(bytes: &[u8]) -> impl Iterator<Item = SavedId> {
    let (mut fields, mut last) = (Fields(bytes), SavedId::default());
    std::iter::from_fn(move || {
        last = SavedId {
            digest: fields.array()?,
            sequence: last.sequence.wrapping_add(unzigzag(fields.varint()?) as u64),
            stored_ns: last.stored_ns.wrapping_add(unzigzag(fields.varint()?)),
        };
        Some(last)
    })
}

impl fmt::Debug for IdList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for IdList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for IdList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = IdList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<IdList, E> {
                Ok(IdList { bytes: bytes.to_vec(), last: decode(bytes).last().unwrap_or_default() })
            }
        }

        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_round_trip(ids in prop::collection::vec((any::<[u8; 16]>(), any::<u64>(), any::<i64>()), 0..50)) {
            let mut list = IdList::default();
            let ids: Vec<SavedId> =
                ids.into_iter().map(|(digest, sequence, stored_ns)| SavedId { digest, sequence, stored_ns }).collect();
            ids.iter().for_each(|&id| list.push(id));
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), ids);
            let bytes = rmp_serde::to_vec(&list).unwrap();
            prop_assert_eq!(rmp_serde::from_slice::<IdList>(&bytes).unwrap(), list);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes: Vec<u8>) {
            decode(&bytes).for_each(drop);
        }
    }

    #[test]
    fn an_id_takes_about_twenty_bytes() {
        let mut list = IdList::default();
        for index in 0..1000 {
            list.push(SavedId { digest: [7; 16], sequence: index, stored_ns: index as i64 * 50_000 });
        }
        assert!(list.bytes.len() < 21 * 1000, "{}", list.bytes.len());
    }
}
