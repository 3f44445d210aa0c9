//! A data directory: whose files are in it, and whether it stays as it is while it is looked at.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use nsqd::startup::diskqueue;
use nsqd::startup::import::{self, queues::METADATA_FILE};
use nsqd::storage::Storage;
use nsqd::storage::data_dir::{DataDir, DataDirError};
use nsqd::storage::open_files::OpenFiles;
use nsqd::storage::overlay::OverlayStorage;

use crate::exit_status::{ExitStatus, Failure};

/// Which directory, and what of it.
#[derive(Debug, Args)]
pub struct DirectoryFlags {
    /// The data directory (nsqd's --data-path). No daemon may be working in it.
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

/// A directory that holds something.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// There are files of this nsqd.
    pub is_ours: bool,
    /// There are files of NSQ that a start would not take over any more, or would.
    pub has_nsq: bool,
    /// A start would take over what NSQ left.
    pub takeover_is_due: bool,
    before: Vec<Option<Mark>>,
}

/// Tells whether something was written.
type Mark = (u64, u64, i64, i64);

/// The directory as it is, and a start's view of it. Each view starts afresh.
pub struct View {
    /// Changes stay in here.
    pub storage: Arc<dyn Storage>,
    /// The directory.
    pub data_dir: DataDir,
}

impl Directory {
    /// Looks who has been here. Refuses a directory in which a daemon works.
    pub fn open(flags: &DirectoryFlags) -> Result<Self, Failure> {
        let path = flags.path.clone();
        let before = marks(&path);
        let View { storage, data_dir } = view(&path)?;
        let failed =
            |error: io::Error| Failure::failed(format_args!("cannot read {}: {error}", path.display()));
        let names: BTreeSet<String> = storage.list(&path).map_err(failed)?.into_iter().collect();
        let is_ours = ["format", "checkpoint", "journal", "topics"].iter().any(|name| names.contains(*name));
        let has_nsq = names.contains(METADATA_FILE)
            || names.iter().any(|name| diskqueue::parse_file_name(name).is_some());
        if !is_ours && !has_nsq {
            let message = format!("{}: neither this nsqd nor NSQ's has left anything here", path.display());
            return Err(Failure::new(ExitStatus::NotFound, message).hint("give nsqd's --data-path"));
        }
        let takeover_is_due = import::is_due(&storage, &data_dir).map_err(failed)?;
        Ok(Directory { path, is_ours, has_nsq, takeover_is_due, before })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A view in which nothing has happened yet.
    pub fn view(&self) -> Result<View, Failure> {
        view(&self.path)
    }

    /// Without its first part, which all files in here have in common.
    pub fn relative(&self, path: &Path) -> String {
        path.strip_prefix(&self.path).unwrap_or(path).display().to_string()
    }

    /// Fails if somebody has come and worked in it meanwhile: then what was read may not belong together.
    pub fn check_unchanged(&self) -> Result<(), Failure> {
        let in_use = OverlayStorage::is_in_use(&self.path).unwrap_or(false);
        if !in_use && marks(&self.path) == self.before {
            return Ok(());
        }
        let message = format!("{}: a daemon has begun to work here meanwhile", self.path.display());
        Err(Failure::new(ExitStatus::Refused, message)
            .hint("what was read may not belong together: stop the daemon and try again"))
    }
}

fn view(path: &Path) -> Result<View, Failure> {
    let storage: Arc<dyn Storage> =
        Arc::new(OpenFiles::with_share_of_limit(Arc::new(OverlayStorage::default())));
    let opened = match DataDir::open(&storage, path) {
        // A start refuses that. To look at the rest must be possible all the same.
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
            format_args!("{}: a daemon works in this directory", path.display()),
        )
        .hint("stop it first; what a running nsqd has, `nsq stat` shows"),
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

/// Of what every start of a daemon, or its work, touches.
fn marks(path: &Path) -> Vec<Option<Mark>> {
    let names = ["", "journal", "topics", "checkpoint", METADATA_FILE];
    let mark = |name: &&str| {
        let found = std::fs::metadata(path.join(name)).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    };
    names.iter().map(mark).collect()
}
