//! nsqd's address: a TCP port, or a unix socket on this machine.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use nsq::is_socket_path;
use socket2::{Domain, SockAddr, Socket, Type};

use super::failure::{Cause, Failure};

/// Maximum time to connect to each address of a host name that has several.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The address of an nsqd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    /// Path of a unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Parses `host:port` or the path of a unix socket. For a host name, uses the first address that answers.
    pub fn resolve(text: &str) -> Result<Self, Failure> {
        if is_socket_path(text) {
            return Ok(Address::Unix(text.into()));
        }
        let unknown = |why: &dyn fmt::Display| {
            Failure::new(Cause::Unreachable, format_args!("{text}: {why}"))
                .hint("an address is HOST:PORT, or the path of a unix socket")
        };
        let found: Vec<_> =
            text.to_socket_addrs().map_err(|error| unknown(&error))?.map(Address::Tcp).collect();
        // If no address answers, connecting to the first one reports why.
        let answers = |address: &&Address| found.len() == 1 || address.connect(PROBE_TIMEOUT).is_ok();
        let chosen = found.iter().find(answers).or(found.first());
        chosen.cloned().ok_or_else(|| unknown(&"no such host"))
    }

    /// Opens a blocking connection that sends small writes at once.
    pub fn connect(&self, timeout: Duration) -> io::Result<Socket> {
        match self {
            Address::Tcp(address) => {
                let socket = Socket::new(Domain::for_address(*address), Type::STREAM, None)?;
                socket.connect_timeout(&(*address).into(), timeout)?;
                socket.set_tcp_nodelay(true)?;
                Ok(socket)
            }
            Address::Unix(path) => {
                let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
                // This also limits the wait in the listener's queue.
                socket.set_write_timeout(Some(timeout))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Ok(socket)
            }
        }
    }

    /// The address on the same host, `ports` further; `None` for a unix socket.
    pub fn neighbour(&self, ports: i16) -> Option<Self> {
        match self {
            Address::Tcp(address) => {
                let port = address.port().wrapping_add_signed(ports);
                Some(Address::Tcp(SocketAddr::new(address.ip(), port)))
            }
            Address::Unix(_) => None,
        }
    }

    /// The value of HTTP's Host header.
    pub fn host(&self) -> String {
        match self {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => path.display().fmt(f),
        }
    }
}
