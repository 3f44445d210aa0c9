//! Panics as log lines.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{self, PanicHookInfo};
use std::thread;

use super::{Level, Logger, flush};

/// Logs every later panic of any thread. Without this the thread itself would write to stderr, which could block it.
/// A panic of the main thread ends the process, so it also flushes the log.
pub fn report_panics(logger: &Logger) {
    let logger = logger.clone();
    panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or("unnamed");
        logger.log(Level::Error, format_args!("{}", describe(name, info, &Backtrace::capture())));
        if name == "main" {
            flush();
        }
    }));
}

fn describe(thread: &str, info: &PanicHookInfo<'_>, backtrace: &Backtrace) -> String {
    let place = info.location().map_or_else(|| "an unknown location".to_owned(), ToString::to_string);
    let payload = info.payload();
    let why = payload.downcast_ref::<&str>().copied();
    let why =
        why.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown reason");
    let mut text =
        format!("BUG: thread {thread} panicked at {place}: {why}; report this line to the maintainers");
    if backtrace.status() == BacktraceStatus::Captured {
        text.push_str(&format!("; backtrace:\n{backtrace}"));
    }
    text
}
