//! What a daemon tells Prometheus, read strictly enough to notice what a real reader would refuse; and promtool, which
//! is such a reader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::daemon::Daemon;

/// A page of metrics.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Each metric's type, by name.
    pub types: BTreeMap<String, String>,
    /// Each sample, by its name and labels as they are written.
    pub samples: BTreeMap<String, f64>,
    /// As it came.
    pub text: String,
}

impl Page {
    /// Reads a page; panics where it is no good.
    pub fn parse(text: &str) -> Self {
        let mut page = Page { text: text.to_owned(), ..Page::default() };
        let mut family = String::new();
        let mut helped = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a help has a text");
                assert!(help.ends_with('.'), "a help is a sentence: {line}");
                helped = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a type");
                assert_eq!(name, helped, "a type comes with its help");
                let known = page.types.insert(name.to_owned(), kind.to_owned());
                assert!(known.is_none(), "{name} is told in one place");
                family = name.to_owned();
            } else {
                let (series, value) = line.rsplit_once(' ').expect("name and value");
                let name = series.split('{').next().unwrap_or_default();
                let is_histogram = page.types.get(&family).is_some_and(|kind| kind == "histogram");
                let suffixes: &[&str] = if is_histogram { &["_bucket", "_sum", "_count"] } else { &[""] };
                let fits = suffixes.iter().any(|suffix| name == format!("{family}{suffix}"));
                assert!(fits, "{line} stands below {family}");
                let value = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
                assert!(page.samples.insert(series.to_owned(), value).is_none(), "{series} is told once");
            }
        }
        page
    }

    /// A sample that is there.
    pub fn value(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("{series} is not in {}", self.text))
    }

    /// The samples of a metric.
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

/// `promtool`: where `tests/run` puts it, else on the path.
pub fn promtool() -> Command {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join(".env/promtool/promtool");
    Command::new(if installed.exists() { installed } else { PathBuf::from("promtool") })
}

/// Runs promtool on a text and expects that it is content.
pub fn promtool_accepts(arguments: &[&str], input: &str) {
    use std::io::Write;
    let mut child = promtool()
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("promtool: {error}; run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1 to do without")
        });
    // It may say what is wrong before it has read all.
    let _ = child.stdin.take().expect("stdin is piped").write_all(input.as_bytes());
    let output = child.wait_with_output().expect("promtool ends");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}
