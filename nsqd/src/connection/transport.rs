//! The byte stream of a connection. Upgrades (TLS, compression) belong here; the rest only sees plain bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use nsq_daemon::listen::Stream;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How long a goodbye may take: writing what is left, and waiting for the peer to see it.
const GOODBYE: Duration = Duration::from_secs(1);
/// What is read and thrown away at most while saying goodbye.
const GOODBYE_BYTES: u64 = 8 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub enum Transport {
    /// Bytes as they are.
    Plain(Stream),
}

impl Transport {
    /// Reads what is there into `buffer`; 0 bytes mean that the peer sends no more.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        let Transport::Plain(stream) = self;
        Pin::new(stream).poll_read(cx, &mut buffer).map_ok(|()| buffer.filled().len())
    }

    /// Writes some of `bytes`.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Transport::Plain(stream) = self;
        Pin::new(stream).poll_write(cx, bytes)
    }

    /// Ends the connection. Unless it is `broken`, what is `left` goes out first; then our side is closed and the
    /// peer's last bytes are read, for a moment: closing on unread bytes would reset the connection, and the peer
    /// would never see the error that we sent.
    pub async fn close(self, left: &[u8], broken: bool) {
        let Transport::Plain(mut stream) = self;
        if broken {
            return;
        }
        let goodbye = async {
            stream.write_all(left).await?;
            stream.shutdown().await?;
            tokio::io::copy(&mut (&mut stream).take(GOODBYE_BYTES), &mut tokio::io::sink()).await
        };
        // It is over either way.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}
