//! `nsq cluster export` and `apply`: topics and channels with their settings, as a file.

mod state;

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use nsq::admin::{AdminError, StatsQuery};
use nsq_protocol::{ChannelName, TopicName};
use serde_json::json;

use super::Context;
use crate::cluster::{Cluster, Lookupd, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use state::{Change, ChannelState, ClusterState, Settings, Step, TopicState, extra, steps};

/// `nsq cluster ...`
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Print all topics and channels with their settings, as TOML; -o yaml and --json choose another form.
    Export(ExportFlags),
    /// Create the topics and channels of a file, and set their settings. Deletes nothing.
    Apply(ApplyFlags),
}

pub const EXAMPLES: &str = "\
Examples:
  nsq cluster export > cluster.toml
  nsq cluster apply cluster.toml --diff       # what would change; exit code 3 if anything would
  nsq cluster export | nsq -p stage cluster apply -";

#[derive(Debug, Args)]
pub struct ExportFlags {
    /// Also export ephemeral topics and channels.
    #[arg(long)]
    ephemeral: bool,
}

#[derive(Debug, Args)]
pub struct ApplyFlags {
    /// File in TOML, JSON or YAML; - for stdin.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change; exit code 3 if anything would.
    #[arg(long, visible_alias = "dry-run")]
    diff: bool,
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

/// Runs a command.
pub async fn run(context: &Context, command: ClusterCommand) -> Result<ExitStatus, Failure> {
    match command {
        ClusterCommand::Export(flags) => export(context, &flags).await,
        ClusterCommand::Apply(flags) => apply(context, &flags).await,
    }
}

async fn export(context: &Context, flags: &ExportFlags) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let (mut state, errors) = current(&cluster).await;
    if !flags.ephemeral {
        state.topics.retain(|name, _| !name.ends_with("#ephemeral"));
        for topic in state.topics.values_mut() {
            topic.channels.retain(|name, _| !name.ends_with("#ephemeral"));
        }
    }
    let output = context.output;
    match output.is_json() {
        true => output.json(&state)?,
        false => output.data(toml::to_string(&state).map_err(Failure::failed)?)?,
    }
    // The document is a state to apply, and has no place for errors.
    for error in &errors {
        output.warning(&format!("! {error}"));
    }
    Ok(verdict(cluster.nodes.len() + cluster.lookupds.len(), &errors))
}

/// The state of all nodes together: paused if it is on some node; settings of the first node that has any.
async fn current(cluster: &Cluster) -> (ClusterState, Vec<NodeError>) {
    let answers = cluster.on_nodes("export", of_node).await;
    let registered = cluster
        .on_lookupds("export", async |lookupd: &Lookupd| {
            let mut topics = Vec::new();
            for topic in lookupd.client.topics().await? {
                let channels =
                    lookupd.client.channels(&topic).await.or_else(|error| match error.is_not_found() {
                        true => Ok(Vec::new()),
                        false => Err(error),
                    })?;
                topics.push((topic, channels));
            }
            Ok(topics)
        })
        .await;
    let mut all = ClusterState::default();
    for (topic, channels) in registered.good.into_iter().flat_map(|(_, topics)| topics) {
        let topic = all.topics.entry(topic).or_default();
        for channel in channels {
            topic.channels.entry(channel).or_default();
        }
    }
    let adopt = |into: &mut Settings, from: Settings| {
        for (key, value) in from {
            into.entry(key).or_insert(value);
        }
    };
    for (_, state) in answers.good {
        for (name, topic) in state.topics {
            let into = all.topics.entry(name).or_default();
            into.paused |= topic.paused;
            adopt(&mut into.settings, topic.settings);
            for (name, channel) in topic.channels {
                let into = into.channels.entry(name).or_default();
                into.paused |= channel.paused;
                adopt(&mut into.settings, channel.settings);
            }
        }
    }
    let errors = cluster.errors.iter().chain(&answers.errors).chain(&registered.errors).cloned().collect();
    (all, errors)
}

async fn of_node(node: &Node) -> Result<ClusterState, AdminError> {
    let stats = node.client.stats(&StatsQuery::default()).await?;
    let mut state = ClusterState::default();
    for topic in stats.topics.iter().flatten() {
        let name = &topic.topic_name;
        let mut channels = std::collections::BTreeMap::new();
        for channel in &topic.channels {
            let settings = settings(node, name, Some(&channel.channel_name)).await?;
            channels.insert(channel.channel_name.clone(), ChannelState { paused: channel.paused, settings });
        }
        let settings = settings(node, name, None).await?;
        state.topics.insert(name.clone(), TopicState { paused: topic.paused, settings, channels });
    }
    Ok(state)
}

/// The settings that were set for this topic or channel itself; none for NSQ's own nsqd.
async fn settings(node: &Node, topic: &str, channel: Option<&str>) -> Result<Settings, AdminError> {
    match node.client.explain_policy(topic, channel).await {
        Ok(answer) => Ok((answer.settings.into_iter())
            .filter(|setting| setting.origin == "api")
            .filter_map(|setting| Some((setting.name, setting.value?)))
            .collect()),
        Err(error) if error.is_unsupported() || error.is_not_found() => Ok(Settings::new()),
        Err(error) => Err(error),
    }
}

async fn apply(context: &Context, flags: &ApplyFlags) -> Result<ExitStatus, Failure> {
    let wanted = read(&flags.file)?;
    let cluster = Cluster::find(&context.targets).await?;
    let output = context.output;
    let (now, errors) = current(&cluster).await;
    if !errors.is_empty() {
        output.node_errors(&errors);
        let message = "some daemons do not answer, so it is unknown what differs; nothing was changed";
        return Err(Failure::new(verdict(1, &errors), message));
    }
    let steps = steps(&now, &wanted);
    let extra = extra(&now, &wanted);
    if flags.diff || steps.is_empty() {
        show(context, false, &steps, &extra, &[])?;
        return Ok(if steps.is_empty() { ExitStatus::Done } else { ExitStatus::Partial });
    }
    context
        .confirm(&format!("apply {} changes to {} nodes?", steps.len(), cluster.nodes.len()), flags.yes)?;
    let mut failed: Vec<NodeError> = Vec::new();
    let mut done = Vec::new();
    for step in &steps {
        let mut answers = match step.change {
            Change::Create => {
                cluster
                    .on_lookupds("create", async |lookupd: &Lookupd| match &step.channel_name {
                        None => lookupd.client.create_topic(&step.topic_name).await,
                        Some(channel) => lookupd.client.create_channel(&step.topic_name, channel).await,
                    })
                    .await
            }
            _ => crate::cluster::Answers { good: Vec::new(), missing: Vec::new(), errors: Vec::new() },
        };
        answers.extend(cluster.on_nodes("apply", async |node: &Node| put(node, step).await).await);
        match answers.errors.is_empty() {
            true => done.push(step.clone()),
            false => failed.extend(answers.errors),
        }
    }
    show(context, true, &done, &extra, &failed)?;
    output.node_errors(&failed);
    Ok(verdict(done.len(), &failed))
}

async fn put(node: &Node, step: &Step) -> Result<(), AdminError> {
    let (topic, client) = (&step.topic_name, &node.client);
    match (&step.change, &step.channel_name) {
        (Change::Create, None) => client.create_topic(topic).await,
        (Change::Create, Some(channel)) => client.create_channel(topic, channel).await,
        (Change::Pause, None) => client.pause_topic(topic).await,
        (Change::Pause, Some(channel)) => client.pause_channel(topic, channel).await,
        (Change::Unpause, None) => client.unpause_topic(topic).await,
        (Change::Unpause, Some(channel)) => client.unpause_channel(topic, channel).await,
        (Change::Set { setting, after, .. }, channel) => {
            let pair = [(setting.as_str(), after.as_deref().unwrap_or("default"))];
            match channel {
                None => client.set_topic(topic, &pair).await,
                Some(channel) => client.set_channel(topic, channel, &pair).await,
            }
        }
    }
}

fn show(
    context: &Context,
    applied: bool,
    steps: &[Step],
    extra: &[String],
    errors: &[NodeError],
) -> Result<(), Failure> {
    let output = context.output;
    if output.is_json() {
        return output
            .json(&json!({"applied": applied, "changes": steps, "kept": extra, "node_errors": errors}));
    }
    output.text(steps.iter().map(|step| format!("{step}\n")).collect::<String>())?;
    if steps.is_empty() && errors.is_empty() {
        output.note("the cluster is as in the file");
    }
    if !extra.is_empty() {
        output.note(&format!("kept, although the file does not have them: {}", extra.join(" ")));
    }
    Ok(())
}

fn read(path: &Path) -> Result<ClusterState, Failure> {
    let shown = path.display();
    let text = match path == Path::new("-") {
        true => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        }
        false => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| {
        Failure::failed(format_args!("cannot read {shown}: {error}")).target(shown.to_string())
    })?;
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let state = match ending {
        "json" | "yaml" | "yml" => serde_norway::from_str(&text).map_err(|error| error.to_string()),
        _ => toml::from_str::<ClusterState>(&text).or_else(|error| {
            // stdin has no ending.
            serde_norway::from_str(&text).map_err(|_| error.to_string())
        }),
    };
    let state = state.map_err(|why| {
        Failure::usage(format_args!("{shown}: {}", why.trim_end()))
            .hint("`nsq cluster export` writes such a file")
            .target(shown.to_string())
    })?;
    for (topic, wanted) in &state.topics {
        let channels = wanted.channels.keys().find(|channel| ChannelName::new(channel).is_err());
        if TopicName::new(topic).is_err() || channels.is_some() {
            let name = channels.unwrap_or(topic);
            return Err(Failure::usage(format_args!("{shown}: invalid name {name:?}")));
        }
    }
    Ok(state)
}
