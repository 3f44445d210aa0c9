//! What happens to finished files: `--on-rotate` runs a command for each, `--retain` deletes the oldest.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant, SystemTime};

use nsq_daemon::go_duration;

use super::files::{LockedFile, collect};

/// How often to look for files above a limit of age, besides whenever a file is finished.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// How long, or how many bytes of, files of one topic are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retain {
    Age(Duration),
    /// Sum of the lengths of all finished files of a topic.
    Bytes(u64),
}

impl FromStr for Retain {
    type Err = String;

    /// Parses an age, such as 12h or 30d, or a size, such as 500MB or 10GiB.
    fn from_str(text: &str) -> Result<Self, String> {
        const WRONG: &str = "expected an age above 0, such as 12h or 30d, or a size, such as 500MB or 10GiB";
        let wrong = || WRONG.to_owned();
        let unit_at = text.find(|letter: char| !letter.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(unit_at);
        let factor = match unit {
            "KB" => Some(1000),
            "MB" => Some(1000u64.pow(2)),
            "GB" => Some(1000u64.pow(3)),
            "TB" => Some(1000u64.pow(4)),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            "TiB" => Some(1u64 << 40),
            _ => None,
        };
        if let Some(factor) = factor {
            let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
            return bytes.filter(|bytes| *bytes > 0).map(Retain::Bytes).ok_or_else(wrong);
        }
        let age = go_duration::parse_with_days(text).ok();
        age.filter(|age| !age.is_zero()).map(Retain::Age).ok_or_else(wrong)
    }
}

/// A finished file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedFile {
    pub path: PathBuf,
    pub len: u64,
    pub modified_at: SystemTime,
}

/// Returns the files to delete. With a limit of bytes, the newest file always stays. Pure.
fn excess(limits: &[Retain], now: SystemTime, mut files: Vec<FinishedFile>) -> Vec<FinishedFile> {
    // Newest first; files of the same moment in the order of their revisions.
    files.sort_by(|a, b| (b.modified_at, &b.path).cmp(&(a.modified_at, &a.path)));
    let mut sum = 0u64;
    let mut excess = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        sum = sum.saturating_add(file.len);
        let age = now.duration_since(file.modified_at).unwrap_or_default();
        let is_excess = limits.iter().any(|limit| match limit {
            Retain::Age(limit) => age > *limit,
            Retain::Bytes(limit) => index > 0 && sum > *limit,
        });
        if is_excess {
            excess.push(file);
        }
    }
    excess
}

/// The limits of one topic, and when they were last applied.
#[derive(Debug, Default)]
pub struct Retention {
    limits: Vec<Retain>,
    applied_at: Option<Instant>,
}

impl Retention {
    pub fn new(limits: &[Retain]) -> Self {
        Retention { limits: limits.to_vec(), applied_at: None }
    }

    /// Whether files may have become too old since the limits were applied.
    pub fn is_due(&self) -> bool {
        !self.limits.is_empty() && self.applied_at.is_none_or(|at| at.elapsed() >= LOOK_INTERVAL)
    }

    /// Deletes files below `folder` that `is_own` selects by their relative path and that exceed a limit. Skips files that a
    /// process writes. Calls `deleted` with each file that it deleted.
    pub fn apply(
        &mut self,
        folder: &Path,
        depth: usize,
        is_own: impl Fn(&Path) -> bool,
        mut deleted: impl FnMut(&FinishedFile),
    ) -> io::Result<()> {
        if self.limits.is_empty() {
            return Ok(());
        }
        self.applied_at = Some(Instant::now());
        let mut files = Vec::new();
        collect(folder, folder, depth, &mut |relative, path, metadata| {
            if is_own(relative) {
                files.push(FinishedFile { path, len: metadata.len(), modified_at: metadata.modified()? });
            }
            Ok(())
        })?;
        for file in excess(&self.limits, SystemTime::now(), files) {
            let opened = OpenOptions::new().read(true).write(true).open(&file.path);
            let file_to_delete = match opened {
                // Another process of the same topic may have deleted it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                opened => LockedFile::lock(opened?)?,
            };
            if let Some(_locked) = file_to_delete {
                fs::remove_file(&file.path)?;
                deleted(&file);
            }
        }
        Ok(())
    }
}

/// Why a command of `--on-rotate` was not successful.
#[derive(Debug)]
pub enum CommandFailure {
    NotStarted(io::Error),
    Ended(std::process::ExitStatus),
}

impl fmt::Display for CommandFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommandFailure::NotStarted(error) => write!(f, "cannot start it: {error}"),
            CommandFailure::Ended(status) => write!(f, "{status}"),
        }
    }
}

/// Runs a command with the shell and waits for it. The file is its first argument and `NSQ_FILE`; the topic is `NSQ_TOPIC`.
pub fn run_command(command: &str, topic: &str, file: &Path) -> Result<(), CommandFailure> {
    let status = Command::new("sh")
        .args(["-c", command, "sh"])
        .arg(file)
        .env("NSQ_FILE", file)
        .env("NSQ_TOPIC", topic)
        // The program needs no access to nsqd.
        .env_remove("NSQ_AUTH_SECRET")
        .stdin(Stdio::null())
        .status()
        .map_err(CommandFailure::NotStarted)?;
    if status.success() { Ok(()) } else { Err(CommandFailure::Ended(status)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_ages_or_sizes() {
        for (text, expected) in [
            ("36h", Retain::Age(Duration::from_secs(36 * 3600))),
            ("30d", Retain::Age(Duration::from_secs(30 * 86_400))),
            ("500MB", Retain::Bytes(500_000_000)),
            ("10GiB", Retain::Bytes(10 << 30)),
        ] {
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
        for wrong in ["", "5", "0s", "0GB", "-1h", "h", "GB", "1.5GB", "99999999999TiB"] {
            assert!(wrong.parse::<Retain>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn oldest_files_above_a_limit_are_deleted_and_the_newest_stays() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let file = |name: &str, seconds: u64, len| FinishedFile {
            path: name.into(),
            len,
            modified_at: now - Duration::from_secs(seconds),
        };
        let files = || vec![file("b", 20, 40), file("a", 30, 40), file("d", 5, 40), file("c", 20, 40)];
        let names = |limits: &[Retain]| {
            let mut names: Vec<_> =
                excess(limits, now, files()).iter().map(|file| file.path.display().to_string()).collect();
            names.sort();
            names.concat()
        };
        assert_eq!(names(&[Retain::Age(Duration::from_secs(20))]), "a");
        assert_eq!(names(&[Retain::Age(Duration::from_secs(1))]), "abcd");
        assert_eq!(names(&[Retain::Bytes(80)]), "ab");
        assert_eq!(names(&[Retain::Bytes(1)]), "abc");
        assert_eq!(names(&[Retain::Bytes(120), Retain::Age(Duration::from_secs(10))]), "abc");
    }
}
