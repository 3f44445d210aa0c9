//! Tracks which topics' statistics have changed since the last report to each nsqlookupd. Pure.
//!
//! The ledger stores a fingerprint of each topic's statistics, not the statistics: fifty thousand idle topics need
//! little memory and nothing is sent for them. Each update raises the version. Each nsqlookupd has its [`Progress`]:
//! the version up to which it knows everything, and its position in the current round of reports.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use nsq_protocol::TopicName;
use nsq_protocol::heartbeat::{MAX_ENTRIES, NodeSummary, REPORT_BYTES, StatsReport, TopicSummary};

use crate::storage::TopicNumber;

/// Maximum number of remembered deleted topics, for nsqlookupds that do not know of the deletion yet. Above it, every
/// nsqlookupd gets a complete report.
const MAX_REMOVED: usize = 10_000;

/// Fingerprints of all topics, with versions.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Version of the latest update; 0 before the first one.
    version: u64,
    node: NodeSummary,
    /// By number: a recreated topic is another topic, and numbers compare fast.
    topics: BTreeMap<TopicNumber, Topic>,
    /// Deleted topics, with the version that noticed the deletion.
    removed: BTreeMap<TopicName, u64>,
    /// Deletions up to this version are no longer in `removed`.
    forgotten: u64,
    is_cut: bool,
}

#[derive(Debug)]
struct Topic {
    name: TopicName,
    fingerprint: u64,
    /// Version of the last change.
    version: u64,
    /// Version of the last update that contained the topic.
    seen: u64,
}

/// The part of the ledger that one nsqlookupd knows.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// It knows everything up to this version; 0 for nothing.
    known_version: u64,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    /// Version that is known at the end of the round.
    target: u64,
    /// The last topic that was reported in this round.
    after: Option<TopicNumber>,
    is_first: bool,
    refresh: u64,
}

/// One topic in an update.
pub struct TopicSnapshot {
    pub number: TopicNumber,
    pub name: TopicName,
    pub fingerprint: u64,
    /// Number of entries: the topic and its channels.
    pub entries: usize,
    /// Whether the summary leaves out channels.
    pub is_cut: bool,
}

impl TopicSnapshot {
    /// The summary of a topic with `channel_count` channels; it may leave some out.
    pub fn new(number: TopicNumber, summary: TopicSummary, channel_count: usize) -> Self {
        TopicSnapshot {
            number,
            fingerprint: fingerprint(&summary),
            entries: summary.entries(),
            is_cut: summary.channels.len() < channel_count,
            name: summary.topic_name,
        }
    }
}

impl Ledger {
    /// Records the present topics of the node.
    pub fn update(&mut self, node: NodeSummary, topics: impl IntoIterator<Item = TopicSnapshot>) {
        self.version += 1;
        self.node = node;
        self.is_cut = false;
        let (version, mut entries) = (self.version, 0);
        for seen in topics {
            entries += seen.entries;
            self.is_cut |= seen.is_cut;
            if entries > MAX_ENTRIES {
                self.is_cut = true;
                break;
            }
            let fingerprint = seen.fingerprint;
            let new = || Topic { name: seen.name, fingerprint, version, seen: version };
            let topic = self.topics.entry(seen.number).or_insert_with(new);
            if topic.fingerprint != fingerprint {
                (topic.fingerprint, topic.version) = (fingerprint, version);
            }
            topic.seen = version;
        }
        // A recreated topic of the same name is reported after the deletion, with the same or a newer version.
        let removed = &mut self.removed;
        self.topics.retain(|_, topic| {
            let is_there = topic.seen == version;
            removed.extend((!is_there).then(|| (topic.name.clone(), version)));
            is_there
        });
        if self.removed.len() > MAX_REMOVED {
            self.removed.clear();
            self.forgotten = version;
        }
    }

    /// Returns the next report for one nsqlookupd, or `None` at the end of its round. `summary_of` returns the present
    /// statistics of a topic; a topic deleted in the meantime is reported after the next update.
    pub fn next_report(
        &mut self,
        progress: &mut Progress,
        summary_of: impl Fn(&TopicName) -> Option<TopicSummary>,
    ) -> Option<StatsReport> {
        let round = progress.round.as_mut()?;
        let mut report = StatsReport {
            is_first: std::mem::take(&mut round.is_first),
            is_cut: self.is_cut,
            refresh: round.refresh,
            node: self.node.clone(),
            ..StatsReport::default()
        };
        if round.after.is_none() && !report.is_first {
            // Only names, and at most MAX_REMOVED of them, so they are not split.
            let unknown = self.removed.iter().filter(|(_, version)| **version > progress.known_version);
            report.removed = unknown.map(|(name, _)| name.clone()).collect();
        }
        let from = round.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        let mut last = None;
        for (number, topic) in self.topics.range_mut((from, Bound::Unbounded)) {
            if topic.version <= progress.known_version {
                continue;
            }
            if bytes >= REPORT_BYTES {
                round.after = last;
                return Some(report);
            }
            if let Some(summary) = summary_of(&topic.name) {
                let fingerprint = fingerprint(&summary);
                if fingerprint != topic.fingerprint {
                    // The topic has changed since the update, and may change back before the next one.
                    (topic.fingerprint, topic.version) = (fingerprint, self.version + 1);
                }
                bytes += summary.max_encoded_bytes();
                report.topics.push(summary);
            } else {
                // If the next update contains the topic again, it must be reported.
                topic.version = self.version + 1;
            }
            last = Some(*number);
        }
        report.is_last = true;
        progress.known_version = round.target;
        progress.round = None;
        Some(report)
    }

    /// Begins a round of reports for one nsqlookupd. A round without changes sends a report too, because that is also
    /// information. `refresh` is the number of its latest request before the latest update. A round in progress
    /// continues instead.
    pub fn begin_round(&self, progress: &mut Progress, refresh: u64) {
        if progress.round.is_some() {
            return;
        }
        let is_first = progress.known_version == 0 || progress.known_version < self.forgotten;
        if is_first {
            progress.known_version = 0;
        }
        progress.round = Some(Round { target: self.version, after: None, is_first, refresh });
    }
}

fn fingerprint(summary: &TopicSummary) -> u64 {
    let mut hasher = DefaultHasher::new();
    summary.hash(&mut hasher);
    hasher.finish()
}

impl Progress {
    /// Whether there are reports to send.
    pub fn is_in_round(&self) -> bool {
        self.round.is_some()
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
