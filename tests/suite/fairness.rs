use std::io::Write;

use nsq_tests::upgrade::Form;
use nsq_tests::wire::{Peer, command};
use nsq_tests::{Daemon, test};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Enough of them keep every thread of the daemon busy.
fn flooders() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from) + 1
}

/// The commands, and a publish whose OK says that all of them were executed.
fn flood(commands: &[u8], count: usize) -> Vec<u8> {
    [commands.repeat(count), command("PUB flood", "x")].concat()
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("memory can be written to");
    std::mem::take(encoder.get_mut())
}

fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = snap::write::FrameEncoder::new(Vec::new());
    encoder.write_all(bytes).and_then(|()| encoder.flush()).expect("memory can be written to");
    std::mem::take(encoder.get_mut())
}

/// Sends the bytes over each of the connections, and publishes over another until all of that is executed.
async fn others_publish_beside(nsqd: &Daemon, peers: Vec<Peer>, bytes: &[u8]) {
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
    assert!(published >= 10, "{published} publishes in all that time");
}

#[test]
fn streams_that_decompress_to_many_commands() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let commands = flood(b"NOP\n", 1 << 20);
        for (form, bytes) in [(Form::Deflate, deflated(&commands)), (Form::Snappy, snappy(&commands))] {
            let mut peers = Vec::new();
            for _ in 0..flooders() {
                let mut peer = nsqd.connect().await;
                peer.start_compression(json!({}), form).await;
                peers.push(peer);
            }
            others_publish_beside(&nsqd, peers, &bytes).await;
        }
    });
}

#[test]
fn pipelined_commands() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peers = Vec::new();
        for _ in 0..flooders() {
            peers.push(nsqd.connect().await);
        }
        others_publish_beside(&nsqd, peers, &flood(b"NOP\n", 1 << 20)).await;
    });
}

#[test]
fn pipelined_touches_of_one_message() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peers = Vec::new();
        let mut touches = Vec::new();
        for n in 0..flooders() {
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
        others_publish_beside(&nsqd, peers, &flood(&touches, 200_000)).await;
    });
}

#[test]
fn pings_of_a_node_to_lookupd() {
    test(async {
        const PINGS: usize = 1 << 18;
        let lookupd = Daemon::lookupd().start().await;
        let mut floods = JoinSet::new();
        for _ in 0..flooders() {
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
        assert!(answered >= 10, "{answered} answers in all that time");
    });
}
