//! The server reads the same requests as hyper alone, whatever bytes arrive between them, or refuses them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nsq_daemon::http::{HttpError, Method, Request, Response, Router, Server, Service, response};
use nsq_daemon::listen::Remote;
use nsq_daemon::log::Logger;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_util::sync::CancellationToken;

/// Time limit for each step of a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// Method, target up to a `#`, body; no body if it could not be read.
type Seen = (String, String, Option<Vec<u8>>);

#[derive(Clone, Default)]
struct Recorder {
    router: Router<()>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Recorder {
    fn new() -> Self {
        let router = Router::new().add(Method::GET, "/a", ()).add(Method::POST, "/a", ());
        Self { router, ..Self::default() }
    }
}

impl Service for Recorder {
    type Route = ();

    fn router(&self) -> &Router<()> {
        &self.router
    }

    async fn call(&self, (): (), mut request: Request) -> Result<Response, HttpError> {
        let target = request.uri.to_string().split("%23").next().unwrap_or_default().to_owned();
        let body = request.body.read_limited(1 << 20).await.ok().map(|body| body.to_vec());
        let method = request.method.to_string();
        self.seen.lock().push((method, target, body));
        Ok(response::empty())
    }
}

/// Sends the pieces and reads the responses until the server closes the connection.
async fn send(mut client: DuplexStream, pieces: Vec<Vec<u8>>) -> String {
    for piece in pieces {
        if client.write_all(&piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    let _ = client.shutdown().await;
    let mut answers = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answers)).await;
    let _ = read.expect("the server did not close the connection");
    String::from_utf8_lossy(&answers).into_owned()
}

/// The requests that the server reads, and its responses.
async fn by_the_server(pieces: Vec<Vec<u8>>) -> (Vec<Seen>, String) {
    let recorder = Recorder::new();
    let server = Server::new(recorder.clone(), Logger::silent());
    let (client, stream) = tokio::io::duplex(1 << 16);
    let serving = tokio::spawn(async move {
        server.serve_stream(stream, Remote::Unix, None, CancellationToken::new()).await;
    });
    let answers = send(client, pieces).await;
    serving.await.unwrap();
    let seen = recorder.seen.lock().clone();
    (seen, answers)
}

/// The requests that hyper alone reads.
async fn by_hyper(pieces: Vec<Vec<u8>>) -> Vec<Seen> {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let recorded = Arc::clone(&seen);
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let seen = Arc::clone(&recorded);
        async move {
            let (method, target) = (request.method().to_string(), request.uri().to_string());
            let is_there = request.uri().path() == "/a" && (method == "GET" || method == "POST");
            // Read in any case: hyper alone closes the connection if much of a body is unread.
            let body = request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
            if is_there {
                seen.lock().push((method, target, body));
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<hyper::body::Bytes>::new()))
        }
    });
    let (client, stream) = tokio::io::duplex(1 << 16);
    let mut http1 = hyper::server::conn::http1::Builder::new();
    http1.half_close(true);
    let serving = tokio::spawn(async move {
        let _ = http1.serve_connection(TokioIo::new(stream), service).await;
    });
    send(client, pieces).await;
    serving.await.unwrap();
    Arc::into_inner(seen).expect("hyper still holds the requests").into_inner()
}

fn pieces(bytes: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    for cut in cuts.iter().cycle() {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    pieces
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(b'#'), Just(b'\n'), Just(b'\r'), any::<u8>()], 0..30),
        Just(b"POST /a?smuggled# HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n###".to_vec()),
        Just(b"0\r\n\r\nGET /a?smuggled# HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
    ]
}

/// A request whose end may be ambiguous.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let line = "(GET|POST) /[ab]\\?[a#]{0,5} HTTP/1\\.[01](\r\n|\n)";
    let odd_headers = prop::collection::vec(
        prop_oneof![
            Just("X: #\r\n"),
            Just("Expect: 100-continue\r\n"),
            Just("Connection: keep-alive\r\n"),
            Just("Connection: upgrade\r\nUpgrade: websocket\r\n"),
            Just("X: a\r\n folded: #\r\n"),
            Just("X: a\n"),
            Just("Content-Length : 3\r\n"),
            Just("Content-Length: 3\r\n"),
            Just("Content-Length: +3\r\n"),
            Just("Content-Length: 3, 3\r\n"),
            Just("Transfer-Encoding: chunked\r\n"),
            Just("Transfer-Encoding: chunked, identity\r\n"),
            Just("Transfer-Encoding: gzip, chunked\r\n"),
            Just("Transfer-Encoding: \tchunked \r\n"),
            Just("Transfer-Encoding:\r\n chunked\r\n"),
        ],
        0..2,
    );
    let odd_ends = prop_oneof![
        6 => Just("0\r\n\r\n"),
        1 => Just("0\r\n\nX: a\r\n\r\n"),
        1 => Just("0\r\nX: a\r\n\r\n"),
        1 => Just("0;a=b\r\n\r\n"),
        1 => Just("0\n\n"),
        1 => Just("00\r\n\r\n"),
    ];
    let plain_chunks = prop::option::of(1usize..10);
    (line, odd_headers, body(), plain_chunks, odd_ends, prop::bool::weighted(0.2)).prop_map(
        |(line, odd_headers, body, chunk, end, is_odd)| {
            let mut bytes = line.into_bytes();
            bytes.extend(b"Host: x\r\n");
            if is_odd {
                odd_headers.iter().for_each(|header| bytes.extend(header.bytes()));
            }
            match chunk {
                None => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).bytes());
                    bytes.extend(&body);
                }
                Some(size) => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for chunk in body.chunks(size) {
                        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
                        bytes.extend(chunk);
                        bytes.extend(b"\r\n");
                    }
                    bytes.extend(end.bytes());
                }
            }
            bytes
        },
    )
}

/// Changes some bytes, but no `?`: after it, a `#` makes no difference to the path.
fn change(bytes: &mut Vec<u8>, changes: &[(prop::sample::Index, u8)]) {
    for (at, byte) in changes {
        let at = at.index(bytes.len().max(1));
        match (bytes.get(at), byte) {
            (None | Some(b'?'), _) => {}
            (Some(_), 0..=60) => drop(bytes.remove(at)),
            (Some(_), 61..=120) => bytes.insert(at, b'\n'),
            (Some(_), byte) => bytes[at] = *byte,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn server_reads_the_same_requests_as_hyper_or_refuses(
        requests in prop::collection::vec(request(), 1..6),
        changes in prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4)],
        cuts in prop::collection::vec(1usize..80, 1..6),
    ) {
        let mut bytes = requests.concat();
        change(&mut bytes, &changes);
        let pieces = pieces(&bytes, &cuts);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (seen, expected) = runtime.block_on(async {
            (by_the_server(pieces.clone()).await.0, by_hyper(pieces).await)
        });
        prop_assert!(expected.starts_with(&seen), "{seen:?}\n{expected:?}\n{:?}", String::from_utf8_lossy(&bytes));
    }
}

const GOOD: &str = "POST /a?x#y HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n###";

async fn seen_in_one_piece(requests: &str) -> (Vec<Seen>, String) {
    by_the_server(vec![requests.as_bytes().to_vec()]).await
}

#[tokio::test]
async fn unambiguous_requests_are_all_answered() {
    let chunked =
        "POST /a?x#y HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n###\r\n0\r\n\r\n";
    let (seen, answers) = seen_in_one_piece(&[GOOD, chunked, GOOD, chunked, GOOD].concat()).await;
    let one = ("POST".to_owned(), "/a?x".to_owned(), Some(b"###".to_vec()));
    assert_eq!(seen, vec![one; 5]);
    assert_eq!((answers.matches("200 OK").count(), answers.matches("close").count()), (5, 0));
}

#[tokio::test]
async fn connection_ends_after_an_ambiguous_request() {
    for doubtful in [
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\nX: a\r\nContent-Length: 40\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "POST /a HTTP/1.1\nHost: x\nContent-Length: 3\n\nabc",
    ] {
        let (seen, answers) = seen_in_one_piece(&[GOOD, doubtful, GOOD, GOOD].concat()).await;
        let targets: Vec<&str> = seen.iter().map(|(_, target, _)| target.as_str()).collect();
        assert!(matches!(&targets[..], ["/a?x"] | ["/a?x", "/a"]), "{doubtful:?}: {seen:?}");
        assert!(
            answers.contains("Connection: close") || answers.contains(" 400 "),
            "{doubtful:?}: {answers}"
        );
    }
}

#[tokio::test]
async fn unread_body_with_a_trailer_is_ambiguous() {
    // No handler reads this body: its trailer is seen only after the response.
    let unread = "POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let rest = "3\r\nabc\r\n0\r\n\nX: a\r\n\r\n";
    for together in [true, false] {
        let sent = match together {
            true => vec![[unread, rest, GOOD].concat().into_bytes()],
            false => vec![unread.into(), rest.into(), GOOD.into()],
        };
        let (seen, answers) = by_the_server(sent).await;
        assert_eq!((seen, answers.matches("200 OK").count()), (vec![], 0), "{answers}");
    }
}
