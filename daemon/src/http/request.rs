//! A request as the handler gets it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Uri};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::activity::{Activity, Hangup, Phase};
use super::{Encoding, HttpError, InvalidQuery, Query};
use crate::listen::Remote;
use crate::tls::TlsSession;

/// An unneeded body up to this size is read and discarded. After a longer one the connection closes.
const MAX_DISCARDED_BYTES: usize = 8 << 20;

/// One HTTP request.
#[derive(Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The target as it was sent, except that a `#` in it is escaped.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The client.
    pub remote: Remote,
    /// Result of the TLS handshake; `None` without TLS.
    pub tls: Option<Arc<TlsSession>>,
    /// Last part of a path such as `/config/:opt`; `None` for other routes.
    pub parameter: Option<String>,
    /// How values in the response are encoded.
    pub encoding: Encoding,
    /// The body, not read yet.
    pub body: Body,
}

impl Request {
    pub(super) fn new(
        request: hyper::Request<Incoming>,
        remote: Remote,
        tls: Option<Arc<TlsSession>>,
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

    /// The path as it was sent, still escaped.
    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// Reports that the client is gone.
    pub fn hangup(&self) -> Hangup {
        Hangup::new(Arc::clone(&self.body.activity))
    }

    /// The parameters; fails if the query string is invalid.
    pub fn query(&self) -> Result<Query<'_>, InvalidQuery> {
        Query::parse(self.uri.query().unwrap_or_default())
    }

    /// Discards the body, which this endpoint does not use, so that the connection can continue. Then returns the
    /// parameters. Most endpoints start with this.
    pub async fn query_without_body(&mut self) -> Result<Query<'_>, HttpError> {
        self.body.discard().await?;
        Ok(self.query()?)
    }
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body exceeds the limit. It was not read completely, so the connection closes after the response.
    #[error("the body is too big")]
    TooBig,
    /// The bodies of all requests in progress use too much memory. This body was not read completely, so the connection
    /// closes after the response.
    #[error("too many bodies are in progress")]
    Busy,
    /// The client disconnected, or sent an invalid body.
    #[error("cannot read the body: {0}")]
    Unreadable(#[from] hyper::Error),
}

/// The body of a request.
#[derive(Debug)]
pub struct Body {
    incoming: Incoming,
    activity: Arc<Activity>,
    finished: bool,
    /// Bytes reserved in [`Activity::body_memory`].
    taken: usize,
}

impl Body {
    /// The length that the client announced: 0 without a body, `None` for a chunked body.
    pub fn content_length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Reads the whole body. If the announced length exceeds `limit`, refuses the body before reading it. A body that
    /// arrived in one piece is not copied.
    ///
    /// Dropping the future leaves the rest unread: the connection will close.
    pub async fn read_limited(&mut self, limit: usize) -> Result<Bytes, BodyError> {
        let announced = self.content_length();
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(BodyError::TooBig);
        }
        let Some(first) = self.next_piece().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(BodyError::TooBig);
        }
        if self.ended() {
            return Ok(first);
        }
        // `announced` is at most `limit` here. Without it, the buffer grows as the body arrives.
        let mut whole = BytesMut::with_capacity(announced.map_or(first.len(), |length| length as usize));
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

    /// Reads the body to its end and discards it. Fails beyond 8 MiB.
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
                    // Trailers are ignored.
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
