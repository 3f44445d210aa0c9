//! CPU time per message of this library in the ways of publishing and consuming that applications use.
//!
//! ```text
//! cargo bench -p nsq-rs --bench cpu [-- [FILTER] [--messages N] [--rounds N]]
//! ```
//!
//! The nsqd is a process of its own, which stores nothing. So the CPU time of this process is that of the library, of the
//! loopback connection as seen from here, and of a task that does nothing with a message. Each figure is the lowest of
//! several rounds, because other programs only add to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nsq::{Consumer, Producer};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

const OK: &[u8] = b"\0\0\0\x06\0\0\0\0OK";
const BODY: &[u8] = &[b'x'; 200];
const TASKS: u64 = 64;
const IN_FLIGHT: u32 = 200;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == SERVE) {
        return serve();
    }
    let mut filter = String::new();
    let (mut messages, mut rounds) = (200_000, 5);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut number =
            || rest.next().and_then(|value| value.parse().ok()).expect("a number after the option");
        match argument.as_str() {
            "--messages" => messages = number(),
            "--rounds" => rounds = number(),
            "--bench" => {}
            _ => filter = argument.clone(),
        }
    }
    println!("{:<34}{:>16}{:>14}", "", "CPU per message", "messages/s");
    let workloads: [(&str, Workload); 7] = [
        ("send", send),
        ("publish from 64 tasks", publish_from_tasks),
        ("publish from one task", publish_from_one_task),
        ("handler", |runtime, nsqd, count| handle(runtime, nsqd, count, 1)),
        ("handler, concurrency 32", |runtime, nsqd, count| handle(runtime, nsqd, count, 32)),
        ("stream in a task", |runtime, nsqd, count| {
            runtime.block_on(spawned(stream(nsqd.to_owned(), count)))
        }),
        ("stream in main", |runtime, nsqd, count| runtime.block_on(stream(nsqd.to_owned(), count))),
    ];
    for (name, workload) in workloads {
        if name.contains(&filter) {
            let measured = (0..rounds).map(|_| measure(workload, messages));
            let (cpu, wall) = measured.min().expect("a round");
            let count = messages as f64;
            let (each, rate) = (cpu.as_secs_f64() * 1e6 / count, count / wall.as_secs_f64());
            println!("{name:<34}{each:>13.2} µs{rate:>14.0}");
        }
    }
}

/// Handles a number of messages with the nsqd at an address.
type Workload = fn(&Runtime, &str, u64);

/// CPU time and duration of one run with a fresh nsqd and a fresh runtime.
fn measure(workload: Workload, messages: u64) -> (Duration, Duration) {
    let nsqd = Nsqd::start(messages);
    let runtime = Runtime::new().expect("a runtime");
    let (cpu, begun_at) = (cpu_time(), Instant::now());
    workload(&runtime, &nsqd.address, messages);
    (cpu_time() - cpu, begun_at.elapsed())
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The caller queues, others send; the results are awaited at the end.
fn send(runtime: &Runtime, nsqd: &str, messages: u64) {
    let nsqd = nsqd.to_owned();
    runtime.block_on(spawned(async move {
        let producer = Producer::new(nsqd).expect("an address");
        let mut results = Vec::new();
        for _ in 0..messages {
            match producer.send("bench", BODY) {
                Ok(result) => results.push(result),
                Err(_) => {
                    for result in results.drain(..) {
                        result.await.expect("published");
                    }
                    results.push(producer.send("bench", BODY).expect("room"));
                }
            }
        }
        for result in results {
            result.await.expect("published");
        }
    }));
}

/// Each task waits for the answer to its publish before the next one.
fn publish_from_tasks(runtime: &Runtime, nsqd: &str, messages: u64) {
    publish_from(runtime, nsqd, messages, TASKS);
}

fn publish_from_one_task(runtime: &Runtime, nsqd: &str, messages: u64) {
    publish_from(runtime, nsqd, messages, 1);
}

fn publish_from(runtime: &Runtime, nsqd: &str, messages: u64, tasks: u64) {
    let _guard = runtime.enter();
    let producer = Producer::new(nsqd).expect("an address");
    let tasks: Vec<_> = (0..tasks)
        .map(|_| {
            let producer = producer.clone();
            tokio::spawn(async move {
                for _ in 0..messages / tasks {
                    producer.publish("bench", BODY).await.expect("published");
                }
            })
        })
        .collect();
    for task in tasks {
        runtime.block_on(task).expect("no panic");
    }
}

fn handle(runtime: &Runtime, nsqd: &str, messages: u64, concurrency: u32) {
    let count = Arc::new(AtomicU64::new(0));
    let done = Arc::new(Notify::new());
    runtime.block_on(async {
        let handler = {
            let (count, done) = (Arc::clone(&count), Arc::clone(&done));
            move |_: nsq::Delivery| {
                if count.fetch_add(1, Ordering::Relaxed) + 1 == messages {
                    done.notify_one();
                }
                std::future::ready(())
            }
        };
        let consumer = Consumer::builder("bench", "bench")
            .nsqd(nsqd)
            .max_in_flight(IN_FLIGHT)
            .concurrency(concurrency)
            .handler_fn(handler)
            .start()
            .expect("an address");
        done.notified().await;
        consumer.shutdown(Duration::from_secs(5)).await;
    });
}

async fn stream(nsqd: String, messages: u64) {
    let builder = Consumer::builder("bench", "bench").nsqd(nsqd).max_in_flight(IN_FLIGHT);
    let mut stream = builder.stream().expect("an address");
    for _ in 0..messages {
        stream.next().await.expect("a message").finish().expect("connected");
    }
    stream.consumer().shutdown(Duration::from_secs(5)).await;
}

async fn spawned(future: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(future).await.expect("no panic");
}

/// The argument that makes this program serve.
const SERVE: &str = "--serve";
/// The environment variable with the number of messages that a consumer gets.
const MESSAGES: &str = "NSQ_BENCH_MESSAGES";

/// A process that answers like nsqd.
struct Nsqd {
    process: Child,
    address: String,
}

impl Nsqd {
    fn start(messages: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().expect("this program"))
            .arg(SERVE)
            .env(MESSAGES, messages.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut address = String::new();
        let output = process.stdout.take().expect("a pipe");
        BufReader::new(output).read_line(&mut address).expect("its address");
        Nsqd { process, address: address.trim().to_owned() }
    }
}

impl Drop for Nsqd {
    fn drop(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }
}

fn serve() {
    let messages = std::env::var(MESSAGES).ok().and_then(|count| count.parse().ok()).expect("a number");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    println!("{}", listener.local_addr().expect("bound"));
    for stream in listener.incoming().flatten() {
        stream.set_nodelay(true).expect("an open socket");
        std::thread::spawn(move || Session { messages_left: messages, ..Session::default() }.serve(stream));
    }
}

/// What one connection wants.
#[derive(Default)]
struct Session {
    messages_left: u64,
    ready_count: u64,
    in_flight: u64,
    next_id: u64,
}

impl Session {
    /// Executes commands until the client disconnects.
    fn serve(mut self, mut stream: TcpStream) {
        let mut input = vec![0; 1 << 20];
        let (mut filled, mut is_first) = (0, true);
        let mut output = Vec::new();
        while let Ok(count @ 1..) = stream.read(&mut input[filled..]) {
            filled += count;
            let mut used = 0;
            if is_first && filled >= 4 {
                (used, is_first) = (4, false);
            }
            output.clear();
            while let Some(length) = command_length(&input[used..filled]) {
                self.execute(&input[used..used + length], &mut output);
                used += length;
            }
            input.copy_within(used..filled, 0);
            filled -= used;
            self.deliver(&mut output);
            if stream.write_all(&output).is_err() {
                return;
            }
        }
    }

    fn execute(&mut self, command: &[u8], output: &mut Vec<u8>) {
        match command {
            [b'R', b'D', b'Y', b' ', count @ .., b'\n'] => {
                let count = std::str::from_utf8(count).ok().and_then(|count| count.parse().ok());
                self.ready_count = count.expect("a number");
            }
            [b'F', b'I', b'N', ..] | [b'R', b'E', b'Q', ..] => self.in_flight -= 1,
            [b'N', b'O', b'P', ..] => {}
            [b'C', b'L', b'S', ..] => {
                self.ready_count = 0;
                output.extend_from_slice(b"\0\0\0\x0e\0\0\0\0CLOSE_WAIT");
            }
            _ => output.extend_from_slice(OK),
        }
    }

    fn deliver(&mut self, output: &mut Vec<u8>) {
        while self.in_flight < self.ready_count && self.messages_left > 0 {
            self.messages_left -= 1;
            self.in_flight += 1;
            self.next_id += 1;
            output.extend_from_slice(&(4 + 8 + 2 + 16 + BODY.len() as u32).to_be_bytes());
            output.extend_from_slice(&2u32.to_be_bytes());
            output.extend_from_slice(&self.next_id.to_be_bytes());
            output.extend_from_slice(&1u16.to_be_bytes());
            output.extend_from_slice(format!("{:016x}", self.next_id).as_bytes());
            output.extend_from_slice(BODY);
        }
    }
}

/// The length of the command at the start: a line, and for IDENTIFY and PUB a body behind its size.
fn command_length(input: &[u8]) -> Option<usize> {
    let line = input.iter().position(|byte| *byte == b'\n')? + 1;
    if !input.starts_with(b"IDENTIFY") && !input[..line].windows(3).any(|word| word == b"PUB") {
        return Some(line);
    }
    let size = u32::from_be_bytes(*input.get(line..)?.first_chunk::<4>()?) as usize;
    (input.len() >= line + 4 + size).then_some(line + 4 + size)
}
