//! The byte stream to an nsqd, and how it is opened.
//!
//! Plain TCP is used directly. A unix socket, and TLS over either, is used through a trait object. Snappy or deflate
//! can wrap any of them. Both halves can be used independently.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use nsq_protocol::redact::{shown_address, without_user_info};
#[cfg(feature = "tls")]
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
#[cfg(feature = "tls")]
use tokio_rustls::TlsConnector;

use crate::compression::{Compression, Decompression};
use crate::error::{ConfigError, ConnectStage, Disconnect};
use crate::unix_socket::{self, is_socket_path};

/// An open byte stream.
pub(crate) enum Transport {
    Tcp(TcpStream),
    Other(Box<dyn Duplex>),
}

/// A byte stream in both directions.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for S {}

impl Transport {
    /// Connects to the path of a unix socket, or to `host:port`. Of all addresses of the host, uses the first that
    /// answers (see [`nsq_dial`]).
    pub(crate) async fn dial(
        address: &str,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Self, (ConnectStage, Disconnect)> {
        if is_socket_path(address) {
            return match tokio::time::timeout(timeout, unix_socket::connect(Path::new(address))).await {
                Ok(Ok(stream)) => Ok(Transport::Other(Box::new(stream))),
                Ok(Err(error)) => Err((ConnectStage::Dial, error.into())),
                Err(_) => Err((ConnectStage::Dial, Disconnect::Timeout(timeout))),
            };
        }
        let addresses = match tokio::time::timeout(timeout, nsq_dial::resolve(address)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return Err((ConnectStage::Resolve, error.into())),
            Err(_) => return Err((ConnectStage::Resolve, Disconnect::Timeout(timeout))),
        };
        match tokio::time::timeout(timeout, nsq_dial::connect(&addresses, source, timeout)).await {
            Ok(Ok(stream)) => {
                // Commands are already combined into few large writes. Waiting for more would only delay them.
                stream.set_nodelay(true).map_err(|error| (ConnectStage::Dial, error.into()))?;
                Ok(Transport::Tcp(stream))
            }
            Ok(Err(error)) => Err((ConnectStage::Dial, error.into())),
            Err(_) => Err((ConnectStage::Dial, Disconnect::Timeout(timeout))),
        }
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Transport::Tcp(stream) => {
                let (read, write) = stream.into_split();
                (ReadHalf::new(ReadWire::Tcp(read)), WriteHalf::new(WriteWire::Tcp(write)))
            }
            Transport::Other(stream) => {
                let (read, write) = tokio::io::split(stream);
                (ReadHalf::new(ReadWire::Other(read)), WriteHalf::new(WriteWire::Other(write)))
            }
        }
    }

    #[cfg(feature = "tls")]
    fn unite(read: ReadHalf, write: WriteHalf) -> Option<Self> {
        match (read.wire, write.wire) {
            (ReadWire::Tcp(read), WriteWire::Tcp(write)) => read.reunite(write).ok().map(Transport::Tcp),
            (ReadWire::Other(read), WriteWire::Other(write)) if read.is_pair_of(&write) => {
                Some(Transport::Other(read.unsplit(write)))
            }
            _ => None,
        }
    }
}

/// Performs the TLS handshake over both halves of a plain connection, and returns the encrypted halves.
#[cfg(feature = "tls")]
pub(crate) async fn start_tls(
    read: ReadHalf,
    write: WriteHalf,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(ReadHalf, WriteHalf), Disconnect> {
    let stream: Box<dyn Duplex> = match Transport::unite(read, write) {
        Some(Transport::Tcp(stream)) => Box::new(stream),
        Some(Transport::Other(stream)) => stream,
        None => return Err(Disconnect::Protocol("the halves belong to two connections".into())),
    };
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(Transport::Other(Box::new(stream)).split())
}

enum ReadWire {
    Tcp(OwnedReadHalf),
    Other(tokio::io::ReadHalf<Box<dyn Duplex>>),
}

/// The reading half of a byte stream.
pub(crate) struct ReadHalf {
    wire: ReadWire,
    decompression: Option<Box<Decompression>>,
}

impl ReadHalf {
    fn new(wire: ReadWire) -> Self {
        ReadHalf { wire, decompression: None }
    }

    pub(crate) fn decompress(&mut self, decompression: Decompression) {
        self.decompression = Some(Box::new(decompression));
    }

    /// Reads once and appends to `buf`. Returns 0 at the end of the stream. Cancel safe.
    pub(crate) async fn read(&mut self, buf: &mut BytesMut) -> std::io::Result<usize> {
        let Some(decompression) = &mut self.decompression else { return self.wire.read(buf).await };
        loop {
            let count = decompression.decompress(buf)?;
            if count > 0 || self.wire.read(decompression.room()).await? == 0 {
                return Ok(count);
            }
        }
    }
}

impl ReadWire {
    async fn read(&mut self, buf: &mut BytesMut) -> std::io::Result<usize> {
        match self {
            ReadWire::Tcp(half) => half.read_buf(buf).await,
            ReadWire::Other(half) => half.read_buf(buf).await,
        }
    }
}

enum WriteWire {
    Tcp(OwnedWriteHalf),
    Other(tokio::io::WriteHalf<Box<dyn Duplex>>),
}

/// The writing half of a byte stream.
pub(crate) struct WriteHalf {
    wire: WriteWire,
    compression: Option<Box<Compression>>,
}

impl WriteHalf {
    fn new(wire: WriteWire) -> Self {
        WriteHalf { wire, compression: None }
    }

    pub(crate) fn compress(&mut self, compression: Compression) {
        self.compression = Some(Box::new(compression));
    }

    /// Writes all of `bytes` within `timeout`. Not cancel safe: part may have been written.
    pub(crate) async fn write(&mut self, bytes: &[u8], timeout: Duration) -> Result<(), Disconnect> {
        let bytes = match &mut self.compression {
            Some(compression) => compression.compress(bytes),
            None => bytes,
        };
        match tokio::time::timeout(timeout, self.wire.write(bytes)).await {
            Ok(written) => written.map_err(Disconnect::from),
            Err(_) => Err(Disconnect::Timeout(timeout)),
        }
    }

    /// Closes the writing direction.
    pub(crate) async fn finish(&mut self) {
        // The connection ends anyway, so an error does not matter.
        let _ = match &mut self.wire {
            WriteWire::Tcp(half) => half.shutdown().await,
            WriteWire::Other(half) => half.shutdown().await,
        };
    }
}

impl WriteWire {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            WriteWire::Tcp(half) => half.write_all(bytes).await,
            // TLS may have buffered bytes.
            WriteWire::Other(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
        }
    }
}

/// Checks that an address can be dialled: `host:port`, or the path of a unix socket.
pub(crate) fn check_address(address: &str) -> Result<Arc<str>, ConfigError> {
    if is_socket_path(address) {
        unix_socket::check(address)?;
        return Ok(Arc::from(address));
    }
    let valid = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    // An address with a slash and a port is a URL, or malformed.
    if valid && !address.contains('/') {
        // The protocol does not use a password, and errors would show it.
        Ok(Arc::from(&*without_user_info(address)))
    } else {
        let expected = "write host:port, or the path of a unix socket";
        Err(ConfigError::InvalidAddress { address: shown_address(address), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let good = [
            "127.0.0.1:4150",
            "localhost:1",
            "[::1]:4150",
            "nsqd-1.example:65535",
            "/run/nsqd.sock",
            "./a:b",
        ];
        for address in good {
            assert_eq!(&*check_address(address).unwrap(), address);
        }
        let long = format!("/{}", "x".repeat(200));
        for address in [
            "",
            "localhost",
            ":4150",
            "localhost:",
            "localhost:70000",
            "localhost:x",
            "h:0",
            "http://h:4151",
            "h:4150/x",
            &long,
        ] {
            assert!(check_address(address).is_err(), "{address}");
        }
    }
}
