//! One nsqd that a producer publishes to: its unsent publishes, its unanswered ones, and the task that keeps a
//! connection and sends publishes.
//!
//! Publishes are written in the order of the queue, many per write, without waiting for answers. nsqd answers in order.
//! Unwritten publishes survive a lost connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nsq_protocol::{Command, FrameType, MessageId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::PublishedMessage;
use super::publication::{Publication, SizeLimits};
use super::slot::{Answer, Failure, Slot, SlotResult};
use crate::config::Config;
use crate::connect::{Connector, Established};
use crate::error::{ConnectError, ConnectStage, Disconnect, split_error};
use crate::frame_reader::FrameReader;
use crate::handshake::{Purpose, ServerInfo};
use crate::time;
use crate::transport::WriteHalf;

/// Publishes are added to a write until it has this size.
const MAX_BURST_BYTES: usize = 256 << 10;
/// A connection that lasted this long was stable: it is reopened at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Maximum pause between connection attempts while publishes wait.
const MAX_PAUSE_WITH_DEMAND: Duration = Duration::from_secs(1);

/// How long to read after a write has failed.
const FINAL_READ_TIMEOUT: Duration = Duration::from_millis(200);

/// The state of the connection to a node.
#[derive(Clone, Debug)]
pub(super) enum Status {
    /// No connection was requested yet.
    Idle,
    Connecting,
    Connected(Arc<ServerInfo>),
    /// The connection failed, and the node retries.
    Failed(ConnectError),
}

pub(super) struct Node {
    pub(super) address: Arc<str>,
    queue: Mutex<Queue>,
    wake: Notify,
    status: watch::Sender<Status>,
    /// A connection is requested, even if there is nothing to publish.
    wanted: AtomicBool,
    /// There are other nodes, so publishes that cannot be sent here fail and are retried there.
    has_alternatives: bool,
    config: Arc<Config>,
    connector: Arc<Connector>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Queue {
    unsent: VecDeque<Entry>,
    unanswered: VecDeque<Arc<Slot>>,
    /// A heartbeat needs an answer.
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

    /// Requests a connection if there is none. Returns the result of the next attempt.
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

    /// Keeps a connection open from the first demand until the producer stops.
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
            // A failed node keeps its status during a retry, so that publishes use other nodes.
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
                    // Set the status before publishes fail, so that their retries use other nodes.
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
        // Reset the flag, because a request is for one attempt.
        self.wanted.swap(false, Ordering::AcqRel) || !self.queue.lock().unsent.is_empty()
    }

    /// Waits before the next attempt. The wait is shorter while publishes wait for it.
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

    /// Publishes over a connection until it ends, and returns the reason.
    async fn drive(&self, established: Established) -> Disconnect {
        let Established { server, mut reader, mut writer, .. } = established;
        let limits = SizeLimits::of(&server, self.config.max_msg_size);
        let accepts_headers = server.headers;
        self.status.send_replace(Status::Connected(Arc::new(server)));
        let reading = self.read(&mut reader);
        tokio::pin!(reading);
        tokio::select! {
            why = &mut reading => why,
            // nsqd may have closed the connection after an error frame that gives the reason. Read that first.
            why = self.write(&mut writer, &limits, accepts_headers) => {
                tokio::time::timeout(FINAL_READ_TIMEOUT, reading).await.unwrap_or(why)
            }
        }
    }

    async fn write(&self, writer: &mut WriteHalf, limits: &SizeLimits, accepts_headers: bool) -> Disconnect {
        let mut out = Vec::new();
        let mut burst = Vec::new();
        loop {
            self.take_burst(&mut burst, &mut out, limits, accepts_headers);
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
            // Free the memory of a large batch.
            out.shrink_to(2 * MAX_BURST_BYTES);
        }
    }

    /// Takes the publishes for the next write. The caller encodes them without the lock.
    fn take_burst(
        &self,
        burst: &mut Vec<Arc<Publication>>,
        out: &mut Vec<u8>,
        limits: &SizeLimits,
        accepts_headers: bool,
    ) {
        let mut rejected: Vec<(Arc<Slot>, Failure)> = Vec::new();
        let mut queue = self.queue.lock();
        if std::mem::take(&mut queue.nop) {
            Command::Nop.encode(out);
        }
        let mut burst_bytes = 0;
        while burst_bytes < MAX_BURST_BYTES {
            let Some(Entry { publication, slot }) = queue.unsent.pop_front() else { break };
            if let Err(failure) = publication.check(limits, accepts_headers) {
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
        let mut answers = Vec::new();
        let outcome = loop {
            match reader.buffered() {
                Ok(Some(frame)) if frame.is_heartbeat() => {
                    self.queue.lock().nop = true;
                    self.wake.notify_one();
                }
                Ok(Some(frame)) if frame.kind == FrameType::Response => {
                    answers.push(Ok(answer_of(&frame.data)))
                }
                Ok(Some(frame)) if frame.kind == FrameType::Error => {
                    let (code, description) = split_error(&frame.data);
                    if nsq_protocol::is_topic_full(&code, &description) {
                        answers.push(Err(Failure::Refused { code, description }));
                        continue;
                    }
                    break Err(Disconnect::Refused { code, description });
                }
                Ok(Some(_)) => break Err(Disconnect::Protocol("nsqd sent a message without SUB".into())),
                Ok(None) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        self.answer(answers)?;
        if let Err(Disconnect::Refused { code, description }) = &outcome {
            let refused = Failure::Refused { code: code.clone(), description: description.clone() };
            self.answer(vec![Err(refused)])?;
            // nsqd executes commands in order and stopped here, so it has not executed the publishes written after it.
            self.fail_all_unanswered(|| Failure::NotSent(Disconnect::Closed));
        }
        outcome
    }

    /// Completes the oldest unanswered publishes.
    fn answer(&self, results: Vec<SlotResult>) -> Result<(), Disconnect> {
        let count = results.len();
        if count == 0 {
            return Ok(());
        }
        let answered: Vec<Arc<Slot>> = {
            let mut queue = self.queue.lock();
            let count = count.min(queue.unanswered.len());
            queue.unanswered.drain(..count).collect()
        };
        let missing = answered.len() < count;
        for (slot, result) in answered.into_iter().zip(results) {
            slot.complete(result);
        }
        // Otherwise, later answers would be taken for those of other publishes.
        if missing { Err(Disconnect::Protocol("nsqd sent an unexpected answer".into())) } else { Ok(()) }
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

    /// If there are other nodes, fails unsent publishes, which are retried there. Otherwise they wait here, except
    /// cancelled ones.
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

/// Reads `OK <id>` and `OK <id> DUP`. Other answers, such as `OK`, say nothing of the message.
fn answer_of(response: &[u8]) -> Answer {
    let (id, rest) = response.strip_prefix(b"OK ")?.split_first_chunk::<16>()?;
    match rest {
        b"" => Some(PublishedMessage { id: MessageId(*id), is_duplicate: false }),
        b" DUP" => Some(PublishedMessage { id: MessageId(*id), is_duplicate: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_name_the_message_and_duplicates() {
        let id = MessageId(*b"0123456789abcdef");
        let message = |is_duplicate| Some(PublishedMessage { id, is_duplicate });
        assert_eq!(answer_of(b"OK 0123456789abcdef"), message(false));
        assert_eq!(answer_of(b"OK 0123456789abcdef DUP"), message(true));
        for other in [&b"OK"[..], b"OK ", b"OK 0123", b"OK 0123456789abcdef X", b"0123456789abcdef"] {
            assert_eq!(answer_of(other), None);
        }
    }
}
