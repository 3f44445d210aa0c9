//! One segment file, and how a block is read from it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use super::{BlockIndex, NewBlock};
use crate::{
    ByteRange, Identity, SequenceRange, Storage, StorageFile,
    block::{self, BLOCK_HEADER_BYTES, BlockHeader},
    file_kind,
    seal::{self, Seal},
};

/// Offset of the first block, behind two copies of the header.
pub const FILE_HEADER_BYTES: u64 = 2 * HEADER_COPY_BYTES as u64;
const HEADER_COPY_BYTES: usize = 32;
const MAGIC: [u8; 8] = *b"nsqrsSEG";
const FORMAT_VERSION: u32 = 1;

/// Where a block is. Cheap to clone; reading needs neither the store nor a lock on it.
#[derive(Clone, Debug)]
pub struct BlockRef {
    /// Sequence number of its first message.
    pub first_sequence: u64,
    /// Number of messages.
    pub count: u32,
    /// Length of the frames in bytes.
    pub bytes: u32,
    checksum: u32,
    /// Where the frames start.
    offset: u64,
    file: Arc<SegmentFile>,
}

/// Identifies a block among those of all topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockKey {
    file_id: u64,
    offset: u64,
}

/// A block's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedBlock {
    /// Sequence number of the first message.
    pub first_sequence: u64,
    /// Encoded frames, back to back.
    pub frames: Vec<u8>,
    /// Offset of each frame, followed by the end of the last one.
    pub offsets: Vec<u32>,
}

/// Why a block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system could not read it.
    #[error("cannot read {path}: {error}")]
    Io {
        path: PathBuf,
        #[source]
        error: io::Error,
    },
    /// The bytes are not those that were written.
    #[error("damaged block at offset {offset} of {path}")]
    Damaged { path: PathBuf, offset: u64 },
}

impl BlockRef {
    /// Reads and verifies the block.
    pub fn read(&self) -> Result<LoadedBlock, ReadError> {
        let mut frames = vec![0; self.bytes as usize];
        let filled = self
            .file
            .handle()
            .and_then(|handle| handle.read_at(&mut frames, self.offset))
            .map_err(|error| ReadError::Io { path: self.file.path.clone(), error })?;
        let whole = filled == frames.len() && crc32c::crc32c(&frames) == self.checksum;
        whole
            .then(|| block::frame_offsets(&frames, self.count))
            .flatten()
            .map(|offsets| LoadedBlock { first_sequence: self.first_sequence, frames, offsets })
            .ok_or_else(|| self.damaged())
    }

    /// Reads the frames with the numbers `wanted`, which must be in ascending order, and verifies them by the block's
    /// index. Passes each to `take` with its number.
    pub fn read_frames(
        &self,
        index: &BlockIndex,
        wanted: &[u32],
        mut take: impl FnMut(u32, &[u8]),
    ) -> Result<(), ReadError> {
        let io = |error| ReadError::Io { path: self.file.path.clone(), error };
        let handle = self.file.handle().map_err(io)?;
        let mut buf = Vec::new();
        for span in index.spans(wanted) {
            buf.resize(span.bytes as usize, 0);
            let filled = handle.read_at(&mut buf, self.offset + u64::from(span.start)).map_err(io)?;
            if !index.take(&span, &buf[..filled], wanted, &mut take) {
                return Err(self.damaged());
            }
        }
        Ok(())
    }

    fn damaged(&self) -> ReadError {
        ReadError::Damaged { path: self.file.path.clone(), offset: self.offset }
    }

    /// Identifies the block in this process.
    pub fn key(&self) -> BlockKey {
        BlockKey { file_id: self.file.id, offset: self.offset }
    }

    /// One more than the sequence number of its last message.
    pub fn end_sequence(&self) -> u64 {
        self.first_sequence + u64::from(self.count)
    }

    /// The sequence numbers of its messages.
    pub fn sequences(&self) -> SequenceRange {
        SequenceRange::new(self.first_sequence, self.end_sequence())
    }

    /// Where its frames start in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether both refer to the same place in the same file.
    pub fn is(&self, other: &BlockRef) -> bool {
        self.offset == other.offset && Arc::ptr_eq(&self.file, &other.file)
    }

    /// The number of the file that it is in.
    pub fn file_number(&self) -> u64 {
        self.file.number
    }

    pub(super) fn file(&self) -> Arc<SegmentFile> {
        Arc::clone(&self.file)
    }
}

impl LoadedBlock {
    /// The frame of the message with this index in the block.
    pub fn frame(&self, index: usize) -> Option<&[u8]> {
        let (start, end) = (*self.offsets.get(index)?, *self.offsets.get(index + 1)?);
        self.frames.get(start as usize..end as usize)
    }

    /// The index for reading single frames of the block again.
    pub fn index(&self) -> BlockIndex {
        BlockIndex::new(&self.frames, &self.offsets)
    }
}

/// A segment file. It is open only while it is needed, since there may be one per topic.
pub(super) struct SegmentFile {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    number: u64,
    /// Unique in this process. File numbers are unique only within a topic.
    id: u64,
    /// For the header of a created file. 0 in an opened file, which is never appended to.
    stamp: u64,
    seal: Seal,
    /// Shows whether the name still leads to this file.
    identity: Identity,
    handle: Mutex<Option<Arc<dyn StorageFile>>>,
}

/// An opened file, and the damaged part of its header.
pub(super) struct OpenedFile {
    pub file: SegmentFile,
    pub damaged: Option<ByteRange>,
}

impl SegmentFile {
    /// Creates a file. Its header is written with its first block.
    pub(super) fn create(storage: &Arc<dyn Storage>, dir: &Path, number: u64) -> io::Result<Self> {
        let path = dir.join(file_name(number));
        let handle = match storage.create(&path, 0) {
            // Left by a failed append that could not be undone.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                storage.remove(&path)?;
                storage.create(&path, 0)?
            }
            made => made?,
        };
        let stamp = seal::new_stamp();
        let seal = Seal::new(stamp, number);
        let identity = handle.identity()?;
        let handle = Mutex::new(Some(handle));
        Ok(Self { storage: Arc::clone(storage), path, number, id: next_id(), stamp, seal, identity, handle })
    }

    /// Opens a file. If its header is lost, derives the seal from its blocks. `None` if that is not possible.
    pub(super) fn open(
        storage: &Arc<dyn Storage>,
        dir: &Path,
        number: u64,
    ) -> io::Result<Option<OpenedFile>> {
        let path = dir.join(file_name(number));
        let handle = storage.open(&path)?;
        let mut bytes = [0; FILE_HEADER_BYTES as usize];
        let filled = handle.read_at(&mut bytes, 0)?;
        let (first_bytes, second_bytes) = bytes.split_at(HEADER_COPY_BYTES);
        let copies = match filled == bytes.len() {
            true => [decode_copy(first_bytes)?, decode_copy(second_bytes)?],
            false => [None, None],
        };
        let copy_bytes = HEADER_COPY_BYTES as u64;
        let damaged = match copies {
            // Otherwise the file has the name of another one.
            [Some(header), Some(_)] if first_bytes == second_bytes && header.number == number => None,
            [Some(_), None] => Some(ByteRange { offset: copy_bytes, bytes: copy_bytes }),
            [None, Some(_)] => Some(ByteRange { offset: 0, bytes: copy_bytes }),
            _ => Some(ByteRange { offset: 0, bytes: FILE_HEADER_BYTES }),
        };
        let [first, second] = copies;
        let seal = match first.or(second) {
            Some(header) => Some(Seal::new(header.stamp, header.number)),
            None => find_seal(&*handle, [first_bytes, second_bytes].map(|copy| hint(copy, number)))?,
        };
        let identity = handle.identity()?;
        Ok(seal.map(|seal| {
            let handle = Mutex::new(Some(handle));
            let storage = Arc::clone(storage);
            let file = Self { storage, path, number, id: next_id(), stamp: 0, seal, identity, handle };
            OpenedFile { file, damaged }
        }))
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether its name still leads to it.
    pub(super) fn has_name(&self) -> bool {
        self.storage.identity(&self.path).is_ok_and(|found| found == self.identity)
    }

    pub(super) fn seal(&self) -> Seal {
        self.seal
    }

    pub(super) fn handle(&self) -> io::Result<Arc<dyn StorageFile>> {
        let mut handle = self.handle.lock();
        match &*handle {
            Some(open) => Ok(Arc::clone(open)),
            None => {
                let opened = self.storage.open(&self.path)?;
                Ok(Arc::clone(handle.insert(opened)))
            }
        }
    }

    pub(super) fn close(&self) {
        self.handle.lock().take();
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.handle()?.sync_data()
    }

    pub(super) fn truncate(&self, len: u64) -> io::Result<()> {
        self.handle()?.truncate(len)
    }

    /// Writes blocks from `end` on. If `end` is 0, writes the header first.
    pub(super) fn append(
        self: &Arc<Self>,
        end: u64,
        blocks: &[NewBlock<'_>],
        headers: &[BlockHeader],
    ) -> io::Result<Vec<BlockRef>> {
        let file_header = encode_header(self.number, self.stamp);
        let mut at = end.max(FILE_HEADER_BYTES);
        let mut encoded = Vec::with_capacity(headers.len());
        let mut refs = Vec::with_capacity(headers.len());
        for header in headers {
            encoded.push(header.encode(self.seal(), at));
            refs.push(self.block_ref(header, at));
            at += BLOCK_HEADER_BYTES as u64 + u64::from(header.length);
        }
        let mut bufs: Vec<&[u8]> = Vec::with_capacity(2 * headers.len() + 1);
        if end == 0 {
            bufs.push(&file_header);
        }
        for (header, block) in encoded.iter().zip(blocks) {
            bufs.push(header);
            bufs.push(block.frames);
        }
        self.handle()?.write_all_vectored_at(&bufs, end)?;
        Ok(refs)
    }

    /// The block whose header is at `at`.
    pub(super) fn block_ref(self: &Arc<Self>, header: &BlockHeader, at: u64) -> BlockRef {
        BlockRef {
            first_sequence: header.first_sequence,
            count: header.count,
            bytes: header.length,
            checksum: header.checksum,
            offset: at + BLOCK_HEADER_BYTES as u64,
            file: Arc::clone(self),
        }
    }
}

impl std::fmt::Debug for SegmentFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SegmentFile").field(&self.path).finish()
    }
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// The name of a segment file.
pub fn file_name(number: u64) -> String {
    file_kind::numbered(number, file_kind::SEGMENT)
}

/// `None` if this is not the name of a segment file.
pub(super) fn file_number(name: &str) -> Option<u64> {
    file_kind::number_of(name, file_kind::SEGMENT)
}

fn encode_header(number: u64, stamp: u64) -> [u8; FILE_HEADER_BYTES as usize] {
    let mut both = [0; FILE_HEADER_BYTES as usize];
    let (copy, second) = both.split_at_mut(HEADER_COPY_BYTES);
    copy[..8].copy_from_slice(&MAGIC);
    copy[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    copy[12..20].copy_from_slice(&number.to_le_bytes());
    copy[20..28].copy_from_slice(&stamp.to_le_bytes());
    let check = crc32c::crc32c(&copy[..28]);
    copy[28..].copy_from_slice(&check.to_le_bytes());
    second.copy_from_slice(copy);
    both
}

#[derive(Clone, Copy)]
struct FileHeader {
    number: u64,
    stamp: u64,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// The seal that a damaged copy of the header gives if its stamp is intact.
fn hint(copy: &[u8], number: u64) -> Seal {
    Seal::new(u64_at(copy, 20), number)
}

/// Decodes one copy of the header. `None` if it is damaged. Fails if it has a newer version.
fn decode_copy(copy: &[u8]) -> io::Result<Option<FileHeader>> {
    let u32_at = |at: usize| u32::from_le_bytes([copy[at], copy[at + 1], copy[at + 2], copy[at + 3]]);
    if copy[..8] != MAGIC || u32_at(28) != crc32c::crc32c(&copy[..28]) {
        return Ok(None);
    }
    let version = u32_at(8);
    if version > FORMAT_VERSION {
        let text = format!(
            "segment has format version {version}, newer than this program supports; \
             start the nsqd version that wrote it"
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    Ok(Some(FileHeader { number: u64_at(copy, 12), stamp: u64_at(copy, 20) }))
}

/// Finds the seal of a file that has lost its header: the seal of most bytes in whole blocks, since a
/// message may contain what looks like a block. A single block is not trusted, since its own header may be damaged,
/// unless the rest of the file's header gives the same seal.
fn find_seal(handle: &dyn StorageFile, hints: [Seal; 2]) -> io::Result<Option<Seal>> {
    const STEP: usize = 1 << 20;
    let len = handle.len()?;
    // For each seal, the number of blocks and their bytes.
    let mut found: BTreeMap<Seal, (u64, u64)> = BTreeMap::new();
    let mut buf = vec![0; STEP];
    let mut from = 0;
    while from < len {
        let filled = handle.read_at(&mut buf, from)?;
        if filled < BLOCK_HEADER_BYTES {
            break;
        }
        // The next piece begins with the last bytes of this one.
        let mut next = from + (filled + 1 - BLOCK_HEADER_BYTES) as u64;
        for at in memchr::memmem::find_iter(&buf[..filled], &block::MAGIC_BYTES) {
            let place = from + at as u64;
            if let Some((seal, end)) = whole_block(handle, &buf[at..filled], place, len)? {
                let (blocks, bytes) = found.entry(seal).or_default();
                (*blocks, *bytes) = (*blocks + 1, *bytes + end - place);
                next = end;
                break;
            }
        }
        from = next;
    }
    found.retain(|seal, (blocks, _)| *blocks > 1 || hints.contains(seal));
    Ok(found.into_iter().max_by_key(|&(_, (_, bytes))| bytes).map(|(seal, _)| seal))
}

/// The seal and the end of the block at `at`, if its frames match its header. `bytes` begin at `at`.
fn whole_block(handle: &dyn StorageFile, bytes: &[u8], at: u64, len: u64) -> io::Result<Option<(Seal, u64)>> {
    let Some((header, seal)) = bytes.first_chunk().and_then(|bytes| BlockHeader::guess(bytes, at)) else {
        return Ok(None);
    };
    let start = at + BLOCK_HEADER_BYTES as u64;
    let end = start + u64::from(header.length);
    if end > len {
        return Ok(None);
    }
    let mut frames = vec![0; header.length as usize];
    let filled = handle.read_at(&mut frames, start)?;
    let is_whole = filled == frames.len()
        && crc32c::crc32c(&frames) == header.checksum
        && block::frame_offsets(&frames, header.count).is_some();
    Ok(is_whole.then_some((seal, end)))
}
