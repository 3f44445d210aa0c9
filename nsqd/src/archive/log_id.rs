//! The id of the node's log: a random number in a file of the data directory. A node that lost its disk begins a new log.

use std::io;
use std::path::{Path, PathBuf};

use nsq_archive::LogId;
use nsq_archive::owner::new_log_id;

use super::tail::read_file;
use crate::storage::Storage;

/// The file that holds the id.
const FILE: &str = "archive-log";

/// Why a log has no id.
#[derive(Debug, thiserror::Error)]
pub enum LogIdError {
    #[error("cannot read or write {}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "{} does not hold the id of a log: the file is damaged; remove it, then nsqd begins a new log in the archive",
        .0.display()
    )]
    Damaged(PathBuf),
}

/// Reads the id, or makes a new one. Returns whether it is new.
pub(super) fn read_or_create(storage: &dyn Storage, data_dir: &Path) -> Result<(LogId, bool), LogIdError> {
    let path = data_dir.join(FILE);
    let failed = |error| LogIdError::Io { path: path.clone(), error };
    if let Some(bytes) = read_file(storage, &path).map_err(failed)? {
        let text = String::from_utf8_lossy(&bytes);
        let id = text.trim_end().parse().map_err(|_| LogIdError::Damaged(path.clone()))?;
        return Ok((id, false));
    }
    let id = new_log_id();
    let write = || {
        // Written under another name first: a partial file would make every start fail.
        let aside = path.with_extension("new");
        match storage.remove(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.create(&aside, 0)?;
        file.write_all_at(format!("{id}\n").as_bytes(), 0)?;
        file.sync_data()?;
        storage.rename(&aside, &path)?;
        Ok(storage.sync_dir(data_dir)?)
    };
    write().map_err(failed)?;
    Ok((id, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::file::FileStorage;

    #[test]
    fn an_id_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let (id, is_new) = read_or_create(&FileStorage, dir.path()).unwrap();
        assert!(is_new);
        assert_eq!(read_or_create(&FileStorage, dir.path()).unwrap(), (id, false));
        std::fs::write(dir.path().join(FILE), "x").unwrap();
        let error = read_or_create(&FileStorage, dir.path()).unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
    }
}
