//! Where an engine stores its data, and from which place in the journal a start would read it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::storage::anchored::Anchored;
use crate::storage::data_dir::DataDir;
use crate::storage::journal::{Journal, Lsn};
use crate::storage::unsynced::Unsynced;
use crate::storage::{Durability, Storage};

/// See the module.
pub struct Store {
    /// Holds every durable fact; `None` with `--durability=overflow`.
    pub journal: Option<Arc<Journal>>,
    pub storage: Arc<dyn Storage>,
    pub data_dir: DataDir,
    /// The data directory, as long as it is in its place.
    pub home: Arc<Anchored>,
    /// What a power failure may lose of that directory.
    pub unsynced: Arc<Unsynced>,
    pub durability: Durability,
    /// End of the journal at start.
    journal_end: Lsn,
    checkpoints: Mutex<Checkpoints>,
}

/// The places from which the checkpoints need the journal.
#[derive(Debug, Default, Clone, Copy)]
struct Checkpoints {
    newest: Lsn,
    /// Needed if the newest checkpoint is damaged.
    previous: Lsn,
    /// Checkpoints written since the start.
    count: u64,
    /// The newest file in which the journal started to record all names of topics and channels.
    named_in: u64,
}

impl Store {
    /// A start read `journal` to its end, from `checkpoint_from` on. With `--durability=overflow`, the journal is not
    /// used.
    pub fn new(
        home: Arc<Anchored>,
        unsynced: Arc<Unsynced>,
        data_dir: DataDir,
        durability: Durability,
        journal: &Arc<Journal>,
        checkpoint_from: Lsn,
    ) -> Self {
        Store {
            journal: (durability != Durability::Overflow).then(|| journal.clone()),
            storage: home.clone(),
            data_dir,
            home,
            unsynced,
            durability,
            journal_end: journal.position(),
            checkpoints: Mutex::new(Checkpoints { newest: checkpoint_from, ..Checkpoints::default() }),
        }
    }

    /// The journal for a topic or channel; `None` if `ephemeral`.
    pub fn journal_for(&self, ephemeral: bool) -> Option<&Arc<Journal>> {
        self.journal.as_ref().filter(|_| !ephemeral)
    }

    /// The place in the journal from which a checkpoint that starts now needs replaying. Without a journal it is the
    /// end of the previous journal, so that a later journal continues after it.
    pub fn journal_from(&self) -> Lsn {
        self.journal.as_ref().map_or(self.journal_end, |journal| journal.position())
    }

    /// Records that a checkpoint was written, which needs the journal from `journal_from` on. The previous checkpoint
    /// is kept, too.
    pub fn checkpoint_written(&self, journal_from: Lsn) {
        let mut checkpoints = self.checkpoints.lock();
        checkpoints.previous = std::mem::replace(&mut checkpoints.newest, journal_from);
        checkpoints.count += 1;
    }

    /// Number of checkpoints written since the start.
    pub fn checkpoint_count(&self) -> u64 {
        self.checkpoints.lock().count
    }

    /// No checkpoint needs a journal file before this one.
    pub fn first_needed_journal_file(&self) -> u64 {
        self.checkpoints.lock().previous.file_number()
    }

    /// Returns whether no file after this one holds all names of topics and channels. Then the caller must record them
    /// again before it retires this file. Marks them as recorded.
    pub fn take_unnamed(&self, file_number: u64) -> bool {
        let now = self.journal_from().file_number();
        let mut checkpoints = self.checkpoints.lock();
        let unnamed = checkpoints.named_in <= file_number;
        if unnamed {
            checkpoints.named_in = now;
        }
        unnamed
    }
}
