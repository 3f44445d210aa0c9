//! `nsq sub`: prints the messages of a channel. Printed messages are finished, all others are requeued.
//!
//! `record` formats messages; this file takes, prints and finishes them.

mod record;

use std::time::Duration;

use clap::Args;
use nsq::{Consumer, ConsumerState, Event, Message, MessageStream, Requeue, StartAt};
use nsq_daemon::shutdown::StopSignals;
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Context;
use super::retention::{PLACES, parse_place};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::{ChannelArgument, Object};
use crate::sources::{self, Purpose, start_failure};
use record::Style;

/// Maximum number of messages printed at a time.
const BATCH: usize = 100;
/// A person waits, so a new topic must be noticed soon.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum time for writing the last answers when stopping.
const DRAIN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct SubscribeFlags {
    #[command(flatten)]
    channel: ChannelArgument,
    /// Stop after this many messages.
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
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
    /// Print bodies unescaped, even to a terminal.
    #[arg(long)]
    raw: bool,
}

/// Prints messages until the count is reached or a signal arrives.
pub async fn run(context: &Context, flags: SubscribeFlags) -> Result<ExitStatus, Failure> {
    let object = flags.channel.object()?;
    let mut signals = StopSignals::catch().map_err(Failure::failed)?;
    let mut session = tokio::select! {
        session = Session::start(context, &flags, &object) => session?,
        () = signals.wait() => return Ok(ExitStatus::Done),
    };
    let ended = tokio::select! {
        ended = session.print_all() => ended,
        () = signals.wait() => Ok(()),
    };
    tokio::select! {
        () = session.stop() => {}
        () = signals.wait() => return Ok(ExitStatus::Interrupted),
    }
    session.warn_about_late_messages();
    ended.map(|()| ExitStatus::Done)
}

struct Session<'a> {
    context: &'a Context,
    style: Style<'a>,
    stream: MessageStream,
    events: Receiver<Event>,
    /// Messages that were taken and are neither finished nor requeued.
    taken: Vec<Message>,
    /// Whether the messages in `taken` were printed.
    printed: bool,
    max_in_flight: u32,
    /// Number of messages still to print.
    remaining: u64,
    /// Number of printed messages that could not be finished any more. nsqd delivers them again.
    late: u64,
}

impl<'a> Session<'a> {
    async fn start(
        context: &'a Context,
        flags: &SubscribeFlags,
        object: &'a Object,
    ) -> Result<Self, Failure> {
        let sources = sources::find(&context.targets, Purpose::Consume).await?;
        let remaining = flags.count.unwrap_or(u64::MAX);
        let channel = object.channel.as_deref().unwrap_or_default();
        let config = (context.targets.security.config.clone())
            .lookupd_poll_interval(LOOKUP_INTERVAL)
            .lookupd_poll_timeout(context.targets.timeout)
            .channel_start(flags.from.unwrap_or_default())
            .headers(context.output.is_json())
            .max_in_flight(within(flags.max_in_flight, remaining))
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
            style: Style { object, json: output.is_json(), escape: output.is_terminal() && !flags.raw },
            events: stream.consumer().events(),
            stream,
            taken: Vec::new(),
            printed: false,
            max_in_flight: flags.max_in_flight,
            remaining,
            late: 0,
        };
        session.wait_ready().await?;
        Ok(session)
    }

    /// Fails if no daemon can be reached now. Later errors are retried.
    async fn wait_ready(&self) -> Result<(), Failure> {
        let (output, object) = (self.context.output, self.style.object);
        let mut states = self.stream.consumer().watch();
        let settled = async {
            loop {
                match &*states.borrow_and_update() {
                    ConsumerState::Starting | ConsumerState::Connecting => {}
                    ConsumerState::Failing(error) => return Err(start_failure(error)),
                    ConsumerState::NoNodes => {
                        let topic = &object.topic;
                        output.note(&format!("no nsqd has topic {topic} yet; waiting for its first message"));
                        return Ok(());
                    }
                    _ => {
                        output.note(&format!("printing messages of {object}; printed messages are finished"));
                        return Ok(());
                    }
                }
                if states.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        // A timeout is not a failure; later events show what happens.
        tokio::time::timeout(self.context.targets.timeout, settled).await.unwrap_or(Ok(()))
    }

    /// Cancel safe: messages that were taken and not printed stay in `taken`.
    async fn print_all(&mut self) -> Result<(), Failure> {
        while self.remaining > 0 {
            let limit = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(BATCH);
            tokio::select! {
                count = self.stream.next_many(&mut self.taken, limit) => if count == 0 {
                    return Err(Failure::failed("the consumer has stopped"));
                },
                event = self.events.recv() => {
                    self.report(event);
                    continue;
                }
            }
            self.remaining = self.remaining.saturating_sub(self.taken.len() as u64);
            if self.remaining > 0 {
                // Lower the limit before the FINs, so that nsqd does not send messages that would only be requeued.
                self.stream.consumer().set_max_in_flight(within(self.max_in_flight, self.remaining));
            }
            self.print().await?;
        }
        Ok(())
    }

    /// Prints the taken messages, and finishes them unless they are the last ones.
    async fn print(&mut self) -> Result<(), Failure> {
        let lines: Vec<u8> = self.taken.iter().flat_map(|message| self.style.line(message)).collect();
        let output = self.context.output;
        // A slow reader of stdout must not delay heartbeats or signals.
        let written = tokio::task::spawn_blocking(move || output.data(lines)).await;
        written.map_err(Failure::failed)??;
        if self.remaining > 0 {
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
            for message in self.taken.drain(..) {
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

fn within(max_in_flight: u32, remaining: u64) -> u32 {
    u32::try_from(remaining).map_or(max_in_flight, |remaining| remaining.min(max_in_flight))
}
