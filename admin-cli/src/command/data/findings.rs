//! Possible damage in a data directory. Pure.

use serde::Serialize;

use crate::table::{Cell, Table};
use nsqd::storage::SequenceRange;

/// A stretch of a file whose content is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Path relative to the directory.
    pub file: String,
    /// Offset of the stretch in the file.
    pub offset: u64,
    /// Length of the stretch.
    pub bytes: u64,
    /// What the stretch is.
    pub what: String,
    /// Topic whose messages were there, if known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic_name: Option<String>,
    /// Sequence number of the first message that was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_sequence: Option<u64>,
    /// Sequence number of the last message that was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sequence: Option<u64>,
}

impl Finding {
    /// A finding without messages.
    pub fn new(file: impl Into<String>, offset: u64, bytes: u64, what: impl Into<String>) -> Self {
        Finding {
            file: file.into(),
            offset,
            bytes,
            what: what.into(),
            topic_name: None,
            first_sequence: None,
            last_sequence: None,
        }
    }

    /// Adds the topic, and the messages that were there.
    #[must_use]
    pub fn of_messages(mut self, topic: Option<&str>, messages: Option<SequenceRange>) -> Self {
        self.topic_name = topic.map(str::to_owned);
        if let Some(messages) = messages.filter(|messages| !messages.is_empty()) {
            self.first_sequence = Some(messages.from);
            self.last_sequence = Some(messages.to - 1);
        }
        self
    }
}

/// Counts of what was checked.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Number of files.
    pub file_count: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Records of the journal and of NSQ's queues.
    pub record_count: u64,
    /// Blocks of segments.
    pub block_count: u64,
    /// Messages in segments and in NSQ's queues.
    pub message_count: u64,
}

/// The result of a verification.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    pub path: String,
    pub checked: Checked,
    /// Data that was completely written and can no longer be read.
    pub damage: Vec<Finding>,
    /// Writes that a kill cut off. They were never acknowledged, and a start cuts them.
    pub torn: Vec<Finding>,
    /// Observations that are not damage.
    pub notes: Vec<String>,
}

impl Findings {
    /// The damaged and torn stretches, for people.
    pub fn table(&self) -> Table {
        let mut table = Table::new(&["FILE", "OFFSET", "BYTES", "WHAT", "TOPIC", "MESSAGES"]);
        let damage = self.damage.iter().map(|finding| (finding, "damaged"));
        for (finding, kind) in damage.chain(self.torn.iter().map(|finding| (finding, "torn"))) {
            let messages = match (finding.first_sequence, finding.last_sequence) {
                (Some(first), Some(last)) => format!("{first}..{last}"),
                _ => String::new(),
            };
            table.row(vec![
                finding.file.as_str().into(),
                Cell::Text(finding.offset.to_string()),
                Cell::Text(finding.bytes.to_string()),
                format!("{kind}: {}", finding.what).into(),
                finding.topic_name.clone().unwrap_or_default().into(),
                messages.into(),
            ]);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finding_contains_messages_only_if_known() {
        let finding =
            Finding::new("a", 1, 2, "block").of_messages(Some("t"), Some(SequenceRange::new(10, 13)));
        assert_eq!((finding.first_sequence, finding.last_sequence), (Some(10), Some(12)));
        let unknown = Finding::new("a", 1, 2, "block").of_messages(None, Some(SequenceRange::new(10, 10)));
        let json = serde_json::to_string(&unknown).unwrap();
        assert_eq!(json, r#"{"file":"a","offset":1,"bytes":2,"what":"block"}"#);
        let findings =
            Findings { damage: vec![finding.clone()], torn: vec![finding.clone()], ..Findings::default() };
        let text = findings.table().tab_separated();
        assert!(text.contains("a\t1\t2\tdamaged: block\tt\t10..12\n"), "{text}");
        assert!(text.contains("a\t1\t2\ttorn: block\tt\t10..12\n"), "{text}");
    }
}
