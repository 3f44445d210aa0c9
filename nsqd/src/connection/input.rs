//! Pure: bytes that were received and are not decoded yet.

/// A buffer that is filled at its end and consumed from its front. It doubles when it is full, so it takes at most
/// twice the bytes that the client really sent, whatever length a command claims. It shrinks when idle.
#[derive(Debug, Default)]
pub struct Input {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Length of the command being received, as far as known.
    expected: usize,
}

/// Initial size, and the size that an idle connection keeps.
const SMALL: usize = 512;
/// Size up to which the buffer grows for a client that fills it with each read. Larger commands get this much more than
/// they need.
const LARGE: usize = 256 * 1024;

impl Input {
    /// The bytes that are not consumed yet.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Removes `count` bytes, which were decoded.
    pub fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Announces a command of `needed` bytes. This is only a claim: memory is allocated when the bytes arrive.
    pub fn expect(&mut self, needed: usize) {
        self.expected = needed;
        if needed > self.buffer.len() - self.start {
            self.compact();
        }
    }

    /// The space to read the next bytes into; never empty.
    pub fn spare(&mut self) -> &mut [u8] {
        if self.end == self.buffer.len() {
            self.compact();
        }
        if self.end == self.buffer.len() {
            self.grow();
        }
        &mut self.buffer[self.end..]
    }

    /// Records that `count` bytes were read into [`Input::spare`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        if self.end == self.buffer.len() && self.buffer.len() < LARGE {
            self.grow();
        }
    }

    /// Whether [`Input::shrink`] would free memory.
    pub fn is_large(&self) -> bool {
        self.buffer.len() > SMALL && self.buffer.len() > 2 * (self.end - self.start)
    }

    /// Frees unused memory. Call when nothing was received for a while, or after an unusually long command.
    pub fn shrink(&mut self) {
        if self.is_large() {
            self.buffer = self.data().to_vec();
            self.start = 0;
            self.end = self.buffer.len();
        }
    }

    fn grow(&mut self) {
        let len = self.buffer.len();
        let doubled = (len * 2).max(SMALL);
        // The last step to a large command need not be a doubling.
        let enough = if self.expected > len { self.expected + LARGE } else { doubled };
        self.buffer.resize(doubled.min(enough), 0);
    }

    fn compact(&mut self) {
        if self.start == 0 {
            return;
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_bytes_through_growing_and_compacting() {
        let mut input = Input::default();
        let mut sent = 0u8;
        let mut seen = 0u8;
        for round in 0..200usize {
            let spare = input.spare();
            let count = spare.len().min(round * 37 + 1);
            for byte in &mut spare[..count] {
                *byte = sent;
                sent = sent.wrapping_add(1);
            }
            input.filled(count);
            input.expect(round * 100);
            let take = input.data().len().saturating_sub(round % 7);
            for &byte in &input.data()[..take] {
                assert_eq!(byte, seen);
                seen = seen.wrapping_add(1);
            }
            input.consume(take);
        }
        input.consume(input.data().len());
        assert!(input.is_large());
        input.shrink();
        assert_eq!(input.buffer.capacity(), 0);
        assert!(!input.is_large());
    }

    #[test]
    fn idle_input_keeps_only_the_bytes_of_an_unfinished_command() {
        let mut input = Input::default();
        while input.data().len() < 1 << 20 {
            let count = input.spare().len();
            input.filled(count);
        }
        input.consume(input.data().len() - 10_000);
        let kept = input.data().to_vec();
        input.shrink();
        assert_eq!(input.data(), kept);
        assert_eq!(input.buffer.capacity(), 10_000);
        input.shrink();
        input.spare()[0] = 7;
        input.filled(1);
        assert_eq!((input.data().len(), input.data()[10_000]), (10_001, 7));
    }

    #[test]
    fn claimed_length_takes_no_memory_before_its_bytes_arrive() {
        let claimed = 5 << 20;
        let mut input = Input::default();
        while input.data().len() < claimed {
            let count = input.spare().len();
            input.filled(count);
            input.expect(claimed);
            assert!(input.buffer.len() <= (2 * input.data().len()).max(SMALL));
        }
        assert!(input.buffer.len() <= claimed + LARGE);
    }
}
