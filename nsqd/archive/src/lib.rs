//! nsqd's archive: the journal of a node, streamed to an object store, so that the node can be lost without its messages.
//!
//! It knows objects, their names and bytes, and who owns a log. It does not know topics and channels, and it does not decide
//! when to upload. In reading order:
//!
//! - [`names`]: pure; names of objects
//! - [`envelope`]: pure; the header and checksums of every object but claims
//! - [`claim`], [`chunk`], [`snapshot`]: pure; the contents
//! - [`ownership`]: pure; how a log is claimed and sealed, and how chunks are appended; `simulation` tests it
//! - [`chain`]: pure; which chunks a restore reads
//! - [`garbage`]: pure; which objects nothing needs
//! - [`objects`]: a store of objects, as few operations as possible; [`memory`]: in memory; `faulty`: one that fails, for tests
//! - [`location`]: opens the store of a URL; `stores` and `http_client`: the clouds and folders
//! - [`probe`]: checks that a store keeps its promises
//! - [`owner`]: claims, seals and appends
//! - [`reader`]: lists, verifies and restores
//!
//! A log has epochs: one for each start of nsqd, and one for each takeover. Who creates the claim of the next epoch seals the
//! epochs before it: a seal is a chunk without records at the first free number, so the earlier owner cannot create that chunk.
//! The store decides by one operation: create an object unless it exists. No clock and no lease is needed.
//!
//! `docs/DATA_FORMAT.md` describes the bytes.

pub mod names;

pub mod envelope;

pub mod claim;

pub mod chunk;
pub mod snapshot;

pub mod ownership;

pub mod chain;
pub mod garbage;

pub mod objects;

#[cfg(any(test, feature = "faulty"))]
pub mod faulty;
#[cfg(feature = "cloud")]
mod http_client;
pub mod location;
pub mod memory;
pub mod owner;
pub mod probe;
pub mod reader;
mod stores;

#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod simulation;

pub use names::{Epoch, LogId};
