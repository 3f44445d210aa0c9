use std::collections::BTreeSet;
use std::process::Command;

/// The crates that a program with the client library builds, the library and its parts included.
fn crates(features: &[&str]) -> BTreeSet<String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "tree",
        "--locked",
        "--offline",
        "-p",
        "nsq-rs",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--no-dedupe",
    ]);
    let output =
        command.args(features).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn a_build_without_features_has_few_dependencies() {
    let lean = crates(&["--no-default-features"]);
    assert!(lean.contains("nsq-rs v0.1.0") && lean.len() <= 60, "{}: {lean:#?}", lean.len());
    for absent in ["rustls", "ring", "x509-cert", "snap", "flate2", "tracing-attributes", "tower", "prost"] {
        assert!(!lean.iter().any(|name| name.starts_with(&format!("{absent} "))), "{absent}");
    }
    let whole = crates(&[]);
    assert!(whole.is_superset(&lean) && whole.len() <= 100, "{}: {whole:#?}", whole.len());
}
