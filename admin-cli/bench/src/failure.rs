//! Why a run failed.

use std::fmt;

use nsq::ConfigError;

/// A failed run: what failed, on what, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    /// A sentence for the user.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

/// Who or what is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The flags.
    Usage,
    /// nsqd cannot be reached.
    Unreachable,
    /// The user interrupted the run before it had figures.
    Interrupted,
    /// Anything else.
    Failed,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(cause: Cause, message: impl fmt::Display) -> Self {
        Failure { cause, message: message.to_string(), hint: None }
    }

    /// A failure with [`Cause::Failed`].
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Cause::Failed, message)
    }

    /// A failure with [`Cause::Usage`].
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Cause::Usage, message)
    }

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::usage(error)
    }
}
