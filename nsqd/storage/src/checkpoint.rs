//! Saved state of topics and channels, from which reading the journal continues.
//!
//! Plain data: the owner of the state fills it in, and this file knows the format, MessagePack behind a header.
//! A checkpoint is written to `checkpoint.new` and synced. Then the previous one is renamed to `checkpoint.previous`
//! and the new one to `checkpoint`, and the directory is synced. So there is always one whole checkpoint, or none
//! before the first. A start uses the previous one if the newest is damaged. Structs are arrays of their fields in
//! order: a field may be added at the end, with a default, and the format version stays.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::id_list::IdList;
use super::outstanding_list::OutstandingList;
use super::{ChannelNumber, SequenceRange, Storage, StorageFile, TopicNumber, file_kind, journal::Lsn};

const MAGIC: [u8; 8] = *b"nsqrsCKP";
/// Increased when an older version can no longer read a checkpoint.
const FORMAT_VERSION: u32 = 1;
/// Magic, version, CRC-32C, length.
const HEADER_BYTES: usize = 24;
/// A longer file is damaged.
const MAX_CHECKPOINT_BYTES: u64 = 16 << 30;

/// Everything about topics and channels that is not a message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The checkpoint contains everything that journal records before this place say.
    pub journal_from: Lsn,
    pub next_topic_number: TopicNumber,
    pub next_channel_number: ChannelNumber,
    pub topics: Vec<TopicCheckpoint>,
    /// Nothing happened after the checkpoint was written, so there is nothing to read in the journal.
    pub clean_shutdown: bool,
    /// Deleted and ephemeral topics have used sequence numbers up to here.
    #[serde(default)]
    pub sequences_used: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicCheckpoint {
    pub number: TopicNumber,
    pub name: String,
    pub paused: bool,
    /// The sequence number of the next message.
    pub next_sequence: u64,
    /// The release point.
    pub released: u64,
    /// Whether the release point follows the end.
    pub releasing: bool,
    /// Sequence numbers that do not exist.
    pub skipped: Vec<SequenceRange>,
    /// Deferred messages behind the release point: sequence number and due time, wall clock, nanoseconds.
    pub unreleased_deferred: Vec<(u64, i64)>,
    /// Number of messages ever published.
    pub message_count: u64,
    /// Bytes of the bodies of all messages ever published.
    pub message_bytes: u64,
    pub channels: Vec<ChannelCheckpoint>,
    #[serde(default)]
    pub retention: RetentionCheckpoint,
    /// Messages from here on were published after [`Checkpoint::journal_from`], before the topic was saved, and their
    /// records say when. `None`: all messages before `next_sequence` were published before `journal_from`.
    #[serde(default)]
    pub published_before: Option<u64>,
    /// The topic's own settings, in the text form of their owner. `None` if written by a version that had no settings
    /// but those in `retention`.
    #[serde(default)]
    pub settings: Option<String>,
    /// Messages behind the release point that only one channel receives.
    #[serde(default)]
    pub unreleased_targeted: Vec<TargetedCheckpoint>,
    #[serde(default)]
    pub ids: IdsCheckpoint,
    /// Messages that were taken over from NSQ. `None` if there are none any more.
    #[serde(default)]
    pub taken_over: Option<TakenOverCheckpoint>,
    /// Messages behind the release point that another node had, with deliveries or due times.
    #[serde(default)]
    pub unreleased_adopted: Vec<AdoptedCheckpoint>,
    /// The newest batch of each transfer from another node that is not complete, oldest first: the number of the transfer,
    /// and the messages by their numbers on the other node.
    #[serde(default)]
    pub transfers: Vec<(u128, Vec<SequenceRange>)>,
}

/// The messages `from..to`, which only `channel` receives, as they stood on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdoptedCheckpoint {
    pub from: u64,
    pub to: u64,
    pub channel: ChannelNumber,
    /// Deliveries so far.
    pub attempts: u16,
    /// Failed deliveries.
    pub failures: u16,
    /// When they are due: wall clock, nanoseconds. `None` if they can be handed out.
    pub due_ns: Option<i64>,
}

/// Messages that were taken over from NSQ, with their old timestamps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenOverCheckpoint {
    /// All messages before this one.
    pub before: u64,
    /// When they were taken over: wall clock, nanoseconds. Their age counts from then.
    pub at_ns: i64,
}

/// The ids that a topic remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdsCheckpoint {
    /// The topic has forgotten the ids of all messages before this one.
    pub forgotten_before: u64,
    /// The ids of acknowledged messages, in the order of the messages.
    pub list: IdList,
}

/// Which finished messages a topic retains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionCheckpoint {
    /// Whether the topic has its own limits; otherwise the daemon's apply.
    pub own: bool,
    /// The topic's own age limit in nanoseconds; 0 for none.
    pub for_ns: u64,
    /// The topic's own limit in bytes; 0 for none.
    pub bytes: u64,
    /// First sequence number that is retained. `None` if nothing is retained.
    pub from: Option<u64>,
    /// Sequence numbers that were refused or emptied although the log may hold them.
    pub void: Vec<SequenceRange>,
    /// Deferred messages, for channels that reach them later.
    pub deferred: Vec<DeferredCheckpoint>,
    /// Messages that only one channel receives, even if others reach them later.
    #[serde(default)]
    pub targeted: Vec<TargetedCheckpoint>,
}

/// The messages `from..to`, deferred until `due_ns`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeferredCheckpoint {
    pub from: u64,
    pub to: u64,
    /// Wall clock, nanoseconds.
    pub due_ns: i64,
}

/// The messages `from..to`, which only `channel` receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetedCheckpoint {
    pub from: u64,
    pub to: u64,
    pub channel: ChannelNumber,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelCheckpoint {
    pub number: ChannelNumber,
    pub name: String,
    pub paused: bool,
    /// The read cursor.
    pub cursor: u64,
    /// Sequence numbers ahead of the cursor that it must not hand out.
    pub skipped_ahead: Vec<SequenceRange>,
    /// Messages behind the cursor that are not finished.
    pub outstanding: OutstandingList,
    /// Number of messages that ever entered the channel.
    pub message_count: u64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    /// The channel's own settings, in the text form of their owner.
    #[serde(default)]
    pub settings: String,
    /// Outstanding messages with failed deliveries, if the channel counts these: sequence number and failures. In order.
    #[serde(default)]
    pub failures: Vec<(u64, u16)>,
    /// Number of messages that were dead-lettered.
    #[serde(default)]
    pub dead_letter_count: u64,
    /// Number of messages that expired and were dropped.
    #[serde(default)]
    pub expired_count: u64,
    /// Number of messages that were dropped because the channel held too many.
    #[serde(default)]
    pub overflow_count: u64,
    /// Number of messages that did not match the channel's filter.
    #[serde(default)]
    pub filtered_count: u64,
    /// Number of messages that were cancelled.
    #[serde(default)]
    pub cancelled_count: u64,
    /// What the last empty or move forward finished, if it can be undone.
    #[serde(default)]
    pub loss: Option<LossCheckpoint>,
}

/// Messages that were finished by an empty or by a move of the read cursor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LossCheckpoint {
    /// The cursor was moved; otherwise, the channel was emptied.
    pub is_move: bool,
    /// Wall clock, nanoseconds. `None` if it is not known.
    pub at_ns: Option<i64>,
    /// The messages. `None` if they are too many ranges.
    pub runs: Option<Vec<SequenceRange>>,
}

/// An outstanding message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutstandingCheckpoint {
    pub sequence: u64,
    /// Deliveries so far.
    pub attempts: u16,
    /// Due time, wall clock, nanoseconds. 0 if the message was waiting or in flight, and so can be delivered at once.
    pub due_ns: i64,
}

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("checkpoint I/O failed: {0}; check the disk and the owner of the file")]
    Io(#[from] io::Error),
    /// The bytes are not those that were written.
    #[error("damaged checkpoint: {0}")]
    Damaged(&'static str),
    #[error(
        "checkpoint has format version {0}, newer than this program supports; start the nsqd version that wrote it"
    )]
    NewerVersion(u32),
}

/// What a start continues from.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest checkpoint that could be read.
    pub checkpoint: Option<Checkpoint>,
    /// The checkpoints that could not be read.
    pub problems: Vec<Problem>,
}

/// A checkpoint that cannot be read.
#[derive(Debug)]
pub struct Problem {
    /// Its path before it was renamed to `*.damaged`.
    pub path: PathBuf,
    /// Length of the file.
    pub bytes: u64,
    pub what: &'static str,
}

/// The path of the checkpoint that was written before the one at `path`.
pub fn previous(path: &Path) -> PathBuf {
    path.with_extension("previous")
}

/// Reads the checkpoint at `path`, or the previous one if that is damaged or missing. Renames damaged checkpoints to
/// `*.damaged`. Fails if a checkpoint has a newer version, and then changes nothing.
pub fn load(storage: &dyn Storage, path: &Path) -> Result<Loaded, CheckpointError> {
    let mut loaded = Loaded::default();
    // The previous one is always read, so that damage is noticed before it is needed.
    for path in [path.to_path_buf(), previous(path)] {
        match read(storage, &path) {
            Ok(checkpoint) => loaded.checkpoint = loaded.checkpoint.or(checkpoint),
            Err(CheckpointError::Damaged(what)) => {
                let bytes = storage.open(&path)?.len()?;
                loaded.problems.push(Problem { path, bytes, what });
            }
            Err(error) => return Err(error),
        }
    }
    for Problem { path, .. } in &loaded.problems {
        storage.rename(path, &file_kind::set_aside(path))?;
    }
    Ok(loaded)
}

/// Replaces the checkpoint at `path`; the old one becomes the previous one. After an error, either the new one is in
/// place, or the old one still exists under one of the two names.
pub fn write(storage: &dyn Storage, path: &Path, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let aside = path.with_extension("new");
    match storage.remove(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = storage.create(&aside, 0)?;
    let mut content = Content::new(&*file);
    rmp_serde::encode::write(&mut content, checkpoint).map_err(|error| content.error(error))?;
    content.complete()?;
    file.sync_data()?;
    match storage.rename(path, &previous(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    storage.rename(&aside, path)?;
    if let Some(dir) = path.parent() {
        storage.sync_dir(dir).map_err(io::Error::from)?;
    }
    Ok(())
}

/// Reads the checkpoint at `path`. Returns `None` if there is no such file.
pub fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Checkpoint>, CheckpointError> {
    let file = match storage.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let len = file.len()?;
    if len > MAX_CHECKPOINT_BYTES {
        return Err(CheckpointError::Damaged("file too long"));
    }
    let mut bytes = vec![0; len as usize];
    let filled = file.read_at(&mut bytes, 0)?;
    decode(&bytes[..filled]).map(Some)
}

/// Writes the content of a checkpoint to a file, piece by piece.
struct Content<'a> {
    file: &'a dyn StorageFile,
    /// Bytes that are not written yet. The first piece begins with the space for the header.
    buffer: Vec<u8>,
    /// Bytes written, including the space for the header.
    written: u64,
    /// Checksum of the content that has passed through `buffer`.
    checksum: u32,
    /// Length of that content.
    len: u64,
    /// Why writing failed.
    failed: Option<io::Error>,
}

/// Content is written in pieces of about this size.
const PIECE_BYTES: usize = 1 << 20;

impl<'a> Content<'a> {
    fn new(file: &'a dyn StorageFile) -> Self {
        Content { file, buffer: vec![0; HEADER_BYTES], written: 0, checksum: 0, len: 0, failed: None }
    }

    fn write_piece(&mut self) -> io::Result<()> {
        self.file.write_all_at(&self.buffer, self.written)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Writes the last piece and the header, together if there is only one piece.
    fn complete(mut self) -> io::Result<()> {
        let header = header(self.len, self.checksum);
        let is_whole = self.written == 0;
        if is_whole {
            self.buffer[..HEADER_BYTES].copy_from_slice(&header);
        }
        self.write_piece()?;
        if is_whole { Ok(()) } else { self.file.write_all_at(&header, 0) }
    }

    fn error(&mut self, error: rmp_serde::encode::Error) -> io::Error {
        self.failed.take().unwrap_or_else(|| io::Error::other(error))
    }
}

impl io::Write for Content<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.len += bytes.len() as u64;
        if self.buffer.len() >= PIECE_BYTES
            && let Err(error) = self.write_piece()
        {
            let kind = error.kind();
            self.failed = Some(error);
            return Err(kind.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The header for content of this length and checksum.
fn header(len: u64, content_checksum: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&len.to_le_bytes());
    let before = checksum(&header);
    let all = crc32c::crc32c_combine(before, content_checksum, len as usize);
    header[12..16].copy_from_slice(&all.to_le_bytes());
    header
}

fn decode(bytes: &[u8]) -> Result<Checkpoint, CheckpointError> {
    let Some((header, content)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err(CheckpointError::Damaged("file too short"));
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let length = u64::from(word(16)) | u64::from(word(20)) << 32;
    if header[..8] != MAGIC {
        return Err(CheckpointError::Damaged("no checkpoint header"));
    }
    if length != content.len() as u64 || word(12) != checksum(bytes) {
        return Err(CheckpointError::Damaged("wrong checksum"));
    }
    if word(8) > FORMAT_VERSION {
        return Err(CheckpointError::NewerVersion(word(8)));
    }
    rmp_serde::from_slice(content).map_err(|_| CheckpointError::Damaged("content cannot be decoded"))
}

/// Covers all bytes except its own field.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faulty::{Fault, FaultyStorage, Op};

    fn encode(checkpoint: &Checkpoint) -> io::Result<Vec<u8>> {
        let storage = storage();
        write(&storage, path(), checkpoint).map_err(io::Error::other)?;
        let file = storage.open(path())?;
        let mut bytes = vec![0; file.len()? as usize];
        file.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    fn sample() -> Checkpoint {
        sample_of(1000)
    }

    fn sample_of(count: u64) -> Checkpoint {
        let outstanding =
            (0..count).map(|sequence| OutstandingCheckpoint { sequence, attempts: 1, due_ns: 0 }).collect();
        let channel = ChannelCheckpoint {
            number: ChannelNumber(3),
            name: "ch".into(),
            cursor: 1000,
            outstanding,
            skipped_ahead: vec![SequenceRange::new(1001, 1003)],
            ..ChannelCheckpoint::default()
        };
        let topic = TopicCheckpoint {
            number: TopicNumber(2),
            name: "..".into(),
            paused: true,
            next_sequence: 1 << 40,
            unreleased_deferred: vec![(7, i64::MAX)],
            channels: vec![channel],
            ..TopicCheckpoint::default()
        };
        Checkpoint { journal_from: Lsn(5 << 32 | 128), topics: vec![topic], ..Checkpoint::default() }
    }

    fn storage() -> FaultyStorage {
        let storage = FaultyStorage::default();
        storage.create_dir_all(Path::new("/data")).unwrap();
        storage
    }

    fn path() -> &'static Path {
        Path::new("/data/checkpoint")
    }

    #[test]
    fn round_trip_survives_power_loss() {
        let storage = storage();
        assert_eq!(read(&storage, path()).unwrap(), None);
        write(&storage, path(), &Checkpoint::default()).unwrap();
        write(&storage, path(), &sample()).unwrap();
        assert_eq!(read(&storage.after_power_loss(1), path()).unwrap(), Some(sample()));
    }

    #[test]
    fn structs_are_arrays_of_their_fields() {
        let saved = RetentionCheckpoint {
            void: vec![SequenceRange::new(1, 2)],
            deferred: vec![DeferredCheckpoint { from: 3, to: 4, due_ns: -5 }],
            targeted: vec![TargetedCheckpoint { from: 6, to: 7, channel: ChannelNumber(8) }],
            ..RetentionCheckpoint::default()
        };
        let none = None::<u64>;
        let arrays = (false, 0, 0, none, [(1_u64, 2_u64)], [(3_u64, 4_u64, -5_i64)], [(6_u64, 7_u64, 8_u32)]);
        assert_eq!(rmp_serde::to_vec(&saved).unwrap(), rmp_serde::to_vec(&arrays).unwrap());
    }

    #[test]
    fn a_large_checkpoint_is_written_in_pieces() {
        let storage = storage();
        let large = sample_of(1_000_000);
        storage.record();
        write(&storage, path(), &large).unwrap();
        let pieces = storage.take_recorded();
        assert!(pieces.iter().all(|change| change.written_bytes() <= PIECE_BYTES + 64));
        assert_eq!(read(&storage.after_power_loss(1), path()).unwrap(), Some(large.clone()));
        for after in 0..4 {
            let storage = self::storage();
            write(&storage, path(), &sample()).unwrap();
            storage.plan(Fault { after, written: 10, ..Fault::next(Op::Write, 1, io::ErrorKind::Other) });
            assert!(write(&storage, path(), &large).is_err());
            assert_eq!(load(&storage.after_power_loss(1), path()).unwrap().checkpoint, Some(sample()));
        }
    }

    #[test]
    fn an_outstanding_message_takes_few_bytes() {
        assert!(encode(&sample()).unwrap().len() < 7 * 1000);
    }

    #[test]
    fn a_failed_write_leaves_the_old_checkpoint() {
        for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
            for seed in 0..8 {
                let storage = storage();
                write(&storage, path(), &sample()).unwrap();
                storage.plan(Fault { written: 10, ..Fault::next(op, 1, io::ErrorKind::Other) });
                assert!(write(&storage, path(), &Checkpoint::default()).is_err());
                let found = load(&storage.after_power_loss(seed), path()).unwrap().checkpoint;
                // A name change that was not synced may still reach the disk.
                let new = op == Op::SyncDir && found == Some(Checkpoint::default());
                assert!(new || found == Some(sample()), "{op:?}");
                write(&storage, path(), &Checkpoint::default()).unwrap();
            }
        }
    }

    #[test]
    fn a_damaged_or_missing_checkpoint_is_replaced_by_the_previous() {
        let newer = Checkpoint { next_topic_number: TopicNumber(9), ..sample() };
        let damages: [fn(&mut Vec<u8>); 3] = [|bytes| bytes[30] ^= 1, |bytes| bytes.truncate(20), Vec::clear];
        for damage in damages {
            let storage = storage();
            write(&storage, path(), &sample()).unwrap();
            write(&storage, path(), &newer).unwrap();
            assert_eq!(load(&storage, path()).unwrap().checkpoint, Some(newer.clone()));
            storage.tamper(path(), damage);
            let loaded = load(&storage, path()).unwrap();
            assert_eq!((loaded.checkpoint, loaded.problems.len()), (Some(sample()), 1));
            // The damaged one has been renamed, so the next load reports nothing.
            assert!(load(&storage, path()).unwrap().problems.is_empty());
            assert!(storage.paths().contains(&"/data/checkpoint.damaged".into()));
            write(&storage, path(), &newer).unwrap();
            storage.remove(path()).unwrap();
            assert_eq!(load(&storage, path()).unwrap().checkpoint, Some(sample()));
            storage.tamper(Path::new("/data/checkpoint.previous"), damage);
            let loaded = load(&storage, path()).unwrap();
            assert_eq!((loaded.checkpoint, loaded.problems.len()), (None, 1));
        }
    }

    #[test]
    fn a_checkpoint_of_a_newer_version_is_an_error_and_stays() {
        let storage = storage();
        write(&storage, path(), &sample()).unwrap();
        storage.tamper(path(), |bytes| {
            bytes[8] = 2;
            let checksum = checksum(bytes);
            bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        });
        assert!(matches!(load(&storage, path()), Err(CheckpointError::NewerVersion(2))));
        assert_eq!(storage.paths(), [path()]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = encode(&sample()).unwrap();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(matches!(decode(&damaged), Err(CheckpointError::Damaged(_))), "byte {at}");
        }
        assert!(decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode(&[]).is_err());
    }

    #[test]
    fn a_newer_version_is_not_reported_as_damage() {
        let mut bytes = encode(&sample()).unwrap();
        bytes[8] = 2;
        let checksum = checksum(&bytes);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        assert!(matches!(decode(&bytes), Err(CheckpointError::NewerVersion(2))));
    }
}
