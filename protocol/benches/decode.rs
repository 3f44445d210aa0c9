//! What it costs to understand a command. `cargo bench -p nsq-protocol --bench decode`; instructions instead of
//! time: `nsqd/benches/instructions`.
//!
//! The functions called `measured_...` are what `instructions` counts; everything around them is preparation.

use divan::Bencher;
use divan::counter::ItemsCount;
use nsq_protocol::{Decoded, Limits, MessageBatch, decode, put_mpub};

fn main() {
    divan::main();
}

/// Commands in one iteration.
const COMMANDS: usize = 1000;

fn repeat(command: &[u8]) -> Vec<u8> {
    command.repeat(COMMANDS)
}

#[divan::bench]
fn publish(bencher: Bencher) {
    let mut command = b"PUB orders\n\0\0\0\xc8".to_vec();
    command.extend_from_slice(&[7; 200]);
    let stream = repeat(&command);
    bencher.counter(ItemsCount::new(COMMANDS)).bench_local(|| measured_decode(&stream));
}

#[divan::bench]
fn finish(bencher: Bencher) {
    let stream = repeat(b"FIN 0123456789abcdef\n");
    bencher.counter(ItemsCount::new(COMMANDS)).bench_local(|| measured_decode(&stream));
}

#[divan::bench]
fn ready(bencher: Bencher) {
    let stream = repeat(b"RDY 2500\n");
    bencher.counter(ItemsCount::new(COMMANDS)).bench_local(|| measured_decode(&stream));
}

#[inline(never)]
fn measured_decode(mut stream: &[u8]) {
    let limits = Limits::default();
    while let Decoded::Command { command, consumed } = decode(stream, &limits) {
        divan::black_box(command);
        stream = &stream[consumed..];
    }
}

/// Per message of a batch.
#[divan::bench]
fn batch(bencher: Bencher) {
    let mut command = Vec::new();
    put_mpub(&mut command, "orders", &[[7u8; 200]; COMMANDS]);
    let head = command.iter().position(|&byte| byte == b'\n').expect("a line") + 1;
    let body = &command[head + 4..];
    bencher.counter(ItemsCount::new(COMMANDS)).bench_local(|| measured_batch(body));
}

#[inline(never)]
fn measured_batch(body: &[u8]) {
    let (batch, _) = MessageBatch::parse_binary(body, &Limits::default()).expect("a valid batch");
    for body in batch.iter() {
        divan::black_box(body);
    }
}
