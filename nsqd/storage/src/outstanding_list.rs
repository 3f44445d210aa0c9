//! The outstanding messages of a channel in a checkpoint, in a few bytes each: there may be millions, and all are in
//! memory while a checkpoint is written. Pure.

use std::fmt;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::checkpoint::OutstandingCheckpoint;

/// Messages in insertion order. The list is small if that is the order of their sequence numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutstandingList {
    count: usize,
    /// For each message, as varints: the difference to the previous sequence number; twice the attempts, plus 1 if it
    /// is deferred; if so, the difference to the previous due time.
    bytes: Vec<u8>,
    last_sequence: u64,
    last_due_ns: i64,
}

impl OutstandingList {
    pub fn push(&mut self, entry: OutstandingCheckpoint) {
        self.put_difference(entry.sequence.wrapping_sub(self.last_sequence) as i64);
        let is_deferred = entry.due_ns != 0;
        self.put(u64::from(entry.attempts) << 1 | u64::from(is_deferred));
        if is_deferred {
            self.put_difference(entry.due_ns.wrapping_sub(self.last_due_ns));
            self.last_due_ns = entry.due_ns;
        }
        self.last_sequence = entry.sequence;
        self.count += 1;
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter { left: self.count, bytes: &self.bytes, sequence: 0, due_ns: 0 }
    }

    fn put_difference(&mut self, difference: i64) {
        // Zigzag: small numbers of either sign stay small.
        self.put((difference << 1 ^ difference >> 63) as u64);
    }

    fn put(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }
}

/// Iterates over an [`OutstandingList`].
#[derive(Debug)]
pub struct Iter<'a> {
    left: usize,
    bytes: &'a [u8],
    sequence: u64,
    due_ns: i64,
}

impl Iter<'_> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first()?;
            self.bytes = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        Some(number)
    }

    fn difference(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }
}

impl Iterator for Iter<'_> {
    type Item = OutstandingCheckpoint;

    fn next(&mut self) -> Option<OutstandingCheckpoint> {
        self.left = self.left.checked_sub(1)?;
        self.sequence = self.sequence.wrapping_add(self.difference()? as u64);
        let head = self.number()?;
        let mut due_ns = 0;
        if head & 1 == 1 {
            self.due_ns = self.due_ns.wrapping_add(self.difference()?);
            due_ns = self.due_ns;
        }
        Some(OutstandingCheckpoint { sequence: self.sequence, attempts: (head >> 1) as u16, due_ns })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a OutstandingList {
    type Item = OutstandingCheckpoint;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<OutstandingCheckpoint> for OutstandingList {
    fn from_iter<T: IntoIterator<Item = OutstandingCheckpoint>>(entries: T) -> Self {
        let mut list = OutstandingList::default();
        entries.into_iter().for_each(|entry| list.push(entry));
        list
    }
}

impl Serialize for OutstandingList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self)
    }
}

impl<'de> Deserialize<'de> for OutstandingList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = OutstandingList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("outstanding messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<OutstandingList, A::Error> {
                let mut list = OutstandingList::default();
                while let Some(entry) = entries.next_element()? {
                    list.push(entry);
                }
                Ok(list)
            }
        }

        deserializer.deserialize_seq(Entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn list_round_trips(entries in proptest::collection::vec((any::<u64>(), any::<u16>(), any::<i64>()), 0..50)) {
            let entries: Vec<_> = (entries.into_iter())
                .map(|(sequence, attempts, due_ns)| OutstandingCheckpoint { sequence, attempts, due_ns })
                .collect();
            let list: OutstandingList = entries.iter().copied().collect();
            prop_assert_eq!(list.len(), entries.len());
            prop_assert_eq!(list.iter().collect::<Vec<_>>(), entries.clone());
            // Serialized in the same way as a plain list.
            let bytes = rmp_serde::to_vec(&list).unwrap();
            prop_assert_eq!(&bytes, &rmp_serde::to_vec(&entries).unwrap());
            prop_assert_eq!(rmp_serde::from_slice::<OutstandingList>(&bytes).unwrap(), list);
        }
    }

    #[test]
    fn a_message_in_flight_takes_three_bytes() {
        let in_flight = |sequence| OutstandingCheckpoint { sequence, attempts: 1, due_ns: 0 };
        let list: OutstandingList = (1 << 50..(1 << 50) + 1000).map(in_flight).collect();
        assert!(list.bytes.len() < 3 * 1000 + 10);
    }
}
