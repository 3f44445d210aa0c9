//! A disk as plain data: what programs see of it, what is on stable storage, and every change as a value. So a
//! run can be recorded once and replayed up to any point, or to a point within a change.
//!
//! Copies share contents until one of them is written to, so copying a disk copies only its names.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// A power failure keeps or loses unsynced bytes in pieces of this size.
pub const SECTOR_BYTES: usize = 512;

/// Identifies a file, whatever its name is now.
pub type FileId = usize;

/// One change of a disk.
#[derive(Clone, Debug)]
pub enum Change {
    Create { path: PathBuf, len: usize },
    Write { file: FileId, offset: usize, bytes: Arc<[u8]> },
    Truncate { file: FileId, len: usize },
    Sync { file: FileId },
    SyncDir { dir: PathBuf },
    CreateDirs { dir: PathBuf },
    Remove { path: PathBuf },
    RemoveDirAll { dir: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
}

impl Change {
    /// Number of bytes that it writes. 0 if it cannot be torn.
    pub fn written_bytes(&self) -> usize {
        match self {
            Change::Write { bytes, .. } => bytes.len(),
            _ => 0,
        }
    }

    /// The change with only the first `len` bytes of a write.
    pub fn torn(&self, len: usize) -> Change {
        match self {
            Change::Write { file, offset, bytes } => {
                Change::Write { file: *file, offset: *offset, bytes: bytes[..len.min(bytes.len())].into() }
            }
            other => other.clone(),
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    names: Names,
    /// Names that syncs of directories have made durable.
    synced_names: Names,
    /// Later changes of names, oldest first, with the affected file.
    unsynced: Vec<(Change, FileId)>,
    files: Vec<Content>,
    /// Numbers of directories, assigned on demand.
    dir_numbers: BTreeMap<PathBuf, u64>,
    next_dir_number: u64,
}

#[derive(Clone, Debug, Default)]
struct Names {
    files: BTreeMap<PathBuf, FileId>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    live: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
}

impl Names {
    /// Applies a change of names and returns the affected file. `created` is the file for a creation.
    fn apply(&mut self, change: &Change, created: FileId) -> io::Result<FileId> {
        match change {
            Change::Create { path, .. } => {
                if self.files.contains_key(path) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                if !path.parent().is_some_and(|dir| self.dirs.contains(dir)) {
                    return Err(not_found());
                }
                self.files.insert(path.clone(), created);
            }
            Change::CreateDirs { dir } => self.dirs.extend(dir.ancestors().map(Path::to_path_buf)),
            Change::Remove { path } => return self.files.remove(path).ok_or_else(not_found),
            Change::RemoveDirAll { dir } => {
                if !self.dirs.contains(dir) {
                    return Err(not_found());
                }
                self.files.retain(|path, _| !path.starts_with(dir));
                self.dirs.retain(|path| !path.starts_with(dir));
            }
            Change::Rename { from, to } => {
                let file = self.files.remove(from).ok_or_else(not_found)?;
                self.files.insert(to.clone(), file);
                return Ok(file);
            }
            _ => {}
        }
        Ok(created)
    }

    /// Applies changes that reached the disk although earlier ones may not have.
    fn play(&mut self, changes: &[&(Change, FileId)]) {
        for (change, file) in changes {
            match change {
                Change::Rename { from, to } => {
                    if self.files.get(from) == Some(file) {
                        self.files.remove(from);
                    }
                    self.files.insert(to.clone(), *file);
                }
                Change::Create { path, .. } => _ = self.files.insert(path.clone(), *file),
                Change::Remove { path } if self.files.get(path) != Some(file) => {}
                // Its files are removed one by one, and it may contain new ones by now.
                Change::RemoveDirAll { dir } if self.files.keys().any(|path| path.starts_with(dir)) => {}
                // A missing name need not be removed.
                other => _ = self.apply(other, *file),
            }
        }
    }
}

impl Disk {
    /// Applies a change. Returns the created file if it creates one.
    pub fn apply(&mut self, change: &Change) -> io::Result<FileId> {
        let created = self.files.len();
        match change {
            Change::Write { file, offset, bytes } => {
                let live = Arc::make_mut(&mut self.files[*file].live);
                if live.len() < offset + bytes.len() {
                    live.resize(offset + bytes.len(), 0);
                }
                live[*offset..offset + bytes.len()].copy_from_slice(bytes);
            }
            Change::Truncate { file, len } => {
                Arc::make_mut(&mut self.files[*file].live).truncate(*len);
            }
            Change::Sync { file } => {
                let content = &mut self.files[*file];
                content.synced = content.live.clone();
            }
            Change::SyncDir { dir } => self.sync_dir(dir)?,
            names => {
                if let Change::RemoveDirAll { dir } = names {
                    self.dir_numbers.retain(|path, _| !path.starts_with(dir));
                    let inside = self.names.files.iter().filter(|(path, _)| path.starts_with(dir));
                    let remove =
                        |(path, file): (&PathBuf, &FileId)| (Change::Remove { path: path.clone() }, *file);
                    self.unsynced.extend(inside.map(remove));
                }
                let file = self.names.apply(names, created)?;
                if let Change::Create { len, .. } = names {
                    self.files.push(Content { live: Arc::new(vec![0; *len]), synced: Arc::new(Vec::new()) });
                }
                // Directories at the root represent those that existed before the test.
                if let Change::CreateDirs { dir } = names {
                    let old = dir.ancestors().filter(|dir| dir.components().count() <= 2);
                    self.synced_names.dirs.extend(old.map(Path::to_path_buf));
                }
                self.unsynced.push((names.clone(), file));
            }
        }
        Ok(created)
    }

    fn sync_dir(&mut self, dir: &Path) -> io::Result<()> {
        if !self.names.dirs.contains(dir) {
            return Err(not_found());
        }
        let concerns = |(change, _): &(Change, FileId)| match change {
            Change::Create { path, .. } => path.parent() == Some(dir),
            // Or the directory above, if its own directory was removed as well.
            Change::Remove { path } => {
                path.parent() == Some(dir)
                    || path
                        .parent()
                        .is_some_and(|of| of.parent() == Some(dir) && !self.names.dirs.contains(of))
            }
            Change::Rename { from, to } => from.parent() == Some(dir) || to.parent() == Some(dir),
            // A directory's name is an entry of its parent. Higher directories are assumed to be older.
            Change::CreateDirs { dir: made } => made.parent() == Some(dir) || made == dir,
            Change::RemoveDirAll { dir: gone } => gone.parent() == Some(dir),
            _ => false,
        };
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.unsynced).into_iter().partition(concerns);
        self.unsynced = later;
        self.synced_names.play(&now.iter().collect::<Vec<_>>());
        Ok(())
    }

    /// What the next start finds if the process is killed now.
    pub fn after_kill(&self) -> Disk {
        self.image(&self.names, |content| content.live.clone())
    }

    /// What the next start finds if the power fails now. `seed` decides which unsynced data survives: bytes sector by
    /// sector, names change by change. With seed 0, all unsynced data is lost.
    pub fn after_power_loss(&self, seed: u64) -> Disk {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut names = self.synced_names.clone();
        let kept: Vec<_> = match seed {
            0 => Vec::new(),
            // Most file systems keep the order of such changes; not all do.
            seed if seed.is_multiple_of(2) => {
                self.unsynced.iter().take(random.random_range(0..=self.unsynced.len())).collect()
            }
            _ => self.unsynced.iter().filter(|_| random.random()).collect(),
        };
        names.play(&kept);
        let share = match random.random_range(0..4) {
            _ if seed == 0 => 0.0,
            0 => 1.0,
            1 => 0.9,
            _ => 0.5,
        };
        self.image(&names, |content| content.torn(&mut random, share))
    }

    fn image(&self, names: &Names, mut bytes: impl FnMut(&Content) -> Arc<Vec<u8>>) -> Disk {
        let mut files = Vec::new();
        let mut named = names.clone();
        for file in named.files.values_mut() {
            let bytes = bytes(&self.files[*file]);
            *file = files.len();
            files.push(Content { live: bytes.clone(), synced: bytes });
        }
        Disk { synced_names: named.clone(), names: named, files, ..Disk::default() }
    }

    /// The file of this name.
    pub fn open(&self, path: &Path) -> io::Result<FileId> {
        self.names.files.get(path).copied().ok_or_else(not_found)
    }

    /// A file's bytes.
    pub fn bytes(&self, file: FileId) -> &[u8] {
        &self.files[file].live
    }

    /// The number of a file or directory. It stays the same when the name changes and is never reused.
    pub fn inode(&mut self, path: &Path) -> io::Result<u64> {
        if let Ok(file) = self.open(path) {
            return Ok(file as u64);
        }
        if !self.has_dir(path) {
            return Err(not_found());
        }
        let next = &mut self.next_dir_number;
        Ok(*self.dir_numbers.entry(path.to_path_buf()).or_insert_with(|| {
            *next += 1;
            u64::MAX - *next
        }))
    }

    /// The directory with this number, if it still exists.
    pub fn dir_of(&self, number: u64) -> Option<PathBuf> {
        self.dir_numbers.iter().find(|(_, other)| **other == number).map(|(path, _)| path.clone())
    }

    /// Bytes of all files that have a name.
    pub fn used_bytes(&self) -> u64 {
        self.names.files.values().map(|&file| self.files[file].live.len() as u64).sum()
    }

    /// Bytes by which a change makes a file grow.
    pub fn growth(&self, change: &Change) -> u64 {
        match change {
            Change::Create { len, .. } => *len as u64,
            Change::Write { file, offset, bytes } => {
                (offset + bytes.len()).saturating_sub(self.files[*file].live.len()) as u64
            }
            _ => 0,
        }
    }

    /// Moves a file, or a directory with everything in it, as another program would.
    pub fn move_away(&mut self, from: &Path, to: &Path) {
        let moved = |path: &PathBuf| path.strip_prefix(from).ok().map(|rest| to.join(rest));
        let moved = |path: PathBuf| match moved(&path) {
            // A path joined with nothing would end with a slash.
            Some(_) if path == from => to.to_path_buf(),
            Some(new) => new,
            None => path,
        };
        for names in [&mut self.names, &mut self.synced_names] {
            names.files = std::mem::take(&mut names.files)
                .into_iter()
                .map(|(path, file)| (moved(path), file))
                .collect();
            names.dirs = std::mem::take(&mut names.dirs).into_iter().map(moved).collect();
        }
        let numbers = std::mem::take(&mut self.dir_numbers);
        self.dir_numbers = numbers.into_iter().map(|(path, number)| (moved(path), number)).collect();
    }

    /// Changes a file's bytes without notice to its users.
    pub fn tamper(&mut self, file: FileId, change: impl FnOnce(&mut Vec<u8>)) {
        change(Arc::make_mut(&mut self.files[file].live));
    }

    pub fn has_dir(&self, dir: &Path) -> bool {
        self.names.dirs.contains(dir)
    }

    /// The names of the entries of a directory.
    pub fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        if !self.has_dir(dir) {
            return Err(not_found());
        }
        let entries =
            self.names.files.keys().chain(&self.names.dirs).filter(|path| path.parent() == Some(dir));
        Ok(entries.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    /// The paths of all files, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.names.files.keys().cloned().collect()
    }
}

impl Content {
    /// A mix of current and last synced sectors. The length is the current or the last synced one.
    fn torn(&self, random: &mut SmallRng, kept_share: f64) -> Arc<Vec<u8>> {
        if Arc::ptr_eq(&self.live, &self.synced) {
            return self.live.clone();
        }
        let (new, old) = (&self.live[..], &self.synced[..]);
        let len = if random.random_bool(kept_share) { new.len() } else { old.len() };
        let mut bytes = vec![0; len];
        for start in (0..len).step_by(SECTOR_BYTES) {
            let sector = start..(start + SECTOR_BYTES).min(len);
            let from = if random.random_bool(kept_share) { new } else { old };
            copy_range(&mut bytes, from, sector);
        }
        Arc::new(bytes)
    }
}

fn copy_range(to: &mut [u8], from: &[u8], range: Range<usize>) {
    let end = range.end.min(from.len());
    if range.start < end {
        to[range.start..end].copy_from_slice(&from[range.start..end]);
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
