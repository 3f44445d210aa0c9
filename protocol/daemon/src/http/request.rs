//! A request as a handler sees it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::activity::{Activity, Phase};
use super::{Encoding, HttpError, InvalidQuery, Query};
use crate::listen::Remote;
use crate::tls::Session;

/// A body that nobody asked for is read and thrown away up to this size; a longer one costs the
/// connection.
const MAX_DISCARDED_BYTES: usize = 8 << 20;

/// One request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The target as it was sent.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// Who asks.
    pub remote: Remote,
    /// What TLS was agreed on, if it came over TLS.
    pub tls: Option<Arc<Session>>,
    /// The end of a path such as `/config/:opt`.
    pub parameter: Option<String>,
    /// How values are answered.
    pub encoding: Encoding,
    /// The body, not read yet.
    pub body: Body,
}

impl Request {
    pub(super) fn new(
        request: hyper::Request<Incoming>,
        remote: Remote,
        tls: Option<Arc<Session>>,
        activity: Arc<Activity>,
    ) -> Self {
        let (head, incoming) = request.into_parts();
        let encoding = Encoding::accepted(&head.headers);
        let body = Body { incoming, activity, finished: false, taken: 0 };
        Self {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            remote,
            tls,
            parameter: None,
            encoding,
            body,
        }
    }

    /// The path, as it was sent.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// The parameters.
    pub fn query(&self) -> Result<Query<'_>, InvalidQuery> {
        Query::parse(self.uri.query().unwrap_or_default())
    }

    /// Reads a body that means nothing to this endpoint, so that the connection can go on; then the
    /// parameters. What most endpoints begin with.
    pub async fn query_without_body(&mut self) -> Result<Query<'_>, HttpError> {
        self.body.discard().await?;
        Ok(self.query()?)
    }
}

/// Why a body could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Longer than the limit. It was not read to its end, so the connection closes after the answer.
    #[error("the body is too big")]
    TooBig,
    /// The bodies of all requests in progress take too much memory. This one was not read to its end, so the connection closes
    /// after the answer.
    #[error("too many bodies are in progress")]
    Busy,
    /// The client broke off, or sent something that is no body.
    #[error("the body could not be read: {0}")]
    Unreadable(#[from] hyper::Error),
}

/// The body of a request.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    activity: Arc<Activity>,
    finished: bool,
    /// Of [`Activity::body_memory`].
    taken: usize,
}

impl Body {
    /// Its length if the client has told it: 0 when there is none, `None` when it comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Reads it whole. Refuses it before reading if it is known to be longer than `limit`.
    /// A body that came in one piece is not copied.
    ///
    /// Dropping the future leaves the rest unread: the connection will close.
    pub async fn read_limited(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let told = self.content_length();
        if told.is_some_and(|length| length > limit as u64) {
            return Err(BodyError::TooBig);
        }
        let Some(first) = self.next_piece().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(BodyError::TooBig);
        }
        if self.ended() {
            return Ok(first);
        }
        // `told` is at most `limit` here; without it, grow as it comes.
        let mut whole = BytesMut::with_capacity(told.map_or(first.len(), |length| length as usize));
        self.take_memory(first.len())?;
        whole.extend_from_slice(&first);
        while let Some(piece) = self.next_piece().await? {
            if whole.len() + piece.len() > limit {
                return Err(BodyError::TooBig);
            }
            self.take_memory(piece.len())?;
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// Reads it to its end and throws it away.
    pub async fn discard(&mut self) -> Result<(), HttpError> {
        let mut discarded = 0;
        while let Some(piece) = self.next_piece().await.map_err(|_| HttpError::INVALID_REQUEST)? {
            discarded += piece.len();
            if discarded > MAX_DISCARDED_BYTES {
                return Err(HttpError::INVALID_REQUEST);
            }
        }
        Ok(())
    }

    fn take_memory(&mut self, bytes: usize) -> Result<(), BodyError> {
        if !self.activity.body_memory().take(bytes, self.taken) {
            return Err(BodyError::Busy);
        }
        self.taken += bytes;
        Ok(())
    }

    fn ended(&self) -> bool {
        self.finished || self.incoming.is_end_stream()
    }

    async fn next_piece(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.ended() {
            return Ok(None);
        }
        self.activity.enter(Phase::Body);
        let piece = loop {
            match self.incoming.frame().await {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => break Some(data),
                    // Trailers mean nothing to us.
                    Err(_) => continue,
                },
                Some(Err(error)) => return Err(error.into()),
                None => {
                    self.finished = true;
                    break None;
                }
            }
        };
        self.activity.enter(Phase::Handler);
        Ok(piece)
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if self.taken > 0 {
            self.activity.body_memory().give_back(self.taken);
        }
        if !self.ended() {
            self.activity.body_left_unread();
        }
    }
}
