//! How a command ends: the exit codes that scripts rely on, and what is said on stderr.

use std::fmt;
use std::process::ExitCode;

use nsq::ConfigError;
use nsq_protocol::printable;
use serde_json::json;

/// The exit codes. They are part of the interface: a meaning never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitStatus {
    /// Done; a stream that was stopped by a signal or by its limit ends like this, too.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// Done in part: some nodes failed, and stderr names them.
    Partial = 3,
    /// There is no such topic, channel or node.
    NotFound = 4,
    /// Refused: by a daemon's authorization, or by the user's "no".
    Refused = 5,
    /// Nothing could be reached.
    Unreachable = 6,
    /// Something in a data directory is damaged.
    Damaged = 7,
    /// SIGINT before all was done.
    Interrupted = 130,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        ExitCode::from(status as u8)
    }
}

/// Why a command failed, and what its user can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub status: ExitStatus,
    /// What was tried, where, what came back.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(status: ExitStatus, message: impl fmt::Display) -> Self {
        Failure { status, message: message.to_string(), hint: None }
    }

    /// A failure of no particular kind.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(ExitStatus::Failed, message)
    }

    /// A command line that cannot be meant.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ExitStatus::Usage, message)
    }

    /// The end of a command whose reader has gone: nothing to say, and no failure.
    pub fn silent() -> Self {
        Self::new(ExitStatus::Done, "")
    }

    /// Whether there is nothing to say.
    pub fn is_silent(&self) -> bool {
        self.message.is_empty()
    }

    /// With advice.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The lines for stderr.
    pub fn text(&self) -> String {
        let mut text = format!("nsq: {}\n", printable(&self.message));
        for line in self.hint.iter().flat_map(|hint| hint.lines()) {
            text += &format!("  {}\n", printable(line));
        }
        text
    }

    /// The line for stderr with `--json`.
    pub fn json(&self) -> String {
        let code = self.status as u8;
        format!("{}\n", json!({"error": {"code": code, "message": self.message, "hint": self.hint}}))
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
    fn a_failure_says_what_to_do() {
        let failure = Failure::new(ExitStatus::NotFound, "topic a: not found").hint("look\nthere");
        assert_eq!(failure.text(), "nsq: topic a: not found\n  look\n  there\n");
        let answered = Failure::failed("E_BAD_TOPIC \x1b[2J\nnsq: fine");
        assert_eq!(answered.text(), "nsq: E_BAD_TOPIC \\u{1b}[2J\\nnsq: fine\n");
        let json: serde_json::Value = serde_json::from_str(&failure.json()).unwrap();
        assert_eq!(json["error"]["code"], 4);
        assert_eq!(json["error"]["hint"], "look\nthere");
    }
}
