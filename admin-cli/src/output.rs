//! All that is printed: data on stdout; notes, warnings and errors on stderr.

use std::io::{self, IsTerminal, Write};

use nsq_protocol::{printable, printable_lines};
use serde::Serialize;

use crate::cluster::NodeError;
use crate::exit_status::{ExitStatus, Failure};
use crate::table::Table;

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

    /// Whether a program reads it, which asked for JSON.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Whether a person reads stdout.
    pub fn is_terminal(self) -> bool {
        self.stdout_is_terminal
    }

    /// Writes lines for people to stdout. Names and errors that others chose may be in them: what could play tricks with
    /// a terminal is escaped.
    pub fn text(self, lines: impl AsRef<str>) -> Result<(), Failure> {
        self.data(printable_lines(lines.as_ref()).as_bytes())
    }

    /// Writes to stdout at once, as it is.
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

    /// Writes a table in the form that suits the reader.
    pub fn table(self, table: &Table) -> Result<(), Failure> {
        self.data(if self.stdout_is_terminal { table.aligned() } else { table.tab_separated() })
    }

    /// Takes away what the terminal shows.
    pub fn clear(self) -> Result<(), Failure> {
        if self.stdout_is_terminal { self.data("\x1b[H\x1b[2J") } else { Ok(()) }
    }

    /// Names the daemons that failed. With `--json` the document does that.
    pub fn node_errors(self, errors: &[NodeError]) {
        if !self.json {
            for error in errors {
                self.warning(&format!("! {error}"));
            }
        }
    }

    /// Progress: only for people.
    pub fn note(self, text: &str) {
        if self.stderr_is_terminal {
            self.warning(text);
        }
    }

    /// Something that a script's log should have as well. Nobody is left to tell if stderr is closed.
    pub fn warning(self, text: &str) {
        let _ = io::stderr().write_all(format!("{}\n", printable(text)).as_bytes());
    }

    /// Why the command failed.
    pub fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = if self.json { failure.json() } else { failure.text() };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Asks a person to agree. Where there is none, the answer is no.
    pub fn confirm(self, question: &str) -> Result<(), Failure> {
        let refused = |message: &str| Err(Failure::new(ExitStatus::Refused, message));
        if !self.stderr_is_terminal || !io::stdin().is_terminal() {
            return refused(&format!("{question} Nobody can be asked here.")).map_err(|failure: Failure| {
                failure.hint("--yes goes ahead, --dry-run only says what would happen")
            });
        }
        let _ = io::stderr().write_all(format!("{} [y/N] ", printable(question)).as_bytes());
        let mut answer = String::new();
        match io::stdin().read_line(&mut answer) {
            Ok(_) if ["y", "yes"].contains(&answer.trim().to_lowercase().as_str()) => Ok(()),
            _ => refused("nothing was done"),
        }
    }
}

/// Who reads our stdout may have seen enough: that is no failure.
fn not_written(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(),
        _ => Failure::failed(format_args!("stdout: {error}")),
    }
}
