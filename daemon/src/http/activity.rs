//! Finds stalled connections without a timer per request.
//!
//! The stream and the body of the current request record what happens on a connection. Once per period the connection's
//! task compares the record with the previous one. If the connection made no progress in a head, a body or a response,
//! the task closes it. An idle connection may stay.
//!
//! hyper does not read from a connection while a handler works, so it does not notice that the client is gone. A handler
//! that waits for something else than its body can ask for that: [`Hangup`].

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Sleep;

use super::body_memory::BodyMemory;
use super::request_lines::RequestLines;

/// After a response that left part of a body unread, the server reads on for this long. Otherwise closing the
/// connection could destroy the response before the client has read it.
const LINGER: Duration = Duration::from_secs(1);

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between requests.
    Idle,
    /// Some bytes have arrived, but not a whole head.
    Head,
    /// A handler is working.
    Handler,
    /// A handler is waiting for the body.
    Body,
}

/// The record of one connection. Only its own task writes it; the fields are atomic for sharing, not because of
/// concurrent writers.
#[derive(Debug, Default)]
pub(super) struct Activity {
    phase: AtomicU8,
    requests: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    write_blocked: AtomicBool,
    /// TLS has taken bytes that are not in the socket yet.
    flush_blocked: AtomicBool,
    body_unread: AtomicBool,
    /// The number of the last request that may be answered; 0 means no limit.
    last_request: AtomicU64,
    /// Shared by all connections.
    body_memory: Arc<BodyMemory>,
    /// Bits of [`WATCHED`] and [`AWAITED`], checked after each flush.
    interest: AtomicU8,
    has_hung_up: AtomicBool,
    hung_up: Notify,
    /// Number of times that everything handed to the stream was written.
    flushes: AtomicU64,
    flush_waker: Mutex<Option<Waker>>,
}

/// A handler or body waits, and wants to know if the client is gone.
const WATCHED: u8 = 1;
/// A body waits until its last piece is written.
const AWAITED: u8 = 2;

/// Most bytes of further requests that are read while a [`Hangup`] waits. With more, a client that is gone is noticed
/// only by writing to it.
const READ_AHEAD_BYTES: usize = 1024;

/// Reports that the client of a request is gone: it closed its side of the connection. Clients that close only their
/// sending side count as gone too.
#[derive(Debug, Clone)]
pub struct Hangup(Arc<Activity>);

impl Hangup {
    pub(super) fn new(activity: Arc<Activity>) -> Self {
        Self(activity)
    }

    /// Waits until the client is gone. Works only in the task of the connection: in a handler, or in the source of a
    /// live body. Dropping the future loses nothing.
    pub async fn wait(&self) {
        let activity = &*self.0;
        let _watching = Watching::begin(activity);
        while !activity.has_hung_up.load(Relaxed) {
            activity.hung_up.notified().await;
        }
    }
}

struct Watching<'a>(&'a Activity);

impl<'a> Watching<'a> {
    fn begin(activity: &'a Activity) -> Self {
        activity.interest.fetch_or(WATCHED, Relaxed);
        Self(activity)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        self.0.interest.fetch_and(!WATCHED, Relaxed);
    }
}

impl Activity {
    pub(super) fn new(body_memory: Arc<BodyMemory>) -> Self {
        Self { body_memory, ..Self::default() }
    }

    pub(super) fn body_memory(&self) -> &BodyMemory {
        &self.body_memory
    }

    /// Returns the number of the request, counted from 1.
    pub(super) fn request_began(&self) -> u64 {
        let number = self.requests.load(Relaxed).wrapping_add(1);
        self.requests.store(number, Relaxed);
        self.enter(Phase::Handler);
        number
    }

    /// The last request that may be answered, once the end of its body is known to be ambiguous.
    pub(super) fn last_request(&self) -> Option<u64> {
        Some(self.last_request.load(Relaxed)).filter(|&number| number > 0)
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Relaxed);
    }

    /// Records that a handler finished its request and left part of the body in the stream.
    pub(super) fn body_left_unread(&self) {
        self.body_unread.store(true, Relaxed);
    }

    /// How often everything handed to the stream was written.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// Waits until [`Activity::flushes`] differs from `before`.
    pub(super) fn poll_flushed_since(&self, before: u64, cx: &mut Context<'_>) -> Poll<()> {
        if self.flushes() != before {
            return Poll::Ready(());
        }
        *self.flush_waker.lock() = Some(cx.waker().clone());
        self.interest.fetch_or(AWAITED, Relaxed);
        Poll::Pending
    }

    fn flushed(&self) {
        self.flushes.store(self.flushes().wrapping_add(1), Relaxed);
        if self.interest.load(Relaxed) & AWAITED != 0 {
            self.interest.fetch_and(!AWAITED, Relaxed);
            if let Some(waker) = self.flush_waker.lock().take() {
                waker.wake();
            }
        }
    }

    fn hang_up(&self) {
        self.has_hung_up.store(true, Relaxed);
        self.hung_up.notify_one();
    }

    fn phase(&self) -> Phase {
        [Phase::Idle, Phase::Head, Phase::Handler, Phase::Body][usize::from(self.phase.load(Relaxed) & 3)]
    }

    fn read(&self, count: usize) {
        self.bytes_read.store(self.bytes_read.load(Relaxed).wrapping_add(count as u64), Relaxed);
        if self.phase() == Phase::Idle {
            self.enter(Phase::Head);
        }
    }

    fn wrote(&self, count: usize) {
        self.bytes_written.store(self.bytes_written.load(Relaxed).wrapping_add(count as u64), Relaxed);
        self.write_blocked.store(false, Relaxed);
    }

    pub(super) fn snapshot(&self) -> ActivitySnapshot {
        ActivitySnapshot {
            phase: self.phase(),
            requests: self.requests.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            write_blocked: self.write_blocked.load(Relaxed),
            flush_blocked: self.flush_blocked.load(Relaxed),
        }
    }
}

/// The record at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ActivitySnapshot {
    phase: Phase,
    requests: u64,
    bytes_read: u64,
    bytes_written: u64,
    write_blocked: bool,
    flush_blocked: bool,
}

impl ActivitySnapshot {
    /// Whether a stopping server still waits for the connection. `before` is the previous record since the stop, if
    /// any. A handler may finish; a body or a response must make progress; the server waits for nothing else.
    pub(super) fn is_worth_waiting_for(&self, before: Option<&Self>) -> bool {
        let progresses = |count: fn(&Self) -> u64| before.is_none_or(|before| count(self) != count(before));
        if self.write_blocked || self.flush_blocked {
            return progresses(|snapshot| snapshot.bytes_written);
        }
        match self.phase {
            Phase::Idle | Phase::Head => false,
            Phase::Handler => true,
            Phase::Body => progresses(|snapshot| snapshot.bytes_read),
        }
    }

    /// Whether the connection stalled between an earlier record and this one. A head must arrive completely between two
    /// records; a body or a response only has to make progress.
    pub(super) fn stands_still_since(&self, before: &Self) -> bool {
        let same_request = self.phase == before.phase && self.requests == before.requests;
        let input = match self.phase {
            Phase::Idle | Phase::Handler => false,
            Phase::Head => same_request,
            Phase::Body => same_request && self.bytes_read == before.bytes_read,
        };
        let blocked = self.write_blocked && before.write_blocked;
        input || (blocked && self.bytes_written == before.bytes_written)
    }
}

/// A stream that records what passes through it, escapes `#` in request lines, and lingers when closing if needed.
#[derive(Debug)]
pub(super) struct Noted<S> {
    stream: S,
    activity: Arc<Activity>,
    request_lines: RequestLines,
    /// Escaped bytes that did not fit into the buffer they were read into.
    escaped: Bytes,
    /// Set once our side is closed.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> Noted<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        let (request_lines, escaped) = (RequestLines::default(), Bytes::new());
        Self { stream, activity, request_lines, escaped, lingering: None }
    }

    /// The stream itself. `None` if bytes after the last request have been read.
    pub(super) fn into_stream(self) -> Option<S> {
        self.escaped.is_empty().then_some(self.stream)
    }
}

impl<S: AsyncRead + Unpin> Noted<S> {
    /// Escapes and counts bytes that were read. Returns the bytes to use instead, if they differ.
    fn note_read(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !bytes.is_empty() {
            self.activity.read(bytes.len());
        }
        let escaped = self.request_lines.escape(bytes);
        if let Some(number) = self.request_lines.last_request() {
            self.activity.last_request.store(number, Relaxed);
        }
        escaped
    }

    /// Reads on while hyper does not, to notice the end of the stream.
    fn watch(&mut self, cx: &mut Context<'_>) {
        if !self.escaped.is_empty() || self.activity.has_hung_up.load(Relaxed) {
            return;
        }
        let mut buffer = [0; READ_AHEAD_BYTES];
        let mut buffer = ReadBuf::new(&mut buffer);
        match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => {}
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                let bytes = buffer.filled();
                self.escaped = self.note_read(bytes).unwrap_or_else(|| bytes.to_vec()).into();
            }
            Poll::Ready(_) => self.activity.hang_up(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let noted = &mut *self;
        if noted.escaped.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut noted.stream).poll_read(cx, buf))?;
            match noted.note_read(&buf.filled()[before..]) {
                None => return Poll::Ready(Ok(())),
                Some(escaped) => {
                    buf.set_filled(before);
                    noted.escaped = escaped.into();
                }
            }
        }
        let fits = noted.escaped.len().min(buf.remaining());
        buf.put_slice(&noted.escaped.split_to(fits));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        match &polled {
            Poll::Ready(Ok(count)) => self.activity.wrote(*count),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.write_blocked.store(true, Relaxed),
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.activity.flush_blocked.store(polled.is_pending(), Relaxed);
        if polled.is_ready() {
            // hyper flushes only once it has written all it holds.
            self.activity.flushed();
        }
        if self.activity.interest.load(Relaxed) & WATCHED != 0 {
            self.watch(cx);
        }
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let noted = &mut *self;
        let deadline = match &mut noted.lingering {
            Some(deadline) => deadline,
            None => {
                ready!(Pin::new(&mut noted.stream).poll_shutdown(cx))?;
                if !noted.activity.body_unread.load(Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                noted.lingering.insert(Box::pin(tokio::time::sleep(LINGER)))
            }
        };
        let mut scratch = [0; 4096];
        while deadline.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut noted.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => {}
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(phase: Phase) -> ActivitySnapshot {
        ActivitySnapshot {
            phase,
            requests: 1,
            bytes_read: 10,
            bytes_written: 10,
            write_blocked: false,
            flush_blocked: false,
        }
    }

    #[test]
    fn idle_connections_and_slow_handlers_do_not_stall() {
        assert!(!snapshot(Phase::Idle).stands_still_since(&snapshot(Phase::Idle)));
        assert!(!snapshot(Phase::Handler).stands_still_since(&snapshot(Phase::Handler)));
    }

    #[test]
    fn head_must_arrive_within_one_period() {
        let before = snapshot(Phase::Head);
        assert!(ActivitySnapshot { bytes_read: 11, ..before }.stands_still_since(&before));
        assert!(!ActivitySnapshot { requests: 2, ..before }.stands_still_since(&before));
        assert!(!before.stands_still_since(&snapshot(Phase::Idle)));
    }

    #[test]
    fn body_must_make_progress() {
        let before = snapshot(Phase::Body);
        assert!(before.stands_still_since(&before));
        assert!(!ActivitySnapshot { bytes_read: 11, ..before }.stands_still_since(&before));
        assert!(!ActivitySnapshot { requests: 2, ..before }.stands_still_since(&before));
    }

    #[test]
    fn response_must_make_progress() {
        let before = ActivitySnapshot { write_blocked: true, ..snapshot(Phase::Idle) };
        assert!(before.stands_still_since(&before));
        assert!(!ActivitySnapshot { bytes_written: 11, ..before }.stands_still_since(&before));
        assert!(!ActivitySnapshot { write_blocked: false, ..before }.stands_still_since(&before));
    }

    #[test]
    fn stopping_server_waits_only_for_progress() {
        for phase in [Phase::Idle, Phase::Head] {
            assert!(!snapshot(phase).is_worth_waiting_for(None), "{phase:?}");
        }
        let handler = snapshot(Phase::Handler);
        assert!(handler.is_worth_waiting_for(Some(&handler)));
        let body = snapshot(Phase::Body);
        assert!(body.is_worth_waiting_for(None));
        assert!(!body.is_worth_waiting_for(Some(&body)));
        assert!(ActivitySnapshot { bytes_read: 11, ..body }.is_worth_waiting_for(Some(&body)));
        for phase in [Phase::Idle, Phase::Handler] {
            for blocked in [
                ActivitySnapshot { write_blocked: true, ..snapshot(phase) },
                ActivitySnapshot { flush_blocked: true, ..snapshot(phase) },
            ] {
                assert!(blocked.is_worth_waiting_for(None), "{phase:?}");
                assert!(!blocked.is_worth_waiting_for(Some(&blocked)), "{phase:?}");
                assert!(
                    ActivitySnapshot { bytes_written: 11, ..blocked }.is_worth_waiting_for(Some(&blocked)),
                    "{phase:?}"
                );
            }
        }
    }

    #[test]
    fn activity_follows_a_request() {
        let activity = Activity::default();
        assert_eq!(activity.phase(), Phase::Idle);
        activity.read(5);
        assert_eq!(activity.phase(), Phase::Head);
        assert_eq!(activity.request_began(), 1);
        activity.read(5);
        assert_eq!((activity.phase(), activity.snapshot().bytes_read), (Phase::Handler, 10));
        activity.enter(Phase::Idle);
        assert_eq!(activity.phase(), Phase::Idle);
    }
}
