//! Topics and channels as they are typed: `TOPIC CHANNEL` or `TOPIC/CHANNEL`. Pure.

use std::fmt;

use clap::Args;
use nsq_protocol::{ChannelName, TopicName};

use crate::exit_status::{ExitStatus, Failure};

/// The rule, for those who broke it.
const RULE: &str = "1 to 64 of a-z A-Z 0-9 . _ -, optionally followed by #ephemeral";

/// A topic, or one of its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The topic.
    pub topic: String,
    /// The channel, if it is one.
    pub channel: Option<String>,
}

impl Object {
    /// Reads `TOPIC` or `TOPIC/CHANNEL`.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        // No name has a slash in it.
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

/// A topic as typed.
#[derive(Debug, Args)]
pub struct TopicArgument {
    /// The topic's name.
    #[arg(value_name = "TOPIC")]
    topic: String,
}

impl TopicArgument {
    /// As meant.
    pub fn object(&self) -> Result<Object, Failure> {
        let object = Object::parse(&self.topic)?;
        match object.channel {
            None => Ok(object),
            Some(_) => Err(Failure::usage(format_args!("{object} is a channel, and this is about topics"))
                .hint("the same for channels: nsq channel ...")),
        }
    }
}

/// A channel as typed.
#[derive(Debug, Args)]
pub struct ChannelArgument {
    /// The topic's name, or TOPIC/CHANNEL.
    #[arg(value_name = "TOPIC")]
    topic: String,
    /// The channel's name.
    #[arg(value_name = "CHANNEL")]
    channel: Option<String>,
}

impl ChannelArgument {
    /// As meant.
    pub fn object(&self) -> Result<Object, Failure> {
        let object = Object::parse(&self.topic)?;
        match (&object.channel, &self.channel) {
            (None, Some(channel)) => Object::new(&object.topic, Some(channel)),
            (Some(_), None) => Ok(object),
            (Some(_), Some(extra)) => {
                Err(Failure::usage(format_args!("{object} and {extra}: one channel too many")))
            }
            (None, None) => Err(Failure::usage(format_args!("which channel of {object}?")).hint(format!(
                "{object} CHANNEL or {object}/CHANNEL; `nsq channel list {object}` lists them"
            ))),
        }
    }
}

/// What to say when there is no such topic or channel.
pub fn not_found<'a>(object: &Object, known: impl IntoIterator<Item = &'a str>) -> Failure {
    let failure = Failure::new(ExitStatus::NotFound, format_args!("there is no {} {object}", object.kind()));
    let typed = object.channel.as_ref().unwrap_or(&object.topic);
    match nearest(typed, known) {
        Some(name) => failure.hint(format!("did you mean {name}?")),
        None => failure.hint(match object.channel {
            None => "`nsq topic list` lists all".to_owned(),
            Some(_) => format!("`nsq channel list {}` lists the channels of the topic", object.topic),
        }),
    }
}

fn check(what: &str, name: &str, valid: bool) -> Result<(), Failure> {
    if valid { Ok(()) } else { Err(Failure::usage(format_args!("{name:?} is not a {what} name")).hint(RULE)) }
}

/// The known name that is most like what was typed, if any is like it.
fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let tolerated = 1 + typed.len() / 4;
    let (distance, name) = known.into_iter().map(|name| (distance(typed, name), name)).min()?;
    (distance <= tolerated).then_some(name)
}

/// How many bytes must be inserted, removed or replaced to make `b` of `a`.
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
    fn a_channel_is_two_arguments_or_one() {
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
    fn a_mistyped_name_is_recognized() {
        assert_eq!(nearest("ordres", ["billing", "orders"]), Some("orders"));
        assert_eq!(nearest("x", ["billing", "orders"]), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
