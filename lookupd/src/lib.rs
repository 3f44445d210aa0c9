//! nsqlookupd: tells consumers which nodes have a topic.
//!
//! Every nsqd keeps a connection to every nsqlookupd and registers what it has; consumers and tools ask
//! over HTTP. All is in memory: what a node does not tell is not known, and nsqlookupds do not know of
//! each other.
//!
//! In reading order: [`flags`] and [`config`], what the daemon is told; [`lookupd`], what a running one
//! owns; [`registry`] and [`node_stats`], which are all that decides, without socket and clock; `figures`, what nodes
//! tell of themselves; `connection`, what nodes say; `http` and `pages`, what everybody else asks;
//! `metrics`, what Prometheus is told.
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

mod figures;

mod clock;

mod connection;

mod http;

mod pages;

mod metrics;

pub use config::Config;
pub use lookupd::Lookupd;
