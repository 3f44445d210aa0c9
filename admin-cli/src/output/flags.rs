//! The flags that choose the form of the output, and their meaning. Pure.

use clap::{Args, ValueEnum};

use super::fields;
use super::jq::Jq;
use crate::exit_status::Failure;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum OutputForm {
    /// Aligned columns on a terminal, otherwise tab-separated ones.
    #[default]
    Table,
    /// Aligned columns, not cut to the width of the terminal.
    Wide,
    /// One JSON document.
    Json,
    /// One line of JSON per row.
    Ndjson,
    /// YAML.
    Yaml,
    /// Tab-separated columns with exact figures.
    Tsv,
    /// Only names, one per line.
    Name,
}

/// When to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// Print JSON with the field names of the HTTP API; =a,b prints only these fields, =help lists them.
    #[arg(long, global = true, value_name = "FIELDS", num_args = 0..=1, require_equals = true,
          default_missing_value = "")]
    json: Option<String>,
    /// Form of the output.
    #[arg(long, short, global = true, value_name = "FORM", env = "NSQ_OUTPUT", value_enum)]
    output: Option<OutputForm>,
    /// Filter the JSON with a jq expression; prints strings unquoted.
    #[arg(long, global = true, value_name = "EXPR")]
    jq: Option<String>,
    /// Leave out the headings of tables.
    #[arg(long, global = true)]
    no_header: bool,
    /// Print times in UTC, not in local time.
    #[arg(long, global = true)]
    utc: bool,
    /// Do not round figures.
    #[arg(long, global = true)]
    exact: bool,
    /// Print only data, warnings and errors: no notes and no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Use colour: auto, always or never. NO_COLOR and CLICOLOR_FORCE change the default.
    #[arg(long, global = true, value_name = "WHEN", value_enum, hide_possible_values = true)]
    color: Option<ColorChoice>,
}

/// The checked flags.
#[derive(Debug, Default)]
pub struct Form {
    pub kind: OutputForm,
    /// Only these fields of each row; empty for all.
    pub fields: Vec<String>,
    pub jq: Option<Jq>,
    pub header: bool,
    pub utc: bool,
    pub exact: bool,
    pub quiet: bool,
    pub stdout_color: bool,
    pub stderr_color: bool,
}

/// Where the output goes.
#[derive(Debug, Clone, Copy)]
pub struct Terminals {
    pub stdout: bool,
    pub stderr: bool,
}

/// What the flags ask for.
#[derive(Debug)]
pub enum Wanted {
    Output(Form),
    /// `--json=help`: the fields of the command.
    Fields(&'static [&'static str]),
}

impl OutputFlags {
    /// Whether errors are printed as JSON.
    pub fn is_json(&self) -> bool {
        self.json.is_some() || self.jq.is_some() || self.output.is_some_and(OutputForm::is_document)
    }

    /// Checks the flags for a command such as `topic list`.
    pub fn resolve(
        &self,
        command: &str,
        terminals: Terminals,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Wanted, Failure> {
        let mut kind = self.output.unwrap_or_default();
        if self.is_json() && !kind.is_document() {
            kind = OutputForm::Json;
        }
        let list = self.json.as_deref().unwrap_or_default();
        let fields: Vec<String> = match list {
            "" => Vec::new(),
            list => list.split(',').map(|field| field.trim().to_owned()).collect(),
        };
        if !fields.is_empty() {
            let known = fields::of(command).ok_or_else(|| {
                Failure::usage(format_args!("nsq {command} has no list of fields"))
                    .hint("use --json for the whole document, and --jq to select from it")
            })?;
            if list == "help" {
                return Ok(Wanted::Fields(known));
            }
            if let Some(unknown) = fields.iter().find(|field| !known.contains(&field.as_str())) {
                return Err(Failure::usage(format_args!("unknown field {unknown:?} in --json"))
                    .hint(format!("fields of nsq {command}: {}", known.join(","))));
            }
        }
        let jq = self.jq.as_deref().map(|code| {
            Jq::parse(code).map_err(|why| {
                Failure::usage(format_args!("invalid --jq {code:?}: {why}"))
                    .hint("for example: --jq '.topics[] | select(.depth > 0) | .topic_name'")
            })
        });
        let color = |is_terminal: bool| match self.color {
            Some(ColorChoice::Always) => true,
            Some(ColorChoice::Never) => false,
            Some(ColorChoice::Auto) | None => {
                let is_set = |name| environment(name).is_some_and(|value| !value.is_empty());
                let is_dumb = environment("TERM").is_some_and(|term| term == "dumb");
                let is_forced =
                    is_set("CLICOLOR_FORCE") && environment("CLICOLOR_FORCE").as_deref() != Some("0");
                !is_set("NO_COLOR") && (is_forced || (is_terminal && !is_dumb))
            }
        };
        Ok(Wanted::Output(Form {
            kind,
            fields,
            jq: jq.transpose()?,
            header: !self.no_header,
            utc: self.utc,
            exact: self.exact,
            quiet: self.quiet,
            stdout_color: color(terminals.stdout),
            stderr_color: color(terminals.stderr),
        }))
    }
}

impl OutputForm {
    /// Whether this form is made from the JSON document of a command, and not from its table.
    pub fn is_document(self) -> bool {
        matches!(self, OutputForm::Json | OutputForm::Ndjson | OutputForm::Yaml | OutputForm::Name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPES: Terminals = Terminals { stdout: false, stderr: false };
    const TERMINAL: Terminals = Terminals { stdout: true, stderr: true };

    fn form(flags: &OutputFlags, terminals: Terminals, variables: &[(&str, &str)]) -> Form {
        let environment = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        match flags.resolve("topic list", terminals, environment) {
            Ok(Wanted::Output(form)) => form,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn json_and_jq_imply_json() {
        let json = OutputFlags { json: Some(String::new()), ..OutputFlags::default() };
        assert_eq!(form(&json, PIPES, &[]).kind, OutputForm::Json);
        let jq = OutputFlags { jq: Some(".".to_owned()), ..OutputFlags::default() };
        assert_eq!(form(&jq, PIPES, &[]).kind, OutputForm::Json);
        let yaml = OutputFlags { output: Some(OutputForm::Yaml), ..json };
        assert_eq!(form(&yaml, PIPES, &[]).kind, OutputForm::Yaml);
        assert_eq!(form(&OutputFlags::default(), PIPES, &[]).kind, OutputForm::Table);
    }

    #[test]
    fn wrong_fields_and_filters_are_refused() {
        let fields = |list: &str| OutputFlags { json: Some(list.to_owned()), ..OutputFlags::default() };
        let resolve = |flags: &OutputFlags, command: &str| flags.resolve(command, PIPES, |_| None);
        assert_eq!(form(&fields("depth,topic_name"), PIPES, &[]).fields, ["depth", "topic_name"]);
        let failure = resolve(&fields("dept"), "topic list").unwrap_err();
        assert!(failure.hint.is_some_and(|hint| hint.contains("topic_name,")), "{}", failure.message);
        assert!(matches!(resolve(&fields("help"), "topic list"), Ok(Wanted::Fields(_))));
        assert!(resolve(&fields("depth"), "completion").is_err());
        let jq = OutputFlags { jq: Some(".[".to_owned()), ..OutputFlags::default() };
        assert!(resolve(&jq, "topic list").is_err());
    }

    #[test]
    fn colour_follows_terminal_and_environment() {
        let flags = OutputFlags::default();
        assert!(form(&flags, TERMINAL, &[]).stdout_color);
        assert!(!form(&flags, PIPES, &[]).stdout_color);
        assert!(!form(&flags, TERMINAL, &[("NO_COLOR", "1")]).stdout_color);
        assert!(form(&flags, TERMINAL, &[("NO_COLOR", "")]).stdout_color);
        assert!(form(&flags, PIPES, &[("CLICOLOR_FORCE", "1")]).stdout_color);
        assert!(!form(&flags, TERMINAL, &[("TERM", "dumb")]).stdout_color);
        let always = OutputFlags { color: Some(ColorChoice::Always), ..flags };
        assert!(form(&always, PIPES, &[("NO_COLOR", "1")]).stdout_color);
    }
}
