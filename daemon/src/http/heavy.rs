//! Responses that are large or take long to generate: few at a time, and not on the threads that serve connections.
//!
//! A daemon with many topics generates megabytes for one request, which takes about a second. Each piece of such a
//! response is generated on a thread for blocking work, after the previous piece was sent. Only generating takes one of
//! the few turns. Between pieces a slow client costs nothing but the response's place, up to [`MAX_ANSWER_TIME`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::body::{AnswerAborted, AnswerBody};
use super::pieces::{Pieces, Step, Writer};
use super::{HttpError, Response, response};

/// Maximum number of heavy responses in progress, most of them waiting for a turn or for their client. Further requests
/// are refused.
pub const MAX_ANSWERS: usize = 64;

/// Maximum time a client may take to read a response that is generated in pieces.
pub const MAX_ANSWER_TIME: Duration = Duration::from_secs(300);

/// Maximum number of threads that generate responses.
const MAX_TURNS: usize = 4;

/// The heavy responses of a daemon. Clones share the limits.
#[derive(Debug, Clone)]
pub struct HeavyAnswers {
    turns: Arc<Semaphore>,
    places: Arc<Semaphore>,
    max_time: Duration,
}

impl Default for HeavyAnswers {
    /// Leaves at least half of the processors for other work.
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::new((processors / 2).clamp(1, MAX_TURNS), MAX_ANSWERS)
    }
}

impl HeavyAnswers {
    fn new(turns: usize, places: usize) -> Self {
        let (turns, places) = (Arc::new(Semaphore::new(turns)), Arc::new(Semaphore::new(places)));
        Self { turns, places, max_time: MAX_ANSWER_TIME }
    }

    /// A response written by `write`. If `is_small`, the first piece, which is usually the whole response, is generated
    /// at once on this thread. Returns `503 BUSY` if too many heavy responses are in progress.
    pub async fn answer<F: Future<Output = ()> + Send + 'static>(
        &self,
        content_type: HeaderValue,
        is_small: bool,
        write: impl FnOnce(Pieces) -> F,
    ) -> Result<Response, HttpError> {
        let writer = Writer::new(write);
        let (step, place) = match is_small {
            true => (writer.step(), None),
            false => {
                let place = self.place()?;
                let step = self.step(writer).await.map_err(|_| HttpError::INTERNAL_ERROR)?;
                (step, Some(place))
            }
        };
        let body = match step {
            Step::Last(bytes) => AnswerBody::from(bytes),
            Step::Piece(first, writer) => {
                let place = place.map_or_else(|| self.place(), Ok)?;
                AnswerBody::streamed(Streamed {
                    state: State::Made(first, Some(writer)),
                    heavy: self.clone(),
                    deadline: Instant::now() + self.max_time,
                    _place: place,
                })
            }
        };
        let mut response = response::empty();
        response.headers_mut().insert(response::CONTENT_TYPE, content_type);
        *response.body_mut() = body;
        Ok(response)
    }

    /// Runs heavy work whose result is not large. Returns `503 BUSY` if too much work is in progress.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, HttpError> {
        let _place = self.place()?;
        self.turn(work).await.map_err(|_| HttpError::INTERNAL_ERROR)
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, HttpError> {
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| HttpError::BUSY)
    }

    async fn step(&self, writer: Writer) -> Result<Step, AnswerAborted> {
        self.turn(move || writer.step()).await
    }

    /// The work keeps its turn even if the caller drops the future.
    async fn turn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AnswerAborted> {
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(|_| AnswerAborted::Failed)?;
        let made = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        // An error here is a panic, which the panic hook has logged.
        made.await.map_err(|_| AnswerAborted::Failed)
    }
}

/// A response in progress.
#[derive(Debug)]
pub(super) struct Streamed {
    state: State,
    heavy: HeavyAnswers,
    deadline: Instant,
    _place: OwnedSemaphorePermit,
}

enum State {
    /// A piece to send, and the writer of the next one.
    Made(Bytes, Option<Writer>),
    Making(Pin<Box<dyn Future<Output = Result<Step, AnswerAborted>> + Send>>),
    Ended,
}

impl Streamed {
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerAborted>>> {
        if !matches!(self.state, State::Ended) && Instant::now() > self.deadline {
            self.state = State::Ended;
            return Poll::Ready(Some(Err(AnswerAborted::TooSlow)));
        }
        loop {
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Ended => return Poll::Ready(None),
                State::Made(bytes, writer) if bytes.is_empty() => match writer {
                    Some(writer) => self.make(writer),
                    None => return Poll::Ready(None),
                },
                State::Made(bytes, writer) => {
                    self.state = State::Made(Bytes::new(), writer);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                State::Making(mut making) => {
                    let polled = making.as_mut().poll(cx);
                    if polled.is_pending() {
                        self.state = State::Making(making);
                    }
                    match ready!(polled) {
                        Ok(Step::Piece(piece, writer)) => self.state = State::Made(piece, Some(writer)),
                        Ok(Step::Last(piece)) => self.state = State::Made(piece, None),
                        Err(aborted) => return Poll::Ready(Some(Err(aborted))),
                    }
                }
            }
        }
    }

    fn make(&mut self, writer: Writer) {
        let heavy = self.heavy.clone();
        self.state = State::Making(Box::pin(async move { heavy.step(writer).await }));
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Made(..) => "Made",
            Self::Making(_) => "Making",
            Self::Ended => "Ended",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::pieces::PIECE_BYTES;
    use super::*;
    use http_body_util::BodyExt as _;
    use hyper::body::Body as _;

    const TEXT: HeaderValue = HeaderValue::from_static("text/plain");

    fn pieces_of(count: u8) -> impl FnOnce(Pieces) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        move |pieces| {
            Box::pin(async move {
                for number in 0..count {
                    pieces.put(|out| out.extend(vec![number; PIECE_BYTES]));
                    pieces.pause().await;
                }
                pieces.put(|out| out.push(b'.'));
            })
        }
    }

    #[tokio::test]
    async fn response_of_one_piece_has_a_known_length() {
        for is_small in [true, false] {
            let response = HeavyAnswers::default().answer(TEXT, is_small, pieces_of(0)).await.unwrap();
            assert_eq!(response.body().size_hint().exact(), Some(1));
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), ".");
        }
    }

    #[tokio::test]
    async fn pieces_are_sent_in_order() {
        for is_small in [true, false] {
            let response = HeavyAnswers::default().answer(TEXT, is_small, pieces_of(3)).await.unwrap();
            assert_eq!(response.body().size_hint().exact(), None);
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let expected: Vec<u8> =
                (0..3).flat_map(|number| vec![number; PIECE_BYTES]).chain([b'.']).collect();
            assert_eq!(body, expected);
        }
    }

    #[tokio::test]
    async fn unread_responses_take_no_turn() {
        let heavy = HeavyAnswers::new(1, 3);
        let unread = [
            heavy.answer(TEXT, false, pieces_of(3)).await.unwrap(),
            heavy.answer(TEXT, true, pieces_of(3)).await.unwrap(),
        ];
        let read = heavy.answer(TEXT, false, pieces_of(3)).await.unwrap();
        assert_eq!(heavy.run(|| 7).await, Err(HttpError::BUSY));
        assert_eq!(read.into_body().collect().await.unwrap().to_bytes().len(), 3 * PIECE_BYTES + 1);
        assert_eq!(heavy.run(|| 7).await, Ok(7));
        drop(unread);
        assert_eq!(heavy.places.available_permits(), 3);
    }

    #[tokio::test]
    async fn panicking_writer_aborts_the_response() {
        let heavy = HeavyAnswers::default();
        let write = |pieces: Pieces| async move {
            pieces.put(|out| out.extend(vec![0; PIECE_BYTES]));
            pieces.pause().await;
            panic!("in the middle");
        };
        let response = heavy.answer(TEXT, false, write).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap_err(), AnswerAborted::Failed);
        assert_eq!(heavy.run(|| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn client_that_reads_too_slowly_is_cut_off() {
        let heavy = HeavyAnswers { max_time: Duration::ZERO, ..HeavyAnswers::default() };
        let mut response = heavy.answer(TEXT, false, pieces_of(3)).await.unwrap();
        let error = response.body_mut().frame().await.unwrap().unwrap_err();
        assert_eq!(error, AnswerAborted::TooSlow);
        assert!(response.body_mut().frame().await.is_none());
    }
}
