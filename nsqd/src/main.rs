//! The nsqd program: flags, start, wait for a signal, stop.

use std::process::ExitCode;

use nsq_daemon::shutdown::StopSignals;
use nsqd::config::{Config, Start};
use nsqd::nsqd::Nsqd;

fn main() -> ExitCode {
    let start = Config::from_args(std::env::args_os());
    let (config, logger) = match start {
        Start::Run(config, logger) => (config, logger),
        Start::Exit(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fatal(&error.to_string()),
    };
    runtime.block_on(async {
        let mut signals = match StopSignals::catch() {
            Ok(signals) => signals,
            Err(error) => return fatal(&error.to_string()),
        };
        let nsqd = match Nsqd::start(*config, logger.clone()).await {
            Ok(nsqd) => nsqd,
            Err(error) => return fatal(&error.to_string()),
        };
        let failed = tokio::select! {
            () = signals.wait() => false,
            () = nsqd.failed() => true,
        };
        match nsqd.shutdown().await {
            Ok(()) if !failed => ExitCode::SUCCESS,
            Ok(()) => ExitCode::FAILURE,
            Err(error) => fatal(&error),
        }
    })
}

fn fatal(text: &str) -> ExitCode {
    nsq_daemon::log::fatal("nsqd", format_args!("{text}"));
    ExitCode::FAILURE
}
