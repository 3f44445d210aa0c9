//! `nsq dev`: an nsqlookupd and an nsqd in one process, for development and experiments.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use nsq::admin::LookupdClient;
use nsq_daemon::listen::Address;
use nsq_daemon::log::{self, Level, Logger};
use nsq_daemon::shutdown::StopSignals;
use nsqd::nsqd::Nsqd;
use nsqlookupd::Lookupd;
use nsqlookupd::config::TcpAddress;

use super::dev_banner::Banner;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Maximum time to wait until nsqd has registered at the nsqlookupd.
const REGISTRATION_TIMEOUT: Duration = Duration::from_secs(5);
const REGISTRATION_POLL_INTERVAL: Duration = Duration::from_millis(5);

#[derive(Debug, Args)]
pub struct DevFlags {
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
    /// Use any free ports; stdout shows them.
    #[arg(long)]
    ephemeral_ports: bool,
    /// Minimum level of log lines on stderr: debug, info, warn, error or fatal.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    log_level: Level,
    /// More flags for nsqd, after `--`: `nsq dev -- --mem-queue-size=100`.
    #[arg(last = true, value_name = "NSQD FLAGS")]
    nsqd_flags: Vec<OsString>,
}

/// Runs until SIGINT or SIGTERM. Creates its own runtime, because the loggers must exist before any thread starts.
pub fn run(flags: DevFlags, output: Output) -> Result<ExitCode, Failure> {
    let _flush = log::FlushOnDrop;
    let lookupd_logger = Logger::new("[nsqlookupd] ", flags.log_level);
    let nsqd_logger = Logger::new("[nsqd] ", flags.log_level);
    log::report_panics(&nsqd_logger);
    let nsqd_args = std::iter::once(OsString::from("nsqd")).chain(flags.nsqd_flags.iter().cloned());
    let nsqd_config = match nsqd::config::Config::read(nsqd_args) {
        Ok((config, warnings)) => {
            for warning in warnings {
                nsq_daemon::warn!(nsqd_logger, "{warning}");
            }
            config
        }
        Err(exit) => return Ok(exit.report("nsqd")),
    };
    let runtime = super::runtime()?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::catch().map_err(Failure::failed)?;
        let dev = Dev::start(&flags, nsqd_config, [lookupd_logger, nsqd_logger]).await?;
        // stdout may be blocked or unread; signals must be handled nevertheless.
        let banner = dev.banner(&flags).text(output.is_json());
        let printing = tokio::task::spawn_blocking(move || output.data(banner));
        let failed = tokio::select! {
            () = signals.wait() => None,
            failure = dev.broken() => Some(failure),
        };
        output.note("stopping");
        tokio::select! {
            stopped = dev.stop() => stopped?,
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

/// Both daemons, running.
struct Dev {
    lookupd: Lookupd,
    nsqd: Nsqd,
    data_path: PathBuf,
}

impl Dev {
    async fn start(
        flags: &DevFlags,
        nsqd_config: nsqd::config::Config,
        [lookupd_logger, nsqd_logger]: [Logger; 2],
    ) -> Result<Self, Failure> {
        let data_path = make_directory(&flags.data_path)?;
        let lookupd = Lookupd::start(lookupd_config(flags), lookupd_logger)
            .await
            .map_err(|error| not_started("nsqlookupd", &error))?;
        let config = configure_nsqd(nsqd_config, flags, &data_path, lookupd.tcp_addr());
        let nsqd = match Nsqd::start(config, nsqd_logger).await {
            Ok(nsqd) => nsqd,
            Err(error) => {
                lookupd.shutdown().await;
                return Err(not_started("nsqd", &error));
            }
        };
        let dev = Dev { lookupd, nsqd, data_path };
        dev.wait_until_registered().await;
        Ok(dev)
    }

    /// Waits until nsqd is registered, so that the first command after the banner finds it.
    async fn wait_until_registered(&self) {
        let deadline = Instant::now() + REGISTRATION_TIMEOUT;
        let Ok(lookupd) = LookupdClient::new(reachable(self.lookupd.http_addr()).to_string()) else { return };
        while Instant::now() < deadline {
            if lookupd.nodes().await.is_ok_and(|nodes| !nodes.producers.is_empty()) {
                return;
            }
            tokio::time::sleep(REGISTRATION_POLL_INTERVAL).await;
        }
    }

    fn banner(&self, flags: &DevFlags) -> Banner {
        let unknown = SocketAddr::new(flags.listen, 0);
        Banner {
            program: std::env::args().next().unwrap_or_else(|| "nsq".to_owned()),
            lookupd_tcp: reachable(self.lookupd.tcp_addr()),
            lookupd_http: reachable(self.lookupd.http_addr()),
            nsqd_tcp: reachable(self.nsqd.tcp_address().unwrap_or(unknown)),
            nsqd_http: reachable(self.nsqd.http_address().unwrap_or(unknown)),
            data_path: self.data_path.clone(),
        }
    }

    /// Waits until a daemon fails, which normally never happens.
    async fn broken(&self) -> Failure {
        tokio::select! {
            error = self.lookupd.broken() => Failure::failed(format_args!("nsqlookupd: {error}")),
            () = self.nsqd.failed() => Failure::failed("nsqd: a listener failed"),
        }
    }

    async fn stop(self) -> Result<(), Failure> {
        let stopped = self.nsqd.shutdown().await;
        self.lookupd.shutdown().await;
        stopped.map_err(|error| Failure::failed(format_args!("nsqd did not stop cleanly: {error}")))
    }
}

fn lookupd_config(flags: &DevFlags) -> nsqlookupd::Config {
    let address = |port: u16| {
        let address = SocketAddr::new(flags.listen, flags.port(port)).to_string();
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
    lookupd: SocketAddr,
) -> nsqd::config::Config {
    let address = |port: u16| Address::Tcp { host: flags.listen.to_string(), port: flags.port(port) };
    config.tcp_address = address(flags.nsqd_tcp_port);
    config.http_address = Some(address(flags.nsqd_http_port));
    config.broadcast_address = flags.broadcast_address();
    config.lookupd_tcp_address = vec![reachable(lookupd).to_string()];
    config.data_path = data_path.to_owned();
    config
}

impl DevFlags {
    fn port(&self, port: u16) -> u16 {
        if self.ephemeral_ports { 0 } else { port }
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
