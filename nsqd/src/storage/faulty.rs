//! The twin of the real files for tests: in memory, fails on demand, and shows what a crash leaves behind.
//!
//! The faults that the rest of the room must survive:
//!
//! - a write that fails before, in the middle of, or after its bytes;
//! - no space when making a file; a sync that fails; a name that cannot be changed;
//! - the death of the process: everything written is there, nothing else;
//! - power loss: what was not synced is there in part, by sectors, names included.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{DirLock, Storage, StorageFile};

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Create,
    Write,
    Sync,
    SyncDir,
    Read,
    Remove,
    Rename,
    Truncate,
}

/// A failure to come.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Of which kind of call.
    pub op: Op,
    /// So many calls work before.
    pub after: usize,
    /// So many calls fail then.
    pub times: usize,
    /// With this error.
    pub error: io::ErrorKind,
    /// If it is a write: so many bytes are written nevertheless.
    pub written: usize,
}

impl Fault {
    /// The next `times` calls fail and do nothing.
    pub fn next(op: Op, times: usize, error: io::ErrorKind) -> Self {
        Self { op, after: 0, times, error, written: 0 }
    }
}

/// Files in memory. Clones share them.
#[derive(Clone, Default)]
pub struct FaultyStorage(Arc<World>);

#[derive(Default)]
struct World {
    names: Mutex<Names>,
    faults: Mutex<Vec<Fault>>,
    gate: Mutex<Gate>,
    gate_moved: Condvar,
}

#[derive(Default)]
struct Names {
    live: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    synced: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Content {
    live: Vec<u8>,
    synced: Vec<u8>,
}

#[derive(Default)]
struct Gate {
    closed: bool,
    waiting: usize,
}

/// A power failure keeps or loses unsynced bytes in pieces of this size.
const SECTOR_BYTES: usize = 512;

impl FaultyStorage {
    /// Plans a failure.
    pub fn plan(&self, fault: Fault) {
        self.0.faults.lock().push(fault);
    }

    /// Forgets all planned failures.
    pub fn heal(&self) {
        self.0.faults.lock().clear();
    }

    /// Writes stand still until [`FaultyStorage::open_gate`].
    pub fn close_gate(&self) {
        self.0.gate.lock().closed = true;
    }

    /// Lets writes go on.
    pub fn open_gate(&self) {
        self.0.gate.lock().closed = false;
        self.0.gate_moved.notify_all();
    }

    /// Blocks until a write stands at the closed gate.
    pub fn wait_for_write(&self) {
        let mut gate = self.0.gate.lock();
        while gate.waiting == 0 {
            let timeout = self.0.gate_moved.wait_for(&mut gate, std::time::Duration::from_secs(20));
            assert!(!timeout.timed_out(), "no write came");
        }
    }

    /// What the next start finds after the process was killed now.
    pub fn after_kill(&self) -> Self {
        self.image(|names| &names.live, |content| content.live.clone())
    }

    /// What the next start finds after the power failed now; `seed` decides about unsynced sectors.
    pub fn after_power_loss(&self, seed: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        self.image(
            |names| &names.synced,
            |content| {
                let mut bytes = content.live.clone();
                for (index, sector) in bytes.chunks_mut(SECTOR_BYTES).enumerate() {
                    if random.random() {
                        let old =
                            content.synced.iter().skip(index * SECTOR_BYTES).chain(std::iter::repeat(&0));
                        sector.iter_mut().zip(old).for_each(|(byte, old)| *byte = *old);
                    }
                }
                bytes
            },
        )
    }

    fn image(
        &self,
        names: impl Fn(&Names) -> &BTreeMap<PathBuf, Arc<Mutex<Content>>>,
        mut bytes: impl FnMut(&Content) -> Vec<u8>,
    ) -> Self {
        let now = self.0.names.lock();
        let copies: BTreeMap<_, _> = names(&now)
            .iter()
            .map(|(path, content)| {
                let bytes = bytes(&content.lock());
                let content = Content { live: bytes.clone(), synced: bytes };
                (path.clone(), Arc::new(Mutex::new(content)))
            })
            .collect();
        let world = World {
            names: Mutex::new(Names {
                live: copies.clone(),
                synced: copies,
                dirs: now.dirs.clone(),
                locked: BTreeSet::new(),
            }),
            ..World::default()
        };
        Self(Arc::new(world))
    }

    /// The paths of all files, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.names.lock().live.keys().cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let content = Arc::clone(&self.0.names.lock().live[path]);
        change(&mut content.lock().live);
    }

    /// Fails if that is planned; says how many bytes are to be written before.
    fn check(&self, op: Op) -> Result<(), (io::Error, usize)> {
        let mut faults = self.0.faults.lock();
        for fault in faults.iter_mut().filter(|fault| fault.op == op && fault.times > 0) {
            if fault.after > 0 {
                fault.after -= 1;
            } else {
                fault.times -= 1;
                return Err((io::Error::from(fault.error), fault.written));
            }
        }
        Ok(())
    }

    fn check_plain(&self, op: Op) -> io::Result<()> {
        self.check(op).map_err(|(error, _)| error)
    }

    fn pass_gate(&self) {
        let mut gate = self.0.gate.lock();
        if gate.closed {
            gate.waiting += 1;
            self.0.gate_moved.notify_all();
            while gate.closed {
                self.0.gate_moved.wait(&mut gate);
            }
            gate.waiting -= 1;
        }
    }

    fn handle(&self, content: &Arc<Mutex<Content>>) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { storage: self.clone(), content: Arc::clone(content) })
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl Storage for FaultyStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.check_plain(Op::Create)?;
        let mut names = self.0.names.lock();
        if path.parent().is_none_or(|dir| !names.dirs.contains(dir)) {
            return Err(not_found());
        }
        if names.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Content { live: vec![0; preallocate_bytes as usize], synced: Vec::new() };
        let content = Arc::new(Mutex::new(content));
        names.live.insert(path.to_path_buf(), Arc::clone(&content));
        Ok(self.handle(&content))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let names = self.0.names.lock();
        Ok(self.handle(names.live.get(path).ok_or_else(not_found)?))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.names.lock().dirs.extend(dir.ancestors().map(Path::to_path_buf));
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = self.0.names.lock();
        if !names.dirs.contains(dir) {
            return Err(not_found());
        }
        let entries = names.live.keys().chain(&names.dirs).filter(|path| path.parent() == Some(dir));
        Ok(entries.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check_plain(Op::Remove)?;
        self.0.names.lock().live.remove(path).map(drop).ok_or_else(not_found)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.check_plain(Op::Remove)?;
        let mut names = self.0.names.lock();
        if !names.dirs.contains(dir) {
            return Err(not_found());
        }
        names.live.retain(|path, _| !path.starts_with(dir));
        names.dirs.retain(|path| !path.starts_with(dir));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_plain(Op::Rename)?;
        let mut names = self.0.names.lock();
        let content = names.live.remove(from).ok_or_else(not_found)?;
        names.live.insert(to.to_path_buf(), content);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.check_plain(Op::SyncDir)?;
        let names = &mut *self.0.names.lock();
        names.synced.retain(|path, _| path.parent() != Some(dir));
        let entries = names.live.iter().filter(|(path, _)| path.parent() == Some(dir));
        names.synced.extend(entries.map(|(path, content)| (path.clone(), Arc::clone(content))));
        Ok(())
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        let mut names = self.0.names.lock();
        if !names.dirs.contains(dir) {
            return Err(not_found());
        }
        if !names.locked.insert(dir.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DirLock::new(Unlock(self.clone(), dir.to_path_buf())))
    }

    fn check_writable(&self, _dir: &Path) -> io::Result<()> {
        self.check_plain(Op::Create)
    }
}

struct Unlock(FaultyStorage, PathBuf);

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Unlock").field(&self.1).finish()
    }
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.0.names.lock().locked.remove(&self.1);
    }
}

struct FaultyFile {
    storage: FaultyStorage,
    content: Arc<Mutex<Content>>,
}

impl FaultyFile {
    fn put(&self, buf: &[u8], offset: u64) {
        let live = &mut self.content.lock().live;
        let start = offset as usize;
        if live.len() < start + buf.len() {
            live.resize(start + buf.len(), 0);
        }
        live[start..start + buf.len()].copy_from_slice(buf);
    }
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.check_plain(Op::Read)?;
        let content = self.content.lock();
        let bytes = content.live.get(offset as usize..).unwrap_or(&[]);
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.storage.pass_gate();
        match self.storage.check(Op::Write) {
            Ok(()) => self.put(buf, offset),
            Err((error, written)) => {
                self.put(&buf[..written.min(buf.len())], offset);
                return Err(error);
            }
        }
        Ok(())
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_all_at(&bufs.concat(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.check_plain(Op::Sync)?;
        let mut content = self.content.lock();
        content.synced = content.live.clone();
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().live.len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.storage.check_plain(Op::Truncate)?;
        self.content.lock().live.truncate(len as usize);
        Ok(())
    }
}
