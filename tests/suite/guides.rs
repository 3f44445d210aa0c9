//! The guides in `docs/` do what they say: their shell examples run, from top to bottom, in an empty directory.
//!
//! A block that is marked `sh daemon` starts a daemon, which runs until the next such block for the same program or until
//! `<!-- stop -->`. Each block marked `sh` must succeed. A block marked `output` (`text output`, `json output`) holds what
//! the block before it prints: `…` matches any text, and white space does not count. The examples use the standard
//! ports; the test puts free ones in their place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use nsq_tests::daemon::binary;
use nsq_tests::{test, wait};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// No example takes longer.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, PartialEq)]
enum Part {
    Daemon(String),
    Shell { text: String, output: Option<String> },
    Stop,
}

fn parts(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let mut block = || lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
        match line {
            "```sh" => parts.push(Part::Shell { text: block(), output: None }),
            "```sh daemon" => parts.push(Part::Daemon(block())),
            _ if line.starts_with("```") && line.ends_with(" output") => match parts.last_mut() {
                Some(Part::Shell { output: output @ None, .. }) => *output = Some(block()),
                other => panic!("no example prints this: {}, after {other:?}", block()),
            },
            _ if line.starts_with("```") => drop(block()),
            _ if line.contains("<!-- stop -->") => parts.push(Part::Stop),
            _ => {}
        }
    }
    parts
}

/// Whether a text is the documented one, where `…` matches any text and white space does not count.
fn is_documented(text: &str, documented: &str) -> bool {
    let compact = |text: &str| text.split_whitespace().collect::<String>();
    let (text, documented) = (compact(text), compact(documented));
    let mut pieces = documented.split('…');
    let Some(mut rest) = pieces.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let mut pieces = pieces.peekable();
    if pieces.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(piece) = pieces.next() {
        if pieces.peek().is_none() {
            return rest.ends_with(piece);
        }
        let Some((_, behind)) = rest.split_once(piece) else { return false };
        rest = behind;
    }
    true
}

/// A flag of an nsqd that runs beside another one.
const SECOND: &str = "--http-address=127.0.0.1:4251";

/// A daemon of a guide.
struct Running {
    program: &'static str,
    child: Child,
    log: PathBuf,
    /// Its standard ports and those that are used in their place, each with the colon before it.
    ports: Vec<(&'static str, String)>,
}

/// Where a guide's examples run: its commands come first in the path, its daemons listen on free ports.
struct Place {
    folder: TempDir,
    daemons: Vec<Running>,
}

impl Place {
    fn new() -> Self {
        let folder = TempDir::with_prefix("nsq-guide-").expect("a temporary directory");
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).expect("a new directory");
        let free = "--tcp-address=127.0.0.1:0 --http-address=127.0.0.1:0 --broadcast-address=127.0.0.1";
        let script = |name: &str, flags: &str| {
            let path = bin.join(name);
            let text = format!("#!/bin/sh\nexec '{}' {flags} \"$@\"\n", binary(name).display());
            fs::write(&path, text).expect("a new file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
        };
        script("nsqd", &format!("{free} --https-address=127.0.0.1:0"));
        script("nsqlookupd", free);
        script("nsq", "");
        let admin = bin.join("nsqadmin");
        let text = format!(
            "#!/bin/sh\nexec '{}' compat nsqadmin --http-address=127.0.0.1:0 --sample-interval=1s \"$@\"\n",
            binary("nsq").display()
        );
        fs::write(&admin, text).expect("a new file");
        fs::set_permissions(&admin, fs::Permissions::from_mode(0o755)).expect("our own file");
        fs::create_dir(folder.path().join("work")).expect("a new directory");
        Place { folder, daemons: Vec::new() }
    }

    /// Puts the used ports in the place of the standard ones.
    fn with_used_ports(&self, text: &str) -> String {
        let ports = self.daemons.iter().flat_map(|daemon| &daemon.ports);
        ports.fold(text.to_owned(), |text, (standard, used)| text.replace(standard, used))
    }

    fn shell(&self, text: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .args(["-euc", &self.with_used_ports(text)])
            .current_dir(self.folder.path().join("work"))
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env_remove("NSQ_LOOKUPD")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let nsqd_http = self.with_used_ports("127.0.0.1:4151");
        if nsqd_http != "127.0.0.1:4151" {
            command.env("NSQ_NSQD", nsqd_http);
        }
        command
    }

    async fn start(&mut self, text: &str) {
        // The command that starts the daemon comes last. `exec` lets the signal reach it.
        let (before, command) = text.split_at(text.rfind("\nnsq").map_or(0, |end| end + 1));
        let (program, standard) = match command.split_whitespace().next() {
            Some("nsqd") if command.contains(SECOND) => ("nsqd", [":4250", ":4251"]),
            Some("nsqd") => ("nsqd", [":4150", ":4151"]),
            Some("nsqlookupd") => ("nsqlookupd", [":4160", ":4161"]),
            // It has no TCP listener.
            Some("nsqadmin") => ("nsqadmin", ["", ":4171"]),
            other => panic!("{other:?} is not a daemon: {text}"),
        };
        let is_second = command.contains(SECOND);
        // The ports that the guide names are not free.
        let is_kept = |word: &&str| !word.contains("address=127.0.0.1:42");
        let command = match is_second {
            true => command.split_whitespace().filter(is_kept).collect::<Vec<_>>().join(" "),
            false => command.to_owned(),
        };
        if !is_second {
            self.stop(Some(program)).await;
        }
        let log = self.folder.path().join(format!("{program}{}.log", if is_second { "-2" } else { "" }));
        let file = fs::File::create(&log).expect("a new file");
        let mut child =
            self.shell(&format!("{before}exec {command}")).stderr(file).spawn().expect("bash is there");
        let serves_http = !text.contains("--http-address= ");
        let ports = wait::until("a daemon that listens", async || {
            if let Some(status) = child.try_wait().expect("our own child") {
                panic!("{status}: {text}\n{}", read(&log));
            }
            let log = read(&log);
            let port = |what: &str| {
                let line = log.split_once(&format!("{what}: listening on 127.0.0.1"))?.1.lines().next()?;
                Some(line.to_owned())
            };
            let used = [port("TCP"), port("HTTP")];
            let ports: Vec<_> = standard
                .into_iter()
                .zip(used)
                .filter_map(|(standard, used)| Some((standard, used?)))
                .collect();
            let has_tcp = usize::from(program != "nsqadmin");
            if ports.len() == has_tcp + usize::from(serves_http) { Ok(ports) } else { Err(log) }
        })
        .await;
        self.daemons.push(Running { program, child, log, ports });
    }

    /// Stops the daemons that run this program; without one, all of them.
    async fn stop(&mut self, program: Option<&str>) {
        let is_meant = |daemon: &mut Running| program.is_none_or(|program| daemon.program == program);
        for Running { mut child, log, .. } in self.daemons.extract_if(.., is_meant) {
            let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())).expect("it has not ended");
            kill_process(pid, Signal::TERM).expect("our own child");
            let status =
                timeout(LIMIT, child.wait()).await.expect("it stops in time").expect("our own child");
            assert!(status.success(), "{status}\n{}", read(&log));
        }
    }

    /// Runs an example. What it prints may be right only after a moment, such as when nsqd has registered.
    async fn run(&self, text: &str, documented: Option<&str>) {
        let Some(documented) = documented else {
            self.printed(text).await;
            return;
        };
        let documented = self.with_used_ports(documented);
        wait::until("the documented output", async || {
            let printed = self.printed(text).await;
            if is_documented(&printed, &documented) { Ok(()) } else { Err(format!("{text}\n{printed}")) }
        })
        .await;
    }

    async fn printed(&self, text: &str) -> String {
        let output = timeout(LIMIT, self.shell(text).output()).await;
        let Output { status, stdout, stderr } =
            output.unwrap_or_else(|_| panic!("takes too long:\n{text}")).expect("bash is there");
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(status.success(), "{status}\n{text}\n{stdout}\n{stderr}");
        stdout
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn run_guide(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    let parts = parts(&fs::read_to_string(&path).expect("the guide can be read"));
    assert!(parts.iter().any(|part| matches!(part, Part::Shell { .. })), "{name} has examples");
    test(async {
        let mut place = Place::new();
        for part in &parts {
            match part {
                Part::Daemon(text) => place.start(text).await,
                Part::Shell { text, output } => place.run(text, output.as_deref()).await,
                Part::Stop => place.stop(None).await,
            }
        }
        place.stop(None).await;
    });
}

#[test]
fn examples_of_the_dashboard_guide_run() {
    run_guide("DASHBOARD.md");
}

#[test]
fn examples_of_the_auth_guide_run() {
    run_guide("AUTH.md");
}

#[test]
fn examples_of_the_cli_guide_run() {
    run_guide("CLI.md");
}

#[test]
fn examples_of_the_tools_guide_run() {
    run_guide("TOOLS.md");
}

#[test]
fn examples_of_the_data_guide_run() {
    run_guide("DATA.md");
}

#[test]
fn examples_of_the_http_reference_run() {
    run_guide("HTTP.md");
}

#[test]
fn examples_of_the_http_consumers_guide_run() {
    run_guide("HTTP_CONSUMERS.md");
}

#[test]
fn examples_of_the_policies_guide_run() {
    run_guide("POLICIES.md");
}

#[test]
fn examples_of_the_dead_letters_guide_run() {
    run_guide("DEAD_LETTERS.md");
}

#[test]
fn examples_of_the_peek_guide_run() {
    run_guide("PEEK.md");
}

#[test]
fn examples_of_the_why_guide_run() {
    run_guide("WHY.md");
}

#[test]
fn examples_of_the_ttl_guide_run() {
    run_guide("TTL.md");
}

#[test]
fn examples_of_the_bounds_guide_run() {
    run_guide("BOUNDS.md");
}

#[test]
fn examples_of_the_order_guide_run() {
    run_guide("ORDER.md");
}

#[test]
fn examples_of_the_rate_limits_guide_run() {
    run_guide("RATE_LIMITS.md");
}

#[test]
fn examples_of_the_headers_guide_run() {
    run_guide("HEADERS.md");
}

#[test]
fn examples_of_the_deduplication_guide_run() {
    run_guide("DEDUPLICATION.md");
}

#[test]
fn examples_of_the_migration_guide_run() {
    run_guide("MIGRATING.md");
}

#[test]
fn examples_of_the_retention_guide_run() {
    run_guide("RETENTION.md");
}

#[test]
fn examples_of_the_drain_guide_run() {
    run_guide("DRAIN.md");
}

#[test]
fn examples_of_the_check_guide_run() {
    run_guide("CHECK.md");
}

#[test]
fn examples_of_the_undo_guide_run() {
    run_guide("UNDO.md");
}

#[test]
fn examples_of_the_tls_guide_run() {
    run_guide("TLS.md");
}

#[test]
fn every_guide_with_examples_is_run() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let own = include_str!("guides.rs");
    for entry in fs::read_dir(docs).expect("the folder can be read").flatten() {
        let has_daemon = parts(&read(&entry.path())).iter().any(|part| matches!(part, Part::Daemon(_)));
        let name = entry.file_name().to_string_lossy().into_owned();
        assert!(!has_daemon || own.contains(&format!("run_guide(\"{name}\")")), "no test runs {name}");
    }
}

#[test]
fn output_is_compared_except_for_marked_parts() {
    for (text, documented, expected) in [
        ("OK", "OK\n", true),
        ("OK", "O", false),
        ("{\"a\":1,\"b\":2}", "{\n  \"a\": …,\n  \"b\": 2\n}", true),
        ("{\"a\":1,\"b\":3}", "{\"a\": …, \"b\": 2}", false),
        ("{\"a\":1,\"c\":2}", "{\"a\": …, \"b\": …}", false),
        ("anything", "…", true),
    ] {
        assert_eq!(is_documented(text, documented), expected, "{text} {documented}");
    }
}
