//! S3's protocol over HTTP, against a small server in this process: creating, reading, listing in pages, deleting, and errors.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use nsq_archive::LogId;
use nsq_archive::claim::Why;
use nsq_archive::location::Location;
use nsq_archive::objects::{Created, Objects, Remedy};
use nsq_archive::owner::{NewChunk, Owner, Patience, new_nonce};
use nsq_archive::ownership::Opener;
use nsq_archive::probe::{ProbeError, probe};
use nsq_archive::snapshot::Snapshot;
use nsq_storage::journal::Lsn;
use tokio::net::TcpListener;

const PAGE: usize = 3;

#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, Bytes>>,
    /// Answers every request with this.
    broken: Mutex<Option<StatusCode>>,
    ignores_conditions: bool,
}

impl Server {
    fn answer(&self, request: &Request<()>, body: Bytes) -> Response<Full<Bytes>> {
        let reply = |status: StatusCode, body: Bytes| {
            let builder = Response::builder().status(status).header("etag", "\"1\"");
            builder.header("last-modified", "Tue, 01 Dec 2026 00:00:00 GMT").body(Full::new(body)).unwrap()
        };
        assert!(request.headers().contains_key("authorization"), "requests are signed");
        if let Some(status) = *self.broken.lock().unwrap() {
            return reply(status, Bytes::new());
        }
        let path = request
            .uri()
            .path()
            .strip_prefix("/bucket")
            .expect("the bucket")
            .trim_start_matches('/')
            .to_owned();
        let mut objects = self.objects.lock().unwrap();
        match *request.method() {
            Method::PUT => {
                let must_be_new = request.headers().get("if-none-match").is_some_and(|value| value == "*");
                if must_be_new && !self.ignores_conditions && objects.contains_key(&path) {
                    return reply(StatusCode::PRECONDITION_FAILED, Bytes::new());
                }
                objects.insert(path, body);
                reply(StatusCode::OK, Bytes::new())
            }
            Method::GET if path.is_empty() => {
                reply(StatusCode::OK, list(&objects, request.uri().query().unwrap_or_default()))
            }
            Method::GET => match objects.get(&path) {
                Some(object) => reply(StatusCode::OK, object.clone()),
                None => reply(StatusCode::NOT_FOUND, Bytes::new()),
            },
            Method::DELETE => {
                objects.remove(&path);
                reply(StatusCode::NO_CONTENT, Bytes::new())
            }
            Method::POST => {
                let body = String::from_utf8(body.to_vec()).unwrap();
                let keys: Vec<&str> =
                    body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next()).collect();
                let mut xml = String::from("<DeleteResult>");
                for key in keys {
                    objects.remove(key);
                    xml += &format!("<Deleted><Key>{key}</Key></Deleted>");
                }
                reply(StatusCode::OK, Bytes::from(xml + "</DeleteResult>"))
            }
            _ => reply(StatusCode::METHOD_NOT_ALLOWED, Bytes::new()),
        }
    }
}

/// One page of a listing.
fn list(objects: &BTreeMap<String, Bytes>, query: &str) -> Bytes {
    let parameter = |name: &str| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.replace("%2F", "/"))
    };
    let prefix = parameter("prefix").unwrap_or_default();
    let after = parameter("continuation-token").unwrap_or_default();
    let matching: Vec<_> =
        objects.iter().filter(|(key, _)| key.starts_with(&prefix) && **key > after).collect();
    let mut xml = String::from("<ListBucketResult>");
    for (key, object) in matching.iter().take(PAGE) {
        let size = object.len();
        xml += &format!(
            "<Contents><Key>{key}</Key><LastModified>2026-12-01T00:00:00.000Z</LastModified><ETag>1</ETag><Size>{size}</Size></Contents>"
        );
    }
    if matching.len() > PAGE {
        let last = matching[PAGE - 1].0;
        xml += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
    }
    Bytes::from(xml + "</ListBucketResult>")
}

/// Starts a server. Returns the store that uses it, below a prefix.
async fn start(server: Server) -> (Arc<Server>, Arc<dyn Objects>) {
    let server = Arc::new(server);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = server.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let server = serving.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let server = server.clone();
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    Ok::<_, Infallible>(server.answer(&Request::from_parts(parts, ()), body))
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    let location: Location = "s3://bucket/nsq/test".parse().unwrap();
    let environment = [
        ("AWS_ACCESS_KEY_ID", "key".to_owned()),
        ("AWS_SECRET_ACCESS_KEY", "secret".to_owned()),
        ("AWS_REGION", "us-east-1".to_owned()),
        ("AWS_ENDPOINT_URL", format!("http://{address}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value));
    (server, location.open_with(&environment).unwrap())
}

#[tokio::test]
async fn objects_are_created_once_read_listed_and_deleted() {
    let (server, objects) = start(Server::default()).await;
    probe(&objects).await.unwrap();
    assert!(server.objects.lock().unwrap().is_empty(), "the probe deletes what it made");
    for number in 0..8 {
        let body = Bytes::from(vec![number; usize::from(number) + 1]);
        assert_eq!(objects.create(&format!("a/{number}"), body).await.unwrap(), Created::New);
    }
    assert_eq!(objects.create("a/1", Bytes::from_static(b"x")).await.unwrap(), Created::Exists);
    assert_eq!(objects.get("a/1").await.unwrap().unwrap(), [1_u8, 1][..]);
    assert_eq!(objects.get("a/9").await.unwrap(), None);
    objects.replace("a/1", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(objects.get("a/1").await.unwrap().unwrap(), b"x"[..]);
    let mut keys: Vec<_> =
        objects.list("a/").await.unwrap().into_iter().map(|listed| (listed.key, listed.bytes)).collect();
    keys.sort();
    assert_eq!(keys.len(), 8, "in pages");
    assert_eq!(keys[7], ("a/7".to_owned(), 8));
    objects.delete("a/7").await.unwrap();
    objects.delete("a/7").await.unwrap();
    assert_eq!(objects.list("a/").await.unwrap().len(), 7);
    assert!(server.objects.lock().unwrap().keys().all(|key| key.starts_with("nsq/test/a/")));
}

#[tokio::test]
async fn a_log_is_written_and_verified() {
    let (_server, objects) = start(Server::default()).await;
    let log = LogId([4; 16]);
    let opener = || Opener {
        log,
        owner: "a".to_owned(),
        address: String::new(),
        why: Why::Start,
        nonce: new_nonce(),
        now: 0,
    };
    let mut owner = Owner::open(objects.clone(), opener(), Patience::DEFAULT).await.unwrap();
    let chunk = NewChunk { content: Vec::new(), from: Lsn(5), to: Lsn(9) };
    let first_chunk = owner.append(&chunk, 1).await.unwrap();
    let snapshot = Snapshot { first_chunk, from: Lsn(5), to: Lsn(9), files: Vec::new() };
    owner.write_snapshot(&snapshot, 2).await.unwrap();
    let summary = nsq_archive::reader::verify(&objects, log, None).await.unwrap();
    assert_eq!((summary.chunk_count, summary.end), (1, Lsn(9)));
    Owner::open(objects, opener(), Patience::DEFAULT).await.unwrap();
    let error = owner.append(&NewChunk { from: Lsn(9), ..chunk }, 3).await.unwrap_err();
    assert!(error.to_string().contains("sealed"), "{error}");
}

#[tokio::test]
async fn errors_name_the_way_out() {
    let (server, objects) = start(Server::default()).await;
    for (status, remedy) in [
        (StatusCode::FORBIDDEN, Remedy::Credentials),
        (StatusCode::UNAUTHORIZED, Remedy::Credentials),
        (StatusCode::SERVICE_UNAVAILABLE, Remedy::Wait),
        (StatusCode::INTERNAL_SERVER_ERROR, Remedy::Wait),
    ] {
        *server.broken.lock().unwrap() = Some(status);
        let error = objects.create("a/1", Bytes::new()).await.unwrap_err();
        assert_eq!(error.remedy, remedy, "{status}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused() {
    let (_server, objects) = start(Server { ignores_conditions: true, ..Server::default() }).await;
    let error = probe(&objects).await.unwrap_err();
    assert!(matches!(error, ProbeError::Races { .. }), "{error}");
}
