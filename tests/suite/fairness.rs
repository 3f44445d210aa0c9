use std::io::Write;

use nsq_tests::upgrade::Form;
use nsq_tests::wire::{Peer, command};
use nsq_tests::{Daemon, test};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Number of flooding connections that keeps every thread of the daemon busy.
fn flooder_count() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// The commands `count` times, and a publish whose OK shows that all of them were executed.
fn flood(commands: &[u8], count: usize) -> Vec<u8> {
    [commands.repeat(count), command("PUB flood", "x")].concat()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("writing to memory succeeds");
    std::mem::take(encoder.get_mut())
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("writing to memory succeeds");
    std::mem::take(encoder.get_mut())
}

/// Sends the bytes over each connection, and publishes over another one until all of them are executed.
async fn publish_during_floods(nsqd: &Daemon, peers: Vec<Peer>, bytes: &[u8]) {
    let mut other = nsqd.connect().await;
    let mut floods = JoinSet::new();
    for mut peer in peers {
        let bytes = bytes.to_vec();
        floods.spawn(async move {
            peer.send_as_is(&bytes).await;
            peer.ok().await;
        });
    }
    let mut published = 0;
    while !floods.is_empty() {
        other.publish("other", "x").await;
        published += 1;
        while let Some(flood) = floods.try_join_next() {
            flood.expect("the flood is executed");
        }
    }
    assert!(published >= 10, "only {published} publishes during the floods");
}

#[test]
fn compressed_command_floods_do_not_block_others() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let commands = flood(b"NOP\n", 1 << 20);
        for (form, bytes) in [(Form::Deflate, deflated(&commands)), (Form::Snappy, snappy(&commands))] {
            let mut peers = Vec::new();
            for _ in 0..flooder_count() {
                let mut peer = nsqd.connect().await;
                peer.start_compression(json!({}), form).await;
                peers.push(peer);
            }
            publish_during_floods(&nsqd, peers, &bytes).await;
        }
    });
}

#[test]
fn pipelined_commands_do_not_block_others() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peers = Vec::new();
        for _ in 0..flooder_count() {
            peers.push(nsqd.connect().await);
        }
        publish_during_floods(&nsqd, peers, &flood(b"NOP\n", 1 << 20)).await;
    });
}

#[test]
fn pipelined_touches_do_not_block_others() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peers = Vec::new();
        let mut touches = Vec::new();
        for n in 0..flooder_count() {
            let mut peer = nsqd.connect().await;
            peer.subscribe("touched", &format!("c{n}")).await;
            peer.ready(1).await;
            peers.push(peer);
        }
        nsqd.connect().await.publish("touched", "x").await;
        for peer in &mut peers {
            let message = peer.message().await;
            touches = format!("TOUCH {}\n", message.id_text()).into_bytes();
        }
        publish_during_floods(&nsqd, peers, &flood(&touches, 500_000)).await;
    });
}

#[test]
fn ping_floods_to_lookupd_do_not_block_others() {
    test(async {
        const PINGS: usize = 1 << 18;
        let lookupd = Daemon::lookupd().start().await;
        let mut floods = JoinSet::new();
        for _ in 0..flooder_count() {
            let stream = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
            let (mut read, mut write) = stream.into_split();
            floods.spawn(async move {
                write.write_all(b"  V1").await.expect("nsqlookupd reads");
                let pings = b"PING\n".repeat(PINGS);
                let mut answers = vec![0; b"\0\0\0\x02OK".len() * PINGS];
                let (sent, received) = tokio::join!(write.write_all(&pings), read.read_exact(&mut answers));
                sent.and(received).expect("each PING is answered");
            });
        }
        let mut other = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
        other.write_all(b"  V1").await.expect("nsqlookupd reads");
        let mut answered = 0;
        while !floods.is_empty() {
            other.write_all(b"PING\n").await.expect("nsqlookupd reads");
            let mut answer = [0; 6];
            other.read_exact(&mut answer).await.expect("nsqlookupd answers");
            answered += 1;
            while let Some(flood) = floods.try_join_next() {
                flood.expect("the flood is answered");
            }
        }
        assert!(answered >= 10, "only {answered} answers during the floods");
    });
}
