//! The dependencies are what deny.toml allows: licences, versions, sources. `cargo deny check` does the same and more, but
//! needs a network and some minutes to be built.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;

use serde::Deserialize;

/// The parts of deny.toml that these tests check.
#[derive(Deserialize)]
struct Policy {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    skip: Vec<Skip>,
}

/// A version that may exist beside another one.
#[derive(Deserialize)]
struct Skip {
    /// `name@version`, without build metadata.
    #[serde(rename = "crate")]
    package: String,
    reason: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: Vec<String>,
}

/// What `cargo metadata` prints.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    /// An SPDX expression.
    license: Option<String>,
    /// `None` for a package of the workspace.
    source: Option<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// The version requirement.
    req: String,
    path: Option<String>,
}

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deny.toml");
    let text = std::fs::read_to_string(path).expect("deny.toml is readable");
    toml::from_str(&text).expect("deny.toml is valid")
});

/// The packages of all targets that are built.
static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["metadata", "--locked", "--offline", "--format-version=1"]);
    for target in &POLICY.graph.targets {
        command.args(["--filter-platform", target]);
    }
    let output = command.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo can be started");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Metadata = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    assert!(metadata.packages.len() > 100, "all dependencies are listed");
    metadata.packages
});

#[test]
fn every_license_is_allowed() {
    for Package { name, version, license, .. } in &*PACKAGES {
        let license = license.as_deref().unwrap_or_else(|| panic!("{name} {version} names no licence"));
        assert!(
            is_allowed(license, &POLICY.licenses.allow),
            "{name} {version}: deny.toml does not allow the licence {license:?}"
        );
    }
}

#[test]
fn every_package_comes_from_an_allowed_registry() {
    for Package { name, version, source, .. } in &*PACKAGES {
        let is_allowed = |source: &str| {
            let registry = source.strip_prefix("registry+");
            registry
                .is_some_and(|registry| POLICY.sources.allow_registry.iter().any(|known| known == registry))
        };
        assert!(
            source.as_deref().is_none_or(is_allowed),
            "{name} {version}: deny.toml does not allow the source {source:?}"
        );
    }
}

#[test]
fn no_dependency_accepts_every_version() {
    let ours = PACKAGES.iter().filter(|package| package.source.is_none());
    for package in ours {
        for Dependency { name, req, path } in &package.dependencies {
            let is_wildcard = req.contains('*') && path.is_none();
            assert!(!is_wildcard, "{}: the dependency {name} needs a version, not {req:?}", package.name);
        }
    }
}

#[test]
fn every_second_version_of_a_package_has_a_reason() {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for Package { name, version, .. } in &*PACKAGES {
        versions.entry(name).or_default().insert(version.split('+').next().unwrap_or_default());
    }
    for Skip { package, reason } in &POLICY.bans.skip {
        assert!(!reason.is_empty(), "deny.toml gives no reason for {package}");
        let (name, version) = package.split_once('@').expect("name@version");
        let others = versions.get_mut(name).and_then(|versions| versions.remove(version).then_some(versions));
        let others = others.unwrap_or_else(|| panic!("deny.toml: {package} is not used; remove the entry"));
        assert!(!others.is_empty(), "deny.toml: {package} is the only version; remove the entry");
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(
        versions.is_empty(),
        "several versions of a package; unify them, or explain in deny.toml: {versions:?}"
    );
}

/// Whether an SPDX expression can be satisfied by allowed licences. `/` is the old spelling of OR.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    let holds = any_of(&mut rest, allowed);
    assert!(rest.is_empty(), "not a licence: {expression:?}");
    holds
}

/// Reads `A OR B ...`; AND binds more closely.
fn any_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut holds = all_of(words, allowed);
    while skip_word(words, "OR") {
        holds |= all_of(words, allowed);
    }
    holds
}

fn all_of(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    let mut holds = one(words, allowed);
    while skip_word(words, "AND") {
        holds &= one(words, allowed);
    }
    holds
}

/// Reads a licence, perhaps with an exception, or an expression in parentheses.
fn one(words: &mut &[&str], allowed: &BTreeSet<String>) -> bool {
    if skip_word(words, "(") {
        let holds = any_of(words, allowed);
        assert!(skip_word(words, ")"), "a closing parenthesis is missing");
        return holds;
    }
    let Some((name, rest)) = words.split_first() else { panic!("a licence is missing") };
    *words = rest;
    if !skip_word(words, "WITH") {
        return allowed.contains(*name);
    }
    let Some((exception, rest)) = words.split_first() else { panic!("an exception is missing") };
    *words = rest;
    allowed.contains(&format!("{name} WITH {exception}"))
}

fn skip_word(words: &mut &[&str], word: &str) -> bool {
    let is_next = words.first() == Some(&word);
    if is_next {
        *words = &words[1..];
    }
    is_next
}

#[test]
fn license_expressions_are_evaluated() {
    let allowed = ["MIT", "ISC", "Unicode-3.0"].map(str::to_owned).into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("ISC OR MIT AND GPL-3.0", true),
        ("(ISC OR MIT) AND GPL-3.0", false),
        ("MIT WITH LLVM-exception", false),
        ("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT", true),
    ] {
        assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
    }
}
