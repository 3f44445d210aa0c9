//! Telling the service manager how the daemon is doing, as systemd's `sd_notify` protocol has it: a datagram with
//! `KEY=value` lines to the socket that `NOTIFY_SOCKET` names. Without one, nobody is told anything.
//!
//! Telling never fails and never waits: a service manager that does not listen is no reason not to serve.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The shortest time between two signs of life.
const MIN_WATCHDOG_INTERVAL: Duration = Duration::from_millis(10);

/// A way to the service manager, or to nobody.
#[derive(Debug)]
pub struct Notifier {
    socket: Option<UnixDatagram>,
    /// How often it wants a sign of life, if it does.
    watchdog: Option<Duration>,
}

impl Notifier {
    /// As the environment says. What it says wrong is an error: whoever set it waits for us in vain.
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

    /// The daemon serves.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}\nMAINPID={}\n", one_line(status), std::process::id()));
    }

    /// The daemon reads its configuration again; [`Notifier::ready`] says when it has.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}\n"));
    }

    /// The daemon has been told to stop, and does.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping\n");
    }

    /// From now on gives signs of life as often as they are wanted, until what is returned is dropped. They come from a
    /// task, so they stop when the runtime is stuck.
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
                notifier.tell("WATCHDOG=1\n");
            }
        }));
        Some(guard)
    }

    fn tell(&self, message: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(message.as_bytes());
        }
    }
}

/// The service manager cannot be reached.
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

/// Half of the time after which the service manager gives us up. `pid` names the process that is meant, if not every.
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

    fn told(socket: &UnixDatagram) -> String {
        let mut buf = [0; 500];
        let length = socket.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..length]).into_owned()
    }

    #[test]
    fn what_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier { socket: Some(connect(path.as_os_str()).unwrap()), watchdog: None };
        notifier.ready("two\nlines");
        assert_eq!(told(&manager), format!("READY=1\nSTATUS=two lines\nMAINPID={}\n", std::process::id()));
        notifier.reloading();
        let reloading = told(&manager);
        let (_, microseconds) = reloading.trim_end().split_once("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(microseconds.parse::<u64>().unwrap() > 0);
        notifier.stopping();
        assert_eq!(told(&manager), "STOPPING=1\nSTATUS=stopping\n");
        drop(manager);
        notifier.stopping();
    }

    #[test]
    fn abstract_names_begin_with_an_at_sign() {
        let name = format!("nsq-notify-{}", std::process::id());
        let manager = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = connect(OsStr::new(&format!("@{name}"))).unwrap();
        Notifier { socket: Some(socket), watchdog: None }.stopping();
        assert!(told(&manager).starts_with("STOPPING=1"));
        assert!(connect(OsStr::new("relative")).is_err() && connect(OsStr::new("/nowhere/at/all")).is_err());
    }

    #[test]
    fn signs_of_life_are_wanted_by_one_process_twice_as_often_as_it_is_given_time() {
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
    async fn signs_of_life_end_with_their_guard() {
        let (manager, ours) = UnixDatagram::pair().unwrap();
        let notifier = Notifier { socket: Some(ours), watchdog: Some(MIN_WATCHDOG_INTERVAL) };
        let guard = notifier.keep_alive();
        let manager = tokio::task::spawn_blocking(move || {
            assert_eq!(told(&manager), "WATCHDOG=1\n");
            assert_eq!(told(&manager), "WATCHDOG=1\n");
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
