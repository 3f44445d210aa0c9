//! All that is printed: data on stdout; notes, warnings and errors on stderr.

use std::io::{self, IsTerminal, Write};

use crate::exit_status::{ExitStatus, Failure};

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl Output {
    /// The process's stdout and stderr.
    pub fn new(json: bool) -> Self {
        Output {
            json,
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Whether a program reads it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes to stdout at once.
    pub fn data(&self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()).map_err(not_written)
    }

    /// Progress: only for people.
    pub fn note(&self, text: &str) -> Result<(), Failure> {
        if self.stderr_is_terminal {
            self.warning(text);
        }
        Ok(())
    }

    /// Something that a script's log should have as well. Nobody is left to tell if stderr is closed.
    pub fn warning(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// Why the command failed.
    pub fn failure(&self, failure: &Failure) {
        let text = if self.json { failure.json() } else { failure.text() };
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

fn not_written(error: io::Error) -> Failure {
    Failure::new(ExitStatus::Failed, format_args!("stdout: {error}"))
}
