//! The nsqd that is measured.

use std::net::{SocketAddr, ToSocketAddrs};

use super::connection::{Connection, Heartbeats};
use super::plan::Plan;
use super::server::Server;
use crate::exit_status::{ExitStatus, Failure};
use crate::targets::{DEFAULT_NSQD_TCP, Targets};

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// As it says itself; empty if it does not.
    pub version: String,
    /// Its process, if it runs on this machine and may be looked at.
    pub server: Option<Server>,
}

impl Node {
    /// Connects once, to see that it is there.
    pub fn find(plan: &Plan) -> Result<Self, Failure> {
        let (connection, identity) = Connection::identified(plan.tcp, Heartbeats::Off, &plan.security)
            .map_err(|failure| {
                failure.hint("is nsqd running there? `nsq dev` starts one; --nsqd-tcp names another")
            })?;
        let server = match plan.pid {
            Some(pid) => {
                let missing =
                    || Failure::usage(format_args!("--pid {pid}: there is no such process in /proc"));
                Some(Server::with_pid(pid).ok_or_else(missing)?)
            }
            None if connection.is_local() => Server::listening_on(plan.tcp.port()),
            None => None,
        };
        Ok(Node { version: identity.version, server })
    }

    /// Makes the topic and its channels, so that each channel gets what is published from now on.
    pub fn create_channels(&self, plan: &Plan) -> Result<(), Failure> {
        for channel in &plan.channels {
            // A consumer that leaves again: needs no second port, and works with every nsqd.
            Connection::identified(plan.tcp, Heartbeats::Default, &plan.security)?
                .0
                .subscribe(&plan.topic, channel)?;
        }
        Ok(())
    }
}

/// The one nsqd that is measured: where it speaks NSQ's protocol, and where HTTP.
pub fn addresses(targets: &Targets, http: Option<&str>) -> Result<(SocketAddr, SocketAddr), Failure> {
    let only_one = "one nsqd is measured: name it with --nsqd-tcp";
    if targets.nsqds.len() > 1 || targets.nsqd_tcps.len() > 1 {
        return Err(Failure::usage(only_one));
    }
    let http = http.or(targets.nsqds.first().map(String::as_str)).map(resolve).transpose()?;
    let tcp = match (targets.nsqd_tcps.first(), http) {
        (Some(tcp), _) => resolve(tcp)?,
        (None, Some(http)) => SocketAddr::new(http.ip(), http.port().wrapping_sub(1)),
        (None, None) if targets.lookupds.is_empty() => resolve(DEFAULT_NSQD_TCP)?,
        (None, None) => return Err(Failure::usage(only_one)),
    };
    Ok((tcp, http.unwrap_or(SocketAddr::new(tcp.ip(), tcp.port().wrapping_add(1)))))
}

fn resolve(address: &str) -> Result<SocketAddr, Failure> {
    let unknown = |why: &dyn std::fmt::Display| {
        Failure::new(ExitStatus::Unreachable, format_args!("{address}: {why}"))
            .hint("an address is HOST:PORT; unix sockets are not measured")
    };
    let mut found = address.to_socket_addrs().map_err(|error| unknown(&error))?;
    found.next().ok_or_else(|| unknown(&"no such host"))
}

#[cfg(test)]
mod tests {
    use crate::command::bench::plan::tests::plan;

    #[test]
    fn one_address_gives_the_other() {
        let ports = |line: &str| plan(line).map(|plan| (plan.tcp.port(), plan.http.port()));
        assert_eq!(ports("pub --nsqd-tcp 127.0.0.1:5150"), Ok((5150, 5151)));
        assert_eq!(ports("pub --nsqd 127.0.0.1:5151"), Ok((5150, 5151)));
        assert_eq!(ports("pub --nsqd-http 127.0.0.1:5151"), Ok((5150, 5151)));
        assert_eq!(ports("--nsqd-tcp 127.0.0.1:1 pub --nsqd-http 127.0.0.1:9"), Ok((1, 9)));
        assert!(ports("pub --lookupd 127.0.0.1").is_err());
        assert!(ports("pub --nsqd-tcp 127.0.0.1,127.0.0.2").is_err());
    }
}
