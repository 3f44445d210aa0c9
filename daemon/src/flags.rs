//! Flags and config file combined: the first step of a daemon's start.
//!
//! The command line is parsed once to find `--version`, `--help` and `--config`. Then it is parsed again, preceded by
//! the flags from the file that the command line does not set.

use std::any::TypeId;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::config_file::{self, Key};
use crate::{go_flags, log, version_line};

/// Why a daemon does not start. Not every reason is a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// `--version`: a line for stdout, exit code 0.
    Version(String),
    /// `--help`: the usage, for stderr, exit code 0.
    Help(String),
    /// A flag is wrong: message and usage, for stderr, exit code 2.
    WrongFlag(String),
    /// The config file is wrong: a log line, exit code 1.
    Fatal(String),
}

impl Exit {
    /// Writes the text to stdout, stderr or the log, as the variant says, and returns the exit code.
    pub fn report(&self, program: &str) -> ExitCode {
        match self {
            Self::Version(line) => {
                // A closed stdout is no failure.
                let _ = writeln!(io::stdout(), "{line}");
                ExitCode::SUCCESS
            }
            Self::Help(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::SUCCESS
            }
            Self::WrongFlag(text) => {
                let _ = io::stderr().write_all(text.as_bytes());
                ExitCode::from(2)
            }
            Self::Fatal(text) => {
                log::fatal(program, format_args!("{text}"));
                ExitCode::FAILURE
            }
        }
    }
}

/// The result of [`parse`].
#[derive(Debug)]
pub struct Parsed<F> {
    /// The flags.
    pub flags: F,
    /// Settings that have no effect, one sentence each, for the log.
    pub warnings: Vec<String>,
}

/// Parses a Go command line, program name first, and the config file that it names. Refuses mistakes that would
/// silently leave a daemon unprotected: see [`Key::guard`].
///
/// `F` is a clap parser with long flags only. Its boolean flags need `action = ArgAction::Set` and a default; flags
/// with `num_args = 0..=1` count as boolean too. Flags keep the names that clap derives from their fields. Paths that may be empty must be `OsString`, since clap refuses an
/// empty `PathBuf`. Flags named `version` and `config` work as in NSQ. If a scalar is repeated, the last value wins.
/// Lists add up, but a list on the command line replaces the file's list.
pub fn parse<F>(program: &str, args: impl Iterator<Item = OsString>, keys: &[Key]) -> Result<Parsed<F>, Exit>
where
    F: CommandFactory + FromArgMatches,
{
    let command = F::command().name(program.to_owned()).disable_version_flag(true).args_override_self(true);
    let mut args = args;
    let line = go_flags::to_clap_args(args.by_ref(), |flag| is_bool(&command, flag));
    let matches = read(&command, &line).map_err(wrong_flag)?;
    if matches.try_get_one::<bool>("version").ok().flatten() == Some(&true) {
        return Err(Exit::Version(version_line(program)));
    }
    let mut warnings = check_rest(args, keys)?;
    check_empty(&matches, keys)?;
    let matches = match config_path(&matches) {
        Some(path) => {
            let (matches, of_file) = with_file(&command, line, &matches, &path, keys)?;
            warnings.extend(of_file);
            matches
        }
        None => matches,
    };
    let flags = F::from_arg_matches(&matches).map_err(wrong_flag)?;
    Ok(Parsed { flags, warnings })
}

/// Arguments after the one that ends the flags have no effect, as in all Go programs. A guard among them is refused.
fn check_rest(rest: impl Iterator<Item = OsString>, keys: &[Key]) -> Result<Vec<String>, Exit> {
    let rest: Vec<String> = rest.map(|word| word.to_string_lossy().into_owned()).collect();
    let name = |word: &str| {
        let flag = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
        flag.split('=').next().map(str::to_owned)
    };
    let is_guard = |word: &&String| {
        name(word).is_some_and(|name| keys.iter().any(|key| key.is_guard && key.flag() == name))
    };
    if let Some(guard) = rest.iter().find(is_guard).and_then(|word| name(word)) {
        return Err(Exit::WrongFlag(format!(
            "--{guard} has no effect after an argument that is not a flag: write the value of a boolean flag after =, \
             as in --flag=true, and remove other arguments\n"
        )));
    }
    let is_flag = |word: &&String| word.len() > 1 && word.starts_with('-');
    let ignored: Vec<String> = rest.iter().filter(is_flag).filter_map(|word| name(word)).collect();
    Ok(match ignored.is_empty() {
        true => Vec::new(),
        false => vec![format!(
            "flags after an argument that is not a flag are ignored: --{}; write the value of a boolean flag after =",
            ignored.join(", --")
        )],
    })
}

/// Refuses an empty value for a guard on the command line: it usually comes from an unset variable.
fn check_empty(matches: &ArgMatches, keys: &[Key]) -> Result<(), Exit> {
    for key in keys.iter().filter(|key| key.is_guard) {
        let is_on_command_line = matches.value_source(key.id) == Some(ValueSource::CommandLine);
        let mut values = matches.try_get_raw(key.id).ok().flatten();
        if is_on_command_line && values.as_mut().is_some_and(|values| values.any(|value| value.is_empty())) {
            let flag = key.flag();
            return Err(Exit::WrongFlag(format!(
                "--{flag} has an empty value: set a value or remove the flag\n"
            )));
        }
    }
    Ok(())
}

fn read(command: &Command, line: &[OsString]) -> Result<ArgMatches, clap::Error> {
    command.clone().try_get_matches_from(line)
}

fn wrong_flag(error: clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp => Exit::Help(error.to_string()),
        _ => Exit::WrongFlag(error.to_string()),
    }
}

/// An empty `--config=` means no config file.
fn config_path(matches: &ArgMatches) -> Option<PathBuf> {
    let mut values = matches.try_get_raw("config").ok().flatten()?;
    values.next().filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Parses the line again with the file's flags before it. The line itself is valid, so an error now is in the file.
fn with_file(
    command: &Command,
    line: Vec<OsString>,
    matches: &ArgMatches,
    path: &std::path::Path,
    keys: &[Key],
) -> Result<(ArgMatches, Vec<String>), Exit> {
    let config_file::Contents { settings: found, warnings } =
        config_file::read(path, keys).map_err(|error| Exit::Fatal(error.to_string()))?;
    let is_set = |key: Key| matches.value_source(key.id) == Some(ValueSource::CommandLine);
    let from_file =
        found.into_iter().filter(|setting| !is_set(setting.key)).flat_map(|setting| setting.flags);
    let mut line = line.into_iter();
    let whole: Vec<OsString> = line.next().into_iter().chain(from_file).chain(line).collect();
    let matches = read(command, &whole).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        Exit::Fatal(format!("failed to load config file {} - {first}", path.display()))
    })?;
    Ok((matches, warnings))
}

fn is_bool(command: &Command, flag: &str) -> bool {
    let mut arguments = command.get_arguments();
    arguments.find(|argument| argument.get_long() == Some(flag)).is_some_and(|argument| {
        let may_stand_alone = argument.get_num_args().is_some_and(|range| range.min_values() == 0);
        may_stand_alone || argument.get_value_parser().type_id() == TypeId::of::<bool>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config_file::Kind;
    use crate::go_duration;
    use clap::{ArgAction, Parser};
    use std::time::Duration;

    #[derive(Parser, Debug)]
    struct Flags {
        #[arg(long, action = ArgAction::Set, default_value_t = false)]
        version: bool,
        #[arg(long, default_value = "")]
        config: OsString,
        #[arg(long, action = ArgAction::Set, default_value_t = true)]
        deflate: bool,
        #[arg(long, default_value = "250ms", value_parser = go_duration::parse)]
        wait_time: Duration,
        #[arg(long)]
        peer: Vec<String>,
        #[arg(long, default_value = "false", num_args = 0..=1, default_missing_value = "true")]
        tls_required: String,
    }

    const KEYS: [Key; 4] = [
        Key::new("deflate", Kind::Bool),
        Key::new("wait_time", Kind::Duration),
        Key::new("peer", Kind::StringList).named("peers"),
        Key::new("tls_required", Kind::Word).guard(),
    ];

    fn run(words: &[&str]) -> Result<Flags, Exit> {
        let line = std::iter::once("nsqd").chain(words.iter().copied()).map(OsString::from);
        parse("nsqd", line, &KEYS).map(|parsed| parsed.flags)
    }

    fn with_config(text: &str, words: &[&str]) -> Result<Flags, Exit> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        let config = format!("--config={}", path.display());
        run(&[&[config.as_str()], words].concat())
    }

    #[test]
    fn defaults_scalars_and_lists_parse() {
        let flags = run(&[]).unwrap();
        assert!(flags.deflate && !flags.version && flags.config.is_empty());
        let flags =
            run(&["-deflate=F", "-wait-time", "1s", "--wait-time=2s", "-peer=a", "--peer", "b"]).unwrap();
        assert!(!flags.deflate);
        assert_eq!(flags.wait_time, Duration::from_secs(2));
        assert_eq!(flags.peer, ["a", "b"]);
    }

    #[test]
    fn flag_with_optional_value_does_not_take_the_next_word() {
        assert_eq!(run(&["--tls-required", "--deflate=0"]).unwrap().tls_required, "true");
        assert_eq!(run(&["--tls-required=tcp-https"]).unwrap().tls_required, "tcp-https");
    }

    #[test]
    fn version_help_and_wrong_flags_exit() {
        let version = Exit::Version("nsqd v1.3.0 (built w/rustc)".into());
        assert_eq!(run(&["-version"]).unwrap_err(), version);
        assert_eq!(run(&["--config=/nonexistent", "--version"]).unwrap_err(), version);
        assert!(matches!(run(&["-h"]), Err(Exit::Help(text)) if text.contains("--wait-time")));
        for words in [&["--nope"][..], &["--wait-time=5"], &["--wait-time"], &["--deflate=maybe"]] {
            assert!(matches!(run(words), Err(Exit::WrongFlag(_))), "{words:?}");
        }
        assert!(run(&["word", "--nope"]).is_ok());
    }

    #[test]
    fn mistakes_in_security_options_are_refused() {
        for words in [
            &["--tls-requried"][..],
            &["--tls-required="],
            &["--deflate", "true", "--tls-required=true"],
            &["word", "-tls-required"],
        ] {
            assert!(matches!(run(words), Err(Exit::WrongFlag(_))), "{words:?}");
        }
        for file in ["tls_requried = true", "tls-required = true", "[nsqd]\ntls_required = true"] {
            assert!(
                matches!(with_config(file, &[]), Err(Exit::Fatal(text)) if text.contains("tls_required"))
            );
        }
    }

    #[test]
    fn ignored_flags_are_a_warning() {
        let line = ["nsqd", "--deflate", "true", "--wait-time=1s"].map(OsString::from);
        let warnings = parse::<Flags>("nsqd", line.into_iter(), &KEYS).unwrap().warnings;
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("--wait-time"), "{warnings:?}");
    }

    #[test]
    fn command_line_overrides_the_file() {
        let file = "wait_time = 5000\npeers = ['x', 'y']\ndeflate = false\ntls_required = true\nunknown = 1";
        let flags = with_config(file, &[]).unwrap();
        assert_eq!(flags.wait_time, Duration::from_secs(5));
        assert_eq!(flags.peer, ["x", "y"]);
        assert!(!flags.deflate);
        assert_eq!(flags.tls_required, "true");
        let flags = with_config(file, &["--peer=a", "--wait-time=1s"]).unwrap();
        assert_eq!(flags.wait_time, Duration::from_secs(1));
        assert_eq!(flags.peer, ["a"]);
    }

    #[test]
    fn invalid_file_is_fatal() {
        for file in ["wait_time = ", "wait_time = 1.5", "wait_time = 'soon'", "peers = [1]"] {
            assert!(matches!(with_config(file, &[]), Err(Exit::Fatal(_))), "{file}");
        }
        assert!(matches!(run(&["--config=/nonexistent"]), Err(Exit::Fatal(_))));
    }
}
