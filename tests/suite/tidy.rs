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

/// The code of a file: no comments, and nothing from its inline test module on.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("a source file is UTF-8");
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    let lines = text[..end].lines();
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
    let docs = docs.filter(|name| name.ends_with(".md"));
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
    let folders = [
        "protocol/",
        "tls/",
        "dial/",
        "daemon/",
        "nsqd/",
        "lookupd/",
        "client/",
        "admin-cli/",
        "tests/",
        "docs/",
        "deploy/",
        ".ci/",
    ];
    let is_plain = !name.contains([' ', '*', '<', '{', '…', '\n']);
    is_plain && !name.starts_with("tests/.env") && folders.iter().any(|folder| name.starts_with(folder))
}

#[test]
fn pure_files_use_no_runtime_files_sockets_or_clock() {
    const BANNED: [&str; 11] = [
        "tokio",
        "hyper",
        "rustix",
        "std::fs",
        "std::thread",
        "Instant::now",
        "SystemTime::now",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
    ];
    let protocol = workspace().join("protocol/src");
    let says_pure = |path: &Path| {
        let text = fs::read_to_string(path).expect("a source file is UTF-8");
        text.lines().take_while(|line| line.starts_with("//!")).any(|line| line.contains("Pure"))
    };
    let pure: Vec<PathBuf> =
        rust_files().into_iter().filter(|path| path.starts_with(&protocol) || says_pure(path)).collect();
    assert!(pure.len() > 60, "most rules that decide something are pure: {pure:?}");

    let mut offences = Vec::new();
    for path in pure {
        let code = code(&path);
        for banned in BANNED.iter().filter(|banned| code.contains(*banned)) {
            offences.push(format!("{} uses {banned}", path.display()));
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

/// `nsqd/src/lib.rs` declares its modules from low to high.
#[test]
fn modules_of_nsqd_depend_only_on_lower_modules() {
    let source = workspace().join("nsqd/src");
    let library = fs::read_to_string(source.join("lib.rs")).expect("a source file is UTF-8");
    let order: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(order.len() > 20, "{order:?}");
    let files = rust_files();
    let test_modules: Vec<PathBuf> = files.iter().flat_map(|path| test_modules(path)).collect();
    let mut offences = Vec::new();
    for path in files.iter().filter(|path| !test_modules.iter().any(|module| path.starts_with(module))) {
        let Ok(inside) = path.strip_prefix(&source) else { continue };
        let first = inside.components().next().expect("a file has a name").as_os_str().to_string_lossy();
        let name = first.trim_end_matches(".rs");
        let Some(level) = order.iter().position(|module| *module == name) else { continue };
        let code = code(path);
        for above in &order[level + 1..] {
            let uses = |text: &str| code.contains(&format!("crate::{above}{text}"));
            if uses("::") || uses(";") {
                offences.push(format!("{} uses {above}", inside.display()));
            }
        }
    }
    assert!(offences.is_empty(), "{offences:#?}");
}

/// The files and folders of the modules that `path` declares for tests only, without the ending of a file.
fn test_modules(path: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(path).expect("a source file is UTF-8");
    let folder = match path.file_stem().expect("a file has a name").to_str() {
        Some("mod" | "lib" | "main") => path.parent().expect("a file lies in a folder").to_owned(),
        _ => path.with_extension(""),
    };
    let mut lines = text.lines().map(str::trim);
    let mut modules = Vec::new();
    while let Some(line) = lines.next() {
        if line == "#[cfg(test)]"
            && let Some(name) = lines.next().and_then(|next| next.strip_prefix("mod ")?.strip_suffix(';'))
        {
            modules.extend([folder.join(name), folder.join(format!("{name}.rs"))]);
        }
    }
    modules
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
