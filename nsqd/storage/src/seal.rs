//! Ties bytes to one place in one life of one file. A file begins a life when it is created or recycled.
//!
//! Journal files are recycled, and a failed write may leave whole records behind the end of the file. So a
//! checksum of the content alone would accept bytes that belong to another file, another
//! offset or an earlier life. Every file therefore draws a random stamp when it begins a life.
//! The header of every record and block carries a mark: a CRC-32C that starts from stamp and file
//! number and covers the offset and the header's own fields (among them the content's CRC-32C).

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// The part of a mark that is the same for a whole file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seal {
    seed: u32,
}

impl Seal {
    /// The seal of the file with this `stamp` and `number`.
    pub fn new(stamp: u64, number: u64) -> Self {
        Self { seed: crc32c::crc32c_append(crc32c::crc32c(&stamp.to_le_bytes()), &number.to_le_bytes()) }
    }

    /// Computes the only seal under which a header with these `fields` at `offset` has this `mark`. Used for a file
    /// whose stamp is lost. The caller must verify the header in another way.
    pub fn of_mark(mark: u32, offset: u64, fields: &[u8]) -> Self {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        const HIGHEST_BIT: u32 = 1 << 31;
        let covered = offset.to_le_bytes().into_iter().chain(fields.iter().copied());
        let mut state = !mark;
        for byte in covered.rev() {
            for _ in 0..u8::BITS {
                // A shift clears the highest bit and the polynomial sets it: so it shows whether a 1 was shifted out.
                state = match state & HIGHEST_BIT {
                    0 => state << 1,
                    _ => (state ^ POLYNOMIAL) << 1 | 1,
                };
            }
            state ^= u32::from(byte);
        }
        Self { seed: !state }
    }

    /// The mark of a header with these `fields` at `offset`.
    #[inline]
    pub fn mark(self, offset: u64, fields: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.seed, &offset.to_le_bytes()), fields)
    }
}

/// Draws a stamp for a file that begins a life.
pub fn new_stamp() -> u64 {
    SmallRng::from_os_rng().random()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn seal_is_recovered_from_a_mark(stamp: u64, number: u64, offset: u64, fields: Vec<u8>) {
            let seal = Seal::new(stamp, number);
            prop_assert_eq!(Seal::of_mark(seal.mark(offset, &fields), offset, &fields), seal);
        }
    }

    #[test]
    fn mark_depends_on_stamp_number_offset_and_fields() {
        let mark = Seal::new(1, 2).mark(3, b"fields");
        for other in [
            Seal::new(9, 2).mark(3, b"fields"),
            Seal::new(1, 9).mark(3, b"fields"),
            Seal::new(1, 2).mark(9, b"fields"),
            Seal::new(1, 2).mark(3, b"fieldz"),
        ] {
            assert_ne!(mark, other);
        }
    }
}
