//! `GET /v2`: NSQ's protocol in a WebSocket with the subprotocol `nsq.v2`.
//!
//! The connection runs the same code as one over TCP. Its stream, with the magic at its start, is in binary messages.

use std::sync::Arc;

use nsq_daemon::http::{HttpError, Request, Response, websocket};

use super::{HttpContext, Kind};
use crate::auth::Grant;
use crate::client_info::ClientInfo;
use crate::clock;
use crate::connection::listener::serve_transport;
use crate::connection::transport::Transport;
use crate::http::dead_letters::only;

const SUBPROTOCOL: &str = "nsq.v2";
/// A message may hold the largest command and this much before and after it.
const MESSAGE_MARGIN_BYTES: usize = 64 << 10;

/// See the module. With a grant, the client needs no AUTH.
pub async fn websocket(
    context: &HttpContext,
    request: &mut Request,
    grant: Option<Arc<Grant>>,
) -> Result<Response, HttpError> {
    let query = request.query_without_body().await?;
    only(&query, &["ticket"])?;
    let entered = context.consumers.enter(Kind::WebSocket)?;
    let limits = context.config.limits();
    let largest = limits.max_batch_bytes().max(limits.max_msg_size) + MESSAGE_MARGIN_BYTES;
    let connected_at = clock::wall_ns() / 1_000_000_000;
    let info = Arc::new(ClientInfo::new(request.remote.to_string(), connected_at));
    let tls = request.tls.clone();
    let (connection, logger) = (context.consumers.connection.clone(), context.logger.clone());
    websocket::upgrade(request, SUBPROTOCOL, largest, move |bytes| async move {
        let _entered = entered;
        nsq_daemon::info!(logger, "WebSocket: new client({})", info.remote_address);
        if let Some(tls) = &tls {
            info.upgrade(|upgrades| upgrades.tls = Some((**tls).clone()));
        }
        let transport = Transport::websocket(bytes, tls.is_some());
        let grant = grant.map(|grant| (*grant).clone());
        serve_transport(transport, info, grant, connection, logger).await;
    })
}
