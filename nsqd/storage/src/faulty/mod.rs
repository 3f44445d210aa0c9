//! Storage for tests: files in memory that fail on demand and show what a crash leaves behind.
//!
//! The faults that the rest of the module must survive:
//!
//! - a write that fails before, in the middle of, or after its bytes;
//! - no space when a file is created, also because the volume is small; a failed sync, rename or read;
//! - files and directories that others remove, move or replace;
//! - the death of the process: everything written is there, nothing else;
//! - power loss: unsynced data is there in part, by sectors, including names.
//!
//! [`FaultyStorage`] is what the program uses; [`disk`] is the disk below it as plain data, which can be
//! copied, and replayed from a recording.

pub mod disk;

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use self::disk::{Change, Disk, FileId};
use super::{DirLock, HeldDir, Identity, Space, Storage, StorageFile, SyncError};

/// Calls that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Open,
    Write,
    Sync,
    OpenDir,
    SyncDir,
    Read,
    Remove,
    Rename,
    Truncate,
}

/// A planned failure.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The kind of call that fails.
    pub op: Op,
    /// Number of calls that succeed before the failure.
    pub after: usize,
    /// Number of calls that then fail.
    pub times: usize,
    /// The error that they return.
    pub error: io::ErrorKind,
    /// For a write: number of bytes that are written nevertheless.
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
    state: Mutex<State>,
    faults: Mutex<Vec<Fault>>,
    /// Number of opens that fail because no descriptor is left.
    no_descriptors: AtomicUsize,
    write_gate: Gate,
    read_gate: Gate,
    remove_gate: Gate,
}

#[derive(Default)]
struct State {
    disk: Disk,
    /// The numbers of locked directories.
    locked: BTreeSet<u64>,
    /// Changes since [`FaultyStorage::record`].
    recorded: Option<Vec<Change>>,
    /// The size of the volume. `None` if it is never full.
    volume_bytes: Option<u64>,
}

/// Blocks calls while it is closed.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    moved: Condvar,
}

#[derive(Default)]
struct GateState {
    closed: bool,
    waiting: usize,
}

/// Maximum time that a test waits for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock();
        if state.closed {
            state.waiting += 1;
            self.moved.notify_all();
            while state.closed {
                let timeout = self.moved.wait_for(&mut state, PATIENCE);
                assert!(!timeout.timed_out(), "the gate stays closed: does the test wait for this call?");
            }
            state.waiting -= 1;
        }
    }
}

impl From<Disk> for FaultyStorage {
    fn from(disk: Disk) -> Self {
        let state = Mutex::new(State { disk, ..State::default() });
        Self(Arc::new(World { state, ..World::default() }))
    }
}

impl FaultyStorage {
    pub fn plan(&self, fault: Fault) {
        self.0.faults.lock().push(fault);
    }

    /// Cancels all planned failures.
    pub fn heal(&self) {
        self.0.faults.lock().clear();
    }

    /// The next `times` attempts to create or open a file fail because no descriptor is left.
    pub fn run_out_of_descriptors(&self, times: usize) {
        self.0.no_descriptors.store(times, Relaxed);
    }

    fn take_descriptor(&self) -> io::Result<()> {
        let left = self.0.no_descriptors.fetch_update(Relaxed, Relaxed, |times| times.checked_sub(1));
        if left.is_ok() { Err(rustix::io::Errno::MFILE.into()) } else { Ok(()) }
    }

    /// Blocks writes until [`FaultyStorage::open_gate`].
    pub fn close_gate(&self) {
        self.close_gate_of(Op::Write);
    }

    /// Lets writes continue.
    pub fn open_gate(&self) {
        self.open_gate_of(Op::Write);
    }

    /// Blocks until a write waits at the closed gate.
    pub fn wait_for_write(&self) {
        self.wait_at_gate_of(Op::Write, 1);
    }

    /// Blocks calls of this kind (write, read or remove) until [`FaultyStorage::open_gate_of`].
    pub fn close_gate_of(&self, op: Op) {
        self.gate(op).state.lock().closed = true;
    }

    /// Lets calls of this kind continue.
    pub fn open_gate_of(&self, op: Op) {
        let gate = self.gate(op);
        gate.state.lock().closed = false;
        gate.moved.notify_all();
    }

    /// Blocks until at least `count` calls wait at the closed gate.
    pub fn wait_at_gate_of(&self, op: Op, count: usize) {
        let gate = self.gate(op);
        let mut state = gate.state.lock();
        while state.waiting < count {
            let timeout = gate.moved.wait_for(&mut state, PATIENCE);
            assert!(!timeout.timed_out(), "only {} calls of {op:?} reached the gate", state.waiting);
        }
    }

    fn gate(&self, op: Op) -> &Gate {
        match op {
            Op::Read => &self.0.read_gate,
            Op::Remove => &self.0.remove_gate,
            _ => &self.0.write_gate,
        }
    }

    /// What the next start finds if the process is killed now.
    pub fn after_kill(&self) -> Self {
        self.0.state.lock().disk.after_kill().into()
    }

    /// What the next start finds if the power fails now. `seed` decides which unsynced data survives.
    pub fn after_power_loss(&self, seed: u64) -> Self {
        self.0.state.lock().disk.after_power_loss(seed).into()
    }

    /// Records every change from now on.
    pub fn record(&self) {
        self.0.state.lock().recorded = Some(Vec::new());
    }

    pub fn recorded_count(&self) -> usize {
        self.0.state.lock().recorded.as_ref().map_or(0, Vec::len)
    }

    /// Returns the recorded changes and stops recording.
    pub fn take_recorded(&self) -> Vec<Change> {
        self.0.state.lock().recorded.take().unwrap_or_default()
    }

    /// A copy of the disk as it is now.
    pub fn disk(&self) -> Disk {
        self.0.state.lock().disk.clone()
    }

    /// The paths of all files, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.state.lock().disk.paths()
    }

    /// Changes a file's bytes without notice to its users.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let disk = &mut self.0.state.lock().disk;
        let file = disk.open(path).unwrap();
        disk.tamper(file, change);
    }

    /// Sets the size of the volume. Existing files stay, even if they exceed it.
    pub fn set_volume(&self, bytes: Option<u64>) {
        self.0.state.lock().volume_bytes = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.0.state.lock().disk.used_bytes()
    }

    /// Removes a file, or a directory with everything in it, as another program would. Open files stay usable.
    pub fn vanish(&self, path: &Path) {
        let disk = &mut self.0.state.lock().disk;
        let change = match disk.open(path) {
            Ok(_) => Change::Remove { path: path.to_path_buf() },
            Err(_) => Change::RemoveDirAll { dir: path.to_path_buf() },
        };
        disk.apply(&change).unwrap();
    }

    /// Moves a file, or a directory with everything in it, as another program would.
    pub fn move_away(&self, from: &Path, to: &Path) {
        let state = &mut *self.0.state.lock();
        state.disk.move_away(from, to);
    }

    fn apply(&self, change: Change) -> io::Result<FileId> {
        let state = &mut *self.0.state.lock();
        if let Some(volume_bytes) = state.volume_bytes {
            let growth = state.disk.growth(&change);
            if growth > 0 && state.disk.used_bytes() + growth > volume_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let created = state.disk.apply(&change)?;
        if let Some(recorded) = &mut state.recorded {
            recorded.push(change);
        }
        Ok(created)
    }

    /// Fails if that is planned, with the number of bytes to write before.
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

    fn handle(&self, file: FileId) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { storage: self.clone(), file })
    }
}

impl Storage for FaultyStorage {
    fn create(&self, path: &Path, preallocate_bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.check_plain(Op::Create)?;
        self.take_descriptor()?;
        let change = Change::Create { path: path.to_path_buf(), len: preallocate_bytes as usize };
        Ok(self.handle(self.apply(change)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        self.check_plain(Op::Open)?;
        self.take_descriptor()?;
        let file = self.0.state.lock().disk.open(path)?;
        Ok(self.handle(file))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if self.0.state.lock().disk.has_dir(dir) {
            return Ok(());
        }
        self.apply(Change::CreateDirs { dir: dir.to_path_buf() }).map(drop)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.state.lock().disk.list(dir)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove_gate.pass();
        self.check_plain(Op::Remove)?;
        self.apply(Change::Remove { path: path.to_path_buf() }).map(drop)
    }

    fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_gate.pass();
        self.check_plain(Op::Remove)?;
        self.apply(Change::RemoveDirAll { dir: dir.to_path_buf() }).map(drop)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check_plain(Op::Rename)?;
        self.apply(Change::Rename { from: from.to_path_buf(), to: to.to_path_buf() }).map(drop)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), SyncError> {
        self.check_plain(Op::OpenDir).map_err(SyncError::NotOpened)?;
        if !self.0.state.lock().disk.has_dir(dir) {
            return Err(SyncError::NotOpened(io::ErrorKind::NotFound.into()));
        }
        self.check_plain(Op::SyncDir).map_err(SyncError::Failed)?;
        self.apply(Change::SyncDir { dir: dir.to_path_buf() }).map_err(SyncError::Failed).map(drop)
    }

    fn identity(&self, path: &Path) -> io::Result<Identity> {
        let inode = self.0.state.lock().disk.inode(path)?;
        Ok(Identity { device: 0, inode })
    }

    fn space(&self, _dir: &Path) -> Option<Space> {
        let state = self.0.state.lock();
        state.volume_bytes.map(|total_bytes| Space {
            total_bytes,
            available_bytes: total_bytes.saturating_sub(state.disk.used_bytes()),
        })
    }

    fn lock_dir(&self, dir: &Path) -> io::Result<DirLock> {
        let mut state = self.0.state.lock();
        let number = state.disk.inode(dir)?;
        if !state.locked.insert(number) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(DirLock::new(Unlock(self.clone(), number)))
    }

    fn check_writable(&self, _dir: &Path) -> io::Result<()> {
        self.check_plain(Op::Create)
    }
}

struct Unlock(FaultyStorage, u64);

impl HeldDir for Unlock {
    fn path(&self) -> Option<PathBuf> {
        self.0.0.state.lock().disk.dir_of(self.1)
    }
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Unlock").field(&self.1).finish()
    }
}

impl Drop for Unlock {
    fn drop(&mut self) {
        self.0.0.state.lock().locked.remove(&self.1);
    }
}

struct FaultyFile {
    storage: FaultyStorage,
    file: FileId,
}

impl FaultyFile {
    fn put(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let change = Change::Write { file: self.file, offset: offset as usize, bytes: buf.into() };
        self.storage.apply(change).map(drop)
    }
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.0.read_gate.pass();
        self.storage.check_plain(Op::Read)?;
        let state = self.storage.0.state.lock();
        let bytes = state.disk.bytes(self.file).get(offset as usize..).unwrap_or(&[]);
        let count = bytes.len().min(buf.len());
        buf[..count].copy_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.storage.0.write_gate.pass();
        match self.storage.check(Op::Write) {
            Ok(()) => self.put(buf, offset),
            Err((error, written)) => {
                self.put(&buf[..written.min(buf.len())], offset)?;
                Err(error)
            }
        }
    }

    fn write_all_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_all_at(&bufs.concat(), offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.check_plain(Op::Sync)?;
        self.storage.apply(Change::Sync { file: self.file }).map(drop)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.storage.0.state.lock().disk.bytes(self.file).len() as u64)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.storage.check_plain(Op::Truncate)?;
        self.storage.apply(Change::Truncate { file: self.file, len: len as usize }).map(drop)
    }

    fn identity(&self) -> io::Result<Identity> {
        Ok(Identity { device: 0, inode: self.file as u64 })
    }
}
