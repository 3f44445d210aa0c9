//! `nsq find`: channels for which conditions hold.

mod criteria;

use clap::Args;
use nsq::admin::StatsQuery;
use serde::Serialize;
use serde_json::json;

use super::Context;
use super::stat::flags_of_channel;
use crate::cluster::{Ask, Cluster, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::report::{ChannelReport, report};
use crate::table::Table;
use criteria::Criteria;

pub const EXAMPLES: &str = "\
Examples:
  nsq find --depth-over 1000 --no-consumers
  nsq find --idle --depth-over 0
  nsq find --paused -o name | while read name; do nsq channel unpause $name; done";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct FindFlags {
    #[command(flatten)]
    criteria: Criteria,
}

#[derive(Serialize)]
struct Row<'a> {
    topic_name: &'a str,
    #[serde(flatten)]
    channel: &'a ChannelReport,
}

/// Shows the channels; none is no failure.
pub async fn run(context: &Context, flags: &FindFlags) -> Result<ExitStatus, Failure> {
    let criteria = &flags.criteria;
    if criteria.interval.is_zero() {
        return Err(Failure::usage("--interval must be greater than zero, such as 1s"));
    }
    let cluster = Cluster::find(&context.targets).await?;
    let query = StatsQuery::default();
    let before = match criteria.needs_rates() {
        true => {
            let before = cluster.sample(&query, Ask::LookupdsFirst).await.samples;
            tokio::time::sleep(criteria.interval).await;
            Some(before)
        }
        false => None,
    };
    let now = cluster.sample(&query, Ask::LookupdsFirst).await;
    let topics = report(before.as_ref(), &now.samples);
    let rows: Vec<Row<'_>> = (topics.iter())
        .flat_map(|topic| {
            topic.channels.iter().map(move |channel| Row { topic_name: &topic.topic_name, channel })
        })
        .filter(|row| criteria.select(row.topic_name, row.channel))
        .collect();
    let output = context.output;
    if output.is_json() {
        output.json(&json!({"channels": rows, "node_errors": now.errors}))?;
    } else {
        let mut table =
            Table::new(&["TOPIC", "CHANNEL", "IN/S", "OUT/S", "DEPTH", "INFLT", "DEF", "CLIENTS", "FLAGS"]);
        for Row { topic_name, channel } in &rows {
            table.row(vec![
                (*topic_name).into(),
                channel.channel_name.as_str().into(),
                channel.ingress_rate.into(),
                channel.egress_rate.into(),
                channel.depth.into(),
                channel.in_flight_count.into(),
                channel.deferred_count.into(),
                channel.client_count.into(),
                flags_of_channel(channel, !now.errors.is_empty()).into(),
            ]);
        }
        output.table(&table)?;
        if rows.is_empty() {
            output.note("no channel matches");
        }
    }
    output.node_errors(&now.errors);
    Ok(verdict(now.samples.len(), &now.errors))
}
