//! Valid bytes, and the changes to them that the fuzzer chooses.

use bolero::TypeGenerator;
use bolero::generator::*;

/// One change to a sequence of bytes. Places wrap around at the end of the bytes.
#[derive(Clone, Debug, TypeGenerator)]
pub enum Edit {
    /// Flips one bit.
    Flip { at: u16, bit: u8 },
    /// Replaces one byte.
    Set { at: u16, byte: u8 },
    /// Replaces four bytes with an integer, for fields that contain a length or a number.
    SetNumber { at: u16, number: i32, little_endian: bool },
    /// Inserts bytes.
    Insert {
        at: u16,
        #[generator(produce::<Vec<u8>>().with().len(1usize..24))]
        bytes: Vec<u8>,
    },
    /// Removes a stretch.
    Cut { at: u16, size: u8 },
    /// Removes everything from here on.
    Truncate { at: u16 },
    /// Inserts a copy of a stretch.
    Duplicate { from: u16, size: u8, to: u16 },
    /// Overwrites a stretch with a copy of another one.
    Overwrite { from: u16, size: u8, to: u16 },
    /// Overwrites a stretch with zeros.
    Zero { at: u16, size: u8 },
}

impl Edit {
    /// Applies the change.
    pub fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        match *self {
            Edit::Flip { at, bit } => {
                if let Some(byte) = bytes.get_mut(place(at, len)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Edit::Set { at, byte } => {
                if let Some(old) = bytes.get_mut(place(at, len)) {
                    *old = byte;
                }
            }
            Edit::SetNumber { at, number, little_endian } => {
                let number = if little_endian { number.to_le_bytes() } else { number.to_be_bytes() };
                overwrite(bytes, place(at, len), &number);
            }
            Edit::Insert { at, bytes: ref inserted } => {
                let at = place(at, len);
                bytes.splice(at..at, inserted.iter().copied());
            }
            Edit::Cut { at, size } => drop(bytes.drain(stretch(at, size, len))),
            Edit::Truncate { at } => bytes.truncate(place(at, len)),
            Edit::Duplicate { from, size, to } => {
                let copy = bytes[stretch(from, size, len)].to_vec();
                let at = place(to, len);
                bytes.splice(at..at, copy);
            }
            Edit::Overwrite { from, size, to } => {
                let copy = bytes[stretch(from, size, len)].to_vec();
                overwrite(bytes, place(to, len), &copy);
            }
            Edit::Zero { at, size } => bytes[stretch(at, size, len)].fill(0),
        }
    }
}

/// Overwrites bytes from `at` on, without making them longer.
fn overwrite(bytes: &mut [u8], at: usize, with: &[u8]) {
    let room = &mut bytes[at..];
    let count = room.len().min(with.len());
    room[..count].copy_from_slice(&with[..count]);
}

fn place(at: u16, len: usize) -> usize {
    usize::from(at) % (len + 1)
}

/// A stretch of 1 to about 4,000 bytes, mostly short ones.
fn stretch(at: u16, size: u8, len: usize) -> std::ops::Range<usize> {
    let from = place(at, len);
    let count = 1 + usize::from(size).pow(2) / 16;
    from..len.min(from + count)
}

/// A few valid samples, one after the other, with changes and random bytes at the end.
#[derive(Clone, Debug, TypeGenerator)]
pub struct Input {
    #[generator(produce::<Vec<u8>>().with().len(0usize..5))]
    samples: Vec<u8>,
    #[generator(produce::<Vec<Edit>>().with().len(0usize..4))]
    edits: Vec<Edit>,
    #[generator(produce::<Vec<u8>>().with().len(0usize..24))]
    rest: Vec<u8>,
}

impl Input {
    /// The bytes, made from these valid samples.
    pub fn bytes(&self, samples: &[Vec<u8>]) -> Vec<u8> {
        let chosen = self.samples.iter().map(|&choice| &samples[usize::from(choice) % samples.len()]);
        let mut bytes: Vec<u8> = chosen.flatten().copied().collect();
        bytes.extend(&self.rest);
        self.edits.iter().for_each(|edit| edit.apply(&mut bytes));
        bytes
    }
}

/// Splits bytes into two pieces; `at` wraps around.
pub fn split(bytes: &[u8], at: u16) -> (&[u8], &[u8]) {
    bytes.split_at(place(at, bytes.len()))
}
