//! `nsq tail`: prints messages of topics as they are published. It takes messages from nobody: each run has an ephemeral
//! channel of its own.
//!
//! `follow` prints messages of given channels, also for `nsq_tail`; this file chooses the channel.

pub mod follow;

use std::path::PathBuf;

use clap::Args;
use nsq::StartAt;
use nsq::admin::LookupdClient;
use regex::bytes::Regex;

use super::Context;
use super::node::named;
use super::retention::{PLACES, parse_place};
use crate::cluster::Cluster;
use crate::command::subscribe::dump::Dump;
use crate::command::subscribe::last::{MAX_LAST, start_of_last};
use crate::command::subscribe::record::Form;
use crate::command::subscribe::template::{DIRECTIVES, Template};
use crate::exit_status::{ExitStatus, Failure};
use crate::names::Object;
use crate::patterns::parse_pattern;
use crate::sources::{self, Purpose, TcpSources};
use follow::{Discovery, Follow, Format, Limit};

/// What `--meta` prints.
const META: &str = "%T %n %i %a %b";

const EXAMPLES: &str = "\
Examples:
  nsq tail orders                        # every new message of a topic, until Ctrl-C
  nsq tail orders payments --print-topic # two topics, each line with its topic
  nsq tail orders -n 5 --grep 'order'    # the next five messages that contain a word";

#[derive(Debug, Args)]
#[command(after_help = format!("{EXAMPLES}\n\n{DIRECTIVES}"))]
pub struct TailFlags {
    /// Topics to watch.
    #[arg(value_name = "TOPIC", required_unless_present = "topic_pattern", add = clap_complete::ArgValueCandidates::new(crate::command::completion::topics))]
    topics: Vec<String>,
    /// Watch the topics that nsqlookupds know and that match this regular expression, also those that appear later.
    #[arg(long, value_name = "REGEX", value_parser = parse_pattern, conflicts_with = "topics")]
    topic_pattern: Option<Regex>,
    /// Stop after this many messages, counted over all topics.
    #[arg(short = 'n', long = "count", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print only messages whose body matches this regular expression.
    #[arg(long, value_name = "REGEX", value_parser = parse_pattern)]
    grep: Option<Regex>,
    /// Print only this percentage of the messages, chosen at random by nsqd.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=99))]
    sample: Option<u8>,
    /// Place where to start. Places in the past need a topic that retains messages.
    #[arg(long, alias = "since", value_name = "PLACE", value_parser = parse_place,
          long_help = format!("Place where to start. Places in the past need a topic that retains messages.\n\n{PLACES}"))]
    from: Option<StartAt>,
    /// Start with the newest N messages that the topic retains.
    #[arg(long, value_name = "N", conflicts_with = "from", value_parser = clap::value_parser!(u64).range(1..=MAX_LAST))]
    last: Option<u64>,
    /// Print at most N messages per second, and skip the others.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Only messages of this nsqd, by its HTTP or TCP address.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Print time, node, id and attempts before each body.
    #[arg(long, conflicts_with = "format")]
    meta: bool,
    /// Print what this shell command makes of each body, which it gets on stdin.
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["format", "meta"])]
    translate: Option<String>,
    /// Write each body to a file TOPIC.ID in this directory instead of printing it.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["format", "meta", "translate"])]
    out: Option<PathBuf>,
    /// Print the topic before each message.
    #[arg(long)]
    print_topic: bool,
    /// End each message with a zero byte instead of a line feed.
    #[arg(long)]
    print0: bool,
    /// Print bodies unescaped, even to a terminal.
    #[arg(long)]
    raw: bool,
    /// Print messages in this format, such as '%T %i %b'; see below.
    #[arg(long, value_name = "FORMAT", value_parser = Template::parse)]
    format: Option<Template>,
    /// Maximum number of messages in flight.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: u32,
    #[arg(long, hide = true)]
    channel: Option<String>,
}

/// Prints messages until the count is reached or a signal arrives.
pub async fn run(context: &Context, flags: TailFlags) -> Result<ExitStatus, Failure> {
    if let Some(channel) = &flags.channel {
        return Err(Failure::usage("nsq tail takes no --channel: it must not take messages from consumers")
            .hint(format!(
                "`nsq sub {} {channel}` consumes a channel",
                flags.topics.first().map_or("TOPIC", |t| t)
            )));
    }
    let channel = format!("tail-{:08x}#ephemeral", fastrand::u32(..));
    let mut objects: Vec<Object> = Vec::new();
    for topic in &flags.topics {
        let object = Object::parse(&format!("{topic}/{channel}"))?;
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    let template = match flags.meta {
        true => Some(Template::parse(META).map_err(Failure::failed)?),
        false => flags.format,
    };
    if context.output.is_json() && (flags.translate.is_some() || flags.out.is_some()) {
        return Err(Failure::usage("--translate and --out exclude --json, --jq and --output"));
    }
    let form = Form::new(context.output, template)?;
    let from = match (flags.last, &objects[..]) {
        (Some(count), [object]) => start_of_last(&context.targets, &object.topic, count).await?,
        (Some(_), _) => return Err(Failure::usage("--last needs a single topic")),
        (None, _) => flags.from.unwrap_or_default(),
    };
    let mut sources = sources::find(&context.targets, Purpose::Consume).await?;
    if let Some(name) = &flags.node {
        let cluster = Cluster::find(&context.targets).await?;
        sources =
            TcpSources { lookupds: Vec::new(), nsqds: vec![named(&cluster, name)?.tcp_address.clone()] };
    }
    let discovery = match flags.topic_pattern {
        Some(pattern) => Some(Discovery { pattern, channel, lookupds: lookupds(context, &sources)? }),
        None => None,
    };
    let config = (context.targets.security.config.clone())
        .lookupd_poll_interval(follow::LOOKUP_INTERVAL)
        .lookupd_poll_timeout(context.targets.timeout)
        .channel_start(from)
        .headers(form.wants_headers())
        .sample_rate(flags.sample.unwrap_or(0));
    let follow = Follow {
        objects,
        discovery,
        sources,
        config,
        max_in_flight: flags.max_in_flight,
        limit: flags.count.map_or(Limit::None, Limit::Total),
        grep: flags.grep,
        format: Format {
            form,
            escape: context.output.is_terminal() && !flags.raw,
            print_topic: flags.print_topic,
            end: if flags.print0 { 0 } else { b'\n' },
        },
        rate: flags.rate,
        translate: flags.translate,
        dump: flags.out.as_deref().map(Dump::new).transpose()?,
        timeout: context.targets.timeout,
        output: context.output,
    };
    follow.run().await
}

/// Clients for the nsqlookupds, which find topics.
fn lookupds(context: &Context, sources: &TcpSources) -> Result<Vec<LookupdClient>, Failure> {
    if sources.lookupds.is_empty() {
        return Err(Failure::usage("--topic-pattern needs an nsqlookupd").hint("use --lookupd HOST:4161"));
    }
    let (timeout, tls) = (context.targets.timeout, &context.targets.security.tls);
    let client =
        |address: &String| Ok(LookupdClient::new(address)?.timeouts(timeout, timeout).tls(tls.clone()));
    sources.lookupds.iter().map(client).collect()
}
