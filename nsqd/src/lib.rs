//! nsqd: topics that copy to channels, pushed to consumers under RDY flow control, kept through a `kill -9`.
//!
//! # The path of a message
//!
//! 1. [`connection::listener::accept_loop`] accepts; [`connection::Connection::run`] is the loop of one connection.
//! 2. [`nsq_protocol::decode`] turns bytes into a command; [`connection::state::ConnectionState::permit`] says
//!    whether it is legal now.
//! 3. PUB: [`connection::Connection`]`::publish_run` gathers what came together; [`topic::Topic::append`] appends it
//!    to the [`log::TopicLog`], as the frames that consumers will get, and to the [`storage::journal::Journal`].
//! 4. [`topic::Publication::committed`] waits for the journal, then releases to each
//!    [`channel::Channel`], which wakes a consumer. Only then comes OK.
//! 5. [`delivery::deliver`]: the woken consumer takes its share ([`channel::ChannelState::take`]), bytes copied by
//!    [`log::reader::LogReader`] into its [`delivery::Output`], and out in one write.
//! 6. FIN: `acknowledge_run` finds it by number ([`channel::ChannelState::finish`]); the journal is told, the
//!    channel's floor rises, and [`log::TopicLog::trim`] frees what nobody needs.
//!
//! # Rooms, from the bottom up
//!
//! [`clock`], [`backpressure`], [`blocking`], [`auth`], [`damage`], [`disk_work`], [`health`], [`metrics`], [`storage`], [`timers`], [`log`], [`channel`],
//! [`engine`], [`topic`], [`delivery`], [`connection`], [`lookup`], [`stats`], [`statsd`], [`http`], [`startup`], [`presence`],
//! [`syncing`], [`nsqd`]. Nothing below names anything above, but for [`log`],
//! whose marks and whose reader speak the channel's language ([`channel::Mark`], [`channel::Source`]).
//!
//! # Locks
//!
//! In this order: a topic's state, a log's segments, a channel, a log's tail, the journal's. Never two channels at
//! once, and none of them across an await or (but for the segments') a disk access.

pub mod clock;
pub mod backpressure;
pub mod blocking;
pub mod auth;
pub mod damage;
pub mod disk_work;
pub mod health;
pub mod metrics;
pub mod storage;
pub mod timers;
pub mod log;
pub mod locality;
pub mod client_info;
pub mod producers;
pub mod channel;
pub mod engine;
pub mod topic;
pub mod upkeep;
pub mod delivery;
pub mod connection;
pub mod lookup;
pub mod stats;
pub mod statsd;
pub mod http;
pub mod startup;
pub mod presence;
pub mod syncing;
pub mod flags;
pub mod config;
pub mod nsqd;
