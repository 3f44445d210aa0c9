//! A text file that is read at start and again whenever it changes. An unusable new version does not replace the
//! previous one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;

use crate::watch::{Fingerprint, Watch};

/// How often to check the file for changes.
const INTERVAL: Duration = Duration::from_secs(1);

/// See the module. It does not hold the contents.
#[derive(Debug)]
pub struct WatchedFile {
    path: PathBuf,
    /// The version of the file that was last read or tried.
    watch: Mutex<Watch>,
}

/// Why a file cannot be used.
#[derive(Debug)]
pub enum FileError<E> {
    /// The file cannot be read.
    Unreadable { path: PathBuf, source: std::io::Error },
    /// The contents are invalid.
    Invalid { path: PathBuf, source: E },
}

impl<E: fmt::Display> fmt::Display for FileError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Unreadable { path, source } => write!(f, "open {}: {source}", path.display()),
            FileError::Invalid { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl<E: std::error::Error> std::error::Error for FileError<E> {}

impl WatchedFile {
    /// Reads the file for the first time.
    pub async fn open<T, E>(
        path: PathBuf,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<(Self, T), FileError<E>> {
        // Taken before the read, so that a change during the read causes another read.
        let watch = Watch::new(Fingerprint::of([path.as_path()]).await);
        let contents = read(&path, parse).await?;
        Ok((WatchedFile { path, watch: Mutex::new(watch) }, contents))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the file again. Returns `None` if it still cannot be read, which was reported before.
    pub async fn read<T, E>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Result<T, FileError<E>>> {
        let fingerprint = Fingerprint::of([self.path.as_path()]).await;
        self.watch.lock().seen(fingerprint);
        let contents = read(&self.path, parse).await;
        let unreadable = match &contents {
            Err(FileError::Unreadable { source, .. }) => Some(source),
            Ok(_) | Err(FileError::Invalid { .. }) => None,
        };
        let is_news = self.watch.lock().outcome(unreadable);
        (is_news || contents.is_ok()).then_some(contents)
    }

    /// Waits until the file has changed and should be read again. Dropping the future loses nothing.
    pub async fn changed(&self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let fingerprint = Fingerprint::of([self.path.as_path()]).await;
            if self.watch.lock().observe(fingerprint) {
                return;
            }
        }
    }
}

async fn read<T, E>(path: &Path, parse: impl FnOnce(&str) -> Result<T, E>) -> Result<T, FileError<E>> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| FileError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| FileError::Invalid { path: path.to_owned(), source })
}
