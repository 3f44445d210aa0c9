//! `nsq pub`: publishes arguments, files or stdin, with many messages in flight, and reports the first message that
//! was not acknowledged.
//!
//! `source` reads the input, `pieces` splits it into messages, `template` makes messages, and this file sends and counts them.

pub mod pieces;
pub mod source;
pub mod template;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt, join_all};
use futures_util::stream::FuturesOrdered;
use nsq::{Producer, PublishError, PublishedMessage, Receipt};
use nsq_daemon::go_duration;
use nsq_protocol::headers::ID;
use serde_json::json;

use super::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::TopicArgument;
use crate::sources::{self, publish_failure};
use crate::targets::with_tcp_port;
use pieces::parse_delimiter;
use source::{Reading, Source};
use template::Template;

/// Maximum number of publishes that wait for their answer.
const MAX_PENDING: usize = 1000;

const EXAMPLES: &str = "\
Examples:
  nsq pub orders 'first' 'second'                        # two messages
  seq 1000 | nsq pub orders --rate 100                   # lines of stdin, a hundred per second
  nsq pub orders --count 5 'message {{ n }} at {{ time }}' # from a template
  nsq pub settings --to all reload                       # one message to every nsqd";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct PublishFlags {
    #[command(flatten)]
    topic: TopicArgument,
    /// Messages to publish. Without any, stdin is published line by line if it is not a terminal.
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
    /// Publish stdin line by line.
    #[arg(long)]
    stdin: bool,
    /// Publish a file line by line; may be repeated.
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Separator between messages in a file or on stdin; supports \n \r \t \0 \\.
    #[arg(long, value_name = "TEXT", default_value = r"\n")]
    delimiter: String,
    /// Messages on stdin or in files end with a zero byte.
    #[arg(long, conflicts_with = "delimiter")]
    print0: bool,
    /// Publish each file, or all of stdin, as one message.
    #[arg(long, conflicts_with_all = ["delimiter", "print0"])]
    whole: bool,
    /// Each file, or stdin, is a JSON array: publish its elements.
    #[arg(long, conflicts_with_all = ["delimiter", "print0", "whole"])]
    json_array: bool,
    /// Do not skip empty lines and files: fail at the first one, because NSQ has no empty messages.
    #[arg(long)]
    keep_empty: bool,
    /// Publish each file of a directory as one message, in the order of their names.
    #[arg(long, value_name = "DIR")]
    from_dir: Option<PathBuf>,
    /// Publish each BODY N times; {{ n }}, {{ time }}, {{ uuid }} and {{ rand N }} in it are replaced.
    #[arg(long, value_name = "N", requires = "bodies", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Publish each message to any nsqd, to all of them, or to this one: any, all, or a TCP address.
    #[arg(long, value_name = "WHICH", default_value = "any")]
    to: String,
    /// How long to wait for more messages to send together.
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    linger: Option<Duration>,
    /// Largest number of body bytes to send together.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
    /// Keep the order of the messages, even if one must be sent again. Needs a single nsqd: --to ADDRESS.
    #[arg(long)]
    ordered: bool,
    /// Defer the messages: consumers get them only after this time.
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    defer: Option<Duration>,
    /// Header of every message; may be repeated. Only consumers that request headers get them. An nsqd of NSQ accepts
    /// none.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Id of the message, for a topic with the setting dedupe: its node stores only the first message with an id. Needs a
    /// single message.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Maximum number of messages per second.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Skip the first N messages, to continue an earlier run that failed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
}

/// Publishes all messages of the sources.
pub async fn run(context: &Context, mut flags: PublishFlags) -> Result<ExitStatus, Failure> {
    let topic = flags.topic.object()?.topic;
    let reading = flags.reading()?;
    let (skip, defer) = (reading.skip, flags.defer);
    let mut headers = std::mem::take(&mut flags.headers);
    let mut config = context.targets.security.config.clone();
    if let Some(id) = flags.single_id()? {
        headers.push((ID.to_owned(), id));
        config = config.pub_ids(true);
    }
    let headers = headers.into();
    let (flags_to, linger, batch, ordered) = (flags.to.clone(), flags.linger, flags.batch, flags.ordered);
    let sources = flags.sources()?;
    let nsqds = match flags_to.as_str() {
        "any" | "all" => sources::find(&context.targets, sources::Purpose::Publish).await?.nsqds,
        address => vec![with_tcp_port(address)],
    };
    let groups: Vec<&[String]> = match flags_to.as_str() {
        "all" => nsqds.chunks(1).collect(),
        _ => vec![&nsqds],
    };
    let producers = groups.into_iter().map(|nsqds| {
        let mut builder =
            Producer::builder().nsqd(nsqds).config(config.clone()).publish_timeout(context.targets.timeout);
        if let Some(linger) = linger {
            builder = builder.linger(linger);
        }
        if let Some(batch) = batch {
            builder = builder.batch_bytes(batch);
        }
        builder = builder.ordered(ordered);
        builder.build().map_err(Failure::from)
    });
    let producers = producers.collect::<Result<Vec<_>, Failure>>()?;
    let sent = Sent { copies: producers.len() as u64, ..Sent::default() };
    let mut sending = Sending { producers, topic, defer, headers, pending: FuturesOrdered::new(), sent };
    let started_at = Instant::now();
    let result = sending.all(source::read(sources, reading)).await;
    let Sending { producers, sent, topic, pending, .. } = sending;
    // After a failure, messages may be left that were not sent; they must not be sent now.
    drop(pending);
    join_all(producers.iter().map(|producer| producer.close(context.targets.timeout))).await;
    match result {
        Ok(()) => {
            sent.print_summary(context, &topic, started_at.elapsed())?;
            Ok(ExitStatus::Done)
        }
        Err(SendError::Input(failure)) => Err(sent.advise(failure, skip)),
        Err(SendError::Publish(error)) => {
            let mut failure = publish_failure(&error);
            failure.message = format!("message {} was not published: {error}", skip + sent.acknowledged + 1);
            if error.is_unknown() {
                failure.message =
                    format!("message {} may or may not be published: {error}", skip + sent.acknowledged + 1);
            }
            if let Some(message) = defer.and_then(|defer| beyond_limit(defer, &error)) {
                failure.message = message;
            }
            Err(sent.advise(failure, skip))
        }
    }
}

/// What to say if nsqd refuses to defer a message that long.
fn beyond_limit(defer: Duration, error: &PublishError) -> Option<String> {
    let text = error.to_string();
    let (_, limit) = text.split_once("DPUB timeout ")?.1.split_once(" out of range 0-")?;
    let digits = limit.split(|c: char| !c.is_ascii_digit()).next()?;
    let limit = Duration::from_millis(digits.parse().ok()?);
    let [defer, limit] = [defer, limit].map(short);
    Some(format!("--defer {defer} exceeds nsqd's limit of {limit} (`--max-req-timeout`)"))
}

/// A duration without units that are zero: `1h`, not `1h0m0s`.
fn short(duration: Duration) -> String {
    let text = nsq_protocol::go_duration::format(duration);
    let text = text.strip_suffix("m0s").map(|text| format!("{text}m")).unwrap_or(text);
    text.strip_suffix("h0m").map(|text| format!("{text}h")).unwrap_or(text)
}

impl PublishFlags {
    fn reading(&self) -> Result<Reading, Failure> {
        let delimiter = match (self.whole, self.print0) {
            (true, _) => Vec::new(),
            (false, true) => vec![0],
            (false, false) => parse_delimiter(&self.delimiter)
                .map_err(|error| Failure::usage(format_args!("--delimiter {}: {error}", self.delimiter)))?,
        };
        let pause = self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        Ok(Reading {
            delimiter,
            is_json_array: self.json_array,
            skip: self.skip,
            pause,
            drop_final_newline: false,
            keep_empty: self.keep_empty,
        })
    }

    /// The id of the only message.
    fn single_id(&mut self) -> Result<Option<String>, Failure> {
        let id = self.id.take();
        let is_single = match (self.bodies.len(), self.file.len()) {
            _ if self.count.is_some() || self.from_dir.is_some() || self.json_array => false,
            (1, 0) => !self.stdin,
            (0, files) => self.whole && files + usize::from(self.stdin) <= 1,
            _ => false,
        };
        match id {
            Some(_) if !is_single => Err(Failure::usage("--id needs a single message")
                .hint("give one message as an argument, or one --file or --stdin with --whole")),
            id => Ok(id),
        }
    }

    fn sources(self) -> Result<Vec<Source>, Failure> {
        if self.bodies.iter().any(String::is_empty) {
            return Err(Failure::usage("a message is empty: NSQ has no empty messages"));
        }
        let mut sources = Vec::new();
        if let Some(count) = self.count {
            for body in &self.bodies {
                let template =
                    Template::parse(body).map_err(|why| Failure::usage(format_args!("{body:?}: {why}")))?;
                sources.push(Source::Generated(template, count));
            }
        } else if !self.bodies.is_empty() {
            sources.push(Source::Bodies(self.bodies.into_iter().map(Bytes::from).collect()));
        }
        sources.extend(self.file.into_iter().map(Source::File));
        if let Some(folder) = &self.from_dir {
            sources.extend(files_of(folder)?.into_iter().map(Source::WholeFile));
        }
        if self.stdin || (sources.is_empty() && self.from_dir.is_none() && !std::io::stdin().is_terminal()) {
            sources.push(Source::Stdin);
        }
        if sources.is_empty() && self.from_dir.is_none() {
            return Err(Failure::usage("nothing to publish")
                .hint("give messages as arguments, --file FILE, or --stdin to type them line by line"));
        }
        Ok(sources)
    }
}

/// The files of a folder, by name. Hidden files are left out.
fn files_of(folder: &std::path::Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error: std::io::Error| {
        let shown = folder.display().to_string();
        Failure::failed(format_args!("cannot read {shown}: {error}")).target(shown)
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_hidden = entry.file_name().to_string_lossy().starts_with('.');
        if !is_hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

/// Why publishing ended early.
enum SendError {
    /// The input cannot be read.
    Input(Failure),
    /// A message was not acknowledged.
    Publish(PublishError),
}

type Pending = BoxFuture<'static, (usize, Result<Receipt, PublishError>)>;

struct Sending {
    /// Every message goes to each of them; one producer chooses among its nsqds.
    producers: Vec<Producer>,
    topic: String,
    defer: Option<Duration>,
    headers: Arc<[(String, String)]>,
    /// In the order of the messages.
    pending: FuturesOrdered<Pending>,
    sent: Sent,
}

impl Sending {
    async fn all(
        &mut self,
        mut bodies: tokio::sync::mpsc::Receiver<Result<Bytes, Failure>>,
    ) -> Result<(), SendError> {
        let mut input = Ok(());
        let mut is_open = true;
        while is_open || !self.pending.is_empty() {
            tokio::select! {
                body = bodies.recv(), if is_open && self.pending.len() < MAX_PENDING => match body {
                    Some(Ok(body)) => self.one(body).await?,
                    Some(Err(failure)) => {
                        input = Err(SendError::Input(failure));
                        is_open = false;
                    }
                    None => is_open = false,
                },
                Some(result) = self.pending.next(), if !self.pending.is_empty() => self.sent.count(result)?,
            }
        }
        input
    }

    async fn one(&mut self, body: Bytes) -> Result<(), SendError> {
        for index in 0..self.producers.len() {
            self.to(index, body.clone()).await?;
        }
        Ok(())
    }

    async fn to(&mut self, index: usize, body: Bytes) -> Result<(), SendError> {
        let bytes = body.len();
        let pending: Pending = match self.defer {
            None if self.headers.is_empty() => loop {
                match self.producers[index].send(&self.topic, body.clone()) {
                    Ok(result) => break async move { (bytes, result.await) }.boxed(),
                    Err(PublishError::Full) => match self.pending.next().await {
                        Some(result) => self.sent.count(result)?,
                        // The producer has no room even for a single message.
                        None => return Err(SendError::Publish(PublishError::Full)),
                    },
                    Err(error) => return Err(SendError::Publish(error)),
                }
            },
            delay => {
                let (producer, topic) = (self.producers[index].clone(), self.topic.clone());
                let headers = Arc::clone(&self.headers);
                let published = async move {
                    let pairs = headers.iter().map(|(name, value)| (name, value));
                    match delay {
                        None => producer.publish_with_headers(topic, pairs, body).await,
                        Some(delay) if headers.is_empty() => {
                            producer.publish_deferred(topic, delay, body).await
                        }
                        Some(delay) => {
                            producer.publish_deferred_with_headers(topic, delay, pairs, body).await
                        }
                    }
                };
                async move { (bytes, published.await) }.boxed()
            }
        };
        self.pending.push_back(pending);
        Ok(())
    }
}

/// The messages acknowledged so far: all from the first one on, without a gap.
#[derive(Debug, Default)]
struct Sent {
    /// Number of nsqds that get each message.
    copies: u64,
    receipts: u64,
    acknowledged: u64,
    bytes: u64,
    nodes: BTreeSet<String>,
    /// What nsqd says of the last message.
    message: Option<PublishedMessage>,
}

impl Sent {
    fn count(&mut self, (bytes, result): (usize, Result<Receipt, PublishError>)) -> Result<(), SendError> {
        let receipt = result.map_err(SendError::Publish)?;
        self.receipts += 1;
        // A message is acknowledged when all its nsqds have answered.
        if self.receipts.is_multiple_of(self.copies.max(1)) {
            self.acknowledged += 1;
            self.bytes += bytes as u64;
        }
        self.message = receipt.message;
        if !self.nodes.contains(&*receipt.node) {
            self.nodes.insert(receipt.node.to_string());
        }
        Ok(())
    }

    fn print_summary(&self, context: &Context, topic: &str, took: Duration) -> Result<(), Failure> {
        let Sent { acknowledged, bytes, nodes, message, .. } = self;
        if context.output.is_json() {
            let mut summary = json!({
                "topic_name": topic,
                "message_count": acknowledged,
                "message_bytes": bytes,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "nodes": nodes,
            });
            if let Some(PublishedMessage { id, is_duplicate, .. }) = message {
                summary["id"] = json!(id.to_string());
                summary["duplicate"] = json!(is_duplicate);
            }
            return context.output.json(&summary);
        }
        let rate = *acknowledged as f64 / took.as_secs_f64().max(0.001);
        let nodes = nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        context.output.note(&match acknowledged {
            0 => "nothing to publish".to_owned(),
            1 if message.is_some_and(|message| message.is_duplicate) => {
                format!("duplicate: {nodes} already has a message with this id")
            }
            1 => format!("1 message, {bytes} bytes, to {nodes}"),
            n => format!("{n} messages, {bytes} bytes, {rate:.0} per second, to {nodes}"),
        });
        Ok(())
    }

    /// Adds to a failure how to continue.
    fn advise(&self, failure: Failure, skipped: u64) -> Failure {
        if self.acknowledged == 0 {
            return failure;
        }
        let advice = format!(
            "{} messages were acknowledged; to continue, repeat the command with --skip {}",
            self.acknowledged,
            skipped + self.acknowledged
        );
        let hint = match &failure.hint {
            Some(hint) => format!("{hint}\n{advice}"),
            None => advice,
        };
        failure.hint(hint)
    }
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Less than one message in eleven days is a mistake, and more than one per nanosecond is no limit.
        Ok(rate) if (1e-6..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected a number of messages per second, greater than zero".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_no_zero_units() {
        let cases = [(7200, "2h"), (5400, "1h30m"), (90, "1m30s"), (60, "1m"), (3601, "1h0m1s")];
        for (seconds, text) in cases {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
