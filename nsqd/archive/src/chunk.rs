//! Contents of chunks: journal records as they are in the journal, with the headers of their files. And seals. Pure.
//!
//! A content is a list of pieces. A piece is a part of one journal file: a copy of the file's header (64 bytes), the offset
//! (u32) and length (u32) of the part, and its bytes. So a restore writes the same bytes at the same places, and the marks of
//! the records stay valid.

use nsq_storage::journal::{FILE_HEADER_BYTES, HeaderCopy, Lsn};
use serde::{Deserialize, Serialize};

use crate::envelope::{self, Header, Kind, Malformed, Nonce};
use crate::names::{Epoch, LogId, Place};

const PIECE_HEADER_BYTES: usize = HeaderCopy::BYTES + 8;

/// A part of a journal file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// A copy of the file's header.
    pub header: HeaderCopy,
    pub offset: u32,
    pub bytes: Vec<u8>,
}

impl Piece {
    /// Where it begins.
    pub fn from(&self) -> Lsn {
        Lsn(u64::from(self.header.file_number()) << 32 | u64::from(self.offset))
    }

    /// Where it ends.
    pub fn to(&self) -> Lsn {
        Lsn(self.from().0 + self.bytes.len() as u64)
    }
}

/// Collects pieces until a chunk is large or old enough.
#[derive(Debug, Default)]
pub struct Builder {
    content: Vec<u8>,
    /// Where the last piece begins in `content`, and the place behind it.
    last: Option<(usize, Lsn)>,
}

impl Builder {
    /// Adds a piece, which must be behind the ones before. Joins it with the last one if it continues that.
    pub fn add(&mut self, piece: &Piece) {
        if let Some((at, end)) = self.last
            && end == piece.from()
            && self.content[at..at + HeaderCopy::BYTES] == *piece.header.bytes()
        {
            let length = self.content.len() - at - PIECE_HEADER_BYTES + piece.bytes.len();
            self.content[at + HeaderCopy::BYTES + 4..at + PIECE_HEADER_BYTES]
                .copy_from_slice(&(length as u32).to_le_bytes());
            self.content.extend_from_slice(&piece.bytes);
            self.last = Some((at, piece.to()));
            return;
        }
        let at = self.content.len();
        self.content.extend_from_slice(piece.header.bytes());
        self.content.extend_from_slice(&piece.offset.to_le_bytes());
        self.content.extend_from_slice(&(piece.bytes.len() as u32).to_le_bytes());
        self.content.extend_from_slice(&piece.bytes);
        self.last = Some((at, piece.to()));
    }

    pub fn bytes(&self) -> usize {
        self.content.len()
    }

    pub fn is_empty(&self) -> bool {
        self.content.is_empty()
    }

    /// Takes the content and leaves nothing.
    pub fn take(&mut self) -> Vec<u8> {
        self.last = None;
        std::mem::take(&mut self.content)
    }
}

/// Splits the content of a chunk.
pub fn decode_pieces(content: &[u8]) -> Result<Vec<Piece>, Malformed> {
    let mut pieces = Vec::new();
    let mut rest = content;
    while !rest.is_empty() {
        let Some((head, tail)) = rest.split_first_chunk::<PIECE_HEADER_BYTES>() else {
            return Err(Malformed::Content);
        };
        let header = head.first_chunk().and_then(HeaderCopy::decode).ok_or(Malformed::Content)?;
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (offset, length) = (word(HeaderCopy::BYTES), word(HeaderCopy::BYTES + 4) as usize);
        let fits = u64::from(offset) + length as u64 <= u64::from(u32::MAX);
        if length == 0 || length > tail.len() || u64::from(offset) < FILE_HEADER_BYTES || !fits {
            return Err(Malformed::Content);
        }
        let (bytes, tail) = tail.split_at(length);
        pieces.push(Piece { header, offset, bytes: bytes.to_vec() });
        rest = tail;
    }
    let is_ordered = pieces.windows(2).all(|pair| pair[0].to() <= pair[1].from());
    if is_ordered { Ok(pieces) } else { Err(Malformed::Content) }
}

/// Who sealed an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The epoch that the sealer claimed.
    pub claimed: Epoch,
    pub owner: String,
}

impl Seal {
    /// Makes the object.
    pub fn object(&self, log: LogId, place: Place, nonce: Nonce, made_at: i64) -> Vec<u8> {
        let header = Header { kind: Kind::Seal, log, place, from: Lsn(0), to: Lsn(0), nonce, made_at };
        // A struct of a number and a string always has a JSON form.
        envelope::encode(&header, &serde_json::to_vec(self).unwrap_or_default())
    }
}

/// What is stored under the name of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A chunk. Its content was not checked.
    Chunk(Header),
    Seal(Header, Seal),
    /// It cannot be read, but it is there.
    Unreadable(Malformed),
}

/// Reads what is stored under the name of a chunk.
pub fn inspect(object: &[u8], log: LogId, place: Place) -> Found {
    let read = || {
        let header = envelope::decode_header(object)?;
        header.check_place(log, place)?;
        match header.kind {
            Kind::Chunk => Ok(Found::Chunk(header)),
            Kind::Seal => {
                let (_, content) = envelope::decode(object)?;
                let seal = serde_json::from_slice(&content).map_err(|_| Malformed::Content)?;
                Ok(Found::Seal(header, seal))
            }
            Kind::Snapshot | Kind::Part => Err(Malformed::Kind),
        }
    };
    read().unwrap_or_else(Found::Unreadable)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn piece(file: u32, offset: u32, bytes: &[u8]) -> Piece {
        Piece { header: HeaderCopy::new(file, 7, 1 << 20), offset, bytes: bytes.to_vec() }
    }

    #[test]
    fn pieces_that_continue_each_other_are_joined() {
        let mut builder = Builder::default();
        for piece in
            [piece(1, 128, b"one"), piece(1, 131, b"two"), piece(2, 128, b"three"), piece(2, 200, b"four")]
        {
            builder.add(&piece);
        }
        let content = builder.take();
        assert!(builder.is_empty());
        assert_eq!(
            decode_pieces(&content),
            Ok(vec![piece(1, 128, b"onetwo"), piece(2, 128, b"three"), piece(2, 200, b"four")])
        );
    }

    #[test]
    fn pieces_in_the_wrong_order_are_refused() {
        let mut builder = Builder::default();
        builder.add(&piece(2, 128, b"later"));
        builder.add(&piece(1, 128, b"earlier"));
        assert_eq!(decode_pieces(&builder.take()), Err(Malformed::Content));
        builder.add(&piece(1, 64, b"in the header"));
        assert_eq!(decode_pieces(&builder.take()), Err(Malformed::Content));
    }

    proptest! {
        #[test]
        fn any_content_is_read_or_refused(content: Vec<u8>) {
            let _ = decode_pieces(&content);
        }

        #[test]
        fn a_cut_content_has_fewer_pieces_or_is_refused(lengths in prop::collection::vec(1_usize..50, 1..8), cut: prop::sample::Index) {
            let mut builder = Builder::default();
            for (file, &length) in lengths.iter().enumerate() {
                builder.add(&piece(file as u32 + 1, 128, &vec![7; length]));
            }
            let content = builder.take();
            prop_assert_eq!(decode_pieces(&content).map(|pieces| pieces.len()), Ok(lengths.len()));
            let cut = cut.index(content.len());
            prop_assert!(decode_pieces(&content[..cut]).map_or(true, |pieces| pieces.len() < lengths.len()));
        }
    }

    #[test]
    fn a_chunk_and_a_seal_are_distinguished() {
        let (log, place) = (LogId([1; 16]), Place::new(Epoch(2), 3));
        let seal = Seal { claimed: Epoch(3), owner: "b".to_owned() };
        let object = seal.object(log, place, [5; 16], 1);
        let Found::Seal(header, read) = inspect(&object, log, place) else { panic!("not a seal") };
        assert_eq!((header.nonce, read), ([5; 16], seal));
        let header = Header { kind: Kind::Chunk, ..header };
        let chunk = envelope::encode(&header, b"");
        assert_eq!(inspect(&chunk, log, place), Found::Chunk(header));
        assert!(matches!(inspect(b"", log, place), Found::Unreadable(Malformed::TooShort)));
        assert!(matches!(inspect(&chunk, log, Place::new(Epoch(2), 4)), Found::Unreadable(_)));
    }
}
