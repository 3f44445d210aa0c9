//! Upkeep in the background: lets go of journal and segment files that are needed no more, and of what was retained for
//! long enough; tries again what a full disk refused; looks whether the files are still there; gives back room on disk while
//! little happens; without a journal, writes down which topics and channels there are.
//!
//! With nothing to do it looks at a few numbers only, whatever the number of topics.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::blocking;
use crate::clock;
use crate::engine::Engine;
use crate::health::Part;
use crate::presence::Presence;
use crate::startup::persist;
use crate::topic::registry::Registry;

/// How often it is looked whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(200);
/// After so many of these intervals segments are looked at, if there are any ...
const CLEAN_TICKS: u32 = 10;
/// ... but not so soon that looking takes more than one in so many parts of the time ...
const CLEAN_SHARE: u32 = 50;
/// ... or, while there is work, cleaning takes more than this.
const BUSY_CLEAN_SHARE: u32 = 4;
/// After so many of these intervals what was read from disk and not used again is given back.
const AGE_TICKS: u32 = 15;
/// After so many of these intervals topics let go of what they have kept for long enough.
const RETAIN_TICKS: u32 = 5;

/// After so many of these intervals the files are looked at ...
const LOOK_TICKS: u32 = 5;
/// ... and, on a full disk, messages moved out of a journal file ...
const SQUEEZE_TICKS: u32 = 25;
/// ... and the journal is made small, if little was written to it meanwhile: at most so much.
const QUIET_TICKS: u32 = 150;
const QUIET_BYTES: u64 = 256 << 10;
/// A journal of so many times its smallest size stays as it is.
const SMALL_ENOUGH: u64 = 4;

/// What there is to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Work {
    look: bool,
    squeeze: bool,
    shrink: bool,
    /// Topics or channels have changed, and no journal says so.
    checkpoint: bool,
    /// The journal has files to let go of, or something is to be tried again.
    journal: bool,
    retain: bool,
    clean: bool,
}

impl Work {
    /// Says nothing about whether what failed before works again.
    fn is_only_looking(self) -> bool {
        self == Work { look: true, ..Work::default() }
    }

    /// Returns after how many intervals segments are to be looked at again.
    fn execute(self, registry: &Registry, presence: &Mutex<Presence>) -> Result<u32, String> {
        if self.look {
            presence.lock().look(registry);
        }
        let done = self.work_off(registry);
        if done.is_err() && !self.look {
            // Publishes must not go on if it failed because the data directory is gone.
            presence.lock().look(registry);
        }
        done
    }

    /// Returns after how many intervals segments are to be looked at again.
    fn work_off(self, registry: &Registry) -> Result<u32, String> {
        if self.checkpoint {
            persist::write_checkpoint(registry, false)?;
        }
        if self.journal {
            registry.retry_deletes();
            persist::retry_spills(registry);
            persist::retire_journal_files(registry)?;
        }
        if self.squeeze {
            persist::squeeze_journal(registry)?;
        }
        if self.shrink {
            persist::shrink_journal(registry)?;
        }
        if self.retain {
            persist::retain(registry)?;
        }
        if self.clean {
            return clean(registry);
        }
        Ok(CLEAN_TICKS)
    }
}

fn clean(registry: &Registry) -> Result<u32, String> {
    let engine = registry.engine();
    // Before it is looked: one that is written to meanwhile sets it again.
    engine.set_has_segments(false);
    let began = clock::monotonic();
    let cleaned = persist::clean_segments(registry);
    if cleaned.as_ref().is_ok_and(|cleaned| !cleaned.has_files) {
        return Ok(CLEAN_TICKS);
    }
    engine.set_has_segments(true);
    Ok(ticks_until_clean(Duration::from_nanos(clock::monotonic() - began), cleaned?.has_more))
}

/// When segments are looked at again, after that took so long.
fn ticks_until_clean(took: Duration, has_more: bool) -> u32 {
    let (share, least) = if has_more { (BUSY_CLEAN_SHARE, 1) } else { (CLEAN_SHARE, CLEAN_TICKS) };
    let ticks = (took * share).as_nanos().div_ceil(INTERVAL.as_nanos());
    u32::try_from(ticks).unwrap_or(u32::MAX).max(least)
}

/// Runs until told to stop.
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
    // What failed is to be done still.
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
        }
        let journal_fails = || engine.journal.as_ref().is_some_and(|journal| journal.failure().is_some());
        let work = Work {
            look: ticked > 0 && ticks.is_multiple_of(LOOK_TICKS),
            squeeze: ticked > 0 && ticks.is_multiple_of(SQUEEZE_TICKS) && journal_fails(),
            shrink: ticked > 0 && ticks.is_multiple_of(QUIET_TICKS) && quiet.has_come(&engine),
            checkpoint: failed.checkpoint
                || (engine.journal.is_none() && topology.has_changed().unwrap_or(false)),
            journal: failed.journal
                || engine.health().is_err()
                || registry.has_undeleted()
                || persist::has_journal_files_to_retire(&registry),
            retain: failed.retain || (engine.retains() && ticks_since_retain >= RETAIN_TICKS),
            clean: failed.clean || (ticks_since_clean >= ticks_until_clean && engine.has_segments()),
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
        match blocking::run(move || work.execute(&registry, &presence)).await.and_then(|done| done) {
            Ok(_) if work.is_only_looking() => {}
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

/// Whether little is written.
#[derive(Debug, Default)]
struct Quiet {
    written_before: u64,
}

impl Quiet {
    /// Whether little was written since the last call, and the journal takes much room all the same.
    fn has_come(&mut self, engine: &Engine) -> bool {
        let Some(journal) = &engine.journal else { return false };
        let written = journal.bytes_written();
        let since = written - std::mem::replace(&mut self.written_before, written);
        since <= QUIET_BYTES && journal.footprint() > SMALL_ENOUGH * journal.least_footprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning_takes_a_share_of_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(ticks_until_clean(ms(1), false), CLEAN_TICKS);
        assert_eq!(ticks_until_clean(ms(400), false), 100, "20 s after a look of 0.4 s");
        assert_eq!(ticks_until_clean(ms(1), true), 1);
        assert_eq!(ticks_until_clean(ms(1000), true), 20);
    }
}
