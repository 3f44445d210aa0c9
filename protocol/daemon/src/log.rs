//! Log lines as NSQ writes them, on stderr:
//! `[nsqd] 2026/11/20 11:38:01.555218 INFO: TOPIC(t1): created`; or as JSON, one object per line.
//!
//! A logger of our own and not `tracing`: one process can run several daemons, each with a prefix and a level that
//! changes while it runs, where `tracing` has one subscriber for all; and NSQ's line would need a formatter of ours
//! anyway, which is most of what is here.
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
    prefix: String,
    level: AtomicU8,
    format: Format,
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
        Self(Arc::new(Inner { prefix, level: AtomicU8::new(level as u8), format, sink }))
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
            self.write(&self.0.prefix, level, fields, text);
        }
    }

    /// Writes why a daemon cannot go on; see [`fatal`].
    pub fn last_words(&self, program: &str, text: fmt::Arguments<'_>) {
        self.write(&format!("[{program}] "), Level::Fatal, &[], text);
    }

    fn write(&self, prefix: &str, level: Level, fields: &[(&str, Field<'_>)], text: fmt::Arguments<'_>) {
        let line = match self.0.format {
            Format::Text => line(prefix, now(), level, text),
            Format::Json => json_line(prefix, now(), level, fields, text),
        };
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

/// The same as an object. Time is RFC 3339 with microseconds.
fn json_line(
    prefix: &str,
    at: OffsetDateTime,
    level: Level,
    fields: &[(&str, Field<'_>)],
    text: fmt::Arguments<'_>,
) -> String {
    let time = at.format(TIME_WITH_MICROSECONDS).unwrap_or_default();
    let mut line = format!("{{\"time\":\"{time}\",\"level\":\"{}\"", level.word());
    let mut member = |key: &str, value: serde_json::Value| {
        line.push_str(&format!(",{}:{value}", serde_json::Value::from(key)));
    };
    let prefix = prefix.trim();
    if !prefix.is_empty() {
        member("prefix", prefix.into());
    }
    member("message", text.to_string().into());
    for (key, field) in fields {
        match field {
            Field::Number(number) if number.fract() == 0.0 => member(key, (*number as i64).into()),
            Field::Number(number) => member(key, (*number).into()),
            Field::Text(text) => member(key, text.to_string().into()),
        }
    }
    line.push('}');
    line
}

const TIME_WITH_MICROSECONDS: &[time::format_description::BorrowedFormatItem<'_>] = time::macros::format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6][offset_hour sign:mandatory]:[offset_minute]"
);

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
    fn a_line_as_json() {
        let at = datetime!(2026-01-02 03:04:05.000067 +1);
        let fields = [
            ("status", Field::Number(200.0)),
            ("seconds", Field::Number(0.5)),
            ("who", Field::Text(&"a\"b")),
        ];
        let line = json_line("[nsqd] ", at, Level::Warn, &fields, format_args!("a \"{}\"\n", "µ"));
        assert_eq!(
            line,
            r#"{"time":"2026-01-02T03:04:05.000067+01:00","level":"warn","prefix":"[nsqd]","message":"a \"µ\"\n","status":200,"seconds":0.5,"who":"a\"b"}"#
        );
        let line = json_line("", at, Level::Info, &[], format_args!("x"));
        assert_eq!(line, r#"{"time":"2026-01-02T03:04:05.000067+01:00","level":"info","message":"x"}"#);
        assert_eq!("JSON".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().is_err());
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
