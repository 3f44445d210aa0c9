//! Messages that wait for something slow, such as a sync, and when each must be touched. Pure.

use std::time::{Duration, Instant};

/// A message with less time is not touched again: near the deadline that no TOUCH extends, touches would follow each other
/// ever faster.
const MIN_REMAINING: Duration = Duration::from_millis(50);

/// Messages in the order of their arrival. The caller bounds their number.
#[derive(Debug)]
pub struct Held<T> {
    items: Vec<Item<T>>,
    /// The earliest `touch_at`.
    next_touch: Option<Instant>,
}

#[derive(Debug)]
struct Item<T> {
    message: T,
    touch_at: Option<Instant>,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Held { items: Vec::new(), next_touch: None }
    }
}

impl<T> Held<T> {
    /// Adds a message that must be touched at `touch_at`: see [`touch_time`].
    pub fn push(&mut self, message: T, touch_at: Option<Instant>) {
        self.next_touch = earlier(self.next_touch, touch_at);
        self.items.push(Item { message, touch_at });
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.iter().map(|item| &item.message)
    }

    /// When [`touch_due`](Held::touch_due) has something to do.
    pub fn next_touch(&self) -> Option<Instant> {
        self.next_touch
    }

    /// Calls `touch` for the messages that are due. It returns when the message is due again, if ever.
    pub fn touch_due(&mut self, now: Instant, mut touch: impl FnMut(&T) -> Option<Instant>) {
        self.next_touch = None;
        for item in &mut self.items {
            if item.touch_at.is_some_and(|at| at <= now) {
                item.touch_at = touch(&item.message);
            }
            self.next_touch = earlier(self.next_touch, item.touch_at);
        }
    }

    /// Removes all messages.
    pub fn take(&mut self) -> impl Iterator<Item = T> + use<T> {
        self.next_touch = None;
        std::mem::take(&mut self.items).into_iter().map(|item| item.message)
    }
}

/// When to touch a message whose deadline was set at `since`: after three fifths of its time. `None` if little time is
/// left, as before the deadline that no TOUCH extends.
pub fn touch_time(since: Instant, deadline: Instant) -> Option<Instant> {
    let limit = deadline.saturating_duration_since(since);
    (limit >= MIN_REMAINING).then(|| since + limit * 3 / 5)
}

fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    a.into_iter().chain(b).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn messages_are_touched_after_three_fifths_of_their_time() {
        let start = Instant::now();
        assert_eq!(touch_time(start, start + 60 * SECOND), Some(start + 36 * SECOND));
        assert_eq!(touch_time(start, start + SECOND), Some(start + SECOND * 3 / 5));
        assert_eq!(touch_time(start, start + SECOND / 25), None);
        assert_eq!(touch_time(start, start - SECOND), None);
    }

    #[test]
    fn only_due_messages_are_touched() {
        let start = Instant::now();
        let mut held = Held::default();
        for (message, seconds) in [("a", 5), ("b", 3), ("c", 9)] {
            held.push(message, Some(start + seconds * SECOND));
        }
        held.push("d", None);
        assert_eq!(held.next_touch(), Some(start + 3 * SECOND));
        let mut touched = Vec::new();
        held.touch_due(start + 5 * SECOND, |message| {
            touched.push(*message);
            (*message == "a").then(|| start + 20 * SECOND)
        });
        assert_eq!(touched, ["a", "b"]);
        assert_eq!(held.next_touch(), Some(start + 9 * SECOND));
        assert_eq!(held.take().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert!(held.is_empty() && held.next_touch().is_none());
    }
}
