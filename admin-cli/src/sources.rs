//! Where to publish and consume, and the exit status if this fails.

use std::time::Duration;

use nsq::{ConnectError, ConnectStage, Consumer, ConsumerState, Disconnect, PublishError, StartError};

use crate::cluster::{Cluster, FindError, Lookupd};
use crate::exit_status::{ExitStatus, Failure};
use crate::targets::{DEFAULT_NSQD_TCP, HOW_TO_SAY, Targets};

/// Addresses for the client library.
#[derive(Debug, Default)]
pub struct TcpSources {
    /// HTTP addresses of nsqlookupds.
    pub lookupds: Vec<String>,
    /// TCP addresses of nsqds.
    pub nsqds: Vec<String>,
}

/// What the addresses are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Publish to any nsqd.
    Publish,
    /// Consume from all nsqds that have the topic. nsqlookupds report them, also later.
    Consume,
}

/// Finds the addresses. Fails only if no daemon answers.
pub async fn find(targets: &Targets, purpose: Purpose) -> Result<TcpSources, Failure> {
    if !targets.nsqd_tcps.is_empty() {
        let lookupds = if purpose == Purpose::Consume { targets.lookupds.clone() } else { Vec::new() };
        return Ok(TcpSources { lookupds, nsqds: targets.nsqd_tcps.clone() });
    }
    let cluster = match Cluster::find(targets).await {
        Ok(cluster) => cluster,
        // nsqd's HTTP may be disabled. The TCP connection shows whether nsqd is running.
        Err(FindError::NothingHere) => {
            return Ok(TcpSources { lookupds: Vec::new(), nsqds: vec![DEFAULT_NSQD_TCP.to_owned()] });
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(node) = cluster.nodes.iter().find(|node| node.lookupds.is_empty() && node.info.tcp_port == 0)
    {
        let message =
            format!("nsqd at {} has no TCP port: it listens for clients on a unix socket", node.name);
        return Err(Failure::usage(message).hint("give the path of the socket with --nsqd-tcp PATH"));
    }
    let named = |lookupd: &Lookupd| lookupd.name.clone();
    match purpose {
        Purpose::Consume => {
            // An nsqlookupd that does not answer now may answer later, and the nodes that nsqlookupds report need no
            // listing.
            let lookupds = match targets.are_default() {
                true => cluster.lookupds.iter().map(named).collect(),
                false => targets.lookupds.clone(),
            };
            let nodes = cluster.nodes.iter().filter(|node| node.lookupds.is_empty());
            Ok(TcpSources { lookupds, nsqds: nodes.map(|node| node.tcp_address.clone()).collect() })
        }
        Purpose::Publish if cluster.nodes.is_empty() => {
            let lookupds: Vec<String> = cluster.lookupds.iter().map(named).collect();
            let message = format!("no nsqd is registered at {}", lookupds.join(", "));
            Err(Failure::new(ExitStatus::Unreachable, message)
                .hint("start one with --lookupd-tcp-address, or give one with --nsqd-tcp HOST:4150"))
        }
        Purpose::Publish => {
            let nsqds = cluster.nodes.iter().map(|node| node.tcp_address.clone()).collect();
            Ok(TcpSources { lookupds: Vec::new(), nsqds })
        }
    }
}

/// What is known about a consumer that has just started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    Subscribed,
    /// The lookupds list no nsqd for the topic.
    NoNodes,
    /// Nothing yet, within the timeout. The consumer keeps trying.
    Unknown,
}

/// Waits until the consumer has subscribed, or knows that it cannot. Fails if all attempts so far have failed; the consumer
/// keeps trying.
pub async fn ready(consumer: &Consumer, timeout: Duration) -> Result<Ready, StartError> {
    let mut states = consumer.watch();
    let settled = async {
        loop {
            match &*states.borrow_and_update() {
                ConsumerState::Starting | ConsumerState::Connecting => {}
                ConsumerState::Failing(error) => return Err(error.clone()),
                ConsumerState::NoNodes => return Ok(Ready::NoNodes),
                _ => return Ok(Ready::Subscribed),
            }
            if states.changed().await.is_err() {
                return Ok(Ready::Unknown);
            }
        }
    };
    tokio::time::timeout(timeout, settled).await.unwrap_or(Ok(Ready::Unknown))
}

/// The failure of the command after a failed publish.
pub fn publish_failure(error: &PublishError) -> Failure {
    let failure = |status| Failure::new(status, error);
    match error {
        PublishError::InvalidTopic { .. } | PublishError::Empty | PublishError::InvalidHeaders { .. } => {
            failure(ExitStatus::Usage)
        }
        PublishError::NotSent { reason, .. } => with_advice(failure(status_of(reason)), reason),
        PublishError::Refused { code, .. } => failure(refusal(code)),
        PublishError::TooBig { .. } => failure(ExitStatus::Failed)
            .hint("start nsqd with a larger --max-msg-size to allow larger messages"),
        _ => failure(ExitStatus::Failed),
    }
}

/// The failure of the command after a consumer did not start.
pub fn start_failure(error: &StartError) -> Failure {
    match error {
        StartError::Config(error) => Failure::usage(error),
        StartError::Connect(connect) => connect_failure(connect),
        StartError::Lookup(_) => Failure::new(ExitStatus::Unreachable, error).hint(HOW_TO_SAY),
        _ => Failure::failed(error),
    }
}

fn connect_failure(error: &ConnectError) -> Failure {
    let status = match error.stage {
        ConnectStage::Resolve | ConnectStage::Dial => ExitStatus::Unreachable,
        _ => status_of(&error.cause),
    };
    with_advice(Failure::new(status, error).target(error.node.to_string()), &error.cause)
}

fn with_advice(failure: Failure, reason: &Disconnect) -> Failure {
    match reason {
        Disconnect::Io(_) | Disconnect::Timeout(_) => failure.hint(HOW_TO_SAY),
        _ => failure,
    }
}

fn status_of(reason: &Disconnect) -> ExitStatus {
    match reason {
        Disconnect::Io(_) | Disconnect::Timeout(_) | Disconnect::Closed => ExitStatus::Unreachable,
        Disconnect::Refused { code, .. } => refusal(code),
        Disconnect::AuthRequired => ExitStatus::Refused,
        _ => ExitStatus::Failed,
    }
}

fn refusal(code: &str) -> ExitStatus {
    match code {
        "E_AUTH_FIRST" | "E_AUTH_FAILED" | "E_UNAUTHORIZED" => ExitStatus::Refused,
        _ => ExitStatus::Failed,
    }
}
