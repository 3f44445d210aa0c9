//! The layout of the data directory, its lock and its format version.
//!
//! ```text
//! format              version of the layout, as text
//! checkpoint          saved state; checkpoint.new while it is written
//! journal/            <number>.journal, <number>.spare
//! topics/<number>/    <number>.segment
//! ```
//!
//! Topics are numbers here because a topic may be named `..`. No name here can be one of NSQ's
//! (`nsqd.dat`, `*.diskqueue.*`), so NSQ's files may be in the same directory. The lock is the same as NSQ's: an
//! exclusive `flock` on the directory itself, so the two never use one directory at the same time.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{DirLock, Storage, TopicNumber, journal};

/// Increased when an older version can no longer use the directory.
const FORMAT_VERSION: u32 = 1;
/// The file that holds the format version.
pub const FORMAT_FILE: &str = "format";
/// The newest checkpoint.
pub const CHECKPOINT_FILE: &str = "checkpoint";
/// The directory of the journal.
pub const JOURNAL_DIR: &str = "journal";
/// The directory of the segments, with one directory for each topic.
pub const TOPICS_DIR: &str = "topics";
/// A data directory that nsqd has used has at least one of these.
pub const ENTRIES: [&str; 4] = [FORMAT_FILE, CHECKPOINT_FILE, JOURNAL_DIR, TOPICS_DIR];
/// A version is never longer, so no more is read.
const MAX_FORMAT_FILE_BYTES: u64 = 64;

/// A data directory, locked until this is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    lock: DirLock,
}

/// Why a data directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("failed to lock data-path: open {}: {}; {}", path.display(), plain(error), remedy(error))]
    Open { path: PathBuf, error: io::Error },
    /// Another process holds the lock.
    #[error(
        "failed to lock data-path: cannot flock directory {} - {} (possibly in use by another instance of nsqd); \
         stop that one or change --data-path",
        path.display(), plain(error)
    )]
    Locked { path: PathBuf, error: io::Error },
    /// Files cannot be created in it.
    #[error("data-path {} is not writable: {}; {}", path.display(), plain(error), remedy(error))]
    NotWritable { path: PathBuf, error: io::Error },
    #[error(
        "data-path {0} has format version {version}, newer than this program supports ({FORMAT_VERSION}); \
         start the nsqd version that used it last; if no newer nsqd has used the directory, the file is damaged: \
         write {FORMAT_VERSION} to {0}/format",
        path.display()
    )]
    NewerVersion { path: PathBuf, version: u64 },
    /// The format file does not hold a version.
    #[error(
        "{0} does not hold a format version: the file is damaged; if no newer nsqd has used the directory, \
         write {FORMAT_VERSION} to {0} and start again",
        path.display()
    )]
    BadFormatFile { path: PathBuf },
    /// The format file or a directory cannot be read or created.
    #[error("failed to prepare {}: {}; {}", path.display(), plain(error), remedy(error))]
    Io { path: PathBuf, error: io::Error },
}

impl DataDir {
    /// Locks the directory, which must exist, be writable and not have a newer version. Changes nothing in it.
    pub fn open(storage: &Arc<dyn Storage>, path: impl Into<PathBuf>) -> Result<Self, DataDirError> {
        let path = path.into();
        let lock = match storage.lock_dir(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DataDirError::Locked { path, error });
            }
            Err(error) => return Err(DataDirError::Open { path, error }),
        };
        let dir = Self { path, lock };
        dir.check_version(&**storage)?;
        match storage.check_writable(&dir.path) {
            Ok(()) => Ok(dir),
            Err(error) => Err(DataDirError::NotWritable { path: dir.path, error }),
        }
    }

    /// Creates the format file and the directories if they are missing.
    pub fn prepare(&self, storage: &dyn Storage) -> Result<(), DataDirError> {
        for dir in [self.journal_dir(), self.topics_dir()] {
            storage.create_dir_all(&dir).map_err(|error| DataDirError::Io { path: dir, error })?;
        }
        let path = self.format_path();
        self.write_format(storage, &path).map_err(|error| DataDirError::Io { path, error })
    }

    /// As [`DataDir::prepare`], while the directory is in use. Also rewrites a format file that was damaged or
    /// replaced, because it would make the next start fail.
    pub fn restore(&self, storage: &dyn Storage) -> Result<(), DataDirError> {
        let path = self.format_path();
        if self.check_version(storage).is_err() {
            storage.remove(&path).map_err(|error| DataDirError::Io { path, error })?;
        }
        self.prepare(storage)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The current path of the directory, even if it was moved. `None` if it was removed.
    pub fn whereabouts(&self) -> Option<PathBuf> {
        self.lock.path()
    }

    pub fn journal_dir(&self) -> PathBuf {
        self.path.join(JOURNAL_DIR)
    }

    pub fn topics_dir(&self) -> PathBuf {
        self.path.join(TOPICS_DIR)
    }

    pub fn topic_dir(&self, topic: TopicNumber) -> PathBuf {
        self.topics_dir().join(topic.to_string())
    }

    pub fn checkpoint_path(&self) -> PathBuf {
        self.path.join(CHECKPOINT_FILE)
    }

    /// Whether there is a journal, so that topics have numbers which must not be reused.
    pub fn has_journal(&self, storage: &dyn Storage) -> io::Result<bool> {
        match storage.list(&self.journal_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            names => Ok(names?.iter().any(|name| journal::file_number(name).is_some())),
        }
    }

    /// Numbers of the topics that have a directory, in ascending order. Deleted topics may still have one.
    pub fn topic_numbers(&self, storage: &dyn Storage) -> io::Result<Vec<TopicNumber>> {
        let names = match storage.list(&self.topics_dir()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            names => names?,
        };
        let mut numbers: Vec<TopicNumber> = names.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub fn format_path(&self) -> PathBuf {
        self.path.join(FORMAT_FILE)
    }

    fn check_version(&self, storage: &dyn Storage) -> Result<(), DataDirError> {
        let path = self.format_path();
        let text = match read_text(storage, &path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(DataDirError::Io { path, error }),
        };
        match text.strip_suffix('\n').unwrap_or(&text).parse::<u64>() {
            Ok(version) if version > u64::from(FORMAT_VERSION) => {
                Err(DataDirError::NewerVersion { path: self.path.clone(), version })
            }
            Ok(version) if version == u64::from(FORMAT_VERSION) => Ok(()),
            _ => Err(DataDirError::BadFormatFile { path }),
        }
    }

    fn write_format(&self, storage: &dyn Storage, path: &Path) -> io::Result<()> {
        match read_text(storage, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found.map(drop),
        }
        // Written under another name first: a partial format file would make every start fail.
        let aside = path.with_extension("new");
        match storage.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.create(&aside, 0)?;
        file.write_all_at(format!("{FORMAT_VERSION}\n").as_bytes(), 0)?;
        file.sync_data()?;
        storage.rename(&aside, path)?;
        Ok(storage.sync_dir(&self.path)?)
    }
}

fn read_text(storage: &dyn Storage, path: &Path) -> io::Result<String> {
    let file = storage.open(path)?;
    let mut bytes = vec![0; file.len()?.min(MAX_FORMAT_FILE_BYTES) as usize];
    let filled = file.read_at(&mut bytes, 0)?;
    bytes.truncate(filled);
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the operator can do about a system error.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create the directory or change --data-path",
        io::ErrorKind::PermissionDenied => "run nsqd as the owner of the directory or change --data-path",
        io::ErrorKind::ReadOnlyFilesystem => "mount the volume writable or change --data-path",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space there or change --data-path",
        io::ErrorKind::NotADirectory => "change --data-path to a directory",
        _ => "check the disk or change --data-path",
    }
}

/// The system's error text as NSQ prints it: without the error number, the first letter in lower case.
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        faulty::{Fault, FaultyStorage, Op},
        file::FileStorage,
    };

    fn real() -> Arc<dyn Storage> {
        Arc::new(FileStorage)
    }

    #[test]
    fn opening_changes_nothing_and_preparing_twice_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&real(), dir.path()).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "opening changes nothing");
        data.prepare(&FileStorage).unwrap();
        data.prepare(&FileStorage).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("format")).unwrap(), "1\n");
        FileStorage.create_dir_all(&data.topic_dir(TopicNumber(12))).unwrap();
        FileStorage.create_dir_all(&data.topic_dir(TopicNumber(7))).unwrap();
        assert_eq!(data.topic_numbers(&FileStorage).unwrap(), [TopicNumber(7), TopicNumber(12)]);
        drop(data);
        DataDir::open(&real(), dir.path()).unwrap();
    }

    #[test]
    fn errors_begin_with_the_texts_of_nsq() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().display();
        let missing = dir.path().join("missing");
        assert_eq!(
            DataDir::open(&real(), &missing).unwrap_err().to_string(),
            format!(
                "failed to lock data-path: open {path}/missing: no such file or directory; \
                 create the directory or change --data-path"
            )
        );
        let _first = DataDir::open(&real(), dir.path()).unwrap();
        assert_eq!(
            DataDir::open(&real(), dir.path()).unwrap_err().to_string(),
            format!(
                "failed to lock data-path: cannot flock directory {path} - resource temporarily unavailable \
                 (possibly in use by another instance of nsqd); stop that one or change --data-path"
            )
        );
    }

    #[test]
    fn a_newer_or_damaged_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("format"), "2\n").unwrap();
        let error = DataDir::open(&real(), dir.path()).unwrap_err();
        assert!(matches!(error, DataDirError::NewerVersion { version: 2, .. }));
        assert!(
            error.to_string().ends_with(&format!("write 1 to {}/format", dir.path().display())),
            "{error}"
        );
        for damaged in ["x", "", "0\n", "1 1"] {
            std::fs::write(dir.path().join("format"), damaged).unwrap();
            let error = DataDir::open(&real(), dir.path()).unwrap_err();
            assert!(matches!(error, DataDirError::BadFormatFile { .. }));
            assert!(error.to_string().contains("write 1 to"), "{error}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_directory_is_refused() {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new("/data")).unwrap();
        storage.plan(Fault::next(Op::Create, 1, io::ErrorKind::ReadOnlyFilesystem));
        let storage: Arc<dyn Storage> = Arc::new(storage);
        let error = DataDir::open(&storage, "/data").unwrap_err();
        assert!(matches!(error, DataDirError::NotWritable { .. }), "{error}");
        DataDir::open(&storage, "/data").unwrap();
    }
}
