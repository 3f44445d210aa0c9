//! The archive of a node, as `/stats` reports it. Not in NSQ.

use serde::{Deserialize, Serialize};

use crate::json::lenient;

/// How far a node has archived its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ArchiveStats {
    /// Where the archive is.
    #[serde(deserialize_with = "lenient")]
    pub url: String,
    /// The id of the node's log in the archive.
    #[serde(deserialize_with = "lenient")]
    pub log: String,
    /// The epoch that the node owns; 0 before it owns one.
    #[serde(deserialize_with = "lenient")]
    pub epoch: u32,
    /// Bytes of the journal that are not archived.
    #[serde(deserialize_with = "lenient")]
    pub lag_bytes: u64,
    /// For how long bytes have waited to be archived, in nanoseconds; 0 if none wait.
    #[serde(deserialize_with = "lenient")]
    pub lag: i64,
    /// Chunks written since the start.
    #[serde(deserialize_with = "lenient")]
    pub chunk_count: u64,
    /// Snapshots written since the start.
    #[serde(deserialize_with = "lenient")]
    pub snapshot_count: u64,
    /// Bytes of chunks and snapshots written since the start, before compression.
    #[serde(deserialize_with = "lenient")]
    pub uploaded_bytes: u64,
    /// Failed calls of the store since the start.
    #[serde(deserialize_with = "lenient")]
    pub error_count: u64,
    /// How often journal files were deleted before they were archived.
    #[serde(deserialize_with = "lenient")]
    pub gap_count: u64,
    /// When the newest snapshot was written, in nanoseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_at: Option<i64>,
    /// Why the archive does not work at the moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether another process owns the log now. Then nothing is archived until nsqd restarts.
    #[serde(deserialize_with = "lenient")]
    pub lost: bool,
}
