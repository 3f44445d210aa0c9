//! One nsqd that a producer publishes to: what waits to be sent, what waits for its answer, and the task
//! that keeps a connection and moves publishes from one to the other.
//!
//! Publishes are written in the order they were queued, many per write, without waiting for answers; nsqd
//! answers in order. What has not been written survives a lost connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsq_protocol::{Command, FrameType};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::publication::{Publication, SizeLimits};
use super::slot::{Failure, Slot, SlotResult};
use crate::config::Config;
use crate::connect::{Connector, Established};
use crate::error::{ConnectError, ConnectStage, Disconnect, split_error};
use crate::frame_reader::FrameReader;
use crate::handshake::{Purpose, ServerInfo};
use crate::time;
use crate::transport::WriteHalf;

/// How much is gathered for one write, at least if one publish alone is not more.
const MAX_BURST_BYTES: usize = 256 << 10;
/// A connection that lasted this long was a good one: it is renewed at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// While publishes wait, a dead nsqd is tried at least this often.
const MAX_PAUSE_WITH_DEMAND: Duration = Duration::from_secs(1);

/// How long to read on after writing failed.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(200);

/// Where a node stands.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// Nobody has asked for it.
    Idle,
    Connecting,
    Connected(Arc<ServerInfo>),
    /// It will be tried again.
    Failed(ConnectError),
}

pub(super) struct Node {
    pub(super) address: Arc<str>,
    queue: Mutex<Queue>,
    wake: Notify,
    status: watch::Sender<Status>,
    /// Somebody wants a connection, whether or not there is something to publish.
    wanted: AtomicBool,
    /// Publishes that cannot be sent here are handed back, since there are other nodes.
    has_alternatives: bool,
    config: Arc<Config>,
    connector: Arc<Connector>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Queue {
    unsent: VecDeque<Entry>,
    unanswered: VecDeque<Arc<Slot>>,
    /// A heartbeat is to be answered.
    nop: bool,
    closed: bool,
}

struct Entry {
    publication: Arc<Publication>,
    slot: Arc<Slot>,
}

impl Node {
    pub(super) fn new(
        address: Arc<str>,
        has_alternatives: bool,
        config: Arc<Config>,
        connector: Arc<Connector>,
        stop: CancellationToken,
    ) -> Self {
        Node {
            address,
            queue: Mutex::default(),
            wake: Notify::new(),
            status: watch::Sender::new(Status::Idle),
            wanted: AtomicBool::new(false),
            has_alternatives,
            config,
            connector,
            stop,
        }
    }

    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Connected(_))
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(&*self.status.borrow(), Status::Failed(_))
    }

    /// Queues a publish. Its result arrives in `slot`.
    pub(super) fn enqueue(&self, publication: Arc<Publication>, slot: Arc<Slot>) {
        let mut queue = self.queue.lock();
        if queue.closed {
            drop(queue);
            slot.complete(Err(Failure::NotSent(Disconnect::Stopped)));
            return;
        }
        let was_empty = queue.unsent.is_empty();
        queue.unsent.push_back(Entry { publication, slot });
        drop(queue);
        if was_empty {
            self.wake.notify_one();
        }
    }

    /// Makes a connection if there is none. Returns what the next attempt brings.
    pub(super) async fn ensure_connected(&self) -> Result<Arc<ServerInfo>, ConnectError> {
        let mut status = self.status.subscribe();
        if let Status::Connected(server) = &*status.borrow_and_update() {
            return Ok(Arc::clone(server));
        }
        self.wanted.store(true, Ordering::Release);
        self.wake.notify_one();
        loop {
            if status.changed().await.is_err() {
                return Err(self.stopped_error());
            }
            match &*status.borrow_and_update() {
                Status::Connected(server) => return Ok(Arc::clone(server)),
                Status::Failed(error) => return Err(error.clone()),
                Status::Idle | Status::Connecting => {}
            }
        }
    }

    fn stopped_error(&self) -> ConnectError {
        ConnectError {
            node: Arc::clone(&self.address),
            stage: ConnectStage::Dial,
            cause: Disconnect::Stopped,
        }
    }

    /// Keeps a connection from the first demand on, until the producer stops.
    pub(super) async fn run(self: Arc<Self>) {
        tokio::select! {
            () = self.keep_connected() => {}
            () = self.stop.cancelled() => {}
        }
        self.close();
    }

    async fn keep_connected(&self) {
        while !self.has_demand() {
            self.wake.notified().await;
        }
        let mut failures = 0u32;
        loop {
            // A failed node stays marked as such while it is tried again, so that publishes go elsewhere.
            if !self.has_failed() {
                self.status.send_replace(Status::Connecting);
            }
            match self.connector.connect(&self.address, Purpose::Publish).await {
                Err(error) => {
                    failures += 1;
                    let cause = error.cause.clone();
                    self.status.send_replace(Status::Failed(error));
                    self.give_back_unsent(&cause);
                }
                Ok(established) => {
                    let connected_at = time::now();
                    let cause = self.drive(established).await;
                    let lasted = time::now().saturating_duration_since(connected_at);
                    failures = if lasted >= STABLE_AFTER { 0 } else { failures + 1 };
                    let node = Arc::clone(&self.address);
                    let stage = ConnectStage::Established;
                    // First of all, so that retries go elsewhere.
                    let error = ConnectError { node, stage, cause: cause.clone() };
                    self.status.send_replace(Status::Failed(error));
                    self.fail_unanswered(&cause);
                    self.give_back_unsent(&cause);
                }
            }
            self.pause(failures).await;
        }
    }

    fn has_demand(&self) -> bool {
        // Taken, not read: a request for a connection is for one attempt.
        self.wanted.swap(false, Ordering::AcqRel) || !self.queue.lock().unsent.is_empty()
    }

    /// Waits before the next attempt, less long while somebody waits for it.
    async fn pause(&self, failures: u32) {
        let Some(exponent) = failures.checked_sub(1) else { return };
        let factor = 1u32.checked_shl(exponent).unwrap_or(u32::MAX);
        let full = self.config.reconnect_initial.saturating_mul(factor).min(self.config.reconnect_max);
        let begun_at = time::now();
        let mut until = begun_at + full.mul_f64(0.1 + 0.9 * fastrand::f64());
        loop {
            if self.wanted.swap(false, Ordering::AcqRel) {
                return;
            }
            if !self.queue.lock().unsent.is_empty() {
                until = until.min(begun_at + MAX_PAUSE_WITH_DEMAND);
            }
            if time::now() >= until {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => return,
                () = self.wake.notified() => {}
            }
        }
    }

    /// Publishes over a connection until it ends, and says why it did.
    async fn drive(&self, established: Established) -> Disconnect {
        let Established { server, mut reader, mut writer, .. } = established;
        let limits = SizeLimits::of(&server, self.config.max_msg_size);
        self.status.send_replace(Status::Connected(Arc::new(server)));
        let reading = self.read(&mut reader);
        tokio::pin!(reading);
        tokio::select! {
            why = &mut reading => why,
            // nsqd may have closed after an error frame that says whose fault it was: read that first.
            why = self.write(&mut writer, &limits) => {
                tokio::time::timeout(LAST_WORDS_WAIT, reading).await.unwrap_or(why)
            }
        }
    }

    async fn write(&self, writer: &mut WriteHalf, limits: &SizeLimits) -> Disconnect {
        let mut out = Vec::new();
        let mut burst = Vec::new();
        loop {
            self.take_burst(&mut burst, &mut out, limits);
            for publication in burst.drain(..) {
                publication.encode(&mut out);
            }
            if out.is_empty() {
                self.wake.notified().await;
                continue;
            }
            if let Err(why) = writer.write(&out, self.config.write_timeout).await {
                return why;
            }
            out.clear();
            // A large batch should not be paid for ever after.
            out.shrink_to(2 * MAX_BURST_BYTES);
        }
    }

    /// Takes what goes into the next write. Encoding happens outside of the lock.
    fn take_burst(&self, burst: &mut Vec<Arc<Publication>>, out: &mut Vec<u8>, limits: &SizeLimits) {
        let mut rejected: Vec<(Arc<Slot>, Failure)> = Vec::new();
        let mut queue = self.queue.lock();
        if std::mem::take(&mut queue.nop) {
            Command::Nop.encode(out);
        }
        let mut burst_bytes = 0;
        while burst_bytes < MAX_BURST_BYTES {
            let Some(Entry { publication, slot }) = queue.unsent.pop_front() else { break };
            if let Err(failure) = publication.check_size(limits) {
                rejected.push((slot, failure));
                continue;
            }
            if !slot.write() {
                continue;
            }
            burst_bytes += publication.body_bytes();
            queue.unanswered.push_back(slot);
            burst.push(publication);
        }
        drop(queue);
        for (slot, failure) in rejected {
            slot.complete(Err(failure));
        }
    }

    async fn read(&self, reader: &mut FrameReader) -> Disconnect {
        let silence_limit = self.config.silence_limit();
        loop {
            if let Err(why) = self.take_answers(reader) {
                return why;
            }
            if let Err(why) = reader.fill(silence_limit).await {
                return why;
            }
        }
    }

    fn take_answers(&self, reader: &mut FrameReader) -> Result<(), Disconnect> {
        let mut ok_count = 0;
        let outcome = loop {
            match reader.buffered() {
                Ok(Some(frame)) if frame.is_heartbeat() => {
                    self.queue.lock().nop = true;
                    self.wake.notify_one();
                }
                Ok(Some(frame)) if frame.kind == FrameType::Response => ok_count += 1,
                Ok(Some(frame)) if frame.kind == FrameType::Error => {
                    let (code, description) = split_error(&frame.data);
                    break Err(Disconnect::Refused { code, description });
                }
                Ok(Some(_)) => break Err(Disconnect::Protocol("a message without SUB".into())),
                Ok(None) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        self.answer(ok_count, || Ok(()))?;
        if let Err(Disconnect::Refused { code, description }) = &outcome {
            self.answer(1, || {
                Err(Failure::Refused { code: code.clone(), description: description.clone() })
            })?;
            // nsqd executes in order and has stopped here: what was written behind is certain not to count.
            self.fail_all_unanswered(|| Failure::NotSent(Disconnect::Closed));
        }
        outcome
    }

    /// Completes the oldest `count` unanswered publishes.
    fn answer(&self, count: usize, result: impl Fn() -> SlotResult) -> Result<(), Disconnect> {
        if count == 0 {
            return Ok(());
        }
        let answered: Vec<Arc<Slot>> = {
            let mut queue = self.queue.lock();
            let count = count.min(queue.unanswered.len());
            queue.unanswered.drain(..count).collect()
        };
        let missing = answered.len() < count;
        for slot in answered {
            slot.complete(result());
        }
        // Later answers would be taken for those of other publishes.
        if missing { Err(Disconnect::Protocol("an answer to nothing".into())) } else { Ok(()) }
    }

    fn fail_unanswered(&self, cause: &Disconnect) {
        self.fail_all_unanswered(|| Failure::Unknown(cause.clone()));
    }

    fn fail_all_unanswered(&self, failure: impl Fn() -> Failure) {
        let unanswered = std::mem::take(&mut self.queue.lock().unanswered);
        for slot in unanswered {
            slot.complete(Err(failure()));
        }
    }

    /// If there are other nodes, publishes may try those; otherwise they wait here, except the cancelled.
    fn give_back_unsent(&self, cause: &Disconnect) {
        if self.has_alternatives {
            self.fail_unsent(cause);
        } else {
            self.queue.lock().unsent.retain(|entry| !entry.slot.is_cancelled());
        }
    }

    fn fail_unsent(&self, cause: &Disconnect) {
        let unsent = std::mem::take(&mut self.queue.lock().unsent);
        for entry in unsent {
            entry.slot.complete(Err(Failure::NotSent(cause.clone())));
        }
    }

    fn close(&self) {
        self.queue.lock().closed = true;
        self.fail_unanswered(&Disconnect::Stopped);
        self.fail_unsent(&Disconnect::Stopped);
        self.status.send_replace(Status::Failed(self.stopped_error()));
    }
}
