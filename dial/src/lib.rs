//! Connecting to a name that has several addresses, some of which may be dead.
//!
//! Both daemons and the client library connect this way. Every connection resolves the name again, on a thread that
//! may block. Then it tries the addresses one after the other: each starts a little after the previous one, or as soon
//! as that fails. The first connection that succeeds is used. IPv4 and IPv6 addresses alternate, so a host with broken
//! IPv6 costs only a fraction of a second.
//!
//! The caller enforces the overall timeout by dropping the future. It also passes the timeout, so that every address is
//! tried within it.

#![warn(missing_docs)]

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

/// Maximum time before the next address is tried in parallel.
const STAGGER: Duration = Duration::from_millis(250);

/// Maximum number of concurrent name lookups in the process. A lookup without reachable servers may take minutes, and
/// the threads that wait for it are also needed for files.
const MAX_RESOLVING: usize = 16;

static RESOLVING: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(MAX_RESOLVING)));

/// Resolves `host:port` to at least one address; the address families alternate. Dropping the future loses nothing.
pub async fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = address.parse() {
        return Ok(vec![address]);
    }
    let permit = RESOLVING.clone().acquire_owned().await.map_err(io::Error::other)?;
    let text = address.to_owned();
    let resolving = tokio::task::spawn_blocking(move || {
        // Held until the thread is free, which may be long after the caller has given up.
        let _permit = permit;
        text.to_socket_addrs().map(Iterator::collect::<Vec<_>>)
    });
    let found = in_turn(resolving.await.map_err(io::Error::other)??);
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
}

/// [`resolve`], then [`connect`]. Dropping the future cancels all attempts.
pub async fn dial(address: &str, limit: Duration) -> io::Result<TcpStream> {
    connect(&resolve(address).await?, None, limit).await
}

/// Connects to one of `addresses`, from the local address `source` if given. All attempts start within half of
/// `limit`. If all fail, returns the error of the first address. Dropping the future cancels all attempts.
pub async fn connect(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    limit: Duration,
) -> io::Result<TcpStream> {
    let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    connect_staggered(addresses, source, STAGGER.min(limit / 2 / count)).await
}

async fn connect_staggered(
    addresses: &[SocketAddr],
    source: Option<IpAddr>,
    stagger: Duration,
) -> io::Result<TcpStream> {
    let mut waiting: VecDeque<SocketAddr> = addresses.iter().copied().collect();
    let mut attempts = FuturesUnordered::new();
    let mut first_error: Option<(usize, io::Error)> = None;
    let mut next_start = Instant::now();
    loop {
        tokio::select! {
            biased;
            Some((position, attempt)) = attempts.next(), if !attempts.is_empty() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    if first_error.as_ref().is_none_or(|(first, _)| position < *first) {
                        first_error = Some((position, error));
                    }
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if !waiting.is_empty() => {
                let position = addresses.len() - waiting.len();
                if let Some(address) = waiting.pop_front() {
                    attempts.push(async move { (position, connect_one(address, source).await) });
                }
                next_start = Instant::now() + stagger;
            }
            else => break,
        }
    }
    Err(first_error.map_or_else(|| io::Error::other("the name has no address"), |(_, error)| error))
}

async fn connect_one(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(address).await
}

/// The first address stays first. From then on the families alternate, each in its own order.
fn in_turn(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first() else { return addresses };
    let is_first_family = |address: &SocketAddr| address.is_ipv4() == first.is_ipv4();
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(is_first_family);
    let mut all = Vec::with_capacity(addresses.len());
    while !one.is_empty() || !other.is_empty() {
        all.extend(one.pop_front());
        all.extend(other.pop_front());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const LIMIT: Duration = Duration::from_secs(30);

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// An address that neither accepts nor refuses connections, because the listener's queue is full.
    async fn silent() -> (SocketAddr, Vec<TcpStream>, TcpListener) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) =
            tokio::time::timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            queued.push(stream.unwrap());
        }
        (address, queued, listener)
    }

    async fn refusing() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[test]
    fn address_families_alternate() {
        let of = |texts: &[&str]| in_turn(addresses(texts));
        assert_eq!(
            of(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]),
            addresses(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"])
        );
        assert_eq!(of(&["1.1.1.1:1", "[::1]:1"]), addresses(&["1.1.1.1:1", "[::1]:1"]));
        assert_eq!(of(&[]), []);
    }

    #[tokio::test]
    async fn dead_first_address_does_not_hide_the_next() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let (silent, _queued, _listener) = silent().await;
        for dead in [silent, refusing().await] {
            let stream = connect(&[dead, alive], None, LIMIT).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), alive);
        }
    }

    #[tokio::test]
    async fn after_a_refusal_the_next_address_starts_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let refusing = refusing().await;
        let hour = Duration::from_secs(3600);
        let addresses = [refusing, refusing, refusing, alive];
        let connecting = connect_staggered(&addresses, None, hour);
        let stream = tokio::time::timeout(LIMIT, connecting).await.unwrap().unwrap();
        assert_eq!(stream.peer_addr().unwrap(), alive);
    }

    #[tokio::test]
    async fn every_address_is_tried_within_a_short_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let (silent, _queued, _listener) = silent().await;
        let mut addresses = vec![silent; 20];
        addresses.push(alive);
        let limit = Duration::from_secs(4);
        let stream = tokio::time::timeout(limit, connect(&addresses, None, limit)).await;
        assert_eq!(stream.unwrap().unwrap().peer_addr().unwrap(), alive);
    }

    #[tokio::test]
    async fn error_is_that_of_the_first_address() {
        let (refusing, unroutable) = (refusing().await, "255.255.255.255:1".parse().unwrap());
        let error = connect(&[refusing, unroutable], None, LIMIT).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let error = connect(&[unroutable, refusing], None, LIMIT).await.unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert!(connect(&[], None, LIMIT).await.is_err());
    }

    #[tokio::test]
    async fn names_are_resolved_and_invalid_addresses_are_rejected() {
        assert!(resolve("localhost:4150").await.unwrap().iter().all(|address| address.port() == 4150));
        assert_eq!(resolve("[::1]:1").await.unwrap(), addresses(&["[::1]:1"]));
        for wrong in ["", "127.0.0.1", "no such host:1", "localhost:70000"] {
            assert!(resolve(wrong).await.is_err(), "{wrong}");
        }
    }
}
