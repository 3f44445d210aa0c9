//! Style sheet, scripts and icons: part of the binary, or from a directory during development.

use std::borrow::Cow;
use std::path::PathBuf;

use sha2::{Digest, Sha256};

const FILES: [(&str, &str, &[u8]); 5] = [
    ("app.css", "text/css; charset=utf-8", include_bytes!("../assets/app.css")),
    ("app.js", "text/javascript; charset=utf-8", include_bytes!("../assets/app.js")),
    ("morph.js", "text/javascript; charset=utf-8", include_bytes!("../assets/morph.js")),
    ("icons.svg", "image/svg+xml", include_bytes!("../assets/icons.svg")),
    ("favicon.svg", "image/svg+xml", include_bytes!("../assets/favicon.svg")),
];

/// The files that pages need.
pub struct Assets {
    /// Identifies the content, so that browsers may keep the files.
    pub version: String,
    directory: Option<PathBuf>,
}

impl Assets {
    pub fn new(directory: Option<PathBuf>) -> Self {
        let mut hash = Sha256::new();
        FILES.iter().for_each(|(_, _, bytes)| hash.update(bytes));
        let version = hash.finalize()[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        Assets { version, directory }
    }

    /// Content type and content of a file.
    pub fn get(&self, name: &str) -> Option<(&'static str, Cow<'static, [u8]>)> {
        let (_, kind, bytes) = FILES.iter().find(|(known, ..)| *known == name)?;
        if let Some(directory) = &self.directory {
            let content = std::fs::read(directory.join(name)).ok()?;
            return Some((kind, Cow::Owned(content)));
        }
        Some((kind, Cow::Borrowed(bytes)))
    }

    /// Whether the content of a name never changes.
    pub fn are_fixed(&self) -> bool {
        self.directory.is_none()
    }
}
