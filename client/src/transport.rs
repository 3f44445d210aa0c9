//! The byte stream to an nsqd, and how it is opened.
//!
//! Enums and not traits: what a connection can be made of (TCP, TLS, and snappy or deflate around either) is a closed
//! list, and both halves must be usable on their own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::compression::{Compression, Decompression};
use crate::error::{ConnectStage, Disconnect};

/// An open byte stream.
pub(crate) struct Transport(TcpStream);

impl Transport {
    /// Connects to `host:port`: all its addresses are tried, each a little after the one before, and the
    /// first that answers is taken.
    pub(crate) async fn dial(
        address: &str,
        source: Option<IpAddr>,
        timeout: Duration,
    ) -> Result<Self, (ConnectStage, Disconnect)> {
        let resolve = tokio::time::timeout(timeout, tokio::net::lookup_host(address)).await;
        let addresses: Vec<SocketAddr> = match resolve {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => return Err((ConnectStage::Resolve, error.into())),
            Err(_) => return Err((ConnectStage::Resolve, Disconnect::Timeout(timeout))),
        };
        match tokio::time::timeout(timeout, connect_any(&addresses, source)).await {
            Ok(Ok(stream)) => Ok(Transport(stream)),
            Ok(Err(error)) => Err((ConnectStage::Dial, error.into())),
            Err(_) => Err((ConnectStage::Dial, Disconnect::Timeout(timeout))),
        }
    }

    pub(crate) fn split(self) -> (ReadHalf, WriteHalf) {
        let (read, write) = self.0.into_split();
        (ReadHalf::new(ReadWire::Plain(read)), WriteHalf::new(WriteWire::Plain(write)))
    }
}

/// Shakes hands over both halves of a plain connection; both are encrypted from then on.
pub(crate) async fn start_tls(
    read: ReadHalf,
    write: WriteHalf,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<(ReadHalf, WriteHalf), Disconnect> {
    let (ReadWire::Plain(read), WriteWire::Plain(write)) = (read.wire, write.wire) else {
        return Err(Disconnect::Protocol("nsqd turned on TLS twice".into()));
    };
    let stream = read.reunite(write).map_err(|error| Disconnect::Protocol(error.to_string()))?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    let (read, write) = tokio::io::split(stream);
    Ok((ReadHalf::new(ReadWire::Tls(read)), WriteHalf::new(WriteWire::Tls(write))))
}

enum ReadWire {
    Plain(OwnedReadHalf),
    Tls(tokio::io::ReadHalf<TlsStream<TcpStream>>),
}

/// What bytes are read from.
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

    /// Appends what is there to `buf`; 0 is the end. Cancel safe.
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
            ReadWire::Plain(half) => half.read_buf(buf).await,
            ReadWire::Tls(half) => half.read_buf(buf).await,
        }
    }
}

enum WriteWire {
    Plain(OwnedWriteHalf),
    Tls(tokio::io::WriteHalf<TlsStream<TcpStream>>),
}

/// What bytes are written to.
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

    /// Says that nothing more will be written.
    pub(crate) async fn finish(&mut self) {
        // Whether the other side still listens does not matter any more.
        let _ = match &mut self.wire {
            WriteWire::Plain(half) => half.shutdown().await,
            WriteWire::Tls(half) => half.shutdown().await,
        };
    }
}

impl WriteWire {
    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            WriteWire::Plain(half) => half.write_all(bytes).await,
            WriteWire::Tls(half) => {
                half.write_all(bytes).await?;
                half.flush().await
            }
        }
    }
}

/// How long one address may try alone before the next one starts beside it.
const STAGGER: Duration = Duration::from_millis(250);

async fn connect_any(addresses: &[SocketAddr], source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let mut attempts: FuturesUnordered<_> = addresses
        .iter()
        .enumerate()
        .map(|(position, address)| async move {
            tokio::time::sleep(STAGGER * position as u32).await;
            connect_one(*address, source).await
        })
        .collect();
    let mut last_error = None;
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error.unwrap_or_else(|| std::io::Error::other("the name has no address")))
}

async fn connect_one(address: SocketAddr, source: Option<IpAddr>) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    // Commands are gathered into few large writes already; waiting for more would only delay them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Checks that an address can be dialled: `host:port`.
pub(crate) fn check_address(address: &str) -> Result<Arc<str>, crate::ConfigError> {
    let valid = address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0));
    if valid {
        Ok(Arc::from(address))
    } else {
        Err(crate::ConfigError::InvalidAddress { address: address.to_owned(), expected: "write host:port" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for address in ["127.0.0.1:4150", "localhost:1", "[::1]:4150", "nsqd-1.example:65535"] {
            assert_eq!(&*check_address(address).unwrap(), address);
        }
        for address in ["", "localhost", ":4150", "localhost:", "localhost:70000", "localhost:x", "h:0"] {
            assert!(check_address(address).is_err(), "{address}");
        }
    }
}
