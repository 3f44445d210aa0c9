//! The cluster as commands see it: exit statuses and failures that follow from the answers of its daemons. Pure.

pub use nsq_cluster::{Answers, Ask, Cluster, ClusterSamples, FindError, Lookupd, Node, NodeError};

use crate::exit_status::{ExitStatus, Failure};
use crate::targets::HOW_TO_SAY;

/// The exit status, from the number of daemons that succeeded and the errors of the others.
pub fn verdict(done: usize, errors: &[NodeError]) -> ExitStatus {
    if errors.is_empty() {
        ExitStatus::Done
    } else if done > 0 {
        ExitStatus::Partial
    } else if errors.iter().all(NodeError::is_unreachable) {
        ExitStatus::Unreachable
    } else if errors.iter().any(NodeError::is_refused) {
        ExitStatus::Refused
    } else {
        ExitStatus::Failed
    }
}

impl From<FindError> for Failure {
    fn from(error: FindError) -> Self {
        let status = match &error {
            FindError::Config(_) | FindError::NoAddress => ExitStatus::Usage,
            FindError::NothingHere => ExitStatus::Unreachable,
            FindError::NoAnswer { errors } => verdict(0, errors),
        };
        let failure = Failure::new(status, &error);
        match (status, error) {
            (ExitStatus::Unreachable, _) | (_, FindError::NoAddress) => failure.hint(HOW_TO_SAY),
            (ExitStatus::Refused, _) => {
                failure.hint("authenticate with --auth-secret-file FILE or NSQ_AUTH_SECRET")
            }
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str) -> NodeError {
        NodeError { node: "n:1".to_owned(), op: "stats", code: code.to_owned(), message: "m".to_owned() }
    }

    #[test]
    fn exit_status_depends_on_successes_and_errors() {
        assert_eq!(verdict(0, &[]), ExitStatus::Done);
        assert_eq!(verdict(2, &[error("TIMEOUT")]), ExitStatus::Partial);
        assert_eq!(verdict(0, &[error("TIMEOUT"), error("UNREACHABLE")]), ExitStatus::Unreachable);
        assert_eq!(verdict(0, &[error("TIMEOUT"), error("INTERNAL_ERROR")]), ExitStatus::Failed);
        assert_eq!(verdict(0, &[error("FORBIDDEN")]), ExitStatus::Refused);
    }
}
