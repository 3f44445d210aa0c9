//! `nsq node drain`.

use std::time::Duration;

use clap::Args;
use nsq::admin::{AdminError, AdminErrorKind, DrainOptions};
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use nsq_protocol::{DrainStatus, MoveState, printable};
use serde::Serialize;
use tokio::time::Instant;

use super::Context;
use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};

/// How often to look at the progress.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct DrainFlags {
    /// HTTP or TCP address of the node, host:port, as `nsq node list` shows it.
    node: String,
    /// End the drain: the node accepts publishes again.
    #[arg(long, conflicts_with_all = ["wait", "wait_timeout", "to", "move_after"])]
    stop_draining: bool,
    /// HTTP address of another nsqd, host:port or https://host:port. What is left after --move-after moves there.
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// How long consumers have before messages move, with --to. [default: the node's --drain-timeout]
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse, requires = "to")]
    move_after: Option<Duration>,
    /// Wait until no message is left for consumers, and show the progress.
    #[arg(long)]
    wait: bool,
    /// Maximum time to wait, with --wait; 0 for no limit.
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = go_duration::parse,
          requires = "wait")]
    wait_timeout: Duration,
}

/// The answer as JSON.
#[derive(Serialize)]
struct Drained<'a> {
    node: &'a str,
    #[serde(flatten)]
    status: &'a DrainStatus,
}

pub async fn run(context: &Context, flags: &DrainFlags) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let node = find(&cluster, &flags.node)?;
    let failed = |error: AdminError| failure(node, &error);
    if flags.stop_draining {
        let status = node.client.end_drain().await.map_err(failed)?;
        show(context, node, &status)?;
        return Ok(ExitStatus::Done);
    }
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let options = DrainOptions { timeout: flags.move_after, to: flags.to.clone() };
    let mut status = node.client.begin_drain(&options).await.map_err(failed)?;
    if flags.to.is_some() && status.moving.is_none() {
        return Err(Failure::failed(format!(
            "{} drains, but it is a version that cannot move messages",
            node.name
        )));
    }
    if flags.wait {
        tokio::select! {
            waited = wait(context, node, flags.wait_timeout, &mut status) => waited?,
            () = signals.wait() => {
                context.output.warning(&format!(
                    "the drain continues; to end it: nsq node drain {} --stop-draining",
                    flags.node
                ));
                return Ok(ExitStatus::Interrupted);
            }
        }
    }
    show(context, node, &status)?;
    if let Some(reason) = move_failure(&status) {
        return Err(Failure::failed(format!("{} could not move its messages: {reason}", node.name)).hint(
            "what was not moved stays on the node, and its consumers go on; the command can be repeated",
        ));
    }
    if flags.wait && !status.drained {
        let message = format!(
            "{} is not drained after {}: {} messages are left in {} channels",
            node.name,
            go_duration::format(flags.wait_timeout),
            status.remaining_count,
            status.remaining_channels
        );
        return Err(Failure::new(ExitStatus::NotMet, message).hint(
            "the node goes on draining; `nsq stat` shows which channels have messages and no consumers",
        ));
    }
    Ok(ExitStatus::Done)
}

/// The node with this HTTP or TCP address.
fn find<'a>(cluster: &'a Cluster, address: &str) -> Result<&'a Node, Failure> {
    let is_meant = |node: &&Node| node.name == address || node.tcp_address == address;
    cluster.nodes.iter().find(is_meant).ok_or_else(|| {
        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::new(ExitStatus::NotFound, format!("no node {address}; known nodes: {known}"))
            .hint("to name a node that no nsqlookupd knows: --nsqd HOST:PORT")
    })
}

/// Waits until the node is drained, or for `timeout`.
async fn wait(
    context: &Context,
    node: &Node,
    timeout: Duration,
    status: &mut DrainStatus,
) -> Result<(), Failure> {
    let deadline = (!timeout.is_zero()).then(|| Instant::now() + timeout);
    let mut shown = String::new();
    while !status.drained
        && move_failure(status).is_none()
        && deadline.is_none_or(|deadline| Instant::now() < deadline)
    {
        tokio::time::sleep(POLL_INTERVAL).await;
        *status = node.client.drain_status().await.map_err(|error| failure(node, &error))?;
        if !status.draining {
            return Err(Failure::failed(format!("{}: somebody ended the drain", node.name)));
        }
        let progress = progress(status);
        if progress != shown {
            context.output.note(&progress);
            shown = progress;
        }
    }
    Ok(())
}

/// Why the move of what was left has failed.
fn move_failure(status: &DrainStatus) -> Option<String> {
    let moving = status.moving.as_ref().filter(|moving| moving.state == MoveState::Failed)?;
    Some(printable(moving.error.as_deref().unwrap_or("unknown reason")).to_string())
}

fn progress(status: &DrainStatus) -> String {
    if let Some(moving) = status.moving.as_ref().filter(|moving| moving.state != MoveState::Waiting) {
        let now = match moving.subject.as_str() {
            "" => String::new(),
            subject => format!(", now {}", printable(subject)),
        };
        return format!(
            "{} messages moved to {}, {} left ({} per second{now})",
            moving.moved_count,
            printable(&moving.to),
            moving.left_count,
            moving.rate
        );
    }
    format!(
        "{} messages left in {} channels ({} in flight, {} deferred), {} held",
        status.remaining_count,
        status.remaining_channels,
        status.in_flight_count,
        status.deferred_count,
        status.held_count
    )
}

fn show(context: &Context, node: &Node, status: &DrainStatus) -> Result<(), Failure> {
    if context.output.is_json() {
        return context.output.json(&Drained { node: &node.name, status });
    }
    let name = printable(&node.name);
    let text = match (status.draining, status.drained) {
        (false, _) => format!("{name} accepts publishes\n"),
        (true, false) => format!("{name} drains: {}\n", progress(status)),
        (true, true) => match status.moving.as_ref().filter(|moving| moving.state == MoveState::Moved) {
            Some(_) => format!("{name} is drained: {}\n", progress(status)),
            None => format!("{name} is drained, {} messages held\n", status.held_count),
        },
    };
    context.output.text(text)
}

fn failure(node: &Node, error: &AdminError) -> Failure {
    if error.is_unsupported() {
        return Failure::failed(format!("{} is NSQ's own nsqd, which cannot drain", node.name));
    }
    let status = match &error.kind {
        AdminErrorKind::Unreachable(_) | AdminErrorKind::Timeout(_) => ExitStatus::Unreachable,
        AdminErrorKind::Refused { status: 401 | 403, .. } => ExitStatus::Refused,
        _ => ExitStatus::Failed,
    };
    Failure::new(status, error)
}
