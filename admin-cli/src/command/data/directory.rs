//! A data directory: whose files it holds, and whether it changes while a command reads it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nsqd::import::diskqueue;
use nsqd::import::{self, queues::METADATA_FILE};
use nsqd::storage::Storage;
use nsqd::storage::data_dir::{CHECKPOINT_FILE, DataDir, DataDirError, ENTRIES, JOURNAL_DIR, TOPICS_DIR};
use nsqd::storage::open_files::OpenFiles;
use nsqd::storage::overlay::OverlayStorage;

use crate::exit_status::{ExitStatus, Failure};

/// The argument for the data directory.
#[derive(Debug, Args)]
pub struct DirectoryFlags {
    /// The data directory (nsqd's --data-path). No daemon may be using it.
    #[arg(value_name = "DIR")]
    pub path: PathBuf,
}

/// A data directory with files of this nsqd or of NSQ.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Whether it holds files of this nsqd.
    pub is_ours: bool,
    /// Whether it holds files of NSQ, whether or not a start would take them over.
    pub has_nsq: bool,
    /// Whether a start would take over NSQ's files.
    pub takeover_is_due: bool,
    before: Vec<Option<Mark>>,
}

/// Inode, length and modification time of a file, to detect writes.
type Mark = (u64, u64, i64, i64);

/// The directory as a start of nsqd would see it, in an overlay. Each view begins with the directory's real state.
pub struct View {
    /// Storage that keeps all changes in the overlay.
    pub storage: Arc<dyn Storage>,
    pub data_dir: DataDir,
}

impl Directory {
    /// Finds out whose files the directory holds. Fails with `Refused` if a daemon is using it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let before = marks(path);
        let View { storage, data_dir } = view(path)?;
        let failed =
            |error: io::Error| Failure::failed(format_args!("cannot read {}: {error}", path.display()));
        let names: BTreeSet<String> = storage.list(path).map_err(failed)?.into_iter().collect();
        let is_ours = ENTRIES.iter().any(|name| names.contains(*name));
        let has_nsq = names.contains(METADATA_FILE)
            || names.iter().any(|name| diskqueue::parse_file_name(name).is_some());
        if !is_ours && !has_nsq {
            let message = format!("{}: no data of nsq-rs or NSQ in this directory", path.display());
            return Err(
                Failure::new(ExitStatus::NotFound, message).hint("give the directory of nsqd's --data-path")
            );
        }
        let takeover_is_due = import::is_due(&storage, &data_dir).map_err(failed)?;
        Ok(Directory { path: path.to_owned(), is_ours, has_nsq, takeover_is_due, before })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new view, without any changes.
    pub fn view(&self) -> Result<View, Failure> {
        view(&self.path)
    }

    /// `path` relative to the directory.
    pub fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.path).unwrap_or(path).display().to_string()
    }

    /// Fails if a daemon has used the directory since [`open`](Self::open): the results may be inconsistent.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        let in_use = OverlayStorage::is_in_use(&self.path).unwrap_or(false);
        if !in_use && marks(&self.path) == self.before {
            return Ok(());
        }
        let message =
            format!("{}: a daemon started to use this directory during the command", self.path.display());
        Err(Failure::new(ExitStatus::Refused, message)
            .hint("the results may be inconsistent: stop the daemon and try again"))
    }
}

fn view(path: &Path) -> Result<View, Failure> {
    let storage: Arc<dyn Storage> =
        Arc::new(OpenFiles::with_share_of_limit(Arc::new(OverlayStorage::default())));
    let opened = match DataDir::open(&storage, path) {
        // A start refuses this. The rest of the directory must be readable nevertheless.
        Err(DataDirError::BadFormatFile { path: format }) => {
            let removed = storage.remove(&format);
            removed.map_err(|error| Failure::failed(format_args!("{}: {error}", format.display())))?;
            DataDir::open(&storage, path)
        }
        opened => opened,
    };
    match opened {
        Ok(data_dir) => Ok(View { storage, data_dir }),
        Err(error) => Err(refused(&error)),
    }
}

fn refused(error: &DataDirError) -> Failure {
    match error {
        DataDirError::Locked { path, .. } => Failure::new(
            ExitStatus::Refused,
            format_args!("{}: a daemon is using this directory", path.display()),
        )
        .hint("stop it first; for a running nsqd, use `nsq stat`"),
        DataDirError::Open { path, error } => {
            let status = match error.kind() {
                io::ErrorKind::NotFound => ExitStatus::NotFound,
                _ => ExitStatus::Failed,
            };
            Failure::new(status, format_args!("cannot open {}: {error}", path.display()))
        }
        other => Failure::new(ExitStatus::Refused, other),
    }
}

/// Marks of the files that a daemon changes when it starts and works.
fn marks(path: &Path) -> Vec<Option<Mark>> {
    let names = ["", JOURNAL_DIR, TOPICS_DIR, CHECKPOINT_FILE, METADATA_FILE];
    let mark = |name: &&str| {
        let found = std::fs::metadata(path.join(name)).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    names.iter().map(mark).collect()
}
