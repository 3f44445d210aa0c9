use std::time::Duration;

use nsq_tests::foreign::Library;
use nsq_tests::upgrade::connect_tls;
use nsq_tests::websocket::{BINARY, CLOSE, PING, PONG, TEXT, WebSocket};
use nsq_tests::wire::{batch, command};
use nsq_tests::{Certificates, Daemon, foreign, test, test_within};
use serde_json::{Value, json};
use tokio::net::TcpStream;

async fn connect(nsqd: &Daemon) -> WebSocket {
    WebSocket::connect(nsqd.http(), "/v2", &[]).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

async fn connect_securely(nsqd: &Daemon, certificates: &Certificates) -> WebSocket {
    let https = nsqd.https().await;
    let stream = TcpStream::connect(https).await.expect("nsqd listens");
    let (stream, _) =
        connect_tls(Box::new(stream), certificates.client(None)).await.expect("a TLS connection");
    WebSocket::over(stream, https, "/v2", &[]).await.unwrap_or_else(|refusal| panic!("{refusal:?}"))
}

async fn identify(socket: &mut WebSocket, request: Value) -> Value {
    socket.send(BINARY, command("IDENTIFY", request.to_string())).await;
    let (kind, data) = socket.nsq_frame().await;
    assert_eq!(kind, 0);
    serde_json::from_slice(&data).expect("JSON")
}

/// Libraries that a shim can connect through WebSockets: those whose sockets are opened in one place.
const LIBRARIES: [Library; 2] = [Library::Gnsq, Library::Nsqjs];

#[test]
fn unchanged_clients_publish_and_consume_through_websockets() {
    if foreign::left_out() {
        println!("left out: NSQ_TESTS_NO_FOREIGN is set");
        return;
    }
    test_within(Duration::from_secs(120), async {
        for library in LIBRARIES {
            for compression in [&[][..], &["--compression", "snappy"], &["--compression", "deflate"]] {
                eprintln!("--- {library:?} {compression:?}");
                let nsqd = Daemon::nsqd().start().await;
                let address = nsqd.http().to_string();
                let common =
                    [&["--nsqd", &address, "--websocket", "/v2", "--topic", "t"], compression].concat();
                let consuming = [&common[..], &["--channel", "c", "--count", "60"]].concat();
                let mut consumer = library.run("consume", &consuming);
                nsqd.channel_until("t", "c", "the client has subscribed", |channel| {
                    channel.client_count == 1
                })
                .await;
                assert_eq!(nsqd.metrics().await.value("nsq_http_consumers{kind=\"websocket\"}"), 1.0);
                library.run("publish", &[&common[..], &["--count", "20"]].concat()).finish().await;
                let batches = ["--count", "40", "--batch", "10", "--prefix", "batch-"];
                library.run("publish", &[&common[..], &batches].concat()).finish().await;
                let mut bodies = consumer.bodies(60).await;
                bodies.sort_unstable();
                let mut expected: Vec<String> = (0..20).map(|n| format!("message-{n}")).collect();
                expected.extend((0..40).map(|n| format!("batch-{n}")));
                expected.sort_unstable();
                assert_eq!(bodies, expected);
                consumer.finish().await;
                nsqd.channel_until_finished("t", "c").await;
            }
        }
    });
}

#[test]
fn frames_carry_the_stream_however_it_is_cut() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let mut socket = connect(&nsqd).await;
        let stream = [
            b"  V2".to_vec(),
            command("IDENTIFY", "{}"),
            b"SUB t c\nRDY 5\n".to_vec(),
            command("PUB t", "one"),
            command("MPUB t", batch(&["two", "three"])),
        ]
        .concat();
        for piece in stream.chunks(3) {
            socket.send(BINARY, piece).await;
        }
        // A message in several frames, with a ping in between.
        socket.send_part(BINARY, b"NO").await;
        socket.send(PING, b"are you there?").await;
        socket.send_part(0x80, b"P\n").await;
        let (mut responses, mut messages) = (0, Vec::new());
        let mut has_pong = false;
        while responses < 4 || messages.len() < 3 || !has_pong {
            let (kind, data) = socket.frame().await.expect("the connection stays open");
            if kind == PONG {
                assert_eq!(&data[..], b"are you there?");
                has_pong = true;
                continue;
            }
            assert_eq!(kind, BINARY);
            socket.push(&data);
            while let Some((kind, data)) = socket.buffered_nsq_frame() {
                match kind {
                    0 => {
                        assert_eq!(&data[..], b"OK");
                        responses += 1;
                    }
                    2 => messages.push(data),
                    kind => panic!("a frame of type {kind}: {data:?}"),
                }
            }
        }
        for message in &messages {
            socket.send(BINARY, [b"FIN ", &message[10..26], b"\n"].concat()).await;
        }
        nsqd.channel_until_finished("t", "c").await;
        let channel = nsqd.channel("t", "c").await.expect("a channel");
        assert_eq!((channel.clients.len(), channel.clients[0].tls), (1, false));
        socket.send(BINARY, b"NONSENSE\n").await;
        let (kind, data) = socket.nsq_frame().await;
        assert_eq!((kind, data.starts_with(b"E_INVALID")), (1, true));
        assert_eq!(socket.frame().await.map(|(kind, _)| kind), Some(CLOSE));
        nsqd.channel_until("t", "c", "the consumer is gone", |channel| channel.client_count == 0).await;
    });
}

#[test]
fn tls_belongs_to_https() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd().tls(&certificates).flag("--https-address=127.0.0.1:0").start().await;
        let mut socket = connect(&nsqd).await;
        socket.send(BINARY, b"  V2").await;
        let reply = identify(&mut socket, json!({"feature_negotiation": true, "tls_v1": true})).await;
        assert_eq!(reply["tls_v1"], false, "not offered in a WebSocket");
        socket.send(BINARY, b"SUB t c\n").await;
        socket.response("OK").await;

        let mut secure = connect_securely(&nsqd, &certificates).await;
        secure.send(BINARY, b"  V2").await;
        identify(&mut secure, json!({"feature_negotiation": true, "client_id": "secure"})).await;
        secure.send(BINARY, b"SUB t c\nRDY 1\n").await;
        secure.response("OK").await;
        let channel = nsqd.channel_until("t", "c", "two clients", |channel| channel.client_count == 2).await;
        let tls: Vec<_> =
            channel.clients.iter().map(|client| (client.client_id == "secure", client.tls)).collect();
        assert!(tls.contains(&(true, true)) && tls.contains(&(false, false)), "{tls:?}");
        nsqd.publish("t", "over wss").await;
        let (kind, data) = secure.nsq_frame().await;
        assert_eq!((kind, &data[26..]), (2, &b"over wss"[..]));
    });
}

#[test]
fn required_tls_is_fulfilled_by_https() {
    test(async {
        let certificates = Certificates::new();
        let nsqd = Daemon::nsqd()
            .tls(&certificates)
            .flag("--https-address=127.0.0.1:0")
            .flag("--tls-required=true")
            .start()
            .await;
        let refusal = WebSocket::connect(nsqd.http(), "/v2", &[]).await.err().expect("a refusal");
        assert_eq!(refusal.status, 403);
        nsqd.post("/channel/take?topic=t&channel=c", "").await.expect(403);
        nsqd.get("/channel/events?topic=t&channel=c").await.expect(403);
        let mut socket = connect_securely(&nsqd, &certificates).await;
        socket.send(BINARY, b"  V2SUB t c\n").await;
        socket.response("OK").await;
    });
}

#[test]
fn wrong_messages_close_the_connection() {
    test(async {
        let nsqd = Daemon::nsqd().flag("--max-msg-size=1000").flag("--max-body-size=5000").start().await;
        let code = |data: &[u8]| u16::from_be_bytes(*data.first_chunk().expect("a code"));
        // Text, more than the largest command, and reserved bits.
        for (kind, size, expected) in [(TEXT, 4, 1003), (BINARY, 200_000, 1009), (0x40 | BINARY, 1, 1002)] {
            let mut socket = connect(&nsqd).await;
            socket.send(kind, vec![b' '; size]).await;
            let (kind, data) = socket.frame().await.expect("a close");
            assert_eq!((kind, code(&data)), (CLOSE, expected));
        }
        // Another magic.
        let mut socket = connect(&nsqd).await;
        socket.send(BINARY, b"  V1").await;
        let (kind, data) = socket.nsq_frame().await;
        assert_eq!((kind, &data[..]), (1, &b"E_BAD_PROTOCOL"[..]));
        // A client that closes is answered.
        let mut socket = connect(&nsqd).await;
        socket.send(BINARY, b"  V2NOP\n").await;
        socket.send(CLOSE, 1000u16.to_be_bytes()).await;
        let (kind, data) = socket.frame().await.expect("a close");
        assert_eq!((kind, code(&data)), (CLOSE, 1000));
        nsqd.get("/ping").await.expect(200);
    });
}

#[test]
fn requests_that_are_no_upgrade_are_refused() {
    test(async {
        let nsqd = Daemon::nsqd().start().await;
        let refused = nsqd.get("/v2").await.expect(426).text();
        assert!(refused.contains("UPGRADE_REQUIRED"), "{refused}");
        let other = [("Sec-WebSocket-Protocol", "mqtt")];
        // The subprotocol is there, so the list has both.
        assert!(WebSocket::connect(nsqd.http(), "/v2", &other).await.is_ok());
        let refusal = WebSocket::connect(nsqd.http(), "/v2?topic=t", &[]).await.err().expect("a refusal");
        assert!(refusal.text().contains("UNKNOWN_ARG"), "{}", refusal.text());
    });
}

#[test]
fn silent_client_is_disconnected() {
    test_within(Duration::from_secs(60), async {
        let nsqd = Daemon::nsqd().start().await;
        let mut socket = connect(&nsqd).await;
        socket.send(BINARY, b"  V2").await;
        identify(&mut socket, json!({"feature_negotiation": true, "heartbeat_interval": 1000})).await;
        let (kind, data) = socket.nsq_frame().await;
        assert_eq!((kind, &data[..]), (0, &b"_heartbeat_"[..]));
        // Pings are no answer to a heartbeat.
        loop {
            match socket.frame().await {
                Some((CLOSE, _)) | None => break,
                Some(_) => socket.send(PING, b"").await,
            }
        }
    });
}

#[test]
fn stop_ends_websockets() {
    test(async {
        let mut nsqd = Daemon::nsqd().start().await;
        let mut socket = connect(&nsqd).await;
        socket.send(BINARY, b"  V2SUB t c\n").await;
        socket.response("OK").await;
        let began = std::time::Instant::now();
        assert!(nsqd.terminate().await.success());
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(socket.frame().await, None);
    });
}
