//! nsqd: topics copy messages to channels, which push them to consumers under RDY flow control. Messages survive a
//! `kill -9`.
//!
//! # The path of a message
//!
//! 1. [`connection::listener::accept_loop`] accepts; [`connection::Connection::run`] is the loop of one connection.
//! 2. [`nsq_protocol::decode`] turns bytes into a command; [`connection::state::ConnectionState::permit`] decides
//!    whether it is legal now.
//! 3. PUB: [`connection::Connection`]`::publish_run` batches what arrived together. [`topic::Topic::append`] appends it
//!    to the [`log::TopicLog`], as the frames that consumers will get, and to the [`storage::journal::Journal`].
//! 4. [`topic::Publication::committed`] waits for the journal, then releases the messages to each
//!    [`channel::Channel`], which wakes a consumer. nsqd answers OK only then.
//! 5. [`delivery::deliver`]: the woken consumer takes its share ([`channel::ChannelState::take`]).
//!    [`log::reader::LogReader`] copies the bytes into its [`delivery::Output`], which sends them in one write.
//! 6. FIN: `acknowledge_run` finds the message by number ([`channel::ChannelState::finish`]) and records it in the
//!    journal. The channel's floor rises, and [`log::TopicLog::trim`] frees what no channel needs.
//!
//! # Modules, lowest first
//!
//! [`clock`], [`backpressure`], [`blocking`], [`damage`], [`disk_metrics`], [`disk_work`], [`health`], [`metrics`], [`storage`],
//! [`timers`], [`https`], [`auth`], [`locality`], [`client_info`], [`lease`], [`producers`], [`log`], [`policy`], [`channel`], [`archive_status`], [`engine`], [`topic`],
//! [`policy_file`], [`policy_test`], [`peek`], [`why`], [`delivery`], [`connection`], [`lookup`], [`stats`], [`upkeep`], [`import`], [`startup`], [`drain`], [`mod@archive`], [`flags`], [`config`],
//! [`statsd`], [`http`], [`heartbeat_stats`], [`nsqd`]. Each module uses only modules before it; the test `tidy`
//! reads the order from this file.
//!
//! # Locks
//!
//! Locks are taken in this order: a topic's state, its ids, a log's segments, a channel, a log's index, the journal. A thread
//! never holds the locks of two channels. No lock is held across an await, and only the lock of the segments may be
//! held during disk access.

pub use nsq_storage as storage;

pub mod clock;
pub mod backpressure;
pub mod blocking;
pub mod damage;
pub mod disk_metrics;
pub mod disk_work;
pub mod health;
pub mod metrics;
pub mod timers;
pub mod https;
pub mod auth;
pub mod locality;
pub mod client_info;
pub mod lease;
pub mod producers;
pub mod log;
pub mod policy;
pub mod channel;
pub mod archive_status;
pub mod engine;
pub mod topic;
pub mod policy_file;
pub mod policy_test;
pub mod peek;
pub mod why;
pub mod delivery;
pub mod connection;
pub mod lookup;
pub mod stats;
pub mod upkeep;
pub mod import;
pub mod startup;
pub mod drain;
#[cfg(feature = "archive")]
pub mod archive;
pub mod flags;
pub mod config;
pub mod statsd;
pub mod http;
pub mod heartbeat_stats;
pub mod nsqd;
