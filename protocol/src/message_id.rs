//! Message ids: sixteen bytes on the wire, a `u64` in this nsqd.
//!
//! A client returns an id exactly as it received it. Any sixteen bytes are a well-formed id; an unknown id is simply
//! not in flight.

use std::fmt;

/// Sixteen bytes that identify a message within a topic of one nsqd.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// Bytes of an id on the wire.
    pub const BYTES: usize = 16;

    /// The id with `number` in lower-case hexadecimal.
    pub fn from_u64(number: u64) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut id = [0; 16];
        for (pair, byte) in id.chunks_exact_mut(2).zip(number.to_be_bytes()) {
            pair[0] = DIGITS[(byte >> 4) as usize];
            pair[1] = DIGITS[(byte & 15) as usize];
        }
        Self(id)
    }

    /// The number of the id; `None` unless the id consists of sixteen lower-case hexadecimal digits.
    pub fn to_u64(self) -> Option<u64> {
        let mut number = 0;
        // One check after all digits, because decoding FIN is a hot path: no branch per digit.
        let mut seen = 0;
        for byte in self.0 {
            let digit = HEX_VALUE[byte as usize];
            seen |= digit;
            number = number << 4 | u64::from(digit & 15);
        }
        (seen < 16).then_some(number)
    }

    /// The id from a slice of exactly sixteen bytes; `None` for any other length.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// The bytes of the id on the wire.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// The value of a byte as a lower-case hexadecimal digit; 0xff if it is none.
const HEX_VALUE: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut digit = 0;
    while digit < 16 {
        table[b"0123456789abcdef"[digit] as usize] = digit as u8;
        digit += 1;
    }
    table
};

impl fmt::Display for MessageId {
    /// The id as text; bytes that are not ASCII become U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        self.0
            .iter()
            .try_for_each(|&byte| f.write_char(if byte.is_ascii() { byte as char } else { '\u{fffd}' }))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageId({})", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_written_in_lower_case_hex() {
        assert_eq!(MessageId::from_u64(0x18a1_d534_83a6_9000).as_bytes(), b"18a1d53483a69000");
        assert_eq!(MessageId::from_u64(0).to_string(), "0000000000000000");
    }

    #[test]
    fn other_ids_have_no_number() {
        assert_eq!(MessageId(*b"18A1d53483a69000").to_u64(), None);
        assert_eq!(MessageId(*b"18a1d53483a6900 ").to_u64(), None);
        assert_eq!(MessageId([0xff; 16]).to_u64(), None);
        assert_eq!(MessageId([0; 16]).to_u64(), None);
    }

    #[test]
    fn any_sixteen_bytes_can_be_displayed() {
        assert_eq!(MessageId([0xff; 16]).to_string(), "\u{fffd}".repeat(16));
        assert!(MessageId::from_slice(b"short").is_none());
    }

    proptest! {
        #[test]
        fn numbers_round_trip(number: u64) {
            prop_assert_eq!(MessageId::from_u64(number).to_u64(), Some(number));
        }

        #[test]
        fn only_the_canonical_form_has_a_number(bytes: [u8; 16]) {
            if let Some(number) = MessageId(bytes).to_u64() {
                prop_assert_eq!(MessageId::from_u64(number), MessageId(bytes));
            }
        }
    }
}
