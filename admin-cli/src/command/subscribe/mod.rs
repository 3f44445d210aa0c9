//! `nsq sub`: takes the messages of a channel, and prints them, writes them to files or runs a program for each.
//!
//! `record` and `template` format messages; `exec` runs programs, `given_up` says what happens if they fail; `dump` writes files; `last` finds a start; this file takes
//! and finishes messages.

pub mod dump;
pub mod exec;
mod given_up;
pub mod last;
pub mod record;
pub mod template;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;
use nsq::admin::StatsQuery;
use nsq::{Consumer, Event, Message, MessageStream, Requeue, StartAt};
use nsq_daemon::shutdown::StopSignals;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Context;
use super::change::holdings;
use super::retention::{PLACES, parse_place};
use crate::bridge::held::{Held, touch_time};
use crate::bridge::touching::while_touching;
use crate::cluster::Cluster;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{ChannelArgument, Object};
use crate::sources::{self, Purpose, Ready, start_failure};
use dump::Dump;
use exec::Verdict;
use given_up::GivenUp;
use last::{MAX_LAST, start_of_last};
use record::{Form, Style};
use template::{DIRECTIVES, Template};

/// Maximum number of messages printed at a time.
const BATCH: usize = 100;
/// A person waits, so a new topic must be noticed soon.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum time for writing the last answers when stopping.
const DRAIN: Duration = Duration::from_secs(5);
/// A message that its program wants to try again comes after this time, so that it does not come all the time.
const TRY_AGAIN_DELAY: Duration = Duration::from_secs(1);
/// With `--until-empty`, how often to look whether messages are left.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

const EXAMPLES: &str = "\
Examples:
  nsq sub orders billing                      # print and finish messages, until Ctrl-C
  nsq sub orders billing -n 5 --json          # five messages with id, time, attempts, node and headers
  nsq sub orders billing --format '%T %i %b'  # in a format of your own
  nsq sub orders billing --exec ./handle      # run a program per message: see --exec
  nsq sub orders billing --exec ./handle --max-attempts 5 --dead-letter orders.failed
  nsq sub orders billing --until-empty --dump messages   # one file per message";

/// What happens to messages that are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ack {
    /// Finish each message after it is printed.
    Auto,
    /// Hold the messages, at most --max-in-flight, and requeue them at the end.
    None,
}

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{DIRECTIVES}"))]
pub struct SubscribeFlags {
    #[command(flatten)]
    channel: ChannelArgument,
    /// Stop after this many messages.
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop when no message is left in the channel.
    #[arg(long)]
    until_empty: bool,
    /// Finish messages, or give them back.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Ack::Auto)]
    ack: Ack,
    /// Run this shell command for each message instead of printing it: body on stdin; NSQ_TOPIC, NSQ_CHANNEL, NSQ_NODE,
    /// NSQ_ID, NSQ_ATTEMPTS and NSQ_TIMESTAMP in the environment. Exit code 0 finishes the message, 75 requeues it for a
    /// second, any other code requeues it for default_requeue_delay (see -X) and slows down.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["ack", "dump", "format", "raw"])]
    exec: Option<String>,
    /// Programs that run at a time, with --exec.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "exec", value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// With --exec: give a message up when its program has failed N times, instead of trying again for ever.
    #[arg(long, value_name = "N", requires = "exec", value_parser = clap::value_parser!(u16).range(1..))]
    max_attempts: Option<u16>,
    /// Publish messages that are given up to this topic. [default: drop them]
    #[arg(long, value_name = "TOPIC", requires = "max_attempts")]
    dead_letter: Option<String>,
    /// Write each body to a file TOPIC.ID in this directory instead of printing it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["format", "raw"])]
    dump: Option<PathBuf>,
    /// Maximum number of messages in flight.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    /// Region of this consumer, for nsqds that prefer near consumers.
    #[arg(long, value_name = "REGION", default_value = "", hide_default_value = true)]
    topology_region: String,
    /// Zone of this consumer, for nsqds that prefer near consumers.
    #[arg(long, value_name = "ZONE", default_value = "", hide_default_value = true)]
    topology_zone: String,
    /// Place where the channel starts, if this command creates it.
    #[arg(long, value_name = "PLACE", value_parser = parse_place,
          long_help = format!("Place where the channel starts, if this command creates it.\n\n{PLACES}"))]
    from: Option<StartAt>,
    /// If this command creates the channel, start with the newest N messages that the topic retains.
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u64).range(1..=MAX_LAST))]
    last: Option<u64>,
    /// Print bodies unescaped, even to a terminal.
    #[arg(long)]
    raw: bool,
    /// Print messages in this format, such as '%T %i %b'; see below.
    #[arg(long, value_name = "FORMAT", value_parser = Template::parse)]
    format: Option<Template>,
}

/// Takes messages until the count is reached, the channel is empty or a signal arrives.
pub async fn run(context: &Context, flags: SubscribeFlags) -> Result<ExitStatus, Failure> {
    let object = flags.channel.object()?;
    let form = Form::new(context.output, flags.format.clone())?;
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let mut session = tokio::select! {
        session = Session::start(context, &flags, &object, &form) => session?,
        () = signals.wait() => return Ok(ExitStatus::Done),
    };
    let ended = tokio::select! {
        ended = session.work() => ended,
        () = signals.wait() => Ok(()),
    };
    tokio::select! {
        () = session.stop() => {}
        () = signals.wait() => return Ok(ExitStatus::Interrupted),
    }
    session.warn_about_late_messages();
    ended.map(|()| ExitStatus::Done)
}

/// A message with what its program says.
type Handled = (Message, std::io::Result<Verdict>);

struct Session<'a> {
    context: &'a Context,
    flags: &'a SubscribeFlags,
    style: Style<'a>,
    dump: Option<Dump>,
    stream: MessageStream,
    events: Receiver<Event>,
    /// Messages that were taken and are neither finished nor requeued.
    taken: Vec<Message>,
    /// Whether the messages in `taken` were printed.
    printed: bool,
    /// With `--ack none`, the printed messages.
    held: Held<Message>,
    /// Running programs, at most `--concurrency`.
    programs: FuturesUnordered<BoxFuture<'static, Handled>>,
    /// When a failed message is given up.
    given_up: Option<Arc<GivenUp>>,
    /// Number of messages still to take.
    remaining: u64,
    /// Number of printed messages that could not be finished any more. nsqd delivers them again.
    late: u64,
}

impl<'a> Session<'a> {
    async fn start(
        context: &'a Context,
        flags: &'a SubscribeFlags,
        object: &'a Object,
        form: &'a Form,
    ) -> Result<Self, Failure> {
        let sources = sources::find(&context.targets, Purpose::Consume).await?;
        let given_up = GivenUp::new(context, flags).await?.map(Arc::new);
        let max_in_flight = flags.limit();
        let remaining = flags.count.unwrap_or(u64::MAX);
        let remaining = if flags.ack == Ack::None { remaining.min(max_in_flight.into()) } else { remaining };
        let from = match flags.last {
            Some(count) => start_of_last(&context.targets, &object.topic, count).await?,
            None => flags.from.unwrap_or_default(),
        };
        let channel = object.channel.as_deref().unwrap_or_default();
        let config = (context.targets.security.config.clone())
            .lookupd_poll_interval(LOOKUP_INTERVAL)
            .lookupd_poll_timeout(context.targets.timeout)
            .channel_start(from)
            .headers(form.wants_headers() || flags.dead_letter.is_some())
            .max_in_flight(within(max_in_flight, remaining))
            .topology_region(&flags.topology_region)
            .topology_zone(&flags.topology_zone);
        let stream = Consumer::builder(&object.topic, channel)
            .nsqd(&sources.nsqds)
            .lookupd(&sources.lookupds)
            .config(config)
            .stream()
            .map_err(|error| start_failure(&error))?;
        let output = context.output;
        let session = Session {
            context,
            flags,
            style: Style { object, form, escape: output.is_terminal() && !flags.raw, output },
            dump: flags.dump.as_deref().map(Dump::new).transpose()?,
            events: stream.consumer().events(),
            stream,
            taken: Vec::new(),
            printed: false,
            held: Held::default(),
            programs: FuturesUnordered::new(),
            given_up,
            remaining,
            late: 0,
        };
        session.wait_ready().await?;
        Ok(session)
    }

    /// Fails if no daemon can be reached now. Later errors are retried.
    async fn wait_ready(&self) -> Result<(), Failure> {
        let (output, object) = (self.context.output, self.style.object);
        let ready = sources::ready(self.stream.consumer(), self.context.targets.timeout).await;
        match ready.map_err(|error| start_failure(&error))? {
            Ready::Subscribed if self.flags.exec.is_none() && self.flags.ack == Ack::Auto => {
                output.note(&format!("taking messages of {object}; each is finished on this channel"));
            }
            Ready::NoNodes => {
                let topic = &object.topic;
                output.note(&format!("no nsqd has topic {topic} yet; waiting for its first message"));
            }
            // Later events show what happens.
            Ready::Subscribed | Ready::Unknown => {}
        }
        Ok(())
    }

    /// Cancel safe: messages that were taken and not answered stay in the session.
    async fn work(&mut self) -> Result<(), Failure> {
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut has_arrived = true;
        while self.remaining > 0 || !self.programs.is_empty() {
            let room = match &self.flags.exec {
                Some(_) => usize::from(self.flags.concurrency).saturating_sub(self.programs.len()),
                None => BATCH,
            };
            let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(room);
            let touch_at = self.held.next_touch();
            tokio::select! {
                count = self.stream.next_many(&mut self.taken, limit), if limit > 0 => if count == 0 {
                    return Err(Failure::failed("the consumer has stopped"));
                },
                Some(handled) = self.programs.next(), if !self.programs.is_empty() => {
                    self.answer(handled)?;
                    continue;
                }
                event = self.events.recv() => {
                    self.report(event);
                    continue;
                }
                () = sleep_until(touch_at.map_or_else(Instant::now, Instant::from_std)), if touch_at.is_some() => {
                    self.touch();
                    continue;
                }
                _ = looks.tick(), if self.flags.until_empty => {
                    let is_quiet = !std::mem::take(&mut has_arrived) && self.programs.is_empty();
                    if is_quiet && self.stream.consumer().stats().queued == 0 && self.is_empty().await? {
                        return Ok(());
                    }
                    continue;
                }
            }
            has_arrived = true;
            self.remaining = self.remaining.saturating_sub(self.taken.len() as u64);
            if self.remaining > 0 && self.flags.ack == Ack::Auto {
                // Lower the limit before the FINs, so that nsqd does not send messages that would only be requeued.
                self.stream.consumer().set_max_in_flight(within(self.flags.limit(), self.remaining));
            }
            match &self.flags.exec {
                Some(command) => self.run_programs(command),
                None => self.print().await?,
            }
        }
        Ok(())
    }

    fn run_programs(&mut self, command: &str) {
        for message in self.taken.drain(..) {
            let (command, object) = (command.to_owned(), self.style.object.clone());
            let (given_up, output) = (self.given_up.clone(), self.context.output);
            self.programs.push(
                async move {
                    let status = while_touching(&message, exec::handle(&command, &object, &message)).await;
                    let mut verdict = status.map(Verdict::of);
                    if let Some(given_up) = given_up.filter(|given_up| given_up.concerns(&message))
                        && matches!(verdict, Ok(Verdict::TryAgain | Verdict::Failed))
                    {
                        verdict = Ok(match while_touching(&message, given_up.put_away(&message)).await {
                            Ok(()) => {
                                output.warning(&given_up.describe(&message));
                                Verdict::Finish
                            }
                            Err(error) => {
                                output
                                    .warning(&format!("! message {}: no dead letter: {error}", message.id()));
                                Verdict::Failed
                            }
                        });
                    }
                    (message, verdict)
                }
                .boxed(),
            );
        }
    }

    fn answer(&mut self, (message, verdict): Handled) -> Result<(), Failure> {
        let id = message.id();
        let answered = match verdict {
            Ok(Verdict::Finish) => message.finish(),
            Ok(Verdict::TryAgain) => message.requeue_without_backoff(Requeue::After(TRY_AGAIN_DELAY)),
            Ok(Verdict::Failed) => {
                self.context
                    .output
                    .warning(&format!("! message {id}: the program failed; it is delivered again later"));
                message.requeue(Requeue::Auto)
            }
            Err(error) => {
                // If the connection is closed, nsqd has already requeued the message.
                let _ = message.requeue_without_backoff(Requeue::Now);
                return Err(Failure::failed(format_args!(
                    "cannot run the program for message {id}: {error}"
                )));
            }
        };
        self.late += u64::from(answered.is_err());
        Ok(())
    }

    /// Prints the taken messages, and finishes them unless they are the last ones.
    async fn print(&mut self) -> Result<(), Failure> {
        if let Some(dump) = &self.dump {
            for message in &self.taken {
                let written = dump.write(self.style.object, message);
                written.map_err(|error| {
                    Failure::failed(format_args!("cannot write message {}: {error}", message.id()))
                })?;
            }
            dump.sync()
                .map_err(|error| Failure::failed(format_args!("cannot sync the directory: {error}")))?;
        } else {
            let mut lines = Vec::new();
            for message in &self.taken {
                if let Some(line) = self.style.line(message)? {
                    lines.extend(line);
                    lines.push(b'\n');
                }
            }
            let output = self.context.output;
            // A slow reader of stdout must not delay heartbeats or signals.
            let written = tokio::task::spawn_blocking(move || output.data(lines)).await;
            written.map_err(Failure::failed)??;
        }
        if self.flags.ack == Ack::None {
            for message in self.taken.drain(..) {
                let touch_at = touch_time(message.received_at(), message.deadline());
                self.held.push(message, touch_at);
            }
        } else if self.remaining > 0 {
            self.finish();
        }
        // The last messages are finished by `stop`, after nsqd was asked to send no more.
        self.printed = self.remaining == 0;
        Ok(())
    }

    fn finish(&mut self) {
        for message in self.taken.drain(..) {
            self.late += u64::from(message.finish().is_err());
        }
    }

    fn touch(&mut self) {
        let now = std::time::Instant::now();
        self.held.touch_due(now, |message| {
            // If it is too late, nsqd delivers the message again.
            message.touch().ok()?;
            touch_time(now, message.deadline())
        });
    }

    /// Whether no message waits on any node. Those that are deferred do not count.
    async fn is_empty(&self) -> Result<bool, Failure> {
        let object = self.style.object;
        let cluster = Cluster::find(&self.context.targets).await?;
        let query = StatsQuery {
            topic: Some(object.topic.clone()),
            channel: object.channel.clone(),
            ..StatsQuery::default()
        };
        let stats = cluster.stats(&query).await;
        if !stats.errors.is_empty() {
            return Ok(false);
        }
        let holdings = holdings(&stats, object);
        Ok(holdings
            .iter()
            .all(|holding| holding.topic.depth == 0 && holding.channels.iter().all(|c| c.depth == 0)))
    }

    fn report(&self, event: Result<Event, RecvError>) {
        let output = self.context.output;
        match event {
            Ok(Event::Disconnected { node, reason }) => output.warning(&format!("! {node} sub: {reason}")),
            Ok(Event::LookupFailed(error)) => {
                output.warning(&format!("! {} lookup: {}", error.lookupd, error.reason))
            }
            // Other events are not failures, or are reported elsewhere. A slow receiver misses some events.
            _ => {}
        }
    }

    /// Stops the consumer. Requeues messages that were taken and not printed, without backoff.
    async fn stop(&mut self) {
        let consumer = self.stream.consumer().clone();
        let answer = async {
            if let Some(message) = self.taken.first() {
                message.stopping().await;
            }
            if self.printed {
                self.finish();
            }
            // Programs that run are stopped, and their messages go back.
            self.programs.clear();
            for message in self.taken.drain(..).chain(self.held.take()) {
                // If the connection is closed, nsqd has already requeued the message.
                let _ = message.requeue_without_backoff(Requeue::Now);
            }
        };
        tokio::join!(consumer.shutdown(DRAIN), answer);
    }

    fn warn_about_late_messages(&self) {
        if self.late > 0 {
            let text = "! {} messages were printed but could not be finished; nsqd delivers them again";
            self.context.output.warning(&text.replace("{}", &self.late.to_string()));
        }
    }
}

impl SubscribeFlags {
    /// The messages in flight: programs need no more than one each.
    fn limit(&self) -> u32 {
        match self.exec {
            Some(_) => self.max_in_flight.min(self.concurrency.into()),
            None => self.max_in_flight,
        }
    }
}

fn within(max_in_flight: u32, remaining: u64) -> u32 {
    u32::try_from(remaining).map_or(max_in_flight, |remaining| remaining.min(max_in_flight))
}
