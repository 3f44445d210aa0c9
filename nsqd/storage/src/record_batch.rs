//! Several records as one, so that a reader sees all of them or none. Pure.
//!
//! A journal record holds one [`Record`] or a batch of them. A batch is a kind byte and, for each record, its length
//! (u32, little-endian) and its bytes. Batches do not nest.

use super::TopicNumber;
use super::record::{self, Record, RecordError};

/// The first byte of a batch. No [`Record`] begins with it.
const BATCH: u8 = 17;
const LENGTH_BYTES: usize = 4;

/// Appends the bytes of a batch to `out`.
pub(super) fn encode(records: &[Record<'_>], out: &mut Vec<u8>) {
    out.push(BATCH);
    for record in records {
        let start = out.len();
        out.extend_from_slice(&[0; LENGTH_BYTES]);
        record.encode(out);
        let length = (out.len() - start - LENGTH_BYTES) as u32;
        out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    }
}

/// The records in the content of a journal record: one, or those of a batch. An error if any of them is invalid.
pub fn decode(content: &[u8]) -> Result<impl Iterator<Item = Record<'_>>, RecordError> {
    for part in Parts::of(content) {
        Record::decode(part.ok_or(RecordError::Malformed)?)?;
    }
    // All were valid a moment ago.
    Ok(Parts::of(content).flatten().filter_map(|part| Record::decode(part).ok()))
}

/// Calls `note` with the topic and the last sequence number of each publish in the content of a journal record.
pub(super) fn published(content: &[u8], mut note: impl FnMut(TopicNumber, u64)) {
    // Called for every record that is written, so the usual case is short.
    if content.first() != Some(&BATCH) {
        if let Some((topic, last)) = record::published(content) {
            note(topic, last);
        }
        return;
    }
    for (topic, last) in Parts::of(content).flatten().filter_map(record::published) {
        note(topic, last);
    }
}

/// The bytes of each record; `None` for a part that is cut off, which is the last.
enum Parts<'a> {
    One(Option<&'a [u8]>),
    Batch(&'a [u8]),
}

impl<'a> Parts<'a> {
    fn of(content: &'a [u8]) -> Self {
        match content.split_first() {
            Some((&BATCH, rest)) => Parts::Batch(rest),
            _ => Parts::One(Some(content)),
        }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Option<&'a [u8]>> {
        match self {
            Parts::One(content) => content.take().map(Some),
            Parts::Batch([]) => None,
            Parts::Batch(rest) => {
                let part = rest
                    .split_first_chunk::<LENGTH_BYTES>()
                    .and_then(|(length, after)| after.split_at_checked(u32::from_le_bytes(*length) as usize));
                let (part, after) = part.map_or((None, &[][..]), |(part, after)| (Some(part), after));
                *rest = after;
                Some(part)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChannelNumber;

    const DELETED: Record<'_> = Record::TopicDeleted { topic: TopicNumber(7) };
    const PAUSED: Record<'_> =
        Record::ChannelPaused { topic: TopicNumber(7), channel: ChannelNumber(1), paused: true };
    const PUBLISHED: Record<'_> = Record::Publish {
        topic: TopicNumber(9),
        first_sequence: 100,
        count: 3,
        due_ns: None,
        only: None,
        frames: b"abc",
    };

    fn decoded(content: &[u8]) -> Result<Vec<Record<'_>>, RecordError> {
        decode(content).map(Iterator::collect)
    }

    #[test]
    fn a_single_record_and_a_batch_are_read_alike() {
        let mut single = Vec::new();
        PAUSED.encode(&mut single);
        assert_eq!(decoded(&single), Ok(vec![PAUSED]));
        let mut batch = Vec::new();
        encode(&[PUBLISHED, PAUSED, DELETED], &mut batch);
        assert_eq!(decoded(&batch), Ok(vec![PUBLISHED, PAUSED, DELETED]));
        let mut noted = Vec::new();
        published(&batch, |topic, last| noted.push((topic, last)));
        assert_eq!(noted, [(TopicNumber(9), 102)]);
    }

    #[test]
    fn a_batch_with_an_invalid_part_is_invalid() {
        let mut batch = Vec::new();
        encode(&[PAUSED, DELETED], &mut batch);
        for cut in 2..batch.len() {
            let whole = cut == batch.len() || cut == 1 + LENGTH_BYTES + 10;
            assert_eq!(decoded(&batch[..cut]).is_ok(), whole, "cut at {cut}");
        }
        let mut nested = Vec::new();
        encode(&[DELETED], &mut nested);
        let inner = nested.clone();
        nested.clear();
        nested.push(BATCH);
        nested.extend_from_slice(&(inner.len() as u32).to_le_bytes());
        nested.extend_from_slice(&inner);
        assert_eq!(decoded(&nested), Err(RecordError::UnknownKind(BATCH)));
        assert_eq!(decoded(&[]), Err(RecordError::Malformed));
    }
}
