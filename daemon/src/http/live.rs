//! A body without a known end, such as server-sent events.
//!
//! The next piece is requested only once the previous one has been written to the socket, so a client that reads slowly
//! costs the memory of one piece, and the source knows what has been written.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::activity::Activity;

/// Generates the pieces of a live body.
pub trait LiveSource: Send + 'static {
    /// Waits for the next piece, which must not be empty. `None` ends the body. By the time of this call, all previous
    /// pieces have been written to the socket. The source is dropped when the client is gone or stalls.
    fn next_piece(&mut self) -> impl Future<Output = Option<Bytes>> + Send;
}

/// A body in progress.
pub(super) struct Live {
    state: State,
    activity: Option<Arc<Activity>>,
    /// [`Activity::flushes`] when the last piece was handed to the connection.
    handed_at: Option<u64>,
}

enum State {
    Waiting(Next),
    Making(Making),
    Ended,
}

/// Starts to wait for a piece.
type Next = Box<dyn FnOnce() -> Making + Send>;

/// Waits for a piece, and says how to wait for the next one.
struct Making(Pin<Box<dyn Future<Output = Option<Made>> + Send>>);

type Made = (Bytes, Next);

fn make(mut source: Box<impl LiveSource>) -> Making {
    Making(Box::pin(async move {
        let piece = source.next_piece().await?;
        Some((piece, Box::new(move || make(source)) as Next))
    }))
}

impl Live {
    pub(super) fn new(source: impl LiveSource) -> Self {
        let source = Box::new(source);
        Self { state: State::Waiting(Box::new(move || make(source))), activity: None, handed_at: None }
    }

    /// Sets the connection that the body is sent on.
    pub(super) fn follow(&mut self, activity: Arc<Activity>) {
        self.activity = Some(activity);
    }

    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let (Some(before), Some(activity)) = (self.handed_at, &self.activity) {
            ready!(activity.poll_flushed_since(before, cx));
            self.handed_at = None;
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Waiting(next) => self.state = State::Making(next()),
                State::Making(mut making) => match making.0.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.state = State::Making(making);
                        return Poll::Pending;
                    }
                    Poll::Ready(Some((piece, next))) => {
                        self.state = State::Waiting(next);
                        self.handed_at = self.activity.as_ref().map(|activity| activity.flushes());
                        return Poll::Ready(Some(piece));
                    }
                    Poll::Ready(None) => return Poll::Ready(None),
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    struct Count(u8);

    impl LiveSource for Count {
        async fn next_piece(&mut self) -> Option<Bytes> {
            self.0 += 1;
            (self.0 <= 2).then(|| Bytes::copy_from_slice(&[self.0]))
        }
    }

    #[test]
    fn pieces_come_until_the_source_ends() {
        let mut live = Live::new(Count(0));
        let mut cx = Context::from_waker(Waker::noop());
        let pieces = std::iter::from_fn(|| match live.poll_piece(&mut cx) {
            Poll::Ready(piece) => piece,
            Poll::Pending => panic!("the source never waits"),
        });
        assert_eq!(pieces.collect::<Vec<_>>(), [&[1][..], &[2]]);
        assert_eq!(live.poll_piece(&mut cx), Poll::Ready(None));
    }

    #[test]
    fn next_piece_waits_until_the_previous_one_is_written() {
        let activity = Arc::new(Activity::default());
        let mut live = Live::new(Count(0));
        live.follow(Arc::clone(&activity));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(live.poll_piece(&mut cx).is_ready());
        assert!(live.poll_piece(&mut cx).is_pending());
        assert!(live.poll_piece(&mut cx).is_pending());
    }
}
