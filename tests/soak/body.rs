//! Message bodies that can be verified: topic, number, padding derived from the number, checksum.

/// Size of the checksum at the end of a body.
const CHECKSUM_BYTES: usize = 8;

/// Returns a body of about `bytes` bytes with its topic and its number.
pub fn make(topic: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut body = format!("{topic} {number} ").into_bytes();
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while body.len() + CHECKSUM_BYTES < bytes {
        // xorshift: cheap, and no two bodies are equal.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let word = state.to_le_bytes();
        let room = bytes - CHECKSUM_BYTES - body.len();
        body.extend_from_slice(&word[..room.min(word.len())]);
    }
    let sum = checksum(&body);
    body.extend_from_slice(&sum.to_be_bytes());
    body
}

/// Returns the number in a body of this topic; `None` if any byte is wrong.
pub fn read(topic: &str, body: &[u8]) -> Option<u64> {
    let (content, sum) = body.split_at_checked(body.len().checked_sub(CHECKSUM_BYTES)?)?;
    if checksum(content).to_be_bytes() != sum {
        return None;
    }
    let mut words = content.splitn(3, |byte| *byte == b' ');
    if words.next()? != topic.as_bytes() {
        return None;
    }
    std::str::from_utf8(words.next()?).ok()?.parse().ok()
}

/// FNV-1a over words of eight bytes.
fn checksum(bytes: &[u8]) -> u64 {
    let step = |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64, step)
}

#[test]
fn any_changed_byte_is_detected() {
    for bytes in [0, 40, 41, 5000] {
        let body = make("t", 77, bytes);
        assert_eq!(read("t", &body), Some(77));
        assert_eq!(read("u", &body), None);
        for index in 0..body.len() {
            let mut changed = body.clone();
            changed[index] ^= 1;
            assert_eq!(read("t", &changed), None);
        }
        assert_eq!(read("t", &body[1..]), None);
    }
}
