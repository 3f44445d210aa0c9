//! The record of actions: who, what, when, and what became of it at each daemon.

use std::collections::VecDeque;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Entries kept in memory.
const MAX_ENTRIES: usize = 1000;
/// The end of an existing file that is read at the start.
const MAX_READ_BYTES: u64 = 1 << 20;

/// The result at one daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Address of the daemon.
    pub node: String,
    /// `nsqd` or `nsqlookupd`.
    pub kind: String,
    pub ok: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// A result worth showing, such as a number of messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    pub elapsed_ms: u64,
}

/// An action.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub request_id: String,
    /// Milliseconds since 1970.
    pub at_ms: i64,
    pub action: String,
    #[serde(default)]
    pub topic: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub channel: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(default)]
    pub user: Option<String>,
    /// Where the user's name comes from.
    #[serde(default)]
    pub user_via: String,
    #[serde(default)]
    pub address: String,
    /// `begun`, `done`, `partial`, `failed` or `refused`.
    pub state: String,
    #[serde(default)]
    pub elapsed_ms: u64,
    #[serde(default)]
    pub outcomes: Vec<Outcome>,
}

/// Recent actions in memory, and all of them in a file if there is one. Cheap to clone.
#[derive(Clone)]
pub struct Audit {
    inner: Arc<Inner>,
}

struct Inner {
    recent: Mutex<VecDeque<Entry>>,
    file: Option<(PathBuf, Mutex<std::fs::File>)>,
}

impl Audit {
    /// Opens the file, and reads its newest entries.
    pub fn open(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else {
            return Ok(Audit { inner: Arc::new(Inner { recent: Mutex::default(), file: None }) });
        };
        let failed = |error: std::io::Error| format!("cannot open the audit log {}: {error}", path.display());
        let recent = read_end(path).map_err(failed)?;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let file = Some((path.to_owned(), Mutex::new(file)));
        Ok(Audit { inner: Arc::new(Inner { recent: Mutex::new(recent), file }) })
    }

    /// Records an action before it begins. If this fails, the action must not begin.
    pub async fn begin(&self, entry: Entry) -> Result<(), String> {
        self.append(entry.clone()).await?;
        let mut recent = self.inner.recent.lock();
        if recent.len() >= MAX_ENTRIES {
            recent.pop_front();
        }
        recent.push_back(entry);
        Ok(())
    }

    /// Records the end of an action that has begun.
    pub async fn end(&self, entry: Entry) -> Result<(), String> {
        {
            let mut recent = self.inner.recent.lock();
            if let Some(begun) = recent.iter_mut().rev().find(|begun| begun.request_id == entry.request_id) {
                *begun = entry.clone();
            }
        }
        self.append(entry).await
    }

    /// The newest actions first.
    pub fn recent(&self) -> Vec<Entry> {
        self.inner.recent.lock().iter().rev().cloned().collect()
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.inner.file.as_ref().map(|(path, _)| path.as_path())
    }

    async fn append(&self, entry: Entry) -> Result<(), String> {
        if self.inner.file.is_none() {
            return Ok(());
        }
        let inner = self.inner.clone();
        let written = tokio::task::spawn_blocking(move || {
            let Some((path, file)) = &inner.file else { return Ok(()) };
            let mut line = serde_json::to_vec(&entry).map_err(|error| error.to_string())?;
            line.push(b'\n');
            let mut file = file.lock();
            file.write_all(&line)
                .and_then(|()| file.sync_data())
                .map_err(|error| format!("cannot write the audit log {}: {error}", path.display()))
        });
        written.await.unwrap_or_else(|error| Err(error.to_string()))
    }
}

/// The newest entries of a file, oldest first. Lines that are no entries are skipped.
fn read_end(path: &Path) -> std::io::Result<VecDeque<Entry>> {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_READ_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_READ_BYTES).read_to_end(&mut bytes)?;
    let mut entries: VecDeque<Entry> = VecDeque::new();
    for entry in
        bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok())
    {
        match entries.iter_mut().rev().take(64).find(|begun| begun.request_id == entry.request_id) {
            Some(begun) => *begun = entry,
            None => entries.push_back(entry),
        }
    }
    let surplus = entries.len().saturating_sub(MAX_ENTRIES);
    entries.drain(..surplus);
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, state: &str) -> Entry {
        Entry {
            request_id: id.to_owned(),
            action: "pause_topic".to_owned(),
            state: state.to_owned(),
            ..Entry::default()
        }
    }

    #[tokio::test]
    async fn an_action_is_written_before_and_after_it_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::open(Some(&path)).unwrap();
        audit.begin(entry("1", "begun")).await.unwrap();
        assert_eq!(audit.recent()[0].state, "begun");
        audit.begin(entry("2", "begun")).await.unwrap();
        audit.end(entry("1", "done")).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
        let again = Audit::open(Some(&path)).unwrap();
        let states: Vec<_> = again.recent().into_iter().map(|e| (e.request_id, e.state)).collect();
        assert_eq!(states, [("2".to_owned(), "begun".to_owned()), ("1".to_owned(), "done".to_owned())]);
    }

    #[tokio::test]
    async fn memory_is_limited() {
        let audit = Audit::open(None).unwrap();
        for number in 0..MAX_ENTRIES + 5 {
            audit.begin(entry(&number.to_string(), "begun")).await.unwrap();
        }
        assert_eq!(audit.recent().len(), MAX_ENTRIES);
    }
}
