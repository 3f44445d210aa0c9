use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nsq_tests::test;
use tempfile::TempDir;
use tokio::process::Command;

use crate::cli::{cluster, command, run};

/// `nsq` with the profiles of this folder.
fn nsq(folder: &Path, line: &str) -> Command {
    let mut command = command(line);
    command.env("XDG_CONFIG_HOME", folder);
    command
}

fn file(folder: &Path) -> PathBuf {
    folder.join("nsq/config.toml")
}

#[test]
fn profiles_are_added_used_shown_and_removed() {
    test(async {
        let folder = TempDir::new().expect("a folder");
        let nsq = |line: &str| nsq(folder.path(), line);
        assert_eq!(run(nsq("profile ls -o name"), b"").await.expect(0).stdout, "");
        let missing = run(nsq("profile show"), b"").await.expect(4);
        assert!(missing.stderr.contains("no profile is in use"), "{}", missing.stderr);
        run(nsq("profile add prod"), b"").await.expect(2);
        run(nsq("profile add wrong/name --nsqd a"), b"").await.expect(2);
        run(nsq("profile add prod --lookupd a:1,b:2 --tls-server-name x --protected --use"), b"")
            .await
            .expect(0);
        run(nsq("profile add here --nsqd 127.0.0.1:4151"), b"").await.expect(0);
        assert_eq!(run(nsq("profile add here --nsqd c"), b"").await.code, Some(1));
        run(nsq("profile add here --nsqd c --replace"), b"").await.expect(0);
        let mode = std::fs::metadata(file(folder.path())).expect("the file is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        assert_eq!(run(nsq("profile ls -o name"), b"").await.expect(0).stdout, "here\nprod\n");
        let shown = run(nsq("profile show --json"), b"").await.expect(0).json();
        assert_eq!((shown["profile"].as_str(), shown["lookupd"][1].as_str()), (Some("prod"), Some("b:2")));
        assert_eq!(shown["tls"]["server_name"], "x");
        run(nsq("profile use her"), b"").await.expect(4);
        run(nsq("profile use here"), b"").await.expect(0);
        assert!(run(nsq("profile show"), b"").await.expect(0).stdout.contains("[profile.here]"));
        run(nsq("profile rm here"), b"").await.expect(0);
        run(nsq("profile show"), b"").await.expect(4);

        let mut with_secret = nsq("profile add s --nsqd a");
        with_secret.env("NSQ_AUTH_SECRET", "secret");
        let refused = run(with_secret, b"").await.expect(2);
        assert!(refused.stderr.contains("does not hold secrets"), "{}", refused.stderr);
    });
}

#[test]
fn flags_come_before_the_environment_and_the_environment_before_a_profile() {
    test(async {
        let (lookupd, _nsqds) = cluster(1).await;
        let (other, _others) = cluster(2).await;
        let folder = TempDir::new().expect("a folder");
        let count = async |line: &str, environment: Option<String>| {
            let mut command = nsq(folder.path(), &format!("{line} node ls -o name"));
            command.envs(environment.map(|address| ("NSQ_LOOKUPD", address)));
            run(command, b"").await.expect(0).stdout.lines().count()
        };
        let (one, two) = (lookupd.http().to_string(), other.http().to_string());
        run(nsq(folder.path(), &format!("profile add one --lookupd {one} --use")), b"").await.expect(0);
        run(nsq(folder.path(), &format!("profile add two --lookupd {two}")), b"").await.expect(0);
        assert_eq!(count("", None).await, 1);
        assert_eq!(count("-p two", None).await, 2);
        assert_eq!(count("", Some(two.clone())).await, 2);
        assert_eq!(count("-p one", Some(two.clone())).await, 1);
        assert_eq!(count(&format!("--lookupd {two}"), Some(one.clone())).await, 2);
        let unknown = run(nsq(folder.path(), "-p nobody stat"), b"").await.expect(4);
        assert!(unknown.stderr.contains("profiles: one two"), "{}", unknown.stderr);

        let mut alias = std::fs::read_to_string(file(folder.path())).expect("the file");
        alias += "\n[alias]\nn = \"node ls -o name\"\n";
        std::fs::write(file(folder.path()), &alias).expect("the file");
        assert_eq!(run(nsq(folder.path(), "n --profile two"), b"").await.expect(0).stdout.lines().count(), 2);
        std::fs::write(file(folder.path()), "[profile.x]\nlokupd = \"a\"\n").expect("the file");
        let wrong = run(nsq(folder.path(), "stat"), b"").await.expect(2);
        assert!(wrong.stderr.contains("config.toml") && wrong.stderr.contains("lokupd"), "{}", wrong.stderr);
        run(nsq(folder.path(), "help"), b"").await.expect(0);
    });
}

#[test]
fn a_protected_profile_asks_for_its_name() {
    test(async {
        let (lookupd, nsqds) = cluster(1).await;
        let folder = TempDir::new().expect("a folder");
        let add = format!("profile add prod --lookupd {} --protected --use", lookupd.http());
        run(nsq(folder.path(), &add), b"").await.expect(0);
        nsqds[0].publish("t", "x").await;
        let refused = run(nsq(folder.path(), "topic delete t --yes"), b"").await.expect(5);
        assert!(refused.stderr.contains("--protected-ok prod"), "{}", refused.stderr);
        assert!(nsqds[0].topic("t").await.is_some());
        run(nsq(folder.path(), "topic delete t --yes --protected-ok other"), b"").await.expect(5);
        run(nsq(folder.path(), "topic delete t --yes --dry-run"), b"").await.expect(0);
        run(nsq(folder.path(), "topic delete t --yes --protected-ok prod"), b"").await.expect(0);
        assert!(nsqds[0].topic("t").await.is_none());
        // Another cluster is not protected.
        nsqds[0].publish("t", "x").await;
        let line = format!("topic delete t --yes --nsqd {}", nsqds[0].http());
        run(nsq(folder.path(), &line), b"").await.expect(0);
    });
}

#[test]
fn an_edited_file_is_checked_before_it_is_saved() {
    test(async {
        let folder = TempDir::new().expect("a folder");
        let editor = folder.path().join("editor");
        let edit = |text: &str| {
            std::fs::write(&editor, format!("#!/bin/sh\nprintf '%s' '{text}' > \"$1\"\n")).expect("a script");
            std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("a script");
            let mut command = nsq(folder.path(), "profile edit");
            command.env("VISUAL", "").env("EDITOR", &editor);
            command
        };
        run(edit("[profile.a]\nnsqd = \"n\"\n"), b"").await.expect(0);
        assert_eq!(run(nsq(folder.path(), "profile ls -o name"), b"").await.expect(0).stdout, "a\n");
        let wrong = run(edit("[profile.b\n"), b"").await.expect(2);
        assert!(wrong.stderr.contains("nothing was saved"), "{}", wrong.stderr);
        assert_eq!(run(nsq(folder.path(), "profile ls -o name"), b"").await.expect(0).stdout, "a\n");
    });
}
