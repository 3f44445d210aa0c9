//! Pure: the output of `nsq check` for monitoring systems and people.

use std::fmt::Write as _;

use nsq_cluster::{Place, Problem, Severity};
use nsq_protocol::printable;
use serde_json::json;

use super::findings::{Findings, Status};
use crate::exit_status::Failure;

/// Long lists are cut in the first line and in the text that people read.
const SHOWN: usize = 50;

/// A line with the status and the worst problem, performance data, then a line for each problem.
pub fn nagios(findings: &Findings) -> String {
    let status = match findings.status() {
        Status::Ok => "OK",
        Status::Warning => "WARNING",
        Status::Critical => "CRITICAL",
        Status::Unknown => "UNKNOWN",
    };
    let lines = lines(findings);
    let summary = match (&lines[..], &findings.missing) {
        ([], Some(missing)) => missing.clone(),
        ([], None) => format!("no problems, {}", nodes(findings)),
        ([one], _) => one.clone(),
        ([first, rest @ ..], _) => format!("{first} (and {} more)", rest.len()),
    };
    let mut figures = vec![
        format!("problems_crit={}", findings.count(Severity::Critical)),
        format!("problems_warn={}", findings.count(Severity::Warning)),
        format!("nodes_up={};;;0;{}", findings.nodes_up, findings.nodes),
        format!("lookupds_up={};;;0;{}", findings.lookupds_up, findings.lookupds),
        format!("depth={}", findings.totals.depth),
        format!("in_flight={}", findings.totals.in_flight_count),
    ];
    figures.extend(findings.measured.iter().take(SHOWN).map(|measured| {
        let label = format!("{} {}", measured.measure, measured.place).replace(['\'', '='], "_");
        format!("'{label}'={}{}", measured.value, measured.measure.unit())
    }));
    // A bar separates the text from the figures.
    let mut text = format!("NSQ {status} - {} | {}\n", without_bar(&summary), figures.join(" "));
    if lines.len() > 1 {
        for line in lines.iter().take(SHOWN) {
            let _ = writeln!(text, "{}", without_bar(line));
        }
    }
    text
}

/// Metrics in Prometheus' text format. Every rule and figure that is bad is a series with the value 1 or the figure.
pub fn prometheus(findings: &Findings) -> String {
    let mut text = String::new();
    let head = |name: &str, help: &str| format!("# HELP {name} {help}\n# TYPE {name} gauge\n");
    let problems = head("nsq_problem", "1 for each problem of the cluster, by rule and place.");
    let counts = head("nsq_problems", "Number of problems by severity.");
    let known = head("nsq_check_known", "1 if all daemons answered, else 0: figures are missing.");
    let figures = head("nsq_check_figure", "Figures that were asked for.");
    text += &problems;
    for problem in &findings.problems {
        let labels = labels(&problem.place);
        let (rule, severity) = (problem.rule, problem.severity);
        let _ = writeln!(text, "nsq_problem{{rule=\"{rule}\",severity=\"{severity}\"{labels}}} 1");
    }
    text += &counts;
    for severity in [Severity::Info, Severity::Warning, Severity::Critical] {
        let _ = writeln!(text, "nsq_problems{{severity=\"{severity}\"}} {}", findings.count(severity));
    }
    text += &known;
    let _ = writeln!(text, "nsq_check_known {}", u8::from(findings.missing.is_none()));
    if !findings.measured.is_empty() {
        text += &figures;
        for measured in &findings.measured {
            let labels = labels(&measured.place);
            let _ = writeln!(
                text,
                "nsq_check_figure{{figure=\"{}\"{labels}}} {}",
                measured.measure, measured.value
            );
        }
    }
    text
}

/// One JSON document.
pub fn json(findings: &Findings) -> Result<String, Failure> {
    let problem = |problem: &Problem| {
        let rule = problem.rule.rule();
        let mut value = serde_json::to_value(problem).map_err(Failure::failed)?;
        value["id"] = problem.id().into();
        value["meaning"] = rule.meaning.into();
        value["action"] = rule.action.into();
        Ok(value)
    };
    let problems = findings.problems.iter().map(problem).collect::<Result<Vec<_>, Failure>>()?;
    let document = json!({
        "status": findings.status(),
        "problems": problems,
        "figures": findings.measured,
        "nodes_up": findings.nodes_up,
        "node_count": findings.nodes,
        "lookupds_up": findings.lookupds_up,
        "lookupd_count": findings.lookupds,
        "depth": findings.totals.depth,
        "in_flight_count": findings.totals.in_flight_count,
        "missing": findings.missing,
        "node_errors": findings.errors,
    });
    Ok(format!("{document}\n"))
}

/// A line for each problem.
pub fn text(findings: &Findings) -> String {
    let lines = lines(findings);
    let mut text = String::new();
    for line in lines.iter().take(SHOWN) {
        let _ = writeln!(text, "{}", printable(line));
    }
    if lines.len() > SHOWN {
        let _ = writeln!(text, "... and {} more: nsq check --json", lines.len() - SHOWN);
    }
    if let Some(missing) = &findings.missing {
        let _ = writeln!(text, "unknown {}; figures are missing", printable(missing));
    }
    if text.is_empty() {
        let _ = writeln!(text, "ok: no problems, {}, depth {}", nodes(findings), findings.totals.depth);
    }
    text
}

fn nodes(findings: &Findings) -> String {
    if findings.nodes == 1 { "1 node".to_owned() } else { format!("{} nodes", findings.nodes) }
}

/// Problems and bad figures, worst first.
fn lines(findings: &Findings) -> Vec<String> {
    let mut lines: Vec<(Severity, String)> = findings
        .problems
        .iter()
        .map(|problem| (problem.severity, line(problem)))
        .chain(findings.bad_figures().into_iter().filter_map(|measured| {
            let severity = measured.severity?;
            Some((severity, format!("{severity:4} {measured}")))
        }))
        .collect();
    lines.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
    lines.into_iter().map(|(_, line)| line).collect()
}

fn line(problem: &Problem) -> String {
    format!("{:4} {} {}: {}", problem.severity, problem.rule, problem.place, problem.what)
}

fn without_bar(text: &str) -> String {
    printable(text).replace('|', "/")
}

fn labels(place: &Place) -> String {
    let mut labels = String::new();
    let nodes = place.nodes.join(",");
    let parts = [
        ("topic", place.topic.as_deref()),
        ("channel", place.channel.as_deref()),
        ("node", Some(nodes.as_str()).filter(|nodes| !nodes.is_empty())),
        ("lookupd", place.lookupd.as_deref()),
    ];
    for (label, value) in parts {
        if let Some(value) = value {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(labels, ",{label}=\"{value}\"");
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use nsq_cluster::RuleId;
    use nsq_cluster::check::{Measure, Measured};

    use super::super::findings::tests::{findings, problem};
    use super::*;

    fn two_problems() -> Findings {
        findings(vec![
            problem(RuleId::ConsumerGap, Severity::Critical, Some("orders")),
            problem(RuleId::ClockSkew, Severity::Warning, None),
        ])
    }

    #[test]
    fn nagios_gets_a_status_line_with_figures() {
        assert_eq!(
            nagios(&findings(Vec::new())),
            "NSQ OK - no problems, 2 nodes | problems_crit=0 problems_warn=0 nodes_up=2;;;0;2 \
             lookupds_up=1;;;0;1 depth=7 in_flight=0\n"
        );
        let text = nagios(&two_problems());
        let lines: Vec<&str> = text.lines().collect();
        let first =
            "NSQ CRITICAL - crit consumer-gap orders: something is \"wrong\" / really (and 1 more) | ";
        assert!(lines[0].starts_with(first), "{text}");
        assert_eq!((lines.len(), lines[0].matches('|').count()), (3, 1));
        let mut unknown = findings(Vec::new());
        unknown.missing = Some("1 daemon does not answer".to_owned());
        assert!(nagios(&unknown).starts_with("NSQ UNKNOWN - 1 daemon does not answer | "));
    }

    #[test]
    fn figures_have_units_and_verdicts() {
        let place = Place { topic: Some("t".into()), channel: Some("c".into()), ..Place::default() };
        let mut found = findings(Vec::new());
        let severity = Some(Severity::Warning);
        found.measured = vec![Measured { measure: Measure::Age, place, value: 12.5, severity }];
        assert!(nagios(&found).contains(" 'age t/c'=12.5s\n"), "{}", nagios(&found));
        assert_eq!(text(&found), "warn age of t/c is 12.5s\n");
        assert!(
            prometheus(&found).contains("nsq_check_figure{figure=\"age\",topic=\"t\",channel=\"c\"} 12.5\n")
        );
    }

    #[test]
    fn prometheus_gets_a_series_for_each_problem() {
        let text = prometheus(&two_problems());
        assert!(
            text.contains("nsq_problem{rule=\"consumer-gap\",severity=\"crit\",topic=\"orders\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("nsq_problems{severity=\"warn\"} 1\n"), "{text}");
        assert!(text.contains("nsq_check_known 1\n"), "{text}");
    }

    #[test]
    fn programs_get_everything_as_json() {
        let document: serde_json::Value = serde_json::from_str(&json(&two_problems()).unwrap()).unwrap();
        assert_eq!(document["status"], "critical");
        let problem = &document["problems"][0];
        assert_eq!((&problem["rule"], &problem["severity"]), (&"consumer-gap".into(), &"crit".into()));
        assert_eq!(
            (&problem["topic_name"], &problem["id"]),
            (&"orders".into(), &"consumer-gap:orders".into())
        );
        assert_eq!(problem["since"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn people_get_a_line_each() {
        let text = text(&two_problems());
        assert_eq!(text.lines().next(), Some("crit consumer-gap orders: something is \"wrong\" | really"));
        assert_eq!(text.lines().nth(1), Some("warn clock-skew cluster: something is \"wrong\" | really"));
        assert_eq!(super::text(&findings(Vec::new())), "ok: no problems, 2 nodes, depth 7\n");
    }
}
