//! Pure: the answers of several daemons.

use std::fmt;

use nsq::admin::{AdminError, AdminErrorKind};
use serde::Serialize;

/// A daemon that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeError {
    /// The daemon's HTTP address.
    pub node: String,
    /// The operation that failed.
    pub op: &'static str,
    /// `UNREACHABLE`, `TIMEOUT`, `UNEXPECTED`, or the daemon's own error word.
    pub code: String,
    /// Why it failed.
    pub message: String,
}

impl NodeError {
    /// The error of a failed call.
    pub fn new(node: &str, op: &'static str, error: &AdminError) -> Self {
        let message = match &error.kind {
            // The TCP port of a daemon answers an HTTP request with an error of its own protocol.
            AdminErrorKind::Unreachable(why) if why.contains("invalid HTTP version") => {
                "this is a TCP port; HTTP is 4161 (nsqd: 4151)".to_owned()
            }
            // Every nsqlookupd has this request, and no nsqd.
            AdminErrorKind::Refused { status: 404, .. } if op == "nodes" => {
                "GET /nodes answered 404: this is nsqd, use `--nsqd`".to_owned()
            }
            // The reverse.
            AdminErrorKind::Refused { status: 404, .. } if op == "stats" && error.is_unsupported() => {
                "GET /stats answered 404: this is nsqlookupd, use `--lookupd`".to_owned()
            }
            _ if error.is_unsupported() => {
                "it does not know this request: it is not nsq-rs, or too old".to_owned()
            }
            kind => kind.to_string(),
        };
        NodeError { node: node.to_owned(), op, code: code(&error.kind), message }
    }

    /// The error of an answer that lists a node with an invalid address.
    pub fn invalid_address(node: &str, op: &'static str, address: &str) -> Self {
        let message = format!("lists a node with an invalid address {address:?}");
        NodeError { node: node.to_owned(), op, code: "UNEXPECTED".to_owned(), message }
    }

    /// Whether the daemon could not be reached, or did not answer in time.
    pub fn is_unreachable(&self) -> bool {
        self.code == "UNREACHABLE" || self.code == "TIMEOUT"
    }

    /// Whether the daemon refused the request because of a missing right.
    pub fn is_refused(&self) -> bool {
        self.code == "FORBIDDEN" || self.code == "UNAUTHORIZED"
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.node, self.op, self.message)
    }
}

/// The answers of all daemons.
#[derive(Debug)]
pub struct Answers<T> {
    /// The daemons that succeeded, with their results.
    pub good: Vec<(String, T)>,
    /// The daemons that do not know the topic or channel. This is no failure if others know it.
    pub missing: Vec<String>,
    /// The daemons that failed.
    pub errors: Vec<NodeError>,
}

impl<T> Answers<T> {
    /// Sorts answers into results, unknown topics or channels, and errors.
    pub fn collect(
        operation: &'static str,
        answers: impl IntoIterator<Item = (String, Result<T, AdminError>)>,
    ) -> Self {
        let mut sorted = Answers { good: Vec::new(), missing: Vec::new(), errors: Vec::new() };
        for (node, answer) in answers {
            match answer {
                Ok(value) => sorted.good.push((node, value)),
                Err(error) if error.is_not_found() => sorted.missing.push(node),
                Err(error) => sorted.errors.push(NodeError::new(&node, operation, &error)),
            }
        }
        sorted
    }

    /// Adds the answers of other daemons.
    pub fn extend(&mut self, others: Answers<T>) {
        self.good.extend(others.good);
        self.missing.extend(others.missing);
        self.errors.extend(others.errors);
    }
}

/// The error in one word, for programs.
fn code(kind: &AdminErrorKind) -> String {
    match kind {
        AdminErrorKind::Refused { word, .. } => word.clone(),
        AdminErrorKind::Unreachable(_) => "UNREACHABLE".to_owned(),
        AdminErrorKind::Timeout(_) => "TIMEOUT".to_owned(),
        _ => "UNEXPECTED".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_sorted() {
        let failed = |kind| AdminError { method: "GET", url: "u".to_owned(), kind };
        let refused = |status, word: &str| failed(AdminErrorKind::Refused { status, word: word.to_owned() });
        let answers = [
            ("a", Ok(1)),
            ("b", Err(refused(404, "TOPIC_NOT_FOUND"))),
            ("c", Err(refused(500, "W"))),
            ("d", Err(refused(404, "NOT_FOUND"))),
        ];
        let sorted = Answers::collect("op", answers.map(|(node, answer)| (node.to_owned(), answer)));
        assert_eq!(sorted.good, [("a".to_owned(), 1)]);
        assert_eq!(sorted.missing, ["b"]);
        assert_eq!(sorted.errors[0].to_string(), "c op: W (status 500)");
        assert!(sorted.errors[1].to_string().starts_with("d op: it does not know this request"));
        let of_nodes = NodeError::new("d", "nodes", &refused(404, "NOT_FOUND"));
        assert_eq!(of_nodes.message, "GET /nodes answered 404: this is nsqd, use `--nsqd`");
    }
}
