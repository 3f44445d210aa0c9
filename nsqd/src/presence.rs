//! Whether what the daemon has on disk is still there. While it runs, somebody may remove, move or replace the data directory or
//! files in it; then the files that are open work on as if nothing had happened, until the next start finds none of them.
//!
//! What is gone is written again from memory. Without its directory the daemon waits until that is put back: it may be elsewhere, or
//! another disk may have taken its place. Meanwhile it is unhealthy and refuses publishes.

use std::sync::Arc;

use crate::engine::Engine;
use crate::health::Part;
use crate::startup::persist;
use crate::storage::Identity;
use crate::storage::journal::Journal;
use crate::topic::registry::Registry;

/// At most so many topics are looked at in one go.
const TOPICS_PER_LOOK: usize = 200;

/// See the module.
#[derive(Debug, Default)]
pub struct Presence {
    /// The checkpoint, and how many had been written when it was looked at.
    checkpoint: Option<(u64, Option<Identity>)>,
    /// The format file.
    format: Option<Identity>,
    next_topic: usize,
    lost_journal_files: Vec<u64>,
}

impl Presence {
    /// Looks at everything once, but at the segments of some topics only. Blocks.
    pub fn look(&mut self, registry: &Registry) {
        let engine = registry.engine();
        let home = engine.home.check().map_err(|error| error.to_string());
        engine.set_homeless(home.is_err());
        // It finds out by itself why it can write nothing.
        let journal = engine.journal.as_ref().filter(|journal| journal.check().is_ok());
        let writable = home.and_then(|()| check_writable(engine));
        if let Err(cause) = writable {
            engine.set_failed(Part::DataDir, &cause);
            return;
        }
        engine.set_works(Part::DataDir);
        let mut causes = Vec::new();
        causes.extend(journal.and_then(|journal| self.look_at_journal(registry, journal)));
        causes.extend(self.look_at_checkpoint(registry));
        causes.extend(self.look_at_segments(registry));
        match causes.first() {
            None => engine.set_works(Part::Files),
            Some(cause) => engine.set_failed(Part::Files, cause),
        }
    }

    fn look_at_journal(&mut self, registry: &Registry, journal: &Arc<Journal>) -> Option<String> {
        let lost = journal.lost_files();
        if lost.is_empty() {
            self.lost_journal_files.clear();
            return None;
        }
        if lost != self.lost_journal_files {
            let engine = registry.engine();
            crate::log_error!(
                engine,
                "journal files {lost:?} in {} were removed or replaced; storing what they held again",
                engine.data_dir.journal_dir().display()
            );
            self.lost_journal_files = lost;
        }
        let failed = |cause| format!("cannot store again what removed journal files held: {cause}");
        match persist::retire_journal_files(registry) {
            Err(cause) => Some(failed(cause)),
            Ok(_) if journal.lost_files().is_empty() => {
                crate::log_info!(registry.engine(), "stored again what removed journal files held");
                None
            }
            Ok(_) => Some(failed("nsqd tries again".to_owned())),
        }
    }

    fn look_at_checkpoint(&mut self, registry: &Registry) -> Option<String> {
        let engine = registry.engine();
        let path = engine.data_dir.checkpoint_path();
        let format = engine.data_dir.format_path();
        let found = engine.storage.identity(&format).ok();
        if found.is_none() || self.format.is_some_and(|known| found != Some(known)) {
            crate::log_error!(engine, "{} was removed or replaced; writing it again", format.display());
            if let Err(error) = engine.data_dir.restore(&*engine.storage) {
                return Some(error.to_string());
            }
        }
        self.format = engine.storage.identity(&format).ok();
        let count = engine.checkpoint_count();
        let found = engine.storage.identity(&path).ok();
        let known = self.checkpoint.filter(|&(known, _)| known == count);
        let is_missing = match known {
            Some((_, known)) => known.is_some() && known != found,
            None => found.is_none() && count > 0,
        };
        if !is_missing {
            self.checkpoint = Some((count, found));
            return None;
        }
        crate::log_error!(engine, "{} was removed or replaced; writing it again", path.display());
        self.checkpoint = None;
        persist::write_checkpoint(registry, false).err()
    }

    fn look_at_segments(&mut self, registry: &Registry) -> Option<String> {
        let topics = registry.all_unsorted();
        let first = if self.next_topic < topics.len() { self.next_topic } else { 0 };
        self.next_topic = first + TOPICS_PER_LOOK;
        let mut problem = None;
        for topic in topics.iter().skip(first).take(TOPICS_PER_LOOK) {
            let dir = registry.engine().data_dir.topic_dir(topic.number());
            let (name, dir) = (topic.name(), dir.display());
            match topic.log().replace_gone_files() {
                Ok(gone) if gone.files == 0 => {}
                Ok(gone) if gone.unreadable == 0 => crate::log_error!(
                    registry.engine(),
                    "TOPIC({name}): {} segment files in {dir} were removed or replaced; what they held is stored again",
                    gone.files
                ),
                Ok(gone) => {
                    problem = Some(format!(
                        "TOPIC({name}): segment files in {dir} were removed or replaced, with {} messages that are nowhere \
                         else; put them back, or restart nsqd to go on without them",
                        gone.unreadable
                    ));
                }
                Err(error) => problem = Some(format!("TOPIC({name}): cannot write segment: {error}")),
            }
        }
        problem
    }
}

fn check_writable(engine: &Engine) -> Result<(), String> {
    let path = engine.data_dir.path();
    let checked = engine.storage.check_writable(path);
    checked.map_err(|error| format!("data directory {} cannot be written to: {error}", path.display()))
}
