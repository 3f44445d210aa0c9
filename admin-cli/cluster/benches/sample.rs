//! What a sample of a large cluster costs: 5,000 topics with 3 channels each on 10 nodes, all of them simulated by this
//! process. Prints CPU time and memory.
//!
//! The simulated nodes send an answer that was encoded before, so their part of the CPU time is small. To see it, the
//! same answers are also read without a sampler.

use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nsq_cluster::{ClusterConfig, Sampler, SamplerConfig};
use nsq_protocol::{ChannelStats, Stats, StorageStats, TopicStats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TOPICS: usize = 5_000;
const CHANNELS: usize = 3;
const NODES: usize = 10;
const SAMPLES: u64 = 5;

fn answer() -> Vec<u8> {
    let channel = |number: usize| ChannelStats {
        channel_name: format!("channel-{number}"),
        depth: 1_234,
        in_flight_count: 20,
        message_count: 1_000_000,
        client_count: 4,
        ..ChannelStats::default()
    };
    let topic = |number: usize| TopicStats {
        topic_name: format!("topic-with-a-usual-name-{number:05}"),
        channels: (0..CHANNELS).map(channel).collect(),
        message_count: 1_000_000,
        message_bytes: 200_000_000,
        ..TopicStats::default()
    };
    let stats = Stats {
        version: "1.3.0".to_owned(),
        health: "OK".to_owned(),
        start_time: 1_700_000_000,
        topics: Some((0..TOPICS).map(topic).collect()),
        storage: Some(StorageStats { free_bytes: 1 << 40, size_bytes: 2 << 40, journal_bytes: 1 << 30 }),
        ..Stats::default()
    };
    serde_json::to_vec(&stats).expect("stats are JSON")
}

/// An HTTP server that answers `/stats` with the body, `/info` with the addresses, and all else with OK.
async fn serve(listener: TcpListener, body: Arc<Vec<u8>>) {
    let port = listener.local_addr().expect("the socket is bound").port();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tokio::spawn(serve_connection(stream, port, body.clone()));
    }
}

async fn serve_connection(mut stream: TcpStream, port: u16, body: Arc<Vec<u8>>) {
    let mut request = vec![0; 4096];
    // A request has no body and arrives in one piece.
    while let Ok(length @ 1..) = stream.read(&mut request).await {
        let info = format!(r#"{{"broadcast_address":"127.0.0.1","http_port":{port},"tcp_port":1}}"#);
        let body: &[u8] = match () {
            () if request[..length].starts_with(b"GET /stats") => &body,
            () if request[..length].starts_with(b"GET /info") => info.as_bytes(),
            () => b"OK",
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body).await.is_err() {
            return;
        }
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("a state").split(' ').collect();
    let ticks: u64 = [11, 12].iter().map(|&field| fields[field].parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

/// Resident memory of this process in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number") / 1024
}

#[tokio::main]
async fn main() {
    let body = Arc::new(answer());
    let mut nsqds = Vec::new();
    for _ in 0..NODES {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        nsqds.push(listener.local_addr().expect("bound").to_string());
        tokio::spawn(serve(listener, body.clone()));
    }
    println!(
        "{NODES} nodes, {TOPICS} topics, {CHANNELS} channels each; {} KiB per answer",
        body.len() / 1024
    );

    let before = cpu();
    for address in &nsqds {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /stats HTTP/1.1\r\n\r\n").await.expect("sent");
        let mut left = vec![0; body.len()];
        stream.read_exact(&mut left).await.expect("received");
    }
    println!("answers without a sampler: {:?} CPU", cpu() - before);

    let memory_before = memory();
    let config = ClusterConfig { nsqds, default_ports: false, ..ClusterConfig::default() };
    let interval = Duration::from_secs(2);
    let sampler = Sampler::start(SamplerConfig { interval, ..SamplerConfig::new(config) }).expect("valid");
    for number in 1..=SAMPLES {
        let (before, start) = (cpu(), Instant::now());
        let snapshot = sampler.reached(number).await;
        println!(
            "sample {number}: {} topics, {} channels, {} up; took {:?}, {:?} CPU, waited {:?}, {} MiB more",
            snapshot.totals.topic_count,
            snapshot.totals.channel_count,
            snapshot.up_count(),
            snapshot.took,
            cpu() - before,
            start.elapsed(),
            memory().saturating_sub(memory_before)
        );
        let _ = std::io::stdout().flush();
    }
    let series = sampler.series();
    println!("series: {} KiB of {} KiB, {:?}", series.bytes() / 1024, (64 << 20) / 1024, series.detail());
}
