//! The HTTP server: routes, who asks, headers of every answer, connections.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State as Shared};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use base64::Engine as _;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    LOCATION, REFERRER_POLICY, USER_AGENT, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, Method, StatusCode, Uri};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use nsq_daemon::accept::Acceptor;
use nsq_daemon::listen::{Address, Listener, Remote};
use nsq_daemon::log::Logger;
use nsq_daemon::open_files::Role as FileRole;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::compression::CompressionLayer;
use tower_service::Service;

use crate::access::{Caller, Role};
use crate::actions;
use crate::api::reply::ApiError;
use crate::api::{config, graphite, v1, v2};
use crate::origin;
use crate::pages;
use crate::settings::Settings;
use crate::state::State;

/// Maximum time for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests in progress may go on when the dashboard stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// A running dashboard.
pub struct Dashboard {
    state: Arc<State>,
    address: Option<SocketAddr>,
    broken: tokio::sync::oneshot::Receiver<io::Error>,
    serving: tokio::task::JoinHandle<()>,
}

impl Dashboard {
    /// Listens, and starts to sample the cluster. A daemon that does not answer is no error.
    pub async fn start(settings: Settings, logger: Logger) -> Result<Self, String> {
        let listener = Listener::bind(&settings.address).await.map_err(|error| error.to_string())?;
        let address = listener.local_addr();
        let is_exposed = match (&settings.address, address) {
            (Address::Unix(_), _) => false,
            (_, address) => address.is_none_or(|address| !address.ip().is_loopback()),
        };
        if is_exposed && settings.rules.are_open() {
            nsq_daemon::warn!(
                logger,
                "everyone who reaches this address may delete topics: name users with --admin-user or --users-file, \
                 or listen on 127.0.0.1"
            );
        }
        let state = State::start(settings, logger.clone())?;
        let router = router(&state, is_exposed);
        let shown = address.map_or_else(|| "unix socket".to_owned(), |address| address.to_string());
        nsq_daemon::info!(logger, "HTTP: listening on {shown}");
        let (broken_tx, broken) = tokio::sync::oneshot::channel();
        let stop = state.stop.clone();
        let serving = tokio::spawn(async move {
            if let Err(error) = serve(listener, router, logger, stop).await {
                // Nobody waits for it while the dashboard stops.
                let _ = broken_tx.send(error);
            }
        });
        Ok(Dashboard { state, address, broken, serving })
    }

    /// The address of the listener; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits until the listener fails, which normally never happens.
    pub async fn broken(&mut self) -> io::Error {
        match (&mut self.broken).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }

    /// Ends live updates, waits for requests in progress, and stops.
    pub async fn shutdown(self) {
        self.state.stop.cancel();
        // The task does not panic.
        let _ = self.serving.await;
    }
}

async fn serve(
    listener: Listener,
    router: Router,
    logger: Logger,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut acceptor = Acceptor::new(listener, FileRole::Operators, "HTTP", logger);
    let connections = TaskTracker::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).half_close(true);
    let ended = loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = stop.cancelled() => break Ok(()),
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => break Err(error),
        };
        let (http, router, stop) = (http.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let service =
                hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(remote);
                    let mut router = router.clone();
                    async move { answer(&mut router, request.map(Body::new)).await }
                });
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                // A client that disappears is no event.
                _ = connection.as_mut() => return,
                () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            let _ = tokio::time::timeout(DRAIN_TIMEOUT, connection).await;
        });
    };
    connections.close();
    connections.wait().await;
    ended
}

/// Answers a request. A trailing slash redirects.
async fn answer(router: &mut Router, request: Request) -> Result<Response, Infallible> {
    let path = request.uri().path();
    if path.len() > 1 && path.ends_with('/') {
        // One leading slash: two would begin the name of another host.
        let path = format!("/{}", path.trim_matches('/'));
        let target = request.uri().query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        let status = if is_read { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
        return Ok((status, [(LOCATION, target)]).into_response());
    }
    router.call(request).await
}

fn router(state: &Arc<State>, is_exposed: bool) -> Router {
    let pages = Router::new()
        .route("/", get(pages::overview::page))
        .route("/topics", get(pages::topics::page))
        .route("/topics/{topic}", get(pages::topic::page))
        .route("/topics/{topic}/{channel}", get(pages::channel::page))
        .route("/nodes", get(pages::nodes::page))
        .route("/nodes/{node}", get(pages::node::page))
        .route("/clients", get(pages::clients::page))
        .route("/counter", get(pages::counter::page))
        .route("/lookup", get(pages::lookup::page))
        .route("/audit", get(pages::audit::page))
        .route("/problems/{rule}", get(pages::overview::rule))
        .route("/messages/{topic}", get(pages::messages::topic))
        .route("/messages/{topic}/{channel}", get(pages::messages::channel))
        .route("/dead/{topic}", get(pages::dead::page))
        .route("/policy/{topic}", get(pages::policy::topic))
        .route("/policy/{topic}/{channel}", get(pages::policy::channel))
        .route("/act", get(pages::act::dialog).post(pages::act::submit));
    let api = Router::new()
        .route("/ping", get(|| async { "OK" }))
        .route("/healthz", get(v2::healthz))
        .route("/metrics", get(crate::metrics::page))
        .route("/login", get(login))
        .route("/static/{asset}", get(asset))
        .route("/fonts/{asset}", get(asset))
        .route("/render", get(graphite::render))
        .route("/api/topics", get(v1::topics).post(v1::create))
        .route("/api/topics/{topic}", get(v1::topic).post(v1::act_on_topic).delete(v1::delete_topic))
        .route(
            "/api/topics/{topic}/{channel}",
            get(v1::channel).post(v1::act_on_channel).delete(v1::delete_channel),
        )
        .route("/api/nodes", get(v1::nodes))
        .route("/api/nodes/{node}", get(v1::node).merge(delete(v1::tombstone)))
        .route("/api/counter", get(v1::counter))
        .route("/api/graphite", get(graphite::rate))
        .route("/config/{option}", get(config::read).put(config::write))
        .route("/api/v2/overview", get(v2::overview))
        .route("/api/v2/topics", get(v2::topics))
        .route("/api/v2/series", get(v2::series))
        .route("/api/v2/clients", get(v2::clients))
        .route("/api/v2/discovery", get(v2::discovery))
        .route("/api/v2/audit", get(v2::audit))
        .route("/api/v2/events", get(v2::events))
        .route("/api/v2/actions", post(v2::act));
    let all = pages.merge(api).method_not_allowed_fallback(method_not_allowed).fallback(pages::not_found);
    let based = match state.settings.base_path.as_str() {
        "" => all,
        base => Router::new().nest(base, all).fallback(pages::not_found),
    };
    based
        .layer(from_fn_with_state(state.clone(), guard))
        .layer(CompressionLayer::new())
        .layer(from_fn_with_state(state.clone(), finish))
        .layer(Extension(pages::Exposed(is_exposed)))
        .with_state(state.clone())
}

async fn method_not_allowed() -> ApiError {
    ApiError::new(405, "METHOD_NOT_ALLOWED")
}

/// Finds out who asks, and refuses what they may not do anywhere.
async fn guard(Shared(state): Shared<Arc<State>>, mut request: Request, next: Next) -> Response {
    state.counters.requests.fetch_add(1, Ordering::Relaxed);
    let refused = |error: ApiError| {
        state.counters.refused.fetch_add(1, Ordering::Relaxed);
        error.into_response()
    };
    let settings = &state.settings;
    let remote = request.extensions().get::<Remote>().copied().unwrap_or(Remote::Unix);
    let headers = request.headers();
    let is_behind_proxy = remote
        .ip()
        .is_none_or(|peer| settings.rules.trusted_proxies.iter().any(|network| network.contains(peer)));
    if let Some(why) = origin::refuse(request.method(), headers, &settings.allowed_origins, is_behind_proxy) {
        return refused(ApiError::new(403, why));
    }
    let known = match &settings.users {
        Some(users) => users.authenticate(headers).await,
        None => None,
    };
    let path = request.uri().path().strip_prefix(settings.base_path.as_str()).unwrap_or_default();
    let has_wrong_credentials =
        settings.users.is_some() && headers.contains_key(AUTHORIZATION) && known.is_none();
    let caller = settings.rules.caller(remote.ip(), headers, known);
    let is_open = path == "/ping" || path == "/healthz" || path == "/login" || path.starts_with("/static/");
    if !is_open && (caller.role == Role::Nobody || has_wrong_credentials) {
        if settings.users.is_some() {
            return challenge(refused(ApiError::new(401, "UNAUTHORIZED")));
        }
        return refused(ApiError::new(403, "FORBIDDEN"));
    }
    let order = actions::Request {
        caller: caller.clone(),
        basic_user: basic_user(headers),
        remote: remote.to_string(),
        user_agent: text(headers, &USER_AGENT).to_owned(),
        url: url_of(headers, request.uri()),
    };
    request.extensions_mut().insert(caller);
    request.extensions_mut().insert(Arc::new(order));
    next.run(request).await
}

/// Makes a browser ask for name and password.
fn challenge(mut response: Response) -> Response {
    let basic = HeaderValue::from_static(r#"Basic realm="nsqadmin", charset="UTF-8""#);
    response.headers_mut().insert(WWW_AUTHENTICATE, basic);
    response
}

/// Asks the browser for name and password, then leads to the first page.
async fn login(Shared(state): Shared<Arc<State>>, Extension(caller): Extension<Caller>) -> Response {
    if state.settings.users.is_some() && caller.via != "password" {
        return challenge(ApiError::new(401, "UNAUTHORIZED").into_response());
    }
    (StatusCode::SEE_OTHER, [(LOCATION, format!("{}/", state.settings.base_path))]).into_response()
}

/// Headers of every answer.
async fn finish(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let images = match &state.settings.graphite_url {
        Some(url) if !state.settings.proxy_graphite => {
            let end = url.find("://").map_or(0, |at| at + 3);
            let end = url[end..].find('/').map_or(url.len(), |at| end + at);
            format!(" {}", &url[..end])
        }
        _ => String::new(),
    };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'{images}; connect-src 'self'; \
         form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

async fn asset(Shared(state): Shared<Arc<State>>, Path(name): Path<String>) -> Response {
    let Some((kind, content)) = state.assets.get(&name) else {
        return ApiError::new(404, "NOT_FOUND").into_response();
    };
    // Pages name the version of an asset, so a browser need not ask again.
    let keep = if state.assets.are_fixed() { "public, max-age=31536000, immutable" } else { "no-store" };
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, keep)], content.into_owned()).into_response()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The user name in HTTP Basic credentials.
fn basic_user(headers: &HeaderMap) -> String {
    let pair = text(headers, &AUTHORIZATION).strip_prefix("Basic ");
    let pair = pair.and_then(|pair| base64::engine::general_purpose::STANDARD.decode(pair.trim()).ok());
    let pair = pair.and_then(|pair| String::from_utf8(pair).ok()).unwrap_or_default();
    pair.split_once(':').map(|(user, _)| user.to_owned()).unwrap_or_default()
}

fn url_of(headers: &HeaderMap, uri: &Uri) -> String {
    let scheme =
        if text(headers, &HeaderName::from_static("x-scheme")) == "https" { "https" } else { "http" };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    format!("{scheme}://{}{path}", text(headers, &HOST))
}
