//! `nsq admin`, and nsqadmin: the dashboard.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;
use nsq_cluster::DEFAULT_LOOKUPD;
use nsq_daemon::flags::Parsed;
use nsq_daemon::log::{self, Logger};
use nsq_daemon::notify::Notifier;
use nsq_daemon::shutdown::StopSignals;
use nsq_daemon::{info, open_files, version_line, warn};
use nsq_dashboard::Dashboard;
use nsq_dashboard::flags::{self, Flags, NSQ_ADMIN_ADDRESS, PROGRAM};
use nsq_dashboard::settings::Settings;

const AFTER_HELP: &str = "\
Flags are those of NSQ's nsqadmin, and some more: `nsq admin --help` lists them. They are spelled as in Go.
Without --lookupd-http-address and --nsqd-http-address, NSQ_LOOKUPD or NSQ_NSQD apply, else 127.0.0.1:4161.

Examples:
  nsq admin
  nsq admin --lookupd-http-address=lookup-1:4161 --lookupd-http-address=lookup-2:4161
  nsq admin --http-address=0.0.0.0:4171 --users-file=/etc/nsq/users.toml --audit-log=/var/log/nsq/audit.log";

/// `nsq admin`. The dashboard parses its own flags; see [`called`].
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, disable_help_flag = true)]
pub struct AdminFlags {
    /// Flags of the dashboard.
    #[arg(value_name = "FLAGS", trailing_var_arg = true, allow_hyphen_values = true)]
    line: Vec<OsString>,
}

impl AdminFlags {
    /// The command line, program name first.
    pub fn line(self) -> Vec<OsString> {
        std::iter::once("nsq admin".into()).chain(self.line).collect()
    }
}

/// The command line of `nsq admin ...`, program name first; `None` for any other command.
pub fn called(args: &[OsString]) -> Option<Vec<OsString>> {
    let flags = args.get(1).filter(|word| *word == "admin").and(args.get(2..))?;
    Some(std::iter::once("nsq admin".into()).chain(flags.iter().cloned()).collect())
}

/// Runs `nsq admin`: listens on this machine only, and finds a cluster as the other commands do.
pub fn run(line: Vec<OsString>) -> ExitCode {
    let is_set = |flag| flags::sets(&line, flag);
    let has_config = is_set("config");
    let mut more: Vec<OsString> = Vec::new();
    if !is_set("http-address") && !has_config {
        more.push(format!("--http-address={NSQ_ADMIN_ADDRESS}").into());
    }
    let upstreams = ["lookupd-http-address", "nsqd-http-address", "lookupd", "nsqd"];
    if !upstreams.into_iter().any(is_set) && !has_config {
        let from_env = |name: &str, flag: &str| -> Vec<OsString> {
            let list = std::env::var(name).unwrap_or_default();
            let addresses = list.split(',').map(str::trim).filter(|address| !address.is_empty());
            addresses.map(|address| format!("--{flag}={address}").into()).collect()
        };
        let lookupds = from_env("NSQ_LOOKUPD", "lookupd-http-address");
        let nsqds = from_env("NSQ_NSQD", "nsqd-http-address");
        match (lookupds.is_empty(), nsqds.is_empty()) {
            (false, _) => more.extend(lookupds),
            (true, false) => more.extend(nsqds),
            (true, true) => more.push(format!("--lookupd-http-address={DEFAULT_LOOKUPD}").into()),
        }
    }
    let mut line = line.into_iter();
    let program = line.next().unwrap_or_default();
    serve(std::iter::once(program).chain(more).chain(line).collect())
}

/// Runs the dashboard with nsqadmin's defaults until SIGINT or SIGTERM. Creates its own runtime, because the logger must
/// exist before any thread starts.
pub fn serve(line: Vec<OsString>) -> ExitCode {
    let _flush = log::FlushOnDrop;
    let Parsed { flags, warnings } = match flags::parse(line.into_iter()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.report(PROGRAM),
    };
    let logger = Logger::with_format(flags.log_prefix.clone(), flags.log_level, flags.log_format);
    log::report_panics(&logger);
    for warning in warnings {
        warn!(logger, "{warning}");
    }
    match start(&flags, logger.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            logger.last_words(PROGRAM, format_args!("{text}"));
            ExitCode::FAILURE
        }
    }
}

fn start(flags: &Flags, logger: Logger) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("failed to instantiate {PROGRAM} - {error}");
    if flags.verbose {
        warn!(logger, "--verbose is deprecated and has no effect: use --log-level");
    }
    info!(logger, "{}", version_line(PROGRAM));
    open_files::raise_limit(&logger);
    let settings = Settings::resolve(flags).map_err(|error| failed(&error))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| failed(&error))?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::catch().map_err(|error| failed(&error))?;
        let manager = Notifier::from_env().map_err(|error| failed(&error))?;
        let mut dashboard = Dashboard::start(settings, logger).await.map_err(|error| failed(&error))?;
        manager.ready("serving");
        let _alive = manager.keep_alive();
        let broken = tokio::select! {
            () = signals.wait() => None,
            error = dashboard.broken() => Some(error),
        };
        manager.stopping();
        dashboard.shutdown().await;
        broken.map_or(Ok(()), |error| Err(error.to_string()))
    });
    // A name lookup that still runs is not waited for.
    runtime.shutdown_background();
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn only_the_command_admin_is_the_dashboard() {
        assert_eq!(
            called(&words("nsq admin -http-address=:0")),
            Some(vec!["nsq admin".into(), "-http-address=:0".into()])
        );
        assert_eq!(called(&words("nsq stat admin")), None);
        assert_eq!(called(&words("nsq")), None);
    }
}
