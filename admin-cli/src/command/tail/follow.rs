//! Prints the messages of one channel on each of several topics, and finishes what it printed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::SelectAll;
use nsq::admin::LookupdClient;
use nsq::{Config, Consumer, Event, Message, Requeue};
use nsq_daemon::shutdown::StopSignals;
use regex::bytes::Regex;
use tokio::sync::mpsc;

use crate::command::subscribe::dump::Dump;
use crate::command::subscribe::exec::translate;
use crate::command::subscribe::record::{Form, Style, fit_for_terminal};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::output::Output;
use crate::sources::{self, Ready, TcpSources, start_failure};

/// A person waits, so a new topic must be noticed soon.
pub const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum number of messages printed at a time.
const BATCH: usize = 100;
/// Maximum time for writing the last answers when stopping.
const DRAIN: Duration = Duration::from_secs(5);
/// Events that wait to be reported.
const EVENTS: usize = 64;

/// When to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    None,
    /// After this many messages of all topics.
    Total(u64),
    /// As soon as one topic has had this many messages.
    PerTopic(u64),
}

/// How to print a message.
#[derive(Debug, Clone)]
pub struct Format {
    pub form: Form,
    /// Whether to escape characters that could control a terminal.
    pub escape: bool,
    /// Whether to print the topic before each body. JSON contains it anyway.
    pub print_topic: bool,
    /// The byte after each message.
    pub end: u8,
}

/// Topics that nsqlookupds know and that match are followed on this channel.
#[derive(Debug)]
pub struct Discovery {
    pub pattern: Regex,
    pub channel: String,
    pub lookupds: Vec<LookupdClient>,
}

/// Maximum number of topics of one run, each with its own consumer.
const MAX_TOPICS: usize = 1_000;

impl Discovery {
    /// The matching topics. A nsqlookupd that does not answer is left out: it is asked again.
    pub async fn topics(&self) -> BTreeSet<String> {
        let answers = join_all(self.lookupds.iter().map(LookupdClient::topics)).await;
        let names = answers.into_iter().flatten().flatten();
        names.filter(|name| self.pattern.is_match(name.as_bytes())).collect()
    }
}

/// What to print, and from where.
#[derive(Debug)]
pub struct Follow {
    /// The channels, one per topic.
    pub objects: Vec<Object>,
    /// Topics to add as they appear.
    pub discovery: Option<Discovery>,
    pub sources: TcpSources,
    pub config: Config,
    pub max_in_flight: u32,
    pub limit: Limit,
    /// Print only messages whose body matches.
    pub grep: Option<Regex>,
    pub format: Format,
    /// Prints at most this number of messages per second; the others are skipped.
    pub rate: Option<u32>,
    /// Prints what this shell command makes of a body.
    pub translate: Option<String>,
    /// Writes files instead of printing.
    pub dump: Option<Dump>,
    /// How long to wait for the first connection.
    pub timeout: Duration,
    pub output: Output,
}

impl Follow {
    /// Prints messages until the limit is reached or a signal arrives. Fails if no nsqd can be reached at the start; later
    /// errors are reported and retried.
    pub async fn run(self) -> Result<ExitStatus, Failure> {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let mut session = Session::start(self)?;
        let ended = tokio::select! {
            ended = session.print_all() => ended,
            () = signals.wait() => Ok(()),
        };
        tokio::select! {
            () = session.stop() => {}
            () = signals.wait() => return Ok(ExitStatus::Interrupted),
        }
        if session.late > 0 {
            let late = session.late;
            let text = "messages were printed but could not be finished; nsqd delivers them again";
            session.follow.output.warning(&format!("! {late} {text}"));
        }
        if session.skipped > 0 {
            session.follow.output.warning(&format!("{} messages above --rate were skipped", session.skipped));
        }
        ended.map(|()| ExitStatus::Done)
    }
}

/// A message, and the index of its topic.
type Arrived = (usize, Message);
type Arrivals = SelectAll<futures_util::stream::BoxStream<'static, Arrived>>;

struct Session {
    follow: Follow,
    consumers: Vec<Consumer>,
    arrivals: Option<Arrivals>,
    events: mpsc::Receiver<Event>,
    /// Messages that were taken and are neither finished nor requeued. The first `printed` are printed.
    taken: Vec<Arrived>,
    printed: usize,
    /// Number of messages still to print, by topic. With [`Limit::Total`], the first counts for all.
    remaining: Vec<u64>,
    /// Number of printed messages that could not be finished any more. nsqd delivers them again.
    late: u64,
    events_tx: mpsc::Sender<Event>,
    /// With a rate, when the next message may be printed.
    next_at: Instant,
    /// Number of messages above the rate.
    skipped: u64,
}

impl Session {
    fn start(follow: Follow) -> Result<Self, Failure> {
        let (events_tx, events) = mpsc::channel(EVENTS);
        let limit = match follow.limit {
            Limit::None => u64::MAX,
            Limit::Total(limit) | Limit::PerTopic(limit) => limit,
        };
        let objects = follow.objects.clone();
        let mut session = Session {
            follow,
            consumers: Vec::new(),
            arrivals: Some(SelectAll::new()),
            events,
            taken: Vec::new(),
            printed: 0,
            remaining: vec![limit; objects.len().max(1)],
            late: 0,
            events_tx,
            next_at: Instant::now(),
            skipped: 0,
        };
        for (index, object) in objects.iter().enumerate() {
            session.add(index, object, limit)?;
        }
        Ok(session)
    }

    /// Starts the consumer of the topic with this index.
    fn add(&mut self, index: usize, object: &Object, limit: u64) -> Result<(), Failure> {
        let follow = &self.follow;
        let stream = Consumer::builder(&object.topic, object.channel.as_deref().unwrap_or_default())
            .nsqd(&follow.sources.nsqds)
            .lookupd(&follow.sources.lookupds)
            .config(follow.config.clone().max_in_flight(within(follow.max_in_flight, limit)))
            .stream()
            .map_err(|error| start_failure(&error))?;
        let mut of_consumer = stream.consumer().events();
        let events_tx = self.events_tx.clone();
        tokio::spawn(async move {
            while let Ok(event) = of_consumer.recv().await {
                // A full queue means that stderr is not read.
                let _ = events_tx.try_send(event);
            }
        });
        self.consumers.push(stream.consumer().clone());
        if let Some(arrivals) = &mut self.arrivals {
            arrivals.push(stream.map(move |message| (index, message)).boxed());
        }
        Ok(())
    }

    /// Follows topics that have appeared.
    fn add_topics(&mut self, topics: BTreeSet<String>) -> Result<(), Failure> {
        let Some(channel) = self.follow.discovery.as_ref().map(|discovery| discovery.channel.clone()) else {
            return Ok(());
        };
        for topic in topics {
            let object = Object { topic, channel: Some(channel.clone()) };
            if self.follow.objects.contains(&object) || self.follow.objects.len() >= MAX_TOPICS {
                continue;
            }
            self.follow.output.note(&format!("following {}", object.topic));
            let index = self.follow.objects.len();
            let remaining = self.remaining[0];
            self.add(index, &object, remaining)?;
            self.follow.objects.push(object);
            if self.remaining.len() <= index {
                self.remaining.push(remaining);
            }
        }
        Ok(())
    }

    /// Fails if every topic fails. Some topics may be unknown.
    async fn wait_ready(&self) -> Result<(), Failure> {
        let output = self.follow.output;
        let (mut failed, mut any_good) = (None, false);
        for (consumer, object) in self.consumers.iter().zip(&self.follow.objects) {
            match sources::ready(consumer, self.follow.timeout).await {
                Ok(Ready::NoNodes) => {
                    let topic = &object.topic;
                    output.note(&format!("no nsqd has topic {topic} yet; waiting for its first message"));
                    any_good = true;
                }
                Ok(Ready::Subscribed | Ready::Unknown) => any_good = true,
                Err(error) => failed = failed.or(Some(start_failure(&error))),
            }
        }
        match failed {
            Some(failure) if !any_good && self.follow.discovery.is_none() => Err(failure),
            _ => Ok(()),
        }
    }

    /// Cancel safe: messages that were taken and not printed stay in `taken`.
    async fn print_all(&mut self) -> Result<(), Failure> {
        self.wait_ready().await?;
        let mut looks = tokio::time::interval(LOOKUP_INTERVAL);
        while !self.is_done() {
            let discovery = self.follow.discovery.as_ref();
            let Some(arrivals) = &mut self.arrivals else { return Ok(()) };
            tokio::select! {
                arrived = arrivals.next(), if !arrivals.is_empty() => match arrived {
                    Some(arrived) => self.taken.push(arrived),
                    None => return Err(Failure::failed("the consumers have stopped")),
                },
                found = async {
                    looks.tick().await;
                    match discovery {
                        Some(discovery) => discovery.topics().await,
                        None => BTreeSet::new(),
                    }
                }, if discovery.is_some() => {
                    self.add_topics(found)?;
                    continue;
                }
                Some(event) = self.events.recv() => {
                    self.report(&event);
                    continue;
                }
            }
            // Take the others that have arrived.
            while self.taken.len() < BATCH
                && let Some(Some(arrived)) = futures_util::FutureExt::now_or_never(arrivals.next())
            {
                self.taken.push(arrived);
            }
            self.print().await?;
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.remaining.contains(&0)
    }

    /// Prints the taken messages up to the limit, and finishes them unless the limit is reached.
    async fn print(&mut self) -> Result<(), Failure> {
        let mut text = Vec::new();
        let counts_all = matches!(self.follow.limit, Limit::Total(_));
        let pause = self.follow.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
        for (topic, message) in &self.taken {
            if self.remaining.contains(&0) {
                break;
            }
            self.printed += 1;
            if !self.follow.grep.as_ref().is_none_or(|grep| grep.is_match(message.body())) {
                continue;
            }
            if !pause.is_zero() {
                let now = Instant::now();
                if now < self.next_at {
                    self.skipped += 1;
                    continue;
                }
                self.next_at = now + pause;
            }
            if self.follow.append(&mut text, *topic, message).await? {
                self.remaining[if counts_all { 0 } else { *topic }] -= 1;
            }
        }
        if !self.is_done() {
            // Lower the limit before the FINs, so that nsqd does not send messages that would only be requeued.
            for (topic, consumer) in self.consumers.iter().enumerate() {
                let remaining = self.remaining[if counts_all { 0 } else { topic }];
                if self.follow.grep.is_none() && remaining < u64::from(self.follow.max_in_flight) {
                    consumer.set_max_in_flight(within(self.follow.max_in_flight, remaining));
                }
            }
        }
        let output = self.follow.output;
        // A slow reader of stdout must not delay heartbeats or signals.
        let written = tokio::task::spawn_blocking(move || output.data(text)).await.map_err(Failure::failed);
        if let Err(failure) = written.and_then(|written| written) {
            self.printed = 0;
            return Err(failure);
        }
        // The last messages are finished by `stop`, after nsqd was asked to send no more.
        if !self.is_done() {
            self.finish_printed();
        }
        Ok(())
    }

    fn finish_printed(&mut self) {
        for (_, message) in self.taken.drain(..std::mem::take(&mut self.printed)) {
            self.late += u64::from(message.finish().is_err());
        }
    }

    fn report(&self, event: &Event) {
        match event {
            Event::Disconnected { node, reason } => {
                self.follow.output.warning(&format!("! {node} tail: {reason}"));
            }
            Event::LookupFailed(error) => {
                self.follow.output.warning(&format!("! {} lookup: {}", error.lookupd, error.reason));
            }
            Event::GaveUp { id, reason, .. } => {
                self.follow.output.warning(&format!("! message {id} was given up: {reason}"));
            }
            // Other events are not failures, or are reported elsewhere.
            _ => {}
        }
    }

    /// Stops the consumers. Requeues messages that were taken and not printed, without backoff.
    async fn stop(&mut self) {
        let consumers = std::mem::take(&mut self.consumers);
        let stopping = futures_util::future::join_all(consumers.iter().map(|one| one.shutdown(DRAIN)));
        let answer = async {
            for (_, message) in &self.taken {
                message.stopping().await;
            }
            self.finish_printed();
            for (_, message) in self.taken.drain(..) {
                // If the connection is closed, nsqd has already requeued the message.
                let _ = message.requeue_without_backoff(Requeue::Now);
            }
        };
        tokio::join!(stopping, answer);
        self.arrivals = None;
    }
}

impl Follow {
    /// Appends a message, or writes its file; returns whether it counts.
    async fn append(&self, text: &mut Vec<u8>, topic: usize, message: &Message) -> Result<bool, Failure> {
        let object = &self.objects[topic];
        let Format { form, escape, print_topic, end } = &self.format;
        if let Some(dump) = &self.dump {
            let written = dump.write(object, message);
            written.map_err(|error| {
                Failure::failed(format_args!("cannot write message {}: {error}", message.id()))
            })?;
            return Ok(true);
        }
        let style = Style { object, form, escape: *escape, output: self.output };
        let line = match &self.translate {
            Some(command) => {
                let made = translate(command, object, message).await;
                let made =
                    made.map_err(|error| Failure::failed(format_args!("message {}: {error}", message.id())))?;
                Some(if *escape { fit_for_terminal(&made).into_bytes() } else { made })
            }
            None => style.line(message)?,
        };
        let Some(line) = line else { return Ok(false) };
        if *print_topic && matches!(form, Form::Body) {
            text.extend_from_slice(object.topic.as_bytes());
            text.extend_from_slice(b" | ");
        }
        text.extend(line);
        text.push(*end);
        Ok(true)
    }
}

fn within(max_in_flight: u32, remaining: u64) -> u32 {
    u32::try_from(remaining).map_or(max_in_flight, |remaining| remaining.min(max_in_flight))
}
