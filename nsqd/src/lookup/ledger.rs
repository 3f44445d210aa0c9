//! Which topics' figures have changed since which nsqlookupd was told of them. Pure.
//!
//! A look at all topics leaves a fingerprint of each one's figures here, not the figures: with fifty thousand idle
//! topics that is little memory, and nothing to send. Each change raises the version; each nsqlookupd has its
//! [`Progress`], which says up to which version it knows all, and where in a round of reports it is.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Bound;

use nsq_protocol::TopicName;
use nsq_protocol::heartbeat::{MAX_ENTRIES, NodeSummary, REPORT_BYTES, StatsReport, TopicSummary};

use crate::storage::TopicNumber;

/// Topics that are gone are remembered for those who were not told yet; if they are more than this, everybody is told
/// everything anew.
const MAX_REMOVED: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Of the latest look; 0 before the first one.
    version: u64,
    node: NodeSummary,
    /// By number: one that was deleted and made anew is another one, and numbers are quick to compare.
    topics: BTreeMap<TopicNumber, Topic>,
    /// The version at which each was found to be gone.
    removed: BTreeMap<TopicName, u64>,
    /// What was gone at this version or before is not in `removed` any more.
    forgotten: u64,
    is_cut: bool,
}

#[derive(Debug)]
struct Topic {
    name: TopicName,
    fingerprint: u64,
    /// When it changed last.
    version: u64,
    /// When it was seen last.
    seen: u64,
}

/// How much of a ledger one nsqlookupd knows.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// All up to this version; 0 for nothing.
    told: u64,
    round: Option<Round>,
}

#[derive(Debug)]
struct Round {
    /// When it ends, all up to this version is told.
    target: u64,
    /// Topics up to this one are told.
    after: Option<TopicNumber>,
    is_first: bool,
    refresh: u64,
}

/// One topic at a look.
pub(super) struct Seen {
    pub number: TopicNumber,
    pub name: TopicName,
    pub fingerprint: u64,
    /// It and its channels.
    pub entries: usize,
    /// Not all of its channels are told.
    pub is_cut: bool,
}

impl Seen {
    /// A topic with so many channels, of which the summary may leave some out.
    pub fn new(number: TopicNumber, summary: TopicSummary, channel_count: usize) -> Self {
        Seen {
            number,
            fingerprint: fingerprint(&summary),
            entries: summary.entries(),
            is_cut: summary.channels.len() < channel_count,
            name: summary.topic_name,
        }
    }
}

impl Ledger {
    /// A look at all topics has found this.
    pub fn update(&mut self, node: NodeSummary, topics: impl IntoIterator<Item = Seen>) {
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
        // One of the same name that is there again is told behind this, with a version no older.
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

    /// The next report for one nsqlookupd; none if its round is over. `summary_of` looks at a topic now; a topic that is
    /// gone meanwhile is told so with the next look.
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
            // Names alone are small, and they are few.
            let news = self.removed.iter().filter(|(_, version)| **version > progress.told);
            report.removed = news.map(|(name, _)| name.clone()).collect();
        }
        let from = round.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut bytes = 0;
        let mut last = None;
        for (number, topic) in self.topics.range_mut((from, Bound::Unbounded)) {
            if topic.version <= progress.told {
                continue;
            }
            if bytes >= REPORT_BYTES {
                round.after = last;
                return Some(report);
            }
            if let Some(summary) = summary_of(&topic.name) {
                let fingerprint = fingerprint(&summary);
                if fingerprint != topic.fingerprint {
                    // It has changed since the look, and may change back before the next one.
                    (topic.fingerprint, topic.version) = (fingerprint, self.version + 1);
                }
                bytes += summary.max_encoded_bytes();
                report.topics.push(summary);
            } else {
                // Should the next look find it after all, it was not told.
                topic.version = self.version + 1;
            }
            last = Some(*number);
        }
        report.is_last = true;
        progress.told = round.target;
        progress.round = None;
        Some(report)
    }

    /// Begins to tell one nsqlookupd what is new to it; also if nothing is, because that is news too. `refresh` is the
    /// number of its latest request before the latest look. A round that is under way goes on first.
    pub fn begin_round(&self, progress: &mut Progress, refresh: u64) {
        if progress.round.is_some() {
            return;
        }
        let is_first = progress.told == 0 || progress.told < self.forgotten;
        if is_first {
            progress.told = 0;
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
