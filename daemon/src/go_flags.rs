//! Command lines in the syntax of Go's `flag` package, rewritten for clap.
//!
//! `-flag`, `--flag`, `--flag=value` and `--flag value` are equal. Boolean flags never take the next argument. The
//! first argument that is not a flag, or `--`, ends the flags; later arguments are silently ignored.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Rewrites a Go command line, program name first, into `--flag=value` arguments for clap.
///
/// `is_bool` returns whether the flag with this name (without dashes) may have no value. Such flags become
/// `--flag=true` or `--flag=false`, in whichever of Go's spellings they are given. Any other value is passed on,
/// and clap refuses it.
///
/// ```
/// # use nsq_daemon::go_flags::to_clap_args;
/// let line = ["nsqd", "-verbose=T", "-tcp-address", ":0", "extra", "--nope"].map(Into::into);
/// assert_eq!(to_clap_args(line.into_iter(), |flag| flag == "verbose"), ["nsqd", "--verbose=true", "--tcp-address=:0"]);
/// ```
pub fn to_clap_args(args: impl Iterator<Item = OsString>, is_bool: impl Fn(&str) -> bool) -> Vec<OsString> {
    split_line(args, is_bool).0
}

/// Like [`to_clap_args`], with the first argument that is not a flag, which ends the flags. The arguments after it stay
/// in the iterator.
pub fn split_line(
    mut args: impl Iterator<Item = OsString>,
    is_bool: impl Fn(&str) -> bool,
) -> (Vec<OsString>, Option<OsString>) {
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    while let Some(word) = args.next() {
        let Some(flag) = Flag::split(&word) else {
            let argument = if word == "--" { args.next() } else { Some(word) };
            return (out, argument);
        };
        let name = String::from_utf8_lossy(flag.name);
        let value = match flag.value {
            Some(value) if is_bool(&name) => Some(go_bool(value).map_or(value, |b| truth(b)).to_vec()),
            None if is_bool(&name) => Some(truth(true).to_vec()),
            Some(value) => Some(value.to_vec()),
            // clap reports unknown flags as unknown, not as lacking a value.
            None if name == "h" || name == "help" => None,
            None => args.next().map(OsString::into_vec),
        };
        let name: &[u8] = if name == "h" { b"help" } else { flag.name };
        out.push(clap_word(name, value.as_deref()));
    }
    (out, None)
}

/// One argument split at its dashes and its `=`.
struct Flag<'a> {
    name: &'a [u8],
    value: Option<&'a [u8]>,
}

impl<'a> Flag<'a> {
    /// `None` if the argument ends the flags.
    fn split(word: &'a OsStr) -> Option<Self> {
        let word = word.as_bytes();
        if word == b"-" || word == b"--" {
            return None;
        }
        let flag = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-"))?;
        let equals = flag.iter().position(|&b| b == b'=');
        Some(match equals {
            Some(at) => Self { name: &flag[..at], value: Some(&flag[at + 1..]) },
            None => Self { name: flag, value: None },
        })
    }
}

fn clap_word(name: &[u8], value: Option<&[u8]>) -> OsString {
    let mut word = b"--".to_vec();
    word.extend_from_slice(name);
    if let Some(value) = value {
        word.push(b'=');
        word.extend_from_slice(value);
    }
    OsString::from_vec(word)
}

fn go_bool(value: &[u8]) -> Option<bool> {
    std::str::from_utf8(value).ok().and_then(|text| parse_bool(text).ok())
}

fn truth(value: bool) -> &'static [u8] {
    if value { b"true" } else { b"false" }
}

/// Why a text is not a valid value. Each variant holds the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidValue {
    /// Not a boolean.
    #[error("{0:?} is not a boolean (true or false)")]
    Bool(String),
    /// Not an integer.
    #[error("{0:?} is not an integer")]
    Int(String),
    /// An integer beyond 64 bits.
    #[error("{0:?} is out of range")]
    IntOutOfRange(String),
    /// Not file permissions.
    #[error("{0:?} is not a file mode such as 0660")]
    Mode(String),
}

/// Parses a boolean in any of Go's spellings.
pub fn parse_bool(text: &str) -> Result<bool, InvalidValue> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        _ => Err(InvalidValue::Bool(text.to_owned())),
    }
}

/// Parses an integer in the syntax of Go's flags: decimal, or with a prefix `0x`, `0o`, `0b` or `0`. Usable as a clap
/// value parser.
///
/// ```
/// # use nsq_daemon::go_flags::parse_int;
/// assert_eq!(parse_int("-0x10"), Ok(-16));
/// assert!(parse_int("ten").is_err());
/// ```
pub fn parse_int(text: &str) -> Result<i64, InvalidValue> {
    let wrong = || InvalidValue::Int(text.to_owned());
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = unsigned.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match prefix.as_deref() {
        Some("0x") => (16, &unsigned[2..]),
        Some("0o") => (8, &unsigned[2..]),
        Some("0b") => (2, &unsigned[2..]),
        Some(_) if unsigned.starts_with('0') => (8, &unsigned[1..]),
        _ => (10, unsigned),
    };
    // `from_str_radix` would accept a second sign.
    if !digits.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err(wrong());
    }
    let magnitude = i128::from_str_radix(digits, radix).map_err(|_| wrong())?;
    i64::try_from(if negative { -magnitude } else { magnitude })
        .map_err(|_| InvalidValue::IntOutOfRange(text.to_owned()))
}

/// Parses file permissions: octal digits such as `0660`, at most `0777`. Usable as a clap value parser.
pub fn parse_mode(text: &str) -> Result<u32, InvalidValue> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    u32::from_str_radix(digits, 8)
        .ok()
        .filter(|mode| *mode <= 0o777 && !digits.starts_with('+'))
        .ok_or_else(|| InvalidValue::Mode(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(words: &[&str]) -> Vec<String> {
        let line = std::iter::once("nsqd").chain(words.iter().copied()).map(OsString::from);
        let is_bool = |flag: &str| matches!(flag, "verbose" | "version" | "tls-required");
        to_clap_args(line, is_bool).into_iter().skip(1).map(|w| w.into_string().unwrap()).collect()
    }

    #[test]
    fn one_dash_equals_two() {
        assert_eq!(rewrite(&["-a=1", "--b=2", "-c", "3"]), ["--a=1", "--b=2", "--c=3"]);
    }

    #[test]
    fn value_may_look_like_a_flag_or_contain_an_equals_sign() {
        assert_eq!(rewrite(&["--log-prefix", "-x", "--opt=a=b"]), ["--log-prefix=-x", "--opt=a=b"]);
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(
            (parse_mode("0660"), parse_mode("777"), parse_mode("0o600")),
            (Ok(0o660), Ok(0o777), Ok(0o600))
        );
        for bad in ["", "rw", "888", "1000", "-1", "+1"] {
            assert!(parse_mode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn booleans_never_take_the_next_word() {
        assert_eq!(rewrite(&["--verbose", "false", "--a=1"]), ["--verbose=true"]);
        assert_eq!(rewrite(&["--verbose=F", "-version=1"]), ["--verbose=false", "--version=true"]);
        assert_eq!(rewrite(&["--verbose=no"]), ["--verbose=no"]);
    }

    #[test]
    fn flag_with_optional_value_keeps_words_that_are_no_boolean() {
        let words = ["--tls-required", "-tls-required=tcp-https", "--tls-required=TRUE"];
        assert_eq!(
            rewrite(&words),
            ["--tls-required=true", "--tls-required=tcp-https", "--tls-required=true"]
        );
    }

    #[test]
    fn flags_end_at_the_first_other_argument() {
        assert_eq!(rewrite(&["-a=1", "--", "-b=2"]), ["--a=1"]);
        assert_eq!(rewrite(&["-a=1", "-", "-b=2"]), ["--a=1"]);
        assert_eq!(rewrite(&["word", "-b=2"]), [""; 0]);
    }

    #[test]
    fn first_argument_that_is_no_flag_is_returned() {
        let argument = |words: &[&str]| {
            let line = ["tool"].iter().chain(words).map(|word| OsString::from(*word));
            split_line(line, |flag| flag == "gzip").1.map(|word| word.into_string().unwrap())
        };
        assert_eq!(argument(&["-gzip", "a", "b"]), Some("a".to_owned()));
        assert_eq!(argument(&["-gzip", "--", "-b"]), Some("-b".to_owned()));
        assert_eq!(argument(&["-"]), Some("-".to_owned()));
        assert_eq!(argument(&["-a", "b", "--"]), None);
        assert_eq!(argument(&[]), None);
    }

    #[test]
    fn help_and_missing_values_are_passed_on() {
        assert_eq!(rewrite(&["-h"]), ["--help"]);
        assert_eq!(rewrite(&["-a"]), ["--a"]);
        assert_eq!(rewrite(&["-a="]), ["--a="]);
    }

    #[test]
    fn bytes_that_are_not_utf8_are_kept() {
        let line = [OsString::from("p"), OsString::from_vec(b"-path=\xff".to_vec())];
        let out = to_clap_args(line.into_iter(), |_| false);
        assert_eq!(out[1].as_bytes(), b"--path=\xff");
    }

    #[test]
    fn integers_parse_in_gos_bases() {
        for (text, value) in
            [("0", 0), ("-7", -7), ("+7", 7), ("0b101", 5), ("0o17", 15), ("017", 15), ("0XfF", 255)]
        {
            assert_eq!(parse_int(text), Ok(value), "{text}");
        }
        for text in ["", "-", "--1", "0x", "0x-1", "1.5", "1e3", "08", "é", "9223372036854775808"] {
            assert!(parse_int(text).is_err(), "{text}");
        }
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
    }
}
