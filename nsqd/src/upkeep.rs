//! Upkeep in the background: lets go of journal and segment files that are needed no more, and of what was retained for
//! long enough; tries again what a full disk refused; without a journal, writes down which topics and channels there are.
//!
//! With nothing to do it looks at a few numbers only, whatever the number of topics.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::health::Part;
use crate::startup::persist;
use crate::topic::registry::Registry;

/// How often it is looked whether there is something to do.
const INTERVAL: Duration = Duration::from_millis(200);
/// After so many of these intervals segments are looked at, if some were written ...
const BUSY_CLEAN_TICKS: u32 = 10;
/// ... and after so many in any case.
const CLEAN_TICKS: u32 = 300;
/// After so many of these intervals what was read from disk and not used again is given back.
const AGE_TICKS: u32 = 15;
/// After so many of these intervals topics let go of what they have kept for long enough.
const RETAIN_TICKS: u32 = 5;

/// What there is to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Work {
    /// Topics or channels have changed, and no journal says so.
    checkpoint: bool,
    /// The journal has files to let go of, or something is to be tried again.
    journal: bool,
    retain: bool,
    clean: bool,
}

impl Work {
    fn execute(self, registry: &Registry) -> Result<(), String> {
        if self.checkpoint {
            persist::write_checkpoint(registry, false)?;
        }
        if self.journal {
            persist::retry_spills(registry);
            persist::retire_journal_files(registry)?;
        }
        if self.retain {
            persist::retain(registry)?;
        }
        if self.clean {
            persist::clean_segments(registry)?;
        }
        Ok(())
    }
}

/// Runs until told to stop.
pub async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let engine = registry.engine().clone();
    let mut topology = engine.topology();
    topology.mark_unchanged();
    let mut ticks_since_clean = 0;
    let mut ticks_since_retain = 0;
    let mut ticks_since_age = 0;
    // What failed is to be done still.
    let mut failed = Work::default();
    let mut ticks = clock::ticks(INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => return,
        }
        clock::follow_wall_clock();
        engine.note_journal();
        ticks_since_clean += 1;
        ticks_since_retain += 1;
        ticks_since_age += 1;
        if ticks_since_age >= AGE_TICKS {
            ticks_since_age = 0;
            engine.log_context.memory.age();
        }
        let work = Work {
            checkpoint: failed.checkpoint
                || (engine.journal.is_none() && topology.has_changed().unwrap_or(false)),
            journal: failed.journal
                || engine.health().is_err()
                || persist::has_journal_files_to_retire(&registry),
            retain: failed.retain || (engine.retains() && ticks_since_retain >= RETAIN_TICKS),
            clean: failed.clean
                || ticks_since_clean >= CLEAN_TICKS
                || (ticks_since_clean >= BUSY_CLEAN_TICKS && engine.take_wrote_segments()),
        };
        if work == Work::default() {
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
        let registry = registry.clone();
        match tokio::task::spawn_blocking(move || work.execute(&registry)).await {
            Ok(Ok(())) => {
                failed = Work::default();
                engine.set_works(Part::Upkeep);
            }
            outcome => {
                failed = work;
                let cause =
                    outcome.map_or_else(|panic| panic.to_string(), |error| error.err().unwrap_or_default());
                engine.set_failed(Part::Upkeep, &cause);
            }
        }
    }
}
