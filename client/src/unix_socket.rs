//! Daemons on this machine that listen on a unix socket: an address that is a path.

use std::path::Path;

use crate::error::ConfigError;

/// Whether an address is taken for the path of a unix socket, and not for `host:port` or a URL: it has a slash, and no
/// colon before that.
pub fn is_socket_path(address: &str) -> bool {
    address.split_once('/').is_some_and(|(before, _)| !before.contains(':'))
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::os::unix::net::SocketAddr;
    use std::path::Path;

    pub(crate) use tokio::net::UnixStream as Stream;

    pub(crate) async fn connect(path: &Path) -> io::Result<Stream> {
        Stream::connect(path).await
    }

    /// Whether a socket can have this path.
    pub(super) fn can_be(path: &Path) -> bool {
        SocketAddr::from_pathname(path).is_ok()
    }
}

#[cfg(not(unix))]
mod system {
    use std::io;
    use std::path::Path;

    pub(crate) use tokio::net::TcpStream as Stream;

    pub(crate) async fn connect(_: &Path) -> io::Result<Stream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn can_be(_: &Path) -> bool {
        false
    }
}

pub(crate) use system::connect;

/// Checks that a unix socket can have this path.
pub(crate) fn check(address: &str) -> Result<(), ConfigError> {
    if system::can_be(Path::new(address)) {
        Ok(())
    } else {
        let expected = "the path of a unix socket has at most 107 bytes";
        Err(ConfigError::InvalidAddress { address: address.to_owned(), expected })
    }
}

#[cfg(test)]
mod tests {
    use super::is_socket_path;

    #[test]
    fn paths_are_not_hosts() {
        for path in ["/run/nsqd.sock", "./nsqd.sock", "run/nsqd.sock", "/a:1/b", "//h:1"] {
            assert!(is_socket_path(path), "{path}");
        }
        for other in ["h:1", "h", "h:1/nsq", "http://h:1/x", "[::1]:1/x", ""] {
            assert!(!is_socket_path(other), "{other}");
        }
    }
}
