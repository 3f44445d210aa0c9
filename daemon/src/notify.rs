//! Notifies the service manager of the daemon's state, following systemd's `sd_notify` protocol: a datagram of
//! `KEY=value` lines to the socket in `NOTIFY_SOCKET`. If the variable is not set, nothing is sent.
//!
//! Sending never fails and never waits: the daemon serves even if the service manager does not listen.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Minimum interval between watchdog messages.
const MIN_WATCHDOG_INTERVAL: Duration = Duration::from_millis(10);

/// Connection to the service manager, if there is one.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// Interval of watchdog messages, if the service manager expects them.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// Configured from the environment. An unusable `NOTIFY_SOCKET` is an error, since a service manager waits for us.
    pub fn from_env() -> Result<Self, NotifyError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let socket = match variable("NOTIFY_SOCKET") {
            None => None,
            Some(name) => {
                let failed = |source| NotifyError { name: name.to_string_lossy().into_owned(), source };
                Some(connect(&name).map_err(failed)?)
            }
        };
        let text = |name| variable(name).and_then(|value| value.into_string().ok());
        let watchdog = watchdog_interval(text("WATCHDOG_USEC"), text("WATCHDOG_PID"), std::process::id());
        Ok(Self { watchdog: watchdog.filter(|_| socket.is_some()), socket })
    }

    /// Reports that the daemon serves.
    pub fn ready(&self, status: &str) {
        self.send_message(&format!("READY=1\nSTATUS={}\nMAINPID={}\n", one_line(status), std::process::id()));
    }

    /// Reports that the daemon reloads its configuration. [`Notifier::ready`] reports the end of the reload.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.send_message(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    /// Reports that the daemon is stopping.
    pub fn stopping(&self) {
        self.send_message("STOPPING=1\nSTATUS=stopping\n");
    }

    /// Reports that the daemon is stopping, with what it is doing, and that this takes up to `another` from now. Call it
    /// again before that time is over.
    pub fn stopping_later(&self, status: &str, another: Duration) {
        let status = one_line(status);
        let microseconds = another.as_micros();
        self.send_message(&format!("STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={microseconds}\n"));
    }

    /// Sends watchdog messages at the requested interval until the returned guard is dropped. A task sends them, so
    /// they stop if the runtime is stuck. Returns `None` if the service manager expects none.
    pub fn keep_alive(&self) -> Option<DropGuard> {
        let socket = self.socket.as_ref()?.try_clone().ok()?;
        let notifier = Self { socket: Some(socket), watchdog: None };
        let mut ticks = interval(self.watchdog?);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                ticks.tick().await;
                notifier.send_message("WATCHDOG=1\n");
            }
        }));
        Some(guard)
    }

    fn send_message(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// The service manager is unreachable.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the service manager at NOTIFY_SOCKET={name}: {source}")]
pub struct NotifyError {
    name: String,
    source: io::Error,
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Half of the time after which the service manager gives up on us. `pid`, if set, limits the request to one process.
fn watchdog_interval(microseconds: Option<String>, pid: Option<String>, own_pid: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own_pid)) {
        return None;
    }
    let limit = Duration::from_micros(microseconds?.parse().ok().filter(|limit| *limit > 0)?);
    Some((limit / 2).max(MIN_WATCHDOG_INTERVAL))
}

fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buf = [0; 500];
        let length = socket.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..length]).into_owned()
    }

    #[test]
    fn state_changes_are_sent() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { socket: Some(connect(path.as_os_str()).unwrap()), watchdog: None };
        notifier.ready("two\nlines");
        assert_eq!(receive(&manager), format!("READY=1\nSTATUS=two lines\nMAINPID={}\n", std::process::id()));
        notifier.reloading();
        let reloading = receive(&manager);
        let (_, microseconds) = reloading.trim_end().split_once("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(microseconds.parse::<u64>().unwrap() > 0);
        notifier.stopping();
        assert_eq!(receive(&manager), "STOPPING=1\nSTATUS=stopping\n");
        notifier.stopping_later("draining: 2 messages left", Duration::from_secs(30));
        assert_eq!(
            receive(&manager),
            "STOPPING=1\nSTATUS=draining: 2 messages left\nEXTEND_TIMEOUT_USEC=30000000\n"
        );
        drop(manager);
        notifier.stopping();
    }

    #[test]
    fn abstract_socket_names_start_with_an_at_sign() {
        let name = format!("nsq-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        Notifier { socket: Some(socket), watchdog: None }.stopping();
        assert!(receive(&manager).starts_with("STOPPING=1"));
        assert!(connect(OsStr::new("relative")).is_err() && connect(OsStr::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn watchdog_interval_is_half_the_timeout_of_the_named_process() {
        let interval = |limit: &str, pid: Option<&str>| {
            watchdog_interval(Some(limit.to_owned()), pid.map(str::to_owned), 7)
        };
        assert_eq!(interval("2000000", Some("7")), Some(Duration::from_secs(1)));
        assert_eq!(interval("2000000", None), Some(Duration::from_secs(1)));
        assert_eq!(interval("2000000", Some("8")), None);
        assert_eq!(interval("1", None), Some(MIN_WATCHDOG_INTERVAL));
        for nothing in ["", "0", "-1", "x"] {
            assert_eq!(interval(nothing, None), None);
        }
        assert_eq!(watchdog_interval(None, None, 7), None);
    }

    #[tokio::test]
    async fn watchdog_messages_stop_when_the_guard_is_dropped() {
        let (manager, ours) = UnixDatagram::pair().unwrap();
        let notifier = Notifier { socket: Some(ours), watchdog: Some(MIN_WATCHDOG_INTERVAL) };
        let guard = notifier.keep_alive();
        let manager = tokio::task::spawn_blocking(move || {
            assert_eq!(receive(&manager), "WATCHDOG=1\n");
            assert_eq!(receive(&manager), "WATCHDOG=1\n");
            manager
        });
        let manager = manager.await.unwrap();
        drop(guard);
        manager.set_read_timeout(Some(MIN_WATCHDOG_INTERVAL * 20)).unwrap();
        let silence = tokio::task::spawn_blocking(move || while manager.recv(&mut [0; 20]).is_ok() {});
        tokio::time::timeout(Duration::from_secs(30), silence).await.unwrap().unwrap();
        assert!(Notifier { socket: None, watchdog: None }.keep_alive().is_none());
    }
}
