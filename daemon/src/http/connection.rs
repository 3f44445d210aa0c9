//! One connection: from hyper's request to a route and back, and the task that drives it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::{Method, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use nsq_protocol::redact::without_ticket;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::activity::{Activity, Noted, Phase};
use super::router::{Access, Routing};
use super::server::Shared;
use super::websocket::Session;
use super::{HttpError, Request, Response, Service, cors, response};
use crate::go_duration;
use crate::listen::Remote;
use crate::log::{Field, Level};
use crate::metrics::requests::NO_ENDPOINT;
use crate::tls::TlsSession;

/// How long a body or a response may stall while the server stops.
const STOP_PATIENCE: Duration = Duration::from_millis(250);

/// What the requests of this connection need. There is one per connection and not per server, so that connections on
/// different threads do not contend for one reference count.
struct Connection<S> {
    shared: Arc<Shared<S>>,
    activity: Arc<Activity>,
    remote: Remote,
    tls: Option<Arc<TlsSession>>,
    /// Set with the response to an upgrade.
    upgrade: Mutex<Option<(OnUpgrade, Session)>>,
}

/// Serves a connection until the client closes it, it stalls, or the server stops and the current request is answered.
pub(super) async fn drive<S: Service, IO>(
    shared: Arc<Shared<S>>,
    stream: IO,
    remote: Remote,
    tls: Option<TlsSession>,
    shutdown: CancellationToken,
) where
    IO: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let activity = Arc::new(Activity::new(Arc::clone(&shared.body_memory)));
    let io = TokioIo::new(Noted::new(stream, Arc::clone(&activity)));
    let connection = Arc::new(Connection {
        shared: Arc::clone(&shared),
        activity: Arc::clone(&activity),
        remote,
        tls: tls.map(Arc::new),
        upgrade: Mutex::default(),
    });
    let upgrading = Arc::clone(&connection);
    let service = service_fn(move |request| {
        let connection = Arc::clone(&connection);
        async move { Ok::<_, Infallible>(connection.answer(request).await) }
    });
    let mut hyper = pin!(shared.http1.serve_connection(io, service).with_upgrades());

    let mut period = tokio::time::interval(shared.stall_timeout);
    period.tick().await;
    let mut before = activity.snapshot();
    let is_stopping = loop {
        tokio::select! {
            biased;
            // Errors here are the client's: it disconnected or sent invalid HTTP.
            _ = hyper.as_mut() => break false,
            _ = shutdown.cancelled() => break true,
            _ = period.tick() => {
                let now = activity.snapshot();
                if now.stands_still_since(&before) {
                    return;
                }
                before = now;
            }
        }
    };
    if is_stopping {
        hyper.as_mut().graceful_shutdown();
        let drained = tokio::time::timeout(shared.drain_timeout, drain(hyper, &activity));
        let _ = drained.await;
        return;
    }
    let upgrade = upgrading.upgrade.lock().take();
    if let Some((upgraded, session)) = upgrade {
        // Boxed: otherwise every connection would contain the memory for it.
        Box::pin(serve_upgraded::<IO>(upgraded, session, shutdown)).await;
    }
}

/// Runs what follows the response to an upgrade, until it ends or the server stops.
async fn serve_upgraded<IO>(upgraded: OnUpgrade, session: Session, shutdown: CancellationToken)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + Sync + 'static,
{
    let Ok(upgraded) = upgraded.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<Noted<IO>>>() else { return };
    // A client must wait for the response before it sends more.
    let stream = parts.io.into_inner().into_stream().filter(|_| parts.read_buf.is_empty());
    let Some(stream) = stream else { return };
    tokio::select! {
        () = session.run(stream) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Continues a connection of a stopping server as long as it makes progress. Dropping the future cuts it off.
async fn drain(mut hyper: Pin<&mut impl Future>, activity: &Activity) {
    let mut before = None;
    let mut period = tokio::time::interval(STOP_PATIENCE);
    loop {
        tokio::select! {
            biased;
            _ = hyper.as_mut() => return,
            _ = period.tick() => {
                let now = activity.snapshot();
                if !now.is_worth_waiting_for(before.as_ref()) {
                    return;
                }
                before = Some(now);
            }
        }
    }
}

impl<S: Service> Connection<S> {
    async fn answer(&self, mut request: hyper::Request<Incoming>) -> Response {
        let number = self.activity.request_began();
        let on_upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let mut endpoint = NO_ENDPOINT;
        let is_doubtful = |is_last: fn(u64, u64) -> bool| {
            self.activity.last_request().is_some_and(|last| is_last(number, last))
        };
        // If the end of a request is ambiguous, so is the start of the next one.
        let mut response = match is_doubtful(|number, last| number > last) {
            true => response::plain(
                StatusCode::BAD_REQUEST,
                "400 Bad Request: ambiguous end of the previous request",
            ),
            false => self.dispatch(request, &mut endpoint).await,
        };
        if is_doubtful(|number, last| number >= last) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let (Some(session), Some(on_upgrade)) = (response.body_mut().take_session(), on_upgrade) {
            *self.upgrade.lock() = Some((on_upgrade, session));
        }
        if let Some(counts) = self.shared.service.request_counts() {
            counts.count(endpoint, response.status().as_u16());
        }
        if !response.body_mut().keep_working(&self.activity) {
            self.activity.enter(Phase::Idle);
        }
        response
    }

    /// Sets `endpoint` if the request is for one.
    async fn dispatch(&self, request: hyper::Request<Incoming>, endpoint: &mut &'static str) -> Response {
        if request.version() == Version::HTTP_11 && !request.headers().contains_key(HOST) {
            return missing_host();
        }
        let mut request = Request::new(request, self.remote, self.tls.clone(), Arc::clone(&self.activity));
        let service = &self.shared.service;
        if let Some(refusal) = service.refuse(&request) {
            return refusal;
        }
        let path = decoded_path(&request.uri);
        let routing = service.router().route(&request.method, &path);
        let access = match &routing {
            Routing::Found { access, .. } => *access,
            _ => Access::default(),
        };
        let cors_origin = service.cors_origins().and_then(|origins| origins.of_request(&request.headers));
        let readable_for = cors_origin.clone().filter(|_| access.cors);
        if readable_for.is_none()
            && let Some(origins) = service.allowed_origins()
            && let Some(text) = origins.refuse(&request.method, &request.headers, access.guarded)
        {
            let error = HttpError { status: StatusCode::FORBIDDEN, word: text.into() };
            let response = error.into_response(request.encoding);
            if let Some(entry) = self.log_entry(&request) {
                self.log(entry, response.status());
            }
            return response;
        }
        let (route, parameter, logged) = match routing {
            Routing::Found { endpoint: found, route, parameter, logged, .. } => {
                *endpoint = found;
                (route, parameter.map(str::to_owned), logged)
            }
            Routing::Options { allow, cors: true } => {
                let mut response = Response::default();
                if let Some(origin) = cors_origin {
                    cors::allow_requests(response.headers_mut(), origin, &allow, &request.headers);
                }
                return with_allow(response, allow);
            }
            other => return self.answer_unrouted(&request, other),
        };
        drop(path);
        request.parameter = parameter;
        let log = logged.then(|| self.log_entry(&request)).flatten();
        let encoding = request.encoding;
        let answered = catch_panic(service.call(route, request)).await;
        let mut response = answered
            .unwrap_or(Err(HttpError::INTERNAL_ERROR))
            .unwrap_or_else(|error| error.into_response(encoding));
        if let Some(origin) = readable_for {
            cors::allow(response.headers_mut(), origin);
        }
        if let Some(entry) = log {
            self.log(entry, response.status());
        }
        response
    }

    fn answer_unrouted(&self, request: &Request, routing: Routing<'_, S::Route>) -> Response {
        let error = match routing {
            Routing::Redirect { path } => return redirect(request, &path),
            Routing::Options { allow, .. } => return with_allow(Response::default(), allow),
            _ if request.method == Method::OPTIONS && request.path() == "*" => return Response::default(),
            Routing::MethodNotAllowed { allow } => {
                let error = HttpError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED");
                with_allow(error.into_response(request.encoding), allow)
            }
            _ => HttpError::NOT_FOUND.into_response(request.encoding),
        };
        if let Some(entry) = self.log_entry(request) {
            self.log(entry, error.status());
        }
        error
    }

    fn log_entry(&self, request: &Request) -> Option<LogEntry> {
        let enabled = self.shared.logger.enabled(Level::Info);
        enabled.then(|| LogEntry {
            method: request.method.clone(),
            uri: request.uri.clone(),
            began: Instant::now(),
        })
    }

    fn log(&self, entry: LogEntry, status: StatusCode) {
        let target = entry.uri.path_and_query().map_or(entry.uri.path(), |target| target.as_str());
        let target = without_ticket(target);
        let (elapsed, status) = (entry.began.elapsed(), status.as_u16());
        let fields = [
            ("status", Field::Number(status.into())),
            ("method", Field::Text(&entry.method)),
            ("target", Field::Text(&target)),
            ("remote", Field::Text(&self.remote)),
            ("duration_seconds", Field::Number(elapsed.as_secs_f64())),
        ];
        self.shared.logger.log_with(
            Level::Info,
            &fields,
            format_args!(
                "{status} {} {target} ({}) {}",
                entry.method,
                self.remote,
                go_duration::Display(elapsed)
            ),
        );
    }
}

/// Data for a line of the request log, taken before the handler gets the request.
struct LogEntry {
    method: Method,
    uri: Uri,
    began: Instant,
}

/// Routes are looked up by the decoded path, whatever its escaping.
fn decoded_path(uri: &Uri) -> Cow<'_, str> {
    let path = uri.path();
    if path.contains('%') {
        percent_encoding::percent_decode_str(path).decode_utf8_lossy()
    } else {
        Cow::Borrowed(path)
    }
}

fn missing_host() -> Response {
    let mut response =
        response::plain(StatusCode::BAD_REQUEST, "400 Bad Request: missing required Host header");
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn with_allow(mut response: Response, allow: String) -> Response {
    if let Ok(value) = HeaderValue::try_from(allow) {
        response.headers_mut().insert(ALLOW, value);
    }
    response
}

fn redirect(request: &Request, path: &str) -> Response {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    const ESCAPED: &AsciiSet =
        &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'%').add(b'<').add(b'>').add(b'?');
    let mut location = utf8_percent_encode(path, ESCAPED).to_string();
    if let Some(query) = request.uri.query() {
        location.push('?');
        location.push_str(query);
    }
    let mut response = Response::default();
    if request.method == Method::GET {
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        let escaped =
            location.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;");
        let html = format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n");
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        *response.body_mut() = html.into();
    } else {
        *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
    }
    if let Ok(value) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, value);
    }
    response
}

/// Runs a future; returns `None` if it panics. The panic hook has logged the panic by then.
async fn catch_panic<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(_) => Poll::Ready(None),
    })
    .await
}
