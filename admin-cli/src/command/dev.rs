//! `nsq dev`: nsqlookupds, nsqds and the dashboard in one process, for development and experiments.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use futures_util::future::{FutureExt, join_all, select_all};
use nsq::admin::LookupdClient;
use nsq_daemon::listen::Address;
use nsq_daemon::log::{self, Level, Logger};
use nsq_daemon::shutdown::StopSignals;
use nsq_dashboard::Dashboard;
use nsq_dashboard::settings::Settings;
use nsqd::nsqd::Nsqd;
use nsqlookupd::Lookupd;
use nsqlookupd::config::TcpAddress;

use super::dev_banner::{Banner, LookupdAddresses, NsqdAddresses};
use super::dev_demo::Demo;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
use crate::targets::{TargetFlags, host_port};

/// Maximum time to wait until nsqd has registered at the nsqlookupd.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);
const REGISTRATION_POLL_INTERVAL: Duration = Duration::from_millis(5);

pub const EXAMPLES: &str = "\
Examples:
  nsq dev                           # one nsqlookupd, one nsqd and the dashboard, on the standard ports
  nsq dev --nsqd 3 --lookupd 2      # more of them, on free ports
  nsq dev demo                      # with producers and consumers, some of which misbehave
  eval $(nsq dev env)               # the addresses, for other programs";

/// What to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The daemons and the dashboard.
    Up,
    /// The daemons, with producers and consumers, some of which misbehave.
    Demo,
    /// Nothing: print export lines for a shell.
    Env,
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DevFlags {
    /// What to run. --nsqd N and --lookupd N say how many daemons.
    #[arg(value_enum, default_value_t = Mode::Up, hide_default_value = true)]
    mode: Mode,
    /// Directory for messages, which are kept between runs.
    #[arg(long, value_name = "DIR", default_value = "nsq-dev-data")]
    data_path: PathBuf,
    /// Address to listen on.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    listen: IpAddr,
    /// Address that the daemons announce to clients. [default: the address to listen on]
    #[arg(long, value_name = "HOST")]
    broadcast_address: Option<String>,
    /// nsqd's TCP port for clients; 0 for any free port.
    #[arg(long, value_name = "PORT", default_value_t = 4150)]
    nsqd_tcp_port: u16,
    /// nsqd's HTTP port.
    #[arg(long, value_name = "PORT", default_value_t = 4151)]
    nsqd_http_port: u16,
    /// nsqlookupd's TCP port for nsqds.
    #[arg(long, value_name = "PORT", default_value_t = 4160)]
    lookupd_tcp_port: u16,
    /// nsqlookupd's HTTP port.
    #[arg(long, value_name = "PORT", default_value_t = 4161)]
    lookupd_http_port: u16,
    /// The dashboard's port.
    #[arg(long, value_name = "PORT", default_value_t = 4171)]
    admin_port: u16,
    /// Do not start the dashboard.
    #[arg(long)]
    no_admin: bool,
    /// Use any free ports; stdout shows them.
    #[arg(long)]
    ephemeral_ports: bool,
    /// Write a line to this open file descriptor, a pipe or a file, when all daemons answer.
    #[arg(long, value_name = "N")]
    ready_fd: Option<u32>,
    /// Minimum level of log lines on stderr: debug, info, warn, error or fatal.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: Level,
    /// More flags for nsqd, after `--`: `nsq dev -- --mem-queue-size=100`.
    #[arg(last = true, value_name = "NSQD FLAGS")]
    nsqd_flags: Vec<OsString>,
}

/// Runs until SIGINT or SIGTERM. Creates its own runtime, because the loggers must exist before any thread starts.
pub fn run(flags: DevFlags, targets: &TargetFlags, output: Output) -> Result<ExitCode, Failure> {
    let [lookupds, nsqds] = targets.counts()?;
    if flags.mode == Mode::Env {
        let host = flags.broadcast_address();
        let line = |name: &str, port: u16| format!("export {name}={}\n", host_port(&host, port));
        output.data(
            line("NSQ_LOOKUPD", flags.lookupd_http_port) + &line("NSQ_NSQD_TCP", flags.nsqd_tcp_port),
        )?;
        return Ok(ExitCode::SUCCESS);
    }
    let ready = flags.ready_fd.map(ready_file).transpose()?;
    let _flush = log::FlushOnDrop;
    let logger = |program: &str, number: usize, count: usize| match count {
        1 => Logger::new(format!("[{program}] "), flags.log_level),
        _ => Logger::new(format!("[{program}-{number}] "), flags.log_level),
    };
    let lookupd_loggers: Vec<Logger> =
        (1..=lookupds).map(|number| logger("nsqlookupd", number, lookupds)).collect();
    let nsqd_loggers: Vec<Logger> = (1..=nsqds).map(|number| logger("nsqd", number, nsqds)).collect();
    log::report_panics(&nsqd_loggers[0]);
    let admin_logger = Logger::new("[nsqadmin] ", flags.log_level);
    let nsqd_args = std::iter::once(OsString::from("nsqd")).chain(flags.nsqd_flags.iter().cloned());
    let nsqd_config = match nsqd::config::Config::read(nsqd_args) {
        Ok((config, warnings)) => {
            for warning in warnings {
                nsq_daemon::warn!(nsqd_loggers[0], "{warning}");
            }
            config
        }
        Err(exit) => return Ok(exit.report("nsqd")),
    };
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let mut dev = Dev::start(&flags, &nsqd_config, lookupd_loggers, nsqd_loggers, admin_logger).await?;
        if let Some(mut file) = ready {
            file.write_all(b"ready\n").map_err(|error| {
                Failure::failed(format_args!("cannot write to the descriptor of --ready-fd: {error}"))
            })?;
        }
        // stdout may be blocked or unread; signals must be handled nevertheless.
        let banner = dev.banner(&flags).text(output.is_json());
        let printing = tokio::task::spawn_blocking(move || output.data(banner));
        let demo = match flags.mode {
            Mode::Demo => Some(Demo::start(&dev.nsqd_tcp_addresses(), &dev.nsqd_http_addresses()).await?),
            Mode::Up | Mode::Env => None,
        };
        let failed = tokio::select! {
            () = signals.wait() => None,
            failure = dev.broken() => Some(failure),
        };
        output.note("stopping");
        let stop = async {
            if let Some(demo) = demo {
                demo.stop().await;
            }
            dev.stop().await
        };
        tokio::select! {
            stopped = stop => stopped?,
            // Exiting without waiting loses nothing that was acknowledged.
            () = signals.wait() => return Ok(ExitStatus::Interrupted.into()),
        }
        match failed {
            Some(failure) => Err(failure),
            None if printing.is_finished() => {
                printing.await.map_err(Failure::failed)?.map(|()| ExitCode::SUCCESS)
            }
            None => Ok(ExitCode::SUCCESS),
        }
    });
    // The task that prints may be blocked on stdout.
    runtime.shutdown_background();
    outcome
}

/// The open file of `--ready-fd`.
fn ready_file(number: u32) -> Result<File, Failure> {
    OpenOptions::new().write(true).open(format!("/dev/fd/{number}")).map_err(|error| {
        Failure::usage(format_args!("invalid --ready-fd {number}: {error}"))
            .hint("give the number of a descriptor that is open for writing, such as 3 with 3>FILE")
    })
}

/// An nsqd with its data directory.
struct Node {
    nsqd: Nsqd,
    data_path: PathBuf,
}

/// All daemons, running.
#[derive(Default)]
struct Dev {
    lookupds: Vec<Lookupd>,
    nodes: Vec<Node>,
    admin: Option<Dashboard>,
}

impl Dev {
    /// Starts them one after the other: the first of each kind on the standard ports, the others on free ones.
    async fn start(
        flags: &DevFlags,
        nsqd_config: &nsqd::config::Config,
        lookupd_loggers: Vec<Logger>,
        nsqd_loggers: Vec<Logger>,
        admin_logger: Logger,
    ) -> Result<Self, Failure> {
        let mut dev = Dev::default();
        let started = dev.start_all(flags, nsqd_config, lookupd_loggers, nsqd_loggers).await;
        if let Err(failure) = started {
            // The first failure counts.
            let _ = dev.stop().await;
            return Err(failure);
        }
        dev.wait_until_registered().await;
        if !flags.no_admin {
            match dashboard(flags, &dev.lookupds, admin_logger).await {
                Ok(dashboard) => dev.admin = Some(dashboard),
                Err(error) => {
                    dev.stop().await?;
                    return Err(not_started("nsqadmin", &error));
                }
            }
        }
        Ok(dev)
    }

    async fn start_all(
        &mut self,
        flags: &DevFlags,
        nsqd_config: &nsqd::config::Config,
        lookupd_loggers: Vec<Logger>,
        nsqd_loggers: Vec<Logger>,
    ) -> Result<(), Failure> {
        for (index, logger) in lookupd_loggers.into_iter().enumerate() {
            let lookupd = Lookupd::start(lookupd_config(flags, index), logger).await;
            self.lookupds.push(lookupd.map_err(|error| not_started("nsqlookupd", &error))?);
        }
        let lookupds: Vec<SocketAddr> = self.lookupds.iter().map(Lookupd::tcp_addr).collect();
        for (index, logger) in nsqd_loggers.into_iter().enumerate() {
            // The first keeps the directory of `nsq dev` with one nsqd.
            let path = match index {
                0 => flags.data_path.clone(),
                index => flags.data_path.join(format!("nsqd-{}", index + 1)),
            };
            let data_path = make_directory(&path)?;
            let config = configure_nsqd(nsqd_config.clone(), flags, &data_path, &lookupds, index);
            let nsqd = Nsqd::start(config, logger).await.map_err(|error| not_started("nsqd", &error))?;
            self.nodes.push(Node { nsqd, data_path });
        }
        Ok(())
    }

    /// Waits until every nsqd is registered everywhere, so that the first command after the banner finds it.
    async fn wait_until_registered(&self) {
        let deadline = Instant::now() + REGISTRATION_TIMEOUT;
        for lookupd in &self.lookupds {
            let Ok(client) = LookupdClient::new(reachable(lookupd.http_addr()).to_string()) else { return };
            while Instant::now() < deadline {
                if client.nodes().await.is_ok_and(|nodes| nodes.producers.len() >= self.nodes.len()) {
                    break;
                }
                tokio::time::sleep(REGISTRATION_POLL_INTERVAL).await;
            }
        }
    }

    fn nsqd_tcp_addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.nsqd.tcp_address()).map(reachable).collect()
    }

    fn nsqd_http_addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().filter_map(|node| node.nsqd.http_address()).map(reachable).collect()
    }

    fn banner(&self, flags: &DevFlags) -> Banner {
        let unknown = SocketAddr::new(flags.listen, 0);
        let lookupd = |lookupd: &Lookupd| LookupdAddresses {
            tcp: reachable(lookupd.tcp_addr()),
            http: reachable(lookupd.http_addr()),
        };
        let nsqd = |node: &Node| NsqdAddresses {
            tcp: reachable(node.nsqd.tcp_address().unwrap_or(unknown)),
            http: reachable(node.nsqd.http_address().unwrap_or(unknown)),
            data_path: node.data_path.clone(),
        };
        Banner {
            program: std::env::args().next().unwrap_or_else(|| "nsq".to_owned()),
            lookupds: self.lookupds.iter().map(lookupd).collect(),
            nsqds: self.nodes.iter().map(nsqd).collect(),
            is_demo: flags.mode == Mode::Demo,
            admin: self.admin.as_ref().and_then(Dashboard::address).map(reachable),
        }
    }

    /// Waits until a daemon fails, which normally never happens.
    async fn broken(&mut self) -> Failure {
        let admin = async {
            match &mut self.admin {
                Some(admin) => Failure::failed(format_args!("nsqadmin: {}", admin.broken().await)),
                None => std::future::pending().await,
            }
        };
        let lookupds = self.lookupds.iter().map(|lookupd| {
            async move { Failure::failed(format_args!("nsqlookupd: {}", lookupd.broken().await)) }.boxed()
        });
        let nodes = self.nodes.iter().map(|node| {
            async move {
                node.nsqd.failed().await;
                Failure::failed("nsqd: a listener failed")
            }
            .boxed()
        });
        select_all(lookupds.chain(nodes).chain([admin.boxed()])).await.0
    }

    async fn stop(self) -> Result<(), Failure> {
        if let Some(admin) = self.admin {
            admin.shutdown().await;
        }
        let mut stopped = Ok(());
        for result in join_all(self.nodes.into_iter().map(|node| node.nsqd.shutdown())).await {
            let result =
                result.map_err(|error| Failure::failed(format_args!("nsqd did not stop cleanly: {error}")));
            stopped = stopped.and(result);
        }
        join_all(self.lookupds.into_iter().map(Lookupd::shutdown)).await;
        stopped
    }
}

fn lookupd_config(flags: &DevFlags, index: usize) -> nsqlookupd::Config {
    let address = |port: u16| {
        let address = SocketAddr::new(flags.listen, flags.port(port, index)).to_string();
        // An address that was just formatted parses again.
        address.parse().unwrap_or_else(|_| TcpAddress::everywhere(port))
    };
    nsqlookupd::Config {
        tcp_address: address(flags.lookupd_tcp_port),
        http_address: address(flags.lookupd_http_port),
        broadcast_address: flags.broadcast_address(),
        ..nsqlookupd::Config::default()
    }
}

fn configure_nsqd(
    mut config: nsqd::config::Config,
    flags: &DevFlags,
    data_path: &Path,
    lookupds: &[SocketAddr],
    index: usize,
) -> nsqd::config::Config {
    let address = |port: u16| Address::Tcp { host: flags.listen.to_string(), port: flags.port(port, index) };
    config.tcp_address = address(flags.nsqd_tcp_port);
    config.http_address = Some(address(flags.nsqd_http_port));
    config.broadcast_address = flags.broadcast_address();
    config.lookupd_tcp_address = lookupds.iter().map(|lookupd| reachable(*lookupd).to_string()).collect();
    config.data_path = data_path.to_owned();
    config
}

async fn dashboard(flags: &DevFlags, lookupds: &[Lookupd], logger: Logger) -> Result<Dashboard, String> {
    let lookupd = |lookupd: &Lookupd| format!("--lookupd-http-address={}", reachable(lookupd.http_addr()));
    let line = std::iter::once("nsqadmin".to_owned()).chain(lookupds.iter().map(lookupd));
    let parsed = nsq_dashboard::flags::parse(line.map(OsString::from));
    let flags_of_dashboard = parsed.map_err(|exit| format!("{exit:?}"))?.flags;
    let address = Address::Tcp { host: flags.listen.to_string(), port: flags.port(flags.admin_port, 0) };
    Dashboard::start(Settings::resolve(&flags_of_dashboard)?.listening_on(address), logger).await
}

impl DevFlags {
    /// The port of the daemon with this index; 0 for any free one.
    fn port(&self, port: u16, index: usize) -> u16 {
        if self.ephemeral_ports || index > 0 { 0 } else { port }
    }

    fn broadcast_address(&self) -> String {
        match &self.broadcast_address {
            Some(address) => address.clone(),
            // The unspecified address is not an address to connect to.
            None if self.listen.is_unspecified() => nsq_daemon::hostname(),
            None => self.listen.to_string(),
        }
    }
}

fn make_directory(path: &Path) -> Result<PathBuf, Failure> {
    let failed = |error: io::Error| {
        Failure::failed(format_args!("cannot create the data directory {}: {error}", path.display()))
            .hint("choose another directory with --data-path DIR")
    };
    std::fs::create_dir_all(path).map_err(failed)?;
    std::path::absolute(path).map_err(failed)
}

fn not_started(program: &str, error: &dyn std::fmt::Display) -> Failure {
    let text = error.to_string();
    let failure = Failure::failed(format_args!("{program} did not start: {text}"));
    if text.contains("in use by another instance") {
        failure.hint(
            "another `nsq dev` uses this directory: stop it, or choose another one with --data-path DIR",
        )
    } else if text.contains("address already in use") {
        failure.hint("stop the program that listens there, or use free ports with --ephemeral-ports")
    } else {
        failure
    }
}

/// The address at which this machine reaches a listener.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new([127, 0, 0, 1].into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}
