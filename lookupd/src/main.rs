//! The nsqlookupd program: flags, start, signal, stop.

use std::process::ExitCode;
use std::time::Duration;

use nsq_daemon::flags::Parsed;
use nsq_daemon::log::{self, Logger};
use nsq_daemon::notify::Notifier;
use nsq_daemon::open_files;
use nsq_daemon::shutdown::StopSignals;
use nsq_daemon::{info, version_line, warn};
use nsqlookupd::flags::{self, Flags, PROGRAM};
use nsqlookupd::{Config, Lookupd};

/// Maximum time to wait at exit for name lookups that still run: a resolver may take minutes.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let _flush = log::FlushOnDrop;
    let Parsed { flags, warnings } = match flags::parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(exit) => return exit.report(PROGRAM),
    };
    // Created before the runtime's threads, because the logger reads the local time zone.
    let logger = Logger::with_format(flags.log_prefix.clone(), flags.log_level, flags.log_format);
    log::report_panics(&logger);
    for warning in warnings {
        warn!(logger, "{warning}");
    }
    match start(flags, logger.clone()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            logger.last_words(PROGRAM, format_args!("{text}"));
            ExitCode::FAILURE
        }
    }
}

fn start(flags: Flags, logger: Logger) -> Result<(), String> {
    if flags.verbose {
        warn!(logger, "--verbose is deprecated and has no effect: use --log-level");
    }
    info!(logger, "{}", version_line(PROGRAM));
    open_files::raise_limit(&logger);
    let failed = |error: &dyn std::fmt::Display| format!("failed to instantiate {PROGRAM} - {error}");
    let config = Config::from_flags(&flags).map_err(|error| failed(&error))?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| failed(&error))?;
    let outcome = runtime.block_on(async {
        let mut signals = StopSignals::catch().map_err(|error| failed(&error))?;
        let manager = Notifier::from_env().map_err(|error| failed(&error))?;
        let lookupd = Lookupd::start(config, logger).await.map_err(|error| failed(&error))?;
        manager.ready("serving");
        let _alive = manager.keep_alive();
        let broken = tokio::select! {
            () = signals.wait() => None,
            error = lookupd.broken() => Some(error),
        };
        manager.stopping();
        lookupd.shutdown().await;
        broken.map_or(Ok(()), |error| Err(error.to_string()))
    });
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    outcome
}
