//! The Debian package: built from the binaries under test, installed into an empty root folder, started, removed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nsq_tests::daemon::binary;
use nsq_tests::foreign;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Runs a command that must succeed; returns its stdout.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn build(output: &Path) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/debian/build");
    let binaries = binary("nsq").parent().expect("a file lies in a folder").to_owned();
    let mut command = Command::new(script);
    command.arg("--binaries").arg(binaries).arg("--output").arg(output);
    // Binaries with debug information are large.
    command.env("DPKG_DEB_COMPRESSOR_TYPE", "gzip").env("DPKG_DEB_COMPRESSOR_LEVEL", "1");
    PathBuf::from(run(&mut command).trim_end())
}

/// dpkg with its database in `root`, which holds nothing that the package depends on.
fn dpkg(root: &Path, action: &str, what: impl AsRef<std::ffi::OsStr>) {
    let mut command = Command::new("dpkg");
    command
        .arg(format!("--root={}", root.display()))
        .args(["--force-depends", "--force-not-root", "--force-script-chrootless", "--log=/dev/null", action])
        .arg(what);
    run(&mut command);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn debian_package_installs_starts_and_is_removed() {
    if foreign::left_out() {
        return;
    }
    let folder = TempDir::with_prefix("nsq-debian-").expect("a temporary directory");
    let root = folder.path().join("root");
    fs::create_dir_all(root.join("var/lib/dpkg/info")).expect("a new folder");
    fs::create_dir_all(root.join("var/lib/dpkg/updates")).expect("a new folder");
    fs::write(root.join("var/lib/dpkg/status"), "").expect("a new file");
    dpkg(&root, "--install", build(folder.path()));

    let program = |name: &str| root.join("usr/bin").join(name);
    for name in ["nsqd", "nsqlookupd"] {
        let unit = root.join(format!("usr/lib/systemd/system/{name}.service"));
        let unit = fs::read_to_string(unit).expect("the package has a unit");
        assert!(unit.contains(&format!("ExecStart=/usr/bin/{name} --config=/etc/nsq/{name}.cfg")), "{unit}");
        let config = format!("--config={}", root.join(format!("etc/nsq/{name}.cfg")).display());
        assert!(
            run(Command::new(program(name)).args([&config, "--version"])).starts_with(&format!("{name} v"))
        );
    }
    for page in ["nsqd.1.gz", "nsqlookupd.1.gz", "nsq.1.gz", "nsq-sub.1.gz"] {
        let page = root.join("usr/share/man/man1").join(page);
        assert!(run(Command::new("gzip").arg("-cd").arg(&page)).contains(".SH NAME"), "{}", page.display());
    }
    let completion = root.join("usr/share/bash-completion/completions/nsq");
    run(Command::new("bash").arg("-n").arg(completion));

    for tool in ["nsq_stat", "nsq_tail", "nsq_to_file", "nsq_to_http", "nsq_to_nsq"] {
        assert_eq!(run(Command::new(program(tool)).arg("-version")), format!("{tool} v1.3.0\n"));
    }
    assert_eq!(run(Command::new(program("nsqadmin")).arg("-version")), "nsqadmin v1.3.0 (built w/rustc)\n");
    assert!(program("to_nsq").is_symlink());
    for bridge in ["to-file", "to-http", "to-nsq"] {
        let unit = root.join(format!("usr/lib/systemd/system/nsq-{bridge}@.service"));
        let unit = fs::read_to_string(unit).expect("the package has a unit");
        assert!(unit.contains(&format!("ExecStart=/usr/bin/nsq {bridge} $FLAGS")), "{unit}");
    }

    let data = folder.path().join("data");
    fs::create_dir(&data).expect("a new folder");
    let mut nsqd = Command::new(program("nsqd"))
        .arg(format!("--data-path={}", data.display()))
        .args(["--tcp-address=127.0.0.1:0", "--http-address=127.0.0.1:0"])
        .stderr(Stdio::piped())
        .spawn()
        .expect("the installed nsqd starts");
    let mut lines = BufReader::new(nsqd.stderr.take().expect("piped")).lines();
    let http = lines.by_ref().find_map(|line| {
        Some(line.expect("the log is text").split_once("HTTP: listening on ")?.1.to_owned())
    });
    // Read on, so that nsqd can log until it stops.
    let log = std::thread::spawn(move || lines.count());
    let http = http.expect("nsqd listens");
    run(Command::new(program("nsq")).args(["ping", "--nsqd", &http]));
    run(Command::new(program("nsq")).args(["pub", "orders", "hello", "--nsqd", &http]));
    let pid = Pid::from_raw(nsqd.id().cast_signed()).expect("a process has an id");
    kill_process(pid, Signal::TERM).expect("our own child");
    assert!(nsqd.wait().expect("our own child").success());
    log.join().expect("the log ends with nsqd");

    dpkg(&root, "--remove", "nsq-rs");
    let mut left = files(&root);
    left.retain(|path| !path.starts_with(root.join("var/lib/dpkg")));
    left.sort();
    assert_eq!(
        left,
        ["etc/nsq/nsqadmin.cfg", "etc/nsq/nsqd.cfg", "etc/nsq/nsqlookupd.cfg"].map(|path| root.join(path))
    );
}
