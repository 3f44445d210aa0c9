//! Pure: what a check found, and its status.

use nsq_cluster::check::{Limits, Measure, Measured, Selection};
use nsq_cluster::snapshot::Totals;
use nsq_cluster::{NodeError, Problem, Reach, RuleId, Severity, Snapshot};
use serde::Serialize;

use super::UNKNOWN;

/// What to check.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub rules: Vec<RuleId>,
    /// Whether neither a rule nor a figure was named.
    pub all_rules: bool,
    pub measures: Vec<Measure>,
    pub limits: Limits,
    pub selection: Selection,
}

impl Default for Wanted {
    /// All rules for the whole cluster.
    fn default() -> Self {
        let (limits, selection) = (Limits::default(), Selection::default());
        Wanted { rules: Vec::new(), all_rules: true, measures: Vec::new(), limits, selection }
    }
}

/// The state of a check, ordered from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Status {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    /// Nothing was found, but figures are missing.
    Unknown = UNKNOWN,
}

impl From<Status> for std::process::ExitCode {
    fn from(status: Status) -> Self {
        std::process::ExitCode::from(status as u8)
    }
}

/// What a check found.
#[derive(Debug)]
pub struct Findings {
    /// Worst first.
    pub problems: Vec<Problem>,
    /// The figures that were asked for, also good ones.
    pub measured: Vec<Measured>,
    /// Daemons that failed to answer.
    pub errors: Vec<NodeError>,
    pub nodes_up: usize,
    pub nodes: usize,
    pub lookupds_up: usize,
    pub lookupds: usize,
    pub totals: Totals,
    /// Why figures may be missing; `None` if none are.
    pub missing: Option<String>,
}

impl Findings {
    pub fn new(snapshot: &Snapshot, wanted: &Wanted) -> Self {
        let is_wanted = |problem: &&Problem| {
            let is_rule = wanted.all_rules || wanted.rules.contains(&problem.rule);
            is_rule && (wanted.selection.is_all() || wanted.selection.covers(&problem.place))
        };
        let measured: Vec<Measured> = wanted
            .measures
            .iter()
            .flat_map(|measure| measure.measure(snapshot, &wanted.selection, wanted.limits))
            .collect();
        let mut findings = Findings {
            problems: snapshot.problems.iter().filter(is_wanted).cloned().collect(),
            measured,
            errors: snapshot.errors.clone(),
            nodes_up: snapshot.nodes.iter().filter(|node| node.reach == Reach::Up).count(),
            nodes: snapshot.nodes.len(),
            lookupds_up: snapshot.lookupds.iter().filter(|lookupd| lookupd.reach == Reach::Up).count(),
            lookupds: snapshot.lookupds.len(),
            totals: snapshot.totals,
            missing: None,
        };
        findings.missing = findings.find_missing(snapshot, wanted);
        findings
    }

    fn find_missing(&self, snapshot: &Snapshot, wanted: &Wanted) -> Option<String> {
        let silent = (self.nodes - self.nodes_up) + (self.lookupds - self.lookupds_up);
        if silent > 0 {
            return Some(match silent {
                1 => "1 daemon does not answer".to_owned(),
                silent => format!("{silent} daemons do not answer"),
            });
        }
        if let Some(measure) =
            wanted.measures.iter().find(|m| !self.measured.iter().any(|got| got.measure == **m))
        {
            return Some(format!("no {measure} is reported for what is selected"));
        }
        let Selection { topic, channel } = &wanted.selection;
        let is_there = |name: &str| snapshot.topic(name).is_some();
        match (topic, channel) {
            (Some(topic), _) if !is_there(topic) => Some(format!("there is no topic {topic}")),
            (Some(topic), Some(channel)) if snapshot.channel(topic, channel).is_none() => {
                Some(format!("there is no channel {topic}/{channel}"))
            }
            (None, Some(channel))
                if !snapshot.topics.iter().any(|topic| topic.channel(channel).is_some()) =>
            {
                Some(format!("there is no channel {channel}"))
            }
            _ => None,
        }
    }

    /// The worst severity. Good figures of a part of the cluster do not make the whole good.
    pub fn status(&self) -> Status {
        let measured = self.measured.iter().filter_map(|measured| measured.severity);
        let worst = self.problems.iter().map(|problem| problem.severity).chain(measured).max();
        match worst {
            // Without any answer, nothing is known about the cluster.
            _ if self.nodes_up == 0 && self.lookupds_up == 0 => Status::Unknown,
            Some(Severity::Critical) => Status::Critical,
            Some(Severity::Warning) => Status::Warning,
            _ if self.missing.is_some() => Status::Unknown,
            _ => Status::Ok,
        }
    }

    /// Number of problems and bad figures of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        let problems = self.problems.iter().filter(|problem| problem.severity == severity).count();
        problems + self.measured.iter().filter(|measured| measured.severity == Some(severity)).count()
    }

    /// Figures beyond their limits, worst first.
    pub fn bad_figures(&self) -> Vec<&Measured> {
        let mut bad: Vec<&Measured> =
            self.measured.iter().filter(|measured| measured.severity.is_some()).collect();
        bad.sort_by_key(|measured| std::cmp::Reverse(measured.severity));
        bad
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::{Duration, SystemTime};

    use nsq_cluster::Place;

    use super::*;

    pub fn problem(rule: RuleId, severity: Severity, topic: Option<&str>) -> Problem {
        Problem {
            rule,
            severity,
            place: Place { topic: topic.map(Into::into), ..Place::default() },
            what: "something is \"wrong\" | really".to_owned(),
            figure: 5.0,
            since: SystemTime::UNIX_EPOCH,
            next: "nsq stat".to_owned(),
        }
    }

    /// What a check of a cluster with two nodes found.
    pub fn findings(problems: Vec<Problem>) -> Findings {
        Findings {
            problems,
            measured: Vec::new(),
            errors: Vec::new(),
            nodes_up: 2,
            nodes: 2,
            lookupds_up: 1,
            lookupds: 1,
            totals: Totals { depth: 7, ..Totals::default() },
            missing: None,
        }
    }

    #[test]
    fn status_is_the_worst_severity_and_unknown_if_something_is_missing() {
        let of = |severity| findings(vec![problem(RuleId::Paused, severity, None)]).status();
        assert_eq!(of(Severity::Critical), Status::Critical);
        assert_eq!(of(Severity::Warning), Status::Warning);
        assert_eq!(of(Severity::Info), Status::Ok);
        let mut partial = findings(Vec::new());
        partial.missing = Some("1 daemon does not answer".to_owned());
        assert_eq!(partial.status(), Status::Unknown);
        partial.problems.push(problem(RuleId::Stuck, Severity::Critical, None));
        assert_eq!(partial.status(), Status::Critical);
        (partial.nodes_up, partial.lookupds_up) = (0, 0);
        assert_eq!(partial.status(), Status::Unknown);
    }

    #[test]
    fn only_wanted_rules_and_places_count() {
        let mut snapshot = Snapshot::empty(Duration::from_secs(1));
        snapshot.problems = vec![
            problem(RuleId::ConsumerGap, Severity::Critical, Some("a")),
            problem(RuleId::ConsumerGap, Severity::Critical, Some("b")),
            problem(RuleId::NodeDown, Severity::Critical, None),
        ];
        let found = |wanted: &Wanted| Findings::new(&snapshot, wanted).problems.len();
        assert_eq!(found(&Wanted::default()), 3);
        let gap = Wanted { rules: vec![RuleId::ConsumerGap], all_rules: false, ..Wanted::default() };
        assert_eq!(found(&gap), 2);
        let selection = Selection { topic: Some("a".to_owned()), channel: None };
        let of_topic = Wanted { selection, ..Wanted::default() };
        assert_eq!(found(&of_topic), 1);
        // The topic that is meant does not exist.
        assert_eq!(Findings::new(&snapshot, &of_topic).missing.as_deref(), Some("there is no topic a"));
    }
}
