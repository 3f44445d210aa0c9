//! Takes messages out of a channel for a drain that moves them to another node.

use super::transfer::Movable;
use super::{Channel, SLICE};
use crate::log::reader::CannotRead;
use crate::storage::journal::JournalError;

/// What [`Channel::read_movable`] found.
#[derive(Debug, Default)]
pub struct ReadMovable {
    /// In order, with their stored frames.
    pub messages: Vec<(Movable, Vec<u8>)>,
    /// Messages that exist nowhere any more.
    pub lost: Vec<u64>,
    /// Where to continue; `None` at the end.
    pub next: Option<u64>,
}

impl Channel {
    /// Starts or ends moving the messages to another node. Meanwhile nothing is handed out.
    pub fn set_moving_out(&self, is_moving_out: bool) {
        let mut inner = self.inner.lock();
        if inner.state.is_moving_out() != is_moving_out {
            inner.state.set_moving_out(is_moving_out);
            self.after_change(inner);
        }
    }

    /// Takes all messages in flight from their consumers, as if these had left.
    pub fn recall_in_flight(&self) {
        loop {
            let mut inner = self.inner.lock();
            let has_more = inner.state.recall_in_flight(SLICE);
            self.after_change(inner);
            if !has_more {
                return;
            }
        }
    }

    /// Reads messages that can move, from `from` on, at most `most` and as many bytes as one read of redelivered messages.
    /// Blocks on the disk.
    pub fn read_movable(&self, from: u64, most: usize) -> Result<ReadMovable, CannotRead> {
        let (movable, next) = self.inspect(|state, _| state.movable(from, most));
        let sequences: Vec<u64> = movable.iter().map(|message| message.sequence).collect();
        let (frames, result) = self.parts.log.gather(&sequences);
        let mut frames = frames.iter().peekable();
        if frames.peek().is_none() {
            result?;
            // Nothing failed, so they are all lost.
            return Ok(ReadMovable { messages: Vec::new(), lost: sequences, next });
        }
        let mut read = ReadMovable { next, ..ReadMovable::default() };
        for message in movable {
            match frames.peek() {
                Some((sequence, frame)) if *sequence == message.sequence => {
                    read.messages.push((message, frame.to_vec()));
                    frames.next();
                }
                Some(_) => read.lost.push(message.sequence),
                // The read was large enough.
                None => {
                    read.next = Some(message.sequence);
                    break;
                }
            }
        }
        Ok(read)
    }

    /// These messages, in order, are on their way to the other node.
    pub fn set_in_transit(&self, sequences: Vec<u64>) {
        self.inner.lock().state.set_in_transit(sequences);
    }

    /// Removes messages, in order, that the other node has. Waits until that is as durable as configured. After an error
    /// they are still here. Do not drop the future.
    pub async fn remove_moved(&self, sequences: &[u64]) -> Result<u64, JournalError> {
        self.set_in_transit(Vec::new());
        let journal = self.parts.journal.as_ref();
        let appended = self.depart(sequences, |_, removed| match journal.zip(removed) {
            Some((journal, record)) => journal.append(&record).map(Some),
            None => Ok(None),
        })?;
        let Some((departed, ticket)) = appended else { return Ok(0) };
        let committed = match journal.zip(ticket) {
            Some((journal, ticket)) => journal.commit(ticket).await,
            None => Ok(()),
        };
        match committed {
            Ok(()) => self.departed(&departed, false),
            Err(_) => self.put_back(&departed),
        }
        committed.map(|()| departed.len() as u64)
    }
}
