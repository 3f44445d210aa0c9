//! Pure: why messages become dead letters, and the name of the topic that gets those of a channel.

use nsq_protocol::TopicName;

/// The template if the setting `dead_letter` has no value.
pub const DEFAULT_TEMPLATE: &str = "{topic}.dead";
const TOPIC: &str = "{topic}";
const CHANNEL: &str = "{channel}";
const EPHEMERAL: &str = "#ephemeral";

/// Why a message becomes a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its attempts were used up.
    Attempts,
    /// It was too old.
    Expired,
    /// It exceeded the bound of its channel.
    Overflow,
    /// A consumer rejected it.
    Rejected,
}

/// Why a template is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTemplate {
    #[error("no topic can have this name")]
    Characters,
    /// The name for this topic and channel.
    #[error("{0:?} has more than 64 bytes or is no name of a topic")]
    Name(String),
}

impl Reason {
    /// The value of the header `nsq-dead-reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Attempts => "attempts",
            Reason::Expired => "expired",
            Reason::Overflow => "overflow",
            Reason::Rejected => "rejected",
        }
    }
}

/// Checks a template without knowing the names of topic and channel.
pub fn check_template(template: &str) -> Result<(), InvalidTemplate> {
    match topic_name(template, "t", "c") {
        Ok(_) => Ok(()),
        Err(_) => Err(InvalidTemplate::Characters),
    }
}

/// The topic for the dead letters of a channel. It is durable, unless the template says otherwise: dead letters of
/// ephemeral topics and channels are not lost with them.
pub fn topic_name(template: &str, topic: &str, channel: &str) -> Result<TopicName, InvalidTemplate> {
    let durable = |name: &str| name.strip_suffix(EPHEMERAL).unwrap_or(name).to_owned();
    let name = template.replace(TOPIC, &durable(topic)).replace(CHANNEL, &durable(channel));
    TopicName::new(&*name).map_err(|_| InvalidTemplate::Name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_replaced() {
        let name =
            |template, topic, channel| topic_name(template, topic, channel).map(|name| name.to_string());
        assert_eq!(name(DEFAULT_TEMPLATE, "orders", "c").as_deref(), Ok("orders.dead"));
        assert_eq!(name("{topic}.{channel}.dead", "orders", "c#ephemeral").as_deref(), Ok("orders.c.dead"));
        assert_eq!(name("dead", "orders", "c").as_deref(), Ok("dead"));
        assert_eq!(name(DEFAULT_TEMPLATE, "t#ephemeral", "c").as_deref(), Ok("t.dead"));
        let long = "t".repeat(60);
        assert_eq!(name(DEFAULT_TEMPLATE, &long, "c"), Err(InvalidTemplate::Name(format!("{long}.dead"))));
    }

    #[test]
    fn templates_that_name_no_topic_are_refused() {
        assert_eq!(check_template("{topic}.dead"), Ok(()));
        for template in ["", "a b", "{topics}.dead", "{topic"] {
            assert_eq!(check_template(template), Err(InvalidTemplate::Characters), "{template}");
        }
    }
}
