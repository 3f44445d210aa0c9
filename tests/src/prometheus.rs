//! `/metrics`, parsed strictly enough to detect what Prometheus would refuse; and promtool, the original parser.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;

/// A parsed page of metrics.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Type of each metric, by name.
    pub types: BTreeMap<String, String>,
    /// Value of each sample, by name and labels as written on the page.
    pub samples: BTreeMap<String, f64>,
    /// The unparsed page.
    pub text: String,
}

impl Page {
    /// Parses a page; panics if it is malformed.
    pub fn parse(text: &str) -> Self {
        let mut page = Page { text: text.to_owned(), ..Page::default() };
        let mut family = String::new();
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a HELP line has a text");
                assert!(help.ends_with('.'), "the help text does not end with a period: {line}");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a TYPE line has a type");
                assert_eq!(name, helped, "the TYPE line does not follow its HELP line");
                let known = page.types.insert(name.to_owned(), kind.to_owned());
                assert!(known.is_none(), "{name} is declared twice");
                family = name.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').expect("name and value");
                let name = series.split('{').next().unwrap_or_default();
                let is_histogram = page.types.get(&family).is_some_and(|kind| kind == "histogram");
                let suffixes: &[&str] = if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
                let fits = suffixes.iter().any(|suffix| name == format!("{family}{suffix}"));
                assert!(fits, "{line} is not a sample of {family}");
                let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
                assert!(page.samples.insert(series.to_owned(), value).is_none(), "{series} appears twice");
            }
        }
        page
    }

    /// The value of a sample, which must exist.
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("{series} is missing in {}", self.text))
    }

    /// The samples of a metric, with their labels.
    pub fn series_of(&self, name: &str) -> Vec<&str> {
        let of = |series: &&String| series.split('{').next() == Some(name);
        self.samples.keys().filter(of).map(String::as_str).collect()
    }
}

impl Daemon {
    /// `GET /metrics`.
    pub async fn metrics(&self) -> Page {
        let response = self.get("/metrics").await.expect(200);
        assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        Page::parse(&response.text())
    }
}

/// The `promtool` that `tests/run` installs, else the one on the path.
pub fn promtool() -> Command {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env/promtool/promtool");
    Command::new(if installed.exists() { installed } else { PathBuf::from("promtool") })
}

/// Runs promtool on a text and expects success.
pub fn promtool_accepts(arguments: &[&str], input: &str) {
    use std::io::Write;
    let mut child = promtool()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool: {error}; run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1 to skip these tests")
        });
    // Failure is ignored: promtool may report an error before it has read everything.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let output_text = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&output_text));
}
