//! Log lines as NSQ writes them, on stderr:
//! `[nsqd] 2026/11/20 11:38:01.555218 INFO: TOPIC(t1): created`.
//!
//! Use the macros [`crate::debug!`], [`crate::info!`], [`crate::warn!`], [`crate::error!`] and
//! [`crate::fatal!`]: they format only what the level lets through.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

use time::{OffsetDateTime, UtcOffset};

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

/// Writes log lines. A clone writes to the same place, with the same, changeable, level.
#[derive(Clone)]
pub struct Logger(Arc<Inner>);

struct Inner {
    prefix: String,
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
        Self::with_sink(prefix.into(), level, Sink::Stderr)
    }

    /// A logger that hands each line, without its end, to a function: for tests, and for daemons
    /// that run inside another program.
    pub fn to_function(
        prefix: impl Into<String>,
        level: Level,
        function: impl Fn(&str) + Send + Sync + 'static,
    ) -> Self {
        Self::with_sink(prefix.into(), level, Sink::Function(Box::new(function)))
    }

    /// A logger that writes nothing.
    pub fn silent() -> Self {
        Self::to_function("", Level::Fatal, |_| {})
    }

    fn with_sink(prefix: String, level: Level, sink: Sink) -> Self {
        local_offset();
        Self(Arc::new(Inner { prefix, level: AtomicU8::new(level as u8), sink }))
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
        if !self.enabled(level) {
            return;
        }
        let line = line(&self.0.prefix, now(), level, text);
        match &self.0.sink {
            Sink::Stderr => write_stderr(line),
            Sink::Function(function) => function(&line),
        }
    }
}

impl fmt::Debug for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logger").field("prefix", &self.0.prefix).field("level", &self.level()).finish()
    }
}

/// Writes why a daemon cannot go on. Ignores `--log-prefix` and `--log-level`, as NSQ does: such a
/// line must not be filtered, and it may be about those very flags.
pub fn fatal(program: &str, text: fmt::Arguments<'_>) {
    write_stderr(line(&format!("[{program}] "), now(), Level::Fatal, text));
}

/// One line, pure. Control characters, which may come from the network, are escaped: a line of the
/// log stays a line.
fn line(prefix: &str, at: OffsetDateTime, level: Level, text: fmt::Arguments<'_>) -> String {
    let mut line = format!(
        "{prefix}{:04}/{:02}/{:02} {:02}:{:02}:{:02}.{:06} {}: ",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.microsecond(),
        level.label(),
    );
    let head = line.len();
    // Fails only when a `Display` of ours does: then the line has what came before.
    let _ = fmt::Write::write_fmt(&mut line, text);
    if line[head..].contains(char::is_control) {
        let escaped: String = line[head..]
            .chars()
            .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
            .collect();
        line.truncate(head);
        line.push_str(&escaped);
    }
    line
}

/// One write, so that lines of several threads do not mix. Nobody is left to tell when it fails.
fn write_stderr(mut line: String) {
    line.push('\n');
    let _ = std::io::stderr().write_all(line.as_bytes());
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
    use time::macros::datetime;

    #[test]
    fn a_line_looks_like_nsqs() {
        let at = datetime!(2026-01-02 03:04:05.000067 +1);
        let text = line("[nsqd] ", at, Level::Warn, format_args!("TOPIC({}): created", "t1"));
        assert_eq!(text, "[nsqd] 2026/01/02 03:04:05.000067 WARNING: TOPIC(t1): created");
    }

    #[test]
    fn nobody_can_forge_a_line() {
        let at = datetime!(2026-01-02 03:04:05 UTC);
        let text = line("", at, Level::Info, format_args!("µ {}", "a\nb\r\u{1b}[0m"));
        assert!(text.ends_with("INFO: µ a\\nb\\r\\u{1b}[0m"), "{text}");
    }

    #[test]
    fn levels_by_word_in_any_case() {
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
