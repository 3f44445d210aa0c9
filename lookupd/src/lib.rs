//! nsqlookupd: the discovery daemon. It reports which nodes have a topic.
//!
//! Every nsqd keeps a connection to every nsqlookupd and registers its topics and channels. Consumers and tools
//! query over HTTP. All data is in memory: an nsqlookupd knows only what nodes report. nsqlookupds do not know of
//! each other.
//!
//! The modules, in reading order:
//!
//! - [`flags`] and [`config`]: the settings
//! - [`lookupd`]: what a running daemon owns
//! - [`registry`] and [`node_stats`]: all decisions, without sockets or a clock
//! - `stats_store`: the statistics that nodes send
//! - `connection`: the connections of nodes
//! - `http` and `pages`: the HTTP endpoints
//! - `metrics`: the page for Prometheus
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use nsqlookupd::{Config, Lookupd};
//! use nsq_daemon::log::{Level, Logger};
//!
//! let config = Config { tcp_address: "127.0.0.1:0".parse().unwrap(), ..Config::default() };
//! let lookupd = Lookupd::start(config, Logger::new("[nsqlookupd] ", Level::Info)).await?;
//! println!("nodes register at {}", lookupd.tcp_addr());
//! lookupd.shutdown().await;
//! # Ok(())
//! # }
//! ```

pub mod flags;

pub mod config;

pub mod lookupd;

pub mod registry;

pub mod node_stats;

mod stats_store;

mod clock;

mod connection;

mod http;

mod pages;

mod metrics;

pub use config::Config;
pub use lookupd::Lookupd;
