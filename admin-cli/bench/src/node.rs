//! The measured nsqd.

use nsq::handshake::Purpose;

use super::address::Address;
use super::connection::{Connection, Heartbeats};
use super::failure::Failure;
use super::plan::Plan;
use super::server::Server;
use super::targets::{DEFAULT_NSQD_TCP, Targets};

/// What is known about the measured nsqd.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// The version that nsqd reports; empty if it reports none.
    pub version: String,
    /// nsqd's process, if it runs on this machine and can be inspected.
    pub server: Option<Server>,
}

impl Node {
    /// Connects once, to check that nsqd is running.
    pub fn find(plan: &Plan) -> Result<Self, Failure> {
        let found = Connection::identified(&plan.tcp, Purpose::Publish, Heartbeats::Off, &plan.security);
        let (connection, info) = found.map_err(|failure| {
            failure.hint("check that nsqd is running there; `nsq dev` starts one, --nsqd-tcp selects another")
        })?;
        let server = match plan.pid {
            Some(pid) => {
                let missing =
                    || Failure::usage(format_args!("--pid {pid}: there is no such process in /proc"));
                Some(Server::with_pid(pid).ok_or_else(missing)?)
            }
            None => connection.server(),
        };
        Ok(Node { version: info.version, server })
    }

    /// Creates the topic and its channels, so that each channel gets all messages published from now on.
    pub fn create_channels(&self, plan: &Plan) -> Result<(), Failure> {
        for channel in &plan.channels {
            // A consumer that subscribes and disconnects. This needs no HTTP port, and works with every nsqd.
            let purpose = Purpose::Subscribe { topic: plan.topic.clone(), channel: channel.clone() };
            Connection::identified(&plan.tcp, purpose, Heartbeats::Default, &plan.security)?;
        }
        Ok(())
    }
}

/// The TCP address and the HTTP address of the measured nsqd.
pub fn addresses(targets: &Targets, http: Option<&str>) -> Result<(Address, Address), Failure> {
    let only_one = "`nsq bench` measures a single nsqd: specify it with --nsqd-tcp";
    if targets.nsqds.len() > 1 || targets.nsqd_tcps.len() > 1 {
        return Err(Failure::usage(only_one));
    }
    let http = http.or(targets.nsqds.first().map(String::as_str)).map(Address::resolve).transpose()?;
    let other = |flag: &str| {
        let message = format!("a unix socket does not show nsqd's other address: specify it with {flag}");
        Failure::usage(message)
    };
    let tcp = match (targets.nsqd_tcps.first(), &http) {
        (Some(tcp), _) => Address::resolve(tcp)?,
        (None, Some(http)) => http.neighbour(-1).ok_or_else(|| other("--nsqd-tcp"))?,
        (None, None) if targets.lookupds.is_empty() => Address::resolve(DEFAULT_NSQD_TCP)?,
        (None, None) => return Err(Failure::usage(only_one)),
    };
    match http {
        Some(http) => Ok((tcp, http)),
        None => {
            let http = tcp.neighbour(1).ok_or_else(|| other("--nsqd"))?;
            Ok((tcp, http))
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::plan::tests::plan;

    #[test]
    fn other_address_is_derived_from_the_given_one() {
        let both = |line: &str| plan(line).map(|plan| format!("{} {}", plan.tcp, plan.http)).unwrap();
        assert_eq!(both("pub --nsqd-tcp 127.0.0.1:5150"), "127.0.0.1:5150 127.0.0.1:5151");
        assert_eq!(both("pub --nsqd 127.0.0.1:5151"), "127.0.0.1:5150 127.0.0.1:5151");
        assert_eq!(both("pub --nsqd-http 127.0.0.1:5151"), "127.0.0.1:5150 127.0.0.1:5151");
        assert_eq!(both("--nsqd-tcp 127.0.0.1:1 pub --nsqd-http 127.0.0.1:9"), "127.0.0.1:1 127.0.0.1:9");
        assert_eq!(both("pub --nsqd-tcp /tcp --nsqd /http"), "/tcp /http");
        assert_eq!(both("pub --nsqd-tcp /tcp --nsqd 127.0.0.1:9"), "/tcp 127.0.0.1:9");
        assert!(plan("pub --nsqd-tcp /tcp").is_err());
        assert!(plan("pub --nsqd /http").is_err());
        assert!(plan("pub --lookupd 127.0.0.1").is_err());
        assert!(plan("pub --nsqd-tcp 127.0.0.1,127.0.0.2").is_err());
    }
}
