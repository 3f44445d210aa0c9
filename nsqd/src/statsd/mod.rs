//! Pushes statistics to a statsd over UDP, as NSQ does: counters as the difference since the last push, gauges as they
//! are, a push's packets spread over the interval so that the receiver is not flooded.
//!
//! - [`lines`]: pure; what is told, and in which packets
//!
//! Nothing here can harm the daemon: what cannot be sent is lost, and the next push tries again.

pub mod lines;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::lines::Pusher;
use crate::config::StatsdConfig;
use crate::producers::Producers;
use crate::stats::{self, StatsRequest};
use crate::topic::registry::Registry;

/// A push's packets have gone out so long before the next push begins.
const QUIET: Duration = Duration::from_secs(1);

/// A name that is not resolved by then is tried again with the next push.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a packet waits for room in the socket; then it is lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// What [`run`] works with.
pub struct StatsdOptions {
    /// Where to, how often, what.
    pub config: StatsdConfig,
    /// In front of every key, as [`expand_prefix`] makes it.
    pub prefix: String,
    /// The topics.
    pub registry: Arc<Registry>,
    /// TCP connections that have published.
    pub producers: Arc<Producers>,
    /// Log lines.
    pub logger: Logger,
}

/// Pushes until told to stop; what has not gone out of a push then goes out at once. What is counted before the call
/// is not pushed: counters outlive a restart, and it has been pushed before.
pub fn run(options: StatsdOptions, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    let StatsdOptions { config, prefix, registry, producers, logger } = options;
    let wanted =
        StatsRequest { include_clients: false, include_memory: config.mem_stats, ..StatsRequest::default() };
    let packet_size = usize::try_from(config.udp_packet_size).unwrap_or(usize::MAX);
    let pusher = Mutex::new(Pusher::new(prefix, packet_size, config.exclude_ephemeral));
    let make = move || pusher.lock().packets(&stats::collect(&registry, &producers, 0, wanted));
    make();
    let make = Arc::new(make);
    async move {
        let spread = if config.interval > 2 * QUIET { config.interval - QUIET } else { config.interval / 2 };
        let mut ticks = tokio::time::interval(config.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut preferred = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            nsq_daemon::info!(logger, "STATSD: pushing stats to {}", config.address);
            let make = Arc::clone(&make);
            // With many topics it takes its time. If it panics, the panic hook tells.
            let Ok(packets) = tokio::task::spawn_blocking(move || make()).await else { continue };
            if let Err(error) = push(&config.address, &mut preferred, &packets, spread, &stop).await {
                nsq_daemon::error!(logger, "STATSD: failed to push stats to {} - {error}", config.address);
            }
        }
    }
}

/// Sends the packets one by one; the error is that of the last one that failed. Of a name that has several addresses,
/// the `preferred` one is used; where nobody listens, it is left for the next one.
async fn push(
    address: &str,
    preferred: &mut usize,
    packets: &[Vec<u8>],
    spread: Duration,
    stop: &CancellationToken,
) -> io::Result<()> {
    // Asked for each time: the receiver may have moved.
    let resolving = tokio::time::timeout(RESOLVE_TIMEOUT, nsq_dial::resolve(address));
    let targets = resolving.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut socket = connect(&targets, *preferred).await;
    let pause = spread / u32::try_from(packets.len()).unwrap_or(u32::MAX).max(1);
    let mut result = Ok(());
    for packet in packets {
        if let Err(error) = send(&socket, packet).await {
            result = Err(error);
            if targets.len() > 1 {
                *preferred = preferred.wrapping_add(1);
                socket = connect(&targets, *preferred).await;
                // The packet that failed; the one before may be what nobody has received.
                result = send(&socket, packet).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    result
}

async fn send(socket: &io::Result<UdpSocket>, packet: &[u8]) -> io::Result<()> {
    match socket {
        Ok(socket) => match tokio::time::timeout(SEND_TIMEOUT, socket.send(packet)).await {
            Ok(sent) => sent.map(drop),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        },
        Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
    }
}

async fn connect(targets: &[SocketAddr], preferred: usize) -> io::Result<UdpSocket> {
    let target = targets[preferred % targets.len()];
    let any: SocketAddr = match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// The prefix with `%s` replaced by the host key, and a dot at its end.
pub fn expand_prefix(prefix: &str, address: &str, port: i64) -> String {
    let host =
        if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
    let mut expanded = prefix.replace("%s", &host.replace(['.', ':'], "_"));
    if !expanded.is_empty() && !expanded.ends_with('.') {
        expanded.push('.');
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_expanded() {
        assert_eq!(expand_prefix("nsq.%s", "my.host-1", 26151), "nsq.my_host-1_26151.");
        assert_eq!(expand_prefix("x.", "h", 1), "x.");
        assert_eq!(expand_prefix("%s", "::1", 1), "[__1]_1.");
        assert_eq!(expand_prefix("", "h", 1), "");
    }

    #[tokio::test]
    async fn what_cannot_be_sent_is_an_error_and_nothing_more() {
        let stop = CancellationToken::new();
        stop.cancel();
        let packets = [b"a:1|c\n".to_vec()];
        assert!(push("no such host:1", &mut 0, &packets, Duration::ZERO, &stop).await.is_err());
        assert!(push("127.0.0.1", &mut 0, &packets, Duration::ZERO, &stop).await.is_err());
    }

    #[tokio::test]
    async fn when_told_to_stop_the_rest_goes_out_at_once() {
        let receiver = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = receiver.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        stop.cancel();
        let packets: Vec<Vec<u8>> = (0..20).map(|n| format!("{n}").into_bytes()).collect();
        push(&address, &mut 0, &packets, Duration::from_secs(3600), &stop).await.unwrap();
        let mut buf = [0; 10];
        for packet in &packets {
            let length = receiver.recv(&mut buf).await.unwrap();
            assert_eq!(&buf[..length], packet);
        }
    }
}
