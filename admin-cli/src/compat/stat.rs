//! `nsq_stat`: a line per interval with the statistics of one channel, added up over all its nodes.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use futures_util::future::join_all;
use nsq::Tls;
use nsq::admin::{LookupdClient, NsqdClient, StatsQuery};
use nsq_daemon::go_duration;
use nsq_daemon::go_flags::parse_int;
use nsq_daemon::shutdown::StopSignals;
use nsq_protocol::stats::ChannelStats;

use super::source::require_one_kind;
use super::{Exit, Line, block_on};
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
use crate::targets::host_port;

/// The header is printed again after this many polls.
const HEADER_EVERY: u64 = 25;

#[derive(Debug, Parser)]
pub struct Flags {
    /// Topic of the channel.
    #[arg(long, default_value = "", hide_default_value = true)]
    topic: String,
    /// Channel to show.
    #[arg(long, default_value = "", hide_default_value = true)]
    channel: String,
    /// HTTP address of an nsqd; may be repeated.
    #[arg(long, value_name = "ADDR")]
    nsqd_http_address: Vec<String>,
    /// HTTP address of an nsqlookupd; may be repeated.
    #[arg(long, value_name = "ADDR")]
    lookupd_http_address: Vec<String>,
    /// Time between two lines.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    interval: Duration,
    /// Number of lines. [default: endless]
    #[arg(long, value_parser = parse_int)]
    count: Option<i64>,
    /// Timeout for connecting to a daemon.
    #[arg(long, default_value = "2s", value_parser = go_duration::parse)]
    http_client_connect_timeout: Duration,
    /// Timeout for a daemon's answer.
    #[arg(long, default_value = "5s", value_parser = go_duration::parse)]
    http_client_request_timeout: Duration,
    /// Print the version.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let flags = line.flags;
    if flags.topic.is_empty() || flags.channel.is_empty() {
        return Err(Exit::fatal("--topic and --channel are required"));
    }
    for (flag, value) in [
        ("--interval", flags.interval),
        ("--http-client-connect-timeout", flags.http_client_connect_timeout),
        ("--http-client-request-timeout", flags.http_client_request_timeout),
    ] {
        if value.is_zero() {
            return Err(Exit::fatal(format_args!("{flag} should be positive")));
        }
    }
    if flags.count.is_some_and(|count| count <= 0) {
        return Err(Exit::fatal("--count should be positive"));
    }
    require_one_kind(
        ["--nsqd-http-address", "--lookupd-http-address"],
        [&flags.nsqd_http_address, &flags.lookupd_http_address],
    )?;
    for (flag, addresses) in [
        ("--nsqd-http-address", &flags.nsqd_http_address),
        ("--lookupd-http-address", &flags.lookupd_http_address),
    ] {
        if addresses.iter().any(|address| address.starts_with("http")) {
            return Err(Exit::fatal(format_args!("{flag} error - address should not contain scheme")));
        }
    }
    block_on(async {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let poller = Poller { flags, output: Output::plain() };
        tokio::select! {
            done = poller.run() => done.map(|()| ExitStatus::Done),
            () = signals.wait() => Ok(ExitStatus::Done),
        }
    })
}

struct Poller {
    flags: Flags,
    output: Output,
}

/// The channel on each node that has it.
type Nodes = BTreeMap<String, ChannelStats>;

impl Poller {
    /// The first poll is the base of the first line's rates.
    async fn run(&self) -> Result<(), Failure> {
        let count = self.flags.count.map_or(u64::MAX, |count| u64::try_from(count).unwrap_or(u64::MAX));
        let mut before = None;
        for polls in 0..=count {
            let now = self.poll().await?;
            if polls % HEADER_EVERY == 0 {
                self.output.data(HEADER)?;
            }
            if let Some(before) = &before {
                self.output.data(line(before, &now, self.flags.interval))?;
            }
            before = Some(now);
            if polls < count {
                tokio::time::sleep(self.flags.interval).await;
            }
        }
        Ok(())
    }

    /// Asks all nodes. Fails if none answers, or if none has the channel.
    async fn poll(&self) -> Result<Nodes, Failure> {
        let nodes = match self.flags.lookupd_http_address.is_empty() {
            true => self.flags.nsqd_http_address.clone(),
            false => self.look_up().await?,
        };
        let query = StatsQuery {
            topic: Some(self.flags.topic.clone()),
            channel: Some(self.flags.channel.clone()),
            ..StatsQuery::default()
        };
        let answers = join_all(nodes.iter().map(async |node| {
            let client = NsqdClient::new(node).map_err(|error| error.to_string())?;
            let client = client.timeouts(self.connect_timeout(), self.request_timeout()).tls(Tls::default());
            client.stats(&query).await.map_err(|error| error.kind.to_string())
        }))
        .await;
        let (mut found, mut failed) = (Nodes::new(), Vec::new());
        for (node, answer) in nodes.into_iter().zip(answers) {
            match answer {
                Ok(stats) => {
                    let topics = stats.topics.into_iter().flatten();
                    let channels =
                        topics.filter(|topic| topic.topic_name == self.flags.topic).flat_map(|t| t.channels);
                    let mut channels = channels.filter(|channel| channel.channel_name == self.flags.channel);
                    if let Some(channel) = channels.next() {
                        found.insert(node, channel);
                    }
                }
                Err(error) => {
                    self.output.warning(&format!("nsq_stat: {node}: {error}"));
                    failed.push(node);
                }
            }
        }
        let Flags { topic, channel, .. } = &self.flags;
        match (found.is_empty(), failed.is_empty()) {
            (false, _) => Ok(found),
            (true, true) => Err(Failure::failed(format_args!(
                "failed to find channel({channel}) in stats metadata for topic({topic})"
            ))),
            (true, false) => Err(Failure::failed(format_args!(
                "failed to get nsqd stats - {} do not answer",
                failed.join(", ")
            ))),
        }
    }

    /// The HTTP addresses of the nodes that have the topic. Fails if no nsqlookupd answers.
    async fn look_up(&self) -> Result<Vec<String>, Failure> {
        let lookupds = &self.flags.lookupd_http_address;
        let answers = join_all(lookupds.iter().map(async |lookupd| {
            let client = LookupdClient::new(lookupd).map_err(|error| error.to_string())?;
            let client = client.timeouts(self.connect_timeout(), self.request_timeout());
            match client.lookup(&self.flags.topic).await {
                Ok(answer) => Ok(answer.producers),
                // This one does not know the topic.
                Err(error) if error.is_not_found() => Ok(Vec::new()),
                Err(error) => Err(error.kind.to_string()),
            }
        }))
        .await;
        let (mut nodes, mut errors) = (Vec::new(), Vec::new());
        for (lookupd, answer) in lookupds.iter().zip(answers) {
            match answer {
                Ok(producers) => nodes
                    .extend(producers.iter().map(|node| host_port(&node.broadcast_address, node.http_port))),
                Err(error) => errors.push(format!("{lookupd}: {error}")),
            }
        }
        if errors.len() == lookupds.len() {
            let why = errors.join("; ");
            return Err(Failure::failed(format_args!("failed to get topic producers - {why}")));
        }
        for error in errors {
            self.output.warning(&format!("nsq_stat: {error}"));
        }
        nodes.sort();
        nodes.dedup();
        Ok(nodes)
    }

    fn connect_timeout(&self) -> Duration {
        self.flags.http_client_connect_timeout
    }

    fn request_timeout(&self) -> Duration {
        self.flags.http_client_request_timeout
    }
}

const HEADER: &str = "\
------rate------+----------------depth----------------+--------------metadata---------------
ingress  egress |   total     mem    disk inflt   def |     req     t-o         msgs clients
";

/// One line. The rates count only nodes that are in both polls, so that a node that joins or leaves is no jump.
fn line(before: &Nodes, now: &Nodes, interval: Duration) -> String {
    let (mut entered, mut left) = (0, 0);
    for (node, now) in now {
        if let Some(before) = before.get(node) {
            let messages = signed(now.message_count) - signed(before.message_count);
            entered += messages;
            left += messages - (i128::from(now.depth) - i128::from(before.depth));
        }
    }
    // Whole numbers, rounded towards zero.
    let rate = |count: i128| (count as f64 / interval.as_secs_f64()) as i64;
    let sum = |field: fn(&ChannelStats) -> i128| now.values().map(field).sum::<i128>();
    let depth = sum(|channel| channel.depth.into());
    let disk = sum(|channel| channel.backend_depth.into());
    format!(
        "{:7} {:7} | {:7} {:7} {:7} {:5} {:5} | {:7} {:7} {:12} {:7}\n",
        rate(entered),
        rate(left),
        depth,
        depth - disk,
        disk,
        sum(|channel| channel.in_flight_count.into()),
        sum(|channel| channel.deferred_count.into()),
        sum(|channel| signed(channel.requeue_count)),
        sum(|channel| signed(channel.timeout_count)),
        sum(|channel| signed(channel.message_count)),
        sum(|channel| channel.client_count as i128),
    )
}

fn signed(count: u64) -> i128 {
    count.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(message_count: u64, depth: i64) -> ChannelStats {
        ChannelStats { message_count, depth, backend_depth: 2, in_flight_count: 1, ..ChannelStats::default() }
    }

    #[test]
    fn line_has_the_columns_of_the_reference() {
        let nodes = |all: &[(&str, ChannelStats)]| {
            all.iter().map(|(node, stats)| ((*node).to_owned(), stats.clone())).collect::<Nodes>()
        };
        let before = nodes(&[("a", channel(100, 10)), ("gone", channel(1_000_000, 0))]);
        let now = nodes(&[("a", channel(205, 15)), ("new", channel(7, 3))]);
        assert_eq!(
            line(&before, &now, Duration::from_secs(2)),
            "     52      50 |      18      14       4     2     0 |       0       0          212       0\n"
        );
    }
}
