//! A response that is generated in pieces: its writer pauses when a piece is full and continues once the piece is
//! taken.
//!
//! The writer is an `async` function that awaits nothing but [`Pieces::pause`]. So each step of it is pure computation
//! and can run on any thread.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

/// A piece is full at this size. One call of [`Pieces::put`] may exceed it.
pub const PIECE_BYTES: usize = 64 << 10;

/// The output of a writer.
#[derive(Debug, Clone, Default)]
pub struct Pieces(Arc<Mutex<Vec<u8>>>);

impl Pieces {
    /// Appends bytes to the piece. Write little at a time, with a [`Pieces::pause`] in between.
    pub fn put<T>(&self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        write(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until the piece is taken, if it is full.
    pub async fn pause(&self) {
        poll_fn(|_| if self.is_full() { Poll::Pending } else { Poll::Ready(()) }).await;
    }

    fn is_full(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len() >= PIECE_BYTES
    }

    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }
}

/// A writer and its output since the last step.
pub(super) struct Writer {
    pieces: Pieces,
    writing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The result of one step of a writer.
#[derive(Debug)]
pub(super) enum Step {
    /// A piece that is not the last.
    Piece(Bytes, Writer),
    /// The last piece; may be empty.
    Last(Bytes),
}

impl Writer {
    pub(super) fn new<F: Future<Output = ()> + Send + 'static>(write: impl FnOnce(Pieces) -> F) -> Self {
        let pieces = Pieces::default();
        let writing = Box::pin(write(pieces.clone()));
        Self { pieces, writing }
    }

    /// Runs the writer up to the end of the next piece.
    pub(super) fn step(mut self) -> Step {
        // Nothing wakes the writer: the caller polls it when it needs the next piece.
        let mut context = Context::from_waker(Waker::noop());
        match self.writing.as_mut().poll(&mut context) {
            Poll::Pending => Step::Piece(self.pieces.take(), self),
            Poll::Ready(()) => Step::Last(self.pieces.take()),
        }
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writer_pauses_at_full_pieces() {
        let mut writer = Writer::new(|pieces| async move {
            for number in 0..10u8 {
                pieces.put(|out| out.extend(vec![number; PIECE_BYTES / 4 + 1]));
                pieces.pause().await;
            }
        });
        let mut sizes = Vec::new();
        let last = loop {
            match writer.step() {
                Step::Piece(piece, next) => {
                    sizes.push(piece.len());
                    writer = next;
                }
                Step::Last(piece) => break piece,
            }
        };
        assert_eq!((sizes, last.len()), (vec![PIECE_BYTES + 4; 2], PIECE_BYTES / 2 + 2));
    }
}
