//! Where a gzip file ends that a crash may have cut: after its last whole member. Pure.
//!
//! Each sync ends a member, and a message is finished only after the sync. So everything after the last whole member
//! belongs to messages that nsqd delivers again.

use std::io::Read;

use flate2::bufread::GzDecoder;

/// The header of every member that this program writes, up to the byte that depends on the level.
const MEMBER_START: [u8; 8] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0];

/// Reads a piece of a file at an offset.
pub trait ReadAt {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()>;
}

/// How much to read at a time.
const WINDOW: u64 = 64 << 10;

/// Returns the length that the file should have: `len` if its last member is whole, else where that member begins. A file
/// without a member of ours keeps its length: something else has written it.
pub fn whole_len(file: &impl ReadAt, len: u64) -> std::io::Result<u64> {
    let mut end = len;
    while let Some(start) = last_start(file, end)? {
        match member_end(file, start, len)? {
            // Bytes that look like a start inside of compressed data.
            Member::NotOne => end = start + MEMBER_START.len() as u64 - 1,
            Member::Torn => return Ok(start),
            Member::EndsAt(at) => return Ok(at),
        }
    }
    // The first member is torn within its first bytes.
    let mut first = vec![0; usize::try_from(len.min(MEMBER_START.len() as u64)).unwrap_or(0)];
    file.read_at(0, &mut first)?;
    Ok(if first.len() < MEMBER_START.len() && MEMBER_START.starts_with(&first) { 0 } else { len })
}

/// The last place before `end` where a member of ours may start.
fn last_start(file: &impl ReadAt, end: u64) -> std::io::Result<Option<u64>> {
    let overlap = MEMBER_START.len() as u64 - 1;
    let mut until = end;
    loop {
        let from = until.saturating_sub(WINDOW);
        let mut window = vec![0; usize::try_from(until - from).unwrap_or(0)];
        file.read_at(from, &mut window)?;
        if let Some(at) = memchr::memmem::rfind(&window, &MEMBER_START) {
            return Ok(Some(from + at as u64));
        }
        if from == 0 {
            return Ok(None);
        }
        until = (from + overlap).min(until - 1);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Member {
    NotOne,
    Torn,
    EndsAt(u64),
}

/// Decompresses the member at `start`.
fn member_end(file: &impl ReadAt, start: u64, len: u64) -> std::io::Result<Member> {
    let source = Source::new(file, start, len);
    let mut decoder = GzDecoder::new(source);
    let mut sink = vec![0; 64 << 10];
    loop {
        match decoder.read(&mut sink) {
            Ok(0) => {
                let source = decoder.into_inner();
                return Ok(Member::EndsAt(source.offset - (source.buffer.len() - source.used) as u64));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(Member::Torn),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => return Ok(Member::NotOne),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(Member::NotOne),
            Err(error) => return Err(error),
        }
    }
}

/// A file from an offset on, buffered.
pub struct Source<'a, F> {
    file: &'a F,
    /// The end of the buffer.
    offset: u64,
    len: u64,
    buffer: Vec<u8>,
    used: usize,
}

impl<'a, F: ReadAt> Source<'a, F> {
    /// Reads from `offset` up to `len`.
    pub fn new(file: &'a F, offset: u64, len: u64) -> Self {
        Source { file, offset, len, buffer: Vec::new(), used: 0 }
    }
}

impl<F: ReadAt> std::io::BufRead for Source<'_, F> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.used == self.buffer.len() {
            let size = (self.len - self.offset).min(WINDOW);
            self.buffer.resize(usize::try_from(size).unwrap_or(0), 0);
            self.used = 0;
            self.file.read_at(self.offset, &mut self.buffer)?;
            self.offset += size;
        }
        Ok(&self.buffer[self.used..])
    }

    fn consume(&mut self, amount: usize) {
        self.used += amount;
    }
}

impl<F: ReadAt> Read for Source<'_, F> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let available = std::io::BufRead::fill_buf(self)?;
        let size = available.len().min(into.len());
        into[..size].copy_from_slice(&available[..size]);
        std::io::BufRead::consume(self, size);
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    impl ReadAt for Vec<u8> {
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            let from = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&self[from..from + buffer.len()]);
            Ok(())
        }
    }

    fn member(body: &[u8], level: u32) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn whole(file: Vec<u8>) -> u64 {
        let len = file.len() as u64;
        whole_len(&file, len).unwrap()
    }

    #[test]
    fn file_is_cut_after_its_last_whole_member() {
        for level in [1, 6, 9] {
            let first = member(b"one\n", level);
            let second = member(&vec![b'x'; 5000], level);
            let both = [&first[..], &second].concat();
            for len in 0..=both.len() {
                let expected = match len {
                    len if len == both.len() => len,
                    len if len >= first.len() => first.len(),
                    _ => 0,
                };
                assert_eq!(whole(both[..len].to_vec()), expected as u64, "level {level}, {len} bytes");
            }
        }
    }

    #[test]
    fn large_members_are_found_from_the_end() {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(400_000).collect();
        let (first, second) = (member(&noise, 1), member(&noise, 1));
        let both = [&first[..], &second].concat();
        assert!(first.len() as u64 > 2 * WINDOW);
        assert_eq!(whole(both.clone()), both.len() as u64);
        assert_eq!(whole(both[..both.len() - 1].to_vec()), first.len() as u64);
    }

    #[test]
    fn foreign_file_keeps_its_length() {
        assert_eq!(whole(b"not compressed at all".to_vec()), 21);
        assert_eq!(whole(Vec::new()), 0);
    }
}
