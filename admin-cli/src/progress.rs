//! Progress bars on stderr, for work that takes more than a second. Only on a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::Output;

/// Shorter work shows no bar.
const DELAY: Duration = Duration::from_secs(1);
/// Redraws per second.
const REDRAWS: u8 = 5;

/// A bar that appears after a second, and disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    total: Option<u64>,
    appears_at: Option<Instant>,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Counts `what`, such as `messages`, up to `total` if it is known.
    pub fn new(output: Output, what: &'static str, total: Option<u64>) -> Self {
        let appears_at = output.shows_progress().then(|| Instant::now() + DELAY);
        Progress { what, total, appears_at, bar: None }
    }

    /// Shows how far the work is.
    pub fn set(&mut self, done: u64) {
        if self.bar.is_none() && self.appears_at.is_some_and(|at| at <= Instant::now()) {
            self.bar = Some(self.bar());
        }
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
    }

    fn bar(&self) -> ProgressBar {
        let target = ProgressDrawTarget::stderr_with_hz(REDRAWS);
        let bar = ProgressBar::with_draw_target(self.total, target);
        let template = match self.total {
            Some(_) => {
                format!("[{{elapsed}}] {{wide_bar}} {{pos}}/{{len}} {}, {{per_sec}}, {{eta}} left", self.what)
            }
            None => format!("[{{elapsed}}] {{pos}} {}, {{per_sec}}", self.what),
        };
        // A wrong template would only show the default bar.
        bar.with_style(
            ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        )
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
