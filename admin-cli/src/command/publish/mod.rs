//! `nsq pub`: publishes arguments, files or stdin, with many messages in flight, and reports the first message that
//! was not acknowledged.
//!
//! `source` reads the input, `pieces` splits it into messages, and this file sends and counts them.

mod pieces;
mod source;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesOrdered;
use nsq::{Producer, PublishError, PublishedMessage, Receipt};
use nsq_daemon::go_duration;
use nsq_protocol::headers::ID;
use serde_json::json;

use super::Context;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::TopicArgument;
use crate::sources::{self, TcpSources, publish_failure};
use pieces::parse_delimiter;
use source::{Reading, Source};

/// Maximum number of publishes that wait for their answer.
const MAX_PENDING: usize = 1000;

#[derive(Debug, Args)]
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
    /// Publish each file, or all of stdin, as one message.
    #[arg(long, conflicts_with = "delimiter")]
    whole: bool,
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
    let sources = flags.sources()?;
    let TcpSources { nsqds, .. } = sources::find(&context.targets, sources::Purpose::Publish).await?;
    let producer = Producer::builder()
        .nsqd(&nsqds)
        .config(config)
        .publish_timeout(context.targets.timeout)
        .build()
        .map_err(Failure::from)?;
    let mut sending =
        Sending { producer, topic, defer, headers, pending: FuturesOrdered::new(), sent: Sent::default() };
    let started_at = Instant::now();
    let result = sending.all(source::read(sources, reading)).await;
    let Sending { producer, sent, topic, pending, .. } = sending;
    // After a failure, messages may be left that were not sent; they must not be sent now.
    drop(pending);
    producer.close(context.targets.timeout).await;
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

    /// The id of the only message.
    fn single_id(&mut self) -> Result<Option<String>, Failure> {
        let id = self.id.take();
        let is_single = match (self.bodies.len(), self.file.len()) {
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
enum SendError {
    /// The input cannot be read.
    Input(Failure),
    /// A message was not acknowledged.
    Publish(PublishError),
}

type Pending = BoxFuture<'static, (usize, Result<Receipt, PublishError>)>;

struct Sending {
    producer: Producer,
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
        let bytes = body.len();
        let pending: Pending = match self.defer {
            None if self.headers.is_empty() => loop {
                match self.producer.send(&self.topic, body.clone()) {
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
                let (producer, topic) = (self.producer.clone(), self.topic.clone());
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
    acknowledged: u64,
    bytes: u64,
    nodes: BTreeSet<String>,
    /// What nsqd says of the last message.
    message: Option<PublishedMessage>,
}

impl Sent {
    fn count(&mut self, (bytes, result): (usize, Result<Receipt, PublishError>)) -> Result<(), SendError> {
        let receipt = result.map_err(SendError::Publish)?;
        self.acknowledged += 1;
        self.bytes += bytes as u64;
        self.message = receipt.message;
        if !self.nodes.contains(&*receipt.node) {
            self.nodes.insert(receipt.node.to_string());
        }
        Ok(())
    }

    fn print_summary(&self, context: &Context, topic: &str, took: Duration) -> Result<(), Failure> {
        let Sent { acknowledged, bytes, nodes, message } = self;
        if context.output.is_json() {
            let mut summary = json!({
                "topic_name": topic,
                "message_count": acknowledged,
                "message_bytes": bytes,
                "took_ms": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
                "nodes": nodes,
            });
            if let Some(PublishedMessage { id, is_duplicate }) = message {
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
