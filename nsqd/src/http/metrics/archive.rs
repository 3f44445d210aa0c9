//! Metrics of the archive. Without an archive there are none.

use nsq_daemon::metrics::{Exposition, Kind};

use crate::engine::Engine;

pub(super) fn put(page: &mut Exposition, engine: &Engine) {
    let (Some(archive), Some(stats)) = (engine.archive(), engine.archive_stats()) else { return };
    let help = "Bytes of the journal that are not archived.";
    page.gauge("nsq_archive_lag_bytes", help, stats.lag_bytes as f64);
    let help = "For how long bytes of the journal have waited to be archived; 0 if none wait.";
    page.gauge("nsq_archive_lag_seconds", help, stats.lag as f64 / 1e9);
    let help = "1 as long as the archive works, 0 while its store fails or another process owns the log.";
    page.gauge("nsq_archive_healthy", help, f64::from(u8::from(stats.error.is_none())));
    let help = "1 once another process owns the log: nothing is archived until nsqd restarts.";
    page.gauge("nsq_archive_lost", help, f64::from(u8::from(stats.lost)));
    page.gauge("nsq_archive_epoch", "The epoch of the log that this node owns.", f64::from(stats.epoch));
    let help =
        "When the newest snapshot was written, seconds since 1970; 0 before the first one of this run.";
    let snapshot_at = stats.snapshot_at.map_or(0.0, |at| at as f64 / 1e9);
    page.gauge("nsq_archive_snapshot_time_seconds", help, snapshot_at);
    page.counter("nsq_archive_chunks_total", "Chunks written to the archive.", stats.chunk_count);
    page.counter("nsq_archive_snapshots_total", "Snapshots written to the archive.", stats.snapshot_count);
    let help = "Bytes of chunks and snapshots written to the archive, before compression.";
    page.counter("nsq_archive_uploaded_bytes_total", help, stats.uploaded_bytes);
    page.counter("nsq_archive_errors_total", "Failed calls of the archive's store.", stats.error_count);
    let help = "How often journal files were deleted before they were archived.";
    page.counter("nsq_archive_gaps_total", help, stats.gap_count);
    let help = "How long writing a chunk took, with all attempts.";
    page.family("nsq_archive_upload_duration_seconds", Kind::Histogram, help)
        .histogram(&[], &archive.uploads.buckets());
}
