//! Damage to the files of a directory.

use std::path::PathBuf;

use bolero::TypeGenerator;
use bolero::generator::*;
use nsq_fuzz::edit::Edit;
use nsq_fuzz::memory_storage::MemoryStorage;

/// Up to three changes.
#[derive(Clone, Debug, Default, TypeGenerator)]
pub struct Damage {
    #[generator(produce::<Vec<Change>>().with().len(1usize..4))]
    pub changes: Vec<Change>,
}

/// A change to a file, chosen among those of a target.
#[derive(Clone, Debug, TypeGenerator)]
pub enum Change {
    /// The most frequent change: of bytes.
    Bytes(u8, Edit),
    MoreBytes(u8, Edit),
    EvenMoreBytes(u8, Edit),
    Delete(u8),
    /// Exchanges the content of two files.
    Swap(u8, u8),
}

impl Damage {
    /// Changes files among `paths`, of which some may be missing.
    pub fn apply(&self, storage: &MemoryStorage, paths: &[PathBuf]) {
        let path = |choice: u8| &paths[usize::from(choice) % paths.len()];
        for change in &self.changes {
            match change {
                Change::Bytes(file, edit) | Change::MoreBytes(file, edit) | Change::EvenMoreBytes(file, edit) => {
                    if let Some(mut bytes) = storage.take(path(*file)) {
                        edit.apply(&mut bytes);
                        storage.put(path(*file), bytes);
                    }
                }
                Change::Delete(file) => drop(storage.take(path(*file))),
                Change::Swap(one, other) => {
                    let (first, second) = (storage.take(path(*one)), storage.take(path(*other)));
                    let put = |choice: u8, bytes: Option<Vec<u8>>| {
                        if let Some(bytes) = bytes {
                            storage.put(path(choice), bytes);
                        }
                    };
                    put(*one, second);
                    put(*other, first);
                }
            }
        }
    }
}
