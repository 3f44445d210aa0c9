//! Log lines as NSQ writes them, on stderr:
//! `[nsqd] 2026/11/20 11:38:01.555218 INFO: TOPIC(t1): created`; or as JSON, one object per line.
//!
//! A logger of our own and not `tracing`: one process can run several daemons, each with a prefix and a level that
//! changes while it runs, where `tracing` has one subscriber for all; and NSQ's line would need a formatter of ours
//! anyway, which is most of what is here.
//!
//! Serving threads never wait for whoever reads stderr: lines go through a bounded backlog to a thread of their own.
//! When nobody reads, the oldest lines are dropped, counted, and reported in their place.
//!
//! - `line`: pure; what a line looks like
//! - `backlog`: pure; lines on their way, within limits
//! - `stderr`: the thread, and waiting for it before the process ends
//! - `panics`: panics as log lines
//!
//! Use the macros [`crate::debug!`], [`crate::info!`], [`crate::warn!`], [`crate::error!`] and
//! [`crate::fatal!`]: they format only what the level lets through.

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

/// How much a line matters. Its number is what `/config/log_level` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Level {
    /// For those who debug the daemon.
    Debug = 1,
    /// What an operator wants to know.
    Info = 2,
    /// Something is odd and was dealt with.
    Warn = 3,
    /// Something failed.
    Error = 4,
    /// The daemon stops because of it.
    Fatal = 5,
}

impl Level {
    /// The word in a log line.
    pub fn label(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warn => "WARNING",
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }

    /// The word in flags and files.
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

/// Not one of the five words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level {0:?} (debug, info, warn, error, or fatal)")]
pub struct InvalidLevel(pub String);

impl FromStr for Level {
    type Err = InvalidLevel;

    /// Takes the word in any case.
    fn from_str(text: &str) -> Result<Self, InvalidLevel> {
        [Self::Debug, Self::Info, Self::Warn, Self::Error, Self::Fatal]
            .into_iter()
            .find(|level| level.word().eq_ignore_ascii_case(text))
            .ok_or_else(|| InvalidLevel(text.to_owned()))
    }
}

/// What a line looks like: `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As NSQ writes it.
    #[default]
    Text,
    /// An object with `time`, `level`, `prefix`, `message`, and fields of some lines.
    Json,
}

impl Format {
    /// The word in flags and files.
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

/// Not one of the two words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log format {0:?} (text or json)")]
pub struct InvalidFormat(pub String);

impl FromStr for Format {
    type Err = InvalidFormat;

    /// Takes the word in any case.
    fn from_str(text: &str) -> Result<Self, InvalidFormat> {
        [Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.word().eq_ignore_ascii_case(text))
            .ok_or_else(|| InvalidFormat(text.to_owned()))
    }
}

/// What a line tells besides its text, for programs that read it: only JSON shows it.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    /// A number.
    Number(f64),
    /// Anything else.
    Text(&'a dyn fmt::Display),
}

/// Writes log lines. A clone writes to the same place, with the same, changeable, level.
#[derive(Clone)]
pub struct Logger(Arc<Inner>);

struct Inner {
    style: Arc<Style>,
    level: AtomicU8,
    sink: Sink,
}

enum Sink {
    Stderr,
    /// Each line, without its end.
    Function(Box<dyn Fn(&str) + Send + Sync>),
}

impl Logger {
    /// A logger to stderr. `prefix` stands before every line, its trailing blank included.
    ///
    /// The first one must be made before the process has a second thread: only then can the local
    /// time zone be asked for; otherwise times are in UTC.
    pub fn new(prefix: impl Into<String>, level: Level) -> Self {
        Self::with_format(prefix, level, Format::Text)
    }

    /// The same with lines of another form.
    pub fn with_format(prefix: impl Into<String>, level: Level, format: Format) -> Self {
        Self::with_sink(prefix.into(), level, format, Sink::Stderr)
    }

    /// A logger that hands each line, without its end, to a function: for tests, and for daemons
    /// that run inside another program.
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

    /// Writes a line, if its level lets it through.
    pub fn log(&self, level: Level, text: fmt::Arguments<'_>) {
        self.log_with(level, &[], text);
    }

    /// Writes a line with fields, if its level lets it through. The text must say it all: only JSON has the fields.
    pub fn log_with(&self, level: Level, fields: &[(&str, Field<'_>)], text: fmt::Arguments<'_>) {
        if self.enabled(level) {
            self.write(&self.0.style, level, fields, text);
        }
    }

    /// Writes why a daemon cannot go on; see [`fatal`].
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
        // Whoever logs an address has taken its password out; this is for what an error of elsewhere quotes.
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

/// Writes why a daemon cannot go on. Ignores `--log-prefix` and `--log-level`, as NSQ does: such a
/// line must not be filtered, and it may be about those very flags.
pub fn fatal(program: &str, text: fmt::Arguments<'_>) {
    let style = Arc::new(Style { prefix: format!("[{program}] "), format: Format::Text });
    stderr::write(style.line(now(), Level::Fatal, &[], text), &style);
    flush();
}

fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc().to_offset(local_offset())
}

/// A moment as RFC 3339 has it, in the local time zone: `2026-11-20T11:38:01+01:00`.
pub fn local_rfc3339(unix_seconds: i64) -> String {
    let at = OffsetDateTime::from_unix_timestamp(unix_seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let local = at.checked_to_offset(local_offset()).unwrap_or(at);
    local.format(&time::format_description::well_known::Rfc3339).unwrap_or_else(|_| local.to_string())
}

/// Asked for once: while there are several threads, nobody can ask safely.
fn local_offset() -> UtcOffset {
    static OFFSET: OnceLock<UtcOffset> = OnceLock::new();
    *OFFSET.get_or_init(|| UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC))
}

/// Logs at a [`Level`] given as its first word; the other macros are made of it.
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
    fn levels_and_formats_by_word_in_any_case() {
        assert_eq!("JSON".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
        assert_eq!("WaRn".parse(), Ok(Level::Warn));
        assert_eq!("fatal".parse(), Ok(Level::Fatal));
        assert!("warning".parse::<Level>().is_err());
        assert!("".parse::<Level>().is_err());
        assert_eq!(Level::Fatal as u8, 5);
    }

    #[test]
    fn the_level_filters_and_can_change() {
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
