//! Topic and channel names on the command line: `TOPIC CHANNEL` or `TOPIC/CHANNEL`. Pure.

use std::fmt;

use clap::Args;
use clap_complete::ArgValueCandidates;
use nsq_protocol::{ChannelName, TopicName};

use crate::command::completion;
use crate::exit_status::{ExitStatus, Failure};

/// The rule for names, as a hint in errors.
const RULE: &str = "a name has 1 to 64 characters of a-z A-Z 0-9 . _ -, optionally followed by #ephemeral";

/// A topic, or one of its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub topic: String,
    /// The channel; `None` for a topic.
    pub channel: Option<String>,
}

impl Object {
    /// Parses `TOPIC` or `TOPIC/CHANNEL`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        // Names contain no slash.
        match text.split_once('/') {
            None => Self::new(text, None),
            Some((topic, channel)) => Self::new(topic, Some(channel)),
        }
    }

    fn new(topic: &str, channel: Option<&str>) -> Result<Self, Failure> {
        check("topic", topic, TopicName::new(topic).is_ok())?;
        if let Some(channel) = channel {
            check("channel", channel, ChannelName::new(channel).is_ok())?;
        }
        Ok(Object { topic: topic.to_owned(), channel: channel.map(str::to_owned) })
    }

    /// `topic` or `channel`.
    pub fn kind(&self) -> &'static str {
        if self.channel.is_some() { "channel" } else { "topic" }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.channel {
            Some(channel) => write!(f, "{}/{channel}", self.topic),
            None => f.write_str(&self.topic),
        }
    }
}

/// The topic argument.
#[derive(Debug, Args)]
pub struct TopicArgument {
    /// Name of the topic.
    #[arg(value_name = "TOPIC", add = ArgValueCandidates::new(completion::topics))]
    topic: String,
}

impl TopicArgument {
    /// The parsed topic; a usage error if the argument is invalid or names a channel.
    pub fn object(&self) -> Result<Object, Failure> {
        let object = Object::parse(&self.topic)?;
        match object.channel {
            None => Ok(object),
            Some(_) => {
                Err(Failure::usage(format_args!("{object} names a channel; this command takes a topic"))
                    .hint("for channels, use: nsq channel ..."))
            }
        }
    }
}

/// The channel arguments.
#[derive(Debug, Args)]
pub struct ChannelArgument {
    /// Name of the topic, or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC", add = ArgValueCandidates::new(completion::channels))]
    topic: String,
    /// Name of the channel.
    #[arg(value_name = "CHANNEL")]
    channel: Option<String>,
}

impl ChannelArgument {
    /// The parsed channel; a usage error if the arguments are invalid or name no channel.
    pub fn object(&self) -> Result<Object, Failure> {
        let object = Object::parse(&self.topic)?;
        match (&object.channel, &self.channel) {
            (None, Some(channel)) => Object::new(&object.topic, Some(channel)),
            (Some(_), None) => Ok(object),
            (Some(_), Some(extra)) => {
                Err(Failure::usage(format_args!("two channels are given: {object} and {extra}")))
            }
            (None, None) => {
                Err(Failure::usage(format_args!("no channel of topic {object} is given")).hint(format!(
                    "use {object} CHANNEL or {object}/CHANNEL; `nsq channel list {object}` lists the channels"
                )))
            }
        }
    }
}

/// The failure for an unknown topic or channel. The hint suggests the most similar name in `known`.
pub fn not_found<'a>(object: &Object, known: impl IntoIterator<Item = &'a str>) -> Failure {
    let failure = Failure::new(ExitStatus::NotFound, format_args!("there is no {} {object}", object.kind()));
    let typed = object.channel.as_ref().unwrap_or(&object.topic);
    match nearest(typed, known) {
        Some(name) => failure.hint(format!("did you mean {name}?")),
        None => failure.hint(match object.channel {
            None => "`nsq topic list` lists all topics".to_owned(),
            Some(_) => format!("`nsq channel list {}` lists the channels of the topic", object.topic),
        }),
    }
}

fn check(what: &str, name: &str, valid: bool) -> Result<(), Failure> {
    if valid { Ok(()) } else { Err(Failure::usage(format_args!("invalid {what} name {name:?}")).hint(RULE)) }
}

/// The known name most similar to `typed`; `None` if no name is similar enough.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerated = 1 + typed.len() / 4;
    let (distance, name) = known.into_iter().map(|name| (distance(typed, name), name)).min()?;
    (distance <= tolerated).then_some(name)
}

/// The edit distance in bytes: insertions, removals and replacements that turn `a` into `b`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, byte_a) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, byte_b) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(byte_a != byte_b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(topic: &str, channel: Option<&str>) -> Result<Object, Failure> {
        ChannelArgument { topic: topic.to_owned(), channel: channel.map(str::to_owned) }.object()
    }

    #[test]
    fn channel_is_given_as_one_or_two_arguments() {
        let object = Object { topic: "t".to_owned(), channel: Some("c#ephemeral".to_owned()) };
        assert_eq!(channel("t/c#ephemeral", None).as_ref(), Ok(&object));
        assert_eq!(channel("t", Some("c#ephemeral")).as_ref(), Ok(&object));
        assert_eq!(object.to_string(), "t/c#ephemeral");
        for (topic, second) in
            [("t", None), ("t/c", Some("d")), ("t/c/d", None), ("", Some("c")), ("t/", None)]
        {
            assert_eq!(channel(topic, second).unwrap_err().status, ExitStatus::Usage, "{topic} {second:?}");
        }
        assert!(TopicArgument { topic: "t/c".to_owned() }.object().is_err());
    }

    #[test]
    fn mistyped_name_finds_the_most_similar_one() {
        assert_eq!(nearest("ordres", ["billing", "orders"]), Some("orders"));
        assert_eq!(nearest("x", ["billing", "orders"]), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
