use std::fs;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace").to_owned()
}

/// All Rust files of the workspace, except build outputs.
fn rust_files() -> Vec<PathBuf> {
    fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("the directory is readable").flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if name != "target" && name != "node_modules" && !name.to_string_lossy().starts_with('.') {
                    collect(&path, files);
                }
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                files.push(path);
            }
        }
    }
    let mut files = Vec::new();
    collect(&workspace(), &mut files);
    files
}

/// The code of a file, without comments and without its test module.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file is UTF-8");
    let lines = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    lines.map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

#[test]
fn paths_named_in_the_documentation_exist() {
    let mut missing = Vec::new();
    for document in documents() {
        let path = workspace().join(&document);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let quoted = text.split('`').skip(1).step_by(2);
        for name in quoted.filter(|name| is_workspace_path(name)) {
            let file = name.split(':').next().unwrap_or_default();
            if !workspace().join(file).exists() {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "paths that do not exist: {missing:#?}");
}

#[test]
fn compatibility_table_names_existing_tests() {
    let path = workspace().join("docs/COMPATIBILITY.md");
    let text = fs::read_to_string(&path).expect("docs/COMPATIBILITY.md is readable");
    let files = rust_files();
    let code: String = files.iter().map(|path| fs::read_to_string(path).expect("UTF-8")).collect();
    let is_there = |name: &str| {
        let (module, name) = name.trim_end_matches("::").rsplit_once("::").unwrap_or(("", name));
        let name = name.trim_end_matches("::");
        let function = format!("fn {name}(");
        let of_suite = workspace().join(format!("tests/suite/{module}.rs"));
        if of_suite.exists() {
            return fs::read_to_string(of_suite).expect("UTF-8").contains(&function);
        }
        let is_module = || files.iter().any(|path| path.file_stem().is_some_and(|stem| stem == name));
        code.contains(&function) || code.contains(&format!("mod {name}")) || is_module()
    };
    let mut wrong = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [.., here, shown_by] = cells[..] else { continue };
        // Another test checks the paths.
        let named: Vec<&str> =
            shown_by.split('`').skip(1).step_by(2).filter(|name| !name.contains('/')).collect();
        wrong.extend(named.iter().filter(|name| !is_there(name)).map(|name| format!("no such test: {name}")));
        let is_shown = !named.is_empty() || shown_by.contains(['/', '#']) || shown_by == "the same";
        if here.starts_with("same") && !is_shown {
            wrong.push(format!("no test is named: {row}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every page that a reader is pointed to.
fn documents() -> Vec<String> {
    let docs = fs::read_dir(workspace().join("docs")).expect("the folder can be read").flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()));
    ["README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/README.md"]
        .map(str::to_owned)
        .into_iter()
        .chain(docs)
        .collect()
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let path = workspace().join(&document);
        let text = fs::read_to_string(&path).expect("a page is UTF-8");
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            if !path.parent().expect("a page lies in a folder").join(file).exists() {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

/// Whether a quoted word starts with a directory of the workspace.
fn is_workspace_path(name: &str) -> bool {
    let folders =
        ["protocol/", "nsqd/", "lookupd/", "client/", "admin-cli/", "tests/", "docs/", "deploy/", ".ci/"];
    let is_plain = !name.contains([' ', '*', '<', '{', '…', '\n']);
    is_plain && !name.starts_with("tests/.env") && folders.iter().any(|folder| name.starts_with(folder))
}

#[test]
fn pure_files_use_no_runtime_files_sockets_or_clock() {
    const BANNED: [&str; 8] =
        ["tokio", "std::fs", "std::net", "std::thread", "Instant::now", "SystemTime::now", "hyper", "rustix"];
    let mut pure: Vec<PathBuf> = rust_files()
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name == "state.rs"))
        .collect();
    // Other files with decision logic.
    let named = [
        "nsqd/src/channel/outstanding.rs",
        "nsqd/src/channel/in_flight.rs",
        "nsqd/src/channel/deferred.rs",
        "nsqd/src/channel/consumers.rs",
        "nsqd/src/log/segment.rs",
        "nsqd/src/storage/record.rs",
        "nsqd/src/storage/block.rs",
        "lookupd/src/registry.rs",
        "client/src/rdy.rs",
        "client/src/backoff.rs",
    ];
    pure.extend(named.map(|path| workspace().join(path)).into_iter().filter(|path| path.exists()));
    pure.extend(rust_files().into_iter().filter(|path| path.starts_with(workspace().join("protocol/src"))));
    assert!(pure.len() > 10, "too few pure files found: {pure:?}");

    let mut offences = Vec::new();
    for path in pure {
        let code = code(&path);
        for banned in BANNED.iter().filter(|banned| code.contains(*banned)) {
            offences.push(format!("{} names {banned}", path.display()));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn modules_of_nsqd_depend_only_on_lower_modules() {
    // Low to high. All modules may use the modules that are not listed; this test does not check those.
    let order = ["storage", "log", "channel", "topic", "delivery", "connection"];
    // The log may use the channel's plain data and the channel's trait that it implements.
    let exceptions = [("log", "channel")];
    let mut offences = Vec::new();
    for path in rust_files() {
        let Ok(inside) = path.strip_prefix(workspace().join("nsqd/src")) else { continue };
        let module_name =
            inside.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
        let Some(level) = order.iter().position(|name| Some(*name) == module_name.as_deref()) else {
            continue;
        };
        let code = code(&path);
        for above in order[level + 1..].iter().filter(|above| !exceptions.contains(&(order[level], **above)))
        {
            if code.contains(&format!("crate::{above}::")) || code.contains(&format!("crate::{above};")) {
                offences.push(format!("{} uses {above}", inside.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

#[test]
fn crate_and_module_roots_have_a_doc_comment() {
    let roots = rust_files().into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default();
        let in_source = path.components().any(|part| part.as_os_str() == "src");
        in_source && (name == "mod.rs" || name == "lib.rs" || name == "main.rs")
    });
    for root in roots {
        let text = fs::read_to_string(&root).expect("a source file is UTF-8");
        assert!(text.starts_with("//!"), "{} has no module documentation", root.display());
    }
}
