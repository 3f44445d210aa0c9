//! `--last N`: the moment from which the newest N messages that a topic retains were published.

use nsq::StartAt;
use nsq::admin::PeekQuery;

use crate::cluster::{Cluster, Node};
use crate::exit_status::{ExitStatus, Failure};
use crate::targets::Targets;

/// Most messages that `--last` goes back, because nsqd returns them with their bodies.
pub const MAX_LAST: u64 = 1_000;

/// Where to start so that the newest `count` messages of all nodes come. With several nodes, others of the same moment may come too.
pub async fn start_of_last(targets: &Targets, topic: &str, count: u64) -> Result<StartAt, Failure> {
    let cluster = Cluster::find(targets).await?;
    let query = PeekQuery { from: Some("tail".to_owned()), limit: Some(count), ..PeekQuery::default() };
    let answers =
        cluster.on_nodes("peek", async |node: &Node| node.client.peek(topic, None, &query).await).await;
    if let Some(error) = answers.errors.first() {
        return Err(Failure::failed(format_args!("--last: {error}")).hint(
            "it needs nsqds of nsq-rs, and a topic that retains messages: nsq topic retain TOPIC --for 24h",
        ));
    }
    let messages = answers.good.iter().flat_map(|(_, page)| &page.messages);
    let mut newest: Vec<(i64, &str)> =
        messages.map(|message| (message.timestamp, message.id.as_str())).collect();
    // Ids grow, also where several messages have the same time.
    newest.sort_unstable_by(|a, b| b.cmp(a));
    let index = usize::try_from(count).unwrap_or(usize::MAX).min(newest.len());
    match index.checked_sub(1).and_then(|last| newest.get(last)) {
        // An id is known at its own node only.
        Some((_, id)) if cluster.nodes.len() == 1 => format!("id:{id}").parse().map_err(Failure::failed),
        Some((time, _)) => Ok(StartAt::Time(*time)),
        None => Err(Failure::new(ExitStatus::NotFound, format_args!("topic {topic} retains no messages"))
            .hint(format!("set retention first: nsq topic retain {topic} --for 24h"))
            .target(topic)),
    }
}
