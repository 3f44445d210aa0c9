//! `nsq stat`: topics and channels across all nodes, once or repeatedly.
//!
//! `sums` has the rows of `--by` and `--sort`, `until` the condition that ends it; this file asks and prints.

mod sums;
mod until;

use std::path::Path;
use std::time::Duration;

use clap::Args;
use nsq::admin::StatsQuery;
use nsq_cluster::Samples;
use nsq_daemon::go_duration;
use nsq_daemon::shutdown::StopSignals;
use serde_json::json;

use super::Context;
use super::change::unknown;
use super::inspect::offline::{Offline, OfflineFlags};
use crate::cluster::{Ask, Cluster, ClusterSamples, NodeError, verdict};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::report::{ChannelReport, TopicReport, report, select};
use crate::table::{Cell, Table};
use sums::{By, Column, Sum};
use until::Condition;

pub const EXAMPLES: &str = "\
Examples:
  nsq stat orders                                             # a topic and its channels
  nsq stat --sort depth --top 10                              # the ten channels with the most messages
  nsq stat --by node                                          # one row per node
  nsq stat --data /var/lib/nsq                                # what a stopped nsqd holds
  nsq stat orders/billing --until 'depth==0' --timeout 5m     # exit code 7 if it is not empty by then";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct StatFlags {
    /// Show only these: TOPIC or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC[/CHANNEL]", add = clap_complete::ArgValueCandidates::new(crate::command::completion::channels))]
    objects: Vec<String>,
    /// Refresh until interrupted.
    #[arg(long, short, conflicts_with = "data")]
    watch: bool,
    /// Time between two refreshes, over which rates are measured.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = go_duration::parse)]
    interval: Duration,
    /// Refresh this many times, then stop.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "data")]
    count: Option<u64>,
    /// Show the figures once, without rates and without waiting.
    #[arg(long, conflicts_with_all = ["watch", "count"])]
    no_rates: bool,
    /// Show one row per topic, channel or node. [default: topics, each with its channels]
    #[arg(long, value_name = "WHAT", value_enum)]
    by: Option<By>,
    /// Sort by this column, largest first; shows one row per channel without --by.
    #[arg(long, value_name = "COLUMN", value_enum)]
    sort: Option<Column>,
    /// Show only the first N rows; shows one row per channel without --by.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
    /// Refresh until this holds for the sum of all rows, such as 'depth==0' or 'clients>0': depth, in_flight, deferred or
    /// clients, then == != < <= > >= and a number. Exit code 7 if it does not hold within --timeout.
    #[arg(long, value_name = "CONDITION", value_parser = Condition::parse, conflicts_with_all = ["count", "data"])]
    until: Option<Condition>,
    /// Ask every nsqd, even if an nsqlookupd has its figures.
    #[arg(long, conflicts_with = "data")]
    direct: bool,
    #[command(flatten)]
    offline: OfflineFlags,
}

pub async fn run(context: &Context, flags: &StatFlags) -> Result<ExitStatus, Failure> {
    let wanted = flags.objects.iter().map(|text| Object::parse(text)).collect::<Result<Vec<_>, _>>()?;
    if flags.interval.is_zero() {
        return Err(Failure::usage("--interval must be greater than zero"));
    }
    if let Some(path) = &flags.offline.data {
        return show_offline(context, flags, &wanted, path);
    }
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    tokio::select! {
        shown = show(context, flags, &wanted) => shown,
        () = signals.wait() => Ok(if flags.watch { ExitStatus::Done } else { ExitStatus::Interrupted }),
    }
}

/// Shows what a data directory holds.
fn show_offline(
    context: &Context,
    flags: &StatFlags,
    wanted: &[Object],
    path: &Path,
) -> Result<ExitStatus, Failure> {
    let samples = Offline::open(path, context.output)?.samples(wanted)?;
    let mut topics = report(None, &samples);
    select(&mut topics, wanted);
    let frame = Frame { topics: &topics, samples: (None, &samples), wanted };
    print(context, flags, &frame, (&[], &[]))?;
    Ok(ExitStatus::Done)
}

async fn show(context: &Context, flags: &StatFlags, wanted: &[Object]) -> Result<ExitStatus, Failure> {
    let query = StatsQuery { topic: only_topic(wanted), ..StatsQuery::default() };
    let mut frames_left = match (flags.count, flags.watch) {
        (Some(count), _) => count,
        (None, true) => u64::MAX,
        (None, false) if flags.until.is_some() => u64::MAX,
        (None, false) => 1,
    };
    let limit = context.targets.given_timeout.filter(|_| flags.until.is_some());
    let deadline = limit.map(|limit| tokio::time::Instant::now() + limit);
    let ask = if flags.direct { Ask::Nodes } else { Ask::LookupdsFirst };
    let mut cluster = Cluster::find(&context.targets).await?;
    let mut next_look = tokio::time::Instant::now();
    let mut before = None;
    let mut is_repeated = false;
    if !flags.no_rates {
        before = Some(cluster.sample(&query, ask).await.samples);
    }
    loop {
        if before.is_some() || is_repeated {
            next_look += flags.interval;
            tokio::time::sleep_until(next_look).await;
        }
        let ClusterSamples { samples: now, errors, stale } = cluster.sample(&query, ask).await;
        let mut topics = report(before.as_ref(), &now);
        let missing = select(&mut topics, wanted);
        if let Some(object) = missing.first()
            && errors.is_empty()
            && !flags.watch
        {
            return Err(unknown(&cluster, object).await);
        }
        let frame = Frame { topics: &topics, samples: (before.as_ref(), &now), wanted };
        print(context, flags, &frame, (&errors, &stale))?;
        frames_left -= 1;
        if let Some(condition) = &flags.until {
            // Figures that are missing or old prove nothing.
            if errors.is_empty() && stale.is_empty() && condition.holds(&Sum::of(&topics)) {
                return Ok(ExitStatus::Done);
            }
            if let (Some(deadline), Some(limit)) = (deadline, limit)
                && deadline <= tokio::time::Instant::now() + flags.interval
            {
                let limit = go_duration::format(limit);
                let message = format!("{condition} did not hold within {limit}");
                return Err(Failure::new(ExitStatus::NotMet, message));
            }
        }
        if frames_left == 0 {
            return Ok(verdict(
                now.len() + cluster.lookupds.len() * usize::from(cluster.nodes.is_empty()),
                &errors,
            ));
        }
        before = (!flags.no_rates).then_some(now);
        is_repeated = true;
        // Nodes come and go. If no daemon answers, the known nodes are asked again.
        if let Ok(found) = Cluster::find(&context.targets).await {
            cluster = found;
        }
    }
}

/// Letters for the FLAGS column: `P` paused, `*` some nodes are missing.
pub fn flags_of_topic(topic: &TopicReport, is_partial: bool) -> String {
    letters([(topic.paused, 'P'), (is_partial, '*')])
}

/// Letters for the FLAGS column: `P` paused, `F` full, `T` throttled, `B` blocked by its order, `!` no consumer, `*` some
/// nodes are missing.
pub fn flags_of_channel(channel: &ChannelReport, is_partial: bool) -> String {
    letters([
        (channel.paused, 'P'),
        (channel.is_full, 'F'),
        (channel.is_throttled, 'T'),
        (channel.reading_stopped, 'B'),
        (channel.client_count == 0, '!'),
        (is_partial, '*'),
    ])
}

fn letters<const N: usize>(flags: [(bool, char); N]) -> String {
    flags.into_iter().filter(|(set, _)| *set).map(|(_, letter)| letter).collect()
}

/// The topic, if all of `wanted` lies in one: then nodes need not report the others.
fn only_topic(wanted: &[Object]) -> Option<String> {
    let first = wanted.first()?;
    wanted.iter().all(|object| object.topic == first.topic).then(|| first.topic.clone())
}

/// What is shown at a time.
struct Frame<'a> {
    topics: &'a [TopicReport],
    /// The samples before and now.
    samples: (Option<&'a Samples>, &'a Samples),
    wanted: &'a [Object],
}

impl Frame<'_> {
    /// The rows that `--by`, `--sort` and `--top` ask for, if one of them is given.
    fn rows(&self, flags: &StatFlags, is_partial: bool) -> Option<(By, Vec<Sum>)> {
        if flags.by.is_none() && flags.sort.is_none() && flags.top.is_none() {
            return None;
        }
        let by = flags.by.unwrap_or(By::Channel);
        let mut rows = match by {
            By::Topic => sums::of_topics(self.topics, is_partial),
            By::Channel => sums::of_channels(self.topics, is_partial),
            By::Node => sums::of_nodes(self.samples.0, self.samples.1, self.wanted),
        };
        sums::arrange(&mut rows, flags.sort, flags.top.map(|top| top as usize));
        Some((by, rows))
    }
}

fn print(
    context: &Context,
    flags: &StatFlags,
    frame: &Frame<'_>,
    (errors, stale): (&[NodeError], &[(String, Duration)]),
) -> Result<(), Failure> {
    let output = context.output;
    let rows = frame.rows(flags, !errors.is_empty());
    if output.is_json() {
        let mut document = match &rows {
            None => json!({"topics": frame.topics, "node_errors": errors}),
            Some((By::Topic, rows)) => json!({"topics": rows, "node_errors": errors}),
            Some((By::Channel, rows)) => json!({"channels": rows, "node_errors": errors}),
            Some((By::Node, rows)) => json!({"nodes": rows, "node_errors": errors}),
        };
        if !stale.is_empty() {
            let old =
                |(node, age): &(String, Duration)| json!({"node": node, "age_ms": age.as_millis() as u64});
            document["stale_nodes"] = stale.iter().map(old).collect();
        }
        return output.json(&document);
    }
    if flags.watch {
        output.clear()?;
    }
    match &rows {
        None => output.table(&table(frame.topics, !errors.is_empty()))?,
        Some((by, rows)) => output.table(&sums::table(*by, rows))?,
    }
    output.node_errors(errors);
    for (node, age) in stale {
        output.warning(&format!("! {node}: no answer; showing its figures from {} s ago", age.as_secs()));
    }
    Ok(())
}

const HEADINGS: [&str; 12] =
    ["TOPIC", "CHANNEL", "IN/S", "OUT/S", "DEPTH", "DISK", "INFLT", "DEF", "REQ", "TMO", "CLIENTS", "FLAGS"];
/// Shown only if a topic retains messages.
const RETENTION_HEADINGS: [&str; 3] = ["KEPT", "KEPT BYTES", "OLDEST"];
/// Shown only if a topic remembers ids of messages.
const DEDUPE_HEADINGS: [&str; 2] = ["IDS", "DUPS"];
/// Shown only if messages of a channel became dead letters, will become some next, expired, exceeded its bound or did not
/// match its filter, or were cancelled.
const DEPARTURE_HEADINGS: [&str; 6] = ["DEAD", "PENDING", "EXPIRED", "DROPPED", "FILTERED", "CANCELLED"];

fn table(topics: &[TopicReport], is_partial: bool) -> Table {
    let keeps = topics.iter().any(|topic| topic.retained.is_some());
    let dedupes = topics.iter().any(|topic| topic.dedupe.is_some());
    let departs =
        topics.iter().flat_map(|topic| &topic.channels).any(|channel| departures(channel) != [0; 6]);
    let mut table = Table::new(&HEADINGS);
    let mut count = HEADINGS.len();
    // Where the columns of ids begin.
    let mut ids_from = count;
    let groups = [
        (departs, &DEPARTURE_HEADINGS[..]),
        (keeps, &RETENTION_HEADINGS[..]),
        (dedupes, &DEDUPE_HEADINGS[..]),
    ];
    for (is_shown, headings) in groups {
        ids_from = count;
        if is_shown {
            table.add_columns(headings);
            count += headings.len();
        }
    }
    for topic in topics {
        let mut cells: Vec<Cell> = vec![
            topic.topic_name.as_str().into(),
            "".into(),
            topic.ingress_rate.into(),
            Cell::None,
            topic.depth.into(),
            topic.backend_depth.into(),
        ];
        cells.extend(std::iter::repeat_n(Cell::None, 5));
        cells.push(flags_of_topic(topic, is_partial).into());
        if departs {
            cells.extend(std::iter::repeat_n(Cell::None, DEPARTURE_HEADINGS.len()));
        }
        if let Some(retained) = &topic.retained {
            let oldest = Some(retained.oldest_retained_at).filter(|at| *at > 0);
            cells.push(retained.retained_count.into());
            cells.push(retained.retained_bytes.into());
            cells.push(oldest.map_or(Cell::None, Cell::Moment));
        }
        if let Some(dedupe) = &topic.dedupe {
            cells.resize(ids_from, Cell::None);
            cells.push(dedupe.id_count.into());
            cells.push(dedupe.duplicate_count.into());
        }
        cells.resize(count, Cell::None);
        table.row(cells);
        for channel in &topic.channels {
            let mut cells: Vec<Cell> = vec![
                topic.topic_name.as_str().into(),
                channel.channel_name.as_str().into(),
                channel.ingress_rate.into(),
                channel.egress_rate.into(),
                channel.depth.into(),
                channel.backend_depth.into(),
                channel.in_flight_count.into(),
                channel.deferred_count.into(),
                channel.requeue_count.into(),
                channel.timeout_count.into(),
                channel.client_count.into(),
                flags_of_channel(channel, is_partial).into(),
            ];
            if departs {
                cells.extend(departures(channel).map(Cell::from));
            }
            cells.resize(count, Cell::None);
            table.row(cells);
        }
    }
    table
}

fn departures(channel: &ChannelReport) -> [u64; 6] {
    [
        channel.dead_lettered_count,
        channel.dead_letter_pending,
        channel.expired_count,
        channel.overflow_count,
        channel.filtered_count,
        channel.cancelled_count,
    ]
}

#[cfg(test)]
mod tests {
    use nsq_protocol::DedupeStats;

    use super::*;

    #[test]
    fn flag_letters_show_pause_missing_consumers_and_missing_nodes() {
        let channel = ChannelReport { paused: true, ..ChannelReport::default() };
        assert_eq!(flags_of_channel(&channel, true), "P!*");
        assert_eq!(
            flags_of_channel(&ChannelReport { client_count: 1, ..ChannelReport::default() }, false),
            ""
        );
        let full = ChannelReport { is_full: true, client_count: 1, ..ChannelReport::default() };
        assert_eq!(flags_of_channel(&full, false), "F");
        let slow = ChannelReport { is_throttled: true, reading_stopped: true, client_count: 1, ..full };
        assert_eq!(flags_of_channel(&slow, false), "FTB");
        assert_eq!(flags_of_topic(&TopicReport::default(), true), "*");
    }

    #[test]
    fn single_topic_limits_the_query() {
        let object = |text: &str| Object::parse(text).unwrap();
        assert_eq!(only_topic(&[object("t/a"), object("t")]), Some("t".to_owned()));
        assert_eq!(only_topic(&[object("t/a"), object("u")]), None);
        assert_eq!(only_topic(&[]), None);
    }

    #[test]
    fn each_topic_and_channel_has_a_row() {
        let channels =
            vec![ChannelReport { channel_name: "c".to_owned(), depth: 3, ..ChannelReport::default() }];
        let topic = TopicReport { topic_name: "t".to_owned(), channels, ..TopicReport::default() };
        let text = table(&[topic], false).tab_separated();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows[1][..5], ["t", "-", "-", "-", "0"]);
        assert_eq!(rows[2][..5], ["t", "c", "-", "-", "3"]);
        assert_eq!(rows[2][11], "!");
    }

    #[test]
    fn departures_have_columns_if_a_channel_has_some() {
        let channel = |expired_count| ChannelReport { expired_count, ..ChannelReport::default() };
        let retained = Some(crate::report::RetainedReport { retained_count: 9, ..Default::default() });
        let topic =
            TopicReport { channels: vec![channel(0), channel(4)], retained, ..TopicReport::default() };
        let text = table(&[topic], false).tab_separated();
        let ends: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').skip(12).collect()).collect();
        let headings = [
            "DEAD",
            "PENDING",
            "EXPIRED",
            "DROPPED",
            "FILTERED",
            "CANCELLED",
            "KEPT",
            "KEPT BYTES",
            "OLDEST",
        ];
        assert_eq!(ends[0], headings);
        assert_eq!(ends[1][..7], ["-", "-", "-", "-", "-", "-", "9"]);
        assert_eq!((&ends[2][..6], &ends[3][..6]), (&["0"; 6][..], &["0", "0", "4", "0", "0", "0"][..]));
        let without = TopicReport { channels: vec![channel(0)], ..TopicReport::default() };
        assert!(!table(&[without], false).tab_separated().contains("DEAD"));
    }

    #[test]
    fn ids_have_columns_if_a_topic_remembers_some() {
        let dedupe = Some(DedupeStats { id_count: 7, duplicate_count: 2, dropped_id_count: 0 });
        let topics = [TopicReport { dedupe, ..TopicReport::default() }, TopicReport::default()];
        let text = table(&topics, false).tab_separated();
        let ends: Vec<Vec<&str>> = text.lines().map(|line| line.rsplit('\t').take(2).collect()).collect();
        assert_eq!(ends, [["DUPS", "IDS"], ["2", "7"], ["-", "-"]]);
    }
}
