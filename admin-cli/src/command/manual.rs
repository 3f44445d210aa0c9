//! `nsq manual`: man pages of all four programs, made from the same definitions as their help texts.

use std::fs;
use std::path::Path;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use serde_json::json;

use crate::cli;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

/// Flags of `nsq manual`.
#[derive(Debug, Args)]
pub struct ManualFlags {
    /// Directory to write to, such as /usr/local/share/man/man1; created if missing.
    #[arg(value_name = "DIR")]
    folder: std::path::PathBuf,
}

/// Writes one page per program and per command of `nsq`.
pub fn run(flags: &ManualFlags, output: Output) -> Result<ExitStatus, Failure> {
    let folder = &flags.folder;
    let failed =
        |path: &Path, error| Failure::failed(format_args!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(folder).map_err(|error| failed(folder, error))?;
    let mut pages = Vec::new();
    for program in programs() {
        add_pages(program, &mut pages);
    }
    for (name, text) in &pages {
        let path = folder.join(name);
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
    }
    if output.is_json() {
        output.json(
            &json!({ "directory": folder, "pages": pages.iter().map(|(name, _)| name).collect::<Vec<_>>() }),
        )?;
    } else {
        output.data(format!("wrote {} pages to {}\n", pages.len(), folder.display()))?;
    }
    Ok(ExitStatus::Done)
}

/// The command lines of nsqd, nsqlookupd, nsqadmin and nsq.
fn programs() -> [Command; 4] {
    let daemon = |name: &'static str, command: Command| command.name(name).disable_version_flag(true);
    let mut cli = cli::whole();
    // Gives each command the flags that all commands share.
    cli.build();
    [
        daemon("nsqd", nsqd::flags::Flags::command()),
        daemon("nsqlookupd", nsqlookupd::flags::Flags::command()),
        daemon("nsqadmin", nsq_dashboard::flags::Flags::command()),
        cli,
    ]
}

/// `command`'s page and those of its commands, as file name and roff text.
fn add_pages(command: Command, pages: &mut Vec<(String, Vec<u8>)>) {
    for child in command.get_subcommands().filter(|child| child.get_name() != "help" && !child.is_hide_set())
    {
        let name = format!("{}-{}", command.get_name(), child.get_name());
        let bin = name.replace('-', " ");
        add_pages(child.clone().name(name).bin_name(bin), pages);
    }
    let man = Man::new(command);
    let mut text = Vec::new();
    man.render(&mut text).expect("writing to memory does not fail");
    pages.push((man.get_filename(), text));
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    #[test]
    fn every_program_and_command_has_a_page() {
        let mut pages = Vec::new();
        programs().into_iter().for_each(|program| add_pages(program, &mut pages));
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in
            ["nsqd.1", "nsqlookupd.1", "nsq.1", "nsq-sub.1", "nsq-topic-create.1", "nsq-data-verify.1"]
        {
            assert!(names.contains(&name), "{name} is missing: {names:?}");
        }
        let (_, nsqd) = pages.iter().find(|(name, _)| name == "nsqd.1").expect("checked above");
        assert!(String::from_utf8_lossy(nsqd).contains("durability"));
    }

    /// `NSQ_UPDATE_DOCS=1 cargo test -p nsq-cli` writes the page.
    #[test]
    fn the_page_of_flags_is_up_to_date() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/FLAGS.md");
        let expected = flags_page();
        if std::env::var_os("NSQ_UPDATE_DOCS").is_some() {
            fs::write(&path, &expected).expect("the page can be written");
        }
        let found = fs::read_to_string(&path).expect("the page can be read");
        assert!(found == expected, "docs/FLAGS.md is old: run NSQ_UPDATE_DOCS=1 cargo test -p nsq-cli");
    }

    fn flags_page() -> String {
        let mut page = String::from(
            "# Flags of the daemons\n\n\
             This page is made from the flags' definitions. Flags can be spelled as in Go (`-data-path=/var/lib/nsq`). The same names \
             with underscores are\nkeys of the config file (`--config`), as in NSQ, except `id` (`--node-id`), \
             `nsqlookupd_tcp_addresses`, `auth_http_addresses`,\n`http_allowed_origins`, `http_cors_origins` and \
             `e2e_processing_latency_percentiles`. A flag overrides the file. Durations are written as in Go: `250ms`, \
             `2s`, `1h30m`.\n\
             The [nsq command](CLI.md) describes its flags with `nsq help COMMAND`.\n",
        );
        for mut program in programs().into_iter().take(3) {
            program.build();
            let _ = write!(page, "\n## {}\n\n| flag | default | |\n|---|---|---|\n", program.get_name());
            for flag in program.get_arguments().filter(|flag| !flag.is_hide_set() && flag.get_id() != "help")
            {
                let Some(long) = flag.get_long() else { continue };
                let defaults: Vec<_> =
                    flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
                let mut default =
                    if flag.is_hide_default_value_set() { String::new() } else { defaults.join(", ") };
                let mut help = flag.get_help().map(ToString::to_string).unwrap_or_default();
                if let Some((text, stated)) = help.clone().split_once(" [default: ")
                    && let Some((stated, rest)) = stated.split_once(']')
                {
                    (help, default) = (format!("{text}{rest}"), stated.to_owned());
                } else if !default.is_empty() {
                    default = format!("`{default}`");
                }
                let _ = writeln!(
                    page,
                    "| `--{long}` | {default} | {} |",
                    help.trim_end_matches('.').replace('|', "\\|")
                );
            }
        }
        page
    }
}
