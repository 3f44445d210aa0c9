//! How far the node's journal is archived, and which of its files must stay until then. The archive itself is in
//! `nsqd/src/archive`.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use nsq_daemon::metrics::Histogram;
use nsq_protocol::ArchiveStats;
use parking_lot::Mutex;

use crate::clock::Nanos;

/// See the module.
#[derive(Debug)]
pub struct ArchiveStatus {
    url: String,
    log: String,
    /// `--archive-max-lag`.
    max_lag: u64,
    epoch: AtomicU32,
    /// Journal files from this number on are not archived.
    unarchived_from: AtomicU64,
    /// Bytes of the journal that were there at the start.
    found_bytes: u64,
    /// Archived bytes, including those found at the start.
    archived_bytes: AtomicU64,
    /// Since when bytes wait; 0 if none wait.
    behind_since: AtomicU64,
    checkpoint_wanted: AtomicBool,
    counts: Counts,
    /// Durations of uploads of chunks.
    pub uploads: Histogram,
    condition: Mutex<Condition>,
}

#[derive(Debug, Default)]
struct Counts {
    chunks: AtomicU64,
    snapshots: AtomicU64,
    uploaded_bytes: AtomicU64,
    errors: AtomicU64,
    gaps: AtomicU64,
}

#[derive(Debug, Default)]
struct Condition {
    error: Option<String>,
    lost: bool,
    snapshot_at: Option<i64>,
}

impl ArchiveStatus {
    /// Nothing of the journal is archived, of which files from `oldest_file` on have `found_bytes`.
    pub fn new(
        url: String,
        log: String,
        max_lag: u64,
        oldest_file: u64,
        found_bytes: u64,
        now: Nanos,
    ) -> Self {
        ArchiveStatus {
            url,
            log,
            max_lag,
            epoch: AtomicU32::new(0),
            unarchived_from: AtomicU64::new(oldest_file),
            found_bytes,
            archived_bytes: AtomicU64::new(0),
            behind_since: AtomicU64::new(if found_bytes > 0 { now } else { 0 }),
            checkpoint_wanted: AtomicBool::new(false),
            counts: Counts::default(),
            uploads: Histogram::default(),
            condition: Mutex::default(),
        }
    }

    /// Journal files from this number on must stay. `written_bytes` are those written since the start.
    pub fn held_from(&self, written_bytes: u64) -> u64 {
        match self.is_lost() || self.lag_bytes(written_bytes) > self.max_lag {
            true => u64::MAX,
            false => self.unarchived_from.load(Ordering::Relaxed),
        }
    }

    /// Bytes that are not archived.
    pub fn lag_bytes(&self, written_bytes: u64) -> u64 {
        let all = self.found_bytes.saturating_add(written_bytes);
        all.saturating_sub(self.archived_bytes.load(Ordering::Relaxed))
    }

    /// For how long bytes have waited.
    pub fn lag(&self, now: Nanos) -> Nanos {
        match self.behind_since.load(Ordering::Relaxed) {
            0 => 0,
            since => now.saturating_sub(since),
        }
    }

    pub fn set_epoch(&self, epoch: u32) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// Bytes wait to be archived.
    pub fn is_behind(&self, now: Nanos) {
        // The uploader is the only writer.
        if self.behind_since.load(Ordering::Relaxed) == 0 {
            self.behind_since.store(now.max(1), Ordering::Relaxed);
        }
    }

    /// A chunk of this many bytes was written. Files before `unarchived_from` are archived.
    pub fn chunk_written(&self, bytes: u64, unarchived_from: u64) {
        self.counts.chunks.fetch_add(1, Ordering::Relaxed);
        self.counts.uploaded_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.archived_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.unarchived_from.store(unarchived_from, Ordering::Relaxed);
    }

    /// Everything that was written when `written_bytes` was read is archived. Later bytes came after `as_of`, in files from
    /// `unarchived_from` on.
    pub fn caught_up(&self, written_bytes: u64, unarchived_from: u64, as_of: Nanos, is_behind: bool) {
        self.unarchived_from.store(unarchived_from, Ordering::Relaxed);
        self.archived_bytes.store(self.found_bytes.saturating_add(written_bytes), Ordering::Relaxed);
        self.behind_since.store(if is_behind { as_of.max(1) } else { 0 }, Ordering::Relaxed);
    }

    /// Journal files were deleted before they were archived; `lag_bytes` are left.
    pub fn has_gap(&self, oldest_file: u64, lag_bytes: u64, written_bytes: u64) {
        self.counts.gaps.fetch_add(1, Ordering::Relaxed);
        self.unarchived_from.store(oldest_file, Ordering::Relaxed);
        let all = self.found_bytes.saturating_add(written_bytes);
        self.archived_bytes.store(all.saturating_sub(lag_bytes), Ordering::Relaxed);
    }

    /// A part of a snapshot was written.
    pub fn part_written(&self, bytes: u64) {
        self.counts.uploaded_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `at` is Unix nanoseconds.
    pub fn snapshot_written(&self, at: i64) {
        self.counts.snapshots.fetch_add(1, Ordering::Relaxed);
        self.condition.lock().snapshot_at = Some(at);
    }

    /// A call of the store failed. Returns whether it worked before.
    pub fn failed(&self, cause: &str) -> bool {
        self.counts.errors.fetch_add(1, Ordering::Relaxed);
        self.condition.lock().error.replace(cause.to_owned()).is_none()
    }

    /// A call of the store succeeded. Returns whether the call before had failed.
    pub fn works(&self) -> bool {
        self.condition.lock().error.take().is_some()
    }

    /// Nothing will be archived any more.
    pub fn set_lost(&self, cause: &str) {
        let mut condition = self.condition.lock();
        condition.error = Some(cause.to_owned());
        condition.lost = true;
    }

    pub fn is_lost(&self) -> bool {
        self.condition.lock().lost
    }

    /// Requests a checkpoint for a snapshot.
    pub fn want_checkpoint(&self) {
        self.checkpoint_wanted.store(true, Ordering::Relaxed);
    }

    /// Whether a checkpoint was requested since the last call.
    pub fn take_checkpoint_wanted(&self) -> bool {
        self.checkpoint_wanted.swap(false, Ordering::Relaxed)
    }

    /// For `/stats` and `/metrics`.
    pub fn stats(&self, written_bytes: u64, now: Nanos) -> ArchiveStats {
        let condition = self.condition.lock();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ArchiveStats {
            url: self.url.clone(),
            log: self.log.clone(),
            epoch: self.epoch.load(Ordering::Relaxed),
            lag_bytes: self.lag_bytes(written_bytes),
            lag: i64::try_from(self.lag(now)).unwrap_or(i64::MAX),
            chunk_count: count(&self.counts.chunks),
            snapshot_count: count(&self.counts.snapshots),
            uploaded_bytes: count(&self.counts.uploaded_bytes),
            error_count: count(&self.counts.errors),
            gap_count: count(&self.counts.gaps),
            snapshot_at: condition.snapshot_at,
            error: condition.error.clone(),
            lost: condition.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> ArchiveStatus {
        ArchiveStatus::new("memory:".to_owned(), "1".to_owned(), 1000, 3, 100, 5)
    }

    #[test]
    fn lag_counts_what_was_found_and_what_was_written() {
        let status = status();
        assert_eq!((status.lag_bytes(50), status.lag(8)), (150, 3));
        status.chunk_written(100, 4);
        assert_eq!((status.lag_bytes(50), status.held_from(50)), (50, 4));
        status.caught_up(50, 4, 9, false);
        assert_eq!((status.lag_bytes(50), status.lag_bytes(60), status.lag(20)), (0, 10, 0));
        status.is_behind(21);
        status.is_behind(22);
        assert_eq!(status.lag(30), 9);
    }

    #[test]
    fn files_are_held_up_to_the_limit() {
        let status = status();
        assert_eq!((status.held_from(900), status.held_from(901)), (3, u64::MAX));
        status.has_gap(7, 400, 901);
        assert_eq!((status.lag_bytes(901), status.held_from(901)), (400, 7));
        status.set_lost("sealed");
        assert_eq!(status.held_from(901), u64::MAX);
        assert!(status.stats(901, 9).lost);
    }

    #[test]
    fn failures_are_news_once() {
        let status = status();
        assert!(status.failed("refused") && !status.failed("refused"));
        assert!(status.works() && !status.works());
        assert_eq!(status.stats(0, 0).error_count, 2);
    }
}
