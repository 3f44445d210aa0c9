//! Pushes statistics to statsd over UDP, as NSQ does. Counters are the difference since the last push; gauges are the
//! current values. The packets of a push are spread over the interval, so that they do not flood the receiver.
//!
//! - [`lines`]: pure; statistics to lines, and lines to packets
//!
//! A failure here does not affect the daemon: an unsent packet is lost, and the next push tries again.

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
use crate::config::Config;
use crate::producers::Producers;
use crate::stats::{self, StatsRequest};
use crate::topic::registry::Registry;

/// All packets of a push are sent this long before the next push begins.
const QUIET: Duration = Duration::from_secs(1);

/// Limit for resolving a name; the next push tries again.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a packet waits for room in the socket before it is lost.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// The parameters of [`run`].
pub struct StatsdOptions {
    pub config: Arc<Config>,
    /// Comes before every key; the result of [`expand_prefix`].
    pub prefix: String,
    pub registry: Arc<Registry>,
    /// TCP connections that have published.
    pub producers: Arc<Producers>,
    pub logger: Logger,
}

/// Pushes until `stop` is cancelled; then sends the rest of the current push at once. The baseline of the counters is
/// taken at the call: counters outlive a restart, so earlier counts have already been pushed.
pub fn run(options: StatsdOptions, stop: CancellationToken) -> impl Future<Output = ()> + Send {
    let StatsdOptions { config, prefix, registry, producers, logger } = options;
    let request = StatsRequest {
        include_clients: false,
        include_memory: config.statsd_mem_stats,
        ..StatsRequest::default()
    };
    let pusher =
        Mutex::new(Pusher::new(prefix, config.statsd_udp_packet_size, config.statsd_exclude_ephemeral));
    let collect = move || pusher.lock().packets(&stats::collect(&registry, &producers, 0, request));
    collect();
    let collect = Arc::new(collect);
    async move {
        let interval = config.statsd_interval;
        let spread = if interval > 2 * QUIET { interval - QUIET } else { interval / 2 };
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut preferred = 0;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            nsq_daemon::info!(logger, "STATSD: pushing stats to {}", config.statsd_address);
            let collect = Arc::clone(&collect);
            // Collecting many topics takes long. The panic hook logs a panic.
            let Ok(packets) = tokio::task::spawn_blocking(move || collect()).await else { continue };
            if let Err(error) = push(&config.statsd_address, &mut preferred, &packets, spread, &stop).await {
                nsq_daemon::error!(
                    logger,
                    "STATSD: failed to push stats to {} - {error}",
                    config.statsd_address
                );
            }
        }
    }
}

/// Sends the packets one by one; returns the error of the last one that failed. If the name has several addresses, uses
/// the `preferred` one, and moves to the next one if nothing listens there.
async fn push(
    address: &str,
    preferred: &mut usize,
    packets: &[Vec<u8>],
    spread: Duration,
    stop: &CancellationToken,
) -> io::Result<()> {
    // Resolved for each push: the receiver's address may have changed.
    let resolving = tokio::time::timeout(RESOLVE_TIMEOUT, nsq_dial::resolve(address));
    let targets = resolving.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut socket = connect(&targets, *preferred).await;
    let pause = spread / u32::try_from(packets.len()).unwrap_or(u32::MAX).max(1);
    let mut result = Ok(());
    for packet in packets {
        if let Err(error) = send(&socket, packet).await {
            let mut outcome = Err(error);
            if targets.len() > 1 {
                *preferred = preferred.wrapping_add(1);
                socket = connect(&targets, *preferred).await;
                // Sends only the failed packet again; the error may belong to the packet before it.
                outcome = send(&socket, packet).await;
            }
            if outcome.is_err() {
                result = outcome;
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

/// Replaces `%s` by the host key, and adds a dot at the end.
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
    fn prefix_contains_the_host_key_and_ends_with_a_dot() {
        assert_eq!(expand_prefix("nsq.%s", "my.host-1", 26151), "nsq.my_host-1_26151.");
        assert_eq!(expand_prefix("x.", "h", 1), "x.");
        assert_eq!(expand_prefix("%s", "::1", 1), "[__1]_1.");
        assert_eq!(expand_prefix("", "h", 1), "");
    }

    #[tokio::test]
    async fn failed_push_returns_an_error() {
        let stop = CancellationToken::new();
        stop.cancel();
        let packets = [b"a:1|c\n".to_vec()];
        assert!(push("no such host:1", &mut 0, &packets, Duration::ZERO, &stop).await.is_err());
        assert!(push("127.0.0.1", &mut 0, &packets, Duration::ZERO, &stop).await.is_err());
    }

    #[tokio::test]
    async fn stop_sends_the_remaining_packets_at_once() {
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
