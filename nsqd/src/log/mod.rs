//! A topic's messages in order: the newest in memory, older ones in segments.
//!
//! [`TopicLog`] is the handle that the topic and its channels share. It does not know channels: it asks its [`Holder`]s
//! which messages they need, and drops the others. Lock order: segments, a holder's lock, index. The index's lock is
//! never held during a disk access.
//!
//! - [`mark`]: pure; sequence numbers that are not plain messages; [`supply`]: how a channel gets messages
//! - [`ages`]: pure; how old messages are
//! - [`sizes`]: pure; how many bytes lie before a message
//! - [`publish_times`]: pure; when messages with a time to live of their own were published
//! - [`chunk`]: encoded messages in memory
//! - [`index`]: finds the chunk or block of a message; appends; checks the memory bound
//! - [`reader`]: copies messages to a consumer's output, and reads messages from disk
//! - [`read_cache`]: pure; what a channel has read; [`read_memory`]: what all channels have read, bounded
//! - [`holder`]: which messages are needed, and by whom
//! - [`ids`]: pure; which messages have the id of another node
//! - `spill`: moves messages out of memory
//! - [`repair`]: repairs blocks at start that a power failure left incomplete
//! - `clean`: copies survivors out of mostly finished segment files, and deletes these files
//! - [`gone`]: replaces segment files that someone deleted
//! - [`retention`]: pure; which finished messages are retained; [`retained`]: retains them

pub mod ages;
pub mod chunk;
mod clean;
pub mod gone;
pub mod holder;
pub mod ids;
pub mod mark;
pub mod publish_times;
pub mod read_cache;
pub mod read_memory;
pub mod reader;
pub mod repair;
pub mod retained;
pub mod retention;
pub mod sizes;
mod spill;
pub mod supply;
pub mod index;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nsq_protocol::headers::{self, Form};
use nsq_protocol::message_ttl;
use parking_lot::Mutex;

use self::ages::{Ages, TakenOver};
pub use self::clean::Cleaned;
use self::holder::Floors;
use self::holder::Holders;
pub use self::holder::{Floor, Holder, Ranges};
use self::ids::{ForeignIds, base_of};
use self::index::{Location, LogIndex, sequence_of};
pub use self::mark::Mark;
use self::publish_times::PublishTimes;
use self::read_memory::ReadMemory;
use self::reader::CannotRead;
use self::retained::RetentionState;
use self::sizes::Sizes;
pub use self::supply::{OwnTtl, Source, Supplied, Supply};
use crate::clock::{self, Nanos};
use crate::damage::Damage;
use crate::disk_work::DiskWork;
use crate::storage::segment::SegmentStore;
use crate::storage::{ChannelNumber, SequenceRange};

/// A topic's log; see the module.
pub struct TopicLog {
    index: Mutex<LogIndex>,
    segments: Mutex<SegmentStore>,
    holders: Holders,
    /// Next sequence number: a copy of the index's, readable without its lock.
    end: AtomicU64,
    /// See [`LogIndex::first_release`].
    first_release: AtomicU64,
    /// See [`LogIndex::first_block_release`].
    first_block_release: AtomicU64,
    has_marks: AtomicBool,
    /// The node number in the ids of new messages.
    id_base: u64,
    foreign_ids: Mutex<ForeignIds>,
    has_foreign_ids: AtomicBool,
    /// A message with headers was published or read. Never reset: it only decides whether frames are looked at.
    has_headers: AtomicBool,
    /// One past the last known message that may have a time to live of its own; 0 if none is known.
    own_ttl_end: AtomicU64,
    /// The log began with messages on disk. What they have becomes known when they are read.
    began_on_disk: bool,
    publish_times: Mutex<PublishTimes>,
    /// How old messages are, if any channel expires them.
    ages: Mutex<Ages>,
    expires: AtomicBool,
    /// How large messages are, if any bound needs it.
    sizes: Mutex<Sizes>,
    measures_sizes: AtomicBool,
    /// Set at start, if the topic has messages that were taken over from NSQ.
    taken_over: OnceLock<TakenOver>,
    /// Copy of the index's: finished messages from here on are retained.
    retained_from: AtomicU64,
    retention_state: Mutex<RetentionState>,
    /// The last attempt to write a segment failed, so memory cannot be freed.
    spill_failed: AtomicBool,
    /// Number of chunks until the next search for room in the memory set aside.
    chunks_until_thinning: AtomicU32,
    /// The topic is deleted: nothing is retained or written any more.
    deleted: AtomicBool,
    /// Work to delete segment files is queued.
    releasing: AtomicBool,
    /// Bytes in segment files, readable without waiting for the disk.
    segment_bytes: Arc<AtomicU64>,
    /// Name of the topic, for reports.
    name: String,
    damage: Arc<Damage>,
    disk_work: Arc<DiskWork>,
    memory: Arc<ReadMemory>,
}

/// Maximum number of blocks that are read to learn how old messages are.
const BLOCKS_LOOKED_UP: usize = 1024;
/// Number of messages in each block or chunk whose timestamps are used for that.
const TIMES_PER_PIECE: u64 = 16;

/// Shared by all logs.
#[derive(Clone, Default)]
pub struct LogContext {
    /// Reports damage.
    pub damage: Arc<Damage>,
    /// Runs work on files.
    pub disk_work: Arc<DiskWork>,
    /// Caches data read from segments.
    pub memory: Arc<ReadMemory>,
}

impl TopicLog {
    /// Creates a log from what recovery found, or an empty one.
    pub fn new(
        index: LogIndex,
        segments: SegmentStore,
        name: impl Into<String>,
        context: LogContext,
    ) -> Self {
        let log = TopicLog {
            end: AtomicU64::new(0),
            first_release: AtomicU64::new(0),
            first_block_release: AtomicU64::new(u64::MAX),
            id_base: index.id_base(),
            foreign_ids: Mutex::default(),
            has_foreign_ids: AtomicBool::new(false),
            has_headers: AtomicBool::new(false),
            own_ttl_end: AtomicU64::new(0),
            began_on_disk: index.oldest_block().is_some(),
            publish_times: Mutex::new(PublishTimes::new(clock::wall_ns(), clock::monotonic())),
            has_marks: AtomicBool::new(!index.marks().is_empty()),
            ages: Mutex::default(),
            expires: AtomicBool::new(false),
            sizes: Mutex::default(),
            measures_sizes: AtomicBool::new(false),
            taken_over: OnceLock::new(),
            retained_from: AtomicU64::new(u64::MAX),
            retention_state: Mutex::default(),
            index: Mutex::new(index),
            segment_bytes: segments.bytes_gauge(),
            segments: Mutex::new(segments),
            holders: Holders::default(),
            spill_failed: AtomicBool::new(false),
            chunks_until_thinning: AtomicU32::new(0),
            deleted: AtomicBool::new(false),
            releasing: AtomicBool::new(false),
            name: name.into(),
            damage: context.damage,
            disk_work: context.disk_work,
            memory: context.memory,
        };
        log.store_watermarks(&log.index.lock());
        log
    }

    /// Makes this the log of an ephemeral topic: it is never on disk.
    pub fn in_memory_only(self) -> Self {
        self.holders.set_in_memory_only();
        self
    }

    /// Appends a batch, all in one form. Returns its sequence numbers and the result of `journal`. `journal` gets the
    /// first sequence number and the encoded frames; it runs under the lock that fixes the order of appends. If it
    /// fails, nothing is appended and its error is returned.
    pub fn append<'a, T, E>(
        &self,
        bodies: impl Iterator<Item = &'a [u8]>,
        batch: (Form, usize, usize),
        timestamp_ns: i64,
        deferred_until: Option<crate::clock::Nanos>,
        journal: impl FnOnce(u64, &[u8]) -> Result<T, E>,
    ) -> Result<(SequenceRange, T), E> {
        self.append_marked(bodies, batch, timestamp_ns, journal, |SequenceRange { from, to }| {
            deferred_until.map(|due| Mark::Deferred { from, to, due })
        })
    }

    /// Like [`TopicLog::append`]. With `only`, no other channel receives the messages.
    pub fn append_targeted<'a, T, E>(
        &self,
        bodies: impl Iterator<Item = &'a [u8]>,
        batch: (Form, usize, usize),
        timestamp_ns: i64,
        only: Option<ChannelNumber>,
        journal: impl FnOnce(u64, &[u8]) -> Result<T, E>,
    ) -> Result<(SequenceRange, T), E> {
        self.append_marked(bodies, batch, timestamp_ns, journal, |SequenceRange { from, to }| {
            only.map(|channel| Mark::Targeted { from, to, channel })
        })
    }

    /// Like [`TopicLog::append`], with these marks.
    pub fn append_marked<'a, T, E, M: IntoIterator<Item = Mark>>(
        &self,
        bodies: impl Iterator<Item = &'a [u8]>,
        (form, count, body_bytes): (Form, usize, usize),
        timestamp_ns: i64,
        journal: impl FnOnce(u64, &[u8]) -> Result<T, E>,
        marks: impl FnOnce(SequenceRange) -> M,
    ) -> Result<(SequenceRange, T), E> {
        let mut index = self.index.lock();
        if form == Form::WithHeaders {
            self.has_headers.store(true, Ordering::Relaxed);
        }
        let (first, frames) = index.append(bodies, form, count, body_bytes, timestamp_ns);
        if form == Form::WithHeaders {
            self.note_own_ttls(first, frames, timestamp_ns);
        }
        let sizes = self.measures_sizes.load(Ordering::Relaxed).then(|| chunk::body_sizes(frames));
        let result = journal(first, frames);
        let end = index.next_sequence();
        if result.is_err() {
            index.undo(first);
        } else {
            for mark in marks(SequenceRange::new(first, end)) {
                self.mark_locked(&mut index, mark);
            }
        }
        self.store_watermarks(&index);
        if self.expires.load(Ordering::Relaxed) && result.is_ok() {
            self.ages.lock().note(end, ages::moment(clock::monotonic()));
        }
        if let Some(bodies) = sizes.filter(|_| result.is_ok()) {
            let mut sizes = self.sizes.lock();
            bodies.into_iter().zip(first + 1..).for_each(|(bytes, end)| sizes.note(end, bytes));
        }
        result.map(|value| (SequenceRange::new(first, end), value))
    }

    /// Appends a batch found in the journal, unless it is already in a segment. Returns false if the batch is invalid.
    pub fn append_recovered(&self, first_sequence: u64, count: u32, frames: &[u8]) -> bool {
        let mut index = self.index.lock();
        let sound = index.append_recovered(first_sequence, count, frames);
        self.store_watermarks(&index);
        drop(index);
        self.learn(frames);
        sound
    }

    /// Remembers which of these messages, which an earlier run may have written, have ids of another node, and whether
    /// any has headers. Call before they may be handed out.
    pub fn learn(&self, frames: &[u8]) {
        for frame in chunk::heads(frames) {
            if let Some(id) = chunk::id(frame).filter(|&id| base_of(id) != self.id_base) {
                self.foreign_ids.lock().learn(id);
                self.has_foreign_ids.store(true, Ordering::Release);
            }
            if headers::has_headers(frame) {
                self.has_headers.store(true, Ordering::Relaxed);
                if may_have_ttl(frame)
                    && let Some(id) = chunk::id(frame)
                {
                    self.own_ttl_end.fetch_max(sequence_of(id) + 1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether a message that was handed out may have headers. Call after taking messages: it then holds for these.
    #[inline]
    pub fn has_headers(&self) -> bool {
        // Relaxed is enough: the flag is set before a message is put where a take finds it under a lock.
        self.has_headers.load(Ordering::Relaxed)
    }

    /// Remembers when these messages, which are published now, were published, if any has a time to live of its own.
    fn note_own_ttls(&self, first: u64, frames: &[u8], timestamp_ns: i64) {
        let Some(last) = (first..).zip(chunk::split(frames)).filter(|(_, frame)| may_have_ttl(frame)).last()
        else {
            return;
        };
        self.publish_times.lock().note(first, timestamp_ns, clock::monotonic());
        self.own_ttl_end.fetch_max(last.0 + 1, Ordering::Relaxed);
    }

    /// Whether any message from `sequence` on may have a time to live of its own. Call after taking messages: it then holds
    /// for these.
    #[inline]
    pub fn may_have_own_ttl(&self, sequence: u64) -> bool {
        // Relaxed is enough, as for `has_headers`.
        sequence < self.own_ttl_end.load(Ordering::Relaxed)
    }

    /// Whether any message may have a time to live of its own, even one that was not read since the start.
    pub fn may_have_own_ttls(&self) -> bool {
        self.began_on_disk || self.may_have_own_ttl(0)
    }

    /// The time to live in the headers of a message, and when it was published.
    fn own_ttl(&self, sequence: u64, frame: &[u8], headers: headers::Headers<'_>) -> Option<OwnTtl> {
        let ttl = clock::nanos(message_ttl::of_message(headers)?);
        let published_at = self.publish_times.lock().published_at(sequence, chunk::timestamp(frame)?);
        Some(OwnTtl { published_at, ttl })
    }

    /// The sequence number of the message that has or had this id, if it was ever handed out. `None` if the id does not
    /// belong to this topic.
    pub fn sequence_of_id(&self, id: u64) -> Option<u64> {
        let (sequence, base) = (sequence_of(id), base_of(id));
        let known = if self.has_foreign_ids.load(Ordering::Acquire) {
            self.foreign_ids.lock().base_of(sequence)
        } else {
            None
        };
        (base == known.unwrap_or(self.id_base)).then_some(sequence)
    }

    /// The id of a message.
    pub fn id_of(&self, sequence: u64) -> u64 {
        let foreign = match self.has_foreign_ids.load(Ordering::Acquire) {
            true => self.foreign_ids.lock().base_of(sequence),
            false => None,
        };
        foreign.unwrap_or(self.id_base) | sequence
    }

    /// Like [`TopicLog::sequence_of_id`], but also for messages that were never handed out. May read from disk.
    pub fn find_id(&self, id: u64) -> Option<u64> {
        let sequence = sequence_of(id);
        let block = match self.index.lock().locate(sequence) {
            Location::Memory(chunk) => return chunk.id_of(sequence).filter(|&of| of == id).map(sequence_of),
            Location::Disk(block) => block,
            Location::Damaged(_) | Location::Missing(_) => return self.sequence_of_id(id),
        };
        let loaded = block.read().ok()?;
        let frame = loaded.frame((sequence - block.first_sequence) as usize)?;
        chunk::id(frame).filter(|&of| of == id).map(sequence_of)
    }

    /// Continues the sequence numbers at `next_sequence`, if that is later.
    pub fn skip_to(&self, next_sequence: u64) {
        let mut index = self.index.lock();
        index.skip_to(next_sequence);
        self.store_watermarks(&index);
    }

    /// Marks the messages `from..to` as never to be released: they were refused or emptied.
    pub fn skip(&self, from: u64, to: u64) {
        if from < to {
            self.mark_locked(&mut self.index.lock(), Mark::Skipped { from, to });
        }
    }

    fn mark_locked(&self, index: &mut LogIndex, mark: Mark) {
        match mark {
            Mark::Skipped { from, to } => index.retained_marks.add_void(from, to),
            Mark::Deferred { from, to, due } => index.retained_marks.add_deferred(from, to, due),
            Mark::Targeted { from, to, channel } => index.retained_marks.add_targeted(from, to, channel),
            Mark::Adopted { from, to, channel, due, .. } => {
                index.retained_marks.add_targeted(from, to, channel);
                if let Some(due) = due {
                    index.retained_marks.add_deferred(from, to, due);
                }
            }
        }
        index.mark(mark);
        self.has_marks.store(true, Ordering::Release);
    }

    /// Adds a mark that the next release must pass to the channels.
    pub fn mark(&self, mark: Mark) {
        self.mark_locked(&mut self.index.lock(), mark);
    }

    /// Takes the marks that a release up to `to` must pass to the channels.
    pub fn take_marks(&self, to: u64) -> Vec<Mark> {
        if !self.has_marks.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut index = self.index.lock();
        let marks = index.take_marks(to);
        self.has_marks.store(!index.marks().is_empty(), Ordering::Release);
        marks
    }

    /// A copy of the marks that no release has taken yet.
    pub fn marks(&self) -> Vec<Mark> {
        self.index.lock().marks().to_vec()
    }

    /// Runs `read` on the marks that no release has taken yet and on the log's end. A publish changes both under one lock,
    /// so `read` never sees a deferred message without its mark.
    pub fn with_marks_and_end<T>(&self, read: impl FnOnce(&[Mark], u64) -> T) -> T {
        let index = self.index.lock();
        read(index.marks(), index.next_sequence())
    }

    /// Holds the messages from `floor` on, until the number is raised or the handle is dropped.
    pub fn hold(&self, floor: u64) -> Floor {
        let floor = Arc::new(AtomicU64::new(floor));
        let holder: Arc<dyn Holder> = floor.clone();
        self.add_holder(&holder);
        floor
    }

    pub fn add_holder(&self, holder: &Arc<dyn Holder>) {
        self.holders.add(holder);
    }

    /// Whether a floor raised to `floor` may free something. Cheap enough for a call after each batch of FINs.
    pub fn worth_trimming(&self, floor: u64) -> bool {
        floor >= self.first_release.load(Ordering::Relaxed) || self.frees_blocks(floor)
    }

    fn frees_blocks(&self, floor: u64) -> bool {
        let first = self.first_block_release.load(Ordering::Relaxed);
        first != u64::MAX && floor >= first
    }

    /// Whether a holder needs everything that could be freed. Cheap for any number of holders.
    fn is_held_back(&self) -> bool {
        let first_release = self.first_release.load(Ordering::Relaxed);
        if self.holders.are_in_memory_only() {
            return self.holders.need_before(first_release);
        }
        // Ephemeral holders do not hold back messages on disk.
        let first = first_release.min(self.first_block_release.load(Ordering::Relaxed));
        !self.holders.has_ephemeral() && self.holders.need_before(first)
    }

    /// Frees messages that no holder needs: memory at once, and a segment file soon after all its messages are free.
    pub fn trim(self: &Arc<Self>) {
        if self.is_held_back() {
            return;
        }
        let Floors { all: floor, durable: disk_floor } = self.holders.floors();
        if !self.frees_blocks(disk_floor) && floor < self.first_release.load(Ordering::Relaxed) {
            return;
        }
        let mut index = self.index.lock();
        let oldest_file = index.oldest_file();
        index.trim(floor, disk_floor);
        let file_freed = index.oldest_file() != oldest_file;
        self.store_watermarks(&index);
        drop(index);
        if self.expires.load(Ordering::Relaxed) {
            self.ages.lock().forget_before(floor.min(self.retained_from()));
        }
        if self.measures_sizes.load(Ordering::Relaxed) {
            self.sizes.lock().forget_before(floor);
        }
        if self.own_ttl_end.load(Ordering::Relaxed) > 0 {
            self.publish_times.lock().forget_before(floor.min(self.retained_from()));
        }
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

    /// Sets the shortest time to live of the topic's channels; 0 if none expires messages.
    pub fn set_shortest_ttl(&self, ttl: Nanos) {
        let _index = self.index.lock();
        self.ages.lock().set_shortest(ttl);
        self.expires.store(ttl > 0, Ordering::Relaxed);
    }

    /// Sets the smallest number of bytes for which it matters how large messages are; 0 for none.
    pub fn set_smallest_size(&self, bytes: u64) {
        let index = self.index.lock();
        let mut sizes = self.sizes.lock();
        if sizes.set_smallest(bytes) {
            index.note_sizes(&mut sizes);
        }
        self.measures_sizes.store(bytes > 0, Ordering::Relaxed);
    }

    /// Runs `read` on what is known about the sizes of messages. Takes no other lock meanwhile.
    pub fn with_sizes<T>(&self, read: impl FnOnce(&Sizes) -> T) -> T {
        read(&self.sizes.lock())
    }

    /// The end of the messages that are at least `ttl` old at `now`.
    pub fn expired_before(&self, now: Nanos, ttl: Nanos) -> u64 {
        self.ages.lock().expired_before(ages::moment(now), ttl)
    }

    /// Looks up how old the messages are that were published before anything expired, by their timestamps. Reads from
    /// disk, once after a start or a change of settings. `now` and `wall_ns` are the same moment.
    pub fn learn_ages(&self, now: Nanos, wall_ns: i64) {
        if !self.ages.lock().wants_older() {
            return;
        }
        let (blocks, in_memory) = {
            let index = self.index.lock();
            (index.blocks(), index.timestamps_in_memory(TIMES_PER_PIECE))
        };
        let step = blocks.len().div_ceil(BLOCKS_LOOKED_UP).max(1);
        let on_disk = blocks.iter().step_by(step);
        let on_disk = on_disk.flat_map(|block| retained::timestamps(block, TIMES_PER_PIECE));
        let mut found: Vec<(u64, i64)> = on_disk.chain(in_memory).collect();
        found.sort_unstable();
        let taken_over = self.taken_over.get();
        let mut latest = i64::MIN;
        let older = found.into_iter().map(|(sequence, timestamp)| {
            let from = taken_over.map_or(timestamp, |taken_over| taken_over.counts_from(sequence, timestamp));
            latest = latest.max(from.min(wall_ns));
            (sequence + 1, ages::moment(now).saturating_sub(wall_ns.saturating_sub(latest)))
        });
        self.ages.lock().add_older(older.collect::<Vec<_>>().into_iter());
    }

    /// The end of the messages that were published before `time_ns`, a wall time: those of which
    /// [`TopicLog::expired_before`] says so once it knows their ages, or a few more. Reads from disk.
    pub fn end_of_older(&self, time_ns: i64) -> Result<u64, CannotRead> {
        match self.taken_over.get() {
            // Those that were taken over are younger, and so are all others.
            Some(taken_over) if taken_over.at_ns >= time_ns => Ok(0),
            _ => self.find_time_exactly(time_ns),
        }
    }

    /// Sets which messages were taken over from NSQ. Call before anything expires, at most once.
    pub fn set_taken_over(&self, taken_over: TakenOver) {
        // A log is restored once.
        let _ = self.taken_over.set(taken_over);
    }

    /// The messages that were taken over from NSQ; `None` if there are none any more.
    pub fn taken_over(&self) -> Option<TakenOver> {
        let taken_over = *self.taken_over.get()?;
        (self.index.lock().first_present() < taken_over.before).then_some(taken_over)
    }

    /// Deletes the segment files that no holder needs. Blocks on the disk.
    fn release_finished_files(&self) {
        let mut segments = self.segments.lock();
        self.releasing.store(false, Ordering::Release);
        let disk_floor = self.holders.floors().durable;
        // If a file cannot be deleted now, the next call tries again.
        let _ = segments.release_below(disk_floor.min(self.retained_from()));
    }

    /// Like [`TopicLog::trim`], but unconditional.
    fn trim_all(&self, segments: &mut SegmentStore) -> io::Result<u64> {
        let Floors { all: floor, durable: disk_floor } = self.holders.floors();
        self.trim_index(floor, disk_floor);
        segments.release_below(disk_floor.min(self.retained_from()))
    }

    /// Whether any message up to and including `sequence` is needed by a holder whose messages may be on disk.
    pub fn is_needed_up_to(&self, sequence: u64) -> bool {
        self.holders.need_any(0, sequence.saturating_add(1))
    }

    fn trim_index(&self, floor: u64, disk_floor: u64) {
        let mut index = self.index.lock();
        index.trim(floor, disk_floor);
        self.store_watermarks(&index);
    }

    fn store_watermarks(&self, index: &LogIndex) {
        self.end.store(index.next_sequence(), Ordering::Release);
        self.first_release.store(index.first_release(), Ordering::Relaxed);
        self.first_block_release.store(index.first_block_release(), Ordering::Relaxed);
    }

    /// When a message was published at the latest, in nanoseconds since 1970. Does not read from disk: for a message that is
    /// only there, this is when the oldest later one in memory was published. `None` if there is none.
    pub fn published_at_latest(&self, sequence: u64) -> Option<i64> {
        let index = self.index.lock();
        let in_memory = |sequence| match index.locate(sequence) {
            Location::Memory(chunk) => chunk.timestamp_of(sequence),
            _ => None,
        };
        in_memory(sequence).or_else(|| in_memory(index.memory_start().max(sequence)))
    }

    /// The sequence number that the next message gets.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// The oldest message of those in memory without a gap. Older ones are on disk. 0 if the topic is never on disk.
    pub fn memory_start(&self) -> u64 {
        if self.holders.are_in_memory_only() { 0 } else { self.index.lock().memory_start() }
    }

    /// Approximate bytes in memory of messages from `sequence` on.
    pub fn memory_bytes_since(&self, sequence: u64) -> usize {
        self.index.lock().bytes_since(sequence)
    }

    /// The oldest message in a segment, if there is one.
    pub fn oldest_on_disk(&self) -> Option<u64> {
        self.index.lock().oldest_block()
    }

    /// Frees all memory because the topic is deleted. Nothing is retained or written any more. The files are still
    /// there.
    pub fn discard(&self) {
        self.deleted.store(true, Ordering::Release);
        let mut index = self.index.lock();
        index.clear();
        self.store_watermarks(&index);
    }

    /// Whether the topic is never on disk.
    pub fn is_in_memory_only(&self) -> bool {
        self.holders.are_in_memory_only()
    }

    /// Whether the topic is deleted.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Deletes all files. The log must not be used afterwards; queued work on files does nothing.
    pub fn delete_files(&self) -> io::Result<()> {
        let mut segments = self.segments.lock();
        self.deleted.store(true, Ordering::Release);
        segments.remove_all()
    }

    /// Bytes in segment files.
    pub fn segment_bytes(&self) -> u64 {
        self.segment_bytes.load(Ordering::Relaxed)
    }

    /// Frees memory that an idle topic should not hold.
    pub fn shrink(&self) {
        self.index.lock().shrink();
    }
}

/// Whether a stored frame, which other bytes may follow, may have a time to live of its own.
fn may_have_ttl(frame: &[u8]) -> bool {
    let headers = headers::split_stored(frame).and_then(|(headers, _)| headers);
    headers.is_some_and(message_ttl::may_have_ttl)
}
