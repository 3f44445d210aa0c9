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
    use std::time::Duration;

    pub(crate) use tokio::net::UnixStream as Stream;

    /// How soon to try again while others queue before the door.
    const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(10);

    /// Connects. While the listener's queue is full it waits, as TCP does of itself; how long, is up to the caller.
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
    async fn a_full_queue_is_waited_for() {
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
