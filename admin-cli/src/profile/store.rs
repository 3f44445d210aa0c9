//! The configuration file: where it is, reading it, and replacing it as a whole.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::Settings;
use crate::exit_status::Failure;

/// Where the file is: `$XDG_CONFIG_HOME/nsq/config.toml`, or else `~/.config/nsq/config.toml`. `None` without a home
/// directory.
pub fn path() -> Option<PathBuf> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(folder.join("nsq").join("config.toml"))
}

/// The path, for commands that need it.
pub fn required_path() -> Result<PathBuf, Failure> {
    path().ok_or_else(|| {
        Failure::failed("neither XDG_CONFIG_HOME nor HOME is set, so there is no place for profiles")
            .hint("set XDG_CONFIG_HOME to an absolute path")
    })
}

/// The text of the file; empty if there is none.
pub fn read(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(error) => Err(Failure::failed(format_args!("cannot read {}: {error}", path.display()))),
    }
}

/// The content of the file.
pub fn load() -> Result<Settings, Failure> {
    let Some(path) = path() else { return Ok(Settings::default()) };
    parse(&path, &read(&path)?)
}

/// The content of the file's text.
pub fn parse(path: &Path, text: &str) -> Result<Settings, Failure> {
    Settings::parse(text).map_err(|why| {
        let path = path.display().to_string();
        Failure::usage(format_args!("{path}: {why}"))
            .hint("mend the file with an editor; `nsq profile edit` checks it before it is saved")
            .target(path)
    })
}

/// Replaces the file, readable by its owner only. A reader sees the old text or the new one.
pub fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let replace = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        // A link stays a link: the file that it names is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let fresh = target.with_extension(format!("toml.{}", std::process::id()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        let replaced = written.and_then(|()| fs::rename(&fresh, &target));
        if replaced.is_err() {
            // The first error is the one to report.
            let _ = fs::remove_file(&fresh);
        }
        replaced
    };
    replace().map_err(|error| Failure::failed(format_args!("cannot write {}: {error}", path.display())))
}
