//! Upkeep in the background:
//!
//! - deletes journal and segment files that are no longer needed, and retained messages that exceed their limits
//! - removes expired messages from channels
//! - empties or deletes channels without consumers, if they are configured so
//! - retries what a full disk refused
//! - checks that the files are still there
//! - frees disk space during quiet times
//! - without a journal, writes a checkpoint when topics or channels change
//!
//! Without work it reads only a few numbers, whatever the number of topics.
//!
//! - [`checkpoint`]: writes checkpoints
//! - [`journal_files`]: retires old journal files
//! - [`segments`]: cleans segments, deletes what was retained for long enough
//! - [`presence`]: checks that the files are still there
//! - [`syncing`]: syncs what was written with a durability that does not sync at once
//! - [`stop`]: stores everything at a stop

pub mod checkpoint;
mod error;
pub mod journal_files;
pub mod presence;
pub mod segments;
pub mod stop;
pub mod syncing;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::error::{NewDirectoryError, StopError, UpkeepError};
use self::presence::Presence;
use crate::blocking;
use crate::clock;
use crate::engine::Engine;
use crate::health::Part;
use crate::topic::registry::Registry;

/// How often to check for work.
const INTERVAL: Duration = Duration::from_millis(200);
/// Segments are checked after this many intervals if any topic has segments.
const CLEAN_TICKS: u32 = 10;
/// Checking takes at most 1/`CLEAN_SHARE` of the time.
const CLEAN_SHARE: u32 = 50;
/// While there is work, cleaning takes at most 1/`BUSY_CLEAN_SHARE` of the time.
const BUSY_CLEAN_SHARE: u32 = 4;
/// After this many intervals, cached data from disk that was not used again is freed.
const AGE_TICKS: u32 = 15;
/// After this many intervals, topics drop retained messages that exceed their limits.
const RETAIN_TICKS: u32 = 5;

/// After this many intervals, expired messages are removed from channels.
const EXPIRE_TICKS: u32 = 5;
/// After this many intervals, channels without consumers are looked for.
const WATCH_TICKS: u32 = 5;
/// After this many intervals, the files are checked.
const PRESENCE_TICKS: u32 = 5;
/// After this many intervals, on a full disk, messages are moved out of a journal file.
const SQUEEZE_TICKS: u32 = 25;
/// After this many intervals, the journal is shrunk if at most [`QUIET_BYTES`] were written to it meanwhile.
const QUIET_TICKS: u32 = 150;
const QUIET_BYTES: u64 = 256 << 10;
/// A journal of at most this many times its smallest size is not shrunk.
const SMALL_ENOUGH: u64 = 4;

/// The work that is due.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Work {
    check_presence: bool,
    squeeze: bool,
    shrink: bool,
    /// Topics or channels changed, and there is no journal that records it. Or the archive wants a checkpoint.
    checkpoint: bool,
    /// The journal has files to retire, or something is to be retried.
    journal: bool,
    retain: bool,
    expire: bool,
    clean: bool,
}

impl Work {
    /// Such work does not show whether a failed part works again.
    fn only_checks_presence(self) -> bool {
        self == Work { check_presence: true, ..Work::default() }
    }

    /// Returns the number of intervals until the next check of segments.
    fn execute(self, registry: &Registry, presence: &Mutex<Presence>) -> Result<u32, UpkeepError> {
        if self.check_presence {
            presence.lock().check(registry);
        }
        let done = self.work_off(registry);
        if done.is_err() && !self.check_presence {
            // Stop publishes if the cause is a missing data directory.
            presence.lock().check(registry);
        }
        done
    }

    /// Returns the number of intervals until the next check of segments.
    fn work_off(self, registry: &Registry) -> Result<u32, UpkeepError> {
        if self.checkpoint {
            checkpoint::write_checkpoint(registry, false)?;
        }
        if self.journal {
            registry.retry_deletes();
            segments::retry_spills(registry);
            journal_files::retire_journal_files(registry)?;
        }
        if self.squeeze {
            journal_files::squeeze_journal(registry)?;
        }
        if self.shrink {
            journal_files::shrink_journal(registry)?;
        }
        if self.retain {
            segments::retain(registry)?;
        }
        if self.expire {
            registry.expire();
        }
        if self.clean {
            return clean(registry);
        }
        Ok(CLEAN_TICKS)
    }
}

fn clean(registry: &Registry) -> Result<u32, UpkeepError> {
    let engine = registry.engine();
    // Reset before cleaning: a topic that writes a segment meanwhile sets it again.
    engine.upkeep_hints.set_has_segments(false);
    let began = clock::monotonic();
    let cleaned = segments::clean_segments(registry);
    if cleaned.as_ref().is_ok_and(|cleaned| !cleaned.has_files) {
        return Ok(CLEAN_TICKS);
    }
    engine.upkeep_hints.set_has_segments(true);
    Ok(ticks_until_clean(Duration::from_nanos(clock::monotonic() - began), cleaned?.has_more))
}

/// The number of intervals until the next check of segments, after one that took `took`.
fn ticks_until_clean(took: Duration, has_more: bool) -> u32 {
    let (share, least) = if has_more { (BUSY_CLEAN_SHARE, 1) } else { (CLEAN_SHARE, CLEAN_TICKS) };
    let ticks = (took * share).as_nanos().div_ceil(INTERVAL.as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX).max(least)
}

/// Runs until `stop` is cancelled.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let engine = registry.engine().clone();
    let mut topology = engine.topology();
    topology.mark_unchanged();
    let (mut ticks_since_clean, mut ticks_until_clean) = (0, CLEAN_TICKS);
    let mut ticks_since_retain = 0;
    let mut ticks_since_age = 0;
    let mut ticks: u32 = 0;
    let mut quiet = Quiet::default();
    let presence = Arc::new(Mutex::new(Presence::default()));
    // Failed work is retried.
    let mut failed = Work::default();
    let mut timer = clock::ticks(INTERVAL);
    loop {
        let ticked = u32::from(tokio::select! {
            _ = timer.tick() => true,
            () = engine.backpressure.wanted() => false,
            () = stop.cancelled() => return,
        });
        clock::follow_wall_clock();
        engine.note_journal();
        ticks = ticks.wrapping_add(ticked);
        ticks_since_clean = u32::saturating_add(ticks_since_clean, ticked);
        ticks_since_retain += ticked;
        ticks_since_age += ticked;
        if ticks_since_age >= AGE_TICKS {
            ticks_since_age = 0;
            engine.log_context.memory.age();
            if engine.upkeep_hints.remembers_ids() {
                registry.all_unsorted().iter().for_each(|topic| topic.expire_ids());
            }
        }
        if ticked > 0 && ticks.is_multiple_of(WATCH_TICKS) && engine.upkeep_hints.watches_channels() {
            registry.watch_channels().await;
        }
        let journal_fails =
            || engine.store.journal.as_ref().is_some_and(|journal| journal.failure().is_some());
        let work = Work {
            check_presence: ticked > 0 && ticks.is_multiple_of(PRESENCE_TICKS),
            squeeze: ticked > 0 && ticks.is_multiple_of(SQUEEZE_TICKS) && journal_fails(),
            shrink: ticked > 0 && ticks.is_multiple_of(QUIET_TICKS) && quiet.has_come(&engine),
            checkpoint: failed.checkpoint
                || (engine.store.journal.is_none() && topology.has_changed().unwrap_or(false))
                || engine.archive().is_some_and(|archive| archive.take_checkpoint_wanted()),
            journal: failed.journal
                || engine.health().is_err()
                || registry.has_undeleted()
                || journal_files::has_journal_files_to_retire(&registry),
            retain: failed.retain || (engine.upkeep_hints.retains() && ticks_since_retain >= RETAIN_TICKS),
            expire: failed.expire
                || (engine.upkeep_hints.expires() && ticked > 0 && ticks.is_multiple_of(EXPIRE_TICKS)),
            clean: failed.clean
                || (ticks_since_clean >= ticks_until_clean && engine.upkeep_hints.has_segments()),
        };
        if work == Work::default() {
            engine.backpressure.round_is_over();
            continue;
        }
        if work.checkpoint {
            topology.mark_unchanged();
        }
        if work.clean {
            ticks_since_clean = 0;
        }
        if work.retain {
            ticks_since_retain = 0;
        }
        let (registry, presence) = (registry.clone(), presence.clone());
        let done = blocking::run(move || work.execute(&registry, &presence)).await;
        let done = done.map_err(|panic| panic.to_string());
        match done.and_then(|done| done.map_err(|error| error.to_string())) {
            Ok(_) if work.only_checks_presence() => {}
            Ok(ticks) => {
                if work.clean {
                    ticks_until_clean = ticks;
                }
                failed = Work::default();
                engine.set_works(Part::Upkeep);
            }
            Err(cause) => {
                failed = work;
                engine.set_failed(Part::Upkeep, &cause);
            }
        }
        engine.backpressure.round_is_over();
    }
}

/// Detects quiet times.
#[derive(Debug, Default)]
struct Quiet {
    written_before: u64,
}

impl Quiet {
    /// Whether little was written since the last call while the journal takes much space.
    fn has_come(&mut self, engine: &Engine) -> bool {
        let Some(journal) = &engine.store.journal else { return false };
        let written = journal.bytes_written();
        let since = written - std::mem::replace(&mut self.written_before, written);
        since <= QUIET_BYTES && journal.footprint() > SMALL_ENOUGH * journal.least_footprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_takes_a_limited_share_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(ticks_until_clean(ms(1), false), CLEAN_TICKS);
        assert_eq!(ticks_until_clean(ms(400), false), 100, "20 s after a check of 0.4 s");
        assert_eq!(ticks_until_clean(ms(1), true), 1);
        assert_eq!(ticks_until_clean(ms(1000), true), 20);
    }
}
