//! Opens a connection: dials, performs the handshake, returns both halves.

use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::MESSAGE_FRAME_OVERHEAD;
use nsq_protocol::headers::VERSION_BYTES;

use crate::compression;
use crate::config::Config;
use crate::error::{ConfigError, ConnectError, ConnectStage, Disconnect};
use crate::frame_reader::FrameReader;
use crate::handshake::{Handshake, Progress, Purpose, ServerInfo, Upgrade};
use crate::meters::OpenConnection;
use crate::spans::Span;
use crate::tls::Tls;
#[cfg(feature = "tls")]
use crate::transport::start_tls;
use crate::transport::{ReadHalf, Transport, WriteHalf};

/// The replies of the handshake are small.
const MAX_HANDSHAKE_FRAME_BYTES: usize = 1 << 20;
/// Minimum frame limit unless the application sets one, even if the server reports a lower limit. That limit may have
/// been lowered while larger messages were waiting, and these must not break every connection.
const MIN_FRAME_LIMIT_BYTES: usize = 64 << 20;

/// An open connection after its handshake.
pub(crate) struct Established {
    pub(crate) node: Arc<str>,
    pub(crate) server: ServerInfo,
    pub(crate) reader: FrameReader,
    pub(crate) writer: WriteHalf,
    /// For the metrics. Ends with the connection.
    pub(crate) _open: OpenConnection,
}

/// Opens connections, all with the same settings.
pub(crate) struct Connector {
    config: Arc<Config>,
    /// `None` without `tls_v1`.
    #[cfg_attr(not(feature = "tls"), expect(dead_code))]
    tls: Option<Tls>,
}

impl Connector {
    /// Reads the TLS files if `tls_v1` is set.
    pub(crate) fn new(config: Arc<Config>) -> Result<Self, ConfigError> {
        let tls = config.tls_v1.then(|| Tls::new(&config)).transpose()?;
        Ok(Connector { config, tls })
    }

    pub(crate) async fn connect(
        &self,
        node: &Arc<str>,
        purpose: Purpose,
    ) -> Result<Established, ConnectError> {
        let role = match purpose {
            Purpose::Publish => "producer",
            Purpose::Subscribe { .. } => "consumer",
        };
        let span = Span::connect(node, role);
        let connected = span.around(self.open(node, purpose, role)).await;
        if let Err(error) = &connected {
            span.record("error", error);
        }
        connected
    }

    async fn open(
        &self,
        node: &Arc<str>,
        purpose: Purpose,
        role: &'static str,
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
        // A live nsqd answers within seconds, so the whole `read_timeout` would be too long.
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
                    let _open = OpenConnection::new(node, role);
                    return Ok(Established { node: Arc::clone(node), server, reader, writer, _open });
                }
            }
        }
    }

    /// Applies an upgrade to the byte stream.
    async fn upgrade(
        &self,
        node: &str,
        upgrade: Upgrade,
        reader: FrameReader,
        mut writer: WriteHalf,
    ) -> Result<(FrameReader, WriteHalf), Disconnect> {
        // Compressed bytes may directly follow the reply that announced them. Encrypted bytes cannot: the client speaks
        // first.
        let (mut read_half, first) = reader.into_parts();
        if upgrade == Upgrade::Tls {
            (read_half, writer) = self.encrypt(node, read_half, writer).await?;
        } else {
            let (compression, decompression) = compression::start(upgrade, first)?;
            writer.compress(compression);
            read_half.decompress(decompression);
        }
        Ok((FrameReader::new(read_half, MAX_HANDSHAKE_FRAME_BYTES), writer))
    }
}

#[cfg(feature = "tls")]
impl Connector {
    async fn encrypt(
        &self,
        node: &str,
        read_half: ReadHalf,
        writer: WriteHalf,
    ) -> Result<(ReadHalf, WriteHalf), Disconnect> {
        let tls = self.tls.as_ref().ok_or(Disconnect::Declined("a connection without TLS"))?;
        let config = tls.client_config().map_err(Disconnect::Tls)?;
        let name = tls.server_name(node).map_err(Disconnect::Tls)?;
        start_tls(read_half, writer, config, name).await
    }
}

#[cfg(not(feature = "tls"))]
impl Connector {
    /// Never called, because the handshake refuses an upgrade that was not requested.
    async fn encrypt(&self, _: &str, _: ReadHalf, _: WriteHalf) -> Result<(ReadHalf, WriteHalf), Disconnect> {
        Err(Disconnect::Tls(ConfigError::FeatureOff { what: "TLS", feature: "tls" }))
    }
}

/// Before nsqd creates a topic it may query its lookupds, which can take some seconds.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of a message frame besides what was published.
const MESSAGE_OVERHEAD: usize = MESSAGE_FRAME_OVERHEAD + VERSION_BYTES;

fn max_frame_bytes(config: &Config, server: &ServerInfo) -> usize {
    match config.max_msg_size {
        0 => server.max_msg_size.saturating_add(MESSAGE_OVERHEAD).max(MIN_FRAME_LIMIT_BYTES),
        // Responses and errors must also fit.
        limit => (limit as usize).saturating_add(MESSAGE_OVERHEAD).max(MAX_HANDSHAKE_FRAME_BYTES),
    }
}
