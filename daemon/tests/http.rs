//! The HTTP server over real sockets: behaviour outside the handlers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nsq_daemon::http::server::Timeouts;
use nsq_daemon::http::{
    AllowedOrigins, AnswerBody, BodyError, Hangup, HeavyAnswers, HttpError, LiveSource, Method, Pieces,
    Request, Response, Router, Server, Service, response,
};
use nsq_daemon::listen::{Listener, Stream, parse_address};
use nsq_daemon::log::{Level, Logger};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Time limit for each step of a test.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
enum Route {
    Ping,
    Echo,
    Query,
    Panic,
    Wait,
    Config,
    Endless,
    Hangup,
    Live,
}

/// A live body: one piece at a time, as long as the client reads.
struct Pulses {
    count: Arc<AtomicUsize>,
    hangup: Hangup,
    release: Arc<Notify>,
}

const PULSE_BYTES: usize = 1 << 20;

impl LiveSource for Pulses {
    async fn next_piece(&mut self) -> Option<Bytes> {
        tokio::select! {
            () = self.hangup.wait() => return None,
            () = std::future::ready(()) => {}
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(vec![b'x'; PULSE_BYTES].into())
    }
}

impl Drop for Pulses {
    fn drop(&mut self) {
        self.release.notify_one();
    }
}

struct Echo {
    router: Router<Route>,
    release: Arc<Notify>,
    origins: AllowedOrigins,
    heavy: HeavyAnswers,
    pulses: Arc<AtomicUsize>,
}

impl Service for Echo {
    type Route = Route;

    fn router(&self) -> &Router<Route> {
        &self.router
    }

    fn refuse(&self, request: &Request) -> Option<Response> {
        request.headers.contains_key("x-refuse").then(|| response::plain(http::StatusCode::FORBIDDEN, "no"))
    }

    fn allowed_origins(&self) -> Option<&AllowedOrigins> {
        Some(&self.origins)
    }

    async fn call(&self, route: Route, mut request: Request) -> Result<Response, HttpError> {
        match route {
            Route::Ping => Ok(response::text("OK")),
            Route::Echo => match request.body.read_limited(1 << 20).await {
                Ok(body) => Ok(response::text(body)),
                Err(BodyError::TooBig) => Err(HttpError::too_large("MSG_TOO_BIG")),
                Err(BodyError::Busy) => Err(HttpError::BUSY),
                Err(BodyError::Unreadable(_)) => Err(HttpError::INTERNAL_ERROR),
            },
            Route::Query => {
                let query = request.query_without_body().await?;
                let topic = query.get("topic").ok_or(HttpError::bad_request("MISSING_ARG_TOPIC"))?;
                Ok(response::text(topic.into_owned()))
            }
            Route::Panic => panic!("deliberate panic of the test"),
            Route::Wait => {
                self.release.notified().await;
                Ok(response::empty())
            }
            Route::Hangup => {
                request.body.discard().await?;
                request.hangup().wait().await;
                self.release.notify_one();
                Ok(response::text("too late"))
            }
            Route::Live => {
                let (count, release) = (Arc::clone(&self.pulses), Arc::clone(&self.release));
                let source = Pulses { count, hangup: request.hangup(), release };
                let mut response = response::empty();
                *response.body_mut() = AnswerBody::live(source);
                Ok(response)
            }
            Route::Endless => {
                let write = |pieces: Pieces| async move {
                    loop {
                        pieces.put(|out| out.extend([b'x'; 1 << 16]));
                        pieces.pause().await;
                    }
                };
                self.heavy.answer(response::TEXT, false, write).await
            }
            Route::Config => Ok(response::value(request.encoding, &request.parameter)),
        }
    }
}

fn echo(router: Router<Route>, release: &Arc<Notify>) -> Echo {
    let origins = AllowedOrigins::new(&["https://admin.example".to_owned()], &[]).unwrap();
    let pulses = Arc::default();
    Echo { router, release: Arc::clone(release), origins, heavy: HeavyAnswers::default(), pulses }
}

struct Running {
    address: String,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    release: Arc<Notify>,
    pulses: Arc<AtomicUsize>,
    lines: Arc<Mutex<Vec<String>>>,
}

async fn start(timeouts: Timeouts) -> Running {
    let router = Router::new()
        .add(Method::GET, "/ping", Route::Ping)
        .add_unlogged(Method::POST, "/echo", Route::Echo)
        .add(Method::GET, "/query", Route::Query)
        .add(Method::POST, "/query", Route::Query)
        .add(Method::GET, "/panic", Route::Panic)
        .add(Method::GET, "/wait", Route::Wait)
        .add(Method::GET, "/endless", Route::Endless)
        .add(Method::POST, "/hangup", Route::Hangup)
        .add(Method::GET, "/live", Route::Live)
        .add(Method::GET, "/config/:opt", Route::Config);
    let lines = Arc::new(Mutex::new(Vec::new()));
    let logger = Logger::to_function("", Level::Info, {
        let lines = Arc::clone(&lines);
        move |line| lines.lock().push(line.to_owned())
    });
    let release = Arc::new(Notify::new());
    let server = Server::with_timeouts(echo(router, &release), logger, timeouts);
    let pulses = Arc::clone(&server.service().pulses);
    let listener = Listener::bind(&parse_address("127.0.0.1:0")).await.unwrap();
    let address = listener.to_string();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let serving = tokio::spawn(async move { server.serve(listener, token).await.unwrap() });
    Running { address, shutdown, serving, release, pulses, lines }
}

impl Running {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// Sends bytes on a new connection, closes our side, and reads to the end.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        stream.shutdown().await.unwrap();
        read_all(&mut stream).await
    }

    /// Sends one request with only a Host header; returns the response without its date.
    async fn ask(&self, line: &str) -> String {
        let answer = self.exchange(format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
        let kept = answer.split("\r\n").filter(|line| !line.starts_with("Date: "));
        kept.collect::<Vec<_>>().join("\n")
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer))
        .await
        .expect("the connection did not end")
        .unwrap();
    String::from_utf8(answer).unwrap()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    while !answer.ends_with(end.as_bytes()) {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        let byte = byte.unwrap_or_else(|_| panic!("received only {:?}", String::from_utf8_lossy(&answer)));
        answer.push(byte.unwrap_or_else(|_| panic!("ended after {:?}", String::from_utf8_lossy(&answer))));
    }
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn responses_are_spelled_as_in_nsq() {
    let server = start(Timeouts::default()).await;
    assert_eq!(
        server.ask("GET /ping").await,
        "HTTP/1.1 200 OK\nX-Nsq-Content-Type: nsq; version=1.0\nContent-Type: text/plain; charset=utf-8\n\
         Connection: close\nContent-Length: 2\n\nOK"
    );
    assert_eq!(
        server.ask("POST /echo").await,
        "HTTP/1.1 200 OK\nX-Nsq-Content-Type: nsq; version=1.0\nConnection: close\nContent-Length: 0\n\n"
    );
    let not_found = server.ask("GET /nope").await;
    assert!(not_found.starts_with("HTTP/1.1 404 ") && not_found.ends_with(r#"{"message":"NOT_FOUND"}"#));
    let wrong_method = server.ask("PUT /query").await;
    assert!(wrong_method.contains("\nAllow: GET, OPTIONS, POST\n"), "{wrong_method}");
    assert!(wrong_method.ends_with(r#"{"message":"METHOD_NOT_ALLOWED"}"#));
}

#[tokio::test]
async fn near_misses_get_redirect_options_or_405() {
    let server = start(Timeouts::default()).await;
    let moved = server.ask("GET /PING/?a=1&b=2").await;
    assert!(moved.starts_with("HTTP/1.1 301 ") && moved.contains("\nLocation: /ping?a=1&b=2\n"), "{moved}");
    assert!(moved.ends_with("<a href=\"/ping?a=1&amp;b=2\">Moved Permanently</a>.\n\n"));
    let moved = server.ask("POST /echo/").await;
    assert!(moved.starts_with("HTTP/1.1 307 ") && moved.ends_with("Content-Length: 0\n\n"), "{moved}");
    let options = server.ask("OPTIONS /ping").await;
    assert!(options.contains("\nAllow: GET, OPTIONS\n") && !options.contains("X-Nsq"), "{options}");
    assert!(server.ask("OPTIONS *").await.starts_with("HTTP/1.1 200 "));
    assert!(server.ask("HEAD /ping").await.starts_with("HTTP/1.1 405 "));
    assert!(server.ask("GET /%70ing").await.ends_with("OK"));
    assert!(server.ask("GET /config/a%20b").await.ends_with("\"a b\""));
}

#[tokio::test]
async fn parameters_come_from_the_query_only() {
    let server = start(Timeouts::default()).await;
    for escaped in ["a%23b", "a#b"] {
        assert!(server.ask(&format!("GET /query?topic={escaped}")).await.ends_with("\na#b"), "{escaped}");
    }
    assert!(server.ask("GET /query?topic=a;b").await.ends_with(r#"{"message":"INVALID_REQUEST"}"#));
    let body = "POST /query HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\ntopic=a";
    assert!(server.exchange(body).await.ends_with(r#"{"message":"MISSING_ARG_TOPIC"}"#));
}

#[tokio::test]
async fn message_pack_is_sent_on_request() {
    let server = start(Timeouts::default()).await;
    let mut stream = server.connect().await;
    let request =
        "GET /config/opt HTTP/1.1\r\nHost: x\r\nAccept: application/msgpack\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.ends_with(b"\r\n\r\n\xa3opt"), "{answer:?}");
}

#[tokio::test]
async fn panic_is_an_internal_error_and_keeps_the_connection() {
    let server = start(Timeouts::default()).await;
    let requests = "GET /panic HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n";
    let answers = server.exchange(requests).await;
    assert!(
        answers.starts_with("HTTP/1.1 500 ") && answers.contains(r#"{"message":"INTERNAL_ERROR"}"#),
        "{answers}"
    );
    assert!(answers.ends_with("OK"));
}

#[tokio::test]
async fn handler_learns_that_its_client_is_gone() {
    let server = start(Timeouts::default()).await;
    for is_half_closed in [false, true] {
        let mut stream = server.connect().await;
        stream.write_all(b"POST /hangup HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        if is_half_closed {
            stream.shutdown().await.unwrap();
            assert!(read_all(&mut stream).await.ends_with("too late"));
        } else {
            drop(stream);
        }
        tokio::time::timeout(PATIENCE, server.release.notified()).await.expect("the handler ends");
    }
}

#[tokio::test]
async fn live_body_waits_until_its_client_has_read() {
    let server = start(Timeouts::default()).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    let mut piece = vec![0; 20 * PULSE_BYTES];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut piece)).await.expect("pieces arrive").unwrap();
    let count = server.pulses.load(Ordering::Relaxed);
    // What the client has not read is in the sockets, and in one piece.
    assert!((20..40).contains(&count), "{count}");
    drop(stream);
    tokio::time::timeout(PATIENCE, server.release.notified()).await.expect("the source is dropped");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(Timeouts::default()).await;
    let requests: String = (0..100)
        .map(|n| format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n{n:03}"))
        .collect();
    let answers = server.exchange(requests).await;
    let bodies: Vec<&str> = answers.split("\r\n\r\n").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(bodies, (0..100).map(|n| format!("{n:03}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn bodies_may_be_whole_chunked_expected_or_too_big() {
    let server = start(Timeouts::default()).await;
    let chunked = "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert!(server.exchange(chunked).await.ends_with("\r\n\r\nabcde"));

    let big = vec![b'x'; 1 << 20];
    let head = format!("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", big.len());
    let answer = server.exchange([head.as_bytes(), &big].concat()).await;
    assert!(answer.len() > big.len() && answer.ends_with("xxx"));

    let mut stream = server.connect().await;
    let head = "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
    stream.write_all(b"hi").await.unwrap();
    read_until(&mut stream, "\r\n\r\nhi").await;

    // The response arrives although the client keeps sending a body that is not read.
    let mut stream = server.connect().await;
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n").await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut answer = String::new();
    let send = async { while writer.write_all(&big).await.is_ok() {} };
    let receive = async {
        let mut buf = [0; 1024];
        while !answer.contains("MSG_TOO_BIG") {
            let count = reader.read(&mut buf).await.expect("the connection was reset before the response");
            assert_ne!(count, 0, "{answer}");
            answer.push_str(std::str::from_utf8(&buf[..count]).unwrap());
        }
    };
    tokio::time::timeout(PATIENCE, async {
        tokio::select! { () = receive => {}, () = send => panic!("the connection was cut off") }
    })
    .await
    .expect("no response in time");
    assert!(answer.starts_with("HTTP/1.1 413 Request Entity Too Large\r\n"));
}

#[tokio::test]
async fn malformed_requests_are_refused() {
    let server = start(Timeouts::default()).await;
    let no_host = server.exchange("GET /ping HTTP/1.1\r\n\r\n").await;
    assert!(no_host.starts_with("HTTP/1.1 400 ") && no_host.contains("Host header"), "{no_host}");
    assert!(server.exchange("GET /ping HTTP/1.0\r\n\r\n").await.ends_with("OK"));
    for garbage in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /ping HTTP/1.1\r\nHo st: x\r\n\r\n"] {
        let answer = server.exchange(garbage).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{garbage}: {answer}");
    }
    let endless = format!("GET /ping HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(2 << 20));
    let mut stream = server.connect().await;
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut answer = vec![0; 12];
    // The unread rest may reset the connection before the response arrives.
    if stream.read_exact(&mut answer).await.is_ok() {
        assert_eq!(answer, b"HTTP/1.1 431");
    }
}

#[tokio::test]
async fn log_has_the_handled_requests() {
    let server = start(Timeouts::default()).await;
    for line in ["GET /query?topic=a", "GET /nope", "PUT /ping", "POST /echo", "GET /ping/", "OPTIONS /ping"]
    {
        server.ask(line).await;
    }
    server.exchange("GET /ping HTTP/1.1\r\nHost: x\r\nX-Refuse: 1\r\n\r\n").await;
    let lines = server.lines.lock();
    let logged: Vec<String> = lines
        .iter()
        .map(|line| line.split("INFO: ").nth(1).unwrap().split(" (127.0.0.1:").next().unwrap().to_owned())
        .collect();
    assert_eq!(logged, ["200 GET /query?topic=a", "404 GET /nope", "405 PUT /ping"]);
    assert!(lines.iter().all(|line| line.ends_with('s')), "a line does not end in a duration: {lines:?}");
}

#[tokio::test]
async fn stalled_connections_are_cut_off_and_idle_ones_stay() {
    let stall = Duration::from_millis(100);
    let server = start(Timeouts { stall, ..Timeouts::default() }).await;
    let mut idle = server.connect().await;
    let ping = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n";
    idle.write_all(ping).await.unwrap();
    read_until(&mut idle, "\r\n\r\nOK").await;

    let mut half_a_head = server.connect().await;
    half_a_head.write_all(b"GET /ping HTTP/1.1\r\nHo").await.unwrap();
    let mut half_a_body = server.connect().await;
    half_a_body.write_all(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf").await.unwrap();
    let mut waiting = server.connect().await;
    waiting.write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(read_all(&mut half_a_head).await, "");
    assert_eq!(read_all(&mut half_a_body).await, "");

    idle.write_all(ping).await.unwrap();
    read_until(&mut idle, "\r\n\r\nOK").await;
    server.release.notify_one();
    read_until(&mut waiting, "\r\n\r\n").await;
}

#[tokio::test]
async fn shutdown_finishes_requests_and_closes_connections() {
    let server = start(Timeouts::default()).await;
    let mut idle = server.connect().await;
    let mut waiting = server.connect().await;
    waiting
        .write_all(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    idle.write_all(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "\r\n\r\nOK").await;

    server.shutdown.cancel();
    assert_eq!(read_all(&mut idle).await, "");
    server.release.notify_one();
    assert!(read_all(&mut waiting).await.starts_with("HTTP/1.1 200 OK"));
    tokio::time::timeout(PATIENCE, server.serving).await.expect("the server did not stop").unwrap();
    assert!(TcpStream::connect(&server.address).await.is_err());
}

/// Sends `sent` on a connection and stops the server. Returns how long the stop took and what was answered before it.
async fn stop_after(sent: &str) -> (Duration, String) {
    let timeouts = Timeouts { drain: Duration::from_secs(2), ..Timeouts::default() };
    let server = start(timeouts).await;
    let mut client = server.connect().await;
    client.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    // With or without a response, the server has done all it can after this time.
    let _ = tokio::time::timeout(Duration::from_millis(100), client.read_exact(&mut answer)).await;
    let began = Instant::now();
    server.shutdown.cancel();
    server.serving.await.unwrap();
    (began.elapsed(), String::from_utf8_lossy(&answer).into_owned())
}

#[tokio::test]
async fn stop_does_not_wait_for_stalled_connections() {
    // The machine may be busy in one try, but not in all.
    const TRIES: usize = 5;
    let limit = Duration::from_millis(900);
    for (sent, begins) in [
        ("", "\0"),
        ("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200"),
        // The response is sent although the body was not read.
        ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\nxyz", "HTTP/1.1 413"),
        ("GET /ping HTTP/1.1\r\nHo", "\0"),
        ("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf", "\0"),
        ("GET /endless HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 200"),
    ] {
        let mut fastest = Duration::MAX;
        for _ in 0..TRIES {
            let (took, answer) = stop_after(sent).await;
            assert!(answer.starts_with(begins), "{sent:?}: {answer:?}");
            fastest = fastest.min(took);
            if fastest < limit {
                break;
            }
        }
        assert!(fastest < limit, "{sent:?}: {fastest:?}");
    }
    // A handler may finish within the server's limit.
    let (took, _) = stop_after("GET /wait HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(took >= Duration::from_millis(1900), "{took:?}");
}

#[tokio::test]
async fn slow_reader_of_a_long_response_is_cut_off() {
    let timeouts = Timeouts { stall: Duration::from_millis(100), ..Timeouts::default() };
    let server = start(timeouts).await;
    let mut reader = server.connect().await;
    reader.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let head = read_until(&mut reader, "\r\n\r\n").await;
    assert!(head.contains("Transfer-Encoding: chunked") && !head.contains("Content-Length"), "{head}");
    // The client reads nothing until the server has given up. Then it gets the data sent so far, but no end of the
    // body.
    let gone = async {
        while reader.write_all(b"GET").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the server did not close the connection");
}

#[tokio::test]
async fn requests_from_other_sites_are_refused() {
    let server = start(Timeouts::default()).await;
    let address = &server.address;
    let ask = async |line: &str, headers: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Length: 2\r\n\r\nhi");
        server.exchange(request).await
    };
    let foreign = "Origin: http://evil.example\r\n";
    let refused = ask("POST /echo", foreign).await;
    assert!(refused.starts_with("HTTP/1.1 403 Forbidden"), "{refused}");
    assert!(refused.contains("CROSS_SITE_REQUEST") && refused.contains("--http-allowed-origin"), "{refused}");
    assert!(ask("POST /echo", "Sec-Fetch-Site: cross-site\r\n").await.contains(" 403 "));
    for headers in ["", &format!("Origin: http://{address}\r\n"), "Origin: https://admin.example\r\n"] {
        assert!(ask("POST /echo", headers).await.ends_with("\r\n\r\nhi"), "{headers}");
    }
    assert!(ask("GET /ping", foreign).await.ends_with("OK"));
    let logged = server.lines.lock().iter().any(|line| line.contains("403 POST /echo"));
    assert!(logged, "{:?}", server.lines.lock());
}

#[tokio::test]
async fn server_works_on_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("http.sock");
    let listener = Listener::bind(&parse_address(path.to_str().unwrap())).await.unwrap();
    let router = Router::new().add(Method::GET, "/ping", Route::Ping);
    let server = Server::new(echo(router, &Arc::default()), Logger::silent());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn({
        let (server, shutdown) = (server.clone(), shutdown.clone());
        async move { server.serve(listener, shutdown).await }
    });
    let mut stream = Stream::Unix(tokio::net::UnixStream::connect(&path).await.unwrap());
    stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("OK"));
    shutdown.cancel();
    serving.await.unwrap().unwrap();
    assert!(!path.exists());
}
