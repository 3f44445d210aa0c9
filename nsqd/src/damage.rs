//! Damage and failing reads: counted, logged, and shown in the health.
//!
//! What a start finds is also collected. `nsq data verify` runs a start on the directory, so it reports the same.

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nsq_daemon::log::Logger;
use parking_lot::Mutex;

use crate::storage::SequenceRange;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The data differs from what was written.
    Damage,
    /// Not certainly damage: for example, messages that were finished just before a crash.
    Doubt,
    /// A write that a crash cut off. nsqd had not reported it as done.
    Torn,
}

/// One problem found in the data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// The file or directory; `None` if unknown.
    pub path: Option<PathBuf>,
    /// Where the problem starts in the file.
    pub offset: u64,
    /// Length in bytes; 0 if it is not a range of a file.
    pub bytes: u64,
    /// Description of the problem.
    pub what: String,
    /// Name of the topic that it belongs to; `None` if it belongs to no topic.
    pub topic: Option<String>,
    /// The messages that were there, at least one; `None` if unknown.
    pub messages: Option<SequenceRange>,
}

impl Finding {
    /// Damage without further details.
    pub fn damage(what: impl Into<String>) -> Self {
        Finding {
            severity: Severity::Damage,
            path: None,
            offset: 0,
            bytes: 0,
            what: what.into(),
            topic: None,
            messages: None,
        }
    }

    pub fn torn(what: impl Into<String>) -> Self {
        Finding { severity: Severity::Torn, ..Finding::damage(what) }
    }

    /// Sets its place: a range of a file, or a whole file or directory if `bytes` is 0.
    #[must_use]
    pub fn at(self, path: impl Into<PathBuf>, offset: u64, bytes: u64) -> Self {
        Finding { path: Some(path.into()), offset, bytes, ..self }
    }

    /// Sets its topic.
    #[must_use]
    pub fn of(self, topic: impl fmt::Display) -> Self {
        Finding { topic: Some(topic.to_string()), ..self }
    }

    /// Sets the messages that it held; none if the range is empty.
    #[must_use]
    pub fn with_messages(self, messages: SequenceRange) -> Self {
        Finding { messages: Some(messages).filter(|messages| !messages.is_empty()), ..self }
    }

    #[must_use]
    pub fn with_severity(self, severity: Severity) -> Self {
        Finding { severity, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(topic) = &self.topic {
            write!(f, "TOPIC({topic}): ")?;
        }
        write!(f, "{}", self.what)?;
        if let Some(path) = &self.path {
            write!(f, ": {}", path.display())?;
        }
        if self.bytes > 0 {
            write!(f, " at {}, {} bytes", self.offset, self.bytes)?;
        }
        match self.messages {
            Some(messages) => {
                write!(f, ": {} messages, {} to {}", messages.len(), messages.from, messages.to - 1)
            }
            None => Ok(()),
        }
    }
}

/// See the module. Shared by all topics.
#[derive(Default)]
pub struct Damage {
    logger: Option<Logger>,
    damaged_blocks: AtomicU64,
    damaged_messages: AtomicU64,
    cut_bytes: AtomicU64,
    reads_fail: AtomicBool,
    read_error: Mutex<Option<String>>,
    /// What a start has found so far; `None` after [`Damage::take_found`].
    found: Mutex<Option<Found>>,
}

/// The system cannot read blocks; with the error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}; {READ_AGAIN}")]
pub struct ReadsFail(String);

/// What a start found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub findings: Vec<Finding>,
    /// Messages that were needed and are unreadable.
    pub lost: Vec<LostMessages>,
    /// Unreadable files that were renamed.
    pub set_aside: Vec<SetAside>,
}

/// Messages of a topic that are lost because of damage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostMessages {
    pub topic: String,
    pub messages: SequenceRange,
}

impl fmt::Display for LostMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LostMessages { topic, messages: SequenceRange { from, to } } = self;
        let (count, last) = (self.messages.len(), to.saturating_sub(1));
        write!(f, "TOPIC({topic}): {count} messages are lost: {from} to {last}")
    }
}

/// An unreadable file that was renamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// What it belongs to: `JOURNAL` or `TOPIC(name)`.
    pub of: String,
    /// Its new path.
    pub path: PathBuf,
}

impl fmt::Display for SetAside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: unreadable file renamed to {}", self.of, self.path.display())
    }
}

/// Counts since the start, including what the start found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCounts {
    /// Damaged parts of the journal, blocks of segments and whole files.
    pub damaged_blocks: u64,
    /// Messages that were needed and are unreadable.
    pub damaged_messages: u64,
    /// Bytes of torn writes that the start cut.
    pub cut_bytes: u64,
}

impl Damage {
    /// Logs to `logger`, and collects what is found until [`Damage::take_found`].
    pub fn new(logger: Logger) -> Self {
        Damage { logger: Some(logger), found: Mutex::new(Some(Found::default())), ..Damage::default() }
    }

    /// Logs, counts and collects a finding.
    pub fn found(&self, finding: Finding) {
        if let Some(logger) = &self.logger {
            match finding.severity {
                Severity::Damage => nsq_daemon::error!(logger, "{finding}"),
                Severity::Doubt => nsq_daemon::warn!(logger, "{finding}"),
                Severity::Torn => nsq_daemon::info!(logger, "{finding}"),
            }
        }
        match finding.severity {
            Severity::Damage => _ = self.damaged_blocks.fetch_add(1, Ordering::Relaxed),
            Severity::Torn => _ = self.cut_bytes.fetch_add(finding.bytes, Ordering::Relaxed),
            Severity::Doubt => {}
        }
        if let Some(found) = &mut *self.found.lock() {
            found.findings.push(finding);
        }
    }

    /// Logs, counts and collects messages of a topic that are lost because of damage.
    pub fn lost(&self, topic: impl fmt::Display, messages: SequenceRange) {
        let lost = LostMessages { topic: topic.to_string(), messages };
        self.damaged_messages.fetch_add(messages.len(), Ordering::Relaxed);
        if let Some(logger) = &self.logger {
            nsq_daemon::error!(logger, "{lost}");
        }
        if let Some(found) = &mut *self.found.lock() {
            found.lost.push(lost);
        }
    }

    /// Logs and collects an unreadable file that was renamed.
    pub fn set_aside(&self, file: SetAside) {
        if let Some(logger) = &self.logger {
            nsq_daemon::error!(logger, "{file}");
        }
        if let Some(found) = &mut *self.found.lock() {
            found.set_aside.push(file);
        }
    }

    /// Whether any damage was found so far.
    pub fn has_found_damage(&self) -> bool {
        self.damaged_blocks.load(Ordering::Relaxed) > 0
    }

    /// Returns what was found so far and stops collecting.
    pub fn take_found(&self) -> Found {
        self.found.lock().take().unwrap_or_default()
    }

    /// Records that the system could not read a block. nsqd retries the read.
    pub fn read_failed(&self, error: &str) {
        let mut known = self.read_error.lock();
        if known.as_deref() != Some(error) {
            if let Some(logger) = &self.logger {
                nsq_daemon::error!(logger, "{}", ReadsFail(error.to_owned()));
            }
            *known = Some(error.to_owned());
        }
        self.reads_fail.store(true, Ordering::Release);
    }

    /// Records that a read succeeded.
    pub fn read_worked(&self) {
        if self.reads_fail.load(Ordering::Acquire) {
            *self.read_error.lock() = None;
            self.reads_fail.store(false, Ordering::Release);
        }
    }

    /// Fails if blocks cannot be read.
    pub fn health(&self) -> Result<(), ReadsFail> {
        match &*self.read_error.lock() {
            Some(error) => Err(ReadsFail(error.clone())),
            None => Ok(()),
        }
    }

    pub fn counts(&self) -> DamageCounts {
        DamageCounts {
            damaged_blocks: self.damaged_blocks.load(Ordering::Relaxed),
            damaged_messages: self.damaged_messages.load(Ordering::Relaxed),
            cut_bytes: self.cut_bytes.load(Ordering::Relaxed),
        }
    }
}

/// Advice for a file that the system cannot read.
const READ_AGAIN: &str = "nsqd retries by itself; repair the disk or restore access to the file";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_damage_and_clears_a_read_error_after_a_good_read() {
        let damage = Damage::default();
        damage.found(Finding::damage("no readable records"));
        damage.found(Finding::torn("cut a torn write").at("1.journal", 100, 7));
        damage.lost("t", SequenceRange::new(5, 8));
        let counts = DamageCounts { damaged_blocks: 1, damaged_messages: 3, cut_bytes: 7 };
        assert_eq!(damage.counts(), counts);
        assert_eq!(damage.health(), Ok(()));
        damage.read_failed("cannot read x");
        assert!(
            damage.health().unwrap_err().to_string().starts_with("cannot read x; nsqd retries by itself")
        );
        damage.read_worked();
        assert_eq!(damage.health(), Ok(()));
    }

    #[test]
    fn finding_shows_topic_place_and_messages() {
        let finding = Finding::damage("no readable records").at("/d/1.journal", 128, 50);
        assert_eq!(finding.to_string(), "no readable records: /d/1.journal at 128, 50 bytes");
        let finding = finding.of("t").with_messages(SequenceRange::new(5, 8));
        assert_eq!(
            finding.to_string(),
            "TOPIC(t): no readable records: /d/1.journal at 128, 50 bytes: 3 messages, 5 to 7"
        );
    }

    #[test]
    fn findings_are_collected_until_taken() {
        let damage = Damage::new(Logger::silent());
        damage.found(Finding::damage("one"));
        damage.lost("t", SequenceRange::new(5, 8));
        let lost = LostMessages { topic: "t".to_owned(), messages: SequenceRange::new(5, 8) };
        let expected = Found { findings: vec![Finding::damage("one")], lost: vec![lost], set_aside: vec![] };
        assert_eq!(damage.take_found(), expected);
        damage.found(Finding::damage("two"));
        assert_eq!(damage.take_found(), Found::default());
    }
}
