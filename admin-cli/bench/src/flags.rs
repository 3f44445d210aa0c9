//! The flags of `nsq bench`.

use std::time::Duration;

use clap::{Args, Subcommand};
use nsq_daemon::go_duration;

/// Run a load test against nsqd.
#[derive(Debug, Args)]
pub struct BenchFlags {
    #[command(subcommand)]
    pub mode: ModeFlags,
}

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
        /// Create this many channels first. Without channels, the messages stay in the topic.
        #[arg(long, default_value_t = 0, value_name = "N")]
        channels: usize,
    },
    /// Consume a backlog that is published first, or the messages of a given --topic.
    Sub {
        #[command(flatten)]
        target: TargetFlags,
        #[command(flatten)]
        consume: ConsumeFlags,
        #[command(flatten)]
        extent: ExtentFlags,
        /// Publish this many messages before the consumers start. [default: 1000000; with --topic none]
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
    /// Publish and consume at the same time, with many channels.
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
    /// Publish at a fixed rate, and measure the time from publisher to consumer.
    ///
    /// The time of a message starts when it is due. So a stall of the server counts for every message that it delays.
    Latency {
        #[command(flatten)]
        target: TargetFlags,
        /// Messages per second over all connections.
        #[arg(long, default_value_t = 50.0, value_name = "PER_SECOND")]
        rate: f64,
        /// Time to publish.
        #[arg(long, default_value = "10s", value_parser = go_duration::parse)]
        duration: Duration,
        /// Bytes per message, at least 16.
        #[arg(long, default_value_t = 200, value_name = "BYTES")]
        size: usize,
        /// Number of publishing connections.
        #[arg(long, default_value_t = 1, value_name = "N")]
        connections: usize,
        /// Number of consumers per channel.
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

/// Which nsqd and which topic to use.
#[derive(Debug, Args)]
pub struct TargetFlags {
    /// nsqd's HTTP address, or path of its unix socket. [default: --nsqd; else the address of --nsqd-tcp, one port
    /// up]
    #[arg(long, value_name = "ADDR")]
    pub nsqd_http: Option<String>,
    /// nsqd's process id, to measure its CPU time and memory. [default: the local process that listens on the port]
    #[arg(long)]
    pub pid: Option<u32>,
    /// Topic. [default: a new one, deleted at the end]
    #[arg(long)]
    pub topic: Option<String>,
    /// Channel; several channels are numbered. [default: bench]
    #[arg(long)]
    pub channel: Option<String>,
    /// Keep the new topic. Topics and channels named by flags are always kept.
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
    /// Maximum number of commands without an OK on each connection; 1 waits for each OK. [default: 100, or as many as
    /// 1 MiB holds; 1 with --http]
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u64>,
    /// Number of publishing connections.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub connections: usize,
    /// Messages per second over all connections. [default: as many as possible]
    #[arg(long, value_name = "PER_SECOND")]
    pub rate: Option<f64>,
    /// Publish over HTTP, on persistent connections.
    #[arg(long)]
    pub http: bool,
}

/// How to consume.
#[derive(Debug, Args)]
pub struct ConsumeFlags {
    /// Number of consumers per channel.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub consumers: usize,
    /// RDY count of each consumer; nsqd may allow less.
    #[arg(long, default_value_t = 2500, value_name = "COUNT")]
    pub rdy: u64,
    /// Requeue every message at its first delivery and finish it at the next. Only finished messages count.
    #[arg(long)]
    pub requeue: bool,
}

/// When to stop.
#[derive(Debug, Args)]
pub struct ExtentFlags {
    /// Stop after this many messages. [default: 1000000; with --duration no limit]
    #[arg(long, value_name = "N")]
    pub messages: Option<u64>,
    /// Stop after this time, such as 10s or 1m30s.
    #[arg(long, value_parser = go_duration::parse)]
    pub duration: Option<Duration>,
}
