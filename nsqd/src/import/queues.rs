//! Lists NSQ's files and renames them.
//!
//! Files that were taken over are renamed, never deleted. The new names are written to a file of their own before the
//! checkpoint that makes the messages ours. A start that finds both files therefore knows that only the renaming is
//! left, whatever NSQ has done in the directory meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use crate::import::diskqueue::{self, MAX_POSITION_BYTES, Position, QueueFile};
use crate::storage::Storage;

/// NSQ's list of topics and channels.
pub const METADATA_FILE: &str = "nsqd.dat";
/// The list of names to change; exists only during a takeover.
pub const RENAMES_FILE: &str = "takeover";
const SUFFIX: &str = "imported";
/// Maximum size of a valid list of names.
const MAX_RENAMES_BYTES: u64 = 1 << 30;

/// The files of one queue.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FoundQueue {
    pub has_position: bool,
    /// Numbers of the data files, sorted.
    pub data: Vec<u64>,
    /// Names of all its files.
    pub names: Vec<String>,
}

/// The queues of a directory, by name.
pub type QueueFiles = BTreeMap<String, FoundQueue>;

/// Finds the queues among these file names of a directory.
pub fn find_queues(names: &BTreeSet<String>) -> QueueFiles {
    let mut queues = QueueFiles::new();
    for name in names {
        let Some((queue, file)) = diskqueue::parse_file_name(name) else { continue };
        let found = queues.entry(queue.to_owned()).or_default();
        found.names.push(name.clone());
        match file {
            QueueFile::Position => found.has_position = true,
            QueueFile::Data(number) => found.data.push(number),
            QueueFile::Dead => {}
        }
    }
    queues.values_mut().for_each(|found| found.data.sort_unstable());
    queues
}

/// Reads a queue's position file; `None` if it has none.
pub fn read_position(
    storage: &dyn Storage,
    dir: &Path,
    queue: &str,
    found: &FoundQueue,
) -> io::Result<Option<Position>> {
    if !found.has_position {
        return Ok(None);
    }
    let text = read_file(storage, &dir.join(diskqueue::position_file_name(queue)), MAX_POSITION_BYTES)?;
    // A file that is too long is invalid, and nothing in it is used.
    Ok(Some(text.map_or_else(Position::default, |text| Position::parse(&text))))
}

/// Reads a whole file; `None` if it is longer than `max_bytes`.
pub fn read_file(storage: &dyn Storage, path: &Path, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let file = storage.open(path)?;
    let len = file.len()?;
    if len > max_bytes {
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    let filled = file.read_at(&mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// Writes down the new names of `files`. `names` are the names in use. Readers never see a partial list.
pub fn plan_renames(
    storage: &dyn Storage,
    dir: &Path,
    files: impl Iterator<Item = String>,
    names: &BTreeSet<String>,
) -> io::Result<()> {
    let mut text = String::new();
    for from in files {
        // An earlier takeover may have used the name.
        let mut tries =
            std::iter::once(format!("{from}.{SUFFIX}")).chain((2..).map(|n| format!("{from}.{SUFFIX}.{n}")));
        let to = tries.find(|to| !names.contains(to)).unwrap_or_default();
        text += &format!("{from}\t{to}\n");
    }
    let path = dir.join(RENAMES_FILE);
    let aside = path.with_extension("new");
    remove_if_there(storage, &aside)?;
    let file = storage.create(&aside, 0)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_data()?;
    storage.rename(&aside, &path)?;
    Ok(storage.sync_dir(dir)?)
}

/// Performs the remaining renames of [`plan_renames`]. Returns the number of renamed files.
pub fn finish_renames(storage: &dyn Storage, dir: &Path) -> io::Result<usize> {
    let path = dir.join(RENAMES_FILE);
    let text = read_file(storage, &path, MAX_RENAMES_BYTES)?.ok_or(io::ErrorKind::InvalidData)?;
    let text = String::from_utf8_lossy(&text);
    let names: BTreeSet<String> = storage.list(dir)?.into_iter().collect();
    let mut renamed = 0;
    for (from, to) in text.lines().filter_map(|line| line.split_once('\t')) {
        // If the new name exists, the file was already renamed. A file with the old name is then not the one that was
        // taken over.
        let is_done = names.contains(to) || !names.contains(from);
        if !is_done && !from.contains('/') && !to.contains('/') {
            storage.rename(&dir.join(from), &dir.join(to))?;
            renamed += 1;
        }
    }
    // The new names must be durable before the list is deleted.
    storage.sync_dir(dir)?;
    remove_if_there(storage, &path)?;
    storage.sync_dir(dir)?;
    Ok(renamed)
}

/// Deletes a file, which need not exist.
pub fn remove_if_there(storage: &dyn Storage, path: &Path) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
