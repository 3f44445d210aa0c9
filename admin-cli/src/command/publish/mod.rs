//! `nsq pub`: publishes arguments, files or stdin, many messages on their way at a time, and says which were not
//! acknowledged.
//!
//! `source` reads, `pieces` cuts into messages, this file sends and counts.

mod pieces;
mod source;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesOrdered;
use nsq::{Producer, PublishError, Receipt};
use nsq_daemon::go_duration;
use serde_json::json;

use super::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::TopicArgument;
use crate::sources::{self, TcpSources, publish_failure};
use pieces::parse_delimiter;
use source::{Reading, Source};

/// How many publishes wait for their answer.
const MAX_PENDING: usize = 1000;

/// What `nsq pub` is told.
#[derive(Debug, Args)]
pub struct PublishFlags {
    #[command(flatten)]
    topic: TopicArgument,
    /// Messages. Without any, what is piped into stdin is published line by line.
    #[arg(value_name = "BODY")]
    bodies: Vec<String>,
    /// Publish stdin, line by line.
    #[arg(long)]
    stdin: bool,
    /// Publish a file, line by line; may be repeated.
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// What separates messages in a file or on stdin; knows \n \r \t \0 \\.
    #[arg(long, value_name = "TEXT", default_value = r"\n")]
    delimiter: String,
    /// Each file, or all of stdin, is one message.
    #[arg(long, conflicts_with = "delimiter")]
    whole: bool,
    /// No consumer gets a message before this time has passed.
    #[arg(long, value_name = "DURATION", value_parser = go_duration::parse)]
    defer: Option<Duration>,
    /// Messages per second, at most.
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Leave out the first messages: to go on where an earlier run failed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u64,
}

/// Publishes all there is.
pub async fn run(context: &Context, flags: PublishFlags) -> Result<ExitStatus, Failure> {
    let topic = flags.topic.object()?.topic;
    let reading = flags.reading()?;
    let (skip, defer) = (reading.skip, flags.defer);
    let sources = flags.sources()?;
    let TcpSources { nsqds, .. } = sources::find(&context.targets, sources::Purpose::Publish).await?;
    let producer = Producer::builder()
        .nsqd(&nsqds)
        .config(context.targets.security.config.clone())
        .publish_timeout(context.targets.timeout)
        .build()
        .map_err(Failure::from)?;
    let mut sending =
        Sending { producer, topic, defer, pending: FuturesOrdered::new(), sent: Sent::default() };
    let started_at = Instant::now();
    let result = sending.all(source::read(sources, reading)).await;
    let Sending { producer, sent, topic, pending, .. } = sending;
    // After a failure there may be some left: what was not sent yet shall not be.
    drop(pending);
    producer.close(context.targets.timeout).await;
    match result {
        Ok(()) => {
            sent.tell(context, &topic, started_at.elapsed())?;
            Ok(ExitStatus::Done)
        }
        Err(Trouble::Input(failure)) => Err(sent.advise(failure, skip)),
        Err(Trouble::Publish(error)) => {
            let mut failure = publish_failure(&error);
            failure.message = format!("message {} is not published: {error}", skip + sent.acknowledged + 1);
            if error.is_unknown() {
                failure.message =
                    format!("message {} may be published or not: {error}", skip + sent.acknowledged + 1);
            }
            Err(sent.advise(failure, skip))
        }
    }
}

impl PublishFlags {
    fn reading(&self) -> Result<Reading, Failure> {
        let delimiter = match self.whole {
            true => Vec::new(),
            false => parse_delimiter(&self.delimiter)
                .map_err(|error| Failure::usage(format_args!("--delimiter {}: {error}", self.delimiter)))?,
        };
        let pause = self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        Ok(Reading { delimiter, skip: self.skip, pause })
    }

    fn sources(self) -> Result<Vec<Source>, Failure> {
        if self.bodies.iter().any(String::is_empty) {
            return Err(Failure::usage("NSQ has no empty messages"));
        }
        let mut sources = Vec::new();
        if !self.bodies.is_empty() {
            sources.push(Source::Bodies(self.bodies.into_iter().map(Bytes::from).collect()));
        }
        sources.extend(self.file.into_iter().map(Source::File));
        if self.stdin || (sources.is_empty() && !std::io::stdin().is_terminal()) {
            sources.push(Source::Stdin);
        }
        if sources.is_empty() {
            return Err(Failure::usage("nothing to publish")
                .hint("give messages as arguments, --file FILE, or --stdin to type them line by line"));
        }
        Ok(sources)
    }
}

/// Why publishing ended early.
enum Trouble {
    /// The messages cannot be read.
    Input(Failure),
    /// One was not acknowledged.
    Publish(PublishError),
}

type Pending = BoxFuture<'static, (usize, Result<Receipt, PublishError>)>;

struct Sending {
    producer: Producer,
    topic: String,
    defer: Option<Duration>,
    /// In the order of the messages.
    pending: FuturesOrdered<Pending>,
    sent: Sent,
}

impl Sending {
    async fn all(
        &mut self,
        mut bodies: tokio::sync::mpsc::Receiver<Result<Bytes, Failure>>,
    ) -> Result<(), Trouble> {
        let mut input = Ok(());
        let mut is_open = true;
        while is_open || !self.pending.is_empty() {
            tokio::select! {
                body = bodies.recv(), if is_open && self.pending.len() < MAX_PENDING => match body {
                    Some(Ok(body)) => self.one(body).await?,
                    Some(Err(failure)) => {
                        input = Err(Trouble::Input(failure));
                        is_open = false;
                    }
                    None => is_open = false,
                },
                Some(result) = self.pending.next(), if !self.pending.is_empty() => self.sent.count(result)?,
            }
        }
        input
    }

    async fn one(&mut self, body: Bytes) -> Result<(), Trouble> {
        let bytes = body.len();
        let pending: Pending = match self.defer {
            Some(delay) => {
                let (producer, topic) = (self.producer.clone(), self.topic.clone());
                async move { (bytes, producer.publish_deferred(topic, delay, body).await) }.boxed()
            }
            None => loop {
                match self.producer.send(&self.topic, body.clone()) {
                    Ok(result) => break async move { (bytes, result.await) }.boxed(),
                    Err(PublishError::Full) => match self.pending.next().await {
                        Some(result) => self.sent.count(result)?,
                        // Not even one fits.
                        None => return Err(Trouble::Publish(PublishError::Full)),
                    },
                    Err(error) => return Err(Trouble::Publish(error)),
                }
            },
        };
        self.pending.push_back(pending);
        Ok(())
    }
}

/// What was acknowledged, without a gap from the first message on.
#[derive(Debug, Default)]
struct Sent {
    acknowledged: u64,
    bytes: u64,
    nodes: BTreeSet<String>,
}

impl Sent {
    fn count(&mut self, (bytes, result): (usize, Result<Receipt, PublishError>)) -> Result<(), Trouble> {
        let receipt = result.map_err(Trouble::Publish)?;
        self.acknowledged += 1;
        self.bytes += bytes as u64;
        if !self.nodes.contains(&*receipt.node) {
            self.nodes.insert(receipt.node.to_string());
        }
        Ok(())
    }

    fn tell(&self, context: &Context, topic: &str, took: Duration) -> Result<(), Failure> {
        let Sent { acknowledged, bytes, nodes } = self;
        if context.output.is_json() {
            return context.output.json(&json!({
                "topic_name": topic,
                "message_count": acknowledged,
                "message_bytes": bytes,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "nodes": nodes,
            }));
        }
        let rate = *acknowledged as f64 / took.as_secs_f64().max(0.001);
        let nodes = nodes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        context.output.note(&match acknowledged {
            0 => "nothing to publish".to_owned(),
            1 => format!("1 message, {bytes} bytes, to {nodes}"),
            n => format!("{n} messages, {bytes} bytes, {rate:.0} per second, to {nodes}"),
        });
        Ok(())
    }

    /// How to go on after a failure.
    fn advise(&self, failure: Failure, skipped: u64) -> Failure {
        if self.acknowledged == 0 {
            return failure;
        }
        let advice = format!(
            "{} messages were acknowledged; the same command with --skip {} goes on",
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

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Slower than one in eleven days is a mistake, and faster than the clock is no limit.
        Ok(rate) if (1e-6..=1e9).contains(&rate) => Ok(rate),
        _ => Err("a number of messages per second, above zero".to_owned()),
    }
}
