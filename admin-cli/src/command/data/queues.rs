//! NSQ's queues: what nsqd would read from their files, without taking them over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nsqd::import::diskqueue::{
    self, DataFile, Found, Oddity, Position, RecordHeader, RecordScan, Stretch, Window,
};
use nsqd::import::metadata::Metadata;
use nsqd::import::queues::{self, FoundQueue, METADATA_FILE};

use super::directory::{Directory, View};
use crate::exit_status::Failure;

/// Maximum size of `nsqd.dat`; a longer file is invalid.
const MAX_METADATA_BYTES: u64 = 1 << 30;

/// The files that NSQ left in a directory.
pub struct NsqFiles {
    view: View,
    /// The contents of `nsqd.dat`, or why it cannot be read.
    pub metadata: Result<Metadata, String>,
    /// All queues that have files or are in `nsqd.dat`.
    pub queues: Vec<Queue>,
}

/// The queue of a topic or of a channel.
pub struct Queue {
    pub topic: String,
    /// `None` for the topic's own queue.
    pub channel: Option<String>,
    /// Whether the queue is in `nsqd.dat`. NSQ opens only these queues at start, so only these are taken over.
    pub is_listed: bool,
    /// Whether the topic or channel is paused.
    pub is_paused: bool,
    pub files: Vec<DataFile>,
    /// Files that NSQ set aside.
    pub bad_files: Vec<String>,
    /// The content of its position file.
    pub position: Option<Position>,
    /// The stretches of its files that would be read.
    pub stretches: Vec<Stretch>,
    /// Irregularities of its files.
    pub oddities: Vec<Oddity>,
    name: String,
}

/// A part of a queue's files.
pub enum Piece<'a> {
    /// Header and body of a message.
    Message(&'a RecordHeader, &'a [u8]),
    /// File, offset and length of a stretch that is not a record, or of the incomplete end of a file.
    Damage(PathBuf, u64, u64),
    /// The same, where a kill may leave it.
    Torn(PathBuf, u64, u64),
}

impl NsqFiles {
    /// Reads `nsqd.dat` and finds all queues.
    pub fn find(directory: &Directory) -> Result<Self, Failure> {
        let view = directory.view()?;
        let (storage, dir) = (&*view.storage, directory.path());
        let failed =
            |error: std::io::Error| Failure::failed(format_args!("cannot read {}: {error}", dir.display()));
        let names: BTreeSet<String> = storage.list(dir).map_err(failed)?.into_iter().collect();
        let metadata = match names.contains(METADATA_FILE) {
            false => Err("the file is missing".to_owned()),
            true => queues::read_file(storage, &dir.join(METADATA_FILE), MAX_METADATA_BYTES)
                .map_err(failed)?
                .ok_or_else(|| "the file is too long".to_owned())
                .and_then(|text| Metadata::parse(&text).map_err(|error| error.to_string())),
        };
        let mut found = queues::find_queues(&names);
        let mut listed = BTreeMap::new();
        for (topic, entry) in metadata.iter().flat_map(|metadata| &metadata.topics) {
            listed.insert(topic.to_string(), entry.paused);
            let channels = entry.channels.iter();
            listed.extend(channels.map(|(channel, &paused)| (format!("{topic}:{channel}"), paused)));
        }
        for name in listed.keys() {
            found.entry(name.clone()).or_default();
        }
        let mut queues = Vec::new();
        for (name, found) in found {
            queues.push(Queue::inspect(&view, directory, name, &found, &listed).map_err(failed)?);
        }
        Ok(NsqFiles { view, metadata, queues })
    }

    /// Passes all parts of a queue's files to `show`, in order. With `all`, includes messages that were handed out
    /// before, as far as they still exist.
    pub fn read(
        &self,
        directory: &Directory,
        queue: &Queue,
        all: bool,
        mut show: impl FnMut(Piece<'_>) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let storage = &*self.view.storage;
        let stretches = match all {
            true => queue.all_stretches(),
            false => queue.stretches.clone(),
        };
        for stretch in stretches {
            let path = directory.path().join(diskqueue::data_file_name(&queue.name, stretch.number));
            let failed = |error: std::io::Error| {
                Failure::failed(format_args!("cannot read {}: {error}", path.display()))
            };
            let file = storage.open(&path).map_err(failed)?;
            let mut scan = RecordScan::new(&*file, stretch);
            let mut window = Window::default();
            while let Some(found) = scan.advance().map_err(failed)? {
                match found {
                    Found::Record(at, _) => {
                        let record = diskqueue::read_record(&mut window, &*file, at, stretch.to);
                        if let Some((header, body)) = record.map_err(failed)? {
                            show(Piece::Message(&header, body))?;
                        }
                    }
                    Found::Damage { offset, bytes } => show(Piece::Damage(path.clone(), offset, bytes))?,
                    Found::Torn { offset, bytes } => show(Piece::Torn(path.clone(), offset, bytes))?,
                }
            }
        }
        Ok(())
    }
}

impl Queue {
    fn inspect(
        view: &View,
        directory: &Directory,
        name: String,
        found: &FoundQueue,
        listed: &BTreeMap<String, bool>,
    ) -> std::io::Result<Self> {
        let (storage, dir) = (&*view.storage, directory.path());
        let position = queues::read_position(storage, dir, &name, found)?;
        let file = |&number: &u64| {
            let path = dir.join(diskqueue::data_file_name(&name, number));
            Ok(DataFile { number, bytes: storage.open(&path)?.len()? })
        };
        let files = found.data.iter().map(file).collect::<std::io::Result<Vec<_>>>()?;
        let (stretches, oddities) = diskqueue::plan(position, &files);
        // Names contain no colon.
        let (topic, channel) = match name.split_once(':') {
            Some((topic, channel)) => (topic.to_owned(), Some(channel.to_owned())),
            None => (name.clone(), None),
        };
        Ok(Queue {
            topic,
            channel,
            is_listed: listed.contains_key(&name),
            is_paused: listed.get(&name).copied().unwrap_or(false),
            files,
            bad_files: found.names.iter().filter(|name| name.ends_with(".bad")).cloned().collect(),
            position,
            stretches,
            oddities,
            name,
        })
    }

    /// All data files, each from its start.
    fn all_stretches(&self) -> Vec<Stretch> {
        let planned = |number| self.stretches.iter().find(|stretch| stretch.number == number);
        let whole = |&DataFile { number, bytes }: &DataFile| Stretch {
            number,
            from: 0,
            to: bytes,
            whole_to: planned(number).map_or(bytes, |stretch| stretch.whole_to),
        };
        self.files.iter().map(whole).collect()
    }

    /// `topic` or `topic/channel`.
    pub fn label(&self) -> String {
        match &self.channel {
            Some(channel) => format!("{}/{channel}", self.topic),
            None => self.topic.clone(),
        }
    }

    /// Bytes of its data files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}
