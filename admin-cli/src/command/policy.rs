//! `nsq topic set`, `nsq channel set` and `nsq policy`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nsq::admin::{AdminError, StatsQuery};
use nsq_protocol::{ExplainedSetting, PolicyExplainResponse, printable};
use nsqd::policy::effective::Subject;
use nsqd::policy::file::PolicyFile;
use nsqd::policy::setting::Setting;
use nsqd::policy::settings::Settings;
use nsqd::policy::settings::{Change, DEFAULT, Level};
use serde::Serialize;
use serde_json::{Value, json};

use super::Context;
use super::change::{Verb, conclude};
use super::policy_test::TestFlags;
use crate::cluster::{Answers, Cluster, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;
use crate::table::Table;

/// `nsq policy ...`
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show every setting of a topic or channel, and where its value comes from.
    Explain(ExplainFlags),
    /// List all settings with their values and examples.
    Settings,
    /// Check a policy file without a daemon.
    Check(FileArgument),
    /// Set the settings of all existing topics and channels to the values of a policy file.
    Apply(ApplyFlags),
    /// Show what a policy file would do with the messages that are there; changes nothing.
    #[command(after_help = super::policy_test::EXAMPLES)]
    Test(TestFlags),
}

#[derive(Debug, Args)]
pub struct ExplainFlags {
    /// Topic, or TOPIC/CHANNEL for the settings of a channel. It need not exist.
    #[arg(value_name = "TOPIC[/CHANNEL]")]
    object: String,
}

#[derive(Debug, Args)]
pub struct FileArgument {
    /// Policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct ApplyFlags {
    #[command(flatten)]
    file: FileArgument,
    /// Only show what would change.
    #[arg(long, visible_alias = "dry-run")]
    diff: bool,
    /// Also remove settings that were set over HTTP and that no policy of the file sets.
    #[arg(long)]
    prune: bool,
}

#[derive(Debug, Args)]
pub struct SetFlags {
    /// The topic (for a channel: TOPIC CHANNEL or TOPIC/CHANNEL), then one KEY=VALUE or more. KEY=default removes a
    /// setting. `nsq policy settings` lists the keys.
    #[arg(value_name = "NAME|KEY=VALUE", required = true, num_args = 2.., add = clap_complete::ArgValueCandidates::new(crate::command::completion::settings))]
    words: Vec<String>,
}

const SET: Verb = Verb { name: "set", done: "set" };

/// Changes settings of a topic or channel on all nodes that have it.
pub async fn set(context: &Context, flags: &SetFlags, level: Level) -> Result<ExitStatus, Failure> {
    let (names, pairs): (Vec<&str>, Vec<&str>) =
        flags.words.iter().map(String::as_str).partition(|word| !word.contains('='));
    let object = Object::parse(&names.join("/"))?;
    let expected = if level == Level::Topic { "topic" } else { "channel" };
    if object.kind() != expected {
        return Err(Failure::usage(format_args!("{object} names a {}, not a {expected}", object.kind()))
            .hint(format!("for a {}, use: nsq {0} set", object.kind())));
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().filter_map(|pair| pair.split_once('=')).collect();
    let parsed = Change::parse(level, pairs.iter().copied()).map_err(Failure::usage)?;
    for (setting, value) in parsed.iter() {
        if let Some(warning) = value.and_then(|value| setting.warning(value)) {
            context.output.warning(&warning);
        }
    }
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| change(node, &object, &pairs).await;
    let answers = cluster.on_nodes(SET.name, call).await;
    conclude(context, &cluster, SET, &object, answers).await
}

async fn change(node: &Node, object: &Object, pairs: &[(&str, &str)]) -> Result<(), AdminError> {
    match &object.channel {
        None => node.client.set_topic(&object.topic, pairs).await,
        Some(channel) => node.client.set_channel(&object.topic, channel, pairs).await,
    }
}

/// Runs a `nsq policy` command that asks daemons.
pub async fn run(context: &Context, command: PolicyCommand) -> Result<ExitStatus, Failure> {
    match command {
        PolicyCommand::Explain(flags) => explain(context, &flags).await,
        PolicyCommand::Apply(flags) => apply(context, &flags).await,
        PolicyCommand::Test(flags) => super::policy_test::run(context, &flags).await,
        PolicyCommand::Settings => settings(context),
        PolicyCommand::Check(argument) => check(context, &argument),
    }
}

fn settings(context: &Context) -> Result<ExitStatus, Failure> {
    if context.output.is_json() {
        let all: Vec<_> = Setting::all()
            .map(|setting| {
                json!({
                    "name": setting.name(),
                    "topics": setting.is_of_topics(),
                    "channels": setting.is_of_channels(),
                    "help": setting.help(),
                    "values": setting.expected(),
                    "example": setting.example(),
                })
            })
            .collect();
        context.output.json(&json!({ "settings": all }))?;
    } else {
        let mut table = Table::new(&["SETTING", "OF", "WHAT IT DOES", "EXAMPLE"]);
        for setting in Setting::all() {
            let of = match (setting.is_of_topics(), setting.is_of_channels()) {
                (true, true) => "topics, channels",
                (true, false) => "topics",
                _ => "channels",
            };
            table.row(vec![
                setting.name().into(),
                of.into(),
                setting.help().into(),
                format!("{setting}={}", setting.example()).into(),
            ]);
        }
        context.output.table(&table)?;
    }
    Ok(ExitStatus::Done)
}

fn check(context: &Context, argument: &FileArgument) -> Result<ExitStatus, Failure> {
    let (_, file) = read(&argument.file)?;
    for (line, warning) in file.warnings() {
        context.output.warning(&format!("{}, line {line}: {warning}", argument.file.display()));
    }
    if context.output.is_json() {
        context.output.json(&json!({ "policies": file.len() }))?;
    } else {
        context.output.text(format!("{}: {} valid policies\n", argument.file.display(), file.len()))?;
    }
    Ok(ExitStatus::Done)
}

/// The text of a policy file, and what it says.
pub fn read(path: &Path) -> Result<(String, PolicyFile), Failure> {
    let shown = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::failed(format_args!("cannot read {shown}: {error}")))?;
    match PolicyFile::parse(&text) {
        Ok(file) => Ok((text, file)),
        Err(error) => Err(Failure::usage(format_args!("{shown}, {error}"))),
    }
}

/// Shows the settings of a topic or channel on all nodes; once if they are the same everywhere.
async fn explain(context: &Context, flags: &ExplainFlags) -> Result<ExitStatus, Failure> {
    let object = Object::parse(&flags.object)?;
    let cluster = Cluster::find(&context.targets).await?;
    let answers = ask_settings(&cluster, &object).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    let output = context.output;
    if output.is_json() {
        let nodes = settings_of_nodes(&answers.good);
        output.json(&json!({ "nodes": nodes, "node_errors": errors }))?;
    } else {
        show_settings(output, &answers.good)?;
        if !answers.good.is_empty() && answers.good.iter().all(|(_, answer)| !answer.exists) {
            output.note(&format!("no node has {} {object} yet; it would get these settings", object.kind()));
        }
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}

/// Asks all nodes for the settings of a topic or channel.
pub async fn ask_settings(cluster: &Cluster, object: &Object) -> Answers<PolicyExplainResponse> {
    let call = async |node: &Node| node.client.explain_policy(&object.topic, object.channel.as_deref()).await;
    cluster.on_nodes("explain", call).await
}

/// The answers with the names of their nodes, as JSON.
pub fn settings_of_nodes(answers: &[(String, PolicyExplainResponse)]) -> Value {
    #[derive(Serialize)]
    struct OnNode<'a> {
        node: &'a str,
        #[serde(flatten)]
        answer: &'a PolicyExplainResponse,
    }
    json!(answers.iter().map(|(node, answer)| OnNode { node, answer }).collect::<Vec<_>>())
}

/// Prints the settings; once if they are the same on all nodes.
pub fn show_settings(output: Output, answers: &[(String, PolicyExplainResponse)]) -> Result<(), Failure> {
    let mut groups: Vec<(Vec<&str>, &PolicyExplainResponse)> = Vec::new();
    for (node, answer) in answers {
        match groups.iter_mut().find(|(_, known)| known.settings == answer.settings) {
            Some((nodes, _)) => nodes.push(node),
            None => groups.push((vec![node], answer)),
        }
    }
    let differ = groups.len() > 1;
    for (nodes, answer) in groups {
        if differ {
            output.text(format!("at {}:\n", nodes.join(", ")))?;
        }
        let mut table = Table::new(&["SETTING", "VALUE", "FROM"]);
        for setting in &answer.settings {
            let value = setting.value.as_deref().map_or("-", |value| value);
            table.row(vec![
                setting.name.as_str().into(),
                printable(value).to_string().into(),
                origin(setting, answer).into(),
            ]);
        }
        output.table(&table)?;
    }
    Ok(())
}

fn origin(setting: &ExplainedSetting, answer: &PolicyExplainResponse) -> String {
    match (setting.origin.as_str(), setting.line, &setting.flag) {
        ("api", ..) => "set over HTTP".to_owned(),
        ("file", Some(line), _) => {
            let file = answer.policy_file.as_deref().unwrap_or("policy file");
            printable(&format!("{file}, line {line}")).to_string()
        }
        ("topic", ..) => "setting of the topic".to_owned(),
        ("flag", _, Some(flag)) => format!("--{}", printable(flag)),
        (other, ..) => printable(other).to_string(),
    }
}

/// One setting that differs from the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Difference {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel_name: Option<String>,
    topic_name: String,
    setting: &'static str,
    /// The value that was set over HTTP.
    before: Option<String>,
    /// The value of the file; `None` to remove it.
    after: Option<String>,
}

/// Sets what differs from the file on every node.
async fn apply(context: &Context, flags: &ApplyFlags) -> Result<ExitStatus, Failure> {
    let (_, file) = read(&flags.file.file)?;
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| {
        let differences = differences(node, &file, flags.prune).await?;
        if !flags.diff {
            put(node, &differences).await?;
        }
        Ok(differences)
    };
    let answers = cluster.on_nodes("apply", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = (answers.good.iter())
            .map(|(node, differences)| json!({ "node": node, "changes": differences }))
            .collect();
        output.json(&json!({ "applied": !flags.diff, "nodes": nodes, "node_errors": errors }))?;
    } else {
        for (node, differences) in &answers.good {
            let lines: String =
                differences.iter().map(|difference| format!("{node} {}\n", shown(difference))).collect();
            output.text(lines)?;
        }
        let count: usize = answers.good.iter().map(|(_, differences)| differences.len()).sum();
        output.note(&match (count, flags.diff) {
            (0, _) => "all settings are as in the file".to_owned(),
            (_, true) => format!("{count} settings differ; without --diff, they are changed"),
            (_, false) => format!("{count} settings changed"),
        });
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}

fn shown(difference: &Difference) -> String {
    let Difference { topic_name, channel_name, setting, before, after } = difference;
    let channel = channel_name.as_ref().map_or_else(String::new, |channel| format!("/{channel}"));
    let value = |value: &Option<String>| value.clone().unwrap_or_else(|| DEFAULT.to_owned());
    format!("{topic_name}{channel} {setting}: {} -> {}", value(before), value(after))
}

async fn differences(node: &Node, file: &PolicyFile, prune: bool) -> Result<Vec<Difference>, AdminError> {
    let stats = node.client.stats(&StatsQuery::default()).await?;
    let mut found = Vec::new();
    for topic in stats.topics.unwrap_or_default() {
        let channels = topic.channels.iter().map(|channel| Some(channel.channel_name.as_str()));
        for channel in [None].into_iter().chain(channels) {
            let wanted = wanted(file, &topic.topic_name, channel);
            if !wanted.is_empty() || prune {
                let answer = node.client.explain_policy(&topic.topic_name, channel).await?;
                found.extend(compare(&answer, wanted, prune));
            }
        }
    }
    Ok(found)
}

/// The values of the file for a topic or channel.
fn wanted(file: &PolicyFile, topic: &str, channel: Option<&str>) -> BTreeMap<&'static str, String> {
    let of_topic = Settings::default();
    let subject = match channel {
        None => Subject::Topic(topic),
        Some(channel) => Subject::Channel { topic, channel, of_topic: &of_topic },
    };
    (Setting::all().filter(|setting| subject.has(*setting)))
        .filter_map(|setting| Some((setting.name(), file.value(setting, topic, channel)?.0.to_string())))
        .collect()
}

fn compare(
    answer: &PolicyExplainResponse,
    wanted: BTreeMap<&'static str, String>,
    prune: bool,
) -> Vec<Difference> {
    let set: BTreeMap<&str, &str> = (answer.settings.iter().filter(|setting| setting.origin == "api"))
        .map(|setting| (setting.name.as_str(), setting.value.as_deref().unwrap_or_default()))
        .collect();
    let difference = |setting: Setting| {
        let (before, after) = (set.get(setting.name()).copied(), wanted.get(setting.name()));
        let is_change = match after {
            Some(after) => before != Some(after),
            None => prune && before.is_some(),
        };
        is_change.then(|| Difference {
            topic_name: answer.topic_name.clone(),
            channel_name: answer.channel_name.clone(),
            setting: setting.name(),
            before: before.map(str::to_owned),
            after: after.cloned(),
        })
    };
    Setting::all().filter_map(difference).collect()
}

/// Makes the changes: one request for each topic or channel.
async fn put(node: &Node, differences: &[Difference]) -> Result<(), AdminError> {
    let same =
        |a: &Difference, b: &Difference| a.topic_name == b.topic_name && a.channel_name == b.channel_name;
    for of_one in differences.chunk_by(same) {
        let object = Object { topic: of_one[0].topic_name.clone(), channel: of_one[0].channel_name.clone() };
        let pairs: Vec<(&str, &str)> = (of_one.iter())
            .map(|difference| (difference.setting, difference.after.as_deref().unwrap_or(DEFAULT)))
            .collect();
        change(node, &object, &pairs).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(settings: &[(&str, Option<&str>, &str)]) -> PolicyExplainResponse {
        PolicyExplainResponse {
            topic_name: "orders".to_owned(),
            settings: (settings.iter())
                .map(|(name, value, origin)| ExplainedSetting {
                    name: (*name).to_owned(),
                    value: value.map(str::to_owned),
                    origin: (*origin).to_owned(),
                    ..ExplainedSetting::default()
                })
                .collect(),
            ..PolicyExplainResponse::default()
        }
    }

    #[test]
    fn only_differences_from_what_was_set_over_http_count() {
        let file = PolicyFile::parse("[[policy]]\ntopic = 'o*'\nowner = 'shop'\nretain_for = '24h'").unwrap();
        let answer = explained(&[
            ("description", Some("old"), "api"),
            ("owner", Some("shop"), "api"),
            ("retain_for", Some("24h0m0s"), "flag"),
        ]);
        let lines = |prune| -> Vec<String> {
            compare(&answer, wanted(&file, "orders", None), prune).iter().map(shown).collect()
        };
        assert_eq!(lines(false), ["orders retain_for: default -> 24h0m0s"]);
        assert_eq!(
            lines(true),
            ["orders description: old -> default", "orders retain_for: default -> 24h0m0s"]
        );
        assert!(wanted(&file, "bills", None).is_empty() && wanted(&file, "orders", Some("c")).is_empty());
    }
}
