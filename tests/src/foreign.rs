//! The programs in `clients/`, written for NSQ's existing client libraries in the style of their users.
//!
//! `tests/run` installs the libraries into `tests/.env`. Each program prints JSON lines about what it received, and the
//! test checks them. With `NSQ_TESTS_NO_FOREIGN` set, tests that need the libraries pass without doing anything.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;

/// Time limit for the next line of a program, and for its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a browser, which loads many pages.
const BROWSER_PATIENCE: Duration = Duration::from_secs(150);

/// Existing client libraries for NSQ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Python, on tornado.
    Pynsq,
    /// Python, on gevent.
    Gnsq,
    /// Node.js.
    Nsqjs,
}

impl Library {
    /// The libraries that `tests/run` installs.
    pub const ALL: [Library; 3] = [Library::Pynsq, Library::Gnsq, Library::Nsqjs];

    /// Starts this library's program `name` (`publish` or `consume`).
    pub fn run(self, name: &str, arguments: &[&str]) -> Program {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let environment = tests.join(".env");
        let (interpreter, folder, ending) = match self {
            Library::Pynsq => (environment.join("python/bin/python"), "pynsq", "py"),
            Library::Gnsq => (environment.join("python/bin/python"), "gnsq", "py"),
            Library::Nsqjs => (PathBuf::from("node"), "nsqjs", "js"),
        };
        let modules = environment.join("nsqjs/node_modules");
        let installed = if self == Library::Nsqjs { modules.as_path() } else { interpreter.as_path() };
        assert!(
            installed.exists(),
            "{} does not exist: run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1 to skip these tests",
            installed.display()
        );
        let mut command = Command::new(interpreter);
        command.arg(tests.join("clients").join(folder).join(name).with_extension(ending)).args(arguments);
        command.env("NODE_PATH", modules).env("PYTHONDONTWRITEBYTECODE", "1");
        Program::start(format!("{self:?} {name} {}", arguments.join(" ")), command)
    }
}

/// Whether the tests with foreign clients are skipped.
pub fn left_out() -> bool {
    std::env::var_os("NSQ_TESTS_NO_FOREIGN").is_some()
}

/// Runs the script of a page, with this origin and the query of its address. See `clients/browser/page.js`.
pub fn run_page(page: &Path, origin: &str, query: &str) -> Program {
    let runner = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/browser/page.js");
    let mut command = Command::new("node");
    command.arg(runner).arg(page).args([origin, query]);
    Program::start(format!("{} {query}", page.display()), command)
}

/// Runs a check of the dashboard in a browser. See `clients/dashboard/checks.js`.
pub fn run_browser_check(check: &str, url: &str, arguments: &[&str]) -> Program {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = tests.join(".env/dashboard/node_modules");
    assert!(
        modules.exists(),
        "{} does not exist: run tests/run once, or set NSQ_TESTS_NO_FOREIGN=1 to skip these tests",
        modules.display()
    );
    let mut command = Command::new("node");
    command.arg(tests.join("clients/dashboard/checks.js")).args([check, url]).args(arguments);
    command.env("NODE_PATH", modules);
    Program::start(format!("{check} {}", arguments.join(" ")), command).patient(BROWSER_PATIENCE)
}

/// A running program that prints JSON lines. Killed when dropped.
pub struct Program {
    name: String,
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stderr: Option<JoinHandle<String>>,
    patience: Duration,
}

impl Program {
    fn start(name: String, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let mut stderr = child.stderr.take().expect("stderr is piped");
        let stderr = tokio::spawn(async move {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text).await;
            String::from_utf8_lossy(&text).into_owned()
        });
        Program { name, child, lines, stderr: Some(stderr), patience: PATIENCE }
    }

    /// With another time limit for each line and for the end.
    fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The next line of the kind `event`. Skips lines of other kinds; an `error` line is a failure.
    pub async fn next(&mut self, event: &str) -> Value {
        let search = async {
            while let Some(line) = self.lines.next_line().await.expect("the output can be read") {
                let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
                assert!(event == "error" || line["event"] != "error", "{}: {line}", self.name);
                if line["event"] == event {
                    return Some(line);
                }
            }
            None
        };
        match tokio::time::timeout(self.patience, search).await {
            Ok(Some(line)) => line,
            Ok(None) => self.fail(&format!("ended before an event {event:?}")).await,
            Err(_) => self.fail(&format!("no event {event:?} within {:?}", self.patience)).await,
        }
    }

    /// The bodies of the next `count` messages that the program received.
    pub async fn bodies(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::with_capacity(count);
        while bodies.len() < count {
            let message = self.next("message").await;
            bodies.push(message["body"].as_str().expect("a body").to_owned());
        }
        bodies
    }

    /// Waits for a successful end and returns all lines not read yet.
    pub async fn finish(mut self) -> Vec<Value> {
        let rest = async {
            let mut rest = Vec::new();
            while let Some(line) = self.lines.next_line().await.expect("the output can be read") {
                rest.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}")));
            }
            (rest, self.child.wait().await.expect("the exit status can be read"))
        };
        let patience = self.patience;
        match tokio::time::timeout(patience, rest).await {
            Ok((rest, status)) if status.success() => rest,
            Ok((rest, status)) => self.fail(&format!("ended with {status}; its last lines: {rest:?}")).await,
            Err(_) => self.fail(&format!("did not end within {patience:?}")).await,
        }
    }

    async fn fail(&mut self, reason: &str) -> ! {
        let _ = self.child.kill().await;
        let stderr = match self.stderr.take() {
            Some(stderr) => stderr.await.unwrap_or_default(),
            None => String::new(),
        };
        panic!("{}: {reason}; its stderr:\n{stderr}", self.name)
    }
}
