//! Pure: which value of a setting is in force, and where it comes from.
//!
//! The first of these that has a value: the topic's or channel's own settings (set over HTTP), the policy file, a flag,
//! the built-in default.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::TopicName;

use super::bounds::{Bound, IdleExpiry, Overflow};
use super::dead_letter::{self, DEFAULT_TEMPLATE};
use super::file::PolicyFile;
use super::header_filter::HeaderFilter;
use super::ordering::{Fair, OnRequeue, Order, OrderedAndFair, Ordering};
use super::rate::Limits;
use super::retry::Retry;
use super::setting::{Setting, Value};
use super::settings::Settings;
use crate::clock::{self, Nanos};
use crate::log::retention::Retention;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Set over HTTP.
    Api,
    /// The policy file; the line on which the policy begins.
    File { line: usize },
    /// The topic of the channel.
    Topic,
    /// A flag of nsqd; its name without dashes.
    Flag(&'static str),
    /// Nothing sets it.
    Default,
}

/// What a topic or channel is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject<'a> {
    Topic(&'a str),
    Channel {
        topic: &'a str,
        channel: &'a str,
        /// The own settings of its topic. In dead-letter topics, policy files set no `max_attempts`, no overflow to
        /// dead letters and no `filter`, or a policy for all topics would move dead letters on, or finish them.
        of_topic: &'a Settings,
    },
}

/// The values that a topic works with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPolicy {
    pub retention: Retention,
    /// How long messages are delivered after they were published; 0 for no limit.
    pub ttl: Nanos,
    /// How long the topic remembers the ids of messages; 0 for not at all.
    pub dedupe: Nanos,
    /// How much it may hold back while it has no channel or is paused.
    pub bound: Bound,
}

/// The values that a channel works with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChannelPolicy {
    /// How long a failed message waits. `None`: not at all.
    pub retry: Option<Arc<Retry>>,
    /// Maximum delay, whatever the schedule says: `--max-req-timeout`.
    pub longest_delay: Nanos,
    /// After how many failed deliveries a message is dead-lettered; 0 for never.
    pub max_attempts: u16,
    /// Where dead letters go. `None` if the name is not valid, or if the messages are dead letters already and no setting
    /// says where they go.
    pub dead_letter: Option<TopicName>,
    /// How long messages are delivered after they were published; 0 for no limit.
    pub ttl: Nanos,
    /// Whether expired messages become dead letters. Otherwise they are dropped.
    pub keeps_expired: bool,
    /// How much the channel may hold.
    pub bound: Bound,
    /// What happens to it without consumers.
    pub idle_expiry: Option<IdleExpiry>,
    /// Which messages it delivers; it finishes the others. `None`: all.
    pub filter: Option<Arc<HeaderFilter>>,
    /// Which messages wait for others.
    pub ordering: Option<Ordering>,
    /// How fast it delivers.
    pub limits: Limits,
}

/// The sources of values for all topics and channels.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub file: Arc<PolicyFile>,
    /// `--retain-for` and `--retain-bytes`.
    pub retention: Retention,
    /// `--max-req-timeout`.
    pub longest_delay: Nanos,
    /// `--ttl`.
    pub ttl: Nanos,
}

impl Subject<'_> {
    fn names(&self) -> (&str, Option<&str>) {
        match self {
            Subject::Topic(topic) => (topic, None),
            Subject::Channel { topic, channel, .. } => (topic, Some(channel)),
        }
    }

    /// Whether a value from a policy file, or from the topic, does not apply to it.
    fn ignores(&self, setting: Setting, value: &Value) -> bool {
        let takes_letters_away =
            matches!(setting, Setting::MaxAttempts | Setting::Filter | Setting::IdleExpiry)
                || *value == Value::Overflow(Overflow::DeadLetter);
        let Subject::Channel { of_topic, .. } = self else { return false };
        takes_letters_away && of_topic.is_of_dead_letters()
    }

    /// Whether it has this setting. An ephemeral topic cannot retain messages.
    pub fn has(&self, setting: Setting) -> bool {
        match self {
            Subject::Topic(topic) => {
                let is_retention = matches!(setting, Setting::RetainFor | Setting::RetainBytes);
                setting.is_of_topics() && !(is_retention && topic.ends_with("#ephemeral"))
            }
            Subject::Channel { .. } => setting.is_of_channels(),
        }
    }
}

impl Sources {
    /// The value in force, `None` if it is off or not set, and where it comes from. `own` are the subject's own
    /// settings.
    pub fn value(&self, setting: Setting, subject: Subject<'_>, own: &Settings) -> (Option<Value>, Origin) {
        if let Some(value) = own.get(setting) {
            return (Some(value.clone()), Origin::Api);
        }
        let (topic, channel) = subject.names();
        if let Some((value, line)) = self.file.value(setting, topic, channel)
            && !subject.ignores(setting, value)
        {
            return (Some(value.clone()), Origin::File { line });
        }
        if let Subject::Channel { topic, of_topic, .. } = subject
            && matches!(setting, Setting::MaxDepth | Setting::MaxBytes | Setting::Overflow)
            && let (Some(value), origin) = self.value(setting, Subject::Topic(topic), of_topic)
            && (origin == Origin::Api || !subject.ignores(setting, &value))
        {
            return (Some(value), Origin::Topic);
        }
        match self.of_flag(setting) {
            Some((value, flag)) => (Some(value), Origin::Flag(flag)),
            None => (None, Origin::Default),
        }
    }

    fn of_flag(&self, setting: Setting) -> Option<(Value, &'static str)> {
        let Retention { age, bytes } = self.retention;
        match setting {
            Setting::RetainFor => {
                (age > 0).then(|| (Value::Duration(Duration::from_nanos(age)), "retain-for"))
            }
            Setting::RetainBytes => (bytes > 0).then_some((Value::Bytes(bytes), "retain-bytes")),
            Setting::Description
            | Setting::Owner
            | Setting::Runbook
            | Setting::Retry
            | Setting::MaxAttempts
            | Setting::DeadLetter
            | Setting::DeadLettersOf
            | Setting::MovingTo
            | Setting::Dedupe
            | Setting::MaxDepth
            | Setting::MaxBytes
            | Setting::Overflow
            | Setting::IdleExpiry
            | Setting::Filter
            | Setting::Order
            | Setting::OrderOnRequeue
            | Setting::Fair
            | Setting::Rate
            | Setting::Burst
            | Setting::MaxInFlight => None,
            Setting::Ttl => (self.ttl > 0).then(|| (Value::Duration(Duration::from_nanos(self.ttl)), "ttl")),
        }
    }

    /// What a topic works with.
    pub fn of_topic(&self, topic: &str, own: &Settings) -> TopicPolicy {
        let value = |setting| self.value(setting, Subject::Topic(topic), own).0;
        let age = value(Setting::RetainFor).map_or(0, |value| clock::nanos(value.duration()));
        let bytes = value(Setting::RetainBytes).map_or(0, |value| value.bytes());
        let ttl = value(Setting::Ttl).map_or(0, |value| clock::nanos(value.duration()));
        let dedupe = value(Setting::Dedupe).map_or(0, |value| clock::nanos(value.duration()));
        let bound = bound(value);
        TopicPolicy { retention: Retention { age, bytes }, ttl: shorter(ttl, self.ttl), dedupe, bound }
    }

    /// Whether the settings of a channel can be in force together.
    pub fn check_channel(&self, subject: Subject<'_>, own: &Settings) -> Result<(), OrderedAndFair> {
        let value = |setting| self.value(setting, subject, own).0;
        let order = value(Setting::Order).map_or(Order::None, |value| value.order());
        Ordering::check(order, value(Setting::Fair).map_or(Fair::None, |value| value.fair()))
    }

    /// What a channel works with.
    pub fn of_channel(
        &self,
        topic: &str,
        of_topic: &Settings,
        channel: &str,
        own: &Settings,
    ) -> ChannelPolicy {
        let subject = Subject::Channel { topic, channel, of_topic };
        let value = |setting| self.value(setting, subject, own).0;
        let max_attempts = value(Setting::MaxAttempts).map_or(0, |value| value.count());
        let template = value(Setting::DeadLetter);
        let keeps_expired = template.is_some();
        let ttl = value(Setting::Ttl).map_or(0, |value| clock::nanos(value.duration()));
        let template = template.as_ref().map_or(DEFAULT_TEMPLATE, Value::text);
        let mut bound = bound(value);
        let keeps_overflow = !bound.is_off() && bound.overflow == Overflow::DeadLetter;
        let dead_letter = match max_attempts {
            0 if !keeps_expired && !keeps_overflow && of_topic.is_of_dead_letters() => None,
            // Without settings too, for messages that consumers reject.
            _ => dead_letter::topic_name(template, topic, channel).ok(),
        };
        if keeps_overflow && dead_letter.is_none() {
            // There is no topic for them, so nothing must be removed.
            bound.overflow = Overflow::Reject;
        }
        ChannelPolicy {
            max_attempts: u16::try_from(max_attempts).unwrap_or(u16::MAX),
            dead_letter,
            ttl: shorter(ttl, self.of_topic(topic, of_topic).ttl),
            keeps_expired,
            retry: match value(Setting::Retry) {
                Some(Value::Retry(retry)) => Some(Arc::new(retry)),
                _ => None,
            },
            longest_delay: self.longest_delay,
            bound,
            filter: match value(Setting::Filter) {
                Some(Value::Filter(filter)) => Some(filter),
                _ => None,
            },
            idle_expiry: match value(Setting::IdleExpiry) {
                Some(Value::IdleExpiry(idle)) if !idle.after.is_zero() => Some(idle),
                _ => None,
            },
            ordering: Ordering::of(
                value(Setting::Order).map_or(Order::None, |value| value.order()),
                match value(Setting::OrderOnRequeue) {
                    Some(Value::OnRequeue(on_requeue)) => on_requeue,
                    _ => OnRequeue::default(),
                },
                value(Setting::Fair).map_or(Fair::None, |value| value.fair()),
            ),
            limits: Limits {
                rate: match value(Setting::Rate) {
                    Some(Value::Rate(rate)) => rate,
                    _ => None,
                },
                burst: value(Setting::Burst).map_or(0, |value| value.count()),
                max_in_flight: value(Setting::MaxInFlight).map_or(0, |value| value.count()),
            },
        }
    }
}

fn bound(value: impl Fn(Setting) -> Option<Value>) -> Bound {
    Bound {
        max_depth: value(Setting::MaxDepth).map_or(0, |value| value.count()),
        max_bytes: value(Setting::MaxBytes).map_or(0, |value| value.bytes()),
        overflow: value(Setting::Overflow).map_or_else(Overflow::default, |value| value.overflow()),
    }
}

/// The shorter of two times to live; 0 is none.
fn shorter(a: Nanos, b: Nanos) -> Nanos {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Api => f.write_str("set over HTTP"),
            Origin::File { line } => write!(f, "policy file, line {line}"),
            Origin::Topic => f.write_str("setting of the topic"),
            Origin::Flag(flag) => write!(f, "--{flag}"),
            Origin::Default => f.write_str("default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ordering::Rule;

    fn settings(text: &str) -> Settings {
        let (settings, problems) = Settings::parse(text);
        assert_eq!(problems, []);
        settings
    }

    #[test]
    fn channels_use_the_bounds_of_their_topic_key_by_key() {
        let sources = Sources::default();
        let topic = settings("max_depth=1000\nmax_bytes=1MiB\n");
        let bound = |own: &str| sources.of_channel("t", &topic, "c", &settings(own)).bound;
        let of_topic = Bound { max_depth: 1000, max_bytes: 1 << 20, overflow: Overflow::Reject };
        assert_eq!(bound(""), of_topic);
        assert_eq!(sources.of_topic("t", &topic).bound, of_topic);
        assert_eq!(bound("overflow=drop_oldest\n"), Bound { overflow: Overflow::DropOldest, ..of_topic });
        assert_eq!(bound("max_depth=0\n"), Bound { max_depth: 0, ..of_topic });
        let subject = Subject::Channel { topic: "t", channel: "c", of_topic: &topic };
        let value = sources.value(Setting::MaxDepth, subject, &Settings::default());
        assert_eq!(value, (Some(Value::Count(1000)), Origin::Topic));
    }

    #[test]
    fn order_wins_over_fairness_of_another_policy() {
        let text = "[[policy]]\ntopic = \"*\"\nchannel = \"*\"\nfair = \"key\"\nrate = \"10/s total\"\nburst = 7\n\
                    [[policy]]\ntopic = \"orders\"\nchannel = \"*\"\norder = \"key\"\n";
        let sources = Sources { file: Arc::new(PolicyFile::parse(text).unwrap()), ..Sources::default() };
        let policy =
            |topic: &str, own: &str| sources.of_channel(topic, &Settings::default(), "c", &settings(own));
        let rule = |policy: ChannelPolicy| policy.ordering.map(|ordering| ordering.rule);
        assert_eq!(rule(policy("orders", "")), Some(Rule::Key));
        assert_eq!(rule(policy("t", "")), Some(Rule::Fair));
        assert_eq!(rule(policy("t", "fair=none\n")), None);
        let limits = policy("t", "max_in_flight=3\n").limits;
        assert_eq!((limits.burst, limits.max_in_flight), (7, 3));
        assert!(limits.rate.is_some_and(|rate| rate.is_total));
        assert_eq!(policy("t", "rate=0\n").limits.rate, None);
        let both = text.replace("burst = 7", "order = \"all\"");
        let refused = PolicyFile::parse(&both).unwrap_err();
        assert_eq!(refused.line, 1);
        assert!(refused.to_string().contains("order=all and fair=key exclude each other"), "{refused}");
    }

    #[test]
    fn dead_letter_topics_do_not_pass_dead_letters_on_by_a_policy_for_all_topics() {
        let text = "[[policy]]\ntopic = \"*\"\nmax_depth = 5\noverflow = \"dead_letter\"\n\
                    [[policy]]\ntopic = \"*\"\nchannel = \"*\"\nmax_attempts = 3\nidle_expiry = \"7d delete\"\n";
        let sources = Sources { file: Arc::new(PolicyFile::parse(text).unwrap()), ..Sources::default() };
        let policy = |topic: &str, own: &str| sources.of_channel("t", &settings(topic), "c", &settings(own));
        let plain = policy("", "");
        assert_eq!((plain.max_attempts, plain.bound.overflow), (3, Overflow::DeadLetter));
        assert!(plain.idle_expiry.is_some());
        assert_eq!(plain.dead_letter.unwrap().as_str(), "t.dead");
        let dead = policy("dead_letters_of=x\n", "");
        assert_eq!((dead.max_attempts, dead.bound.overflow), (0, Overflow::Reject));
        assert!(dead.idle_expiry.is_none(), "nobody consumes the channel of a dead-letter topic");
        assert_eq!(
            policy("dead_letters_of=x\n", "overflow=dead_letter\n").bound.overflow,
            Overflow::DeadLetter
        );
        let of_topic = policy("dead_letters_of=x\noverflow=dead_letter\n", "");
        assert_eq!(of_topic.bound.overflow, Overflow::DeadLetter, "set on the topic itself");
    }

    #[test]
    fn without_a_topic_for_dead_letters_publishes_are_refused() {
        let sources = Sources::default();
        let topic = "t".repeat(62);
        let own = settings("max_depth=2\noverflow=dead_letter\n");
        let policy = sources.of_channel(&topic, &Settings::default(), "c", &own);
        assert_eq!((policy.dead_letter, policy.bound.overflow), (None, Overflow::Reject));
    }

    #[test]
    fn rejected_messages_have_a_topic_without_settings_but_dead_letters_have_none() {
        let target = |topic: &str, of_topic: &str, own: &str| {
            let (of_topic, own) = (Settings::parse(of_topic).0, Settings::parse(own).0);
            let policy = Sources::default().of_channel(topic, &of_topic, "c", &own);
            policy.dead_letter.map(|name| name.to_string())
        };
        assert_eq!(target("t", "", "").as_deref(), Some("t.dead"));
        assert_eq!(target("t", "", "dead_letter={channel}.x").as_deref(), Some("c.x"));
        assert_eq!(target(&"t".repeat(60), "", ""), None);
        assert_eq!(target("t.dead", "dead_letters_of=t", ""), None);
        let template = "dead_letter={topic}.again";
        assert_eq!(target("t.dead", "dead_letters_of=t", template).as_deref(), Some("t.dead.again"));
        assert_eq!(target("t.dead", "dead_letters_of=t", "max_attempts=3").as_deref(), Some("t.dead.dead"));
    }

    #[test]
    fn a_filter_of_a_policy_file_finishes_no_dead_letters() {
        let text = "[[policy]]\ntopic = \"*\"\nchannel = \"*\"\nfilter = \"tenant=acme\"\n";
        let sources = Sources { file: Arc::new(PolicyFile::parse(text).unwrap()), ..Sources::default() };
        let filter = |topic: &str, own: &str| {
            let policy = sources.of_channel("t", &settings(topic), "c", &settings(own));
            policy.filter.map(|filter| filter.to_string())
        };
        assert_eq!(filter("", "").as_deref(), Some("tenant=acme"));
        assert_eq!(filter("", "filter=a!=b\n").as_deref(), Some("a!=b"));
        assert_eq!(filter("dead_letters_of=x\n", ""), None);
        assert_eq!(filter("dead_letters_of=x\n", "filter=a=b\n").as_deref(), Some("a=b"));
    }

    #[test]
    fn an_ephemeral_topic_has_no_retention() {
        for setting in [Setting::RetainFor, Setting::RetainBytes] {
            assert!(Subject::Topic("orders").has(setting));
            assert!(!Subject::Topic("orders#ephemeral").has(setting));
        }
        assert!(Subject::Topic("orders#ephemeral").has(Setting::Owner));
    }
}
