//! How a channel calls a consumer's connection, and what happens while the connection cannot respond.
//!
//! A connection responds to a call at once while it waits for any event. While it waits for one thing only (a commit,
//! another server, the disk), it is *away*: the call is kept until it is back, and the channel calls the next consumer.
//! The connection wraps all such work in [`Working`]. So a call that arrived just before the work began to wait is
//! passed on too.
//!
//! ```text
//!            call                        take
//!   free ------------> called --------------------> free
//!    |                   |  the work waits: passed on
//!    | the work waits    v
//!    +-> away --call--> away, called --the work ends--> called
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;

/// Calls from a channel to one connection; see the module.
#[derive(Debug, Default)]
pub struct ConsumerSignal {
    state: AtomicU8,
    wake: Notify,
}

/// Messages may be available.
const CALLED: u8 = 1;
/// The connection waits for one thing only.
const AWAY: u8 = 2;
/// The channel is closed: the connection must end.
const CLOSED: u8 = 4;

/// What a connection must do for its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    None,
    /// Try to take messages.
    Take,
    /// End the connection.
    Close,
}

impl ConsumerSignal {
    /// Reports that messages may be available. Returns whether the connection responds at once; then the caller must
    /// call [`ConsumerSignal::wake`]. If not, the connection responds when it is back.
    #[must_use]
    pub fn call(&self) -> bool {
        self.state.fetch_or(CALLED, Ordering::AcqRel) & AWAY == 0
    }

    /// Wakes a connection that was called.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Calls and wakes a connection without depending on it: it tries to take now or when it is back.
    pub fn call_and_wake(&self) {
        if self.call() {
            self.wake();
        }
    }

    /// Makes the connection end, because the channel is closed.
    pub fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Waits for a call. Dropping the future loses no call: [`ConsumerSignal::answer`] still returns it.
    pub async fn called(&self) {
        self.wake.notified().await;
    }

    /// Returns what to do since the last answer. [`Call::Close`] is returned every time.
    pub fn answer(&self) -> Call {
        let state = self.state.load(Ordering::Acquire);
        if state & CLOSED != 0 {
            return Call::Close;
        }
        if state & CALLED == 0 {
            return Call::None;
        }
        // Calls from here on count as new: their messages may arrive after the take that follows.
        self.state.fetch_and(!CALLED, Ordering::AcqRel);
        Call::Take
    }

    /// Whether the connection waits for one thing only.
    pub fn is_away(&self) -> bool {
        self.state.load(Ordering::Acquire) & AWAY != 0
    }

    /// The connection begins to wait. Returns whether a call is pending, to which it cannot respond now.
    fn leave(&self) -> bool {
        self.state.fetch_or(AWAY, Ordering::AcqRel) & CALLED != 0
    }

    fn come_back(&self) {
        self.state.fetch_and(!AWAY, Ordering::AcqRel);
    }
}

/// Work of a connection. While it waits, the channel calls other consumers. When this is dropped, the connection is
/// back.
pub struct Working<'a, F, P> {
    signal: &'a ConsumerSignal,
    pass_on: P,
    work: Pin<&'a mut F>,
    is_away: bool,
}

impl<'a, F, P: Fn()> Working<'a, F, P> {
    /// `pass_on` is called if a call is pending when the work begins to wait.
    pub fn new(signal: &'a ConsumerSignal, work: Pin<&'a mut F>, pass_on: P) -> Self {
        Working { signal, pass_on, work, is_away: false }
    }
}

impl<F: Future, P: Fn() + Unpin> Future for Working<'_, F, P> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let result = self.work.as_mut().poll(cx);
        if result.is_pending() && !self.is_away {
            self.is_away = true;
            if self.signal.leave() {
                (self.pass_on)();
            }
        }
        result
    }
}

impl<F, P> Drop for Working<'_, F, P> {
    fn drop(&mut self) {
        if self.is_away {
            self.signal.come_back();
        }
    }
}

/// A time in which a connection waits for one thing only, such as a client that must read first. It ends when this is
/// dropped.
pub struct Away(Arc<ConsumerSignal>);

impl Away {
    /// `pass_on` is called if a call is pending.
    pub fn begin(signal: Arc<ConsumerSignal>, pass_on: impl FnOnce()) -> Self {
        if signal.leave() {
            pass_on();
        }
        Away(signal)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.0.come_back();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::Waker;

    use super::*;

    fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Work that is pending `waits` times.
    fn work(waits: usize) -> impl Future<Output = ()> {
        let mut left = waits;
        std::future::poll_fn(move |_| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            Poll::Pending
        })
    }

    #[test]
    fn call_before_the_work_waits_is_passed_on_once_and_answered_later() {
        let signal = ConsumerSignal::default();
        assert!(signal.call());
        let passed = Cell::new(0);
        let mut work = pin!(work(3));
        let mut working = Working::new(&signal, work.as_mut(), || passed.set(passed.get() + 1));
        for _ in 0..3 {
            assert!(poll(&mut working).is_pending());
            assert!(!signal.call(), "the connection is away");
        }
        assert!(poll(&mut working).is_ready());
        drop(working);
        assert_eq!(passed.get(), 1);
        assert_eq!(signal.answer(), Call::Take);
        assert_eq!(signal.answer(), Call::None);
        assert!(signal.call());
    }

    #[test]
    fn work_that_does_not_wait_keeps_its_call() {
        let signal = ConsumerSignal::default();
        assert!(signal.call());
        let mut work = pin!(work(0));
        let mut working = Working::new(&signal, work.as_mut(), || panic!("the connection was not away"));
        assert!(poll(&mut working).is_ready());
        drop(working);
        assert_eq!(signal.answer(), Call::Take);
    }

    #[test]
    fn dropping_work_brings_the_connection_back() {
        let signal = ConsumerSignal::default();
        let mut work = pin!(work(1));
        let mut working = Working::new(&signal, work.as_mut(), || panic!("no call was pending"));
        assert!(poll(&mut working).is_pending());
        assert!(!signal.call());
        drop(working);
        assert_eq!(signal.answer(), Call::Take);
        assert!(signal.call());
    }

    #[test]
    fn call_while_away_is_answered_later() {
        let signal = Arc::new(ConsumerSignal::default());
        assert!(signal.call());
        let passed = Cell::new(0);
        let away = Away::begin(signal.clone(), || passed.set(passed.get() + 1));
        assert_eq!(passed.get(), 1);
        assert!(!signal.call(), "the connection is away");
        drop(away);
        assert_eq!(signal.answer(), Call::Take);
        assert!(signal.call());
    }

    #[test]
    fn closed_channel_is_reported_every_time() {
        let signal = ConsumerSignal::default();
        signal.close();
        let mut called = pin!(signal.called());
        assert!(poll(&mut called).is_ready());
        assert_eq!(signal.answer(), Call::Close);
        assert_eq!(signal.answer(), Call::Close);
    }
}
