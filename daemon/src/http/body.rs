//! The body of a response: whole in memory, generated in pieces while it is sent, or live. After the response to an
//! upgrade, the connection belongs to a session.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

use super::activity::{Activity, Phase};
use super::heavy::Streamed;
use super::live::{Live, LiveSource};
use super::websocket::Session;

/// See the module.
#[derive(Debug)]
pub struct AnswerBody(Kind);

#[derive(Debug)]
enum Kind {
    /// Empty once it is sent.
    Whole(Bytes),
    /// The connection counts as working until the body is sent or given up.
    Streamed(Box<Streamed>, Option<Working>),
    /// As above, without end.
    Live(Live, Option<Working>),
    /// Empty; the session begins once the response is sent.
    Upgrade(Option<Session>),
}

/// The response cannot be completed. The connection closes, so that the client does not take a part for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerAborted {
    /// Generating it failed.
    #[error("cannot generate the response")]
    Failed,
    /// The client reads it too slowly.
    #[error("the client takes too long to read the response")]
    TooSlow,
}

impl AnswerBody {
    pub(super) fn streamed(streamed: Streamed) -> Self {
        Self(Kind::Streamed(Box::new(streamed), None))
    }

    /// A body whose pieces come from `source` as long as it has any.
    pub fn live(source: impl LiveSource) -> Self {
        Self(Kind::Live(Live::new(source), None))
    }

    pub(super) fn upgrade(session: Session) -> Self {
        Self(Kind::Upgrade(Some(session)))
    }

    /// The session that begins after this response, if the response is to an upgrade.
    pub(super) fn take_session(&mut self) -> Option<Session> {
        match &mut self.0 {
            Kind::Upgrade(session) => session.take(),
            _ => None,
        }
    }

    /// If the body is generated in pieces, makes the connection count as working until it is sent. Returns whether it
    /// is.
    pub(super) fn keep_working(&mut self, activity: &Arc<Activity>) -> bool {
        match &mut self.0 {
            Kind::Whole(_) | Kind::Upgrade(_) => false,
            Kind::Streamed(_, working) => {
                *working = Some(Working(Arc::clone(activity)));
                true
            }
            Kind::Live(live, working) => {
                live.follow(Arc::clone(activity));
                *working = Some(Working(Arc::clone(activity)));
                true
            }
        }
    }
}

impl Default for AnswerBody {
    fn default() -> Self {
        Self(Kind::Whole(Bytes::new()))
    }
}

impl<T: Into<Bytes>> From<T> for AnswerBody {
    fn from(bytes: T) -> Self {
        Self(Kind::Whole(bytes.into()))
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerAborted>>> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Streamed(streamed, _) => {
                streamed.poll_piece(cx).map(|piece| piece.map(|piece| piece.map(Frame::data)))
            }
            Kind::Live(live, _) => live.poll_piece(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece)))),
            Kind::Upgrade(_) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Upgrade(_) => true,
            Kind::Streamed(..) | Kind::Live(..) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Streamed(..) | Kind::Live(..) => SizeHint::default(),
            Kind::Upgrade(_) => SizeHint::with_exact(0),
        }
    }
}

#[derive(Debug)]
struct Working(Arc<Activity>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.enter(Phase::Idle);
    }
}
