//! Where the cluster is: flags, else environment, else the default ports of this machine. Pure.

use std::time::Duration;

use clap::Args;
use nsq::is_socket_path;
use nsq_daemon::go_duration;
use nsq_protocol::redact::without_user_info;

use crate::security::Security;

/// Ports that an address without one means.
const LOOKUPD_HTTP_PORT: u16 = 4161;
const NSQD_HTTP_PORT: u16 = 4151;
const NSQD_TCP_PORT: u16 = 4150;

/// The default addresses.
pub const DEFAULT_LOOKUPD: &str = "127.0.0.1:4161";
/// If no nsqlookupd is there.
pub const DEFAULT_NSQD: &str = "127.0.0.1:4151";
/// If nsqd's HTTP is not there either, for publishing and consuming.
pub const DEFAULT_NSQD_TCP: &str = "127.0.0.1:4150";

/// The ways to say where the cluster is, for those who have not found it.
pub const HOW_TO_SAY: &str = "say where the cluster is:\n\
    --lookupd HOST:4161  or NSQ_LOOKUPD, for all nodes that an nsqlookupd knows\n\
    --nsqd HOST:4151     or NSQ_NSQD, for single nodes\n\
    nsq dev              starts one on this machine";

/// As typed.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where the cluster is")]
pub struct TargetFlags {
    /// nsqlookupd's HTTP address; may be repeated. [env: NSQ_LOOKUPD] [default: 127.0.0.1:4161]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "lookupd-http-address")]
    lookupd: Vec<String>,
    /// nsqd's HTTP address, or the path of a unix socket; may be repeated. [env: NSQ_NSQD] [default: 127.0.0.1:4151, if no nsqlookupd answers]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-http-address")]
    nsqd: Vec<String>,
    /// nsqd's TCP address, or the path of a unix socket, to publish and consume; may be repeated. [env: NSQ_NSQD_TCP]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-tcp-address")]
    nsqd_tcp: Vec<String>,
    /// How long a daemon may take to answer.
    #[arg(long, global = true, value_name = "DURATION", env = "NSQ_TIMEOUT", default_value = "5s",
          value_parser = go_duration::parse)]
    timeout: Duration,
}

/// As meant: every address has a port.
#[derive(Debug, Clone)]
pub struct Targets {
    /// HTTP addresses of nsqlookupds.
    pub lookupds: Vec<String>,
    /// HTTP addresses of nsqds.
    pub nsqds: Vec<String>,
    /// TCP addresses of nsqds.
    pub nsqd_tcps: Vec<String>,
    /// How long a daemon may take to answer.
    pub timeout: Duration,
    /// How to talk to them.
    pub security: Security,
}

impl Targets {
    /// Flags win over the environment, all kinds at once: who names a node means only this one, whatever
    /// `NSQ_LOOKUPD` says.
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

    /// Whether nothing was said, so that the defaults are to be tried.
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
    // Nothing is done with a user and password, and errors would show them.
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
    fn a_flag_hides_the_whole_environment() {
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
