//! What is said on stderr while something takes long: one line on a terminal that changes, or lines on demand.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two lines on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(200);
/// And elsewhere.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// The line.
#[derive(Debug)]
pub struct Progress {
    on_terminal: bool,
    wanted: bool,
    last: Instant,
    is_shown: bool,
}

impl Progress {
    /// On stderr if that is a terminal, or if it is wanted in any case.
    pub fn new(wanted: bool) -> Self {
        let on_terminal = std::io::stderr().is_terminal();
        Progress { on_terminal, wanted: wanted || on_terminal, last: Instant::now(), is_shown: false }
    }

    /// Shows how far it is, if it is time for that.
    pub fn show(&mut self, text: impl FnOnce() -> String) {
        let interval = if self.on_terminal { ON_TERMINAL } else { ELSEWHERE };
        if !self.wanted || self.last.elapsed() < interval {
            return;
        }
        self.last = Instant::now();
        self.is_shown = true;
        // Nobody is left to tell if stderr is closed.
        let _ = match self.on_terminal {
            true => write!(std::io::stderr(), "\r{}\x1b[K", text()),
            false => writeln!(std::io::stderr(), "{}", text()),
        };
    }

    /// Takes the line away.
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
