//! What can be typed after `nsq bench`.

use std::time::Duration;

use clap::{Args, Subcommand};
use nsq_daemon::go_duration;

/// Put load on an nsqd and measure it.
#[derive(Debug, Args)]
pub struct BenchFlags {
    /// What to measure.
    #[command(subcommand)]
    pub mode: ModeFlags,
}

/// The modes.
#[derive(Debug, Subcommand)]
pub enum ModeFlags {
    /// Publish only.
    Pub {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        publish: PublishFlags,
        #[command(flatten)]
        extent: ExtentFlags,
        /// Create so many channels first. Without one, the messages wait in the topic.
        #[arg(long, default_value_t = 0, value_name = "N")]
        channels: usize,
    },
    /// Consume: a backlog that is published first, or what a given --topic holds and gets.
    Sub {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        consume: ConsumeFlags,
        #[command(flatten)]
        extent: ExtentFlags,
        /// Publish so many messages before the consumers start. [default: 1000000, with --topic none]
        #[arg(long, value_name = "N")]
        preload: Option<u64>,
        /// Bytes per preloaded message.
        #[arg(long, default_value_t = 200, value_name = "BYTES")]
        size: usize,
        /// Number of channels; each gets all messages.
        #[arg(long, default_value_t = 1, value_name = "N")]
        channels: usize,
    },
    /// Publish and consume at the same time.
    Pubsub {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        publish: PublishFlags,
        #[command(flatten)]
        consume: ConsumeFlags,
        #[command(flatten)]
        extent: ExtentFlags,
        /// Number of channels; each gets all messages.
        #[arg(long, default_value_t = 1, value_name = "N")]
        channels: usize,
    },
    /// One topic, many channels.
    Fanout {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        publish: PublishFlags,
        #[command(flatten)]
        consume: ConsumeFlags,
        #[command(flatten)]
        extent: ExtentFlags,
        /// Number of channels; each gets all messages.
        #[arg(long, default_value_t = 10, value_name = "N")]
        channels: usize,
    },
    /// Publish at a fixed rate, and measure how long a message takes to its consumer.
    ///
    /// A message's time runs from the moment it was due, so a server that stalls is charged for what it held up.
    Latency {
        #[command(flatten)]
        target: TargetFlags,
        /// Messages per second over all connections.
        #[arg(long, default_value_t = 50.0, value_name = "PER_SECOND")]
        rate: f64,
        /// How long to publish.
        #[arg(long, default_value = "10s", value_parser = go_duration::parse)]
        duration: Duration,
        /// Bytes per message, 16 at least.
        #[arg(long, default_value_t = 200, value_name = "BYTES")]
        size: usize,
        /// Publishing connections.
        #[arg(long, default_value_t = 1, value_name = "N")]
        connections: usize,
        /// Consumers per channel.
        #[arg(long, default_value_t = 1, value_name = "N")]
        consumers: usize,
        /// Number of channels; each gets all messages.
        #[arg(long, default_value_t = 1, value_name = "N")]
        channels: usize,
        /// RDY count of each consumer.
        #[arg(long, default_value_t = 100, value_name = "COUNT")]
        rdy: u64,
    },
}

/// Which nsqd, which topic.
#[derive(Debug, Args)]
pub struct TargetFlags {
    /// nsqd's HTTP address, or the path of a unix socket. [default: --nsqd; else that of --nsqd-tcp, one port up]
    #[arg(long, value_name = "ADDR")]
    pub nsqd_http: Option<String>,
    /// nsqd's process id, for its CPU time and memory. [default: who listens on the port, if it is local]
    #[arg(long)]
    pub pid: Option<u32>,
    /// The topic. [default: a fresh one, deleted at the end]
    #[arg(long)]
    pub topic: Option<String>,
    /// The channel; several get a number each. [default: bench]
    #[arg(long)]
    pub channel: Option<String>,
    /// Leave the fresh topic behind. What was named by a flag stays in any case.
    #[arg(long)]
    pub keep: bool,
}

/// How to publish.
#[derive(Debug, Args)]
pub struct PublishFlags {
    /// Bytes per message.
    #[arg(long, default_value_t = 200, value_name = "BYTES")]
    pub size: usize,
    /// Messages per command: 1 for PUB, more for MPUB (with --http: /pub, /mpub).
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Commands sent ahead of their OK on each connection; 1 waits for each.
    /// [default: 100, or what 1 MiB holds; 1 with --http]
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u64>,
    /// Publishing connections.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub connections: usize,
    /// Messages per second over all connections. [default: as many as possible]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Publish over HTTP, on connections that stay open.
    #[arg(long)]
    pub http: bool,
}

/// How to consume.
#[derive(Debug, Args)]
pub struct ConsumeFlags {
    /// Consumers per channel.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumers: usize,
    /// RDY count of each consumer; nsqd may allow less.
    #[arg(long, default_value_t = 2500, value_name = "COUNT")]
    pub rdy: u64,
    /// Requeue every message at its first delivery, and finish it at the next. What counts is the message finished.
    #[arg(long)]
    pub requeue: bool,
}

/// How much of it.
#[derive(Debug, Args)]
pub struct ExtentFlags {
    /// Stop after so many messages. [default: 1000000, with --duration no limit]
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Stop after so long, such as 10s or 1m30s.
    #[arg(long, value_parser = go_duration::parse)]
    pub duration: Option<Duration>,
}
