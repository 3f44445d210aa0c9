//! Pure: a map by numbers that no client can choose: sequence numbers, and hashes with a secret.
//!
//! The standard hasher protects from chosen keys and costs as much as everything else that happens to a message in a map.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// See the module.
pub type NumberMap<V> = HashMap<u64, V, BuildHasherDefault<NumberHasher>>;

/// Spreads a number over all bits.
#[derive(Debug, Default, Clone, Copy)]
pub struct NumberHasher(u64);

/// 2^64 divided by the golden ratio: numbers in a row end up far from each other.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(u64::from(byte)));
    }

    fn write_u64(&mut self, number: u64) {
        let spread = (self.0 ^ number).wrapping_mul(SPREAD);
        // The lowest bits of a product depend on the lowest bits only.
        self.0 = spread ^ (spread >> 32);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;

    use super::*;

    #[test]
    fn numbers_with_equal_low_bits_differ_in_the_low_bits_of_their_hashes() {
        let build = BuildHasherDefault::<NumberHasher>::default();
        for step in [1, 7, 256, 1 << 20, 1 << 32] {
            let low: HashSet<u64> = (0..256u64).map(|index| build.hash_one(index * step) & 0xFFFF).collect();
            assert!(low.len() > 240, "step {step}: {} different hashes of 256", low.len());
        }
    }
}
