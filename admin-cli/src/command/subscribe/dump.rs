//! `--dump` and `--out`: one file per message.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nsq::Delivery;

use crate::exit_status::Failure;
use crate::names::Object;

/// A folder for messages.
#[derive(Debug, Clone)]
pub struct Dump {
    folder: PathBuf,
}

impl Dump {
    /// Creates the folder if it is missing.
    pub fn new(folder: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(folder).map_err(|error| {
            let shown = folder.display().to_string();
            Failure::failed(format_args!("cannot create {shown}: {error}")).target(shown)
        })?;
        Ok(Dump { folder: folder.to_owned() })
    }

    /// Writes a body to `TOPIC.ID`, durably. A file that exists holds the same message, and is written again: an id is unique
    /// on its node only.
    pub fn write(&self, object: &Object, message: &Delivery) -> io::Result<PathBuf> {
        let path = self.folder.join(format!("{}.{}", object.topic, message.id()));
        let fresh = self.folder.join(format!(".{}.{}.part", object.topic, message.id()));
        let mut file = File::create(&fresh)?;
        file.write_all(message.body())?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        Ok(path)
    }

    /// Makes the names durable.
    pub fn sync(&self) -> io::Result<()> {
        File::open(&self.folder)?.sync_all()
    }
}
