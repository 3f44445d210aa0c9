//! A topic's messages in order: memory first, segments behind.
//!
//! [`TopicLog`] is the handle that the topic and its channels share. It does not know what a channel is: it asks its
//! [`Holder`]s which numbers they need, and forgets the rest. Locks, in this order: segments, (a holder's), tail. The
//! tail's is never held across a disk access.
//!
//! - [`chunk`]: encoded messages in memory
//! - [`tail`]: which chunk or block has which message; appending; the memory bound
//! - [`reader`]: copies messages out, to a consumer's output, and reads what is on disk
//! - [`read_cache`]: pure; what a channel has read; [`read_memory`]: what all have read, bounded
//! - [`holder`]: who needs what
//! - [`ids`]: pure; which messages have the id of another node
//! - `spill`: what leaves memory, and where it goes
//! - [`repair`]: what a start does about blocks that a power failure has left in part
//! - `clean`: the survivors of segment files that are mostly finished are copied forward, so that the files can go
//! - [`gone`]: files that others have removed: what was in them is written again
//! - [`retention`]: pure; what is kept though finished; [`retain`]: keeping it

pub mod chunk;
mod clean;
pub mod gone;
pub mod holder;
pub mod ids;
pub mod read_cache;
pub mod read_memory;
pub mod reader;
pub mod repair;
pub mod retain;
pub mod retention;
mod spill;
pub mod tail;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

pub use self::clean::Cleaned;
use self::holder::Holders;
pub use self::holder::{Floor, Holder, Ranges};
use self::ids::{ForeignIds, base_of};
use self::read_memory::ReadMemory;
use self::retain::Keeper;
use self::tail::{Location, Tail, sequence_of};
use crate::channel::Mark;
use crate::damage::Damage;
use crate::disk_work::DiskWork;
use crate::storage::segment::SegmentStore;

/// See the module.
pub struct TopicLog {
    tail: Mutex<Tail>,
    segments: Mutex<SegmentStore>,
    holders: Holders,
    /// Next sequence number; a copy of the tail's, to be looked at without its lock.
    end: AtomicU64,
    /// See [`Tail::first_release`].
    first_release: AtomicU64,
    /// See [`Tail::first_block_release`].
    first_block_release: AtomicU64,
    has_marks: AtomicBool,
    /// What the ids of new messages begin with.
    id_base: u64,
    foreign_ids: Mutex<ForeignIds>,
    has_foreign_ids: AtomicBool,
    /// A copy of the tail's: messages from here on are kept though finished.
    retained_from: AtomicU64,
    keeper: Mutex<Keeper>,
    /// The last attempt to write a segment failed, so memory cannot be freed.
    spill_failed: AtomicBool,
    /// So many chunks pass before it is looked again for room among what is set aside.
    aside_in_vain: AtomicU32,
    /// The topic is gone: nothing is kept or written any more.
    deleted: AtomicBool,
    /// Segment files will be released soon.
    releasing: AtomicBool,
    /// Bytes in segment files, to be looked at without waiting for the disk.
    segment_bytes: Arc<AtomicU64>,
    /// Whose messages these are, for reports.
    name: String,
    damage: Arc<Damage>,
    disk_work: Arc<DiskWork>,
    memory: Arc<ReadMemory>,
}

/// What all logs share.
#[derive(Clone, Default)]
pub struct LogContext {
    /// What was found damaged.
    pub damage: Arc<Damage>,
    /// Who works on files.
    pub disk_work: Arc<DiskWork>,
    /// What was read from segments.
    pub memory: Arc<ReadMemory>,
}

impl TopicLog {
    /// A log over what recovery found (or over nothing).
    pub fn new(tail: Tail, segments: SegmentStore, name: impl Into<String>, context: LogContext) -> Self {
        let log = TopicLog {
            end: AtomicU64::new(0),
            first_release: AtomicU64::new(0),
            first_block_release: AtomicU64::new(u64::MAX),
            id_base: tail.id_base(),
            foreign_ids: Mutex::default(),
            has_foreign_ids: AtomicBool::new(false),
            has_marks: AtomicBool::new(!tail.marks().is_empty()),
            retained_from: AtomicU64::new(u64::MAX),
            keeper: Mutex::default(),
            tail: Mutex::new(tail),
            segment_bytes: segments.bytes_gauge(),
            segments: Mutex::new(segments),
            holders: Holders::default(),
            spill_failed: AtomicBool::new(false),
            aside_in_vain: AtomicU32::new(0),
            deleted: AtomicBool::new(false),
            releasing: AtomicBool::new(false),
            name: name.into(),
            damage: context.damage,
            disk_work: context.disk_work,
            memory: context.memory,
        };
        log.publish_numbers(&log.tail.lock());
        log
    }

    /// Of an ephemeral topic: nothing is ever on disk.
    pub fn in_memory_only(self) -> Self {
        self.holders.set_in_memory_only();
        self
    }

    /// Appends a batch. `journal` is called with the first sequence number and the encoded frames while the order of
    /// appends is still fixed; if it fails, nothing was appended and its error is returned.
    pub fn append<'a, T, E>(
        &self,
        bodies: impl Iterator<Item = &'a [u8]>,
        (count, body_bytes): (usize, usize),
        timestamp_ns: i64,
        deferred_until: Option<crate::clock::Nanos>,
        journal: impl FnOnce(u64, &[u8]) -> Result<T, E>,
    ) -> Result<(u64, u64, T), E> {
        let mut tail = self.tail.lock();
        let (first, frames) = tail.append(bodies, count, body_bytes, timestamp_ns);
        let result = journal(first, frames);
        let end = tail.next_sequence();
        if result.is_err() {
            tail.undo(first);
        } else if let Some(due) = deferred_until {
            self.mark_locked(&mut tail, Mark::Deferred { from: first, to: end, due });
        }
        self.publish_numbers(&tail);
        result.map(|value| (first, end, value))
    }

    /// Appends a batch found in the journal, unless it is in a segment already. False if it makes no sense.
    pub fn append_recovered(&self, first_sequence: u64, count: u32, frames: &[u8]) -> bool {
        let mut tail = self.tail.lock();
        let sound = tail.append_recovered(first_sequence, count, frames);
        self.publish_numbers(&tail);
        drop(tail);
        self.learn_ids(frames);
        sound
    }

    /// These messages may be handed out: some may have been published when this node had another number.
    pub fn learn_ids(&self, frames: &[u8]) {
        for id in chunk::ids(frames).filter(|&id| base_of(id) != self.id_base) {
            self.foreign_ids.lock().learn(id);
            self.has_foreign_ids.store(true, Ordering::Release);
        }
    }

    /// The sequence number of the message that has, or had, this id, if it was ever handed out; none if the id is not
    /// of this topic.
    pub fn sequence_of_id(&self, id: u64) -> Option<u64> {
        let (sequence, base) = (sequence_of(id), base_of(id));
        let known = if self.has_foreign_ids.load(Ordering::Acquire) {
            self.foreign_ids.lock().base_of(sequence)
        } else {
            None
        };
        (base == known.unwrap_or(self.id_base)).then_some(sequence)
    }

    /// As [`TopicLog::sequence_of_id`], whether or not the message was handed out. May read it from disk.
    pub fn find_id(&self, id: u64) -> Option<u64> {
        let sequence = sequence_of(id);
        let block = match self.tail.lock().locate(sequence) {
            Location::Memory(chunk) => return chunk.id_of(sequence).filter(|&of| of == id).map(sequence_of),
            Location::Disk(block) => block,
            Location::Damaged(_) | Location::Missing(_) => return self.sequence_of_id(id),
        };
        let loaded = block.read().ok()?;
        let frame = loaded.frame((sequence - block.first_sequence) as usize)?;
        chunk::id(frame).filter(|&of| of == id).map(sequence_of)
    }

    /// Goes on counting at `next_sequence`, if that is later.
    pub fn skip_to(&self, next_sequence: u64) {
        let mut tail = self.tail.lock();
        tail.skip_to(next_sequence);
        self.publish_numbers(&tail);
    }

    /// The messages `from..to` will never be released: refused, or emptied.
    pub fn skip(&self, from: u64, to: u64) {
        if from < to {
            self.mark_locked(&mut self.tail.lock(), Mark::Skipped { from, to });
        }
    }

    fn mark_locked(&self, tail: &mut Tail, mark: Mark) {
        match mark {
            Mark::Skipped { from, to } => tail.history.add_void(from, to),
            Mark::Deferred { from, to, due } => tail.history.add_deferred(from, to, due),
        }
        tail.mark(mark);
        self.has_marks.store(true, Ordering::Release);
    }

    /// Something that the next release must tell the channels.
    pub fn mark(&self, mark: Mark) {
        self.mark_locked(&mut self.tail.lock(), mark);
    }

    /// What a release up to `to` must tell the channels.
    pub fn take_marks(&self, to: u64) -> Vec<Mark> {
        if !self.has_marks.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut tail = self.tail.lock();
        let marks = tail.take_marks(to);
        self.has_marks.store(!tail.marks().is_empty(), Ordering::Release);
        marks
    }

    /// A copy of the marks that no release has taken yet.
    pub fn marks(&self) -> Vec<Mark> {
        self.tail.lock().marks().to_vec()
    }

    /// Somebody needs messages from `floor` on, until the number is raised or the handle dropped.
    pub fn hold(&self, floor: u64) -> Floor {
        let floor = Arc::new(AtomicU64::new(floor));
        let holder: Arc<dyn Holder> = floor.clone();
        self.add_holder(&holder);
        floor
    }

    /// Somebody needs messages, and will say which.
    pub fn add_holder(&self, holder: &Arc<dyn Holder>) {
        self.holders.add(holder);
    }

    /// Whether a floor raised to `floor` may let something be freed; cheap enough to ask after each batch of FINs.
    pub fn worth_trimming(&self, floor: u64) -> bool {
        floor >= self.first_release.load(Ordering::Relaxed) || self.frees_blocks(floor)
    }

    fn frees_blocks(&self, floor: u64) -> bool {
        let first = self.first_block_release.load(Ordering::Relaxed);
        first != u64::MAX && floor >= first
    }

    /// Whether somebody needs everything that could be freed. Cheap, however many holders there are.
    fn is_held_back(&self) -> bool {
        let first_release = self.first_release.load(Ordering::Relaxed);
        if self.holders.are_in_memory_only() {
            return self.holders.need_before(first_release);
        }
        // An ephemeral holder does not hold back what is on disk.
        let first = first_release.min(self.first_block_release.load(Ordering::Relaxed));
        !self.holders.has_ephemeral() && self.holders.need_before(first)
    }

    /// Frees what nobody needs: memory at once, segment files soon, when all of one is free.
    pub fn trim(self: &Arc<Self>) {
        if self.is_held_back() {
            return;
        }
        let (floor, disk_floor) = self.holders.floors();
        if !self.frees_blocks(disk_floor) && floor < self.first_release.load(Ordering::Relaxed) {
            return;
        }
        let mut tail = self.tail.lock();
        let oldest_file = tail.oldest_file();
        tail.trim(floor, disk_floor);
        let file_freed = tail.oldest_file() != oldest_file;
        self.publish_numbers(&tail);
        drop(tail);
        if self.has_foreign_ids.load(Ordering::Acquire) {
            let mut foreign = self.foreign_ids.lock();
            foreign.forget_before(floor.min(self.retained_from()));
            self.has_foreign_ids.store(!foreign.is_empty(), Ordering::Release);
        }
        if file_freed && !self.releasing.swap(true, Ordering::AcqRel) {
            let log = self.clone();
            self.disk_work.write(move || log.release_finished_files());
        }
    }

    /// Removes the segment files that nobody needs; waits for the disk.
    fn release_finished_files(&self) {
        let mut segments = self.segments.lock();
        self.releasing.store(false, Ordering::Release);
        let (_, disk_floor) = self.holders.floors();
        // A file that cannot be removed now is tried again with the next one.
        let _ = segments.release_below(disk_floor.min(self.retained_from()));
    }

    /// As [`TopicLog::trim`], whether or not it seems worth it.
    fn trim_all(&self, segments: &mut SegmentStore) -> io::Result<u64> {
        let (floor, disk_floor) = self.holders.floors();
        self.trim_tail(floor, disk_floor);
        segments.release_below(disk_floor.min(self.retained_from()))
    }

    /// Whether anybody needs any message up to `sequence`, so that it may not be lost.
    pub fn is_needed_up_to(&self, sequence: u64) -> bool {
        self.holders.need_any(0, sequence.saturating_add(1))
    }

    fn trim_tail(&self, floor: u64, disk_floor: u64) {
        let mut tail = self.tail.lock();
        tail.trim(floor, disk_floor);
        self.publish_numbers(&tail);
    }

    fn publish_numbers(&self, tail: &Tail) {
        self.end.store(tail.next_sequence(), Ordering::Release);
        self.first_release.store(tail.first_release(), Ordering::Relaxed);
        self.first_block_release.store(tail.first_block_release(), Ordering::Relaxed);
    }

    /// The sequence number that the next message gets.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The oldest message of what is in memory without a gap; older ones are on disk, unless nothing of this topic is.
    pub fn memory_start(&self) -> u64 {
        if self.holders.are_in_memory_only() { 0 } else { self.tail.lock().memory_start() }
    }

    /// Bytes in memory of messages from `sequence` on, about.
    pub fn memory_bytes_since(&self, sequence: u64) -> usize {
        self.tail.lock().bytes_since(sequence)
    }

    /// The oldest message in a segment, if there is one.
    pub fn oldest_on_disk(&self) -> Option<u64> {
        self.tail.lock().oldest_block()
    }

    /// The topic is gone: gives all memory back, and keeps or writes nothing any more. The files are still there.
    pub fn discard(&self) {
        self.deleted.store(true, Ordering::Release);
        let mut tail = self.tail.lock();
        tail.clear();
        self.publish_numbers(&tail);
    }

    /// Whether nothing of it is ever on disk.
    pub fn is_in_memory_only(&self) -> bool {
        self.holders.are_in_memory_only()
    }

    /// Whether it was discarded.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Deletes all files. The log must not be used any more; work on files that is queued does nothing.
    pub fn delete_files(&self) -> io::Result<()> {
        let mut segments = self.segments.lock();
        self.deleted.store(true, Ordering::Release);
        segments.remove_all()
    }

    /// Bytes in segment files.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// Gives back memory that an idle topic should not hold.
    pub fn shrink(&self) {
        self.tail.lock().shrink();
    }
}
