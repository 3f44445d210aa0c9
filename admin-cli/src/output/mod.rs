//! All output: data on stdout; notes, warnings and errors on stderr.
//!
//! In reading order: `flags` (the form of the output), `fields` (what `--json=FIELDS` may name), `document` (rows, fields and
//! names of a JSON document), `jq`, and this file, which prints.

mod document;
mod fields;
mod flags;
mod jq;

use std::io::{self, IsTerminal, Write};

use jiff::tz::TimeZone;
use nsq_protocol::{printable, printable_lines};
use serde::Serialize;

use crate::cluster::NodeError;
use crate::exit_status::{ExitStatus, Failure};
use crate::table::{Style, Table};
pub use flags::{Form, OutputFlags, OutputForm, Terminals, Wanted};
pub use jq::Jq;

/// Start of a bold text, of a warning, of an error; and the end of each.
const BOLD: &str = "\x1b[1m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const PLAIN: &str = "\x1b[0m";

/// The output streams and the form of the output.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One per process, so it is never freed.
    form: &'static Form,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl Output {
    pub fn new(form: Form) -> Self {
        let terminals = Self::terminals();
        Output {
            form: Box::leak(Box::new(form)),
            stdout_is_terminal: terminals.stdout,
            stderr_is_terminal: terminals.stderr,
        }
    }

    /// Tables and text, without colour.
    pub fn plain() -> Self {
        Self::new(Form { header: true, ..Form::default() })
    }

    /// Which of the streams are terminals.
    pub fn terminals() -> Terminals {
        Terminals { stdout: io::stdout().is_terminal(), stderr: io::stderr().is_terminal() }
    }

    /// Whether the command must make its JSON document, in whichever form it is printed.
    pub fn is_json(self) -> bool {
        self.form.kind.is_document()
    }

    /// Whether the whole document is printed, so that it can name the daemons that failed.
    fn is_whole_document(self) -> bool {
        matches!(self.form.kind, OutputForm::Json | OutputForm::Yaml) && self.form.jq.is_none()
    }

    /// Whether stdout is a terminal.
    pub fn is_terminal(self) -> bool {
        self.stdout_is_terminal
    }

    /// Whether stderr is a terminal: a person waits, and progress may be shown.
    pub fn shows_progress(self) -> bool {
        self.stderr_is_terminal && !self.form.quiet
    }

    /// Whether texts on stdout may have colour.
    pub fn colors_stdout(self) -> bool {
        self.form.stdout_color
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

    /// Writes a document in the form that the flags choose.
    pub fn json(self, value: &impl Serialize) -> Result<(), Failure> {
        self.data(self.document(value)?)
    }

    /// A document in the form that the flags choose. Every line ends with a line feed.
    fn document(self, value: &impl Serialize) -> Result<Vec<u8>, Failure> {
        let Form { kind, fields, jq, .. } = self.form;
        if *kind == OutputForm::Json && fields.is_empty() && jq.is_none() {
            let mut line = serde_json::to_vec(value).map_err(Failure::failed)?;
            line.push(b'\n');
            return Ok(line);
        }
        let mut document = serde_json::to_value(value).map_err(Failure::failed)?;
        if !fields.is_empty() && *kind != OutputForm::Name {
            document = document::select(document, fields);
        }
        let documents = match jq {
            None => vec![document],
            Some(jq) => jq.apply(document).map_err(|why| Failure::failed(format_args!("--jq: {why}")))?,
        };
        let mut text = String::new();
        for document in &documents {
            match kind {
                OutputForm::Yaml => {
                    text += "---\n";
                    text += &serde_norway::to_string(document).map_err(Failure::failed)?;
                }
                OutputForm::Name => {
                    for name in document::names(document) {
                        text += &printable(&name);
                        text.push('\n');
                    }
                }
                OutputForm::Ndjson if jq.is_none() => {
                    for row in document::rows(document) {
                        text += &row.to_string();
                        text.push('\n');
                    }
                }
                _ => {
                    let line = if jq.is_some() { jq::line(document) } else { document.to_string() };
                    text += &if self.stdout_is_terminal { printable_lines(&line).into() } else { line };
                    text.push('\n');
                }
            }
        }
        Ok(text.into_bytes())
    }

    /// One record of a stream, without its last line feed; `None` if `--jq` leaves it out.
    pub fn record(self, value: &impl Serialize) -> Result<Option<Vec<u8>>, Failure> {
        let mut text = self.document(value)?;
        Ok(text.pop().map(|_| text))
    }

    /// Writes a table: aligned on a terminal, otherwise tab-separated.
    pub fn table(self, table: &Table) -> Result<(), Failure> {
        let Form { kind, header, utc, exact, stdout_color, .. } = *self.form;
        let is_aligned = match kind {
            OutputForm::Wide => true,
            OutputForm::Tsv => false,
            _ => self.stdout_is_terminal,
        };
        let width = match self.stdout_is_terminal && kind != OutputForm::Wide {
            true => terminal_size::terminal_size().map(|(width, _)| usize::from(width.0)),
            false => None,
        };
        self.data(table.render(&Style {
            is_aligned,
            rounds: is_aligned && !exact,
            header,
            width,
            bold: (is_aligned && stdout_color).then_some((BOLD, PLAIN)),
            zone: (is_aligned && !utc).then(TimeZone::system),
        }))
    }

    /// A moment in nanoseconds since 1970 for people: in local time on a terminal without `--utc`.
    pub fn moment(self, timestamp_ns: i64) -> String {
        let zone = (self.stdout_is_terminal && !self.form.utc).then(TimeZone::system);
        crate::table::moment(timestamp_ns, zone.as_ref())
    }

    /// Clears the terminal.
    pub fn clear(self) -> Result<(), Failure> {
        if self.stdout_is_terminal { self.data("\x1b[H\x1b[2J") } else { Ok(()) }
    }

    /// Prints the daemons that failed, unless the printed document holds them.
    pub fn node_errors(self, errors: &[NodeError]) {
        if !self.is_whole_document() {
            for error in errors {
                self.warning(&format!("! {error}"));
            }
        }
    }

    /// Prints progress, only on a terminal.
    pub fn note(self, text: &str) {
        if self.shows_progress() {
            self.warning(text);
        }
    }

    /// Prints a warning, which also belongs in a script's log. A write error is ignored: stderr is the last channel
    /// for it.
    pub fn warning(self, text: &str) {
        let text = printable(text);
        let line = match self.form.stderr_color && text.starts_with('!') {
            true => format!("{YELLOW}{text}{PLAIN}\n"),
            false => format!("{text}\n"),
        };
        let _ = io::stderr().write_all(line.as_bytes());
    }

    /// Prints why the command failed.
    pub fn failure(self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let text = match (self.is_json(), self.form.stderr_color) {
            (true, _) => failure.json(),
            (false, true) => failure.text().replacen("nsq:", &format!("{RED}nsq:{PLAIN}"), 1),
            (false, false) => failure.text(),
        };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Prints an error of the command line, in its own colours if stderr is a terminal that may have some.
    pub fn usage_error(self, colored: &str, plain: &str) {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let text = if self.stderr_is_terminal && !is_plain { colored } else { plain };
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Asks a person for confirmation. Without a terminal, the answer is no.
    pub fn confirm(self, question: &str) -> Result<(), Failure> {
        match self.ask(
            &format!("{question} [y/N] "),
            "use --yes to proceed, or --dry-run to show what would happen",
        )? {
            answer if ["y", "yes"].contains(&answer.to_lowercase().as_str()) => Ok(()),
            _ => Err(cancelled()),
        }
    }

    /// Asks a person to type a name, because a protected cluster would be changed. Without a terminal, the answer is no.
    pub fn confirm_by_name(self, question: &str, name: &str, color: &str, hint: &str) -> Result<(), Failure> {
        if self.form.stderr_color && self.stderr_is_terminal {
            let _ = io::stderr().write_all(format!("{color}[{name}]{PLAIN} ").as_bytes());
        }
        let answer = self.ask(&format!("{question} Type {name} to proceed: "), hint)?;
        if answer == name { Ok(()) } else { Err(cancelled()) }
    }

    fn ask(self, question: &str, hint: &str) -> Result<String, Failure> {
        if !self.stderr_is_terminal || !io::stdin().is_terminal() {
            let question = question.trim_end_matches(" [y/N] ");
            let message = format!("{} Cannot ask for confirmation without a terminal.", question.trim_end());
            return Err(Failure::new(ExitStatus::Refused, message).hint(hint));
        }
        let _ = io::stderr().write_all(printable(question).as_bytes());
        let mut answer = String::new();
        match io::stdin().read_line(&mut answer) {
            Ok(_) => Ok(answer.trim().to_owned()),
            Err(_) => Err(cancelled()),
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(ExitStatus::Refused, "cancelled; nothing was changed")
}

/// A reader may close our stdout early; this is not a failure.
fn not_written(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(),
        _ => Failure::failed(format_args!("cannot write to stdout: {error}")),
    }
}
