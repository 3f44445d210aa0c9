//! The HTTP interface of a lookupd or nsqd, with fixed answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone)]
pub struct StubHttp {
    pub address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Status and body by path, without the query.
    answers: BTreeMap<String, (u16, String)>,
    /// Request line without the version, and the body.
    requests: Vec<(String, String)>,
    /// Requests get no answer.
    hangs: bool,
}

impl StubHttp {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stub = StubHttp { address, state: Arc::default() };
        let accepting = stub.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let stub = accepting.clone();
                tokio::spawn(async move { stub.serve(stream).await });
            }
        });
        stub
    }

    pub async fn hanging() -> Self {
        let stub = Self::start().await;
        stub.state.lock().hangs = true;
        stub
    }

    /// Starts a lookupd that lists these nsqds.
    pub async fn lookupd<'a>(nsqds: impl IntoIterator<Item = &'a str>) -> Self {
        let stub = Self::start().await;
        stub.set_nodes(nsqds);
        stub
    }

    pub fn set_nodes<'a>(&self, nsqds: impl IntoIterator<Item = &'a str>) {
        let producers: Vec<String> = nsqds.into_iter().map(producer).collect();
        self.answer("/lookup", 200, &format!(r#"{{"channels":[],"producers":[{}]}}"#, producers.join(",")));
    }

    pub fn answer(&self, path: &str, status: u16, body: &str) {
        self.state.lock().answers.insert(path.into(), (status, body.into()));
    }

    pub fn requests(&self) -> Vec<(String, String)> {
        self.state.lock().requests.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.requests().into_iter().map(|(line, _)| line).collect()
    }

    async fn serve(&self, mut stream: TcpStream) {
        let mut buf = Vec::new();
        let head_len = loop {
            if stream.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                return;
            }
            if let Some(at) = buf.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&buf[..head_len]).into_owned();
        let length = head
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.trim().parse::<usize>().unwrap());
        while buf.len() < head_len + length {
            if stream.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let line = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        let path = line.split([' ', '?']).nth(1).unwrap_or_default().to_owned();
        let Some((status, body)) = self.take(line, &path, &buf[head_len..]) else {
            // Keep the connection open without an answer.
            return std::future::pending().await;
        };
        let answer = format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

impl StubHttp {
    /// Records the request and returns its answer; `None` if the server hangs.
    fn take(&self, line: String, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let mut state = self.state.lock();
        state.requests.push((line, String::from_utf8_lossy(body).into_owned()));
        let unknown = || (404, r#"{"message":"NOT_FOUND"}"#.to_owned());
        (!state.hangs).then(|| state.answers.get(path).cloned().unwrap_or_else(unknown))
    }
}

/// An entry in the list of `/lookup`.
pub fn producer(nsqd: &str) -> String {
    let (host, port) = nsqd.rsplit_once(':').unwrap();
    format!(
        r#"{{"remote_address":"x:1","hostname":"h","broadcast_address":"{host}","tcp_port":{port},"http_port":1,"version":"1.3.0"}}"#
    )
}
