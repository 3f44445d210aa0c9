//! The nsqd program: read flags, start, wait for a signal, drain if requested, stop. SIGHUP reloads certificates,
//! tokens and policies.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nsq_daemon::log::{self, Logger};
use nsq_daemon::notify::Notifier;
use nsq_daemon::shutdown::{StopSignal, StopSignals};
use nsqd::config::{Config, Start};
use nsqd::drain::DrainEnd;
use nsqd::flags::OnSigterm;
use nsqd::nsqd::Nsqd;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How often nsqd reports to the service manager that it still drains, and the time for which it asks.
const DRAIN_NOTICE_INTERVAL: Duration = Duration::from_secs(5);
const DRAIN_NOTICE_TIME: Duration = Duration::from_secs(60);

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
    let (shutdown_delay, on_sigterm) = (config.shutdown_delay, config.sigterm);
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
    let mut delay = shutdown_delay;
    if end == End::Terminate && on_sigterm == OnSigterm::Drain {
        let draining_since = Instant::now();
        end = drain(&manager, &mut signals, &mut hangup, &nsqd).await;
        // Draining makes clients and load balancers stay away as well.
        delay = delay.saturating_sub(draining_since.elapsed());
    }
    manager.stopping();
    if end.is_patient() && !delay.is_zero() {
        end = serve_until_stop(delay, &mut signals, &mut hangup, &nsqd).await;
    }
    match nsqd.shutdown().await {
        Ok(()) if !matches!(end, End::Failure | End::NotMoved) => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => fatal(&logger, &error.to_string()),
    }
}

/// Why the daemon stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// SIGTERM requested it.
    Terminate,
    /// SIGINT requested it.
    Interrupt,
    /// It was requested by a signal, and another signal requested that it happens at once.
    AtOnce,
    /// It was drained, as requested.
    Drained,
    /// It was drained, but messages could not be moved as requested.
    NotMoved,
    /// A listener failed.
    Failure,
}

impl End {
    /// Whether nsqd may keep serving for a while.
    fn is_patient(self) -> bool {
        matches!(self, End::Terminate | End::Interrupt | End::Drained)
    }
}

async fn stop_reason(signals: &mut StopSignals, nsqd: &Nsqd) -> End {
    tokio::select! {
        signal = signals.next() => match signal {
            StopSignal::Terminate => End::Terminate,
            StopSignal::Interrupt => End::Interrupt,
        },
        () = nsqd.failed() => End::Failure,
    }
}

/// Why the daemon stops, after a first signal.
async fn second_reason(signals: &mut StopSignals, nsqd: &Nsqd) -> End {
    match stop_reason(signals, nsqd).await {
        End::Failure => End::Failure,
        _ => End::AtOnce,
    }
}

/// Refuses publishes and keeps serving consumers until they have everything or the time for it is over. Another signal
/// ends the wait.
async fn drain(
    manager: &Notifier,
    signals: &mut StopSignals,
    hangup: &mut Option<Signal>,
    nsqd: &Nsqd,
) -> End {
    nsqd.drain();
    let mut notices = tokio::time::interval(DRAIN_NOTICE_INTERVAL);
    loop {
        tokio::select! {
            end = second_reason(signals, nsqd) => return end,
            end = nsqd.drained() => return match end {
                DrainEnd::NotMoved => End::NotMoved,
                DrainEnd::Drained | DrainEnd::Overdue => End::Drained,
            },
            _ = notices.tick() => {
                let status = format!("draining: {} messages left", nsqd.remaining_count());
                manager.stopping_later(&status, DRAIN_NOTICE_TIME);
            }
            () = next_hangup(hangup) => nsqd.reload().await,
        }
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
            end = second_reason(signals, nsqd) => return end,
            () = &mut elapsed => return End::Drained,
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
