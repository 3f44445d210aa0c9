//! Opens a connection: dial, shake hands, hand over both halves.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;

use crate::config::Config;
use crate::error::{ConnectError, ConnectStage, Disconnect};
use crate::frame_reader::FrameReader;
use crate::handshake::{Handshake, Progress, Purpose, ServerInfo};
use crate::transport::{Transport, WriteHalf};

/// Replies of the handshake are small.
const MAX_HANDSHAKE_FRAME_BYTES: usize = 1 << 20;
/// Unless the application sets a limit. Not less than this even if the server's is told to be lower: it may
/// have been lowered while larger messages were waiting, and they must not break every connection.
const MIN_FRAME_LIMIT_BYTES: usize = 64 << 20;

/// A connection that is ready.
pub(crate) struct Established {
    pub(crate) node: Arc<str>,
    pub(crate) server: ServerInfo,
    pub(crate) reader: FrameReader,
    pub(crate) writer: WriteHalf,
}

/// Connects to `node` for `purpose`.
pub(crate) async fn connect(
    node: &Arc<str>,
    purpose: Purpose,
    config: &Config,
) -> Result<Established, ConnectError> {
    let fail = |stage: ConnectStage, cause: Disconnect| ConnectError { node: Arc::clone(node), stage, cause };
    let transport = Transport::dial(node, config.local_addr, config.dial_timeout)
        .await
        .map_err(|(stage, cause)| fail(stage, cause))?;
    let (read_half, mut writer) = transport.split();
    let mut reader = FrameReader::new(read_half, MAX_HANDSHAKE_FRAME_BYTES);

    let mut out = Vec::new();
    let mut handshake = Handshake::start(purpose, config, &mut out);
    // An nsqd that is alive answers at once; a minute of silence is for established connections.
    let answer_timeout = config.read_timeout.min(HANDSHAKE_TIMEOUT);
    let deadline = tokio::time::Instant::now() + answer_timeout;
    loop {
        let stage = handshake.stage();
        if !out.is_empty() {
            writer.write(&out, config.write_timeout).await.map_err(|cause| fail(stage, cause))?;
            out.clear();
        }
        let frame = match tokio::time::timeout_at(deadline, reader.next(None)).await {
            Ok(frame) => frame.map_err(|cause| fail(stage, cause))?,
            Err(_) => return Err(fail(stage, Disconnect::Timeout(answer_timeout))),
        };
        match handshake.on_frame(&frame, &mut out).map_err(|cause| fail(stage, cause))? {
            Progress::Waiting => {}
            Progress::Ready(server) => {
                reader.set_max_frame_bytes(max_frame_bytes(config, &server));
                return Ok(Established { node: Arc::clone(node), server, reader, writer });
            }
        }
    }
}

/// Creating a topic may make nsqd ask its lookupds first, which may take it some seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

fn max_frame_bytes(config: &Config, server: &ServerInfo) -> usize {
    match config.max_msg_size {
        0 => server.max_msg_size.saturating_add(MESSAGE_FRAME_OVERHEAD).max(MIN_FRAME_LIMIT_BYTES),
        // Responses and errors must fit as well.
        limit => (limit as usize).saturating_add(MESSAGE_FRAME_OVERHEAD).max(MAX_HANDSHAKE_FRAME_BYTES),
    }
}
