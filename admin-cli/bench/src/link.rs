//! The byte stream to nsqd: a blocking socket, with the TLS and compression agreed on in IDENTIFY.
//!
//! One half reads and one half writes, possibly in two threads. Neither waits for the other: the TLS state that both
//! need is locked only while bytes are encrypted or decrypted, never while a thread waits for the socket.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use nsq::Tls;
use nsq_protocol::compression::{Compressor, Decompressor};
use rustls::ClientConnection;
use socket2::Socket;

/// Bytes to read from the socket at a time, if they are encrypted or compressed.
const READ_BYTES: usize = 64 << 10;

type SharedTls = Arc<Mutex<ClientConnection>>;

/// The reading half.
pub struct ReadLink {
    socket: Arc<Socket>,
    tls: Option<TlsReader>,
    decompression: Option<Box<Decompression>>,
}

/// The writing half.
pub struct WriteLink {
    socket: Arc<Socket>,
    tls: Option<SharedTls>,
    compressor: Option<Box<Compressor>>,
    compressed: Vec<u8>,
    encrypted: Vec<u8>,
}

/// Both halves over a socket, without TLS and compression.
pub fn plain(socket: Socket) -> (ReadLink, WriteLink) {
    let socket = Arc::new(socket);
    let read = ReadLink { socket: socket.clone(), tls: None, decompression: None };
    let write =
        WriteLink { socket, tls: None, compressor: None, compressed: Vec::new(), encrypted: Vec::new() };
    (read, write)
}

/// Does the TLS handshake. From then on, all bytes are encrypted.
pub fn start_tls(read: &mut ReadLink, write: &mut WriteLink, tls: &Tls, address: &str) -> io::Result<()> {
    let config = tls.client_config().map_err(io::Error::other)?;
    let name = tls.server_name(address).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut &*read.socket)?;
    }
    let shared = Arc::new(Mutex::new(connection));
    read.tls = Some(TlsReader { shared: shared.clone(), raw: Buffer::default(), holds_plaintext: false });
    write.tls = Some(shared);
    Ok(())
}

/// From now on, all bytes are compressed. `first` are bytes that were already read.
pub fn start_compression(
    read: &mut ReadLink,
    write: &mut WriteLink,
    (compressor, decompressor): (Compressor, Decompressor),
    first: &[u8],
) {
    let mut received = Buffer::default();
    received.bytes.extend_from_slice(first);
    received.end = first.len();
    read.decompression = Some(Box::new(Decompression { decompressor, received, has_more: false }));
    write.compressor = Some(Box::new(compressor));
}

impl ReadLink {
    /// The socket, for its settings.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Whether bytes were taken from the socket and not read yet. A caller that waits for the socket would miss them.
    pub fn holds_bytes(&self) -> bool {
        let of_tls = self.tls.as_ref().is_some_and(TlsReader::holds_bytes);
        let of_decompression =
            self.decompression.as_ref().is_some_and(|decompression| decompression.holds_bytes());
        of_tls || of_decompression
    }

    fn read_uncompressed(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => (&*self.socket).read(buf),
            Some(tls) => tls.read(&self.socket, buf),
        }
    }
}

impl Read for ReadLink {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(mut decompression) = self.decompression.take() else { return self.read_uncompressed(buf) };
        let read = decompression.read(buf, |raw| self.read_uncompressed(raw));
        self.decompression = Some(decompression);
        read
    }
}

impl WriteLink {
    /// Sends all bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut bytes = bytes;
        if let Some(compressor) = &mut self.compressor {
            self.compressed.clear();
            compressor.compress(bytes, &mut self.compressed);
            bytes = &self.compressed;
        }
        let Some(tls) = &self.tls else { return (&*self.socket).write_all(bytes) };
        while !bytes.is_empty() {
            self.encrypted.clear();
            {
                let mut connection = tls.lock().unwrap_or_else(PoisonError::into_inner);
                // The TLS writer may accept only a part.
                let count = connection.writer().write(bytes)?;
                bytes = &bytes[count..];
                while connection.wants_write() {
                    connection.write_tls(&mut self.encrypted)?;
                }
            }
            (&*self.socket).write_all(&self.encrypted)?;
        }
        Ok(())
    }
}

struct TlsReader {
    shared: SharedTls,
    raw: Buffer,
    /// Whether the last read filled its buffer, so that more plaintext may be left.
    holds_plaintext: bool,
}

impl TlsReader {
    fn holds_bytes(&self) -> bool {
        !self.raw.unread().is_empty() || self.holds_plaintext
    }

    fn read(&mut self, mut socket: &Socket, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            {
                let mut connection = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
                match connection.reader().read(buf) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.holds_plaintext = false,
                    read => {
                        self.holds_plaintext = read.as_ref().is_ok_and(|&count| count == buf.len());
                        return read;
                    }
                }
                let mut unread = self.raw.unread();
                if !unread.is_empty() {
                    let taken = connection.read_tls(&mut unread)?;
                    connection.process_new_packets().map_err(io::Error::other)?;
                    self.raw.start += taken;
                    continue;
                }
            }
            if self.raw.fill(|raw| socket.read(raw))? == 0 {
                return Ok(0);
            }
        }
    }
}

struct Decompression {
    decompressor: Decompressor,
    received: Buffer,
    /// Whether there may be more output without more input.
    has_more: bool,
}

impl Decompression {
    fn holds_bytes(&self) -> bool {
        self.has_more || !self.received.unread().is_empty()
    }

    fn read(
        &mut self,
        buf: &mut [u8],
        mut read: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            while self.has_more || !self.received.unread().is_empty() {
                let progress = self.decompressor.decompress(self.received.unread(), buf);
                let progress = progress.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
                self.received.start += progress.consumed;
                self.has_more = progress.produced == buf.len();
                if progress.produced > 0 {
                    return Ok(progress.produced);
                }
            }
            if self.received.fill(&mut read)? == 0 {
                return Ok(0);
            }
        }
    }
}

/// Encrypted or compressed bytes; `bytes[start..end]` is unread.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Buffer {
    fn unread(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Reads once. All earlier bytes must have been consumed.
    fn fill(&mut self, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
        (self.start, self.end) = (0, 0);
        self.bytes.resize(READ_BYTES, 0);
        self.end = read(&mut self.bytes)?;
        Ok(self.end)
    }
}
