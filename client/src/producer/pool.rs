//! The nodes of a producer, and what becomes of a publish that fails at one of them. Retries belong to the tasks of the
//! nodes: a publish goes on whether or not anyone waits for its result.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nsq_protocol::{is_draining, is_topic_full};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Receipt;
use super::batching::BatchLimits;
use super::builder::{Guarantee, Strategy};
use super::choice::{Candidate, Request, choose, stable_hash};
use super::node::{Node, Status, Taken};
use super::pending::{Failure, Outcome, Pending};
use crate::config::Config;
use crate::connect::Connector;
use crate::error::{Disconnect, PublishError};
use crate::meters::{self, ProducerMeter};
use crate::time;

/// How publishes are distributed and repeated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) guarantee: Guarantee,
    pub(super) strategy: Strategy,
    pub(super) ordered: bool,
}

/// See the module.
pub(super) struct Pool {
    pub(super) config: Arc<Config>,
    pub(super) connector: Arc<Connector>,
    pub(super) batch_limits: BatchLimits,
    pub(super) rules: Rules,
    /// One permit per byte that may be pending; see [`Pool::cost`].
    pub(super) room: Semaphore,
    pub(super) stop: CancellationToken,
    pub(super) meter: ProducerMeter,
    nodes: RwLock<Arc<[Arc<Node>]>>,
    /// Publishes that wait for a lookupd to report the first node.
    homeless: Mutex<VecDeque<Arc<Pending>>>,
    /// Grows by one with each choice of a node.
    turn: AtomicUsize,
    /// When the deadlines are looked at next, in milliseconds after `created_at`; `u64::MAX` if nothing is pending.
    next_check_ms: AtomicU64,
    check_deadlines: Notify,
    created_at: Instant,
    /// Held while publishes are in no queue, so that a flush sees all of them.
    transit: RwLock<()>,
    /// The flushes that wait for results.
    flushes: AtomicUsize,
    finished: Notify,
}

impl Pool {
    pub(super) fn new(
        config: Arc<Config>,
        connector: Arc<Connector>,
        rules: Rules,
        stop: CancellationToken,
    ) -> Self {
        // nsqd reports the id of a message for single publishes only.
        let messages = if config.pub_ids { 1 } else { config.batch_messages as usize };
        Pool {
            batch_limits: BatchLimits { messages, bytes: config.batch_bytes as usize },
            room: Semaphore::new(config.max_pending_bytes as usize),
            config,
            connector,
            rules,
            stop,
            meter: ProducerMeter::default(),
            nodes: RwLock::new(Arc::new([])),
            homeless: Mutex::default(),
            turn: AtomicUsize::new(0),
            next_check_ms: AtomicU64::new(u64::MAX),
            check_deadlines: Notify::new(),
            created_at: time::now(),
            transit: RwLock::new(()),
            flushes: AtomicUsize::new(0),
            finished: Notify::new(),
        }
    }

    pub(super) fn nodes(&self) -> Arc<[Arc<Node>]> {
        Arc::clone(&self.nodes.read())
    }

    /// Whether a publish that fails at one node may go to another.
    pub(super) fn has_alternatives(&self) -> bool {
        !self.rules.ordered && self.nodes.read().len() > 1
    }

    /// Sets the nodes: starts the task of each new one, and stops those of nodes that are not in the list any more.
    pub(super) fn set_nodes(self: &Arc<Self>, addresses: &[Arc<str>]) {
        let old = self.nodes();
        let nodes: Arc<[Arc<Node>]> = addresses
            .iter()
            .map(|address| {
                let known = old.iter().find(|node| node.address == *address);
                known.map_or_else(|| self.start_node(Arc::clone(address)), Arc::clone)
            })
            .collect();
        *self.nodes.write() = Arc::clone(&nodes);
        for node in old.iter().filter(|node| !addresses.contains(&node.address)) {
            node.retire();
        }
        if nodes.is_empty() {
            return;
        }
        let _transit = self.transit.read();
        let homeless = std::mem::take(&mut *self.homeless.lock());
        for pending in homeless {
            self.dispatch(pending, None);
        }
    }

    fn start_node(self: &Arc<Self>, address: Arc<str>) -> Arc<Node> {
        let node = Arc::new(Node::new(address, self.stop.child_token()));
        tokio::spawn(Arc::clone(&node).run(Arc::clone(self)));
        node
    }

    /// The number of permits for one publish. It is at least `max_pending_bytes / max_pending`, so that one semaphore
    /// bounds both bytes and number. It is at most all permits, so that a huge publish is sent alone instead of never.
    pub(super) fn cost(&self, body_bytes: usize) -> u32 {
        let max_bytes = self.config.max_pending_bytes;
        let least = (max_bytes / self.config.max_pending).max(1);
        u32::try_from(body_bytes).unwrap_or(u32::MAX).clamp(least, max_bytes)
    }

    /// Queues a publish at a node. `failed` is the node that has just failed.
    pub(super) fn dispatch(&self, mut pending: Arc<Pending>, failed: Option<&Arc<Node>>) {
        let deadline_ms = self.ms(pending.deadline);
        loop {
            let refused = {
                let nodes = self.nodes.read();
                match self.choose(&nodes, self.key_of(&pending), failed) {
                    Some(at) => nodes[at].enqueue(pending, self),
                    None => {
                        self.homeless.lock().push_back(pending);
                        Ok(())
                    }
                }
            };
            match refused {
                Ok(()) => break,
                Err(returned) if self.stop.is_cancelled() => {
                    self.give_back(returned.finish(|_| Err(PublishError::Closed)));
                    return;
                }
                // Its node was removed from the list, or is about to be.
                Err(returned) => pending = returned,
            }
        }
        if deadline_ms < self.next_check_ms.load(Ordering::Acquire) {
            self.check_deadlines.notify_one();
        }
    }

    fn key_of(&self, pending: &Pending) -> Option<u64> {
        let of_topic = || self.rules.ordered.then(|| stable_hash(pending.publication.topic().as_bytes()));
        pending.publication.key.or_else(of_topic)
    }

    fn choose(&self, nodes: &[Arc<Node>], key: Option<u64>, failed: Option<&Arc<Node>>) -> Option<usize> {
        if nodes.len() == 1 {
            return Some(0);
        }
        let strategy = self.rules.strategy;
        let turn = match strategy {
            Strategy::Failover => 0,
            _ => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        let failed = failed.and_then(|failed| nodes.iter().position(|node| Arc::ptr_eq(node, failed)));
        let view = |node: &Arc<Node>| Candidate {
            is_connected: node.is_connected(),
            is_usable: !node.has_failed() && !node.is_draining(),
            pending: node.pending(),
            address_hash: node.address_hash,
        };
        choose(strategy, nodes, view, Request { key, turn, failed, keep: self.rules.ordered })
    }

    /// Chooses a node for a call that is not a publish.
    pub(super) fn any_node(&self) -> Option<Arc<Node>> {
        let nodes = self.nodes();
        self.choose(&nodes, None, None).map(|at| Arc::clone(&nodes[at]))
    }

    /// Gives the publishes that `take` takes out of a node's queue their results, or another attempt.
    pub(super) fn settle(&self, node: &Arc<Node>, take: impl FnOnce(&mut Taken)) {
        let _transit = self.transit.read();
        let mut taken = Taken::default();
        take(&mut taken);
        let mut room = 0;
        for (pending, message) in taken.answered {
            let receipt = |attempts| Receipt { node: Arc::clone(&node.address), attempts, message };
            room += self.finish(&pending, |attempts| Ok(receipt(attempts))) as usize;
        }
        let mut again = Vec::new();
        if !taken.failed.is_empty() {
            let now = time::now();
            for (pending, failure) in taken.failed {
                let may_retry = pending.deadline > now && self.may_retry(&failure, pending.attempts());
                if may_retry && pending.retry(matches!(failure, Failure::BatchRefused { .. })) {
                    again.push((pending, failure));
                } else {
                    room += self.fail(&pending, failure, node) as usize;
                }
            }
        }
        self.give_back_many(room);
        self.repeat(again, node);
    }

    /// Queues publishes for another attempt.
    fn repeat(&self, again: Vec<(Arc<Pending>, Failure)>, node: &Arc<Node>) {
        let mut here = Vec::new();
        for (pending, failure) in again {
            // A batch is split for the same node; its other messages may be good.
            let stays = matches!(failure, Failure::BatchRefused { .. }) || !self.has_alternatives();
            if stays {
                here.push(pending);
            } else {
                self.dispatch(pending, Some(node));
            }
        }
        if here.is_empty() {
            return;
        }
        if let Err(returned) = node.put_back(here) {
            for pending in returned {
                self.dispatch(pending, Some(node));
            }
        }
        self.check_deadlines.notify_one();
    }

    fn fail(&self, pending: &Pending, failure: Failure, node: &Arc<Node>) -> u32 {
        let topic = pending.publication.topic();
        let failure = match failure {
            // The connection error says more than that the connection ended.
            Failure::NotSent(Disconnect::Closed | Disconnect::Timeout(_)) => match node.status() {
                Status::Failed(error) => Failure::NotSent(error.cause),
                _ => failure,
            },
            other => other,
        };
        self.finish(pending, |_| Err(publish_error(failure, &node.address, topic)))
    }

    /// Gives a publish its result: see [`Pending::finish`].
    fn finish(&self, pending: &Pending, outcome: impl FnOnce(u32) -> Outcome) -> u32 {
        if !meters::ON {
            return pending.finish(outcome);
        }
        let mut is_published = false;
        let cost = pending.finish(|attempts| {
            let outcome = outcome(attempts);
            is_published = outcome.is_ok();
            outcome
        });
        if cost > 0 {
            let publication = &pending.publication;
            let took = self
                .config
                .publish_timeout
                .saturating_sub(pending.deadline.saturating_duration_since(time::now()));
            let (topic, bytes) = (publication.topic(), publication.body_bytes());
            self.meter.finished(topic, publication.messages(), bytes, took, is_published);
        }
        cost
    }

    fn may_retry(&self, failure: &Failure, attempts: u32) -> bool {
        if self.stop.is_cancelled() {
            return false;
        }
        let at_least_once = self.rules.guarantee == Guarantee::AtLeastOnce;
        match failure {
            Failure::NotSent(_) => true,
            Failure::Unknown(_) => at_least_once,
            // nsqd may have stored a part of the batch only if it says that it could not store all.
            Failure::BatchRefused { code, description } => {
                at_least_once || code != "E_MPUB_FAILED" || refuses_all(code, description)
            }
            // There may be room at another node, or it does not drain. If not, the caller must slow down or wait.
            Failure::Refused { code, description } if refuses_all(code, description) => {
                !self.rules.ordered && (attempts as usize) < self.nodes.read().len()
            }
            // nsqd could not store it. Another node, or a later attempt, may succeed. A batch may be stored in part.
            Failure::Refused { code, .. } => match code.as_str() {
                "E_PUB_FAILED" | "E_DPUB_FAILED" => true,
                "E_MPUB_FAILED" => at_least_once,
                _ => false,
            },
            Failure::TooBig { .. } | Failure::HeadersUnsupported => false,
        }
    }

    pub(super) fn give_back(&self, cost: u32) {
        self.give_back_many(cost as usize);
    }

    fn give_back_many(&self, permits: usize) {
        if permits == 0 {
            return;
        }
        self.room.add_permits(permits);
        if self.flushes.load(Ordering::SeqCst) > 0 {
            self.finished.notify_waiters();
        }
    }

    /// Waits until every publish queued before has its result.
    pub(super) async fn flush(&self) {
        let _flush = Counted::new(&self.flushes);
        let mut pending = Vec::new();
        {
            let _transit = self.transit.write();
            for node in self.nodes().iter() {
                node.collect(&mut pending);
            }
            pending.extend(self.homeless.lock().iter().cloned());
        }
        for node in self.nodes().iter() {
            node.hurry();
        }
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // Listen before looking, so that no result in between is missed.
            finished.as_mut().enable();
            pending.retain(|pending| !pending.is_done());
            if pending.is_empty() {
                return;
            }
            finished.await;
        }
    }

    fn ms(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.created_at).as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// Fails the publishes whose deadline passes, until the producer stops.
    pub(super) async fn watch_deadlines(self: Arc<Self>) {
        loop {
            // A publish that is queued from now on sees that nothing is planned, and wakes this task.
            self.next_check_ms.store(u64::MAX, Ordering::SeqCst);
            let next = self.expire(time::now());
            let sleep = async {
                match next {
                    Some(at) => {
                        self.next_check_ms.store(self.ms(at), Ordering::Release);
                        tokio::time::sleep_until(at.into()).await;
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.check_deadlines.notified() => {}
                () = self.stop.cancelled() => break,
            }
        }
        for pending in std::mem::take(&mut *self.homeless.lock()) {
            self.give_back(pending.finish(|_| Err(PublishError::Closed)));
        }
    }

    /// Fails the publishes whose deadline has passed. Returns the earliest deadline of the others.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        let max_holes = self.config.max_pending as usize;
        let timeout = Disconnect::Timeout(self.config.publish_timeout);
        for node in self.nodes().iter() {
            let (expired, next) = node.expire(now, max_holes);
            for (pending, was_written) in expired {
                let failure = match was_written {
                    true => Failure::Unknown(timeout.clone()),
                    false => Failure::NotSent(timeout.clone()),
                };
                self.give_back(self.fail(&pending, failure, node));
            }
            earliest = [earliest, next].into_iter().flatten().min();
        }
        let mut expired = Vec::new();
        self.homeless.lock().retain(|pending| {
            let keep = pending.deadline > now;
            if keep {
                earliest = Some(earliest.map_or(pending.deadline, |at| at.min(pending.deadline)));
            } else {
                expired.push(Arc::clone(pending));
            }
            keep
        });
        for pending in expired {
            self.give_back(
                self.finish(&pending, |_| Err(PublishError::NoNodes { after: self.config.publish_timeout })),
            );
        }
        earliest
    }

    /// After the last handle is dropped: sends what is queued, for at most `limit`, and stops.
    pub(super) async fn wind_down(self: Arc<Self>, abandoned: CancellationToken, limit: Duration) {
        tokio::select! {
            () = abandoned.cancelled() => {}
            () = self.stop.cancelled() => return,
        }
        let _ = tokio::time::timeout(limit, self.flush()).await;
        self.stop.cancel();
    }
}

/// Whether nsqd stored nothing of the publish, and will not until consumers have caught up or its drain ends.
fn refuses_all(code: &str, description: &str) -> bool {
    is_topic_full(code, description) || is_draining(code, description)
}

/// Counts itself while it exists.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::SeqCst);
        Counted(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn publish_error(failure: Failure, node: &Arc<str>, topic: &str) -> PublishError {
    let node = Arc::clone(node);
    match failure {
        Failure::NotSent(Disconnect::Stopped) => PublishError::Closed,
        Failure::NotSent(reason) => PublishError::NotSent { node, reason },
        Failure::Unknown(reason) => PublishError::Unknown { node, reason },
        Failure::Refused { code, description } | Failure::BatchRefused { code, description } => {
            PublishError::Refused { node, code, description }
        }
        Failure::TooBig { index, size, limit } => {
            PublishError::TooBig { index, topic: topic.to_owned(), size, limit }
        }
        Failure::HeadersUnsupported => PublishError::HeadersUnsupported { node },
    }
}
