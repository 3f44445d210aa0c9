//! Names of archive files, from `--filename-format` and `--datetime-format`. Pure.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Zoned;
use regex::bytes::{Regex, RegexBuilder};

const DATETIME: &str = "<DATETIME>";
const REVISION: &str = "<REV>";
const PROCESS: &str = "<PID>";

/// The names of one topic's files. A name has a date and time, which changes with time, and a revision, which makes it
/// unique.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileNames {
    /// The name, in which only `<DATETIME>` and `<REV>` are left.
    template: String,
    /// The name, in which also `<PID>` is left.
    template_of_all_processes: String,
    datetime_format: String,
    /// Whether also the first revision is part of the name.
    always_revision: bool,
}

/// What names are made of.
#[derive(Debug, Clone)]
pub struct Parts<'a> {
    pub filename_format: &'a str,
    pub datetime_format: &'a str,
    /// Stands for `<HOST>`; may contain `<SHORT_HOST>` and `<HOSTNAME>`. Empty is the short host name.
    pub host_identifier: &'a str,
    pub hostname: &'a str,
    pub pid: u32,
    pub topic: &'a str,
    /// The ending that compressed files need.
    pub ending: &'a str,
    /// Whether files of the same time can follow each other, so that the format must contain `<REV>`.
    pub needs_revision: bool,
}

/// The format has no `<REV>` and needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("missing <REV> in --filename-format when gzip, rotation, or work dir enabled")]
pub struct MissingRevision;

impl FileNames {
    pub fn new(parts: &Parts<'_>) -> Result<Self, MissingRevision> {
        if parts.needs_revision && !parts.filename_format.contains(REVISION) {
            return Err(MissingRevision);
        }
        let short_host = parts.hostname.split('.').next().unwrap_or_default();
        let host = match parts.host_identifier {
            "" => short_host.to_owned(),
            text => text.replace("<SHORT_HOST>", short_host).replace("<HOSTNAME>", parts.hostname),
        };
        let mut template_of_all_processes =
            parts.filename_format.replace("<TOPIC>", parts.topic).replace("<HOST>", &host);
        if !template_of_all_processes.ends_with(parts.ending) {
            template_of_all_processes += parts.ending;
        }
        let template = template_of_all_processes.replace(PROCESS, &parts.pid.to_string());
        let datetime_format = parts.datetime_format.to_owned();
        let always_revision = parts.needs_revision;
        Ok(FileNames { template, template_of_all_processes, datetime_format, always_revision })
    }

    /// The name at a moment, in which only the revision is left.
    pub fn at(&self, now: &Zoned) -> String {
        self.template.replace(DATETIME, &strftime(&self.datetime_format, now))
    }

    /// The path below `folder` of a name and revision.
    pub fn path(&self, folder: &Path, name: &str, revision: u32) -> PathBuf {
        let text = match revision {
            0 if !self.always_revision => String::new(),
            number => format!("-{number:06}"),
        };
        let file = match name.contains(REVISION) {
            true => name.replace(REVISION, &text),
            false => format!("{name}{text}"),
        };
        // A format may begin with a slash, and is relative all the same.
        folder.join(file.trim_start_matches('/'))
    }

    /// Whether another file can have the same name and the next revision.
    pub fn always_revision(&self) -> bool {
        self.always_revision
    }

    /// Matches the paths, relative to the folder, of all files with these names: any date, revision and process. The format
    /// of dates may have been another one.
    pub fn pattern(&self) -> Regex {
        self.pattern_with(".*")
    }

    /// As [`pattern`](FileNames::pattern), but only for dates in the present format. Names of another topic do not match just
    /// because they begin like those of this one.
    pub fn own_pattern(&self) -> Regex {
        self.pattern_with(&datetime_pattern(&self.datetime_format))
    }

    fn pattern_with(&self, datetime: &str) -> Regex {
        let mut pattern = String::from("^");
        let mut rest = self.template_of_all_processes.trim_start_matches('/');
        while !rest.is_empty() {
            let next =
                [DATETIME, REVISION, PROCESS].into_iter().filter_map(|word| Some((rest.find(word)?, word)));
            let (at, word) = next.min().unwrap_or((rest.len(), ""));
            pattern += &regex::escape(&rest[..at]);
            pattern += match word {
                DATETIME => datetime,
                REVISION => "(?:-[0-9]{6,})?",
                "" => "",
                _ => "[0-9]+",
            };
            rest = &rest[at + word.len()..];
        }
        pattern += "(?:-[0-9]{6,})?$";
        // The pattern consists of escaped text and the pieces above.
        RegexBuilder::new(&pattern)
            .unicode(false)
            .build()
            .unwrap_or_else(|error| panic!("{pattern}: {error}"))
    }

    /// Number of folders between the folder and a file.
    pub fn depth(&self, now: &Zoned) -> usize {
        self.at(now).trim_start_matches('/').matches('/').count()
    }
}

/// Writes a time as NSQ's nsq_to_file does: `B b m A a d H I M S Y y p Z z` and `%%`, all others unchanged.
fn strftime(format: &str, now: &Zoned) -> String {
    let mut text = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        let mut rest = letters.clone();
        if letter != '%' || !rest.next().is_some_and(|directive| push_directive(&mut text, directive, now)) {
            text.push(letter);
            continue;
        }
        letters = rest;
    }
    text
}

/// A regular expression for all results of [`strftime`].
fn datetime_pattern(format: &str) -> String {
    let mut pattern = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        let mut rest = letters.clone();
        let directive = if letter == '%' { rest.next() } else { None };
        pattern += match directive {
            Some('B' | 'b' | 'A' | 'a') => "[A-Z][a-z]+",
            Some('m' | 'd' | 'H' | 'I' | 'M' | 'S' | 'y') => "[0-9]{2}",
            Some('Y') => "[0-9]{4}",
            Some('p') => "[AP]M",
            Some('Z') => "[A-Za-z0-9:+-]+",
            Some('z') => "[+-][0-9]{4}",
            Some('%') => "%",
            _ => {
                pattern += &regex::escape(letter.encode_utf8(&mut [0; 4]));
                continue;
            }
        };
        letters = rest;
    }
    pattern
}

/// Returns false for an unknown directive.
fn push_directive(text: &mut String, directive: char, now: &Zoned) -> bool {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let month = MONTHS[usize::from(now.month().unsigned_abs() - 1) % 12];
    let day = DAYS[usize::from(now.weekday().to_monday_zero_offset().unsigned_abs()) % 7];
    // Writing to a String cannot fail.
    let _ = match directive {
        'B' => write!(text, "{month}"),
        'b' => write!(text, "{}", &month[..3]),
        'm' => write!(text, "{:02}", now.month()),
        'A' => write!(text, "{day}"),
        'a' => write!(text, "{}", &day[..3]),
        'd' => write!(text, "{:02}", now.day()),
        'H' => write!(text, "{:02}", now.hour()),
        'I' => write!(text, "{:02}", (now.hour() + 11) % 12 + 1),
        'M' => write!(text, "{:02}", now.minute()),
        'S' => write!(text, "{:02}", now.second()),
        'Y' => write!(text, "{:04}", now.year()),
        'y' => write!(text, "{:02}", now.year().rem_euclid(100)),
        'p' => write!(text, "{}", if now.hour() < 12 { "AM" } else { "PM" }),
        'Z' => write!(text, "{}", now.time_zone().to_offset_info(now.timestamp()).abbreviation()),
        'z' => {
            let minutes = now.offset().seconds() / 60;
            let sign = if minutes < 0 { '-' } else { '+' };
            write!(text, "{sign}{:02}{:02}", minutes.abs() / 60, minutes.abs() % 60)
        }
        '%' => write!(text, "%"),
        _ => return false,
    };
    true
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;
    use jiff::tz::{Offset, TimeZone};

    use super::*;

    const DEFAULT: &str = "<TOPIC>.<HOST><REV>.<DATETIME>.log";

    fn parts(filename_format: &'static str) -> Parts<'static> {
        Parts {
            filename_format,
            datetime_format: "%Y-%m-%d_%H",
            host_identifier: "",
            hostname: "web-1.example.com",
            pid: 77,
            topic: "orders",
            ending: "",
            needs_revision: false,
        }
    }

    fn moment() -> Zoned {
        let zone = TimeZone::fixed(Offset::constant(-5).saturating_add(jiff::Span::new().minutes(-30)));
        date(2026, 2, 3).at(0, 4, 5, 0).to_zoned(zone).unwrap()
    }

    fn path(names: &FileNames, revision: u32) -> String {
        names.path(Path::new("/out"), &names.at(&moment()), revision).display().to_string()
    }

    #[test]
    fn names_are_those_of_nsq() {
        let names = FileNames::new(&parts(DEFAULT)).unwrap();
        assert_eq!(path(&names, 0), "/out/orders.web-1.2026-02-03_00.log");
        assert_eq!(path(&names, 2), "/out/orders.web-1-000002.2026-02-03_00.log");
        let rotated = Parts { needs_revision: true, ending: ".gz", ..parts(DEFAULT) };
        let names = FileNames::new(&rotated).unwrap();
        assert_eq!(path(&names, 0), "/out/orders.web-1-000000.2026-02-03_00.log.gz");
        let format = "/<DATETIME>/<TOPIC>-<PID>.<HOST>.gz";
        let named = Parts { host_identifier: "eu-<SHORT_HOST>-<HOSTNAME>", ending: ".gz", ..parts(format) };
        let names = FileNames::new(&named).unwrap();
        let host = "eu-web-1-web-1.example.com";
        assert_eq!(path(&names, 0), format!("/out/2026-02-03_00/orders-77.{host}.gz"));
        assert_eq!(path(&names, 3), format!("/out/2026-02-03_00/orders-77.{host}.gz-000003"));
        assert_eq!(names.depth(&moment()), 1);
        let missing = Parts { needs_revision: true, ..parts(format) };
        assert_eq!(FileNames::new(&missing), Err(MissingRevision));
    }

    #[test]
    fn times_are_formatted_as_by_nsq() {
        let format = "%B %b %m %A %a %d %H %I %M %S %Y %y %p %z %% %x %";
        assert_eq!(
            strftime(format, &moment()),
            "February Feb 02 Tuesday Tue 03 00 12 04 05 2026 26 AM -0530 % %x %"
        );
        let utc = date(2026, 2, 3).at(15, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap();
        assert_eq!(strftime("%I%p %Z %z", &utc), "03PM UTC +0000");
    }

    #[test]
    fn pattern_finds_the_files_of_earlier_runs() {
        let names = FileNames::new(&parts("<DATETIME>/<TOPIC>.<HOST>.<PID><REV>.log")).unwrap();
        let pattern = names.pattern();
        for name in ["2025-01-01_00/orders.web-1.9.log", "x/orders.web-1.1234-000007.log"] {
            assert!(pattern.is_match(name.as_bytes()), "{name}");
        }
        for name in [
            "x/orders.web-2.9.log",
            "x/orders.web-1.9.log.bak",
            "orders.web-1.9.log",
            "x/orders.web-1.9-1.log",
        ] {
            assert!(!pattern.is_match(name.as_bytes()), "{name}");
        }
        let names = FileNames::new(&parts(DEFAULT)).unwrap();
        assert!(names.pattern().is_match(path(&names, 4).trim_start_matches("/out/").as_bytes()));
    }
    #[test]
    fn own_pattern_excludes_other_topics_and_formats() {
        let format = "%B %b %m %A %a %d %H %I %M %S %Y %y %p %Z %z %% %x %";
        let matches = |names: &FileNames, name: &str| names.own_pattern().is_match(name.as_bytes());
        let all = FileNames::new(&Parts { datetime_format: format, ..parts("<TOPIC>.<DATETIME>") }).unwrap();
        assert!(
            matches(&all, path(&all, 0).trim_start_matches("/out/")),
            "{} {}",
            path(&all, 0),
            all.own_pattern()
        );
        // The process has the number in the topic's name.
        let numbered = Parts { topic: "orders77", ..parts("<TOPIC><REV>.<DATETIME>.<PID>.log") };
        let names = FileNames::new(&numbered).unwrap();
        for (name, is_own) in [
            ("orders77.2025-01-01_00.5.log", true),
            ("orders77-000003.2025-01-01_00.77.log", true),
            ("orders78.2025-01-01_00.5.log", false),
            ("orders77.eu.2025-01-01_00.5.log", false),
            ("orders77.2025-01-01.5.log", false),
        ] {
            assert_eq!(matches(&names, name), is_own, "{name}");
        }
    }
}
