//! Pure: the policy file, which sets values for all topics and channels whose names match patterns.
//!
//! ```toml
//! [[policy]]
//! topic = "orders*"
//! retain_for = "24h"
//!
//! [[policy]]
//! topic = "orders*"
//! channel = "*"
//! retry = "exponential 1s..15m jitter 20%"
//! ```
//!
//! An entry without `channel` sets values of topics, one with `channel` those of channels. All matching entries apply
//! in order; a later one wins, setting by setting. One invalid entry makes the whole file invalid.

use std::collections::BTreeMap;

use globset::{Glob, GlobMatcher};
use serde::Deserialize;
use toml::Spanned;

use super::ordering::{Fair, Order, OrderedAndFair, Ordering};
use super::setting::{InvalidSetting, Setting, Value};
use super::settings::Settings;

/// The most entries of a file.
pub const MAX_ENTRIES: usize = 10_000;

/// Why a policy file is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct InvalidPolicies {
    /// From 1 on.
    pub line: usize,
    pub reason: InvalidPolicy,
}

/// What is wrong in a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// It is not TOML, or no list of policies.
    #[error("{0}")]
    Syntax(String),
    #[error("the policy has no topic; add one, such as topic = \"orders*\" or topic = \"*\"")]
    NoTopic,
    /// A pattern is not a text, or not a valid one.
    #[error("{0}")]
    Pattern(String),
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A setting of topics in an entry of channels.
    #[error("{0} is a setting of topics; put it into a policy without channel")]
    OfTopics(Setting),
    /// A setting of channels in an entry of topics.
    #[error("{0} is a setting of channels; add channel = \"*\" to the policy, or put it into another one")]
    OfChannels(Setting),
    #[error("the policy sets nothing")]
    Empty,
    #[error("more than {MAX_ENTRIES} policies")]
    TooMany,
    /// Two of its settings exclude each other.
    #[error(transparent)]
    OrderedAndFair(#[from] OrderedAndFair),
}

/// A valid policy file; see the module.
#[derive(Debug, Clone, Default)]
pub struct PolicyFile {
    entries: Vec<Entry>,
}

/// One policy.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The line on which it begins, from 1 on.
    pub line: usize,
    topic: GlobMatcher,
    /// `None` if the entry sets values of topics.
    channel: Option<GlobMatcher>,
    settings: Settings,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    #[serde(default)]
    policy: Vec<Spanned<BTreeMap<Spanned<String>, Spanned<toml::Value>>>>,
}

impl PolicyFile {
    /// Parses the text of a file.
    pub fn parse(text: &str) -> Result<Self, InvalidPolicies> {
        let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let invalid = |at: usize, reason: InvalidPolicy| InvalidPolicies { line: line_of(at), reason };
        let raw: Raw = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            invalid(at, InvalidPolicy::Syntax(error.message().to_owned()))
        })?;
        if raw.policy.len() > MAX_ENTRIES {
            return Err(invalid(raw.policy[MAX_ENTRIES].span().start, InvalidPolicy::TooMany));
        }
        let mut entries = Vec::with_capacity(raw.policy.len());
        for policy in raw.policy {
            let begins_at = policy.span().start;
            entries.push(
                Entry::parse(policy.into_inner(), begins_at, &line_of)
                    .map_err(|(at, reason)| invalid(at, reason))?,
            );
        }
        Ok(PolicyFile { entries })
    }

    /// Number of policies.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Valid values that may not have the expected effect: line and reason.
    pub fn warnings(&self) -> impl Iterator<Item = (usize, String)> + '_ {
        self.entries.iter().flat_map(|entry| {
            let warnings = entry.settings.iter().filter_map(|(setting, value)| setting.warning(value));
            warnings.map(|warning| (entry.line, warning))
        })
    }

    /// Whether a policy applies to the topic, or to the channel if one is given.
    pub fn concerns(&self, topic: &str, channel: Option<&str>) -> bool {
        self.entries.iter().any(|entry| entry.matches(topic, channel))
    }

    /// The value of a topic's setting, or of a channel's if `channel` is given, and the line of the policy that sets
    /// it.
    pub fn value(&self, setting: Setting, topic: &str, channel: Option<&str>) -> Option<(&Value, usize)> {
        let setting_of =
            |entry: &'_ Entry| entry.settings.get(setting).is_some() && entry.matches(topic, channel);
        let entry = self.entries.iter().rev().find(|entry| setting_of(entry))?;
        entry.settings.get(setting).map(|value| (value, entry.line))
    }
}

impl Entry {
    /// An error has the place in the text of what is wrong.
    fn parse(
        fields: BTreeMap<Spanned<String>, Spanned<toml::Value>>,
        begins_at: usize,
        line_of: &dyn Fn(usize) -> usize,
    ) -> Result<Self, (usize, InvalidPolicy)> {
        let (mut topic, mut channel) = (None, None);
        let mut settings = Vec::new();
        for (key, value) in fields {
            let (key_at, value_at) = (key.span().start, value.span().start);
            match key.get_ref().as_str() {
                "topic" => topic = Some(pattern(value.get_ref()).map_err(|error| (value_at, error))?),
                "channel" => channel = Some(pattern(value.get_ref()).map_err(|error| (value_at, error))?),
                name => {
                    let setting = Setting::find(name).map_err(|error| (key_at, error.into()))?;
                    let value = setting.parse(&text_of(value.get_ref()));
                    settings.push((key_at, setting, value.map_err(|error| (value_at, error.into()))?));
                }
            }
        }
        let topic = topic.ok_or((begins_at, InvalidPolicy::NoTopic))?;
        for (at, setting, _) in &settings {
            if channel.is_some() && !setting.is_of_channels() {
                return Err((*at, InvalidPolicy::OfTopics(*setting)));
            }
            if channel.is_none() && !setting.is_of_topics() {
                return Err((*at, InvalidPolicy::OfChannels(*setting)));
            }
        }
        if settings.is_empty() {
            return Err((begins_at, InvalidPolicy::Empty));
        }
        let settings: Settings = settings.into_iter().map(|(_, setting, value)| (setting, value)).collect();
        let order = settings.get(Setting::Order).map_or(Order::None, Value::order);
        let fair = settings.get(Setting::Fair).map_or(Fair::None, Value::fair);
        Ordering::check(order, fair).map_err(|error| (begins_at, error.into()))?;
        Ok(Entry { line: line_of(begins_at), topic, channel, settings })
    }

    fn matches(&self, topic: &str, channel: Option<&str>) -> bool {
        self.topic.is_match(topic)
            && match (&self.channel, channel) {
                (None, None) => true,
                (Some(pattern), Some(channel)) => pattern.is_match(channel),
                _ => false,
            }
    }
}

fn pattern(value: &toml::Value) -> Result<GlobMatcher, InvalidPolicy> {
    let text = value.as_str().ok_or_else(|| {
        InvalidPolicy::Pattern(format!("a pattern is a text such as \"orders*\", not {value}"))
    })?;
    let glob = Glob::new(text).map_err(|error| InvalidPolicy::Pattern(error.to_string()))?;
    Ok(glob.compile_matcher())
}

/// Texts, numbers and truth values as they would be written in a request.
fn text_of(value: &toml::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# Everything keeps a day.
[[policy]]
topic = "*"
retain_for = "24h"
owner = "platform"

[[policy]]
topic = "orders*"
owner = "shop"
retain_bytes = 1048576

[[policy]]
topic = "{orders,bills}*"
channel = "*"
retry = "list 1s"

[[policy]]
topic = "orders.eu"
channel = "bill?ng"
retry = "list 2s"
"#;

    #[test]
    fn later_policies_win_setting_by_setting() {
        let file = PolicyFile::parse(FILE).unwrap();
        assert_eq!(file.len(), 4);
        let of_topic =
            |setting, topic| file.value(setting, topic, None).map(|(value, line)| (value.to_string(), line));
        assert_eq!(of_topic(Setting::Owner, "orders"), Some(("shop".into(), 8)));
        assert_eq!(of_topic(Setting::Owner, "other"), Some(("platform".into(), 3)));
        assert_eq!(of_topic(Setting::RetainFor, "orders"), Some(("24h0m0s".into(), 3)));
        assert_eq!(of_topic(Setting::RetainBytes, "orders"), Some(("1MiB".into(), 8)));
        assert_eq!(of_topic(Setting::Retry, "orders"), None);
        let of_channel = |topic, channel| {
            file.value(Setting::Retry, topic, Some(channel)).map(|(value, line)| (value.to_string(), line))
        };
        assert_eq!(of_channel("orders.eu", "billing"), Some(("list 2s".into(), 18)));
        assert_eq!(of_channel("orders.eu", "archive"), Some(("list 1s".into(), 13)));
        assert_eq!(of_channel("bills", "x#ephemeral"), Some(("list 1s".into(), 13)));
        assert_eq!(of_channel("other", "billing"), None);
        assert_eq!(
            file.value(Setting::Owner, "orders", Some("billing")),
            None,
            "topics and channels are apart"
        );
    }

    #[test]
    fn an_empty_file_sets_nothing() {
        assert!(PolicyFile::parse("").unwrap().is_empty());
        assert!(PolicyFile::parse("# later\n").unwrap().is_empty());
    }

    #[test]
    fn errors_have_the_line_and_the_reason() {
        let error = |text: &str| PolicyFile::parse(text).unwrap_err().to_string();
        for (rest, expected) in [
            ("owner = 'a'", "line 1: the policy has no topic;"),
            ("topic = 'a'", "line 1: the policy sets nothing"),
            (
                "topic = 'a'\nowner = 'x'\nretain_for = 'soon'",
                "line 4: retain_for=soon: \"soon\" is not a duration",
            ),
            ("topic = 'a'\nretain_for = 24", "line 3: retain_for=24: missing unit"),
            ("topic = 'a'\nownr = 'x'", "line 3: unknown setting \"ownr\" (did you mean owner?)"),
            ("topic = 'a'\nretry = 'list 1s'", "line 3: retry is a setting of channels; add channel"),
            ("topic = 'a'\nchannel = 'b'\nretain_for = '1h'", "line 4: retain_for is a setting of topics;"),
            ("topic = 5\nowner = 'x'", "line 2: a pattern is a text such as \"orders*\", not 5"),
            ("topic = 'a['\nowner = 'x'", "line 2: error parsing glob 'a['"),
            ("topic = ", "line 2: "),
        ] {
            let text = format!("[[policy]]\n{rest}");
            assert!(error(&text).starts_with(expected), "{text}: {}", error(&text));
        }
        assert!(error("[[polices]]\ntopic = 'a'").contains("unknown field"));
        let many = "[[policy]]\ntopic = 'a'\nowner = 'b'\n".repeat(MAX_ENTRIES + 1);
        assert_eq!(error(&many), format!("line {}: more than 10000 policies", 3 * MAX_ENTRIES + 1));
    }
}
