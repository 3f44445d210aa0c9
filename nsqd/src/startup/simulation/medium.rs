//! What a workload runs on: a simulated disk, or real files.
//!
//! Only a simulated disk records its changes, so only there a crash can undo some of them, or cut one. Real files keep
//! all changes when the process ends: what it had not written yet is lost.

use std::path::Path;
use std::sync::Arc;

use super::observe::DIR;
use super::world::{Life, text};
use crate::storage::data_dir::TOPICS_DIR;
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::{Change, Disk};
use crate::storage::file::FileStorage;
use crate::storage::open_files::OpenFiles;
use crate::storage::overlay::OverlayStorage;
use crate::storage::{Storage, TopicNumber};

/// So few segment files stay open that nsqd closes and reopens them all the time.
const MAX_OPEN_SEGMENTS: usize = 2;

/// See the module.
pub enum Medium {
    Simulated(FaultyStorage),
    Real(Arc<tempfile::TempDir>),
}

/// A crash, as seen from the changes of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// The disk has this many changes of the life.
    pub changes: usize,
    /// It also has a part of the next change, which this number selects.
    pub torn: Option<usize>,
    /// The power fails. The seed selects which unsynced changes are lost.
    pub power_fails: Option<u64>,
}

impl Medium {
    /// An empty simulated disk.
    pub fn simulated() -> Result<Self, String> {
        let storage = FaultyStorage::default();
        storage.create_dir_all(DIR.as_ref()).map_err(text)?;
        Ok(Medium::Simulated(storage.after_kill()))
    }

    /// An empty directory of real files, which is deleted at the end.
    pub fn real() -> Result<Self, String> {
        Ok(Medium::Real(Arc::new(tempfile::tempdir().map_err(text)?)))
    }

    /// The storage for the engine.
    pub fn storage(&self) -> Arc<dyn Storage> {
        match self {
            Medium::Simulated(storage) => Arc::new(storage.clone()),
            Medium::Real(_) => Arc::new(OpenFiles::new(Arc::new(FileStorage), MAX_OPEN_SEGMENTS)),
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        match self {
            Medium::Simulated(_) => DIR.as_ref(),
            Medium::Real(dir) => dir.path(),
        }
    }

    /// Shows what is stored now, and keeps all changes to itself.
    pub fn view(&self) -> Arc<dyn Storage> {
        match self {
            Medium::Simulated(storage) => Arc::new(storage.after_kill()),
            Medium::Real(_) => Arc::new(OverlayStorage::default()),
        }
    }

    /// Begins a life. Returns the disk at its start.
    pub fn begin(&self) -> Disk {
        match self {
            Medium::Simulated(storage) => {
                let base = storage.disk();
                storage.record();
                base
            }
            Medium::Real(_) => Disk::default(),
        }
    }

    /// Number of changes since the life began; 0 if they are not recorded.
    pub fn change_count(&self) -> usize {
        match self {
            Medium::Simulated(storage) => storage.recorded_count(),
            Medium::Real(_) => 0,
        }
    }

    /// Ends a life. Returns its changes, as far as they are recorded.
    pub fn end(&self) -> Vec<Change> {
        match self {
            Medium::Simulated(storage) => storage.take_recorded(),
            Medium::Real(_) => Vec::new(),
        }
    }

    /// Where to cut the changes so far, `back` changes ago.
    pub fn cut(&self, back: usize, torn: usize, power_fails: Option<u64>) -> Cut {
        match self {
            Medium::Simulated(storage) => {
                let count = storage.recorded_count();
                let changes = count.saturating_sub(back);
                Cut { changes, torn: (changes < count).then_some(torn), power_fails }
            }
            // More than `change_count` counts, so any step of the life may have been stored.
            Medium::Real(_) => Cut { changes: 1, torn: None, power_fails: None },
        }
    }

    /// What is left after a life that was cut.
    pub fn left(&self, life: &Life, cut: Cut) -> Result<Medium, String> {
        match self {
            Medium::Simulated(_) => Ok(Medium::Simulated(simulated_left(life, cut)?.into())),
            Medium::Real(dir) => {
                let topics = dir.path().join(TOPICS_DIR);
                let has_files = |number: &&TopicNumber| {
                    std::fs::read_dir(topics.join(number.to_string()))
                        .is_ok_and(|mut files| files.next().is_some())
                };
                match life.ephemeral.iter().find(has_files) {
                    Some(number) => Err(format!("ephemeral topic {number} has files")),
                    None => Ok(Medium::Real(dir.clone())),
                }
            }
        }
    }
}

fn simulated_left(life: &Life, cut: Cut) -> Result<Disk, String> {
    let mut disk = life.base.clone();
    for change in &life.changes[..cut.changes] {
        disk.apply(change).map_err(text)?;
    }
    life.check_ephemeral(&disk)?;
    if let Some(torn) = cut.torn {
        let change = &life.changes[cut.changes];
        let len = torn % change.written_bytes().max(1);
        if len > 0 {
            disk.apply(&change.torn(len)).map_err(text)?;
        }
    }
    Ok(match cut.power_fails {
        Some(seed) => disk.after_power_loss(seed),
        None => disk.after_kill(),
    })
}
