//! Addresses that are paths of unix sockets, for daemons on the same machine.

use std::path::Path;

use crate::error::ConfigError;

/// Whether an address is the path of a unix socket, and not `host:port` or a URL: it has a slash, and no colon before
/// the slash.
pub fn is_socket_path(address: &str) -> bool {
    address.split_once('/').is_some_and(|(before, _)| !before.contains(':'))
}

#[cfg(unix)]
mod system {
    use std::io;
    use std::os::unix::net::SocketAddr;
    use std::path::Path;
    use std::time::Duration;

    pub(crate) use tokio::net::UnixStream as Stream;

    /// Pause between attempts while the listener's queue is full.
    const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

    /// Connects. Waits while the listener's queue is full, as TCP does by itself. The caller sets a timeout.
    pub(crate) async fn connect(path: &Path) -> io::Result<Stream> {
        loop {
            match Stream::connect(path).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(FULL_QUEUE_PAUSE).await;
                }
                connected => return connected,
            }
        }
    }

    /// Whether a unix socket can have this path.
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
    use super::*;

    #[test]
    fn paths_are_not_hosts() {
        for path in ["/run/nsqd.sock", "./nsqd.sock", "run/nsqd.sock", "/a:1/b", "//h:1"] {
            assert!(is_socket_path(path), "{path}");
        }
        for other in ["h:1", "h", "h:1/nsq", "http://h:1/x", "[::1]:1/x", ""] {
            assert!(!is_socket_path(other), "{other}");
        }
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn connect_waits_while_the_queue_is_full() {
        let path = std::env::temp_dir().join(format!("nsq-queue-{}.sock", std::process::id()));
        let socket = tokio::net::UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut queue = Vec::new();
        while let Ok(stream) = tokio::net::UnixStream::connect(&path).await {
            queue.push(stream);
        }
        let connecting = tokio::spawn({
            let path = path.clone();
            async move { connect(&path).await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!connecting.is_finished());
        listener.accept().await.unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(30), connecting).await.unwrap().unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(connect(&path).await.is_err());
    }
}
