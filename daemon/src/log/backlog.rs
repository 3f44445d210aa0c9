//! Lines waiting to be written to stderr, within limits. When the backlog is full, the oldest lines are dropped. Pure.

use std::collections::VecDeque;

/// How much the backlog may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) lines: usize,
    /// Including line ends. A single line that is longer is dropped as well.
    pub(super) bytes: usize,
}

/// See the module. `S` is additional data about each line.
#[derive(Debug)]
pub(super) struct Backlog<S> {
    limits: Limits,
    lines: VecDeque<(String, S)>,
    bytes: usize,
    /// Lines dropped before the first line here, with the data of the last dropped one.
    missing: Option<Missing<S>>,
}

/// Lines that are not in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing<S> {
    pub(super) count: u64,
    pub(super) of: S,
}

/// The next lines, for a single write.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk<S> {
    /// Lines dropped before these.
    pub(super) missing: Option<Missing<S>>,
    /// Whole lines, including line ends.
    pub(super) text: String,
    pub(super) lines: u64,
    /// Data of the last line.
    pub(super) of: Option<S>,
}

impl<S: Clone> Backlog<S> {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, lines: VecDeque::new(), bytes: 0, missing: None }
    }

    /// Adds a line, given without its line end. Returns how many lines were dropped to make room.
    pub(super) fn push(&mut self, line: String, of: S) -> u64 {
        self.bytes += line.len() + 1;
        self.lines.push_back((line, of));
        let mut dropped = 0;
        while self.lines.len() > self.limits.lines || self.bytes > self.limits.bytes {
            let Some((line, of)) = self.lines.pop_front() else { break };
            self.bytes -= line.len() + 1;
            dropped += 1;
            self.add_missing(1, of);
        }
        dropped
    }

    /// Counts lines that did not reach the log and came before all lines here.
    pub(super) fn add_missing(&mut self, count: u64, of: S) {
        let before = self.missing.as_ref().map_or(0, |missing| missing.count);
        self.missing = Some(Missing { count: before + count, of });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes lines of at most `bytes` together, but at least one line. Returns `None` if there is nothing to write or
    /// report.
    pub(super) fn take(&mut self, bytes: usize) -> Option<Chunk<S>> {
        let mut chunk = Chunk { missing: self.missing.take(), text: String::new(), lines: 0, of: None };
        while let Some((line, _)) = self.lines.front() {
            let is_full = chunk.lines > 0 && chunk.text.len() + line.len() + 1 > bytes;
            if is_full {
                break;
            }
            let Some((line, of)) = self.lines.pop_front() else { break };
            self.bytes -= line.len() + 1;
            chunk.text.push_str(&line);
            chunk.text.push('\n');
            chunk.lines += 1;
            chunk.of = Some(of);
        }
        if self.lines.is_empty() {
            // Frees the memory that a burst used.
            self.lines.shrink_to(64);
        }
        (chunk.lines > 0 || chunk.missing.is_some()).then_some(chunk)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(lines: usize, bytes: usize) -> Backlog<u8> {
        Backlog::new(Limits { lines, bytes })
    }

    #[test]
    fn take_returns_lines_in_order_up_to_the_write_size() {
        let mut backlog = backlog(10, 1000);
        for (line, of) in [("a", 1), ("b", 2), ("long line", 3)] {
            assert_eq!(backlog.push(line.to_owned(), of), 0);
        }
        let chunk =
            |text: &str, lines, of| Some(Chunk { missing: None, text: text.to_owned(), lines, of: Some(of) });
        assert_eq!(backlog.take(4), chunk("a\nb\n", 2, 2));
        assert_eq!(backlog.take(4), chunk("long line\n", 1, 3));
        assert_eq!(backlog.take(4), None);
        assert_eq!(backlog.bytes, 0);
    }

    #[test]
    fn oldest_lines_are_dropped_at_either_limit_and_reported_first() {
        for limits in [(2, 1000), (1000, 4)] {
            let mut backlog = backlog(limits.0, limits.1);
            let dropped: u64 = ["a", "b", "c", "d"].map(|line| backlog.push(line.to_owned(), 7)).iter().sum();
            assert_eq!(dropped, 2);
            let chunk = backlog.take(1000).unwrap();
            assert_eq!(chunk.missing, Some(Missing { count: 2, of: 7 }));
            assert_eq!(chunk.text, "c\nd\n");
            assert_eq!(backlog.take(1000), None);
        }
    }

    #[test]
    fn line_longer_than_the_backlog_is_reported_missing() {
        let mut backlog = backlog(10, 4);
        assert_eq!(backlog.push("long line".to_owned(), 7), 1);
        let chunk = backlog.take(1000).unwrap();
        assert_eq!((chunk.missing, chunk.lines), (Some(Missing { count: 1, of: 7 }), 0));
    }

    #[test]
    fn lines_that_failed_to_write_are_counted_as_missing() {
        let mut backlog = backlog(1, 1000);
        backlog.push("a".to_owned(), 1);
        backlog.push("b".to_owned(), 1);
        let chunk = backlog.take(1000).unwrap();
        backlog.add_missing(chunk.missing.unwrap().count + chunk.lines, 2);
        assert_eq!(backlog.take(1000).unwrap().missing, Some(Missing { count: 2, of: 2 }));
    }
}
