//! What a publish costs the caller, and what many tasks that publish through one producer get.
//!
//! ```text
//! cargo bench -p nsq-rs --bench producer
//! ```
//!
//! The nsqd is a thread that answers OK to every command and stores nothing, so the figures are those of the producer
//! and of the loopback connection.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use divan::counter::ItemsCount;
use divan::{AllocProfiler, Bencher};
use nsq::Producer;
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

const OK: &[u8] = b"\0\0\0\x06\0\0\0\0OK";
const BODY: &[u8] = &[b'x'; 200];
const TASKS: usize = 64;
const PER_TASK: usize = 1_000;
const SENDS: usize = 5_000;

/// Starts a thread that answers like nsqd, and returns its address.
fn answering_nsqd() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
    address
}

/// Answers OK to each command until the client disconnects.
fn answer(mut stream: TcpStream) {
    let mut input = vec![0; 1 << 20];
    let (mut filled, mut is_first) = (0, true);
    let mut answers = Vec::new();
    while let Ok(count @ 1..) = stream.read(&mut input[filled..]) {
        filled += count;
        let mut used = 0;
        if is_first && filled >= 4 {
            (used, is_first) = (4, false);
        }
        answers.clear();
        while let Some(length) = command_length(&input[used..filled]) {
            used += length;
            answers.extend_from_slice(OK);
        }
        input.copy_within(used..filled, 0);
        filled -= used;
        if stream.write_all(&answers).is_err() {
            return;
        }
    }
}

/// The length of the command at the start: a line, and for all but NOP a body behind its size.
fn command_length(input: &[u8]) -> Option<usize> {
    let line = input.iter().position(|byte| *byte == b'\n')? + 1;
    if input.starts_with(b"NOP") {
        return Some(line);
    }
    let size = u32::from_be_bytes(*input.get(line..)?.first_chunk::<4>()?) as usize;
    (input.len() >= line + 4 + size).then_some(line + 4 + size)
}

fn connected(runtime: &Runtime) -> Producer {
    runtime.block_on(async {
        let producer = Producer::new(answering_nsqd()).expect("an address");
        producer.publish("bench", BODY).await.expect("published");
        producer
    })
}

/// The call itself: the message is queued, and other threads send it.
#[divan::bench(sample_count = 50, sample_size = 1)]
fn send(bencher: Bencher) {
    let runtime = Runtime::new().expect("a runtime");
    let producer = connected(&runtime);
    bencher
        .counter(ItemsCount::new(SENDS))
        .with_inputs(|| {
            runtime.block_on(producer.flush());
            Vec::with_capacity(SENDS)
        })
        .bench_refs(|results| {
            let _guard = runtime.enter();
            for _ in 0..SENDS {
                results.push(producer.send("bench", BODY).expect("room"));
            }
        });
}

/// Tasks that each wait for the answer to a publish before the next one.
#[divan::bench(sample_count = 15, sample_size = 1)]
fn publish_from_64_tasks(bencher: Bencher) {
    let runtime = Runtime::new().expect("a runtime");
    let producer = connected(&runtime);
    bencher.counter(ItemsCount::new(TASKS * PER_TASK)).bench(|| {
        runtime.block_on(async {
            let tasks: Vec<_> = (0..TASKS)
                .map(|_| {
                    let producer = producer.clone();
                    tokio::spawn(async move {
                        for _ in 0..PER_TASK {
                            producer.publish("bench", BODY).await.expect("published");
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("no panic");
            }
        });
    });
}

/// One task alone: the round trip.
#[divan::bench(sample_count = 15, sample_size = 1)]
fn publish_from_one_task(bencher: Bencher) {
    let runtime = Runtime::new().expect("a runtime");
    let producer = connected(&runtime);
    bencher.counter(ItemsCount::new(PER_TASK)).bench(|| {
        runtime.block_on(async {
            for _ in 0..PER_TASK {
                producer.publish("bench", BODY).await.expect("published");
            }
        });
    });
}
