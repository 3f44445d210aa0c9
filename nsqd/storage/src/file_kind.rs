//! How the files of a data directory are called, and what each is for. Pure.

use std::path::{Path, PathBuf};

/// Ending of the journal files that are in use.
pub(crate) const JOURNAL: &str = "journal";
/// Ending of retired journal files, which are kept to be used again.
pub(crate) const SPARE: &str = "spare";
/// Ending of segment files.
pub(crate) const SEGMENT: &str = "segment";
/// Ending that a start adds to the name of a file of which it could not read a part.
pub(crate) const DAMAGED: &str = "damaged";

/// Digits of the number that is the name of a journal or segment file.
const NUMBER_DIGITS: usize = 20;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    Journal,
    Segment,
    /// Checkpoint, format version and everything else.
    Other,
}

impl FileKind {
    pub const ALL: [FileKind; 3] = [FileKind::Journal, FileKind::Segment, FileKind::Other];

    /// The word for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            FileKind::Journal => "journal",
            FileKind::Segment => "segment",
            FileKind::Other => "other",
        }
    }

    /// The kind of a file with this name.
    pub fn of(path: &Path) -> Self {
        match extension(path) {
            // A journal file gets its header while it still has the name of a spare.
            Some(JOURNAL | SPARE) => FileKind::Journal,
            Some(SEGMENT) => FileKind::Segment,
            _ => FileKind::Other,
        }
    }
}

/// Whether this is a journal file that is kept only to be used again. Its content is no longer needed.
pub fn is_retired(path: &Path) -> bool {
    extension(path) == Some(SPARE)
}

/// The path of a file that is set aside, because a part of it cannot be read.
pub(crate) fn set_aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(DAMAGED);
    name.into()
}

/// Whether a start set this file aside, because it could not read a part of it.
pub fn is_set_aside(path: &Path) -> bool {
    extension(path) == Some(DAMAGED)
}

/// The name of the file with this number.
pub(crate) fn numbered(number: u64, ending: &str) -> String {
    format!("{number:0NUMBER_DIGITS$}.{ending}")
}

/// The number of a file with this name; `None` if it is not one that [`numbered`] returns.
pub(crate) fn number_of(name: &str, ending: &str) -> Option<u64> {
    let digits = name.strip_suffix(ending)?.strip_suffix('.')?;
    let is_number = digits.len() == NUMBER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

fn extension(path: &Path) -> Option<&str> {
    path.extension()?.to_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extension_decides() {
        for (name, kind, retired) in [
            ("d/00000000000000000001.journal", FileKind::Journal, false),
            ("d/1.spare", FileKind::Journal, true),
            ("d/7/00000000000000000001.segment", FileKind::Segment, false),
            ("d/checkpoint.new", FileKind::Other, false),
            ("d/journal", FileKind::Other, false),
        ] {
            assert_eq!((FileKind::of(name.as_ref()), is_retired(name.as_ref())), (kind, retired), "{name}");
        }
    }

    #[test]
    fn numbers_round_trip_as_names() {
        for number in [0, 7, u64::MAX] {
            assert_eq!(number_of(&numbered(number, SEGMENT), SEGMENT), Some(number));
        }
        for name in [
            "1.segment",
            "00000000000000000001.journal",
            "+0000000000000000001.segment",
            "99999999999999999999.segment",
        ] {
            assert_eq!(number_of(name, SEGMENT), None, "{name}");
        }
    }
}
