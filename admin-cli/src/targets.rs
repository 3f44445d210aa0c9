//! Where the cluster is: from flags, else from the environment, else the default ports of this machine. Pure.

use std::time::Duration;

use clap::Args;
use nsq::is_socket_path;
use nsq_daemon::go_duration;
use nsq_protocol::redact::without_user_info;

use crate::security::Security;

/// Default ports for addresses that have none.
const LOOKUPD_HTTP_PORT: u16 = 4161;
const NSQD_HTTP_PORT: u16 = 4151;
const NSQD_TCP_PORT: u16 = 4150;

/// The default address, tried first.
pub const DEFAULT_LOOKUPD: &str = "127.0.0.1:4161";
/// The default if no nsqlookupd answers.
pub const DEFAULT_NSQD: &str = "127.0.0.1:4151";
/// The default for publishing and consuming if nsqd's HTTP does not answer either.
pub const DEFAULT_NSQD_TCP: &str = "127.0.0.1:4150";

/// Hint for a user whose cluster was not found.
pub const HOW_TO_SAY: &str = "specify where the cluster is:\n\
    --lookupd HOST:4161  or NSQ_LOOKUPD: all nodes registered with an nsqlookupd\n\
    --nsqd HOST:4151     or NSQ_NSQD: single nodes\n\
    nsq dev              starts a cluster on this machine";

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where the cluster is")]
pub struct TargetFlags {
    /// HTTP address of an nsqlookupd; may be repeated. [env: NSQ_LOOKUPD] [default: 127.0.0.1:4161]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "lookupd-http-address")]
    lookupd: Vec<String>,
    /// HTTP address of an nsqd, or path of its unix socket; may be repeated. [env: NSQ_NSQD] [default:
    /// 127.0.0.1:4151, if no nsqlookupd answers]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-http-address")]
    nsqd: Vec<String>,
    /// TCP address of an nsqd, or path of its unix socket, to publish and consume; may be repeated. [env:
    /// NSQ_NSQD_TCP]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-tcp-address")]
    nsqd_tcp: Vec<String>,
    /// Maximum time to wait for a daemon's reply.
    #[arg(long, global = true, value_name = "DURATION", env = "NSQ_TIMEOUT", default_value = "5s",
          value_parser = go_duration::parse)]
    timeout: Duration,
}

/// The validated targets: every address has a port.
#[derive(Debug, Clone)]
pub struct Targets {
    /// HTTP addresses of nsqlookupds.
    pub lookupds: Vec<String>,
    /// HTTP addresses of nsqds.
    pub nsqds: Vec<String>,
    /// TCP addresses of nsqds.
    pub nsqd_tcps: Vec<String>,
    /// Maximum time to wait for a daemon's reply.
    pub timeout: Duration,
    /// TLS, compression and secret for the connections.
    pub security: Security,
}

impl Targets {
    /// Any flag replaces all environment variables: with `--nsqd`, only that node is used, even if `NSQ_LOOKUPD` is
    /// set.
    pub fn resolve(flags: TargetFlags, environment: impl Fn(&str) -> Option<String>) -> Self {
        let TargetFlags { lookupd, nsqd, nsqd_tcp, timeout } = flags;
        let mut kinds = [lookupd, nsqd, nsqd_tcp];
        if kinds.iter().all(Vec::is_empty) {
            kinds = ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP"]
                .map(|name| environment(name).map(|list| split(&list)).unwrap_or_default());
        }
        let [lookupds, nsqds, nsqd_tcps] = kinds;
        Targets {
            lookupds: with_ports(lookupds, LOOKUPD_HTTP_PORT),
            nsqds: with_ports(nsqds, NSQD_HTTP_PORT),
            nsqd_tcps: with_ports(nsqd_tcps, NSQD_TCP_PORT),
            timeout,
            security: Security::default(),
        }
    }

    /// Whether no address was given, so that the defaults apply.
    pub fn are_default(&self) -> bool {
        self.lookupds.is_empty() && self.nsqds.is_empty() && self.nsqd_tcps.is_empty()
    }
}

/// `host:port`, with brackets around an IPv6 address.
pub fn host_port(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

fn split(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|address| !address.is_empty()).map(str::to_owned).collect()
}

fn with_ports(addresses: Vec<String>, port: u16) -> Vec<String> {
    // User and password are not used, and errors would print them.
    addresses.iter().map(|address| with_port(&without_user_info(address.trim()), port)).collect()
}

fn with_port(address: &str, port: u16) -> String {
    if address.contains("://") || is_socket_path(address) {
        return address.to_owned();
    }
    match address.rsplit_once(':') {
        None => host_port(address, port),
        Some((host, _)) if host.contains(':') && !host.ends_with(']') => host_port(address, port),
        Some(_) if address.ends_with(']') => format!("{address}:{port}"),
        Some(_) => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|&address| address.to_owned()).collect()
    }

    #[test]
    fn addresses_get_their_port() {
        for (typed, meant) in [
            ("lookup-1", "lookup-1:4161"),
            ("lookup-1:80", "lookup-1:80"),
            ("http://lookup-1/nsq", "http://lookup-1/nsq"),
            ("::1", "[::1]:4161"),
            ("[::1]", "[::1]:4161"),
            ("[::1]:80", "[::1]:80"),
            ("lookup-1:80/nsq", "lookup-1:80/nsq"),
            ("/run/lookupd.sock", "/run/lookupd.sock"),
            ("./lookupd.sock", "./lookupd.sock"),
        ] {
            assert_eq!(with_port(typed, 4161), meant);
        }
        assert_eq!(host_port("::1", 1), "[::1]:1");
        let typed = list(&["http://user:password@lookup-1:80", " user:password@lookup-1 "]);
        assert_eq!(with_ports(typed, 4161), ["http://lookup-1:80", "lookup-1:4161"]);
    }

    #[test]
    fn any_flag_replaces_the_whole_environment() {
        let environment = |name: &str| (name == "NSQ_LOOKUPD").then(|| "a, b:1,".to_owned());
        let targets = Targets::resolve(TargetFlags::default(), environment);
        assert_eq!(targets.lookupds, ["a:4161", "b:1"]);
        let flags = TargetFlags { nsqd: list(&["n"]), ..TargetFlags::default() };
        let targets = Targets::resolve(flags, environment);
        assert_eq!((targets.lookupds.len(), &targets.nsqds[..]), (0, &list(&["n:4151"])[..]));
        assert!(!targets.are_default());
        assert!(Targets::resolve(TargetFlags::default(), |_| None).are_default());
    }
}
