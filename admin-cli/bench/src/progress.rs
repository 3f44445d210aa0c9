//! Progress of a run: one line on a terminal, nothing elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::counters::Flow;
use super::report_table::grouped;

/// Time between two updates of the line.
const INTERVAL: Duration = Duration::from_millis(200);

/// The progress line.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
    label: &'static str,
    last: Option<Shown>,
}

#[derive(Clone, Copy, Debug)]
struct Shown {
    at: Duration,
    published: u64,
    delivered: u64,
}

impl Progress {
    /// Shows progress on stderr, if that is a terminal.
    pub fn new() -> Self {
        Progress { is_shown: std::io::stderr().is_terminal(), label: "", last: None }
    }

    /// For tests.
    #[cfg(test)]
    pub fn silent() -> Self {
        Progress { is_shown: false, label: "", last: None }
    }

    /// Starts a phase.
    pub fn begin(&mut self, label: &'static str) {
        *self = Progress { is_shown: self.is_shown, label, last: None };
    }

    /// Whether the next update is due.
    pub fn is_due(&self, elapsed: Duration) -> bool {
        self.last.is_none_or(|last| elapsed >= last.at + INTERVAL)
    }

    /// Updates the line.
    pub fn show(&mut self, at: Duration, published: &Flow, delivered: &Flow) {
        let now = Shown { at, published: published.messages, delivered: delivered.messages };
        let last = self.last.replace(now);
        if self.is_shown {
            let text = line(self.label, last, now);
            // A write error is ignored: stderr is the last channel for it. The sequence erases the rest of the
            // previous line.
            let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
        }
    }

    /// Removes the line.
    pub fn end(&mut self) {
        if self.is_shown && self.last.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn line(label: &str, last: Option<Shown>, now: Shown) -> String {
    let last = last.unwrap_or(Shown { at: Duration::ZERO, published: 0, delivered: 0 });
    let seconds = now.at.saturating_sub(last.at).as_secs_f64().max(1e-3);
    let mut text = format!("{label} {:5.1} s", now.at.as_secs_f64());
    for (what, count, before) in
        [("published", now.published, last.published), ("delivered", now.delivered, last.delivered)]
    {
        if count > 0 {
            let rate = (count.saturating_sub(before) as f64 / seconds) as u64;
            text += &format!("  {what} {} ({}/s)", grouped(count), grouped(rate));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_shows_counts_and_rates() {
        let shown = |ms, published, delivered| Shown { at: Duration::from_millis(ms), published, delivered };
        assert_eq!(line("pub", None, shown(500, 1_000, 0)), "pub   0.5 s  published 1,000 (2,000/s)");
        assert_eq!(
            line("pubsub", Some(shown(500, 1_000, 500)), shown(1_000, 3_000, 500)),
            "pubsub   1.0 s  published 3,000 (4,000/s)  delivered 500 (0/s)"
        );
    }
}
