//! `nsq check` and `nsq doctor`: problems of the cluster, for monitoring systems and for people.

mod doctor;
mod findings;
mod formats;

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, ValueEnum};
use nsq_cluster::check::{Limits, Measure, Selection};
use nsq_cluster::{ClusterConfig, RuleId, Sampler, SamplerConfig, Snapshot, Thresholds};
use nsq_daemon::go_duration;

use super::Context;
use crate::cli::Cli;
use crate::exit_status::Failure;
use crate::names::Object;
use findings::{Findings, Wanted};

pub const CHECK_HELP: &str = "\
Examples:
  nsq check  # all rules
  nsq check consumer-gap no-consumers --topic orders
  nsq check depth --warn 1000 --crit 10000 --topic orders --channel billing
  nsq check --format prometheus > /var/lib/node_exporter/nsq.prom

Rules: node-down, node-unhealthy, lookupd-down, no-consumers, consumer-gap and others: docs/CHECK.md.
Figures, which need --warn or --crit: depth, age (seconds), rate, clients, rtt (milliseconds), disk (percent free).

Exit codes: 0 ok, 1 warning, 2 critical, 3 unknown: no daemon answers, figures are missing, or the command is wrong.";

pub const DOCTOR_HELP: &str = "\
Examples:
  nsq doctor
  nsq doctor --for 2m  # also finds what takes a while, such as stuck consumers
  nsq doctor --config nsq.toml

Exit codes: 0 ok, 1 warning, 2 critical, 3 unknown: no daemon answers.";

/// Flags of both commands.
#[derive(Debug, Args)]
pub struct WatchFlags {
    /// How long to watch the cluster. Conditions that must last longer than this are not found: stuck, falling-behind,
    /// requeue-storm, timeouts and spilling need 30s to 1m.
    #[arg(long = "for", value_name = "DURATION", default_value = "2s", value_parser = go_duration::parse)]
    watch_for: Duration,
    /// TOML file with thresholds in a table [problems].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct CheckFlags {
    /// Rules and figures to check. [default: all rules]
    #[arg(value_name = "RULE")]
    rules: Vec<String>,
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// Only channels of this name.
    #[arg(long, value_name = "CHANNEL")]
    channel: Option<String>,
    /// Limit for a warning, for figures. For rate, clients and disk, less is worse.
    #[arg(long, value_name = "NUMBER")]
    warn: Option<f64>,
    /// Limit for a critical state, for figures.
    #[arg(long, value_name = "NUMBER")]
    crit: Option<f64>,
    /// Form of the output. [default: text; json with --json]
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    watch: WatchFlags,
}

#[derive(Debug, Args)]
pub struct DoctorFlags {
    #[command(flatten)]
    watch: WatchFlags,
}

/// The form of the output of `nsq check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One line, with figures: for Nagios, Icinga and the like.
    Nagios,
    /// Metrics in the text format: for node_exporter's textfile collector.
    Prometheus,
    /// One JSON document.
    Json,
    /// A line for each problem.
    Text,
}

/// The exit code of a check that found nothing out, also because the command line is wrong.
pub const UNKNOWN: u8 = 3;

/// Whether a command line that is wrong is meant as a check, whose exit codes are those of monitoring systems: its first
/// command is one.
pub fn is_check(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> bool {
    let cli = Cli::command();
    let mut words = arguments.into_iter().skip(1);
    let command = words
        .find_map(|word| cli.find_subcommand(word.as_ref()).map(|command| command.get_name().to_owned()));
    command.is_some_and(|name| name == "check" || name == "doctor")
}

pub async fn check(context: &Context, flags: CheckFlags) -> Result<ExitCode, Failure> {
    let format = flags.format.unwrap_or(if context.output.is_json() { Format::Json } else { Format::Text });
    let wanted = wanted(&flags)?;
    let snapshot = watch(context, &flags.watch).await?;
    let findings = Findings::new(&snapshot, &wanted);
    context.output.data(match format {
        Format::Nagios => formats::nagios(&findings),
        Format::Prometheus => formats::prometheus(&findings),
        Format::Json => formats::json(&findings)?,
        Format::Text => formats::text(&findings),
    })?;
    Ok(findings.status().into())
}

pub async fn doctor(context: &Context, flags: DoctorFlags) -> Result<ExitCode, Failure> {
    let snapshot = watch(context, &flags.watch).await?;
    let findings = Findings::new(&snapshot, &Wanted::default());
    let text = match context.output.is_json() {
        true => formats::json(&findings)?,
        false => doctor::render(&findings, &snapshot),
    };
    context.output.data(text)?;
    Ok(findings.status().into())
}

/// Validates what is to be checked.
fn wanted(flags: &CheckFlags) -> Result<Wanted, Failure> {
    let (mut rules, mut measures) = (Vec::new(), Vec::new());
    for name in &flags.rules {
        match (RuleId::parse(name), Measure::parse(name)) {
            (Some(rule), _) => rules.push(rule),
            (_, Some(measure)) => measures.push(measure),
            _ => {
                let known = nsq_cluster::problems::Rule::all().iter().map(|rule| rule.name);
                let known: Vec<&str> = known.chain(Measure::ALL.map(Measure::as_str)).collect();
                return Err(Failure::usage(format_args!("unknown rule {name:?}"))
                    .hint(format!("the rules and figures are: {}", known.join(", "))));
            }
        }
    }
    let limits = Limits { warn: flags.warn, crit: flags.crit };
    let has_limits = limits != Limits::default();
    if let Some(measure) = measures.first()
        && !has_limits
    {
        return Err(Failure::usage(format_args!("{measure} needs a limit"))
            .hint(format!("for example: nsq check {measure} --warn 10 --crit 5")));
    }
    if measures.is_empty() && has_limits {
        return Err(Failure::usage("--warn and --crit apply to figures, and none is given").hint(
            "for example: nsq check depth --warn 1000; the limits of rules are in the file of --config",
        ));
    }
    if [limits.warn, limits.crit].into_iter().flatten().any(|limit| !limit.is_finite() || limit < 0.0) {
        return Err(Failure::usage("--warn and --crit must be numbers from 0 on"));
    }
    // A name that cannot exist would always be fine.
    if let Some(topic) = &flags.topic {
        Object::parse(topic)?;
    }
    if let Some(channel) = &flags.channel {
        Object::parse(&format!("t/{channel}"))?;
    }
    let selection = Selection { topic: flags.topic.clone(), channel: flags.channel.clone() };
    let all_rules = rules.is_empty() && measures.is_empty();
    Ok(Wanted { rules, all_rules, measures, limits, selection })
}

/// Watches the cluster, and returns its last snapshot.
async fn watch(context: &Context, flags: &WatchFlags) -> Result<Snapshot, Failure> {
    let thresholds = thresholds(flags)?;
    let cluster = ClusterConfig::from(&context.targets);
    if !cluster.default_ports && cluster.lookupds.is_empty() && cluster.nsqds.is_empty() {
        return Err(nsq_cluster::FindError::NoAddress.into());
    }
    if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&flags.watch_for) {
        return Err(Failure::usage("--for must be between 100ms and 1h, such as 2s"));
    }
    // Two samples give rates; more of them show what lasts.
    let interval = flags.watch_for.min(Duration::from_secs(5));
    let samples = 1 + flags.watch_for.as_millis().div_ceil(interval.as_millis());
    let config = SamplerConfig {
        interval,
        // Daemons that have not answered by then have timed out.
        publish_after: cluster.timeout + Duration::from_millis(100),
        skip_after: 1,
        thresholds,
        // Nobody looks at the series.
        series_bytes: 0,
        ..SamplerConfig::new(cluster)
    };
    let sampler = Sampler::start(config)?;
    let samples = u64::try_from(samples).unwrap_or(u64::MAX);
    Ok((*sampler.reached(samples).await).clone())
}

/// The thresholds for a cluster that is watched for a short time: what can be seen at once, counts at once.
fn thresholds(flags: &WatchFlags) -> Result<Thresholds, Failure> {
    let thresholds = match &flags.config {
        None => Thresholds::default(),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|error| Failure::usage(format_args!("cannot read {}: {error}", path.display())))?;
            Thresholds::from_toml(&text)
                .map_err(|error| Failure::usage(format_args!("{}: {error}", path.display())))?
        }
    };
    Ok(thresholds.at_once())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: CheckFlags,
    }

    fn parse(line: &str) -> Result<Wanted, Failure> {
        wanted(&Line::parse_from(line.split(' ')).flags)
    }

    #[test]
    fn rules_and_figures_are_told_apart() {
        let wanted = parse("check consumer-gap depth --warn 5").unwrap();
        assert_eq!(
            (&wanted.rules[..], &wanted.measures[..]),
            (&[RuleId::ConsumerGap][..], &[Measure::Depth][..])
        );
        assert!(!wanted.all_rules);
        assert!(parse("check").unwrap().all_rules);
    }

    #[test]
    fn invalid_checks_are_refused() {
        for (line, message) in [
            ("check nope", "unknown rule \"nope\""),
            ("check depth", "depth needs a limit"),
            ("check --warn 5", "--warn and --crit apply to figures, and none is given"),
            ("check depth --warn=-1", "--warn and --crit must be numbers from 0 on"),
            ("check depth --warn NaN", "--warn and --crit must be numbers from 0 on"),
        ] {
            assert_eq!(parse(line).unwrap_err().message, message, "{line}");
        }
        assert!(parse("check --topic a/b/c").is_err());
        assert!(parse("check --channel a/b").is_err());
    }

    #[test]
    fn check_is_recognized_on_a_wrong_command_line() {
        assert!(is_check(["nsq", "--json", "check", "--nope"]));
        assert!(!is_check(["nsq", "stat", "t"]));
        assert!(!is_check(["nsq", "pub", "check", "--nope"]));
        assert!(!is_check(["check"]));
    }
}
