//! `nsq to-nsq` and `nsq_to_nsq`: publish messages to other nsqds. A message is finished when its destination has answered
//! OK, and requeued otherwise.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use nsq::admin::StatsQuery;
use nsq::{Config, Message, MessageStream, Producer, PublishError, Requeue};
use nsq_daemon::log::Logger;
use nsq_daemon::metrics::{Counter, Exposition, Histogram, Kind};
use nsq_daemon::{go_flags, info, warn};
use nsq_protocol::{ChannelName, ChannelStats, TopicName};
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::flags::BridgeFlags;
use super::hosts::{Hosts, Mode};
use super::json_filter::{JsonFilter, Verdict};
use super::timing::{MIN_ACCURATE, Timings};
use super::topics::Topics;
use super::touching::while_touching;
use super::{Bridge, Origin, Signals, Start, TopicWork, Work};
use crate::cluster::Cluster;
use crate::command::Context;
use crate::command::change::holdings;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Jq;
use crate::sources::TcpSources;
use crate::targets::Targets;

/// A message with less time than this is touched while it is published: publishing ends in less than half of it.
const TOUCH_BELOW: Duration = Duration::from_secs(30);
/// With `--until-empty`, how often to look whether messages are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// What happens to messages that are no JSON object although a JSON flag is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnBadJson {
    Drop,
    Requeue,
    Reject,
}

impl FromStr for OnBadJson {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "drop" => Ok(OnBadJson::Drop),
            "requeue" => Ok(OnBadJson::Requeue),
            "reject" => Ok(OnBadJson::Reject),
            _ => Err("expected drop, requeue or reject".to_owned()),
        }
    }
}

impl fmt::Display for OnBadJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnBadJson::Drop => "drop",
            OnBadJson::Requeue => "requeue",
            OnBadJson::Reject => "reject",
        })
    }
}

/// Flags that have the same meaning in `nsq to-nsq` and `nsq_to_nsq`.
#[derive(Debug, Args)]
pub struct ToNsqFlags {
    /// Topic to copy; may be repeated.
    #[arg(long)]
    topic: Vec<String>,
    /// Channel to consume.
    #[arg(long, default_value = "nsq_to_nsq")]
    channel: String,
    /// Topic to publish to. [default: the same name]
    #[arg(long, value_name = "TOPIC", default_value = "", hide_default_value = true)]
    destination_topic: String,
    /// TCP address of an nsqd to publish to; may be repeated.
    #[arg(long, value_name = "ADDR")]
    destination_nsqd_tcp_address: Vec<String>,
    /// Choice among several destinations: hostpool, round-robin or epsilon-greedy.
    #[arg(long, value_name = "MODE", default_value = "hostpool")]
    mode: String,
    /// Maximum number of messages in flight per topic.
    #[arg(long, value_name = "N", default_value = "200", value_parser = go_flags::parse_int)]
    max_in_flight: i64,
    /// Copy only JSON objects that have this field.
    #[arg(long, value_name = "FIELD", default_value = "", hide_default_value = true)]
    require_json_field: String,
    /// Copy only JSON objects whose required field has this value.
    #[arg(long, value_name = "VALUE", default_value = "", hide_default_value = true)]
    require_json_value: String,
    /// Copy only this field of JSON objects; may be repeated.
    #[arg(long, value_name = "FIELD")]
    whitelist_json_field: Vec<String>,
    /// Log response times after this many messages; 0 logs none.
    #[arg(long, value_name = "N", default_value = "250", value_parser = go_flags::parse_int)]
    status_every: i64,
    #[command(flatten)]
    bridge: BridgeFlags,
}

/// Flags of `nsq to-nsq`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  nsq to-nsq --topic orders --destination-topic copies --destination-nsqd-tcp-address 127.0.0.1:4150
  nsq to-nsq --topic orders --topic refunds --destination-topic all --destination-nsqd-tcp-address 127.0.0.1:4150
  nsq to-nsq --topic orders --destination-topic eu --require-json-field region --require-json-value eu \\
    --destination-nsqd-tcp-address 127.0.0.1:4150")]
pub struct Flags {
    #[command(flatten)]
    shared: ToNsqFlags,
    /// What to do with messages that are no JSON object although a JSON flag is set: drop, requeue, or reject, which makes
    /// them dead letters.
    #[arg(long, value_name = "ACTION", default_value = "requeue")]
    on_bad_json: OnBadJson,
    /// Copy only messages for which this jq expression gives true, such as '.total > 100'. Messages that are no JSON: see
    /// --on-bad-json.
    #[arg(long, value_name = "EXPR", value_parser = parse_jq)]
    filter: Option<Jq>,
    /// End with exit code 0 when no message is left in the channels, for a migration.
    #[arg(long)]
    until_empty: bool,
    /// Option of the client library for the destinations, such as tls_v1=true; may be repeated. Other options of this command
    /// also apply to the destinations.
    #[arg(long, value_name = "NAME=VALUE")]
    destination_opt: Vec<String>,
}

/// Runs `nsq to-nsq`.
pub fn run(context: Context, flags: Flags) -> Result<ExitStatus, Failure> {
    let config = context.targets.security.config.clone();
    let mut destination = config.clone();
    for option in &flags.destination_opt {
        let (name, value) = option.split_once(['=', ',']).unwrap_or((option, "true"));
        destination.set(name, value)?;
    }
    let mode = flags.shared.mode.parse::<Mode>().map_err(|why| wrong("mode", &flags.shared.mode, &why))?;
    let until_empty = flags.until_empty.then(|| Box::new(context.targets.clone()));
    flags.shared.run(Run {
        name: "nsq to-nsq",
        from: Origin::Cluster(Box::new(context.targets)),
        config,
        destination,
        mode,
        on_bad_json: flags.on_bad_json,
        jq: flags.filter,
        until_empty,
    })
}

/// What the two programs choose differently.
#[derive(Debug)]
pub struct Run {
    pub name: &'static str,
    pub from: Origin,
    /// Settings of the consumers.
    pub config: Config,
    /// Settings of the producers.
    pub destination: Config,
    pub mode: Mode,
    pub on_bad_json: OnBadJson,
    /// A filter of the jq language that must give true.
    pub jq: Option<Jq>,
    /// End when no message is left, according to these daemons.
    pub until_empty: Option<Box<Targets>>,
}

impl ToNsqFlags {
    pub fn run(self, mut run: Run) -> Result<ExitStatus, Failure> {
        let must_connect = matches!(run.from, Origin::Fixed(_));
        let logger = self.bridge.logger(run.name);
        let copier = self.copier(&mut run, &logger)?;
        let start = Start {
            name: run.name,
            flags: self.bridge,
            from: run.from,
            topics: Topics::named(self.topic),
            channel: self.channel,
            config: run.config.max_in_flight(copier.max_in_flight),
            must_connect,
        };
        super::run(start, copier)
    }

    pub fn mode(&self) -> &str {
        &self.mode
    }

    pub fn logger(&self, name: &str) -> Logger {
        self.bridge.logger(name)
    }

    /// Checks the flags. A wrong one is found before anything is consumed.
    fn copier(&self, run: &mut Run, logger: &Logger) -> Result<Copier, Failure> {
        const NAME: &str = "a name has 1 to 64 characters of a-z A-Z 0-9 . _ -";
        if self.topic.is_empty() || self.channel.is_empty() {
            return Err(Failure::usage("--topic and --channel are required"));
        }
        for topic in &self.topic {
            TopicName::new(topic).map_err(|_| wrong("topic", topic, NAME))?;
        }
        ChannelName::new(&self.channel).map_err(|_| wrong("channel", &self.channel, NAME))?;
        let destination_topic = match self.destination_topic.is_empty() {
            true => None,
            false => {
                let topic = &self.destination_topic;
                TopicName::new(topic).map_err(|_| wrong("destination-topic", topic, NAME))?;
                Some(topic.clone())
            }
        };
        let addresses = &self.destination_nsqd_tcp_address;
        if addresses.is_empty() {
            return Err(Failure::usage("--destination-nsqd-tcp-address required"));
        }
        if let Origin::Fixed(TcpSources { nsqds, .. }) = &run.from
            && destination_topic.is_none()
            && let Some(same) = nsqds.iter().find(|nsqd| addresses.contains(nsqd))
        {
            warn!(logger, "{same} is source and destination of the same topic: messages circulate");
        }
        let max_in_flight = u32::try_from(self.max_in_flight).ok().filter(|n| (1..=1_000_000).contains(n));
        let max_in_flight = max_in_flight
            .ok_or_else(|| wrong("max-in-flight", self.max_in_flight, "it must be 1 to 1000000"))?;
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let filter = JsonFilter {
            require_field: some(&self.require_json_field),
            require_value: some(&self.require_json_value),
            keep_fields: self.whitelist_json_field.clone(),
        };
        if filter.require_field.is_none() && filter.require_value.is_some() {
            return Err(Failure::usage("--require-json-value needs --require-json-field"));
        }
        run.destination.validate()?;
        let every = usize::try_from(self.status_every).unwrap_or(0).min(1_000_000);
        if (1..MIN_ACCURATE).contains(&every) {
            warn!(
                logger,
                "--status-every {every}: percentiles of fewer than {MIN_ACCURATE} times are not accurate"
            );
        }
        let every_of_one = if addresses.len() > 1 { every } else { 0 };
        let destination = |address: &String| Destination {
            address: nsq_protocol::redact::without_user_info(address).into_owned(),
            timings: Mutex::new(Timings::new(format!("[{address}]:"), every_of_one)),
            good: Counter::default(),
            bad: Counter::default(),
        };
        Ok(Copier {
            destinations: addresses.iter().map(destination).collect(),
            config: run.destination.clone().publish_timeout(PUBLISH_TIMEOUT),
            hosts: Mutex::new(Hosts::new(run.mode, addresses.len(), Instant::now())),
            destination_topic,
            max_in_flight,
            filter,
            jq: run.jq.take(),
            until_empty: run.until_empty.take(),
            on_bad_json: run.on_bad_json,
            aggregate: Mutex::new(Timings::new("[aggregate]:".to_owned(), every)),
            seconds: Histogram::default(),
            filtered: Counter::default(),
            bad_json: Counter::default(),
        })
    }
}

fn wrong(flag: &str, value: impl fmt::Display, why: &str) -> Failure {
    Failure::usage(format_args!("invalid --{flag} {value}: {why}"))
}

/// What happens to messages.
#[derive(Debug)]
pub struct Copier {
    destinations: Vec<Destination>,
    /// Settings of the producers.
    config: Config,
    hosts: Mutex<Hosts>,
    /// `None` keeps the topic's name.
    destination_topic: Option<String>,
    max_in_flight: u32,
    filter: JsonFilter,
    /// A filter of the jq language that must give true.
    jq: Option<Jq>,
    /// Where to look whether messages are left, if the bridge ends when none are.
    until_empty: Option<Box<Targets>>,
    on_bad_json: OnBadJson,
    aggregate: Mutex<Timings>,
    seconds: Histogram,
    filtered: Counter,
    bad_json: Counter,
}

#[derive(Debug)]
struct Destination {
    address: String,
    timings: Mutex<Timings>,
    good: Counter,
    bad: Counter,
}

impl Work for Copier {
    async fn run_topic(
        self: Arc<Self>,
        bridge: Arc<Bridge>,
        topic: String,
        mut signals: Signals,
    ) -> Result<(), Failure> {
        let producers = (self.destinations.iter())
            .map(|destination| {
                Producer::builder().nsqd(&destination.address).config(self.config.clone()).build()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut copying = Copying {
            destination_topic: self.destination_topic.clone().unwrap_or_else(|| topic.clone()),
            copier: self,
            bridge: Arc::clone(&bridge),
            topic: topic.clone(),
            producers,
            publishing: FuturesUnordered::new(),
        };
        bridge.run_stream(&topic, &mut copying, &mut signals).await
    }

    fn expose(&self, page: &mut Exposition) {
        let help = "Publishes, by destination and result.";
        let mut family = page.family("nsq_to_nsq_publishes_total", Kind::Counter, help);
        for Destination { address, good, bad, .. } in &self.destinations {
            family.sample(&[("destination", address), ("result", "ok")], good.get() as f64);
            family.sample(&[("destination", address), ("result", "failed")], bad.get() as f64);
        }
        page.family("nsq_to_nsq_publish_seconds", Kind::Histogram, "Duration of publishes.")
            .histogram(&[], &self.seconds.buckets());
        let help = "Messages that a JSON condition excluded.";
        page.counter("nsq_to_nsq_filtered_total", help, self.filtered.get());
        let help = "Messages that are no JSON object although a JSON flag is set.";
        page.counter("nsq_to_nsq_bad_json_total", help, self.bad_json.get());
    }
}

/// A message with the result of its publish.
struct Published {
    message: Message,
    destination: usize,
    result: Result<(), PublishError>,
    took: Duration,
}

/// The copying of one topic.
struct Copying {
    copier: Arc<Copier>,
    topic: String,
    bridge: Arc<Bridge>,
    destination_topic: String,
    /// One per destination.
    producers: Vec<Producer>,
    /// At most `max_in_flight`.
    publishing: FuturesUnordered<BoxFuture<'static, Published>>,
}

impl TopicWork for Copying {
    async fn take(&mut self, stream: &mut MessageStream, signals: &mut Signals) -> Result<(), Failure> {
        let limit = self.copier.max_in_flight as usize;
        let mut arrived = Vec::new();
        let consumer = stream.consumer().clone();
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_arrived = true;
        let object = Object { topic: self.topic.clone(), channel: Some(self.bridge.channel.clone()) };
        let copier = Arc::clone(&self.copier);
        loop {
            let room = limit.saturating_sub(self.publishing.len());
            tokio::select! {
                () = signals.stop.cancelled() => return Ok(()),
                Some(published) = self.publishing.next(), if !self.publishing.is_empty() => {
                    self.copier.answer(&self.bridge.logger, published);
                }
                count = stream.next_many(&mut arrived, room), if room > 0 => {
                    if count == 0 {
                        return Err(Failure::failed("the consumer has stopped"));
                    }
                    has_arrived = true;
                    for message in arrived.drain(..) {
                        if let Some((message, body)) = self.copier.select(&self.bridge.logger, message) {
                            self.publish(message, body);
                        }
                    }
                }
                _ = looks.tick(), if copier.until_empty.is_some() => {
                    let is_quiet = !std::mem::take(&mut has_arrived) && self.publishing.is_empty();
                    if is_quiet
                        && consumer.stats().queued == 0
                        && let Some(targets) = &copier.until_empty
                        && is_source_empty((**targets).clone(), object.clone()).await
                    {
                        info!(self.bridge.logger, "[{}/{}] is empty", self.topic, self.bridge.channel);
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn finish(&mut self, taken: Result<(), Failure>) -> Result<(), Failure> {
        while let Some(published) = self.publishing.next().await {
            self.copier.answer(&self.bridge.logger, published);
        }
        taken
    }
}

impl Copying {
    fn publish(&mut self, message: Message, body: Bytes) {
        let started_at = Instant::now();
        let destination = self.copier.hosts.lock().pick(started_at, fastrand::f64);
        // Queued now, so that the order is kept as long as nothing fails.
        let sent = self.producers[destination].send(&self.destination_topic, body);
        self.publishing.push(
            async move {
                let result = match sent {
                    Ok(sent) if message.remaining() < TOUCH_BELOW => {
                        while_touching(&message, sent).await.map(|_| ())
                    }
                    Ok(sent) => sent.await.map(|_| ()),
                    Err(error) => Err(error),
                };
                Published { message, destination, result, took: started_at.elapsed() }
            }
            .boxed(),
        );
    }
}

/// Whether no message waits, is in flight or is deferred on any node. A node that does not answer may have some.
async fn is_source_empty(targets: Targets, object: Object) -> bool {
    let look = async move || {
        let Ok(cluster) = Cluster::find(&targets).await else { return false };
        let query = StatsQuery {
            topic: Some(object.topic.clone()),
            channel: object.channel.clone(),
            ..StatsQuery::default()
        };
        let stats = cluster.stats(&query).await;
        let rest = |channel: &ChannelStats| channel.depth + channel.in_flight_count + channel.deferred_count;
        let holdings = holdings(&stats, &object);
        let is_empty = holdings.iter().all(|holding| {
            holding.topic.depth == 0 && holding.channels.iter().all(|channel| rest(channel) == 0)
        });
        cluster.errors.is_empty() && stats.errors.is_empty() && is_empty
    };
    // The future that asks a cluster cannot move between threads.
    let runtime = tokio::runtime::Handle::current();
    tokio::task::spawn_blocking(move || runtime.block_on(look())).await.unwrap_or(false)
}

/// Whether the filter gives true, and nothing else. An error says why it cannot be told.
fn passes(jq: &Jq, body: &[u8]) -> Result<bool, String> {
    let value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let results = jq.apply(value)?;
    Ok(!results.is_empty() && results.iter().all(|result| *result == serde_json::Value::Bool(true)))
}

fn parse_jq(code: &str) -> Result<Jq, String> {
    Jq::parse(code)
}

impl Copier {
    /// Returns the message with the body to publish; answers a message that is not to be published.
    fn select(&self, logger: &Logger, message: Message) -> Option<(Message, Bytes)> {
        // If an answer comes too late, nsqd delivers the message again.
        let verdict = match self.jq.as_ref().map(|jq| passes(jq, message.body())) {
            Some(Ok(false)) => Verdict::Drop,
            Some(Err(why)) => Verdict::NotAnObject(why),
            Some(Ok(true)) | None => self.filter.apply(message.body()),
        };
        match verdict {
            Verdict::Pass => {
                let body = message.body().clone();
                return Some((message, body));
            }
            Verdict::PassFiltered(body) => return Some((message, body.into())),
            Verdict::Drop => {
                self.filtered.add(1);
                let _ = message.finish();
            }
            Verdict::MissingField => {
                warn!(logger, "message {} lacks the field whose value is required", message.id());
                let _ = message.requeue(Requeue::Auto);
            }
            Verdict::NotAnObject(why) => {
                self.bad_json.add(1);
                warn!(logger, "message {} is no JSON object: {why}", message.id());
                let _ = match self.on_bad_json {
                    OnBadJson::Drop => message.finish(),
                    OnBadJson::Requeue => message.requeue(Requeue::Auto),
                    OnBadJson::Reject => message.reject(format!("no JSON object: {why}")),
                };
            }
        }
        None
    }

    fn answer(&self, logger: &Logger, published: Published) {
        let Published { message, destination: index, result, took } = published;
        self.hosts.lock().report(index, result.is_ok(), took, Instant::now());
        self.seconds.record(took);
        let destination = &self.destinations[index];
        match result {
            Ok(()) => {
                destination.good.add(1);
                // If it is too late, nsqd delivers the message again.
                let _ = message.finish();
            }
            Err(error) => {
                destination.bad.add(1);
                warn!(logger, "message {}: {error}", message.id());
                let _ = message.requeue(Requeue::Auto);
            }
        }
        let summaries = [destination.timings.lock().add(took), self.aggregate.lock().add(took)];
        for summary in summaries.into_iter().flatten() {
            info!(logger, "{summary}");
        }
    }
}
