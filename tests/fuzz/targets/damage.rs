//! Damage to the files of a directory.

use std::path::PathBuf;

use bolero::TypeGenerator;
use bolero::generator::*;
use nsq_fuzz::edit::Edit;
use nsq_fuzz::memory_storage::MemoryStorage;

/// Up to three changes.
#[derive(Clone, Debug, Default, TypeGenerator)]
pub struct Damage {
    #[generator(produce::<Vec<Change>>().with().values(change()).len(1usize..4))]
    pub changes: Vec<Change>,
}

/// A change to a file, chosen among those of a target.
#[derive(Clone, Debug, TypeGenerator)]
pub enum Change {
    Bytes(u8, Edit),
    Delete(u8),
    /// Exchanges the content of two files.
    Swap(u8, u8),
}

/// Mostly changes of bytes.
fn change() -> impl ValueGenerator<Output = Change> {
    let bytes = || (produce::<u8>(), produce::<Edit>()).map_gen(|(file, edit)| Change::Bytes(file, edit));
    one_of((bytes(), bytes(), bytes(), bytes(), produce::<Change>()))
}

impl Damage {
    /// Changes files among `paths`, of which some may be missing. Returns for each path whose content it has now.
    pub fn apply(&self, storage: &MemoryStorage, paths: &[PathBuf]) -> Vec<Option<usize>> {
        let mut origins: Vec<Option<usize>> = (0..paths.len()).map(Some).collect();
        let index = |choice: u8| usize::from(choice) % paths.len();
        for change in &self.changes {
            match change {
                Change::Bytes(file, edit) => {
                    let path = &paths[index(*file)];
                    if let Some(mut bytes) = storage.take(path) {
                        edit.apply(&mut bytes);
                        storage.put(path, bytes);
                    }
                }
                Change::Delete(file) => {
                    storage.take(&paths[index(*file)]);
                    origins[index(*file)] = None;
                }
                Change::Swap(one, other) => {
                    let (one, other) = (index(*one), index(*other));
                    let contents = [(one, storage.take(&paths[other])), (other, storage.take(&paths[one]))];
                    for (file, bytes) in contents {
                        if let Some(bytes) = bytes {
                            storage.put(&paths[file], bytes);
                        }
                    }
                    origins.swap(one, other);
                }
            }
        }
        origins
    }
}
