//! `nsq help [TOPIC | COMMAND...]`: pages about the tool as a whole, or the help of a command.

use clap::Args;

use crate::cli;
use crate::exit_status::{ExitStatus, Failure};
use crate::names::nearest;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct HelpFlags {
    /// A command, such as `topic create`, or one of: flags, exit-codes, formatting, targets, cheat, migrating.
    #[arg(value_name = "WORD")]
    words: Vec<String>,
}

/// The page of the flags that every command has, which is made from their definitions.
const FLAGS_PAGE: &str = "flags";

/// The other pages, by name.
const PAGES: &[(&str, &str)] = &[
    ("exit-codes", EXIT_CODES),
    ("formatting", FORMATTING),
    ("targets", TARGETS),
    ("cheat", CHEAT),
    ("migrating", MIGRATING),
];

const EXIT_CODES: &str = "\
Exit codes. A code never changes its meaning.

  0    done; a stream that a signal or its limit stopped
  1    failed
  2    wrong usage
  3    partly done: some nodes failed, and stderr names them
  4    topic, channel, node, profile or directory not found
  5    refused: authentication, permission, protected profile, or the answer was no
  6    no daemon reachable
  7    time ran out before a condition was met, or data is damaged
  130  interrupted before the command was done

With --json, the error is also one line of JSON on stderr:
  {\"error\":{\"code\":4,\"message\":\"...\",\"target\":\"...\",\"hint\":\"...\"}}
";

const FORMATTING: &str = "\
Output. Data goes to stdout; notes, questions and errors go to stderr.

  -o table     aligned columns and rounded figures on a terminal; tabs and exact figures in a pipe (default)
  -o wide      aligned columns that are not cut to the width of the terminal
  -o tsv       tabs and exact figures, also on a terminal
  -o json      one JSON document; the same as --json
  -o ndjson    one line of JSON per row
  -o yaml      YAML
  -o name      only names, one per line

  --json=a,b   only these fields of each row; --json=help lists them
  --jq EXPR    a filter of the jq language on the JSON; strings are printed unquoted
  --no-header  no headings       --exact  no rounding       --utc  times in UTC
  --color auto|always|never      NO_COLOR and CLICOLOR_FORCE change the default

  nsq topic ls -o name
  nsq topic ls --json=topic_name,depth
  nsq stat --no-rates --jq '.topics[] | select(.depth > 1000) | .topic_name'

Streams (nsq sub, nsq tail) take --format: %t topic, %c channel, %n node, %i id, %a attempts, %T time, %h{NAME} a header,
%b body, %b{hex}, %b{base64}, %b{json}, %l length, %% a percent sign.

  nsq tail orders --format '%T %i %h{tenant} %b'
";

const TARGETS: &str = "\
Where the cluster is. The first of these that says anything counts, and hides the others:

  1. flags        --lookupd HOST:4161   --nsqd HOST:4151   --nsqd-tcp HOST:4150
  2. a profile    that --profile NAME or NSQ_PROFILE names
  3. environment  NSQ_LOOKUPD           NSQ_NSQD           NSQ_NSQD_TCP
  4. a profile    that `nsq profile use NAME` chose
  5. this machine nsqlookupd at 127.0.0.1:4161, else nsqd at 127.0.0.1:4151

Each flag may be repeated or hold a list separated by commas. An address with a slash and no colon is the path of a unix socket.

  nsq profile add prod --lookupd lookup1:4161,lookup2:4161 --protected --use
  nsq -p prod stat

In a protected profile, destructive commands ask for its name; scripts use --yes --protected-ok NAME.
";

const CHEAT: &str = "\
Things done often.

  nsq pub orders 'hello'                         publish
  seq 3 | nsq pub orders                         one message per line
  nsq sub orders billing -n 1                    take one message
  nsq tail orders --format '%T %b'               watch new messages, and take none
  nsq peek orders/billing                        look at waiting messages

  nsq stat orders                                depths and rates
  nsq find --depth-over 1000 --no-consumers      channels with a problem
  nsq graph orders/billing                       depth and rates as curves
  nsq client ls --missing                        consumers that lack a node
  nsq why orders/billing                         why nothing moves

  nsq channel pause orders billing               stop deliveries; `unpause` resumes
  nsq channel empty orders billing --dry-run     how many messages would go
  nsq undo orders/billing                        bring them back
  nsq wait orders/billing --empty --timeout 5m   for scripts
  nsq move orders/billing archive --max 100      move messages to another topic
  nsq explain E_FIN_FAILED                       what an error word means
";

const MIGRATING: &str = "\
From NSQ's tools. The old programs also run under their old names: nsq compat nsq_tail ...

  nsq_stat --topic t --channel c       nsq stat t/c --watch
  nsq_tail --topic t                   nsq tail t
  nsq_tail --topic t --channel c       nsq sub t c
  to_nsq --topic t                     nsq pub t
  nsq_to_file                          nsq to-file
  nsq_to_http                          nsq to-http
  nsq_to_nsq                           nsq to-nsq
  curl -X POST .../channel/pause?...   nsq channel pause t c
  curl .../nodes                       nsq node ls
  curl .../config/log_level            nsq node config get log_level
  anything else over HTTP              nsq api METHOD PATH
";

/// Prints a page, the help of a command, or the help of all.
pub fn run(flags: &HelpFlags, output: Output) -> Result<ExitStatus, Failure> {
    if let [word] = &flags.words[..]
        && let Some((_, page)) = PAGES.iter().find(|(name, _)| name == word)
    {
        return output.data(page).map(|()| ExitStatus::Done);
    }
    if flags.words.iter().eq([FLAGS_PAGE]) {
        let page = cli::global_flags().render_long_help();
        let page = if output.colors_stdout() { page.ansi().to_string() } else { page.to_string() };
        return output.data(format!("Flags of every command.\n\n{page}")).map(|()| ExitStatus::Done);
    }
    let mut command = cli::command();
    command.build();
    let mut found = &mut command;
    for word in &flags.words {
        let names: Vec<String> =
            found.get_subcommands().map(|command| command.get_name().to_owned()).collect();
        let Some(below) = found.find_subcommand_mut(word) else {
            let pages = PAGES.iter().map(|(name, _)| *name).chain([FLAGS_PAGE]);
            let failure =
                Failure::usage(format_args!("there is no command or page {:?}", flags.words.join(" ")));
            return Err(match nearest(word, names.iter().map(String::as_str).chain(pages)) {
                Some(near) => failure.hint(format!("did you mean {near}?")),
                None => failure.hint(
                    "`nsq help` lists the commands; pages: flags exit-codes formatting targets cheat migrating",
                ),
            });
        };
        found = below;
    }
    let help = found.render_long_help();
    match output.colors_stdout() {
        true => output.data(help.ansi().to_string())?,
        false => output.data(help.to_string())?,
    }
    if flags.words.is_empty() {
        output.data("\nPages: nsq help flags | exit-codes | formatting | targets | cheat | migrating\n")?;
    }
    Ok(ExitStatus::Done)
}
