//! Addresses, listeners and the streams they accept: TCP or unix socket.
//!
//! An address that is not `host:port` is the path of a unix socket. A TCP listener on all interfaces accepts IPv4 and
//! IPv6. A listener on a name that has addresses of both families uses IPv4, as in Go.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};

/// Idle time before the first keep-alive probe, and interval between probes; the kernel's default says how many may
/// fail. This is how a peer that vanished is noticed. Go's listeners set the same values.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Connections that may wait to be accepted; the kernel's `somaxconn` limits it further. Go's listeners set the same.
const ACCEPT_QUEUE: u32 = 4096;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host (name, IPv4, or IPv6 without brackets; empty for all interfaces) and a port.
    Tcp {
        /// Name, IPv4 or IPv6 address without brackets. Empty for all interfaces.
        host: String,
        /// 0 for any free port.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

/// Parses an address as nsqd does: `host:port`, `:port`, `[v6]:port`; any other text is a path.
///
/// ```
/// # use nsq_daemon::listen::{parse_address, Address};
/// assert_eq!(parse_address(":4150"), Address::Tcp { host: "".into(), port: 4150 });
/// assert_eq!(parse_address("/run/nsqd.sock"), Address::Unix("/run/nsqd.sock".into()));
/// ```
pub fn parse_address(text: &str) -> Address {
    let tcp = || {
        let (host, port) = text.rsplit_once(':')?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) => v6,
            // Several colons without brackets are not host and port.
            None if host.contains([':', '[', ']']) => return None,
            None => host,
        };
        let port = if port.is_empty() { 0 } else { port.parse().ok()? };
        (!host.contains('/')).then(|| Address::Tcp { host: host.to_owned(), port })
    };
    tcp().unwrap_or_else(|| Address::Unix(PathBuf::from(text)))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The peer of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remote {
    /// A TCP peer. IPv4 addresses are never in their IPv6 form.
    Tcp(SocketAddr),
    /// A peer on a unix socket. It has no address of its own and prints as `@`.
    Unix,
}

impl Remote {
    /// The peer's IP address, if it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix => None,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix => f.write_str("@"),
        }
    }
}

/// Why listening on an address failed, in NSQ's words.
#[derive(Debug, thiserror::Error)]
#[error("listen ({address}) failed - listen {network} {address}: bind: {}", reason(source))]
pub struct BindError {
    /// The requested address.
    pub address: String,
    /// `tcp` or `unix`.
    pub network: &'static str,
    /// The system's error.
    pub source: io::Error,
}

/// The system's message in lower case, without Rust's error number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// On a TCP port.
    Tcp(TcpListener),
    /// On a path.
    Unix(UnixSocket),
}

impl Listener {
    /// Listens on an address. The umask decides the permissions of a unix socket's file.
    pub async fn bind(address: &Address) -> Result<Self, BindError> {
        Self::bind_with_mode(address, None).await
    }

    /// Listens on an address. `mode` sets the permissions of a unix socket's file. A socket file that nothing listens
    /// on, left behind by a killed process, is replaced.
    pub async fn bind_with_mode(address: &Address, mode: Option<u32>) -> Result<Self, BindError> {
        let (network, bound) = match address {
            Address::Tcp { host, port } => ("tcp", bind_tcp(host, *port).await.map(Self::Tcp)),
            Address::Unix(path) => ("unix", UnixSocket::bind(path, mode).map(Self::Unix)),
        };
        bound.map_err(|source| BindError { address: address.to_string(), network, source })
    }

    /// Waits for one connection; see [`crate::accept`] for failures. Dropping the future loses no connection.
    pub async fn accept(&self) -> io::Result<(Stream, Remote)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                tune(&stream);
                Ok((Stream::Tcp(stream), Remote::Tcp(canonical(address))))
            }
            Self::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                Ok((Stream::Unix(stream), Remote::Unix))
            }
        }
    }

    /// The TCP address; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The TCP port; `None` for a unix socket.
    pub fn local_port(&self) -> Option<u16> {
        self.local_addr().map(|address| address.port())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(socket) => socket.listener.as_fd(),
        }
    }
}

impl fmt::Display for Listener {
    /// The address for the "listening on" log line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(listener) => match listener.local_addr() {
                Ok(address) => address.fmt(f),
                Err(_) => f.write_str("?"),
            },
            Self::Unix(socket) => write!(f, "{}", socket.path.display()),
        }
    }
}

/// A listening unix socket. Dropping it deletes its file, unless another file has replaced it.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    file: (u64, u64),
}

impl UnixSocket {
    fn bind(path: &Path, mode: Option<u32>) -> io::Result<Self> {
        if path.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty address"));
        }
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
                std::fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        let metadata = std::fs::symlink_metadata(path)?;
        let socket = Self { listener, path: path.to_owned(), file: (metadata.dev(), metadata.ino()) };
        if let Some(mode) = mode {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(socket)
    }
}

/// Whether a path is a socket that nothing listens on.
fn is_abandoned(path: &Path) -> bool {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
    if !std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket()) {
        return false;
    }
    let Ok(address) = SocketAddrUnix::new(path) else { return false };
    // Non-blocking, because a listener that is slow to accept still exists.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
    socket.is_ok_and(|socket| connect(&socket, &address) == Err(rustix::io::Errno::CONNREFUSED))
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.file);
        if is_ours {
            // Failure is harmless: the next start replaces the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens as Go does. Without a host, or with the unspecified address of either family: on both families, whatever
/// `net.ipv6.bindv6only` says, or on IPv4 alone if there is no IPv6. On a name: its first IPv4 address, else its first
/// IPv6 address.
async fn bind_tcp(host: &str, port: u16) -> io::Result<TcpListener> {
    let ip: Option<IpAddr> =
        if host.is_empty() { Some(Ipv6Addr::UNSPECIFIED.into()) } else { host.parse().ok() };
    match ip {
        Some(ip) if ip.is_unspecified() => match bind_address((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                bind_address((Ipv4Addr::UNSPECIFIED, port).into())
            }
            bound => bound,
        },
        Some(ip) => bind_address((ip, port).into()),
        None => {
            let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
            addresses.sort_by_key(SocketAddr::is_ipv6);
            bind_first(&addresses)
        }
    }
}

/// Listens on the first of the addresses that this machine has.
fn bind_first(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let mut failure = None;
    for address in addresses {
        match bind_address(*address) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                failure.get_or_insert(error);
            }
            bound => return bound,
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address")))
}

fn bind_address(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !address.ip().is_unspecified())?;
    }
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
}

/// Failures are ignored: none is a reason to refuse a connection.
fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, KEEPALIVE);
    let _ = sockopt::set_tcp_keepintvl(stream, KEEPALIVE);
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// An accepted connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP, with `TCP_NODELAY` and keep-alive probes set.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Waits for bytes and copies them without consuming them. Returns 0 at the end, and always for a unix socket.
    pub async fn peek(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.peek(buf).await,
            Self::Unix(_) => Ok(0),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn addresses_parse_as_in_nsqd() {
        assert_eq!(parse_address("127.0.0.1:4150"), tcp("127.0.0.1", 4150));
        assert_eq!(parse_address("localhost:0"), tcp("localhost", 0));
        assert_eq!(parse_address("[::1]:80"), tcp("::1", 80));
        assert_eq!(parse_address("[::1]:80").to_string(), "[::1]:80");
        for path in ["127.0.0.1", "::1", "/tmp/x.sock", "/tmp/a:1", "host:notaport", "host:70000", ""] {
            assert_eq!(parse_address(path), Address::Unix(path.into()), "{path}");
        }
    }

    #[tokio::test]
    async fn all_interfaces_accept_both_families_and_report_plain_ipv4() {
        for address in ["0.0.0.0:0", ":0", "[::]:0"] {
            let listener = Listener::bind(&parse_address(address)).await.unwrap();
            let port = listener.local_port().unwrap();
            let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
            let (stream, remote) = listener.accept().await.unwrap();
            assert_eq!(remote.to_string(), client.local_addr().unwrap().to_string());
            assert!(matches!(stream, Stream::Tcp(stream) if stream.nodelay().unwrap()));
            // A machine without IPv6 ends the test here.
            if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
                let client = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.unwrap();
                let (_, remote) = listener.accept().await.unwrap();
                assert_eq!(remote.to_string(), client.local_addr().unwrap().to_string());
            }
        }
    }

    #[tokio::test]
    async fn bind_uses_the_first_address_of_a_name_that_is_local() {
        let of =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        // A documentation address, which no machine has.
        let listener = bind_first(&of(&["192.0.2.1:0", "127.0.0.1:0"])).unwrap();
        assert_eq!(listener.local_addr().unwrap().ip(), Ipv4Addr::LOCALHOST);
        let taken = listener.local_addr().unwrap();
        let error = bind_first(&[taken, "127.0.0.1:0".parse().unwrap()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(bind_first(&of(&["192.0.2.1:0"])).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
        assert_eq!(bind_first(&[]).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = Listener::bind(&parse_address("localhost:0")).await.unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
    }

    #[tokio::test]
    async fn address_in_use_is_reported_in_nsqs_words() {
        let first = Listener::bind(&parse_address("127.0.0.1:0")).await.unwrap();
        let address = first.to_string();
        let error = Listener::bind(&parse_address(&address)).await.unwrap_err().to_string();
        assert_eq!(
            error,
            format!("listen ({address}) failed - listen tcp {address}: bind: address already in use")
        );
    }

    #[tokio::test]
    async fn unix_socket_file_is_deleted_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let address = Address::Unix(path.clone());
        let listener = Listener::bind(&address).await.unwrap();
        assert_eq!(listener.to_string(), path.display().to_string());
        let error = Listener::bind(&address).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists(), "the failed bind deleted the other listener's socket");
        let _client = UnixStream::connect(&path).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1.to_string(), "@");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn abandoned_socket_is_replaced_and_a_regular_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let address = Address::Unix(path.clone());
        // Unlike ours, this listener does not delete its file.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let listener = Listener::bind_with_mode(&address, Some(0o620)).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o620);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        drop(listener);
        assert_eq!(
            std::fs::read(&path).unwrap(),
            b"precious",
            "the file that replaced the socket was changed"
        );
        let error = Listener::bind(&address).await.unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }
}
