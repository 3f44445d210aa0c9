//! Checks that the daemon's files on disk are still there. While nsqd runs, someone may remove, move or replace the
//! data directory or files in it. Open files then still work, but the next start does not find them.
//!
//! nsqd writes missing files again from memory. If the directory itself is missing, nsqd waits until someone restores
//! it: it may have been moved, or another disk may be mounted in its place. Meanwhile nsqd is unhealthy and refuses
//! publishes.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::checkpoint::write_checkpoint;
use super::journal_files::retire_journal_files;
use crate::engine::Engine;
use crate::health::Part;
use crate::storage::Identity;
use crate::storage::journal::Journal;
use crate::topic::registry::Registry;

/// Maximum number of topics checked per call.
const TOPICS_PER_CHECK: usize = 200;

/// See the module.
#[derive(Debug, Default)]
pub struct Presence {
    /// Identity of the checkpoint, and the number of checkpoints written when it was read.
    checkpoint: Option<(u64, Option<Identity>)>,
    /// Identity of the format file.
    format: Option<Identity>,
    next_topic: usize,
    lost_journal_files: Vec<u64>,
}

impl Presence {
    /// Checks everything once, but the segments of only some topics. Blocks.
    pub fn check(&mut self, registry: &Registry) {
        let engine = registry.engine();
        let home = engine.store.home.check();
        engine.status.set_data_dir_missing(home.is_err());
        // The journal itself notices when it cannot be written.
        let journal = engine.store.journal.as_ref().filter(|journal| journal.check().is_ok());
        let usable = home.map_err(DataDirFailure::Missing).and_then(|()| check_writable(engine));
        if let Err(failure) = usable {
            engine.set_failed(Part::DataDir, &failure.to_string());
            return;
        }
        engine.set_works(Part::DataDir);
        let mut causes = Vec::new();
        causes.extend(journal.and_then(|journal| self.check_journal(registry, journal)));
        causes.extend(self.check_checkpoint(registry));
        causes.extend(self.check_segments(registry));
        match causes.first() {
            None => engine.set_works(Part::Files),
            Some(cause) => engine.set_failed(Part::Files, cause),
        }
    }

    fn check_journal(&mut self, registry: &Registry, journal: &Arc<Journal>) -> Option<String> {
        let lost = journal.lost_files();
        if lost.is_empty() {
            self.lost_journal_files.clear();
            return None;
        }
        if lost != self.lost_journal_files {
            let engine = registry.engine();
            crate::log_error!(
                engine,
                "journal files {lost:?} in {} were removed or replaced; storing their content again",
                engine.store.data_dir.journal_dir().display()
            );
            self.lost_journal_files = lost;
        }
        let failed =
            |cause: String| format!("cannot store the content of removed journal files again: {cause}");
        match retire_journal_files(registry) {
            Err(cause) => Some(failed(cause.to_string())),
            Ok(_) if journal.lost_files().is_empty() => {
                crate::log_info!(registry.engine(), "stored the content of removed journal files again");
                None
            }
            Ok(_) => Some(failed("not all of it is stored yet; nsqd retries".to_owned())),
        }
    }

    fn check_checkpoint(&mut self, registry: &Registry) -> Option<String> {
        let engine = registry.engine();
        let path = engine.store.data_dir.checkpoint_path();
        let format = engine.store.data_dir.format_path();
        let found = engine.store.storage.identity(&format).ok();
        if found.is_none() || self.format.is_some_and(|known| found != Some(known)) {
            crate::log_error!(engine, "{} was removed or replaced; writing it again", format.display());
            if let Err(error) = engine.store.data_dir.restore(&*engine.store.storage) {
                return Some(error.to_string());
            }
        }
        self.format = engine.store.storage.identity(&format).ok();
        let count = engine.store.checkpoint_count();
        let found = engine.store.storage.identity(&path).ok();
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
        write_checkpoint(registry, false).err().map(|error| error.to_string())
    }

    fn check_segments(&mut self, registry: &Registry) -> Option<String> {
        let topics = registry.all_unsorted();
        let first = if self.next_topic < topics.len() { self.next_topic } else { 0 };
        self.next_topic = first + TOPICS_PER_CHECK;
        let mut failure = None;
        for topic in topics.iter().skip(first).take(TOPICS_PER_CHECK) {
            let dir = registry.engine().store.data_dir.topic_dir(topic.number());
            let (name, dir) = (topic.name(), dir.display());
            match topic.log().replace_gone_files() {
                Ok(gone) if gone.files == 0 => {}
                Ok(gone) if gone.unreadable == 0 => crate::log_error!(
                    registry.engine(),
                    "TOPIC({name}): {} segment files in {dir} were removed or replaced; their content is stored again",
                    gone.files
                ),
                Ok(gone) => {
                    failure = Some(format!(
                        "TOPIC({name}): segment files in {dir} were removed or replaced, with the only copy of {} \
                         messages; put the files back, or restart nsqd to continue without these messages",
                        gone.unreadable
                    ));
                }
                Err(error) => failure = Some(format!("TOPIC({name}): cannot write segment: {error}")),
            }
        }
        failure
    }
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
enum DataDirFailure {
    /// It is not in its place.
    #[error("{0}")]
    Missing(io::Error),
    #[error("cannot write to data directory {}: {error}", path.display())]
    NotWritable { path: PathBuf, error: io::Error },
}

fn check_writable(engine: &Engine) -> Result<(), DataDirFailure> {
    let path = engine.store.data_dir.path();
    let checked = engine.store.storage.check_writable(path);
    checked.map_err(|error| DataDirFailure::NotWritable { path: path.to_owned(), error })
}
