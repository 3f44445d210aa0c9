//! A blocking connection to nsqd with a read buffer, and the start of a session.

use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nsq::handshake::{Handshake, Progress, Purpose, Upgrade};
use nsq::{Config, Disconnect, Interval, ServerInfo};
use nsq_protocol::compression::{Compressor, Decompressor};
use nsq_protocol::{Frame, FrameType};

use super::address::Address;
use super::failure::{Cause, Failure};
use super::frames::{self, Fault, First, MAX_FRAME_BYTES};
use super::link::{self, ReadLink, WriteLink};
use super::server::Server;
use super::targets::Security;

/// Maximum time to connect, and to wait for any answer that nsqd owes.
pub const MAX_SILENCE: Duration = Duration::from_secs(30);

/// How often a thread without input checks whether it should stop.
pub const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// Size of the read buffer: a thousand small messages, so that they share one read and one write of FINs.
const BUFFER_BYTES: usize = 256 << 10;

const _: () = assert!(BUFFER_BYTES < MAX_FRAME_BYTES);

/// A connection to nsqd.
pub struct Connection {
    address: Address,
    read: ReadLink,
    /// `None` after [`split`](Self::split).
    write: Option<WriteLink>,
    input: Input,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Bytes, which are now in the buffer.
    Some,
    /// Nothing within the timeout.
    Nothing,
}

impl Connection {
    /// Connects without sending anything.
    pub fn open(address: &Address) -> Result<Self, Failure> {
        let open = || {
            let stream = address.connect(MAX_SILENCE)?;
            stream.set_write_timeout(Some(MAX_SILENCE))?;
            stream.set_read_timeout(Some(MAX_SILENCE))?;
            Ok(stream)
        };
        let unreachable =
            |error: io::Error| Failure::new(Cause::Unreachable, format_args!("{address}: {error}"));
        let (read, write) = link::plain(open().map_err(unreachable)?);
        Ok(Connection { address: address.clone(), read, write: Some(write), input: Input::default() })
    }

    /// The process at the other end, if it runs on this machine and can be determined.
    pub fn server(&self) -> Option<Server> {
        match &self.address {
            // On the same machine, both ends have the same address.
            Address::Tcp(address) => {
                let local = self.read.socket().local_addr().ok()?.as_socket()?;
                (local.ip() == address.ip()).then(|| Server::listening_on(address.port())).flatten()
            }
            Address::Unix(_) => {
                let listener = rustix::net::sockopt::socket_peercred(self.read.socket()).ok()?;
                Server::with_pid(u32::try_from(listener.pid.as_raw_nonzero().get()).ok()?)
            }
        }
    }

    /// Sets how long a read waits.
    pub fn set_read_timeout(&self, timeout: Duration) -> Result<(), Failure> {
        self.read.socket().set_read_timeout(Some(timeout)).map_err(|error| self.lost(&error))
    }

    /// Splits off the writing half, so that one thread can read while another writes.
    pub fn split(mut self) -> Result<(Self, WriteLink), Failure> {
        let write = self.write.take().ok_or_else(|| self.failed("the connection is already split"))?;
        Ok((self, write))
    }

    /// Sends all bytes.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Some(write) = &mut self.write else { return Err(self.failed("the connection is read-only")) };
        write.write_all(bytes).map_err(|error| self.lost(&error))
    }

    /// Reads once.
    pub fn receive(&mut self) -> Result<Received, Failure> {
        match self.input.fill(&mut self.read) {
            Ok(0) => Err(self.failed("it closed the connection")),
            Ok(_) => Ok(Received::Some),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(Received::Nothing)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(Received::Nothing),
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// Whether [`receive`](Self::receive) can return bytes even if the socket has none.
    pub fn holds_bytes(&self) -> bool {
        self.read.holds_bytes()
    }

    /// The bytes that were read and not consumed.
    pub fn received(&self) -> &[u8] {
        &self.input.buf[self.input.start..self.input.end]
    }

    /// Removes the first bytes of [`received`](Self::received).
    pub fn consume(&mut self, bytes: usize) {
        self.input.start = (self.input.start + bytes).min(self.input.end);
    }

    /// A failure of this connection.
    pub fn failed(&self, why: impl std::fmt::Display) -> Failure {
        Failure::failed(format_args!("nsqd at {}: {why}", self.address))
    }

    fn lost(&self, error: &io::Error) -> Failure {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            return self.failed(format_args!("it accepted no bytes for {} s", MAX_SILENCE.as_secs()));
        }
        self.failed(error)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.read.socket().as_fd()
    }
}

/// The heartbeat setting in IDENTIFY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heartbeats {
    /// nsqd's default. Consumers need heartbeats.
    Default,
    /// No heartbeats, because a publisher may be silent for a long time.
    Off,
}

impl Connection {
    /// Connects to nsqd and does the handshake of the client library for `purpose`: IDENTIFY, the TLS, compression and
    /// authentication agreed on, and SUB. No message arrives before RDY.
    pub fn identified(
        address: &Address,
        purpose: Purpose,
        heartbeats: Heartbeats,
        security: &Security,
    ) -> Result<(Self, ServerInfo), Failure> {
        let mut connection = Self::open(address)?;
        let config = session_config(heartbeats, security);
        let mut out = Vec::new();
        let mut handshake = Handshake::start(purpose, &config, security.token.clone(), &mut out);
        let server = loop {
            if !out.is_empty() {
                connection.send(&out)?;
                out.clear();
            }
            let frame = connection.frame()?;
            match handshake.on_frame(&frame, &mut out).map_err(|cause| connection.ended(&cause))? {
                Progress::Waiting => {}
                Progress::Upgrade(upgrade) => connection.upgrade(upgrade, security)?,
                Progress::Ready(server) => break server,
            }
        };
        // Figures for another transport than the requested one would mislead.
        let asked = config.upgrades();
        if asked.snappy && !server.snappy {
            return Err(connection.failed("it does not offer snappy"));
        }
        if asked.deflate.is_some() && !server.deflate {
            return Err(connection.failed("it does not offer deflate"));
        }
        Ok((connection, server))
    }

    fn upgrade(&mut self, upgrade: Upgrade, security: &Security) -> Result<(), Failure> {
        let compression = match upgrade {
            Upgrade::Tls => return self.start_tls(security),
            Upgrade::Snappy => (Compressor::snappy(), Decompressor::snappy()),
            Upgrade::Deflate { level } => (Compressor::deflate(level), Decompressor::deflate()),
        };
        let first = self.received().to_vec();
        self.consume(first.len());
        if let Some(write) = &mut self.write {
            link::start_compression(&mut self.read, write, compression, &first);
        }
        Ok(())
    }

    fn start_tls(&mut self, security: &Security) -> Result<(), Failure> {
        let address = self.address.to_string();
        let Some(write) = &mut self.write else { return Ok(()) };
        link::start_tls(&mut self.read, write, &security.tls, &address)
            .map_err(|error| self.failed(format_args!("TLS handshake: {error}")))
    }

    /// Waits for a whole frame.
    fn frame(&mut self) -> Result<Frame, Failure> {
        loop {
            let frame = frames::first(self.received()).map_err(|fault| self.failed(fault))?;
            if let Some(First { kind, data, bytes }) = frame {
                let kind = FrameType::from_wire(kind).ok_or_else(|| self.failed(Fault::OutOfStep))?;
                let frame = Frame { kind, data: data.to_vec().into() };
                self.consume(bytes);
                return Ok(frame);
            }
            if self.receive()? == Received::Nothing {
                return Err(self.failed(format_args!("no answer for {} s", MAX_SILENCE.as_secs())));
            }
        }
    }

    fn ended(&self, cause: &Disconnect) -> Failure {
        match cause {
            Disconnect::Declined(what) => self.failed(format_args!("it does not offer {what}")),
            Disconnect::AuthRequired => {
                self.failed("it requires a secret: use --auth-secret-file FILE or NSQ_AUTH_SECRET")
            }
            cause => self.failed(cause),
        }
    }
}

/// Leaves all settings about delivery at nsqd's defaults, whatever the options of the client library are.
fn session_config(heartbeats: Heartbeats, security: &Security) -> Config {
    let asked = security.config.upgrades();
    let config = Config::new()
        .client_id("nsq-bench".to_owned())
        .user_agent(concat!("nsq-bench/", env!("CARGO_PKG_VERSION")))
        .output_buffer_size(NSQD_DEFAULT)
        .heartbeat_interval(match heartbeats {
            Heartbeats::Default => Interval::ServerDefault,
            Heartbeats::Off => Interval::Off,
        })
        .tls_v1(asked.tls)
        .snappy(asked.snappy)
        .deflate(asked.deflate.is_some());
    match asked.deflate {
        Some(level) => config.deflate_level(level),
        None => config,
    }
}

/// The size in IDENTIFY that leaves nsqd's output buffer as it is.
const NSQD_DEFAULT: i64 = 0;

/// A read buffer: `buf[start..end]` is unread.
#[derive(Default)]
struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Input {
    /// Reads once into the free part of the buffer.
    fn fill(&mut self, source: &mut impl Read) -> io::Result<usize> {
        if self.buf.is_empty() {
            self.buf.resize(BUFFER_BYTES, 0);
        }
        if self.start > 0 {
            // This moves at most the beginning of one frame.
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.end == self.buf.len() {
            if self.buf.len() > MAX_FRAME_BYTES {
                return Err(io::Error::new(ErrorKind::InvalidData, "a frame is too large"));
            }
            self.buf.resize(self.buf.len() * 2, 0);
        }
        let bytes = source.read(&mut self.buf[self.end..])?;
        self.end += bytes;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffer_grows_for_a_large_frame() {
        let sent: Vec<u8> = (0..3 * BUFFER_BYTES).map(|at| at as u8).collect();
        let mut source = &sent[..];
        let mut input = Input::default();
        while input.fill(&mut source).unwrap() > 0 {}
        assert_eq!(input.buf[..input.end], sent);
        input.start = input.end - 1;
        assert_eq!(input.fill(&mut &b"x"[..]).unwrap(), 1);
        assert_eq!(input.buf[..input.end], [sent[sent.len() - 1], b'x']);
    }
}
