//! Where a zstd file ends that a crash may have cut: after its last whole frame. Pure.
//!
//! Each sync ends a frame, and a message is finished only after the sync. So everything after the last whole frame belongs
//! to messages that nsqd delivers again. The format is that of RFC 8878: a frame is a header and blocks, each with its size.

use std::io::Read;

use super::gzip_tail::{ReadAt, Source};

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Returns the length that the file should have: `len` if its last frame is whole, else where that frame begins. A file that
/// does not begin with a frame keeps its length: something else has written it.
pub fn whole_len(file: &impl ReadAt, len: u64) -> std::io::Result<u64> {
    let mut first = vec![0; usize::try_from(len.min(MAGIC.len() as u64)).unwrap_or(0)];
    file.read_at(0, &mut first)?;
    if !MAGIC.starts_with(&first) {
        return Ok(len);
    }
    let (mut start, mut before) = (0, 0);
    while start < len {
        match frame_end(file, start, len)? {
            Some(end) => (before, start) = (start, end),
            None => break,
        }
    }
    // The sizes of the last frame may be right although its content never reached the disk.
    if start > before && !is_readable(file, before, start) {
        return Ok(before);
    }
    Ok(start)
}

/// The end of the frame at `start`; `None` if it is not whole.
fn frame_end(file: &impl ReadAt, start: u64, len: u64) -> std::io::Result<Option<u64>> {
    let mut at = start;
    let mut bytes = |count: usize| -> std::io::Result<Option<Vec<u8>>> {
        if len.saturating_sub(at) < count as u64 {
            return Ok(None);
        }
        let mut bytes = vec![0; count];
        file.read_at(at, &mut bytes)?;
        at += count as u64;
        Ok(Some(bytes))
    };
    let Some(header) = bytes(MAGIC.len() + 1)? else { return Ok(None) };
    if header[..MAGIC.len()] != MAGIC {
        return Ok(None);
    }
    let descriptor = header[MAGIC.len()];
    let is_single_segment = descriptor & 0x20 != 0;
    let has_checksum = descriptor & 0x04 != 0;
    let content_size = match descriptor >> 6 {
        0 => usize::from(is_single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let window = usize::from(!is_single_segment);
    if bytes(window + dictionary + content_size)?.is_none() {
        return Ok(None);
    }
    loop {
        let Some(block) = bytes(3)? else { return Ok(None) };
        let header = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let (is_last, kind, size) = (header & 1 == 1, header >> 1 & 3, header >> 3);
        // A run of one byte is stored as that byte.
        let stored = match kind {
            1 => 1,
            0 | 2 => size as usize,
            _ => return Ok(None),
        };
        if bytes(stored)?.is_none() {
            return Ok(None);
        }
        if is_last {
            let checksum = if has_checksum { 4 } else { 0 };
            return Ok(bytes(checksum)?.map(|_| at));
        }
    }
}

/// Whether the frame between the two places can be decompressed.
fn is_readable(file: &impl ReadAt, start: u64, end: u64) -> bool {
    let source = Source::new(file, start, end);
    let Ok(mut decoder) = zstd::stream::read::Decoder::with_buffer(source) else { return false };
    let mut sink = vec![0; 64 << 10];
    loop {
        match decoder.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn frame(body: &[u8], level: i32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), level).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    fn whole(file: Vec<u8>) -> u64 {
        let len = file.len() as u64;
        whole_len(&file, len).unwrap()
    }

    #[test]
    fn file_is_cut_after_its_last_whole_frame() {
        let mut random = fastrand::Rng::with_seed(7);
        let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(3_000).collect();
        for level in [1, 3, 19] {
            let first = frame(b"one\n", level);
            let second = frame(&[&vec![b'x'; 5000][..], &noise].concat(), level);
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
    fn frame_whose_content_is_lost_is_cut() {
        let first = frame(b"one\n", 3);
        let mut both = [&first[..], &frame(b"two two two two\n", 3)].concat();
        let last = both.len() - 6;
        both[last] ^= 0xff;
        assert_eq!(whole(both), first.len() as u64);
    }

    #[test]
    fn foreign_file_keeps_its_length() {
        assert_eq!(whole(b"not compressed at all".to_vec()), 21);
        assert_eq!(whole(Vec::new()), 0);
    }
}
