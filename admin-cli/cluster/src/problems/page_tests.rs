//! `docs/CHECK.md` has the texts of the table of rules, and all thresholds. `NSQ_UPDATE_DOCS=1 cargo test -p nsq-cluster`
//! writes them.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::{Rule, Thresholds};

fn rules() -> String {
    let mut text = String::from("\n");
    for rule in Rule::all() {
        let worse = if rule.worse.is_empty() { String::new() } else { format!("; {}", rule.worse) };
        let ours = if rule.only_ours { " ⁽¹⁾" } else { "" };
        let _ = writeln!(text, "### {}\n\n{}{worse}{ours}. {}\n", rule.name, rule.severity, rule.condition);
        let _ = writeln!(text, "- Means: {}\n- Do: {}\n", rule.meaning, rule.action);
    }
    text
}

fn thresholds() -> String {
    let mut text = String::from("\n| key | default |\n|---|---|\n");
    for (key, default) in Thresholds::keys() {
        let default = if default.ends_with(|c: char| c.is_ascii_digit()) {
            default.to_owned()
        } else {
            format!("\"{default}\"")
        };
        let _ = writeln!(text, "| `{key}` | `{default}` |");
    }
    text.push('\n');
    text
}

/// Puts a text between its marks.
fn with_part(page: &str, name: &str, part: &str) -> String {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->\n"));
    let (before, rest) = page.split_once(&start).expect("the page has the mark");
    let (_, after) = rest.split_once(&end).expect("the page has the mark of the end");
    format!("{before}{start}{part}{end}{after}")
}

#[test]
fn the_page_of_problems_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CHECK.md");
    let found = fs::read_to_string(&path).expect("the page can be read");
    let expected = with_part(&with_part(&found, "rules", &rules()), "thresholds", &thresholds());
    if std::env::var_os("NSQ_UPDATE_DOCS").is_some() {
        fs::write(&path, &expected).expect("the page can be written");
        return;
    }
    assert!(found == expected, "docs/CHECK.md is old: run NSQ_UPDATE_DOCS=1 cargo test -p nsq-cluster");
}
