//! Accepts connections as long as the daemon runs, and waits until temporary failures pass.
//!
//! When the process runs out of descriptors, existing connections continue. New connections wait in the kernel's queue
//! until descriptors are free, and the log reports it at intervals.

use std::io;
use std::time::Duration;

use rustix::io::Errno;
use tokio::time::Instant;

use crate::listen::{Listener, Remote, Stream};
use crate::log::Logger;
use crate::open_files::{Role, has_room};

/// How long the accept loop pauses when the process has run out of a resource such as descriptors.
const PAUSE: Duration = Duration::from_millis(20);

/// Minimum interval between log lines about waiting connections.
const LOG_INTERVAL: Duration = Duration::from_secs(30);

/// A listener that waits for free descriptors before it accepts.
#[derive(Debug)]
pub struct Acceptor {
    listener: Listener,
    role: Role,
    /// Name in log lines, such as `TCP`.
    name: &'static str,
    logger: Logger,
    logged_at: Option<Instant>,
}

impl Acceptor {
    /// Creates the acceptor; it accepts nothing until [`Acceptor::accept`] is called.
    pub fn new(listener: Listener, role: Role, name: &'static str, logger: Logger) -> Self {
        Self { listener, role, name, logger, logged_at: None }
    }

    /// Waits for the next connection. Dropping the future loses no connection.
    ///
    /// Retries failures of a single connection, and waits out temporary ones (too many open files). An error means that
    /// the listener itself is broken.
    pub async fn accept(&mut self) -> io::Result<(Stream, Remote)> {
        loop {
            if !has_room(self.role, &self.listener) {
                self.wait(&"too many open files").await;
                continue;
            }
            let error = match self.listener.accept().await {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            match failure(&error) {
                Failure::OfConnection => {}
                Failure::Passes => self.wait(&error).await,
                Failure::OfListener => return Err(error),
            }
        }
    }

    async fn wait(&mut self, why: &(dyn std::fmt::Display + Sync)) {
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            self.logged_at = Some(Instant::now());
            crate::warn!(
                self.logger,
                "{}: new connections on {} wait: {why}; close connections or raise the limit of open files (ulimit \
                 -n, LimitNOFILE=)",
                self.name,
                self.listener
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a failed accept affects.
#[derive(Debug, PartialEq, Eq)]
enum Failure {
    /// Only a connection that broke before it was accepted.
    OfConnection,
    /// The process or the machine, which ran out of a resource for now.
    Passes,
    /// The listener, permanently.
    OfListener,
}

fn failure(error: &io::Error) -> Failure {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        None | Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT) => {
            Failure::OfListener
        }
        Some(Errno::CONNABORTED | Errno::INTR | Errno::CONNRESET | Errno::PROTO) => Failure::OfConnection,
        Some(_) => Failure::Passes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_listener_is_permanent() {
        let of = |errno: Errno| failure(&io::Error::from_raw_os_error(errno.raw_os_error()));
        assert_eq!(of(Errno::MFILE), Failure::Passes);
        assert_eq!(of(Errno::NOBUFS), Failure::Passes);
        assert_eq!(of(Errno::NETDOWN), Failure::Passes);
        assert_eq!(of(Errno::CONNABORTED), Failure::OfConnection);
        assert_eq!(of(Errno::INVAL), Failure::OfListener);
        assert_eq!(failure(&io::Error::other("x")), Failure::OfListener);
    }
}
