//! An auth server that sends configured replies and records the requests.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::Certificates;
use crate::wire::Stream;

/// The reply to each request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status 200 with JSON.
    Json(Value),
    /// Status and body.
    Status(u16, String),
    /// Redirect: status and location.
    Redirect(u16, String),
    /// No reply; the connection stays open.
    Silence,
}

/// A recorded request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and target, such as `GET /auth?...`.
    pub request: String,
    /// All header lines, in lower case.
    pub headers: String,
    pub body: String,
}

/// See the module. Stops when dropped.
pub struct AuthServer {
    address: SocketAddr,
    scheme: &'static str,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl AuthServer {
    /// Starts a server with this reply; see [`AuthServer::answer`].
    pub async fn start(answer: Answer) -> Self {
        Self::serve(answer, None).await
    }

    /// Like [`AuthServer::start`], over https with the certificate of `name`.
    pub async fn start_https(answer: Answer, certificates: &Certificates, name: &str) -> Self {
        Self::serve(answer, Some(TlsAcceptor::from(certificates.server(name)))).await
    }

    async fn serve(answer: Answer, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::<Mutex<Vec<Asked>>>::default());
        let (answers, asking) = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answers, asking) = (tls.clone(), answers.clone(), asking.clone());
                tokio::spawn(async move {
                    let stream: Box<dyn Stream> = match tls {
                        None => Box::new(stream),
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => Box::new(stream),
                            // A client that does not trust the certificate ends the handshake.
                            Err(_) => return,
                        },
                    };
                    respond(stream, answers, asking).await;
                });
            }
        });
        AuthServer { address, scheme, answer, asked, task }
    }

    /// Starts a server with the reply of [`allowing`].
    pub async fn allowing(ttl: i64, authorizations: Value) -> Self {
        Self::start(allowing(ttl, authorizations)).await
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The flag that makes nsqd use this server.
    pub fn flag(&self) -> String {
        match self.scheme {
            "http" => format!("--auth-http-address={}", self.address),
            scheme => format!("--auth-http-address={scheme}://{}/auth", self.address),
        }
    }

    /// A reply that, like NSQ's daemons, redirects to this server: only over TLS, on this port.
    pub fn tls_required(&self) -> Answer {
        let body = json!({"message": "TLS_REQUIRED", "https_port": self.address.port()});
        Answer::Status(403, body.to_string())
    }

    /// Changes the reply.
    pub fn answer(&self, answer: Answer) {
        *self.answer.lock().expect("the lock is not poisoned") = answer;
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("the lock is not poisoned").clone()
    }
}

impl Drop for AuthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A reply that grants `authorizations` to the identity `tester`.
pub fn allowing(ttl: i64, authorizations: Value) -> Answer {
    Answer::Json(json!({
        "ttl": ttl,
        "identity": "tester",
        "identity_url": "http://tester/",
        "authorizations": authorizations,
    }))
}

pub fn authorization(topic: &str, channels: &[&str], permissions: &[&str]) -> Value {
    json!({"topic": topic, "channels": channels, "permissions": permissions})
}

/// All permissions on all topics and channels.
pub fn everything() -> Value {
    json!([authorization(".*", &[".*"], &["subscribe", "publish"])])
}

async fn respond(mut stream: Box<dyn Stream>, answer: Arc<Mutex<Answer>>, asked: Arc<Mutex<Vec<Asked>>>) {
    let Some(request) = read_request(&mut *stream).await else { return };
    asked.lock().expect("the lock is not poisoned").push(request);
    let answer = answer.lock().expect("the lock is not poisoned").clone();
    let (status, header, body) = match answer {
        Answer::Json(value) => (200, String::new(), value.to_string()),
        Answer::Status(status, body) => (status, String::new(), body),
        Answer::Redirect(status, location) => (status, format!("Location: {location}\r\n"), String::new()),
        Answer::Silence => {
            // Until the client closes the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
            return;
        }
    };
    let length = body.len();
    let text =
        format!("HTTP/1.1 {status} X\r\n{header}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}");
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut dyn Stream) -> Option<Asked> {
    let mut received = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&received).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let (request, headers) = head.split_once("\r\n").unwrap_or((head, ""));
            let length = headers.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                let request = request.trim_end_matches(" HTTP/1.1").to_owned();
                return Some(Asked { request, headers: headers.to_lowercase(), body: body.to_owned() });
            }
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    }
}
