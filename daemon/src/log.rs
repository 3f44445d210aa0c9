//! Log lines in NSQ's format, on stderr:
//! `[nsqd] 2026/11/20 11:38:01.555218 INFO: TOPIC(t1): created`; or as JSON, one object per line.
//!
//! The daemons use this logger instead of `tracing` for two reasons. One process can run several daemons, each with
//! its own prefix and a level that changes at runtime; `tracing` has one subscriber for all. And NSQ's format would
//! need its own formatter anyway, which is most of this module.
//!
//! Serving threads never wait for the reader of stderr: lines pass through a bounded backlog to a separate thread.
//! When nothing reads stderr, the oldest lines are dropped and counted, and a line with the count replaces them.
//!
//! - `line`: pure; the format of a line
//! - `backlog`: pure; lines waiting to be written, within limits
//! - `stderr`: the writing thread, and the flush before the process ends
//! - `panics`: panics as log lines
//!
//! Use the macros [`crate::debug!`], [`crate::info!`], [`crate::warn!`], [`crate::error!`] and
//! [`crate::fatal!`]: they format only lines that the level lets through.

mod line;

mod backlog;

mod stderr;

mod panics;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use time::{OffsetDateTime, UtcOffset};

use line::Style;
use nsq_protocol::redact::without_user_info_of_urls;
pub use panics::report_panics;
pub use stderr::{FlushOnDrop, dropped_lines, flush};

/// Severity of a line. `/config/log_level` reports its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// For debugging the daemon.
    Debug = 1,
    /// Normal events that matter to an operator.
    Info = 2,
    /// Something is wrong; the daemon handled it.
    Warn = 3,
    /// Something failed.
    Error = 4,
    /// The error stops the daemon.
    Fatal = 5,
}

impl Level {
    /// The word in a log line, in upper case.
    pub fn label(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// The word in flags and config files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Fatal => "fatal",
        }
    }

    fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Debug,
            2 => Self::Info,
            3 => Self::Warn,
            4 => Self::Error,
            _ => Self::Fatal,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A text that is none of the five words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level {0:?} (debug, info, warn, error, or fatal)")]
pub struct InvalidLevel(pub String);

impl FromStr for Level {
    type Err = InvalidLevel;

    /// Accepts the word in any case.
    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal]
            .into_iter()
            .find(|level| level.word().eq_ignore_ascii_case(text))
            .ok_or_else(|| InvalidLevel(text.to_owned()))
    }
}

/// Format of log lines: `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// NSQ's format.
    #[default]
    Text,
    /// An object with `time`, `level`, `prefix`, `message`, and fields of some lines.
    Json,
}

impl Format {
    /// The word in flags and config files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A text that is neither of the two words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log format {0:?} (text or json)")]
pub struct InvalidFormat(pub String);

impl FromStr for Format {
    type Err = InvalidFormat;

    /// Accepts the word in any case.
    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        [Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.word().eq_ignore_ascii_case(text))
            .ok_or_else(|| InvalidFormat(text.to_owned()))
    }
}

/// Value of a field that a line has in addition to its text, for programs. Only JSON shows fields.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// A number.
    Number(f64),
    /// Anything else.
    Text(&'a dyn fmt::Display),
}

/// Writes log lines. Clones share the destination and the level.
#[derive(Clone)]
pub struct Logger(Arc<Inner>);

struct Inner {
    style: Arc<Style>,
    level: AtomicU8,
    sink: Sink,
}

enum Sink {
    Stderr,
    /// Gets each line without its line end.
    Function(Box<dyn Fn(&str) + Send + Sync>),
}

impl Logger {
    /// A logger to stderr. Every line starts with `prefix`, including its trailing blank.
    ///
    /// Create the first logger before the process has a second thread: only then can the process read the local time
    /// zone safely. Otherwise times are in UTC.
    pub fn new(prefix: impl Into<String>, level: Level) -> Self {
        Self::with_format(prefix, level, Format::Text)
    }

    /// Like [`Logger::new`], with the given line format.
    pub fn with_format(prefix: impl Into<String>, level: Level, format: Format) -> Self {
        Self::with_sink(prefix.into(), level, format, Sink::Stderr)
    }

    /// A logger that passes each line, without its line end, to a function: for tests, and for daemons that run inside
    /// another program.
    pub fn to_function(
        prefix: impl Into<String>,
        level: Level,
        function: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::with_sink(prefix.into(), level, Format::Text, Sink::Function(Box::new(function)))
    }

    /// A logger that writes nothing.
    pub fn silent() -> Self {
        Self::to_function("", Level::Fatal, |_| {})
    }

    fn with_sink(prefix: String, level: Level, format: Format, sink: Sink) -> Self {
        local_offset();
        let style = Arc::new(Style { prefix, format });
        Self(Arc::new(Inner { style, level: AtomicU8::new(level as u8), sink }))
    }

    /// The lowest level that is written.
    pub fn level(&self) -> Level {
        Level::from_number(self.0.level.load(Ordering::Relaxed))
    }

    /// Changes the lowest level that is written, for all clones.
    pub fn set_level(&self, level: Level) {
        self.0.level.store(level as u8, Ordering::Relaxed);
    }

    /// Whether a line of this level is written.
    #[inline]
    pub fn enabled(&self, level: Level) -> bool {
        level as u8 >= self.0.level.load(Ordering::Relaxed)
    }

    /// Writes a line if its level is enabled.
    pub fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        self.log_with(level, &[], text);
    }

    /// Writes a line with fields if its level is enabled. The text must be complete: only JSON shows the fields.
    pub fn log_with(&self, level: Level, fields: &[(&str, Field<'_>)], text: fmt::Arguments<'_>) {
        if self.enabled(level) {
            self.write(&self.0.style, level, fields, text);
        }
    }

    /// Writes why a daemon stops, whatever the level, and flushes the log; see [`fatal`].
    pub fn last_words(&self, program: &str, text: fmt::Arguments<'_>) {
        let style = Style { prefix: format!("[{program}] "), format: self.0.style.format };
        self.write(&Arc::new(style), Level::Fatal, &[], text);
        flush();
    }

    fn write(
        &self,
        style: &Arc<Style>,
        level: Level,
        fields: &[(&str, Field<'_>)],
        text: fmt::Arguments<'_>,
    ) {
        let mut line = style.line(now(), level, fields, text);
        // Callers already remove passwords from addresses. This catches addresses quoted in errors of other code.
        if let Cow::Owned(shown) = without_user_info_of_urls(&line) {
            line = shown;
        }
        match &self.0.sink {
            Sink::Stderr => stderr::write(line, style),
            Sink::Function(function) => function(&line),
        }
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("prefix", &self.0.style.prefix).field("level", &self.level()).finish()
    }
}

/// Writes why a daemon stops and flushes the log. Ignores `--log-prefix` and `--log-level`, as NSQ does: the line must
/// not be filtered, and it may be about those very flags.
pub fn fatal(program: &str, text: fmt::Arguments<'_>) {
    let style = Arc::new(Style { prefix: format!("[{program}] "), format: Format::Text });
    stderr::write(style.line(now(), Level::Fatal, &[], text), &style);
    flush();
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().to_offset(local_offset())
}

/// A moment in RFC 3339 format in the local time zone: `2026-11-20T11:38:01+01:00`.
pub fn local_rfc3339(unix_seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix_seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let local = at.checked_to_offset(local_offset()).unwrap_or(at);
    local.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| local.to_string())
}

/// Read once, because the query is unsafe while the process has several threads.
fn local_offset() -> UtcOffset {
    static OFFSET: OnceLock<UtcOffset> = OnceLock::new();
    *OFFSET.get_or_init(|| UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC))
}

/// Logs at the [`Level`] named by its first argument; the other macros use it.
#[doc(hidden)]
#[macro_export]
macro_rules! log_at {
    ($level:ident, $logger:expr, $($text:tt)+) => {{
        let logger = &$logger;
        if logger.enabled($crate::log::Level::$level) {
            logger.log($crate::log::Level::$level, format_args!($($text)+));
        }
    }};
}

/// Logs at level debug: `debug!(logger, "{} topics", count)`.
#[macro_export]
macro_rules! debug { ($logger:expr, $($text:tt)+) => { $crate::log_at!(Debug, $logger, $($text)+) }; }

/// Logs at level info: `info!(logger, "TCP: listening on {address}")`.
#[macro_export]
macro_rules! info { ($logger:expr, $($text:tt)+) => { $crate::log_at!(Info, $logger, $($text)+) }; }

/// Logs at level warn.
#[macro_export]
macro_rules! warn { ($logger:expr, $($text:tt)+) => { $crate::log_at!(Warn, $logger, $($text)+) }; }

/// Logs at level error.
#[macro_export]
macro_rules! error { ($logger:expr, $($text:tt)+) => { $crate::log_at!(Error, $logger, $($text)+) }; }

/// Logs at level fatal; does not end the process.
#[macro_export]
macro_rules! fatal { ($logger:expr, $($text:tt)+) => { $crate::log_at!(Fatal, $logger, $($text)+) }; }

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn levels_and_formats_parse_in_any_case() {
        assert_eq!("JSON".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
        assert_eq!("WaRn".parse(), Ok(Level::Warn));
        assert_eq!("fatal".parse(), Ok(Level::Fatal));
        assert!("warning".parse::<Level>().is_err());
        assert!("".parse::<Level>().is_err());
        assert_eq!(Level::Fatal as u8, 5);
    }

    #[test]
    fn logger_filters_by_level_and_level_can_change() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let logger = Logger::to_function("", Level::Warn, {
            let lines = Arc::clone(&lines);
            move |line| lines.lock().push(line.to_owned())
        });
        crate::info!(logger, "hidden");
        crate::error!(logger, "shown {}", 1);
        logger.clone().set_level(Level::Debug);
        crate::debug!(logger, "shown {}", 2);
        assert_eq!(logger.level(), Level::Debug);
        let lines = lines.lock();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].ends_with("ERROR: shown 1") && lines[1].ends_with("DEBUG: shown 2"));
    }
}
