//! Pure: the output of `nsq doctor`: what is wrong, what it means, and what to do.

use std::fmt::Write as _;

use nsq_cluster::problems::Rule;
use nsq_cluster::{Problem, Severity, Snapshot};
use nsq_protocol::printable;

use super::findings::Findings;

/// Width to which explanations are broken.
const WIDTH: usize = 100;
/// Places that are shown for one rule.
const SHOWN: usize = 10;

pub fn render(findings: &Findings, snapshot: &Snapshot) -> String {
    let counted = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let mut text = format!(
        "{} of {} and {} of {} answer; {}, {}, depth {}.\n",
        findings.nodes_up,
        counted(findings.nodes, "nsqd"),
        findings.lookupds_up,
        counted(findings.lookupds, "nsqlookupd"),
        counted(snapshot.totals.topic_count, "topic"),
        counted(snapshot.totals.channel_count, "channel"),
        snapshot.totals.depth
    );
    for rule in Rule::all() {
        let found: Vec<&Problem> =
            findings.problems.iter().filter(|problem| problem.rule == rule.id).collect();
        if !found.is_empty() {
            put_rule(&mut text, rule, &found);
        }
    }
    let passed: Vec<&str> = Rule::all()
        .iter()
        .filter(|rule| !findings.problems.iter().any(|problem| problem.rule == rule.id))
        .map(|rule| rule.name)
        .collect();
    text.push('\n');
    put_wrapped(&mut text, "fine  ", &passed.join(", "));
    let _ = writeln!(
        text,
        "\n{} critical, {}, {}.",
        findings.count(Severity::Critical),
        counted(findings.count(Severity::Warning), "warning"),
        counted(findings.count(Severity::Info), "note")
    );
    text
}

fn put_rule(text: &mut String, rule: &Rule, found: &[&Problem]) {
    let worst = found.iter().map(|problem| problem.severity).max().unwrap_or(rule.severity);
    let _ = writeln!(text, "\n{worst:4}  {}", rule.name);
    for problem in found.iter().take(SHOWN) {
        put_wrapped(text, "      ", &printable(&format!("{}: {}", problem.place, problem.what)));
    }
    if found.len() > SHOWN {
        let _ = writeln!(text, "      ... and {} more: nsq check {} --json", found.len() - SHOWN, rule.name);
    }
    put_wrapped(text, "      means: ", rule.meaning);
    put_wrapped(text, "      do:    ", rule.action);
    // Commands are not broken, so that they can be copied.
    let _ = writeln!(text, "      next:  {}", printable(&found[0].next));
}

/// Writes words in lines; the following lines are indented like the first.
fn put_wrapped(text: &mut String, start: &str, words: &str) {
    let indent = " ".repeat(start.len());
    let mut line = start.to_owned();
    let mut is_empty = true;
    for word in words.split(' ') {
        if !is_empty && line.len() + 1 + word.len() > WIDTH {
            let _ = writeln!(text, "{line}");
            line.clone_from(&indent);
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_cluster::RuleId;

    use super::super::findings::tests::{findings, problem};
    use super::*;

    #[test]
    fn each_finding_has_its_meaning_and_what_to_do() {
        let found = findings(vec![problem(RuleId::NoConsumers, Severity::Critical, Some("orders")); 12]);
        let text = render(&found, &Snapshot::empty(Duration::from_secs(1)));
        for part in [
            "2 of 2 nsqds and 1 of 1 nsqlookupd answer; 0 topics, 0 channels, depth 0.\n",
            "\ncrit  no-consumers\n      orders: something is",
            "      ... and 2 more: nsq check no-consumers --json\n",
            "      means: Nobody processes these messages. They wait",
            "      do:    Start its consumers.",
            "      next:  nsq stat\n",
            "\nfine  node-down, node-unhealthy, lookupd-down, consumer-gap, ",
            "\n12 critical, 0 warnings, 0 notes.\n",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= WIDTH), "{text}");
    }
}
