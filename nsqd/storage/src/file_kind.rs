//! What a file is for, derived from its name. Pure.

use std::path::Path;

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
        match path.extension().and_then(|extension| extension.to_str()) {
            // A journal file gets its header while it still has the name of a spare.
            Some("journal" | "spare") => FileKind::Journal,
            Some("segment") => FileKind::Segment,
            _ => FileKind::Other,
        }
    }
}

/// Whether the content of a file with this name is no longer needed.
pub(crate) fn is_retired(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "spare")
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
}
