//! `nsq rtt`: round-trip times to every node, over TCP and HTTP.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use nsq::Producer;
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::cluster::{Cluster, Node, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::table::Table;

pub const EXAMPLES: &str = "\
Examples:
  nsq rtt
  nsq rtt --count 50 --json=node,operation,p99_us
  nsq rtt --nsqd 127.0.0.1:4151";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RttFlags {
    /// Measurements per node and operation.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
}

#[derive(Serialize)]
struct Row {
    node: String,
    /// `identify`: connect over TCP, with TLS if it is used, and wait for the answer to IDENTIFY; `http`: GET /ping on an open
    /// connection.
    operation: &'static str,
    count: usize,
    min_us: u64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    max_us: u64,
}

impl Row {
    fn of(node: &str, operation: &'static str, mut times: Vec<Duration>) -> Option<Self> {
        times.sort_unstable();
        let at = |share: f64| {
            let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
            times.get(index).map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
        };
        Some(Row {
            node: node.to_owned(),
            operation,
            count: times.len(),
            min_us: at(0.0)?,
            p50_us: at(0.5)?,
            p90_us: at(0.9)?,
            p99_us: at(0.99)?,
            max_us: at(1.0)?,
        })
    }
}

/// Measures all nodes at the same time, and each operation after the other.
pub async fn run(context: &Context, flags: &RttFlags) -> Result<ExitStatus, Failure> {
    let cluster = Cluster::find(&context.targets).await?;
    let measured = join_all(cluster.nodes.iter().map(|node| measure(context, node, flags.count))).await;
    let mut errors = cluster.errors.clone();
    let mut rows = Vec::new();
    let mut answered = 0;
    for (measured, failed) in measured {
        answered += usize::from(failed.is_empty());
        rows.extend(measured);
        errors.extend(failed);
    }
    let output = context.output;
    if output.is_json() {
        output.json(&json!({"times": rows, "node_errors": errors}))?;
    } else {
        let mut table =
            Table::new(&["NODE", "OPERATION", "COUNT", "MIN US", "P50 US", "P90 US", "P99 US", "MAX US"]);
        for row in &rows {
            table.row(vec![
                row.node.as_str().into(),
                row.operation.into(),
                row.count.into(),
                row.min_us.into(),
                row.p50_us.into(),
                row.p90_us.into(),
                row.p99_us.into(),
                row.max_us.into(),
            ]);
        }
        output.table(&table)?;
    }
    output.node_errors(&errors);
    Ok(verdict(answered, &errors))
}

async fn measure(context: &Context, node: &Node, count: u32) -> (Vec<Row>, Vec<NodeError>) {
    let mut errors = Vec::new();
    let (mut http, mut identify) = (Vec::new(), Vec::new());
    // The first request opens the connection.
    let warm = node.client.ping().await;
    if let Err(error) = warm {
        errors.push(NodeError::new(&node.name, "ping", &error));
    } else {
        for _ in 0..count {
            let started_at = Instant::now();
            match node.client.ping().await {
                Ok(()) => http.push(started_at.elapsed()),
                Err(error) => {
                    errors.push(NodeError::new(&node.name, "ping", &error));
                    break;
                }
            }
        }
    }
    for _ in 0..count {
        let producer = Producer::builder()
            .nsqd(&node.tcp_address)
            .config(context.targets.security.config.clone())
            .build();
        let started_at = Instant::now();
        let failed = match &producer {
            Ok(producer) => match tokio::time::timeout(context.targets.timeout, producer.ping()).await {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(("UNREACHABLE", error.to_string())),
                Err(_) => Some(("TIMEOUT", format!("no answer within {:?}", context.targets.timeout))),
            },
            Err(error) => Some(("UNEXPECTED", error.to_string())),
        };
        if let Some((code, message)) = failed {
            errors.push(NodeError {
                node: node.name.clone(),
                op: "identify",
                code: code.to_owned(),
                message,
            });
            break;
        }
        identify.push(started_at.elapsed());
        if let Ok(producer) = producer {
            producer.close(context.targets.timeout).await;
        }
    }
    let rows = [Row::of(&node.name, "identify", identify), Row::of(&node.name, "http", http)];
    (rows.into_iter().flatten().collect(), errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = (1..=100).rev().map(Duration::from_micros).collect();
        let row = Row::of("n", "http", times).unwrap();
        assert_eq!((row.min_us, row.p50_us, row.p90_us, row.p99_us, row.max_us), (1, 50, 90, 99, 100));
        assert!(Row::of("n", "http", Vec::new()).is_none());
    }
}
