//! NSQ's queues, as they are: what nsqd would read of their files, without taking them over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use nsqd::startup::diskqueue::{self, Found, Oddity, Position, RecordHeader, RecordScan, Stretch, Window};
use nsqd::startup::import::metadata::Metadata;
use nsqd::startup::import::queues::{self, FoundQueue, METADATA_FILE};

use super::directory::{Directory, View};
use crate::exit_status::Failure;

/// A longer `nsqd.dat` is none.
const MAX_METADATA_BYTES: u64 = 1 << 30;

/// What NSQ left in a directory.
pub struct NsqFiles {
    view: View,
    /// Topics and channels of `nsqd.dat`; the error if it cannot be read.
    pub metadata: Result<Metadata, String>,
    /// All queues that have files, or are in `nsqd.dat`.
    pub queues: Vec<Queue>,
}

/// The queue of a topic or of a channel.
pub struct Queue {
    /// The topic.
    pub topic: String,
    /// The channel; none for the topic's own queue.
    pub channel: Option<String>,
    /// It is in `nsqd.dat`: NSQ would open it at start, and so it would be taken over.
    pub is_listed: bool,
    /// Topic or channel is paused.
    pub is_paused: bool,
    /// Number and length of its data files.
    pub files: Vec<(u64, u64)>,
    /// Files that NSQ set aside.
    pub bad_files: Vec<String>,
    /// Its position file.
    pub position: Option<Position>,
    /// What would be read.
    pub stretches: Vec<Stretch>,
    /// What is strange about it.
    pub oddities: Vec<Oddity>,
    name: String,
}

/// What stands in a queue's files.
pub enum Piece<'a> {
    /// A message.
    Message(&'a RecordHeader, &'a [u8]),
    /// File, offset, bytes: no record, or the rest of a file that was never written completely.
    Damage(PathBuf, u64, u64),
    /// The same, where a kill may leave it.
    Torn(PathBuf, u64, u64),
}

impl NsqFiles {
    /// Finds them.
    pub fn find(directory: &Directory) -> Result<Self, Failure> {
        let view = directory.view()?;
        let (storage, dir) = (&*view.storage, directory.path());
        let failed =
            |error: std::io::Error| Failure::failed(format_args!("cannot read {}: {error}", dir.display()));
        let names: BTreeSet<String> = storage.list(dir).map_err(failed)?.into_iter().collect();
        let metadata = match names.contains(METADATA_FILE) {
            false => Err("there is none".to_owned()),
            true => queues::read_file(storage, &dir.join(METADATA_FILE), MAX_METADATA_BYTES)
                .map_err(failed)?
                .ok_or_else(|| "too long".to_owned())
                .and_then(|text| Metadata::parse(&text)),
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
            queues.push(Queue::look(&view, directory, name, &found, &listed).map_err(failed)?);
        }
        Ok(NsqFiles { view, metadata, queues })
    }

    /// Shows all that stands in a queue's files, in order. `all`: what was handed out before as well, as far as it is
    /// still there.
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
                    Found::Damage(at, bytes) => show(Piece::Damage(path.clone(), at, bytes))?,
                    Found::Torn(at, bytes) => show(Piece::Torn(path.clone(), at, bytes))?,
                }
            }
        }
        Ok(())
    }
}

impl Queue {
    fn look(
        view: &View,
        directory: &Directory,
        name: String,
        found: &FoundQueue,
        listed: &BTreeMap<String, bool>,
    ) -> std::io::Result<Self> {
        let (storage, dir) = (&*view.storage, directory.path());
        let position = queues::read_position(storage, dir, &name, found)?;
        let length = |&number: &u64| {
            Ok((number, storage.open(&dir.join(diskqueue::data_file_name(&name, number)))?.len()?))
        };
        let files = found.data.iter().map(length).collect::<std::io::Result<Vec<_>>>()?;
        let (stretches, oddities) = diskqueue::plan(position, &files);
        // Names have no colon in them.
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

    /// From the start of each file on.
    fn all_stretches(&self) -> Vec<Stretch> {
        let planned = |number| self.stretches.iter().find(|stretch| stretch.number == number);
        let whole = |&(number, bytes): &(u64, u64)| Stretch {
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
        self.files.iter().map(|(_, bytes)| bytes).sum()
    }
}
