//! The limit of open files: the daemon raises it at the start, and clients cannot exhaust it.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::log::Logger;

/// Raises the soft limit of open files to the hard limit, as Go programs do, and logs both.
pub fn raise_limit(logger: &Logger) {
    match raise() {
        Ok(Limit { before, now }) => {
            let (before, now) = (Shown(before), Shown(now));
            crate::info!(logger, "open files: limit {now} (soft limit {before} at the start)");
        }
        Err((limit, error)) => {
            let (soft, hard) = (Shown(limit.current), Shown(limit.maximum));
            crate::warn!(
                logger,
                "open files: cannot raise the soft limit of {soft} to the hard limit of {hard}: {error}; raise it with \
                 ulimit -n or LimitNOFILE="
            );
        }
    }
}

/// The result of [`raise`]; `None` means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The soft limit that the process was started with.
    pub before: Option<u64>,
    /// The soft limit from now on; equal to the hard limit.
    pub now: Option<u64>,
}

/// Raises the soft limit of open files to the hard limit. The error holds the limits, which are unchanged.
pub fn raise() -> Result<Limit, (Rlimit, Errno)> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| (limit, error))?;
    }
    Ok(Limit { before: limit.current, now: limit.maximum })
}

struct Shown(Option<u64>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(limit) => limit.fmt(f),
            None => f.write_str("unlimited"),
        }
    }
}

/// The peers of a listener. They decide how many descriptors the listener leaves free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Clients and nodes, whose number is unlimited. The listener leaves descriptors for files on disk and for
    /// operators.
    Clients,
    /// HTTP, which operators need to find out what is wrong. The listener leaves descriptors for files on disk.
    Operators,
}

impl Role {
    /// Number of descriptors below `limit` that the listener leaves free.
    fn reserve(self, limit: u64) -> u64 {
        let reserve = (limit / 8).min(64);
        match self {
            Self::Clients => reserve,
            Self::Operators => reserve / 2,
        }
    }
}

/// Whether a connection may be accepted now. Costs two system calls. The kernel returns the lowest free descriptor; if
/// that is not below the limit minus the reserve, too many are in use.
pub fn has_room(role: Role, any_open: impl AsFd) -> bool {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return true };
    match rustix::io::fcntl_dupfd_cloexec(any_open, 0) {
        Ok(lowest) => u64::try_from(lowest.as_raw_fd()).unwrap_or(0) < limit - role.reserve(limit),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_get_in_when_clients_do_not() {
        for (limit, clients, operators) in [(0, 0, 0), (30, 3, 1), (256, 32, 16), (1 << 20, 64, 32)] {
            assert_eq!((Role::Clients.reserve(limit), Role::Operators.reserve(limit)), (clients, operators));
        }
    }

    #[test]
    fn process_with_few_open_files_has_room() {
        assert!(has_room(Role::Clients, std::io::stderr()));
    }

    #[test]
    fn raise_sets_the_soft_limit_to_the_hard_limit() {
        let hard = getrlimit(Resource::Nofile).maximum;
        assert_eq!(raise().unwrap().now, hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
        assert_eq!(raise().unwrap(), Limit { before: hard, now: hard });
    }
}
