use std::net::SocketAddr;
use std::time::Duration;

use nsq_tests::wire::{Peer, batch, command};
use nsq_tests::{Daemon, http, process, test, test_within};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// An nsqd that is registered with an nsqlookupd, and that nsqlookupd.
async fn both() -> (Daemon, Daemon) {
    let lookupd = Daemon::lookupd().start().await;
    let nsqd = Daemon::nsqd().lookupd(&lookupd).start().await;
    (nsqd, lookupd)
}

/// Sends bytes, half-closes, and reads to the end. The daemon may answer anything, but it must close.
async fn send_and_expect_close(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("the daemon accepts");
    let exchange = async {
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
    };
    let ended = tokio::time::timeout(Duration::from_secs(15), exchange).await;
    assert!(
        ended.is_ok(),
        "{address} neither answers nor closes after {:?}",
        bytes.escape_ascii().to_string()
    );
}

/// Both daemons serve a new client on both of their ports, and neither has panicked.
async fn still_serving(nsqd: &mut Daemon, lookupd: &mut Daemon) {
    nsqd.connect().await.still_works().await;
    assert_eq!(nsqd.get("/ping").await.expect(200).text(), "OK");
    assert_eq!(lookupd.get("/ping").await.expect(200).text(), "OK");
    let mut peer = TcpStream::connect(lookupd.tcp()).await.expect("nsqlookupd accepts");
    peer.write_all(b"  V1PING\n").await.expect("nsqlookupd reads");
    let mut answer = [0; 6];
    tokio::time::timeout(Duration::from_secs(15), peer.read_exact(&mut answer))
        .await
        .expect("nsqlookupd answers in time")
        .expect("nsqlookupd answers");
    assert_eq!(&answer, b"\0\0\0\x02OK");
    assert!(nsqd.is_running() && lookupd.is_running());
    for daemon in [&*nsqd, &*lookupd] {
        assert!(!daemon.log().contains("panicked"), "{}", daemon.log().text());
    }
}

#[test]
fn random_bytes_on_every_port_do_no_harm() {
    test(async {
        let (mut nsqd, mut lookupd) = both().await;
        let seed = rand::random();
        eprintln!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        for round in 0..100 {
            let mut bytes = vec![0; random.random_range(1..3000)];
            random.fill_bytes(&mut bytes);
            // Half of the inputs start with the right magic.
            let magic: &[u8] = if round % 2 == 0 { b"" } else { b"  V2" };
            send_and_expect_close(nsqd.tcp(), &[magic, &bytes].concat()).await;
            let magic: &[u8] = if round % 2 == 0 { b"" } else { b"  V1" };
            send_and_expect_close(lookupd.tcp(), &[magic, &bytes].concat()).await;
            send_and_expect_close(nsqd.http(), &bytes).await;
            send_and_expect_close(lookupd.http(), &bytes).await;
        }
        still_serving(&mut nsqd, &mut lookupd).await;
    });
}

#[test]
fn mutated_commands_on_the_tcp_ports_do_no_harm() {
    test(async {
        let (mut nsqd, mut lookupd) = both().await;
        let seed = rand::random();
        eprintln!("seed {seed}");
        let mut random = SmallRng::seed_from_u64(seed);
        let identify = r#"{"feature_negotiation":true,"heartbeat_interval":1000}"#;
        let peer_info =
            r#"{"broadcast_address":"a","hostname":"h","http_port":1,"tcp_port":2,"version":"1.3.0"}"#;
        let for_nsqd = [
            b"  V2".to_vec(),
            command("IDENTIFY", identify),
            command("PUB t#ephemeral", "body"),
            command("DPUB t#ephemeral 10", "body"),
            command("MPUB t#ephemeral", batch(&["one", "two", "three"])),
            b"SUB t#ephemeral c#ephemeral\nRDY 5\nFIN 0123456789abcdef\nREQ 0123456789abcdef 5\n".to_vec(),
            b"TOUCH 0123456789abcdef\nNOP\nCLS\n".to_vec(),
        ]
        .concat();
        let for_lookupd = [
            b"  V1".to_vec(),
            command("IDENTIFY", peer_info),
            b"REGISTER t\nREGISTER t c\nPING\nUNREGISTER t c\nUNREGISTER t\n".to_vec(),
        ]
        .concat();
        for (address, whole) in [(nsqd.tcp(), for_nsqd), (lookupd.tcp(), for_lookupd)] {
            for _ in 0..200 {
                let mut bytes = whole.clone();
                for _ in 0..random.random_range(1..4) {
                    let place = random.random_range(4..bytes.len());
                    match random.random_range(0..3) {
                        0 => bytes[place] = random.random(),
                        1 => drop(bytes.drain(place..(place + 3).min(bytes.len()))),
                        _ => bytes.truncate(place.max(8)),
                    }
                    if bytes.len() < 8 {
                        break;
                    }
                }
                send_and_expect_close(address, &bytes).await;
            }
        }
        still_serving(&mut nsqd, &mut lookupd).await;
    });
}

/// Invalid commands, each up to the byte at which nsqd can refuse it, and the error.
fn wrong_commands() -> Vec<(Vec<u8>, &'static str)> {
    let mpub = |words: &[&[u8]]| [b"MPUB t#ephemeral\n", words.concat().as_slice()].concat();
    let (zero, minus_one, huge) = (&[0; 4], &[0xff; 4], &[0x7f, 0xff, 0xff, 0xff]);
    let (size, two, first) = (&[0, 0, 1, 0], &[0, 0, 0, 2], b"\0\0\0\x05first");
    vec![
        (mpub(&[zero]), "E_BAD_BODY MPUB invalid body size 0"),
        (mpub(&[minus_one]), "E_BAD_BODY MPUB invalid body size -1"),
        (mpub(&[huge]), "E_BAD_BODY MPUB body too big 2147483647 > 5242880"),
        (mpub(&[size, zero]), "E_BAD_BODY MPUB invalid message count 0"),
        (mpub(&[size, minus_one]), "E_BAD_BODY MPUB invalid message count -1"),
        (mpub(&[size, huge]), "E_BAD_BODY MPUB invalid message count 2147483647"),
        (mpub(&[size, two, zero]), "E_BAD_MESSAGE MPUB invalid message(0) body size 0"),
        (mpub(&[size, two, first, minus_one]), "E_BAD_MESSAGE MPUB invalid message(1) body size -1"),
        (mpub(&[size, two, first, huge]), "E_BAD_MESSAGE MPUB message too big 2147483647 > 1048576"),
        (b"PUB t#ephemeral\n\0\0\0\0".to_vec(), "E_BAD_MESSAGE PUB invalid message body size 0"),
        (
            b"DPUB t#ephemeral 1\n\x80\0\0\0".to_vec(),
            "E_BAD_MESSAGE DPUB invalid message body size -2147483648",
        ),
        (b"IDENTIFY\n\0\0\0\0".to_vec(), "E_BAD_BODY IDENTIFY invalid body size 0"),
        (b"AUTH\n\xff\xff\xff\xff".to_vec(), "E_BAD_BODY AUTH invalid body size -1"),
        (b"FIN 0123456789abcdef\n".to_vec(), "E_INVALID cannot FIN in current state"),
        (b"NOPE\n".to_vec(), "E_INVALID invalid command NOPE"),
    ]
}

#[test]
fn invalid_command_is_refused_at_the_deciding_byte() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (bytes, text) in wrong_commands() {
            let mut peer = nsqd.connect().await;
            peer.send(&bytes).await;
            peer.refused(text).await;
        }
    });
}

#[test]
fn half_close_inside_a_command_reports_the_missing_part() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        for (bytes, text) in wrong_commands() {
            let line_end = bytes.iter().position(|&byte| byte == b'\n').expect("a line");
            for length in 0..=bytes.len() {
                let mut peer = nsqd.connect().await;
                peer.send(&bytes[..length]).await;
                peer.half_close().await;
                if length == bytes.len() {
                    peer.refused(text).await;
                } else if length <= line_end {
                    peer.closed().await;
                } else {
                    let error = peer.error().await;
                    assert!(
                        error.contains(" failed to read "),
                        "{}: {error}",
                        bytes[..length].escape_ascii()
                    );
                    peer.closed().await;
                }
            }
        }
    });
}

#[test]
fn claimed_lengths_use_little_memory() {
    test(async {
        let (mut nsqd, mut lookupd) = both().await;
        let before = process::resident_bytes(nsqd.pid());
        let mut peers = Vec::new();
        // Each command claims the maximum length and sends one byte of it.
        for _ in 0..100 {
            let mut peer = nsqd.connect().await;
            peer.send([b"PUB t\n", &1_048_576u32.to_be_bytes()[..], b"x"].concat()).await;
            peers.push(peer);
            let mut peer = nsqd.connect().await;
            peer.send(
                [b"MPUB t\n", &5_242_880u32.to_be_bytes()[..], &1_048_575u32.to_be_bytes(), b"x"].concat(),
            )
            .await;
            peers.push(peer);
            let mut peer = nsqd.connect().await;
            peer.send([b"IDENTIFY\n", &5_242_880u32.to_be_bytes()[..], b"{"].concat()).await;
            peers.push(peer);
        }
        still_serving(&mut nsqd, &mut lookupd).await;
        let grown = process::resident_bytes(nsqd.pid()).saturating_sub(before);
        assert!(grown < 100 << 20, "300 claims cost {} MiB", grown >> 20);
    });
}

#[test]
fn long_names_use_little_memory() {
    test_within(Duration::from_secs(120), async {
        let (mut nsqd, mut lookupd) = both().await;
        let before = process::resident_bytes(nsqd.pid());
        let name = "n".repeat(1_000_000);
        let request = json!({
            "client_id": name, "hostname": name, "user_agent": name, "topology_zone": name, "unknown": name,
        });
        let mut peers = Vec::new();
        for _ in 0..50 {
            let mut peer = nsqd.connect().await;
            peer.send(command("IDENTIFY", request.to_string())).await;
            peer.ok().await;
            peers.push(peer);
        }
        let grown = process::resident_bytes(nsqd.pid()).saturating_sub(before);
        // The clients have sent 250 MB.
        assert!(grown < 50 << 20, "{} MiB", grown >> 20);
        still_serving(&mut nsqd, &mut lookupd).await;
    });
}

#[test]
fn lookupd_refuses_sizes_that_crash_nsqs_lookupd() {
    test(async {
        let (mut nsqd, mut lookupd) = both().await;
        for size in [-1i32, i32::MIN, i32::MAX, 0] {
            send_and_expect_close(
                lookupd.tcp(),
                &[b"  V1IDENTIFY\n", &size.to_be_bytes()[..], b"{}"].concat(),
            )
            .await;
        }
        let endless_line = vec![b'x'; 5 << 20];
        send_and_expect_close(lookupd.tcp(), &[b"  V1", &endless_line[..]].concat()).await;
        send_and_expect_close(nsqd.tcp(), &[b"  V2", &endless_line[..]].concat()).await;
        still_serving(&mut nsqd, &mut lookupd).await;
        let resident = process::resident_bytes(lookupd.pid());
        assert!(resident < 100 << 20, "{} MiB", resident >> 20);
    });
}

#[test]
fn malformed_http_requests_do_no_harm() {
    test(async {
        let (mut nsqd, mut lookupd) = both().await;
        let requests: Vec<Vec<u8>> = vec![
            b"GET\r\n\r\n".to_vec(),
            b"GET /ping\r\n\r\n".to_vec(),
            b"GET /ping HTTP/9.9\r\nHost: x\r\n\r\n".to_vec(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\nabc".to_vec(),
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nabc".to_vec(),
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc".to_vec(),
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n".to_vec(),
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc".to_vec(),
            b"POST /pub?topic=%zz HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na".to_vec(),
            b"GET /stats?format=json;topic=x HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            b"GET /ping HTTP/1.1\r\nHost: x\r\nBroken\r\n\r\n".to_vec(),
            [b"GET /", &vec![b'a'; 3 << 20][..], b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat(),
            [b"GET /ping HTTP/1.1\r\nHost: x\r\n", &b"X-Header: x\r\n".repeat(200_000)[..], b"\r\n"].concat(),
            [b"GET /ping HTTP/1.1\r\nHost: x\r\nX: ", &vec![b'a'; 3 << 20][..], b"\r\n\r\n"].concat(),
        ];
        for address in [nsqd.http(), lookupd.http()] {
            for request in &requests {
                send_and_expect_close(address, request).await;
            }
        }
        still_serving(&mut nsqd, &mut lookupd).await;
    });
}

#[test]
fn oversized_http_body_is_refused_without_buffering() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let address = nsqd.http();
        let announced = b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nContent-Length: 1099511627776\r\n\r\n";
        http::raw(address, announced).await.expect("an answer").expect_error(413, "MSG_TOO_BIG");

        let mut chunked =
            b"POST /pub?topic=t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for _ in 0..64 {
            chunked.extend(b"100000\r\n");
            chunked.extend(vec![b'x'; 1 << 20]);
            chunked.extend(b"\r\n");
        }
        chunked.extend(b"0\r\n\r\n");
        let before = process::resident_bytes(nsqd.pid());
        if let Some(answer) = http::raw(address, &chunked).await {
            answer.expect_error(413, "MSG_TOO_BIG");
        }
        let grown = process::resident_bytes(nsqd.pid()).saturating_sub(before);
        assert!(grown < 40 << 20, "{} MiB", grown >> 20);
        assert!(nsqd.topic("t").await.is_none_or(|topic| topic.message_count == 0));
    });
}

#[test]
fn hundreds_of_half_open_connections_do_not_block_others() {
    test_within(Duration::from_secs(120), async {
        let (mut nsqd, mut lookupd) = both().await;
        let mut held = Vec::new();
        for n in 0..100 {
            for address in [nsqd.tcp(), nsqd.http(), lookupd.tcp(), lookupd.http()] {
                let mut stream = TcpStream::connect(address).await.expect("the daemon accepts");
                let part: &[u8] = [&b""[..], b" ", b"GET /pi", b"  V2PUB t\n\0\0"][n % 4];
                stream.write_all(part).await.expect("the daemon reads");
                held.push(stream);
            }
        }
        still_serving(&mut nsqd, &mut lookupd).await;
        assert!(nsqd.terminate().await.success(), "half-open connections do not prevent the stop");
        assert!(lookupd.terminate().await.success());
    });
}

#[test]
fn http_on_the_tcp_port_is_a_bad_protocol() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut peer = Peer::connect_silently(nsqd.tcp()).await;
        peer.send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await;
        peer.refused("E_BAD_PROTOCOL").await;
    });
}
