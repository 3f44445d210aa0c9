//! Progress on stderr during a long operation: one changing line on a terminal, or repeated lines on demand.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two updates on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(200);
/// Time between two lines elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// A progress display.
#[derive(Debug)]
pub struct Progress {
    on_terminal: bool,
    wanted: bool,
    last: Instant,
    is_shown: bool,
}

impl Progress {
    /// Shows progress if stderr is a terminal or `wanted` is true.
    pub fn new(wanted: bool) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Progress { on_terminal, wanted: wanted || on_terminal, last: Instant::now(), is_shown: false }
    }

    /// Shows the progress, unless the last update was too recent.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let interval = if self.on_terminal { ON_TERMINAL } else { ELSEWHERE };
        if !self.wanted || self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        self.is_shown = true;
        // A write error is ignored: stderr is the last channel for it.
        let _ = match self.on_terminal {
            true => write!(std::io::stderr(), "\r{}\x1b[K", text()),
            false => writeln!(std::io::stderr(), "{}", text()),
        };
    }

    /// Removes the line from a terminal.
    pub fn end(&mut self) {
        if self.on_terminal && std::mem::take(&mut self.is_shown) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
