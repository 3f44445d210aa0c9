//! `nsq_tail`: prints messages of topics, by default on an ephemeral channel with a random name.

use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgAction, Parser};
use nsq_daemon::go_flags::parse_int;
use nsq_protocol::{ChannelName, TopicName};

use super::source::{SourceFlags, check_name};
use super::{Exit, Line, block_on};
use crate::command::subscribe::record::Form;
use crate::command::tail::follow::{Follow, Format, Limit};
use crate::names::Object;
use crate::output::Output;

/// How long to wait for the first connection.
const START_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Parser)]
pub struct Flags {
    #[command(flatten)]
    source: SourceFlags,
    /// Topic to print; may be repeated.
    #[arg(long)]
    topic: Vec<String>,
    /// Channel to consume. [default: an ephemeral one with a random name]
    #[arg(long, default_value = "", hide_default_value = true)]
    channel: String,
    /// Maximum number of messages in flight.
    #[arg(long, default_value = "200", value_parser = parse_int)]
    max_in_flight: i64,
    /// Stop when a topic has had this many messages; 0 never stops.
    #[arg(long, default_value = "0", value_parser = parse_int)]
    n: i64,
    /// Print the topic before each message.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    print_topic: bool,
    /// Print the version.
    #[arg(long, action = ArgAction::Set, default_value_t = false)]
    version: bool,
}

pub fn run(line: Line<Flags>) -> Result<ExitCode, Exit> {
    let Line { tool, flags, .. } = line;
    let sources = flags.source.sources()?;
    if flags.topic.is_empty() {
        return Err(Exit::fatal("--topic required"));
    }
    let channel = match flags.channel.is_empty() {
        true => format!("tail{:06}#ephemeral", fastrand::u32(0..999_999)),
        false => flags.channel,
    };
    check_name("--channel", &channel, ChannelName::new(&channel).is_ok())?;
    let mut objects: Vec<Object> = Vec::new();
    for topic in flags.topic {
        check_name("--topic", &topic, TopicName::new(&topic).is_ok())?;
        let object = Object { topic, channel: Some(channel.clone()) };
        if !objects.contains(&object) {
            objects.push(object);
        }
    }
    let max_in_flight = u32::try_from(flags.max_in_flight).ok().filter(|n| *n > 0);
    let max_in_flight = max_in_flight.ok_or_else(|| Exit::fatal("--max-in-flight must be 1 or more"))?;
    let output = Output::plain();
    if !channel.ends_with("#ephemeral") {
        output.warning(&format!(
            "nsq_tail: channel {channel} is not ephemeral: other consumers of it do not get the messages printed here"
        ));
    }
    let follow = Follow {
        objects,
        discovery: None,
        sources,
        config: flags.source.config(tool)?,
        max_in_flight,
        limit: match u64::try_from(flags.n) {
            Ok(n) if n > 0 => Limit::PerTopic(n),
            _ => Limit::None,
        },
        grep: None,
        format: Format { form: Form::Body, escape: false, print_topic: flags.print_topic, end: b'\n' },
        rate: None,
        translate: None,
        dump: None,
        timeout: START_TIMEOUT,
        output,
    };
    block_on(follow.run())
}
