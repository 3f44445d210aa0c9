//! docs/HTTP.md lists every endpoint of both daemons, and the permission of each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nsq_tests::auth_server::authorization;
use nsq_tests::http::Connection;
use nsq_tests::{Daemon, test};
use serde_json::json;

use crate::tokens::{ALICE, BOB, CAROL, ROOT, TokenFile, request, token};

/// A row of the reference.
struct Documented {
    method: String,
    path: String,
    /// The last cell.
    permission: String,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The endpoints in the tables of `## <daemon>`: `METHOD /path` in the first cell of a row.
fn documented(daemon: &str) -> Vec<Documented> {
    let page = read("docs/HTTP.md");
    let (_, section) = page.split_once(&format!("\n## {daemon}\n")).expect("a section for each daemon");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let endpoints = rows.flat_map(|row| {
        let (requests, rest) = row.split_once(" | ").unwrap_or((row, ""));
        let permission = rest.rsplit(" | ").next().unwrap_or_default();
        quoted(requests).filter_map(move |request| {
            let (method, path) = request.split_once(" /")?;
            Some(Documented {
                method: method.to_owned(),
                path: format!("/{path}"),
                permission: permission.to_owned(),
            })
        })
    });
    endpoints.collect()
}

/// `METHOD /path` of every endpoint in a table of routes, and of the profiler's pages, which both daemons add.
fn routed(table: &str) -> BTreeSet<String> {
    let pages = read("daemon/src/http/pprof.rs");
    let pages =
        pages.split("path: \"").skip(1).filter_map(|rest| Some(format!("GET {}", rest.split_once('"')?.0)));
    let table = read(table);
    let routes = table.split("Method::").skip(1).filter_map(|rest| {
        let (method, rest) = rest.split_once(", \"")?;
        let (path, _) = rest.split_once('"')?;
        method.bytes().all(|byte| byte.is_ascii_uppercase()).then(|| format!("{method} {path}"))
    });
    routes.chain(pages).collect()
}

#[test]
fn every_endpoint_is_documented() {
    for (daemon, table) in [("nsqd", "nsqd/src/http/mod.rs"), ("nsqlookupd", "lookupd/src/http.rs")] {
        let documented = documented(daemon);
        let documented: BTreeSet<String> =
            documented.iter().map(|endpoint| format!("{} {}", endpoint.method, endpoint.path)).collect();
        let routed = routed(table);
        assert!(routed.len() > 15, "{routed:?}");
        let missing: Vec<_> = routed.difference(&documented).collect();
        let unknown: Vec<_> = documented.difference(&routed).collect();
        assert!(missing.is_empty(), "docs/HTTP.md lacks endpoints of {daemon}: {missing:?}");
        assert!(unknown.is_empty(), "docs/HTTP.md names endpoints that {daemon} does not have: {unknown:?}");
    }
}

/// The status of the answer, whose body need not end.
async fn status(nsqd: &Daemon, method: &str, target: &str, token: &str) -> u16 {
    let mut connection = Connection::open(nsqd.http()).await;
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    );
    connection.send(head.as_bytes()).await;
    connection.head(target).await.expect("an answer").status
}

#[test]
fn documented_permissions_are_checked_by_nsqd() {
    test(async {
        let tokens = [
            ("alice", ALICE, "publish"),
            ("bob", BOB, "subscribe"),
            ("carol", CAROL, "monitor"),
            ("root", ROOT, "admin"),
        ];
        let entries = tokens.map(|(identity, hash, permission)| {
            token(identity, hash, json!([authorization("", &[""], &[permission])]))
        });
        let file = TokenFile::new(&entries);
        let nsqd = Daemon::nsqd().flag(file.flag()).flag("--http-auth").start().await;
        for Documented { method, path, permission: documented } in documented("nsqd") {
            let target = format!("{}?topic=t&channel=c", path.replace(":opt", "log_level"));
            let needs_token = documented != "none, and no token";
            let without = request(&nsqd, &method, &target, None).await.status;
            assert_eq!(without == 401, needs_token, "{method} {path} without a token: {without}");
            let needed: Vec<&str> = quoted(&documented).collect();
            for (identity, _, permission) in tokens {
                let has =
                    |needed: &&str| *needed == permission || (*needed == "monitor" && permission == "admin");
                let expected = needed.is_empty() || needed.iter().any(has);
                let status = status(&nsqd, &method, &target, identity).await;
                assert_eq!(
                    status != 401 && status != 403,
                    expected,
                    "{method} {path} with {permission}: {status}"
                );
            }
        }
    });
}
