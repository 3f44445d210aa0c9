//! Where the cluster is: from flags, else from the environment, else from a profile, else the default ports of this
//! machine. Pure.

use std::time::Duration;

use clap::Args;
use clap_complete::ArgValueCandidates;
use nsq::is_socket_path;
pub use nsq_cluster::{ClusterConfig, DEFAULT_LOOKUPD, DEFAULT_NSQD, host_port};
use nsq_daemon::go_duration;
use nsq_protocol::redact::without_user_info;

use crate::command::completion;
use crate::exit_status::Failure;
use crate::profile::{Named, Profile};
use crate::security::Security;

/// Default ports for addresses that have none.
const LOOKUPD_HTTP_PORT: u16 = 4161;
const NSQD_HTTP_PORT: u16 = 4151;
const NSQD_TCP_PORT: u16 = 4150;

/// The default for publishing and consuming if nsqd's HTTP does not answer either.
pub const DEFAULT_NSQD_TCP: &str = "127.0.0.1:4150";

/// The default time to wait for a daemon's reply.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Hint for a user whose cluster was not found.
pub const HOW_TO_SAY: &str = "specify where the cluster is:\n\
    --lookupd HOST:4161  or NSQ_LOOKUPD: all nodes registered with an nsqlookupd\n\
    --nsqd HOST:4151     or NSQ_NSQD: single nodes\n\
    --profile NAME       or NSQ_PROFILE: a named cluster; nsq profile add NAME --lookupd HOST:4161\n\
    nsq dev              starts a cluster on this machine";

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Where the cluster is")]
pub struct TargetFlags {
    /// HTTP address of an nsqlookupd; may be repeated. [env: NSQ_LOOKUPD] [default: 127.0.0.1:4161]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "lookupd-http-address",
          add = ArgValueCandidates::new(completion::lookupds))]
    lookupd: Vec<String>,
    /// HTTP address of an nsqd, or path of its unix socket; may be repeated. [env: NSQ_NSQD] [default:
    /// 127.0.0.1:4151, if no nsqlookupd answers]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-http-address",
          add = ArgValueCandidates::new(completion::nodes))]
    nsqd: Vec<String>,
    /// TCP address of an nsqd, or path of its unix socket, to publish and consume; may be repeated. [env:
    /// NSQ_NSQD_TCP]
    #[arg(long, global = true, value_name = "ADDR", value_delimiter = ',', alias = "nsqd-tcp-address",
          add = ArgValueCandidates::new(completion::tcp_addresses))]
    nsqd_tcp: Vec<String>,
    /// Maximum time to wait for a daemon's reply; for `nsq wait`, for the condition. [env: NSQ_TIMEOUT] [default: 5s]
    #[arg(long, global = true, value_name = "DURATION", value_parser = go_duration::parse)]
    timeout: Option<Duration>,
}

impl TargetFlags {
    /// The numbers of nsqlookupds and nsqds that `nsq dev --lookupd N --nsqd N` starts.
    pub fn counts(&self) -> Result<[usize; 2], Failure> {
        let count = |flag: &str, given: &[String], default: usize| match given {
            [] => Ok(default),
            [text] => {
                text.parse().ok().filter(|count| (default.min(1)..=16).contains(count)).ok_or_else(|| {
                    Failure::usage(format_args!(
                        "invalid --{flag} {text}: nsq dev takes a number of daemons, 1 to 16"
                    ))
                    .hint(format!("for example: nsq dev --{flag} 3"))
                })
            }
            _ => Err(Failure::usage(format_args!(
                "--{flag} is given twice: nsq dev takes a number of daemons"
            ))),
        };
        Ok([count("lookupd", &self.lookupd, 1)?, count("nsqd", &self.nsqd, 1)?])
    }

    /// A profile with these addresses.
    pub fn for_profile(&self) -> Profile {
        let plain = |addresses: &[String]| -> Vec<String> {
            addresses.iter().map(|address| without_user_info(address.trim()).into_owned()).collect()
        };
        Profile {
            lookupd: plain(&self.lookupd),
            nsqd: plain(&self.nsqd),
            nsqd_tcp: plain(&self.nsqd_tcp),
            ..Profile::default()
        }
    }
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
    /// The value of `--timeout`.
    pub given_timeout: Option<Duration>,
    /// TLS, compression and secret for the connections.
    pub security: Security,
}

impl Targets {
    /// Any flag replaces all environment variables and the profile: with `--nsqd`, only that node is used, even if
    /// `NSQ_LOOKUPD` is set. A profile that a flag or the environment names comes before the addresses of the environment.
    pub fn resolve(
        flags: TargetFlags,
        environment: impl Fn(&str) -> Option<String>,
        profile: Option<&Named>,
    ) -> Result<Self, Failure> {
        let TargetFlags { lookupd, nsqd, nsqd_tcp, timeout: given_timeout } = flags;
        let of_environment = environment("NSQ_TIMEOUT").filter(|text| !text.is_empty());
        let of_environment = of_environment.map(|text| {
            go_duration::parse(&text).map_err(|why| {
                Failure::usage(format_args!("invalid NSQ_TIMEOUT={text}: {why}"))
                    .hint("use a duration such as 5s")
            })
        });
        let timeout = given_timeout.or(of_environment.transpose()?).unwrap_or(DEFAULT_TIMEOUT);
        let of_environment = || {
            ["NSQ_LOOKUPD", "NSQ_NSQD", "NSQ_NSQD_TCP"]
                .map(|name| environment(name).map(|list| split(&list)).unwrap_or_default())
        };
        let of_profile = |profile: &Named| {
            let Profile { lookupd, nsqd, nsqd_tcp, .. } = &profile.profile;
            [lookupd.clone(), nsqd.clone(), nsqd_tcp.clone()]
        };
        let explicit = profile.filter(|profile| profile.is_explicit).map(of_profile);
        let candidates =
            [Some([lookupd, nsqd, nsqd_tcp]), explicit, Some(of_environment()), profile.map(of_profile)];
        let kinds = candidates.into_iter().flatten().find(|kinds| kinds.iter().any(|kind| !kind.is_empty()));
        let kinds = kinds.unwrap_or_default();
        let [lookupds, nsqds, nsqd_tcps] = kinds;
        Ok(Targets {
            lookupds: with_ports(lookupds, LOOKUPD_HTTP_PORT),
            nsqds: with_ports(nsqds, NSQD_HTTP_PORT),
            nsqd_tcps: with_ports(nsqd_tcps, NSQD_TCP_PORT),
            timeout,
            given_timeout,
            security: Security::default(),
        })
    }

    /// Whether these are the addresses of the profile.
    pub fn are_of(&self, profile: &Profile) -> bool {
        let Profile { lookupd, nsqd, nsqd_tcp, .. } = profile;
        self.lookupds == with_ports(lookupd.clone(), LOOKUPD_HTTP_PORT)
            && self.nsqds == with_ports(nsqd.clone(), NSQD_HTTP_PORT)
            && self.nsqd_tcps == with_ports(nsqd_tcp.clone(), NSQD_TCP_PORT)
    }

    /// Whether no address was given, so that the defaults apply.
    pub fn are_default(&self) -> bool {
        self.lookupds.is_empty() && self.nsqds.is_empty() && self.nsqd_tcps.is_empty()
    }
}

impl From<&Targets> for ClusterConfig {
    fn from(targets: &Targets) -> Self {
        ClusterConfig {
            lookupds: targets.lookupds.clone(),
            nsqds: targets.nsqds.clone(),
            default_ports: targets.are_default(),
            timeout: targets.timeout,
            tls: targets.security.tls.clone(),
            token: targets.security.token.clone(),
        }
    }
}

/// The TCP address of an nsqd, with its port.
pub fn with_tcp_port(address: &str) -> String {
    with_port(&without_user_info(address.trim()), NSQD_TCP_PORT)
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
        let targets = Targets::resolve(TargetFlags::default(), environment, None).unwrap();
        assert_eq!(targets.lookupds, ["a:4161", "b:1"]);
        let flags = TargetFlags { nsqd: list(&["n"]), ..TargetFlags::default() };
        let targets = Targets::resolve(flags, environment, None).unwrap();
        assert_eq!((targets.lookupds.len(), &targets.nsqds[..]), (0, &list(&["n:4151"])[..]));
        assert!(!targets.are_default());
        assert!(Targets::resolve(TargetFlags::default(), |_| None, None).unwrap().are_default());
        let wrong = |name: &str| (name == "NSQ_TIMEOUT").then(|| "5".to_owned());
        assert!(Targets::resolve(TargetFlags::default(), wrong, None).is_err());
    }

    #[test]
    fn order_is_flag_named_profile_environment_current_profile() {
        let profile = |is_explicit| Named {
            name: "p".to_owned(),
            profile: Profile { nsqd: list(&["of-profile"]), ..Profile::default() },
            is_explicit,
        };
        let environment = |name: &str| (name == "NSQ_LOOKUPD").then(|| "of-environment".to_owned());
        let resolve = |flags: TargetFlags, has_environment: bool, profile: &Named| {
            Targets::resolve(flags, |name| environment(name).filter(|_| has_environment), Some(profile))
                .unwrap()
        };
        let flags = TargetFlags { nsqd_tcp: list(&["of-flag"]), ..TargetFlags::default() };
        let targets = resolve(flags, true, &profile(true));
        assert_eq!((targets.nsqd_tcps.len(), targets.nsqds.len(), targets.lookupds.len()), (1, 0, 0));
        assert_eq!(resolve(TargetFlags::default(), true, &profile(true)).nsqds, ["of-profile:4151"]);
        assert_eq!(resolve(TargetFlags::default(), true, &profile(false)).lookupds, ["of-environment:4161"]);
        let targets = resolve(TargetFlags::default(), false, &profile(false));
        assert!(targets.are_of(&profile(false).profile) && !targets.are_default());
    }
}
