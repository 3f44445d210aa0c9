//! Pure: how many messages a deduplication window would not have stored, by the rules of [`crate::topic::dedupe`].

use crate::clock::Nanos;
use crate::topic::dedupe::{IdDigest, Window};

/// Counts the duplicates among messages that are added in their order.
#[derive(Debug)]
pub struct Duplicates {
    window: Window<()>,
    /// When the newest message was published. A wall clock that was set back does not turn the window back.
    now: Nanos,
    id_count: u64,
}

impl Duplicates {
    /// A window of this length in time, with at most `most` ids.
    pub fn new(length: Nanos, most: usize) -> Self {
        Duplicates { window: Window::new(length, most, 0), now: 0, id_count: 0 }
    }

    /// Adds a message; `id` is `None` if it has no `nsq-id`.
    pub fn add(&mut self, sequence: u64, published_ns: i64, id: Option<IdDigest>) {
        self.now = self.now.max(u64::try_from(published_ns).unwrap_or(0));
        let Some(id) = id else { return };
        self.id_count += 1;
        let offer = self.window.offer(std::iter::once(Some(id)), self.now);
        self.window.accept(&offer, sequence, ());
        self.window.settle(sequence, true);
    }

    /// Messages that have an id.
    pub fn id_count(&self) -> u64 {
        self.id_count
    }

    /// Messages whose id was remembered.
    pub fn duplicate_count(&self) -> u64 {
        self.window.counts().duplicate_count
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u8) -> Option<IdDigest> {
        Some(IdDigest::of(&number.to_string()))
    }

    #[test]
    fn repeats_within_the_window_are_duplicates() {
        let mut duplicates = Duplicates::new(100, 10);
        for (sequence, at, number) in
            [(1, 0, 1), (2, 50, 1), (3, 60, 2), (4, 99, 1), (5, 100, 1), (6, 199, 1)]
        {
            duplicates.add(sequence, at, id(number));
        }
        duplicates.add(7, 200, None);
        assert_eq!(
            (duplicates.id_count(), duplicates.duplicate_count()),
            (6, 3),
            "the 5th message is stored again"
        );
    }

    #[test]
    fn the_number_of_ids_is_limited() {
        let mut duplicates = Duplicates::new(100, 2);
        for (sequence, number) in [1, 2, 3, 1, 3].into_iter().enumerate() {
            duplicates.add(sequence as u64, 0, id(number));
        }
        assert_eq!(duplicates.duplicate_count(), 1, "1 was forgotten, 3 was not");
    }

    proptest! {
        /// The naive model keeps all stored messages.
        #[test]
        fn counts_like_a_list(messages in prop::collection::vec((-20i64..60, prop::option::of(0u8..5)), 0..80), length in 1u64..100) {
            let mut duplicates = Duplicates::new(length, 1000);
            let mut stored: Vec<(u8, i64)> = Vec::new();
            let (mut at, mut now, mut count) = (1000, 0, 0);
            for (sequence, (step, number)) in (1u64..).zip(messages) {
                at = (at + step).max(0);
                now = now.max(at);
                duplicates.add(sequence, at, number.and_then(id));
                let Some(number) = number else { continue };
                match stored.iter().any(|&(of, stored_at)| of == number && now - stored_at < length as i64) {
                    true => count += 1,
                    false => stored.push((number, now)),
                }
            }
            prop_assert_eq!(duplicates.duplicate_count(), count);
        }
    }
}
