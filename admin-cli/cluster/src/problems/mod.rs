//! Pure: what is wrong with a cluster. The rules decide on a [`Snapshot`]; a [`History`] remembers since when each
//! condition holds, and [`Thresholds`] say when it is a problem.

mod history;
#[cfg(test)]
mod page_tests;
mod rises;
mod rule;
mod rules;
mod thresholds;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

pub use history::History;
pub use rule::{Rule, RuleId};
pub use thresholds::{ThresholdError, Thresholds};

use crate::snapshot::Snapshot;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Look at it today.
    #[serde(rename = "warn")]
    Warning,
    /// Look at it now.
    #[serde(rename = "crit")]
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Info => "info",
            Severity::Warning => "warn",
            Severity::Critical => "crit",
        })
    }
}

/// Where a problem is. A problem of a channel names its topic too.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Place {
    /// The topic.
    #[serde(rename = "topic_name", skip_serializing_if = "Option::is_none", serialize_with = "name")]
    pub topic: Option<Arc<str>>,
    /// The channel.
    #[serde(rename = "channel_name", skip_serializing_if = "Option::is_none", serialize_with = "name")]
    pub channel: Option<Arc<str>>,
    /// HTTP addresses of the nodes that it concerns; empty for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// HTTP address of the nsqlookupd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookupd: Option<String>,
}

fn name<S: Serializer>(name: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_deref().serialize(serializer)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = Vec::new();
        match (&self.topic, &self.channel) {
            (Some(topic), Some(channel)) => parts.push(format!("{topic}/{channel}")),
            (Some(topic), None) => parts.push(topic.to_string()),
            _ => {}
        }
        // The nodes of a topic or channel are in the text.
        match &self.nodes[..] {
            _ if self.topic.is_some() => {}
            [] => {}
            [one] => parts.push(one.clone()),
            [first, rest @ ..] => parts.push(format!("{first} +{}", rest.len())),
        }
        parts.extend(self.lookupd.clone());
        if parts.is_empty() { f.write_str("cluster") } else { f.write_str(&parts.join(" ")) }
    }
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    /// Which rule found it.
    pub rule: RuleId,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// What is wrong, in one sentence with the figures.
    pub what: String,
    /// The figure that decides, in the unit of the rule.
    pub figure: f64,
    /// Since when the condition holds, as far as the sampler has seen.
    #[serde(serialize_with = "rfc3339")]
    pub since: SystemTime,
    /// The command that shows more or mends it.
    pub next: String,
}

fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    nsq_protocol::start_at::rfc3339(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)).serialize(serializer)
}

impl Problem {
    /// A name that stays the same as long as the problem lasts: for URLs and for comparing samples.
    pub fn id(&self) -> String {
        let mut id = self.rule.as_str().to_owned();
        for part in
            [self.place.topic.as_deref(), self.place.channel.as_deref(), self.place.lookupd.as_deref()]
        {
            id += &part.map(|part| format!(":{part}")).unwrap_or_default();
        }
        if self.place.topic.is_none() {
            id.extend(self.place.nodes.iter().map(|node| format!(":{node}")));
        }
        id
    }
}

/// The problems of a cluster, worst first, then in the order of the rules and of the places. `history` must have
/// [observed](History::observe) the snapshot.
pub fn problems(snapshot: &Snapshot, history: &History, thresholds: &Thresholds) -> Vec<Problem> {
    let mut found: Vec<Problem> = rules::conditions(snapshot, history, thresholds)
        .into_iter()
        .filter_map(|condition| {
            let since = history.since(&condition.key()).unwrap_or(snapshot.taken_at);
            let lasts = snapshot.taken_at.duration_since(since).unwrap_or(Duration::ZERO);
            let severity = condition.severity_after(lasts)?;
            let rules::Condition { rule, place, what, figure, next, .. } = condition;
            Some(Problem { rule, severity, place, what, figure, since, next })
        })
        .collect();
    found.sort_by(|a, b| (b.severity, a.rule).cmp(&(a.severity, b.rule)).then_with(|| a.place.cmp(&b.place)));
    found
}
