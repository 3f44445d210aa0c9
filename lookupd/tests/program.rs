//! The program: flags, exit codes, log lines, signals.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_nsqlookupd"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Stops the process when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn version_and_help() {
    let version = run(&["-version"]);
    assert_eq!(version.stdout, b"nsqlookupd v1.3.0 (built w/rustc)\n");
    assert_eq!(version.status.code(), Some(0));
    let help = run(&["--help"]);
    assert_eq!((help.status.code(), &help.stdout[..]), (Some(0), &b""[..]));
    assert!(stderr(&help).contains("--inactive-producer-timeout"));
}

#[test]
fn wrong_flags_exit_with_2() {
    for args in [&["--nope"][..], &["--log-level=warning"], &["--tombstone-lifetime=5"], &["--tcp-address"]] {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn failed_start_exits_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let tcp = format!("--tcp-address={address}");
    let output = run(&[&tcp, "--log-prefix=", "--log-level=fatal"]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "FATAL: failed to instantiate nsqlookupd - listen ({address}) failed - listen tcp {address}: bind: address already in use\n"
    );
    let text = stderr(&output);
    assert!(text.starts_with("[nsqlookupd] ") && text.ends_with(&expected), "{text}");

    let output = run(&[&tcp, "--log-format=json"]);
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(text.lines().all(|line| line.starts_with("{\"time\":\"") && line.ends_with('}')), "{text}");
    assert!(text.lines().last().is_some_and(|line| line.contains("\"level\":\"fatal\"")), "{text}");

    for args in [&["--tcp-address=/tmp/x.sock"][..], &["--config=/nonexistent/file"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(stderr(&output).lines().last().unwrap().starts_with("[nsqlookupd] "), "{args:?}");
    }
}

#[test]
fn signals_stop_the_program_with_exit_code_0() {
    for signal in ["-INT", "-TERM"] {
        let flags = ["-tcp-address=127.0.0.1:0", "-http-address", "127.0.0.1:0", "ignored", "--nope"];
        let child = program().args(flags).stderr(Stdio::piped()).spawn().unwrap();
        let mut running = Running(child);
        let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines().map(Result::unwrap);
        assert!(
            lines
                .next()
                .unwrap()
                .contains(" WARNING: flags after an argument that is not a flag are ignored: --nope")
        );
        assert!(lines.next().unwrap().ends_with(" INFO: nsqlookupd v1.3.0 (built w/rustc)"));
        assert!(lines.next().unwrap().contains(" INFO: open files: limit "));
        assert!(lines.next().unwrap().contains(" INFO: TCP: listening on 127.0.0.1:"));
        assert!(lines.next().unwrap().contains(" INFO: HTTP: listening on 127.0.0.1:"));
        let killed = Command::new("kill").args([signal, &running.0.id().to_string()]).status().unwrap();
        assert!(killed.success());
        assert_eq!(running.0.wait().unwrap().code(), Some(0), "{signal}");
        assert!(lines.last().unwrap().ends_with(" INFO: bye"));
    }
}
