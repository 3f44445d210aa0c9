//! The nsqd that is measured.

use super::connection::{Connection, Heartbeats};
use super::plan::Plan;
use super::server::Server;
use crate::exit_status::Failure;

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
        let (connection, identity) =
            Connection::identified(plan.tcp, Heartbeats::Off).map_err(|failure| {
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
            Connection::identified(plan.tcp, Heartbeats::Default)?.0.subscribe(&plan.topic, channel)?;
        }
        Ok(())
    }
}
