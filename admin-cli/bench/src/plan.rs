//! The plan of a run: the validated flags, with their defaults.

use std::time::Duration;

use nsq::Upgrades;
use nsq_protocol::{ChannelName, TopicName};
use serde::Serialize;

use super::address::Address;
use super::failure::Failure;
use super::flags::{BenchFlags, ConsumeFlags, ExtentFlags, ModeFlags, PublishFlags, TargetFlags};
use super::latencies::STAMP_BYTES;
use super::node::addresses;
use super::targets::Security;
use super::targets::Targets;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Publish only.
    Pub,
    /// Consume only.
    Sub,
    /// Publish and consume at the same time.
    Pubsub,
    /// Publish and consume at the same time, with many channels.
    Fanout,
    /// Time from publisher to consumer.
    Latency,
}

impl Mode {
    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Pub => "pub",
            Mode::Sub => "sub",
            Mode::Pubsub => "pubsub",
            Mode::Fanout => "fanout",
            Mode::Latency => "latency",
        }
    }
}

/// A validated run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub tcp: Address,
    pub http: Address,
    /// nsqd's process id, if the user gave it.
    pub pid: Option<u32>,
    pub topic: TopicName,
    /// What the run creates and deletes at the end.
    pub cleanup: Cleanup,
    pub channels: Vec<ChannelName>,
    /// Messages to publish before the measurement; 0 for none.
    pub preload: u64,
    pub publish: Option<Publish>,
    pub consume: Option<Consume>,
    /// Limits of the run; at least one of them is set.
    pub messages: Option<u64>,
    pub duration: Option<Duration>,
    /// TLS, compression and secret.
    pub security: Security,
}

/// What to delete at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    Nothing,
    /// The topic, with its channels and messages.
    Topic,
    /// The channels of a topic that existed before.
    Channels,
}

/// How to publish.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Publish {
    /// Bytes per message.
    pub size: usize,
    /// Messages per command.
    pub batch: usize,
    /// Maximum number of commands without an answer per connection; 0 for no limit.
    pub in_flight: u64,
    pub connections: usize,
    /// Messages per second over all connections.
    pub rate: Option<f64>,
    pub http: bool,
}

/// How to consume.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Consume {
    /// Number of consumers per channel.
    pub consumers: usize,
    pub rdy: u64,
    /// Requeue every message once before it is finished.
    pub requeue: bool,
}

/// Messages of a run without --messages and --duration.
const DEFAULT_MESSAGES: u64 = 1_000_000;

/// Duration of `sub` on a given topic without --messages and --duration.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Maximum bytes in flight per connection by default.
const DEFAULT_IN_FLIGHT_BYTES: usize = 1 << 20;

/// The OKs of this many commands fit into socket buffers. With more, nsqd could write OKs before it reads on, while
/// the generator writes before it reads; both would wait for each other.
const MAX_IN_FLIGHT: u64 = 10_000;

/// Maximum number of connections. A consumer needs a thread of its own.
const MAX_CONNECTIONS: usize = 10_000;

/// Maximum bytes of a command.
const MAX_COMMAND_BYTES: usize = 64 << 20;

/// Messages per second: from one per 10 s, which no deadline notices, to more than a socket can carry.
const RATES: std::ops::RangeInclusive<f64> = 0.1..=1e9;

impl Plan {
    /// Validates the flags.
    pub fn new(targets: &Targets, flags: BenchFlags) -> Result<Self, Failure> {
        let plan = match flags.mode {
            ModeFlags::Pub { target, publish, extent, channels } => Plan {
                publish: Some(Publish::new(&publish)?),
                ..Plan::base(targets, Mode::Pub, target, extent, channels)?
            },
            ModeFlags::Sub { target, consume, extent, preload, size, channels } => {
                let (fresh, messages) = (target.topic.is_none(), extent.messages);
                let base = Plan::base(targets, Mode::Sub, target, extent, channels)?;
                base.consuming(&consume)?.backlog(preload, messages, fresh, size)?
            }
            ModeFlags::Pubsub { target, publish, consume, extent, channels } => {
                let publish = Some(Publish::new(&publish)?);
                Plan { publish, ..Plan::base(targets, Mode::Pubsub, target, extent, channels)? }
                    .consuming(&consume)?
            }
            ModeFlags::Fanout { target, publish, consume, extent, channels } => {
                let publish = Some(Publish::new(&publish)?);
                Plan { publish, ..Plan::base(targets, Mode::Fanout, target, extent, channels)? }
                    .consuming(&consume)?
            }
            ModeFlags::Latency { target, rate, duration, size, connections, consumers, channels, rdy } => {
                within("--size", size, STAMP_BYTES, MAX_COMMAND_BYTES)?;
                let rate = Some(rate);
                let publish =
                    PublishFlags { size, batch: 1, in_flight: None, connections, rate, http: false };
                // Due messages are sent even if earlier ones are not answered.
                let publish = Some(Publish { in_flight: 0, ..Publish::new(&publish)? });
                let extent = ExtentFlags { messages: None, duration: Some(duration) };
                Plan { publish, ..Plan::base(targets, Mode::Latency, target, extent, channels)? }
                    .consuming(&ConsumeFlags { consumers, rdy, requeue: false })?
            }
        };
        plan.check()?;
        Ok(plan)
    }

    /// Whether the topic is deleted at the end.
    pub fn deletes_topic(&self) -> bool {
        self.cleanup == Cleanup::Topic
    }

    fn base(
        targets: &Targets,
        mode: Mode,
        target: TargetFlags,
        extent: ExtentFlags,
        channels: usize,
    ) -> Result<Self, Failure> {
        let (tcp, http) = addresses(targets, target.nsqd_http.as_deref())?;
        let cleanup = match mode {
            _ if target.keep => Cleanup::Nothing,
            _ if target.topic.is_none() => Cleanup::Topic,
            // The messages in channels of `pub` and `sub` may be for another run.
            Mode::Pub | Mode::Sub => Cleanup::Nothing,
            _ if target.channel.is_some() => Cleanup::Nothing,
            _ => Cleanup::Channels,
        };
        let topic = target.topic.unwrap_or_else(|| format!("bench-{:08x}", fastrand::u32(..)));
        Ok(Plan {
            mode,
            tcp,
            http,
            pid: target.pid,
            topic: TopicName::new(topic).map_err(Failure::usage)?,
            cleanup,
            channels: channel_names(target.channel.as_deref().unwrap_or("bench"), channels)?,
            preload: 0,
            publish: None,
            consume: None,
            messages: extent.messages.or(extent.duration.is_none().then_some(DEFAULT_MESSAGES)),
            duration: extent.duration,
            security: targets.security.clone(),
        })
    }

    fn consuming(self, flags: &ConsumeFlags) -> Result<Self, Failure> {
        within("--channels", self.channels.len(), 1, MAX_CONNECTIONS)?;
        within("--consumers", flags.consumers, 1, MAX_CONNECTIONS / self.channels.len())?;
        if flags.rdy == 0 {
            return Err(Failure::usage("--rdy must not be 0"));
        }
        let ConsumeFlags { consumers, rdy, requeue } = *flags;
        Ok(Plan { consume: Some(Consume { consumers, rdy, requeue }), ..self })
    }

    /// `sub`: the messages to publish first, and when to stop.
    fn backlog(
        mut self,
        preload: Option<u64>,
        messages: Option<u64>,
        fresh: bool,
        size: usize,
    ) -> Result<Self, Failure> {
        if fresh && preload == Some(0) {
            return Err(Failure::usage("a new topic has no messages to consume: use --topic or --preload"));
        }
        self.preload = preload.unwrap_or(if fresh { messages.unwrap_or(DEFAULT_MESSAGES) } else { 0 });
        if self.preload > 0 {
            // The preload is not measured, so it is published in the cheapest way.
            let batch = (DEFAULT_IN_FLIGHT_BYTES / 4 / (size + 4)).clamp(1, 200);
            let flags =
                PublishFlags { size, batch, in_flight: None, connections: 1, rate: None, http: false };
            self.publish = Some(Publish::new(&flags)?);
            self.messages = Some(messages.unwrap_or(self.preload).min(self.preload));
        } else {
            self.messages = messages;
            self.duration = self.duration.or(messages.is_none().then_some(DEFAULT_DURATION));
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.messages == Some(0) || self.duration == Some(Duration::ZERO) {
            return Err(Failure::usage("--messages and --duration must not be 0"));
        }
        let upgrades = self.security.config.upgrades();
        if self.publish.as_ref().is_some_and(|publish| publish.http) && upgrades != Upgrades::default() {
            return Err(Failure::usage(
                "--http uses plain HTTP: TLS and compression require NSQ's TCP protocol",
            ));
        }
        Ok(())
    }
}

impl Publish {
    fn new(flags: &PublishFlags) -> Result<Self, Failure> {
        let &PublishFlags { size, batch, in_flight, connections, rate, http } = flags;
        within("--size", size, 1, MAX_COMMAND_BYTES)?;
        within("--batch", batch, 1, MAX_COMMAND_BYTES / (size + 4))?;
        within("--connections", connections, 1, MAX_CONNECTIONS)?;
        if rate.is_some_and(|rate| !RATES.contains(&rate)) {
            let (min, max) = (RATES.start(), RATES.end());
            return Err(Failure::usage(format_args!(
                "--rate must be between {min} and {max} messages per second"
            )));
        }
        let by_default =
            if http { 1 } else { (DEFAULT_IN_FLIGHT_BYTES / (batch * (size + 4))).clamp(2, 100) as u64 };
        let in_flight = in_flight.unwrap_or(by_default);
        if !(1..=MAX_IN_FLIGHT).contains(&in_flight) {
            return Err(Failure::usage(format_args!("--in-flight must be between 1 and {MAX_IN_FLIGHT}")));
        }
        Ok(Publish { size, batch, in_flight, connections, rate, http })
    }
}

fn within(flag: &str, value: usize, min: usize, max: usize) -> Result<(), Failure> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(Failure::usage(format_args!("{flag} must be between {min} and {max}")))
}

/// `name`, or `name-1`, `name-2`, ... for several channels. Ephemeral names keep their suffix at the end.
fn channel_names(name: &str, count: usize) -> Result<Vec<ChannelName>, Failure> {
    let (stem, ending) = match name.strip_suffix("#ephemeral") {
        Some(stem) => (stem, "#ephemeral"),
        None => (name, ""),
    };
    let numbered = |number| if count == 1 { name.to_owned() } else { format!("{stem}-{number}{ending}") };
    if count > MAX_CONNECTIONS {
        return Err(Failure::usage(format_args!("--channels must be at most {MAX_CONNECTIONS}")));
    }
    (1..=count).map(|number| ChannelName::new(numbered(number)).map_err(Failure::usage)).collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[arg(long, global = true, value_delimiter = ',')]
        lookupd: Vec<String>,
        #[arg(long, global = true, value_delimiter = ',')]
        nsqd: Vec<String>,
        #[arg(long, global = true, value_delimiter = ',')]
        nsqd_tcp: Vec<String>,
        #[command(flatten)]
        bench: BenchFlags,
    }

    pub fn plan(line: &str) -> Result<Plan, Failure> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(Failure::usage)?;
        let targets =
            Targets { lookupds: cli.lookupd, nsqds: cli.nsqd, nsqd_tcps: cli.nsqd_tcp, ..Targets::default() };
        Plan::new(&targets, cli.bench)
    }

    fn publish(line: &str) -> Publish {
        plan(line).unwrap().publish.unwrap()
    }

    #[test]
    fn mode_without_flags_is_valid() {
        for mode in ["pub", "sub", "pubsub", "fanout", "latency"] {
            let plan = plan(mode).unwrap();
            assert_eq!(plan.tcp, Address::Tcp("127.0.0.1:4150".parse().unwrap()));
            assert_eq!(plan.http, Address::Tcp("127.0.0.1:4151".parse().unwrap()));
            assert!(plan.topic.as_str().starts_with("bench-"), "{plan:?}");
            assert_eq!(plan.cleanup, Cleanup::Topic);
        }
        assert_eq!(plan("fanout").unwrap().channels.len(), 10);
        assert_eq!(plan("pub").unwrap().channels.len(), 0);
    }

    #[test]
    fn given_topics_and_channels_are_never_deleted() {
        let cleanup = |line| plan(line).unwrap().cleanup;
        assert_eq!(cleanup("pubsub --keep"), Cleanup::Nothing);
        assert_eq!(cleanup("pub --topic t --channels 1"), Cleanup::Nothing);
        assert_eq!(cleanup("sub --topic t"), Cleanup::Nothing);
        assert_eq!(cleanup("latency --topic t"), Cleanup::Channels);
        assert_eq!(cleanup("latency --topic t --channel c"), Cleanup::Nothing);
    }

    #[test]
    fn default_in_flight_is_limited_in_commands_and_bytes() {
        assert_eq!(publish("pub").in_flight, 100);
        assert_eq!(publish("pub --batch 200").in_flight, 25);
        assert_eq!(publish("pub --size 1048576").in_flight, 2);
        assert_eq!(publish("pub --http").in_flight, 1);
        assert_eq!(publish("pub --http --in-flight 7").in_flight, 7);
    }

    #[test]
    fn every_run_has_a_limit() {
        let extent = |line: &str| plan(line).map(|plan| (plan.messages, plan.duration)).unwrap();
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(extent("pub"), (Some(1_000_000), None));
        assert_eq!(extent("pub --duration 3s"), (None, seconds(3)));
        assert_eq!(extent("sub"), (Some(1_000_000), None));
        assert_eq!(extent("sub --preload 5 --messages 7"), (Some(5), None));
        assert_eq!(extent("sub --topic t"), (None, seconds(10)));
        assert_eq!(extent("sub --topic t --duration 1s"), (None, seconds(1)));
        assert_eq!(extent("sub --topic t --messages 9"), (Some(9), None));
        assert_eq!(extent("sub --preload 9 --duration 1s"), (Some(9), seconds(1)));
        assert_eq!(extent("latency"), (None, seconds(10)));
    }

    #[test]
    fn preload_follows_from_the_flags() {
        assert_eq!(plan("sub").unwrap().preload, 1_000_000);
        assert_eq!(plan("sub --preload 10").unwrap().preload, 10);
        assert_eq!(plan("sub --messages 10").unwrap().preload, 10);
        assert_eq!(plan("sub --topic t").unwrap().preload, 0);
        assert!(plan("sub --preload 0").is_err());
    }

    #[test]
    fn several_channels_are_numbered() {
        let names = |name, count| {
            channel_names(name, count).unwrap().iter().map(|n| n.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names("c", 1), ["c"]);
        assert_eq!(names("c#ephemeral", 2), ["c-1#ephemeral", "c-2#ephemeral"]);
    }

    #[test]
    fn invalid_flags_are_rejected() {
        for line in [
            "pub --size 0",
            "pub --batch 0",
            "pub --batch 100000000",
            "pub --in-flight 0",
            "pub --in-flight 10001",
            "pub --connections 0",
            "pub --rate 0",
            "pub --rate NaN",
            "pub --messages 0",
            "pub --topic ?",
            "sub --consumers 0",
            "sub --rdy 0",
            "sub --channels 0",
            "sub --channels 10001",
            "latency --size 15",
            "latency --duration 0",
        ] {
            assert!(plan(line).is_err(), "{line}");
        }
    }
}
