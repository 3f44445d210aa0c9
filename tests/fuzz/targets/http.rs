//! The HTTP server of both daemons, over a connection in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsq_daemon::http::{BodyError, HttpError, Method, Request, Response, Router, Server, Service, response};
use nsq_daemon::listen::Remote;
use nsq_daemon::log::Logger;
use nsq_fuzz::edit::{Input, split};
use nsq_fuzz::fuzz;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

/// A connection that takes longer than this hangs: the server has all bytes and knows that no more will come.
const PATIENCE: Duration = Duration::from_secs(10);

const MAX_BODY_BYTES: usize = 64;
/// Inputs per run. Each is sent over connections of its own.
const HTTP_RUNS: u64 = 300;

#[derive(Clone, Copy)]
enum Endpoint {
    Ping,
    Body,
    Query,
    Parameter,
}

/// Records the requests that reach a handler.
struct Recorder {
    router: Router<Endpoint>,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Service for Recorder {
    type Route = Endpoint;

    fn router(&self) -> &Router<Endpoint> {
        &self.router
    }

    async fn call(&self, endpoint: Endpoint, mut request: Request) -> Result<Response, HttpError> {
        let head = format!("{} {} {:?}", request.method, request.uri, request.parameter);
        let (answer, body) = match endpoint {
            Endpoint::Ping => ("OK".to_owned(), None),
            Endpoint::Body => {
                let body = request.body.read_limited(MAX_BODY_BYTES).await;
                self.seen.lock().expect("no panic").push(format!("{head} {:?}", body.as_ref().ok()));
                let body = body.map_err(|error| match error {
                    BodyError::TooBig => HttpError::too_large("BODY_TOO_BIG"),
                    _ => HttpError::INVALID_REQUEST,
                })?;
                return Ok(response::text(body.len().to_string()));
            }
            Endpoint::Query => {
                let query = request.query().map_err(|_| HttpError::INVALID_REQUEST)?;
                (query.iter().count().to_string(), Some(format!("{:?}", query.iter().collect::<Vec<_>>())))
            }
            Endpoint::Parameter => (request.parameter.map_or(0, |text| text.len()).to_string(), None),
        };
        self.seen.lock().expect("no panic").push(format!("{head} {body:?}"));
        Ok(response::text(answer))
    }
}

fn server() -> (Server<Recorder>, Arc<Mutex<Vec<String>>>) {
    let router = Router::new()
        .add(Method::GET, "/ping", Endpoint::Ping)
        .add(Method::POST, "/body", Endpoint::Body)
        .add(Method::GET, "/query", Endpoint::Query)
        .add(Method::PUT, "/config/:name", Endpoint::Parameter);
    let seen = Arc::default();
    (Server::new(Recorder { router, seen: Arc::clone(&seen) }, Logger::silent()), seen)
}

/// Sends the pieces on a new connection, closes its sending half, and returns everything that the server sends.
async fn exchange(server: &Server<Recorder>, pieces: &[&[u8]]) -> Vec<u8> {
    let (mut client, stream) = tokio::io::duplex(1 << 16);
    let server = server.clone();
    let serving = tokio::spawn(async move {
        server.serve_stream(stream, Remote::Unix, None, CancellationToken::new()).await;
    });
    for piece in pieces {
        if client.write_all(piece).await.is_err() {
            break;
        }
        // Lets the server read this piece before the next one arrives.
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
    }
    let _ = client.shutdown().await;
    let mut answers = Vec::new();
    let read = tokio::time::timeout(PATIENCE, client.read_to_end(&mut answers)).await;
    let _ = read.expect("the server must close the connection");
    let served = tokio::time::timeout(PATIENCE, serving).await;
    served.expect("the connection's task must end").expect("the connection's task must not panic");
    answers
}

/// The statuses of the answers, which must be whole responses.
fn statuses(mut answers: &[u8]) -> Vec<u16> {
    let mut statuses = Vec::new();
    while !answers.is_empty() {
        let end = answers.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a response has a head");
        let head = std::str::from_utf8(&answers[..end]).expect("a head is text");
        let (status, headers) = head.split_once("\r\n").unwrap_or((head, ""));
        let code = status.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).expect("a status line");
        statuses.push(code.parse().expect("a status is a number"));
        let length = headers.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().expect("a length"))
        });
        answers = answers[end + 4..].get(length.unwrap_or(0)..).expect("a response is whole");
    }
    statuses
}

fn samples() -> Vec<Vec<u8>> {
    [
        "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /ping HTTP/1.0\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        "POST /body HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 65\r\n\r\n",
        "GET /query?a=1&b=%20%zz&a=+#x HTTP/1.1\r\nHost: x\r\nAccept: application/msgpack\r\n\r\n",
        "PUT /config/max%2Fsize HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\nContent-Length: 0\r\n\r\n",
        "OPTIONS /body HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /nowhere/ HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\x16\x03\x01\x02\0\x01",
    ]
    .map(|sample| sample.as_bytes().to_vec())
    .to_vec()
}

fn check_input(runtime: &Runtime, bytes: &[u8], cuts: (u16, u16)) {
    let (first, rest) = split(bytes, cuts.0);
    let (second, third) = split(rest, cuts.1);
    let (server, seen) = server();
    let answers = runtime.block_on(exchange(&server, &[first, second, third]));
    // A response to HEAD announces a body and has none.
    let may_have_head = bytes.windows(4).any(|word| word == b"HEAD");
    let calls = std::mem::take(&mut *seen.lock().expect("no panic"));
    if !may_have_head {
        let finals = statuses(&answers).into_iter().filter(|&status| status >= 200).count();
        assert!(finals >= calls.len(), "{} calls, {finals} answers", calls.len());
    }

    let again = runtime.block_on(exchange(&server, &[bytes]));
    let calls_again = std::mem::take(&mut *seen.lock().expect("no panic"));
    assert_eq!(calls_again, calls, "the same bytes in one piece");
    if !may_have_head {
        // Whether the last answer is a refusal of bytes behind a request that ends the connection depends on whether
        // the server has read them by then.
        let answered = |answers: &[u8]| {
            let mut statuses = statuses(answers);
            statuses.retain(|&status| status >= 200);
            statuses.pop_if(|last| *last == 400);
            statuses
        };
        assert_eq!(answered(&again), answered(&answers), "the same bytes in one piece");
    }

    let good = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = runtime.block_on(exchange(&server, &[good]));
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n") && answer.ends_with(b"\r\n\r\nOK"));
}

/// Any bytes, in any pieces: the server answers, refuses or closes, treats them the same in one piece, and goes on to
/// answer good requests.
#[test]
fn http_requests() {
    let samples = samples();
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    for sample in &samples {
        (0..=sample.len()).for_each(|at| check_input(&runtime, sample, (at as u16, 1)));
    }
    let runtime = std::panic::AssertUnwindSafe(runtime);
    fuzz!((Input, (u16, u16)), HTTP_RUNS, |(input, cuts)| {
        check_input(&runtime, &input.bytes(&samples), *cuts);
    });
}
