use proptest::prelude::*;

use super::*;

fn pairs() -> Vec<(Compressor, Decompressor)> {
    vec![
        (Compressor::snappy(), Decompressor::snappy()),
        (Compressor::deflate(1), Decompressor::deflate()),
        (Compressor::deflate(9), Decompressor::deflate()),
    ]
}

/// Decompresses all of `input`, with `room` bytes of output per call.
fn read_all(
    decompressor: &mut Decompressor,
    mut input: &[u8],
    room: usize,
    out: &mut Vec<u8>,
) -> Result<(), CompressionError> {
    let mut window = vec![0; room];
    loop {
        let Progress { consumed, produced } = decompressor.decompress(input, &mut window)?;
        out.extend_from_slice(&window[..produced]);
        input = &input[consumed..];
        if produced < room && input.is_empty() {
            return Ok(());
        }
        assert!(consumed > 0 || produced > 0, "no progress");
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] * 16 + pair[1]) as u8).collect()
}

fn decompressed(mut decompressor: Decompressor, input: &[u8]) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    read_all(&mut decompressor, input, 1000, &mut out).map(|()| out)
}

const OK_FRAME: &[u8] = b"\0\0\0\x06\0\0\0\0OK";

#[test]
fn first_ok_is_what_nsq_sends() {
    let mut out = Vec::new();
    Compressor::snappy().compress(OK_FRAME, &mut out);
    assert_eq!(out, unhex("ff060000734e61507059 010e0000 26982bcf 00000006000000004f4b"));
    let theirs = unhex("00 0a00 f5ff 00000006000000004f4b 000000ffff");
    assert_eq!(decompressed(Decompressor::deflate(), &theirs).unwrap(), OK_FRAME);
    out.clear();
    Compressor::deflate(6).compress(OK_FRAME, &mut out);
    assert!(out.ends_with(&[0, 0, 0xff, 0xff]), "the flush ends on a byte boundary: {out:x?}");
}

#[test]
fn repetitive_input_shrinks_and_random_input_hardly_grows() {
    let repeated = vec![b'x'; 200_000];
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    })
    .take(200_000)
    .collect();
    for (mut compressor, mut decompressor) in pairs() {
        let mut out = Vec::new();
        compressor.compress(&repeated, &mut out);
        assert!(out.len() < repeated.len() / 15, "{compressor:?}: {}", out.len());
        let before = out.len();
        compressor.compress(&noise, &mut out);
        assert!(out.len() - before < noise.len() + noise.len() / 10, "{compressor:?}: {}", out.len());
        let mut plain = Vec::new();
        read_all(&mut decompressor, &out, 4096, &mut plain).unwrap();
        assert_eq!(plain, [repeated.clone(), noise.clone()].concat());
    }
}

/// One call produces only what fits into the buffer, however much the input expands to.
#[test]
fn decompression_bomb_fills_only_the_given_buffer() {
    for (mut compressor, mut decompressor) in pairs() {
        let mut bomb = Vec::new();
        for _ in 0..64 {
            compressor.compress(&vec![0; 1 << 20], &mut bomb);
        }
        let mut window = [1; 512];
        let mut used = 0;
        for _ in 0..1000 {
            let progress = decompressor.decompress(&bomb[used..], &mut window).unwrap();
            assert_eq!(progress.produced, window.len());
            used += progress.consumed;
        }
        assert!(used <= bomb.len() / 10, "{used} of {}", bomb.len());
    }
}

#[test]
fn skippable_chunks_are_skipped_and_invalid_chunks_are_errors() {
    let start = b"\xff\x06\0\0sNaPpY";
    let ok = unhex("010e0000 26982bcf 00000006000000004f4b");
    let stream = |chunks: &[&[u8]]| [&start[..], &chunks.concat()].concat();
    let skipped = stream(&[b"\xfe\x03\0\0abc", &ok, b"\x80\0\0\0", start, b"\xfd\x01\0\0x", &ok]);
    assert_eq!(decompressed(Decompressor::snappy(), &skipped).unwrap(), [OK_FRAME, OK_FRAME].concat());
    let mut wrong_checksum = ok.clone();
    wrong_checksum[5] ^= 1;
    for (bytes, error) in [
        (b"PUB topic\n".to_vec(), CompressionError::NoStreamIdentifier),
        (ok.clone(), CompressionError::NoStreamIdentifier),
        (b"\xff\x06\0\0sNaPpX".to_vec(), CompressionError::NoStreamIdentifier),
        (b"\xff\x07\0\0sNaPpYY".to_vec(), CompressionError::ChunkLength(7)),
        (stream(&[b"\x02\0\0\0"]), CompressionError::ChunkType(2)),
        (stream(&[b"\x7f\0\0\0"]), CompressionError::ChunkType(0x7f)),
        (stream(&[b"\x01\x03\0\0abc"]), CompressionError::ChunkLength(3)),
        (stream(&[b"\x01\x05\0\x01"]), CompressionError::ChunkLength(65541)),
        (stream(&[b"\x00\xff\xff\xff"]), CompressionError::ChunkLength(0xff_ffff)),
        (stream(&[b"\x00\x08\0\0abcd\x04\xff\xff\xff"]), CompressionError::DamagedChunk),
        (stream(&[&wrong_checksum]), CompressionError::Checksum),
        // It claims a decompressed size of 2 MiB.
        (stream(&[b"\x00\x08\0\0abcd\x80\x80\x80\x01"]), CompressionError::ChunkLength(2 << 20)),
    ] {
        assert_eq!(decompressed(Decompressor::snappy(), &bytes), Err(error), "{bytes:x?}");
    }
}

#[test]
fn invalid_or_ended_deflate_stream_is_an_error() {
    assert_eq!(decompressed(Decompressor::deflate(), b"\xff\xff\xff"), Err(CompressionError::Deflate));
    // A final block with one byte.
    let ended = b"\x01\x01\0\xfe\xffx";
    let mut decompressor = Decompressor::deflate();
    let mut window = [0; 10];
    let progress = decompressor.decompress(ended, &mut window).unwrap();
    assert_eq!((progress.produced, window[0]), (1, b'x'));
    assert_eq!(decompressor.decompress(b"", &mut window), Err(CompressionError::Ended));
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    let repeated = (any::<u8>(), 0usize..150_000).prop_map(|(byte, count)| vec![byte; count]);
    let frames = (1usize..2000).prop_map(|count| OK_FRAME.repeat(count));
    prop::collection::vec(prop_oneof![4 => noise, 1 => repeated, 1 => frames], 0..8)
}

proptest! {
    /// After each flush, all input comes out again, for any input, any split and any size of the output buffer.
    #[test]
    fn any_split_round_trips(
        pieces in pieces(),
        step in prop_oneof![1usize..20, 20usize..5000, Just(usize::MAX)],
        room in prop_oneof![1usize..50, 50usize..100_000],
    ) {
        for (mut compressor, mut decompressor) in pairs() {
            for piece in &pieces {
                let mut compressed = Vec::new();
                compressor.compress(piece, &mut compressed);
                let mut plain = Vec::new();
                for part in compressed.chunks(step.min(compressed.len().max(1))) {
                    read_all(&mut decompressor, part, room, &mut plain).unwrap();
                    decompressor.idle();
                }
                prop_assert_eq!(&plain, piece);
            }
        }
    }

    /// Arbitrary bytes give an error or some output. They never cause a panic or output beyond the buffer.
    #[test]
    fn arbitrary_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..2000),
        begun in any::<bool>(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        for (mut compressor, _) in pairs() {
            let mut stream = Vec::new();
            if begun {
                compressor.compress(&bytes, &mut stream);
                for (at, value) in &flips {
                    let at = at.index(stream.len().max(1));
                    if let Some(byte) = stream.get_mut(at) {
                        *byte = *value;
                    }
                }
            } else {
                stream = bytes.clone();
            }
            for decompressor in [Decompressor::snappy(), Decompressor::deflate()] {
                let _ = decompressed(decompressor, &stream);
            }
        }
    }
}

proptest! {
    #[test]
    fn stream_continues_after_idling(
        pieces in prop::collection::vec((prop::collection::vec(0u8..4, 0..3000), any::<bool>()), 1..12),
    ) {
        for (mut compressor, mut decompressor) in pairs() {
            let mut received = Vec::new();
            for (piece, idles) in &pieces {
                let mut wire = Vec::new();
                compressor.compress(piece, &mut wire);
                let before = received.len();
                read_all(&mut decompressor, &wire, 1000, &mut received).unwrap();
                prop_assert_eq!(&received[before..], &piece[..]);
                if *idles {
                    compressor.idle();
                    decompressor.idle();
                }
            }
        }
    }
}
