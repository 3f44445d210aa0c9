//! `nsq dead redrive` and `nsq dead stop`.

use std::time::Duration;

use nsq::admin::{AdminError, RedriveOptions};
use nsq_daemon::shutdown::StopSignals;
use nsq_protocol::{RedrivePlanResponse, RedriveResponse, printable};
use serde::Serialize;
use serde_json::json;

use super::{RedriveFlags, merged, no_dead_letters};
use crate::cluster::{Answers, Cluster, Node, NodeError, verdict};
use crate::command::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;
use crate::table::Table;

/// How often to look at the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct OnNode<'a, T> {
    node: &'a str,
    #[serde(flatten)]
    answer: &'a T,
}

pub async fn run(context: &Context, flags: &RedriveFlags) -> Result<ExitStatus, Failure> {
    let object = flags.topic.object()?;
    if let Some(to) = &flags.to {
        Object::parse(to)?;
    }
    let cluster = Cluster::find(&context.targets).await?;
    if flags.dry_run {
        return plan(context, flags, &cluster, &object).await;
    }
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let options = options(flags, &cluster, &object.topic).await;
    let mut answers = start(&cluster, &object.topic, &options).await;
    if answers.good.is_empty() && answers.errors.is_empty() && cluster.errors.is_empty() {
        return Err(no_dead_letters(&cluster, &object).await);
    }
    if !flags.no_wait {
        tokio::select! {
            () = wait(context, &cluster, &object.topic, &mut answers) => {}
            () = signals.wait() => {
                context.output.warning(&format!("the redrive continues; to stop it: nsq dead stop {object}"));
                return Ok(ExitStatus::Interrupted);
            }
        }
    }
    report(context, &cluster, &object, answers)
}

/// What each node is asked to do, by name; nothing for a node that has no messages to move.
async fn options(
    flags: &RedriveFlags,
    cluster: &Cluster,
    topic: &str,
) -> Vec<(String, Option<RedriveOptions>)> {
    let all = |max| RedriveOptions {
        selection: flags.selection.selection(max),
        rate: flags.rate,
        to: flags.to.clone(),
    };
    let names = cluster.nodes.iter().map(|node| node.name.clone());
    if cluster.nodes.len() < 2 || (flags.max.is_none() && flags.rate.is_none()) {
        return names.map(|name| (name, Some(all(flags.max)))).collect();
    }
    // A limit for all nodes is divided among those that have messages.
    let call = async |node: &Node| node.client.plan_redrive(topic, &all(flags.max)).await;
    let plans = cluster.on_nodes("redrive", call).await;
    let held =
        |name: &String| plans.good.iter().find(|(node, _)| node == name).map_or(0, |(_, plan)| plan.moved);
    let held: Vec<u64> = cluster.nodes.iter().map(|node| held(&node.name)).collect();
    let shares = match flags.max {
        Some(max) => merged::shares(max, &held),
        None => held,
    };
    let busy = shares.iter().filter(|share| **share > 0).count() as u64;
    let rate = flags.rate.map(|rate| (rate / busy.max(1)).max(1));
    let of_node = |(name, share): (String, u64)| {
        // A node that failed or has nothing is asked, too, so that its answer is reported.
        let max = flags.max.map(|_| share);
        let is_asked = max != Some(0) || plans.errors.iter().any(|error| error.node == name);
        (name, is_asked.then(|| RedriveOptions { rate, ..all(max.filter(|max| *max > 0)) }))
    };
    names.zip(shares).map(of_node).collect()
}

async fn start(
    cluster: &Cluster,
    topic: &str,
    options: &[(String, Option<RedriveOptions>)],
) -> Answers<RedriveResponse> {
    let call = async |node: &Node| {
        let (_, options) = options.iter().find(|(name, _)| *name == node.name).cloned().unwrap_or_default();
        match options {
            Some(options) => node.client.start_redrive(topic, &options).await,
            None => Ok(RedriveResponse {
                topic_name: topic.to_owned(),
                state: "completed".to_owned(),
                ..RedriveResponse::default()
            }),
        }
    };
    cluster.on_nodes("redrive", call).await
}

/// Waits until all redrives have ended, and replaces the answers by the last ones.
async fn wait(context: &Context, cluster: &Cluster, topic: &str, answers: &mut Answers<RedriveResponse>) {
    let mut shown = String::new();
    while answers.good.iter().any(|(_, redrive)| redrive.is_running()) {
        tokio::time::sleep(POLL_INTERVAL).await;
        for (name, redrive) in answers.good.iter_mut().filter(|(_, redrive)| redrive.is_running()) {
            let Some(node) = cluster.nodes.iter().find(|node| node.name == *name) else { continue };
            match node.client.redrive(topic).await {
                Ok(now) => *redrive = now,
                Err(error) => {
                    redrive.state = "failed".to_owned();
                    redrive.error = Some(unknown_outcome(&error));
                }
            }
        }
        let sum = |of: fn(&RedriveResponse) -> u64| {
            answers.good.iter().map(|(_, redrive)| of(redrive)).sum::<u64>()
        };
        let progress = format!(
            "examined {} of {}, moved {}",
            sum(|redrive| redrive.examined),
            sum(|redrive| redrive.total),
            sum(|redrive| redrive.moved)
        );
        if progress != shown {
            context.output.note(&progress);
            shown = progress;
        }
    }
}

fn unknown_outcome(error: &AdminError) -> String {
    match error.is_not_found() {
        true => "nsqd was restarted or the topic was deleted; what is left was not moved".to_owned(),
        false => format!("its progress is unknown: {}", error.kind),
    }
}

fn report(
    context: &Context,
    cluster: &Cluster,
    object: &Object,
    answers: Answers<RedriveResponse>,
) -> Result<ExitStatus, Failure> {
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = answers.good.iter().map(|(node, answer)| OnNode { node, answer }).collect();
        output.json(&json!({ "topic_name": object.topic, "nodes": nodes, "node_errors": errors }))?;
    } else {
        let mut table = Table::new(&["NODE", "STATE", "EXAMINED", "MOVED", "WITHOUT CHANNEL"]);
        for (node, redrive) in &answers.good {
            table.row(vec![
                printable(node).to_string().into(),
                redrive.state.as_str().into(),
                redrive.examined.into(),
                redrive.moved.into(),
                redrive.without_channel.into(),
            ]);
        }
        output.table(&table)?;
        advise(output, object, &answers.good);
    }
    output.node_errors(&errors);
    if errors.iter().any(|error| error.code.starts_with("REDRIVE_RUNNING")) && !output.is_json() {
        output.warning(&format!("to stop the running redrive: nsq dead stop {object}"));
    }
    let has_failed = answers.good.iter().any(|(_, redrive)| redrive.state == "failed");
    Ok(match verdict(answers.good.len(), &errors) {
        ExitStatus::Done if has_failed => ExitStatus::Failed,
        status => status,
    })
}

fn advise(output: Output, object: &Object, redrives: &[(String, RedriveResponse)]) {
    for (node, RedriveResponse { error, .. }) in redrives {
        if let Some(error) = error {
            output.warning(&format!("! {node} redrive: {error}"));
        }
    }
    let stay: u64 = redrives.iter().map(|(_, redrive)| redrive.without_channel).sum();
    if stay > 0 {
        output.warning(&format!(
            "{stay} messages stay, because the channel in which they died does not exist; create it and redrive \
             again, or use --to TOPIC/CHANNEL. `nsq dead ls {object}` shows where they died"
        ));
    }
}

async fn plan(
    context: &Context,
    flags: &RedriveFlags,
    cluster: &Cluster,
    object: &Object,
) -> Result<ExitStatus, Failure> {
    let options = RedriveOptions {
        selection: flags.selection.selection(flags.max),
        rate: flags.rate,
        to: flags.to.clone(),
    };
    let call = async |node: &Node| node.client.plan_redrive(&object.topic, &options).await;
    let answers = cluster.on_nodes("redrive", call).await;
    let errors: Vec<NodeError> = answers.errors.iter().chain(&cluster.errors).cloned().collect();
    if answers.good.is_empty() && errors.is_empty() {
        return Err(no_dead_letters(cluster, object).await);
    }
    let output = context.output;
    if output.is_json() {
        let nodes: Vec<_> = answers.good.iter().map(|(node, answer)| OnNode { node, answer }).collect();
        let document =
            json!({ "topic_name": object.topic, "dry_run": true, "nodes": nodes, "node_errors": errors });
        output.json(&document)?;
    } else {
        output.table(&plan_table(&answers.good))?;
    }
    output.node_errors(&errors);
    Ok(verdict(answers.good.len(), &errors))
}

fn plan_table(plans: &[(String, RedrivePlanResponse)]) -> Table {
    let mut table = Table::new(&["NODE", "MESSAGES", "TO", "NOTE"]);
    for (node, plan) in plans {
        for destination in &plan.destinations {
            let to = match (&*destination.topic_name, &destination.channel_name) {
                ("", _) => "-".to_owned(),
                (topic, None) => topic.to_owned(),
                (topic, Some(channel)) => format!("{topic}/{channel}"),
            };
            let note = match (destination.exists, destination.topic_name.is_empty()) {
                (true, _) => "",
                (false, true) => "stay: they do not say where they died; use --to",
                (false, false) => "stay: no such channel",
            };
            table.row(vec![
                printable(node).to_string().into(),
                destination.count.into(),
                to.into(),
                note.into(),
            ]);
        }
    }
    table
}

/// Stops the redrive on all nodes.
pub async fn stop(context: &Context, object: &Object) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let call = async |node: &Node| node.client.stop_redrive(&object.topic).await;
    let answers = cluster.on_nodes("stop", call).await;
    if answers.good.is_empty() && answers.errors.is_empty() && cluster.errors.is_empty() {
        let message = format!("no redrive of {object} has been started since the nodes started");
        return Err(
            Failure::new(ExitStatus::NotFound, message).hint("`nsq dead ls` lists the dead-letter topics")
        );
    }
    report(context, &cluster, object, answers)
}
