//! `nsq profile`: named clusters in the configuration file.

use std::process::Command as Process;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCandidates;
use serde_json::{Value, json};

use super::completion;
use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;
use crate::profile::{Color, Profile, Settings, is_name, store, with_current, with_profile, without_profile};
use crate::security::SecurityFlags;
use crate::table::Table;
use crate::targets::TargetFlags;

pub const EXAMPLES: &str = "\
Examples:
  nsq profile add local --nsqd 127.0.0.1:4151 --use
  nsq profile ls
  nsq -p local topic ls

The file is $XDG_CONFIG_HOME/nsq/config.toml. Its table [alias] holds commands: q = \"stat orders --watch\" makes `nsq q`.";

/// `nsq profile ...`
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// List the profiles.
    #[command(visible_alias = "ls")]
    List,
    /// Show one profile. [default: the current one]
    #[command(alias = "describe")]
    Show {
        #[arg(value_name = "NAME", add = ArgValueCandidates::new(completion::profiles))]
        name: Option<String>,
    },
    /// Make a profile the current one.
    Use {
        #[arg(value_name = "NAME", required_unless_present = "none", add = ArgValueCandidates::new(completion::profiles))]
        name: Option<String>,
        /// Use no profile.
        #[arg(long, conflicts_with = "name")]
        none: bool,
    },
    /// Add a profile with the addresses and the TLS flags of this command line.
    Add(AddFlags),
    /// Remove a profile.
    #[command(visible_alias = "rm")]
    Remove {
        #[arg(value_name = "NAME", add = ArgValueCandidates::new(completion::profiles))]
        name: String,
    },
    /// Edit the file with $VISUAL or $EDITOR, and check it before it is saved.
    Edit,
}

#[derive(Debug, Args)]
pub struct AddFlags {
    #[arg(value_name = "NAME")]
    name: String,
    /// Destructive commands ask for the profile's name, even with --yes.
    #[arg(long)]
    protected: bool,
    /// Color of the profile's name in questions.
    #[arg(long, value_name = "COLOR", value_enum)]
    prompt_color: Option<Color>,
    /// Also make it the current profile.
    #[arg(long = "use")]
    use_it: bool,
    /// Replace a profile of this name.
    #[arg(long)]
    replace: bool,
}

/// Runs the command. The addresses and TLS flags are those of the command line.
pub fn run(
    command: ProfileCommand,
    targets: &TargetFlags,
    security: &SecurityFlags,
    output: Output,
) -> Result<ExitStatus, Failure> {
    let path = store::required_path()?;
    let text = store::read(&path)?;
    if matches!(command, ProfileCommand::Edit) {
        return edit(&path, &text, output);
    }
    let settings = store::parse(&path, &text)?;
    let save = |text: Result<String, String>| store::write(&path, &text.map_err(Failure::usage)?);
    match command {
        ProfileCommand::List => list(&settings, output)?,
        ProfileCommand::Show { name } => show(&settings, name.as_deref(), output)?,
        ProfileCommand::Use { name, .. } => {
            if let Some(name) = &name
                && !settings.profile.contains_key(name)
            {
                return Err(settings.unknown(name));
            }
            save(with_current(&text, name.as_deref()))?;
            done(output, "used", name.as_deref())?;
        }
        ProfileCommand::Add(flags) => {
            let name = &flags.name;
            if !is_name(name) {
                return Err(Failure::usage(format_args!("invalid profile name {name:?}"))
                    .hint("a name has 1 to 64 characters of a-z A-Z 0-9 . _ -"));
            }
            if settings.profile.contains_key(name) && !flags.replace {
                return Err(Failure::failed(format_args!("there is already a profile {name}"))
                    .hint("use --replace to replace it"));
            }
            let (tls, auth_secret_file) = security.for_profile()?;
            let profile = Profile {
                tls,
                auth_secret_file,
                protected: flags.protected,
                color: flags.prompt_color,
                ..targets.for_profile()
            };
            if profile.lookupd.is_empty() && profile.nsqd.is_empty() && profile.nsqd_tcp.is_empty() {
                return Err(Failure::usage("a profile needs an address")
                    .hint(format!("for example: nsq profile add {name} --lookupd 10.0.0.1:4161")));
            }
            let mut changed = with_profile(&text, name, &profile).map_err(Failure::usage)?;
            if flags.use_it {
                changed = with_current(&changed, Some(name)).map_err(Failure::usage)?;
            }
            save(Ok(changed))?;
            done(output, "added", Some(name))?;
        }
        ProfileCommand::Remove { name } => {
            if !settings.profile.contains_key(&name) {
                return Err(settings.unknown(&name));
            }
            save(without_profile(&text, &name))?;
            done(output, "removed", Some(&name))?;
        }
        ProfileCommand::Edit => {}
    }
    Ok(ExitStatus::Done)
}

fn done(output: Output, what: &str, name: Option<&str>) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&json!({"profile": name, "done": what}));
    }
    output.text(format!("{what} {}\n", name.unwrap_or("no profile")))
}

fn document(settings: &Settings, name: &str, profile: &Profile) -> Value {
    let mut document = json!({"profile": name, "current": settings.current.as_deref() == Some(name)});
    if let (Some(into), Ok(Value::Object(fields))) = (document.as_object_mut(), serde_json::to_value(profile))
    {
        into.extend(fields);
    }
    document
}

fn list(settings: &Settings, output: Output) -> Result<(), Failure> {
    if output.is_json() {
        let rows = settings.profile.iter().map(|(name, profile)| document(settings, name, profile));
        return output.json(&json!({"profiles": rows.collect::<Vec<_>>()}));
    }
    let mut table = Table::new(&["PROFILE", "CURRENT", "LOOKUPD", "NSQD", "NSQD TCP", "TLS", "PROTECTED"]);
    let yes = |is: bool| if is { "yes" } else { "" };
    for (name, profile) in &settings.profile {
        table.row(vec![
            name.as_str().into(),
            yes(settings.current.as_ref() == Some(name)).into(),
            profile.lookupd.join(",").into(),
            profile.nsqd.join(",").into(),
            profile.nsqd_tcp.join(",").into(),
            yes(profile.tls.is_some()).into(),
            yes(profile.protected).into(),
        ]);
    }
    if settings.profile.is_empty() {
        output.note("there are no profiles; add one: nsq profile add NAME --lookupd HOST:4161");
    }
    output.table(&table)
}

fn show(settings: &Settings, name: Option<&str>, output: Output) -> Result<(), Failure> {
    let Some(chosen) = settings.choose(name)? else {
        return Err(Failure::new(ExitStatus::NotFound, "no profile is in use")
            .hint("name one, or choose one with `nsq profile use NAME`"));
    };
    if output.is_json() {
        return output.json(&document(settings, &chosen.name, &chosen.profile));
    }
    let text = with_profile("", &chosen.name, &chosen.profile).map_err(Failure::failed)?;
    output.text(text)
}

/// Edits a copy, and replaces the file only with a text that can be read.
fn edit(path: &std::path::Path, text: &str, output: Output) -> Result<ExitStatus, Failure> {
    let editor = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".to_owned());
    let words = shlex::split(&editor).filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| Failure::usage(format_args!("cannot understand EDITOR={editor}")))?;
    let copy = path.with_extension(format!("edit.{}.toml", std::process::id()));
    let start = match text {
        "" => {
            "# Profiles of the nsq command. For example:\n#\n# current = \"local\"\n#\n# [profile.local]\n# nsqd = \"127.0.0.1:4151\"\n#\n# [alias]\n# q = \"stat --watch\"\n"
        }
        text => text,
    };
    store::write(&copy, start)?;
    let edited = Process::new(&words[0]).args(&words[1..]).arg(&copy).status();
    let result = match edited {
        Ok(status) if status.success() => store::read(&copy),
        Ok(status) => Err(Failure::failed(format_args!("{editor} ended with {status}; nothing was changed"))),
        Err(error) => {
            Err(Failure::failed(format_args!("cannot start {editor}: {error}"))
                .hint("set EDITOR to a program"))
        }
    };
    let checked = result.and_then(|changed| {
        // The text may still be needed if it is wrong.
        store::parse(&copy, &changed).map(|_| changed)
    });
    match checked {
        Ok(changed) if changed == start => {
            let _ = std::fs::remove_file(&copy);
            output.note("nothing was changed");
            Ok(ExitStatus::Done)
        }
        Ok(changed) => {
            store::write(path, &changed)?;
            let _ = std::fs::remove_file(&copy);
            Ok(ExitStatus::Done)
        }
        Err(failure) if failure.status == ExitStatus::Usage => {
            Err(failure.hint(format!("nothing was saved; your text is in {}", copy.display())))
        }
        Err(failure) => {
            let _ = std::fs::remove_file(&copy);
            Err(failure)
        }
    }
}
