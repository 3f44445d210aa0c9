//! One nsqd that a producer publishes to: its unsent publishes, its unanswered ones, and the task that keeps a
//! connection and sends publishes.
//!
//! Publishes are written in the order of the queue, many per write, without waiting for answers. nsqd answers in order.
//! Unwritten publishes survive a lost connection, and those to repeat return to the front of the queue: so the first
//! deliveries of a topic keep their order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nsq_protocol::{Command, FrameType, MessageId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::PublishedMessage;
use super::batching::{BatchLimits, Filling, Waiting, wait_for_more};
use super::choice::stable_hash;
use super::pending::{Answer, Failure, NodeResult, Pending};
use super::pool::Pool;
use super::publication::{Publication, SizeLimits};
use crate::connect::Established;
use crate::error::{ConnectError, ConnectStage, Disconnect, split_error};
use crate::frame_reader::FrameReader;
use crate::handshake::{Purpose, ServerInfo};
use crate::meters;
use crate::time;
use crate::transport::WriteHalf;

/// Publishes are added to a write until it has this size.
const MAX_BURST_BYTES: usize = 256 << 10;
/// How long other nodes are preferred to one that refused a publish because it drains. After that, it is asked again.
const DRAINING_FOR: Duration = Duration::from_secs(10);
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
    pub(super) address_hash: u64,
    queue: Mutex<Queue>,
    wake: Notify,
    /// Ends the connection: too many publishes have no answer within their time.
    reset: Notify,
    status: watch::Sender<Status>,
    /// A connection is requested, even if there is nothing to publish.
    wanted: AtomicBool,
    /// The number of publishes in the queue, for choosing a node.
    pending: AtomicUsize,
    /// When the node refused a publish last because it drains.
    drains_since: Mutex<Option<Instant>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct Queue {
    unsent: VecDeque<Arc<Pending>>,
    unsent_bytes: usize,
    /// `None` is the place of a publish whose time has passed. Its answer may still come.
    unanswered: VecDeque<Option<Arc<Pending>>>,
    /// The number of publishes in each unanswered command.
    commands: VecDeque<usize>,
    /// The places in `unanswered` without a publish.
    holes: usize,
    /// A heartbeat needs an answer.
    nop: bool,
    /// Something must be written without lingering.
    is_urgent: bool,
    closed: bool,
}

/// Publishes that left the queue of a node, in their order.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) answered: Vec<(Arc<Pending>, Answer)>,
    pub(super) failed: Vec<(Arc<Pending>, Failure)>,
}

impl Node {
    pub(super) fn new(address: Arc<str>, stop: CancellationToken) -> Self {
        Node {
            address_hash: stable_hash(address.as_bytes()),
            address,
            queue: Mutex::default(),
            wake: Notify::new(),
            reset: Notify::new(),
            status: watch::Sender::new(Status::Idle),
            wanted: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            drains_since: Mutex::default(),
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

    /// Whether the node drains: it refused a publish for that a short while ago.
    pub(super) fn is_draining(&self) -> bool {
        let since = *self.drains_since.lock();
        since.is_some_and(|since| time::now().saturating_duration_since(since) < DRAINING_FOR)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    /// Stops the task of the node, which then fails its publishes.
    pub(super) fn retire(&self) {
        self.stop.cancel();
    }

    /// Queues a publish. Returns it if the node has stopped.
    pub(super) fn enqueue(&self, pending: Arc<Pending>, pool: &Pool) -> Result<(), Arc<Pending>> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(pending);
        }
        let was_empty = queue.unsent.is_empty();
        queue.unsent_bytes += pending.publication.body_bytes();
        queue.is_urgent |= !pending.publication.may_batch;
        queue.unsent.push_back(pending);
        self.pending.store(queue.unsent.len() + queue.unanswered.len(), Ordering::Relaxed);
        let is_due = was_empty || (!pool.config.linger.is_zero() && queue.is_due(&pool.batch_limits));
        drop(queue);
        if is_due {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Puts publishes back, in their order, before all others. Returns them if the node has stopped.
    pub(super) fn put_back(&self, publishes: Vec<Arc<Pending>>) -> Result<(), Vec<Arc<Pending>>> {
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err(publishes);
        }
        for pending in publishes.into_iter().rev() {
            queue.unsent_bytes += pending.publication.body_bytes();
            queue.unsent.push_front(pending);
        }
        queue.is_urgent = true;
        drop(queue);
        self.wake.notify_one();
        Ok(())
    }

    /// Makes the writer write now what waits for a batch to fill.
    pub(super) fn hurry(&self) {
        let mut queue = self.queue.lock();
        queue.is_urgent |= !queue.unsent.is_empty();
        drop(queue);
        self.wake.notify_one();
    }

    /// Adds the publishes without a result to `all`.
    pub(super) fn collect(&self, all: &mut Vec<Arc<Pending>>) {
        let queue = self.queue.lock();
        all.extend(queue.unanswered.iter().flatten().chain(&queue.unsent).cloned());
    }

    /// Takes out the publishes whose time has passed. Returns them, with whether they were written, and the earliest
    /// deadline of the others.
    pub(super) fn expire(
        &self,
        now: Instant,
        max_holes: usize,
    ) -> (Vec<(Arc<Pending>, bool)>, Option<Instant>) {
        let mut expired = Vec::new();
        let mut next: Option<Instant> = None;
        let mut is_expired = |pending: &Arc<Pending>| {
            let expired = pending.deadline <= now;
            if !expired {
                next = Some(next.map_or(pending.deadline, |next| next.min(pending.deadline)));
            }
            expired
        };
        let mut queue = self.queue.lock();
        let Queue { unsent, unsent_bytes, unanswered, holes, .. } = &mut *queue;
        for place in unanswered.iter_mut() {
            if let Some(pending) = place.take_if(|pending| is_expired(pending)) {
                *holes += 1;
                expired.push((pending, true));
            }
        }
        unsent.retain(|pending| {
            let keep = !is_expired(pending);
            if !keep {
                *unsent_bytes -= pending.publication.body_bytes();
                expired.push((Arc::clone(pending), false));
            }
            keep
        });
        let is_mute = *holes > max_holes;
        drop(queue);
        if is_mute {
            self.reset.notify_one();
        }
        (expired, next)
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

    /// Keeps a connection open from the first demand until the node stops.
    pub(super) async fn run(self: Arc<Self>, pool: Arc<Pool>) {
        tokio::select! {
            () = self.keep_connected(&pool) => {}
            () = self.stop.cancelled() => {}
        }
        self.close(&pool);
    }

    async fn keep_connected(self: &Arc<Self>, pool: &Pool) {
        while !self.has_demand() {
            self.wake.notified().await;
        }
        let mut failures = 0u32;
        loop {
            // A failed node keeps its status during a retry, so that publishes use other nodes.
            if !self.has_failed() {
                self.status.send_replace(Status::Connecting);
            }
            match pool.connector.connect(&self.address, Purpose::Publish).await {
                Err(error) => {
                    failures += 1;
                    let cause = error.cause.clone();
                    self.status.send_replace(Status::Failed(error));
                    self.hand_over(&cause, pool);
                }
                Ok(established) => {
                    let connected_at = time::now();
                    let cause = self.drive(established, pool).await;
                    let lasted = time::now().saturating_duration_since(connected_at);
                    failures = if lasted >= STABLE_AFTER { 0 } else { failures + 1 };
                    let node = Arc::clone(&self.address);
                    let stage = ConnectStage::Established;
                    // Set the status before publishes fail, so that their retries use other nodes.
                    let error = ConnectError { node, stage, cause: cause.clone() };
                    self.status.send_replace(Status::Failed(error));
                    pool.settle(self, |taken| {
                        self.take_unanswered(taken, || Failure::Unknown(cause.clone()));
                    });
                    self.hand_over(&cause, pool);
                }
            }
            self.pause(failures, pool).await;
        }
    }

    fn has_demand(&self) -> bool {
        // Reset the flag, because a request is for one attempt.
        self.wanted.swap(false, Ordering::AcqRel) || !self.queue.lock().unsent.is_empty()
    }

    /// Waits before the next attempt. The wait is shorter while publishes wait for it.
    async fn pause(&self, failures: u32, pool: &Pool) {
        let Some(exponent) = failures.checked_sub(1) else { return };
        let factor = 1u32.checked_shl(exponent).unwrap_or(u32::MAX);
        let config = &pool.config;
        let full = config.reconnect_initial.saturating_mul(factor).min(config.reconnect_max);
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
    async fn drive(self: &Arc<Self>, established: Established, pool: &Pool) -> Disconnect {
        let Established { server, mut reader, mut writer, .. } = established;
        let limits = SizeLimits::of(&server, pool.config.max_msg_size);
        let accepts_headers = server.headers;
        self.status.send_replace(Status::Connected(Arc::new(server)));
        let reading = self.read(&mut reader, pool);
        tokio::pin!(reading);
        tokio::select! {
            why = &mut reading => why,
            // nsqd may have closed the connection after an error frame that gives the reason. Read that first.
            why = self.write(&mut writer, &limits, accepts_headers, pool) => {
                tokio::time::timeout(FINAL_READ_TIMEOUT, reading).await.unwrap_or(why)
            }
            () = self.reset.notified() => Disconnect::Timeout(pool.config.publish_timeout),
        }
    }

    async fn write(
        self: &Arc<Self>,
        writer: &mut WriteHalf,
        limits: &SizeLimits,
        accepts_headers: bool,
        pool: &Pool,
    ) -> Disconnect {
        let mut out = Vec::new();
        let mut burst = Burst::default();
        loop {
            match self.left_to_linger(pool) {
                Some(left) => {
                    tokio::select! {
                        () = tokio::time::sleep(left) => {}
                        () = self.wake.notified() => {}
                    }
                    continue;
                }
                None => self.take_burst(&mut burst, &mut out, limits, accepts_headers, pool),
            }
            if meters::ON {
                burst.commands().for_each(|(topic, messages)| pool.meter.written(topic, messages));
            }
            burst.encode(&mut out);
            if out.is_empty() {
                self.wake.notified().await;
                // Tasks that are ready now add their publishes to the same write.
                tokio::task::yield_now().await;
                continue;
            }
            if let Err(why) = writer.write(&out, pool.config.write_timeout).await {
                return why;
            }
            out.clear();
            // Free the memory of a large batch.
            out.shrink_to(2 * MAX_BURST_BYTES);
        }
    }

    /// How long the writer waits for a fuller batch; `None` if it writes now.
    fn left_to_linger(&self, pool: &Pool) -> Option<Duration> {
        let linger = pool.config.linger;
        if linger.is_zero() {
            return None;
        }
        let queue = self.queue.lock();
        let oldest =
            queue.unsent.front().filter(|_| !queue.nop)?.deadline.checked_sub(pool.config.publish_timeout)?;
        let waiting = Waiting {
            oldest,
            messages: queue.unsent.len(),
            bytes: queue.unsent_bytes,
            is_urgent: queue.is_urgent,
        };
        wait_for_more(&waiting, linger, &pool.batch_limits, time::now())
    }

    /// Takes the publishes for the next write. The caller encodes them without the lock.
    fn take_burst(
        self: &Arc<Self>,
        burst: &mut Burst,
        out: &mut Vec<u8>,
        limits: &SizeLimits,
        accepts_headers: bool,
        pool: &Pool,
    ) {
        let mut rejected = Vec::new();
        let batch_limits = pool.batch_limits.within(limits.max_body_size);
        let mut queue = self.queue.lock();
        if std::mem::take(&mut queue.nop) {
            Command::Nop.encode(out);
        }
        let mut burst_bytes = 0;
        // The command to which more publishes may be added.
        let mut open: Option<Filling> = None;
        while burst_bytes < MAX_BURST_BYTES {
            let Some(pending) = queue.unsent.pop_front() else { break };
            let bytes = pending.publication.body_bytes();
            queue.unsent_bytes -= bytes;
            if let Err(failure) = pending.publication.check(limits, accepts_headers) {
                rejected.push((pending, failure));
                continue;
            }
            let may_batch = pending.may_batch();
            if !pending.write() {
                continue;
            }
            burst_bytes += bytes;
            let joins = may_batch
                && burst.publishes.last().is_some_and(|last| last.publication.may_join(&pending.publication))
                && open.as_mut().is_some_and(|filling| filling.add(bytes, &batch_limits));
            if joins {
                if let (Some(command), Some(sent)) = (burst.commands.last_mut(), queue.commands.back_mut()) {
                    *command += 1;
                    *sent += 1;
                }
            } else {
                open = may_batch.then(|| Filling::with(bytes));
                burst.commands.push(1);
                queue.commands.push_back(1);
            }
            queue.unanswered.push_back(Some(Arc::clone(&pending)));
            burst.publishes.push(pending);
        }
        if queue.unsent.is_empty() {
            queue.is_urgent = false;
        }
        self.pending.store(queue.unsent.len() + queue.unanswered.len(), Ordering::Relaxed);
        drop(queue);
        if !rejected.is_empty() {
            pool.settle(self, |taken| taken.failed = rejected);
        }
    }

    async fn read(self: &Arc<Self>, reader: &mut FrameReader, pool: &Pool) -> Disconnect {
        let silence_limit = pool.config.silence_limit();
        let mut answers = Vec::new();
        loop {
            if let Err(why) = self.take_answers(reader, &mut answers, pool) {
                return why;
            }
            if let Err(why) = reader.fill(silence_limit).await {
                return why;
            }
        }
    }

    fn take_answers(
        self: &Arc<Self>,
        reader: &mut FrameReader,
        answers: &mut Vec<NodeResult>,
        pool: &Pool,
    ) -> Result<(), Disconnect> {
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
                    let is_draining = nsq_protocol::is_draining(&code, &description);
                    if is_draining {
                        *self.drains_since.lock() = Some(time::now());
                    }
                    let leaves_open = is_draining || nsq_protocol::is_topic_full(&code, &description);
                    answers
                        .push(Err(Failure::Refused { code: code.clone(), description: description.clone() }));
                    if leaves_open {
                        continue;
                    }
                    break Err(Disconnect::Refused { code, description });
                }
                Ok(Some(_)) => break Err(Disconnect::Protocol("nsqd sent a message without SUB".into())),
                Ok(None) => break Ok(()),
                Err(why) => break Err(why),
            }
        };
        let ends = matches!(outcome, Err(Disconnect::Refused { .. }));
        self.answer(answers.drain(..), ends, pool)?;
        outcome
    }

    /// Completes the oldest unanswered publishes. If the last answer `ends` the connection, the others fail: nsqd executes
    /// commands in order and stopped there, so it has not executed the publishes written after it.
    fn answer(
        self: &Arc<Self>,
        results: impl ExactSizeIterator<Item = NodeResult>,
        ends: bool,
        pool: &Pool,
    ) -> Result<(), Disconnect> {
        if results.len() == 0 {
            return Ok(());
        }
        let mut is_unexpected = false;
        pool.settle(self, |taken| {
            let mut queue = self.queue.lock();
            for result in results {
                let Some(count) = queue.commands.pop_front() else {
                    is_unexpected = true;
                    break;
                };
                for _ in 0..count {
                    match (queue.unanswered.pop_front().flatten(), &result) {
                        (Some(pending), Ok(answer)) => taken.answered.push((pending, *answer)),
                        (Some(pending), Err(failure)) if count > 1 => {
                            taken.failed.push((pending, failure.clone().of_batch()));
                        }
                        (Some(pending), Err(failure)) => taken.failed.push((pending, failure.clone())),
                        (None, _) => queue.holes = queue.holes.saturating_sub(1),
                    }
                }
            }
            self.pending.store(queue.unsent.len() + queue.unanswered.len(), Ordering::Relaxed);
            drop(queue);
            if ends {
                self.take_unanswered(taken, || Failure::NotSent(Disconnect::Closed));
            }
        });
        // Otherwise, later answers would be taken for those of other publishes.
        match is_unexpected {
            true => Err(Disconnect::Protocol("nsqd sent an unexpected answer".into())),
            false => Ok(()),
        }
    }

    fn take_unanswered(&self, taken: &mut Taken, failure: impl Fn() -> Failure) {
        let mut queue = self.queue.lock();
        queue.commands.clear();
        queue.holes = 0;
        let unanswered = std::mem::take(&mut queue.unanswered);
        self.pending.store(queue.unsent.len(), Ordering::Relaxed);
        taken.failed.extend(unanswered.into_iter().flatten().map(|pending| (pending, failure())));
    }

    /// If there are other nodes, moves unsent publishes there. Otherwise they wait here, except cancelled ones.
    fn hand_over(self: &Arc<Self>, cause: &Disconnect, pool: &Pool) {
        if pool.has_alternatives() {
            pool.settle(self, |taken| self.take_unsent(taken, cause));
            return;
        }
        let mut queue = self.queue.lock();
        let Queue { unsent, unsent_bytes, .. } = &mut *queue;
        unsent.retain(|pending| !pending.is_done());
        *unsent_bytes = unsent.iter().map(|pending| pending.publication.body_bytes()).sum();
    }

    fn take_unsent(&self, taken: &mut Taken, cause: &Disconnect) {
        let mut queue = self.queue.lock();
        queue.unsent_bytes = 0;
        let unsent = std::mem::take(&mut queue.unsent);
        taken.failed.extend(unsent.into_iter().map(|pending| (pending, Failure::NotSent(cause.clone()))));
    }

    fn close(self: &Arc<Self>, pool: &Pool) {
        self.queue.lock().closed = true;
        self.status.send_replace(Status::Failed(self.stopped_error()));
        pool.settle(self, |taken| {
            self.take_unanswered(taken, || Failure::Unknown(Disconnect::Stopped));
            self.take_unsent(taken, &Disconnect::Stopped);
        });
    }
}

impl Queue {
    fn is_due(&self, limits: &BatchLimits) -> bool {
        self.is_urgent || self.unsent.len() >= limits.messages || self.unsent_bytes >= limits.bytes
    }
}

/// The publishes of one write.
#[derive(Default)]
struct Burst {
    publishes: Vec<Arc<Pending>>,
    /// The number of publishes in each command.
    commands: Vec<usize>,
}

impl Burst {
    /// Topic and number of messages of each command.
    fn commands(&self) -> impl Iterator<Item = (&str, usize)> {
        let mut rest = &self.publishes[..];
        self.commands.iter().map(move |count| {
            let (command, others) = rest.split_at(*count);
            rest = others;
            let messages = command.iter().map(|pending| pending.publication.messages()).sum();
            (command.first().map_or("", |first| first.publication.topic()), messages)
        })
    }

    /// Appends all commands to `out`, and forgets them.
    fn encode(&mut self, out: &mut Vec<u8>) {
        let mut rest = &self.publishes[..];
        for count in self.commands.drain(..) {
            let (command, others) = rest.split_at(count);
            rest = others;
            match command {
                [one] => one.publication.encode(out),
                several => {
                    Publication::encode_together(several.iter().map(|pending| &pending.publication), out)
                }
            }
        }
        self.publishes.clear();
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
