//! An nsqlookupd in this process, a node that sends raw bytes, and a small HTTP client.
#![allow(dead_code, reason = "each test binary uses only some items")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::{Level, Logger};
use nsqlookupd::config::Limits;
use nsqlookupd::{Config, Lookupd};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Maximum time for each step of a test.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Running {
    pub lookupd: Lookupd,
    pub lines: Arc<Mutex<Vec<String>>>,
}

pub fn config() -> Config {
    Config {
        tcp_address: "127.0.0.1:0".parse().unwrap(),
        http_address: "127.0.0.1:0".parse().unwrap(),
        broadcast_address: "lookup.example".into(),
        ..Config::default()
    }
}

pub async fn start() -> Running {
    start_with(config()).await
}

/// Starts with a command timeout short enough for tests to wait for.
pub async fn impatient() -> Running {
    let limits = Limits { command_timeout: Duration::from_millis(500), ..Limits::default() };
    start_with(Config { limits, ..config() }).await
}

pub async fn start_with(config: Config) -> Running {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let logger = Logger::to_function("", Level::Info, {
        let lines = Arc::clone(&lines);
        move |line| lines.lock().push(line.to_owned())
    });
    Running { lookupd: Lookupd::start(config, logger).await.unwrap(), lines }
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        assert!(self.head.contains("\r\nContent-Type: application/json; charset=utf-8\r\n"), "{}", self.head);
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Running {
    pub async fn get(&self, target: &str) -> Answer {
        self.request("GET", target, "").await
    }

    pub async fn post(&self, target: &str) -> Answer {
        self.request("POST", target, "").await
    }

    /// Each header in `headers` ends in CR LF.
    pub async fn request(&self, method: &str, target: &str, headers: &str) -> Answer {
        let mut stream = TcpStream::connect(self.lookupd.http_addr()).await.unwrap();
        let request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8(answer[..end].to_vec()).unwrap();
        Answer { status: head[9..12].parse().unwrap(), head, body: answer.split_off(end) }
    }

    /// Repeats the request until `is_expected` accepts the response.
    pub async fn get_until(&self, target: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let value = self.get(target).await.json();
            if is_expected(&value) {
                return value;
            }
            assert!(tokio::time::Instant::now() < deadline, "{target} still returns {value}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A connection that has sent nothing yet.
    pub async fn connect(&self) -> Node {
        let stream = TcpStream::connect(self.lookupd.tcp_addr()).await.unwrap();
        Node { address: stream.local_addr().unwrap(), stream }
    }

    /// A node that has sent IDENTIFY as `<name>:4150` and `<name>:4151`.
    pub async fn node(&self, name: &str) -> Node {
        let mut node = self.connect().await;
        node.send(b"  V1").await;
        let answer = node.ask(&identify(name)).await;
        assert!(answer.starts_with('{'), "{answer}");
        node
    }
}

pub fn identify(name: &str) -> Vec<u8> {
    identify_body(&format!(
        r#"{{"broadcast_address":"{name}","hostname":"host","http_port":4151,"tcp_port":4150,"version":"1.3.0","topology_zone":"z","topology_region":"r"}}"#
    ))
}

pub fn identify_body(body: &str) -> Vec<u8> {
    let size = (body.len() as u32).to_be_bytes();
    [b"IDENTIFY\n", &size[..], body.as_bytes()].concat()
}

pub struct Node {
    pub address: SocketAddr,
    pub stream: TcpStream,
}

impl Node {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next response; `None` if the connection is closed instead.
    pub async fn response(&mut self) -> Option<String> {
        let read = async {
            let size = match self.stream.read_u32().await {
                Ok(size) => size,
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return None,
                Err(error) => panic!("{error}"),
            };
            let mut data = vec![0; size as usize];
            self.stream.read_exact(&mut data).await.unwrap();
            Some(String::from_utf8_lossy(&data).into_owned())
        };
        tokio::time::timeout(PATIENCE, read).await.expect("a response or a closed connection")
    }

    pub async fn ask(&mut self, bytes: &[u8]) -> String {
        self.send(bytes).await;
        self.response().await.expect("a response")
    }

    pub async fn ok(&mut self, line: &str) {
        assert_eq!(self.ask(format!("{line}\n").as_bytes()).await, "OK", "{line}");
    }

    /// Sends bytes and expects this error, then a closed connection.
    pub async fn refused(mut self, bytes: &[u8], error: &str) {
        assert_eq!(self.ask(bytes).await, error);
        assert_eq!(self.response().await, None);
    }
}
