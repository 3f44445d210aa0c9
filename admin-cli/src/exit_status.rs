//! Exit codes of commands, which scripts rely on, and the error output on stderr.

use std::fmt;
use std::process::ExitCode;

use nsq::ConfigError;
use nsq_protocol::printable;
use serde_json::json;

/// The exit codes. They are part of the interface: a code never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done. A stream that a signal or its limit stopped also ends with this code.
    Done = 0,
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Partly done: some nodes failed, and stderr names them.
    Partial = 3,
    /// There is no such topic, channel or node.
    NotFound = 4,
    /// A daemon's authorization refused the request, or the user answered "no".
    Refused = 5,
    /// No daemon could be reached.
    Unreachable = 6,
    /// A condition is not met: time ran out, or something in a data directory is damaged.
    NotMet = 7,
    /// Interrupted by SIGINT before the command was done.
    Interrupted = 130,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// Why a command failed, and what the user can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: ExitStatus,
    /// What failed, on what, and why.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The daemon, file or name that the command was about.
    pub target: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(status: ExitStatus, message: impl fmt::Display) -> Self {
        Failure { status, message: message.to_string(), hint: None, target: None }
    }

    /// A failure with [`ExitStatus::Failed`].
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(ExitStatus::Failed, message)
    }

    /// A failure with [`ExitStatus::Usage`].
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ExitStatus::Usage, message)
    }

    /// Ends a command quietly and with success because the reader of stdout closed it.
    pub fn silent() -> Self {
        Self::new(ExitStatus::Done, "")
    }

    /// Whether there is nothing to print.
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the command was about.
    #[must_use]
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// The error output for stderr, without `--json`.
    pub fn text(&self) -> String {
        let mut text = format!("nsq: {}\n", printable(&self.message));
        for line in self.hint.iter().flat_map(|hint| hint.lines()) {
            text += &format!("  {}\n", printable(line));
        }
        text
    }

    /// The error output for stderr with `--json`: one line.
    pub fn json(&self) -> String {
        let code = self.status as u8;
        let Failure { message, hint, target, .. } = self;
        format!("{}\n", json!({"error": {"code": code, "message": message, "target": target, "hint": hint}}))
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::usage(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_includes_its_hint() {
        let failure = Failure::new(ExitStatus::NotFound, "topic a: not found").hint("look\nthere");
        assert_eq!(failure.text(), "nsq: topic a: not found\n  look\n  there\n");
        let answered = Failure::failed("E_BAD_TOPIC \x1b[2J\nnsq: fine");
        assert_eq!(answered.text(), "nsq: E_BAD_TOPIC \\u{1b}[2J\\nnsq: fine\n");
        let json: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
        assert_eq!(json["error"]["code"], 4);
        assert_eq!(json["error"]["hint"], "look\nthere");
    }
}
