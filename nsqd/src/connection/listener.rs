//! Accepts connections, and reads the four bytes that each begins with (the magic).

use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::accept::Acceptor;
use nsq_daemon::listen::{Listener, Remote, Stream};
use nsq_daemon::log::Logger;
use nsq_daemon::open_files::Role;
use nsq_protocol::{ErrorCode, FrameType, MAGIC_V2, put_frame};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::input::Input;
use super::transport::Transport;
use super::{Connection, ConnectionContext, End};
use crate::auth::Grant;
use crate::client_info::ClientInfo;
use crate::clock;

/// A connection that has not sent its magic after this time is closed. NSQ waits forever.
const MAGIC_TIMEOUT: Duration = Duration::from_secs(60);

/// Accepts connections until stopped, then ends them all. Each connection runs in its own task. Fails if the listener
/// fails.
pub async fn accept_loop(
    listener: Listener,
    context: Arc<ConnectionContext>,
    logger: Logger,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut listener = Acceptor::new(listener, Role::Clients, "TCP", logger.clone());
    let mut connections = JoinSet::new();
    let result = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) => {
                    nsq_daemon::info!(logger, "TCP: new client({remote})");
                    let counted = Counted::open(context.clone());
                    connections.spawn(serve(stream, remote, counted, logger.clone()));
                }
                Err(error) => break Err(error),
            },
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => break Ok(()),
        }
    };
    drop(listener);
    // Clients expect a daemon that stops to close connections without a message.
    connections.shutdown().await;
    result
}

/// Counts a connection as open until it is dropped.
struct Counted(Arc<ConnectionContext>);

impl Counted {
    fn open(context: Arc<ConnectionContext>) -> Self {
        context.registry.engine().metrics().connections_opened.add(1);
        Counted(context)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.registry.engine().metrics().connections_closed.add(1);
    }
}

async fn serve(stream: Stream, remote: Remote, counted: Counted, logger: Logger) {
    let connected_at = clock::wall_ns() / 1_000_000_000;
    let info = Arc::new(ClientInfo::new(remote.to_string(), connected_at));
    serve_transport(Transport::plain(stream), info, None, counted.0.clone(), logger).await;
}

/// Serves a connection from its magic on. With a grant, the client has authenticated itself already.
pub async fn serve_transport(
    mut transport: Transport,
    info: Arc<ClientInfo>,
    grant: Option<Grant>,
    context: Arc<ConnectionContext>,
    logger: Logger,
) {
    let remote = info.remote_address.clone();
    let mut magic = [0; 4];
    match tokio::time::timeout(MAGIC_TIMEOUT, transport.read_exact(&mut magic)).await {
        Ok(Ok(true)) => {}
        Ok(Ok(false) | Err(_)) | Err(_) => return,
    }
    if &magic != MAGIC_V2 {
        nsq_daemon::error!(logger, "client({remote}) bad protocol magic '{}'", magic.escape_ascii());
        let mut frame = Vec::new();
        put_frame(&mut frame, FrameType::Error, ErrorCode::BadProtocol.as_str().as_bytes());
        transport.close(&frame, false).await;
        return;
    }
    let mut connection = Connection::new(context, transport, info, Input::default());
    if let Some(grant) = grant {
        connection.authenticate_as(grant);
    }
    let log_end = |end: &End| match end {
        End::Close => nsq_daemon::info!(logger, "PROTOCOL(V2): [{remote}] exiting"),
        End::Io(error) => nsq_daemon::info!(logger, "PROTOCOL(V2): [{remote}] {error}"),
        End::Error(error) => {
            let text = error.frame_data();
            nsq_daemon::error!(logger, "[{remote}] - {}", text.escape_ascii());
        }
    };
    connection.run(log_end).await;
}
