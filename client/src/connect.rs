//! Opens a connection: dial, shake hands, hand over both halves.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;

use crate::compression;
use crate::config::Config;
use crate::error::{ConfigError, ConnectError, ConnectStage, Disconnect};
use crate::frame_reader::FrameReader;
use crate::handshake::{Handshake, Progress, Purpose, ServerInfo, Upgrade};
use crate::tls::Tls;
use crate::transport::{Transport, WriteHalf, start_tls};

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

/// Makes connections, all in the same way.
pub(crate) struct Connector {
    config: Arc<Config>,
    /// None unless TLS is asked for.
    tls: Option<Tls>,
}

impl Connector {
    /// Reads certificates, if there are any to be used.
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, ConfigError> {
        let tls = config.tls_v1.then(|| Tls::new(&config)).transpose()?;
        Ok(Connector { config, tls })
    }

    /// Connects to `node` for `purpose`.
    pub(crate) async fn connect(
        &self,
        node: &Arc<str>,
        purpose: Purpose,
    ) -> Result<Established, ConnectError> {
        let config = &self.config;
        let fail =
            |stage: ConnectStage, cause: Disconnect| ConnectError { node: Arc::clone(node), stage, cause };
        let secret =
            config.secret().map_err(|error| fail(ConnectStage::Authenticate, Disconnect::Secret(error)))?;
        let transport = Transport::dial(node, config.local_addr, config.dial_timeout)
            .await
            .map_err(|(stage, cause)| fail(stage, cause))?;
        let (read_half, mut writer) = transport.split();
        let mut reader = FrameReader::new(read_half, MAX_HANDSHAKE_FRAME_BYTES);

        let mut out = Vec::new();
        let mut handshake = Handshake::start(purpose, config, secret, &mut out);
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
                Progress::Upgrade(upgrade) => {
                    let stage = handshake.stage();
                    let upgraded = self.upgrade(node, upgrade, reader, writer);
                    (reader, writer) = match tokio::time::timeout_at(deadline, upgraded).await {
                        Ok(upgraded) => upgraded.map_err(|cause| fail(stage, cause))?,
                        Err(_) => return Err(fail(stage, Disconnect::Timeout(answer_timeout))),
                    };
                }
                Progress::Ready(server) => {
                    reader.set_max_frame_bytes(max_frame_bytes(config, &server));
                    return Ok(Established { node: Arc::clone(node), server, reader, writer });
                }
            }
        }
    }

    /// Changes the byte stream.
    async fn upgrade(
        &self,
        node: &str,
        upgrade: Upgrade,
        reader: FrameReader,
        mut writer: WriteHalf,
    ) -> Result<(FrameReader, WriteHalf), Disconnect> {
        // Compressed bytes may have come with the answer that announced them. Encrypted ones cannot have: we begin.
        let (mut read_half, first) = reader.into_parts();
        match compression::start(upgrade, first) {
            Some((compression, decompression)) => {
                writer.compress(compression);
                read_half.decompress(decompression);
            }
            None => {
                let tls = self.tls.as_ref().ok_or(Disconnect::Declined("a connection without TLS"))?;
                let config = tls.client_config().map_err(Disconnect::Tls)?;
                let name = tls.server_name(node).map_err(Disconnect::Tls)?;
                (read_half, writer) = start_tls(read_half, writer, config, name).await?;
            }
        }
        Ok((FrameReader::new(read_half, MAX_HANDSHAKE_FRAME_BYTES), writer))
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
