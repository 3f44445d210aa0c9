//! The nsqd program: read flags, start, wait for a signal, stop. SIGHUP reloads certificates,
//! tokens and policies.

use std::process::ExitCode;
use std::time::Duration;

use nsq_daemon::log::{self, Logger};
use nsq_daemon::notify::Notifier;
use nsq_daemon::shutdown::StopSignals;
use nsqd::config::{Config, Start};
use nsqd::nsqd::Nsqd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Maximum wait for name lookups that still run at exit. A resolver may take minutes.
const RUNTIME_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let _flush = log::FlushOnDrop;
    let start = Config::from_args(std::env::args_os());
    let (config, logger) = match start {
        Start::Run(config, logger) => (config, logger),
        Start::Exit(code) => return code,
    };
    log::report_panics(&logger);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    let code = runtime.block_on(run(config, logger));
    runtime.shutdown_timeout(RUNTIME_SHUTDOWN_TIMEOUT);
    code
}

async fn run(config: Box<Config>, logger: Logger) -> ExitCode {
    let mut signals = match StopSignals::catch() {
        Ok(signals) => signals,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    let mut hangup = match config.can_reload().then(|| signal(SignalKind::hangup())).transpose() {
        Ok(hangup) => hangup,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    let manager = match Notifier::from_env() {
        Ok(manager) => manager,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    // With a handler, a write beyond the file size limit fails as on a full disk. Without one, the signal ends the
    // process.
    let file_size_limit = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    let _not_fatal = match signal(file_size_limit) {
        Ok(signal) => signal,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    let shutdown_delay = config.shutdown_delay;
    let nsqd = match Nsqd::start(*config, logger.clone()).await {
        Ok(nsqd) => nsqd,
        Err(error) => return fatal(&logger, &error.to_string()),
    };
    manager.ready("serving");
    let _alive = manager.keep_alive();
    let mut end = loop {
        tokio::select! {
            end = stop_reason(&mut signals, &nsqd) => break end,
            () = next_hangup(&mut hangup) => {
                manager.reloading();
                nsqd.reload().await;
                manager.ready("serving");
            }
        }
    };
    manager.stopping();
    if end == End::Signal && !shutdown_delay.is_zero() {
        end = serve_until_stop(shutdown_delay, &mut signals, &mut hangup, &nsqd).await;
    }
    match nsqd.shutdown().await {
        Ok(()) if end == End::Signal => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => fatal(&logger, &error.to_string()),
    }
}

/// Why the daemon stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A signal requested it.
    Signal,
    /// A listener failed.
    Failure,
}

async fn stop_reason(signals: &mut StopSignals, nsqd: &Nsqd) -> End {
    tokio::select! {
        () = signals.wait() => End::Signal,
        () = nsqd.failed() => End::Failure,
    }
}

/// Keeps serving for `delay`, so that clients and load balancers notice the announced stop. Another signal ends the
/// wait.
async fn serve_until_stop(
    delay: Duration,
    signals: &mut StopSignals,
    hangup: &mut Option<Signal>,
    nsqd: &Nsqd,
) -> End {
    nsqd.announce_stop(delay);
    let elapsed = tokio::time::sleep(delay);
    tokio::pin!(elapsed);
    loop {
        tokio::select! {
            end = stop_reason(signals, nsqd) => return end,
            () = &mut elapsed => return End::Signal,
            () = next_hangup(hangup) => nsqd.reload().await,
        }
    }
}

/// Waits for a SIGHUP. With nothing to reload, nsqd does not catch the signal, and SIGHUP ends the process by default.
async fn next_hangup(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => {
            hangup.recv().await;
        }
        None => std::future::pending().await,
    }
}

fn fatal(logger: &Logger, text: &str) -> ExitCode {
    logger.last_words("nsqd", format_args!("{text}"));
    ExitCode::FAILURE
}
