//! All output: data on stdout; notes, warnings and errors on stderr.

use std::io::{self, IsTerminal, Write};

use nsq_protocol::{printable, printable_lines};
use serde::Serialize;

use crate::cluster::NodeError;
use crate::exit_status::{ExitStatus, Failure};
use crate::table::Table;

/// The output streams and the form of the output.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl Output {
    pub fn new(json: bool) -> Self {
        Output {
            json,
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
        }
    }

    /// Whether `--json` was given.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether stdout is a terminal.
    pub fn is_terminal(self) -> bool {
        self.stdout_is_terminal
    }

    /// Writes lines for people to stdout. They may contain names and errors that others chose, so control characters
    /// for the terminal are escaped.
    pub fn text(self, lines: impl AsRef<str>) -> Result<(), Failure> {
        self.data(printable_lines(lines.as_ref()).as_bytes())
    }

    /// Writes to stdout unchanged, and flushes.
    pub fn data(self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_ref()).and_then(|()| stdout.flush()).map_err(not_written)
    }

    /// Writes a value as one line of JSON.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        let mut line = serde_json::to_vec(value).map_err(Failure::failed)?;
        line.push(b'\n');
        self.data(line)
    }

    /// Writes a table: aligned on a terminal, otherwise tab-separated.
    pub fn table(self, table: &Table) -> Result<(), Failure> {
        self.data(if self.stdout_is_terminal { table.aligned() } else { table.tab_separated() })
    }

    /// Clears the terminal.
    pub fn clear(self) -> Result<(), Failure> {
        if self.stdout_is_terminal { self.data("\x1b[H\x1b[2J") } else { Ok(()) }
    }

    /// Prints the daemons that failed. With `--json`, the JSON document holds them instead.
    pub fn node_errors(self, errors: &[NodeError]) {
        if !self.json {
            for error in errors {
                self.warning(&format!("! {error}"));
            }
        }
    }

    /// Prints progress, only on a terminal.
    pub fn note(self, text: &str) {
        if self.stderr_is_terminal {
            self.warning(text);
        }
    }

    /// Prints a warning, which also belongs in a script's log. A write error is ignored: stderr is the last channel
    /// for it.
    pub fn warning(self, text: &str) {
        let _ = io::stderr().write_all(format!("{}\n", printable(text)).as_bytes());
    }

    /// Prints why the command failed.
    pub fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = if self.json { failure.json() } else { failure.text() };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Asks a person for confirmation. Without a terminal, the answer is no.
    pub fn confirm(self, question: &str) -> Result<(), Failure> {
        let refused = |message: &str| Err(Failure::new(ExitStatus::Refused, message));
        if !self.stderr_is_terminal || !io::stdin().is_terminal() {
            return refused(&format!("{question} Cannot ask for confirmation without a terminal.")).map_err(
                |failure: Failure| {
                    failure.hint("use --yes to proceed, or --dry-run to show what would happen")
                },
            );
        }
        let _ = io::stderr().write_all(format!("{} [y/N] ", printable(question)).as_bytes());
        let mut answer = String::new();
        match io::stdin().read_line(&mut answer) {
            Ok(_) if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) => Ok(()),
            _ => refused("cancelled; nothing was changed"),
        }
    }
}

/// A reader may close our stdout early; this is not a failure.
fn not_written(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(),
        _ => Failure::failed(format_args!("cannot write to stdout: {error}")),
    }
}
