//! Pure: the table of settings: names, where they apply, and which values they take.
//!
//! A new setting is one variant and one row here, a field in [`super::effective`], and its effect.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::go_duration;

use super::bounds::{IdleExpiry, Overflow};
use super::header_filter::HeaderFilter;
use super::ordering::{Fair, OnRequeue, Order, UnknownWord};
use super::rate::Rate;
use super::retry::Retry;

/// One setting of topics or channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    Description,
    Owner,
    Runbook,
    RetainFor,
    RetainBytes,
    Retry,
    MaxAttempts,
    DeadLetter,
    DeadLettersOf,
    MovingTo,
    Ttl,
    Dedupe,
    MaxDepth,
    MaxBytes,
    Overflow,
    IdleExpiry,
    Filter,
    Order,
    OrderOnRequeue,
    Fair,
    Rate,
    Burst,
    MaxInFlight,
}

/// What a setting applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppliesTo {
    Topics,
    Channels,
    /// A topic and each of its channels have their own value.
    Both,
}

/// The values that a setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// At most [`MAX_TEXT_BYTES`], without control characters.
    Text,
    /// From `least` to `most`, or 0.
    Duration {
        least: Duration,
        most: Duration,
    },
    Bytes {
        least: u64,
    },
    /// A duration up to [`MAX_WINDOW`], or 0.
    Window,
    Retry,
    /// From 0 (off) to `most`.
    Count {
        most: u64,
    },
    /// The name of a topic, which may contain placeholders.
    TopicTemplate,
    Overflow,
    IdleExpiry,
    /// Conditions on headers, at most [`MAX_TEXT_BYTES`].
    Filter,
    Order,
    OnRequeue,
    Fair,
    Rate,
}

/// A value of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Text(String),
    /// Zero if the setting is off.
    Duration(Duration),
    /// Zero if the setting is off.
    Bytes(u64),
    Retry(Retry),
    /// Zero if the setting is off.
    Count(u64),
    Overflow(Overflow),
    IdleExpiry(IdleExpiry),
    Filter(Arc<HeaderFilter>),
    Order(Order),
    OnRequeue(OnRequeue),
    Fair(Fair),
    /// `None` if the setting is off.
    Rate(Option<Rate>),
}

/// A row of the table.
struct Row {
    setting: Setting,
    name: &'static str,
    applies_to: AppliesTo,
    kind: Kind,
    example: &'static str,
    help: &'static str,
}

const DAY: u64 = 24 * 3600;
/// Longest text of a setting, in bytes.
pub const MAX_TEXT_BYTES: usize = 1024;
/// After this many deliveries go-nsq, pynsq and gnsq finish a message by themselves, unless they are configured
/// otherwise.
const CLIENTS_GIVE_UP_AFTER: u64 = 5;
/// Largest bound for a number of messages.
const MOST_MESSAGES: u64 = 1_000_000_000_000;
/// Most messages handed out at once or in flight.
const MOST_AT_A_TIME: u64 = 1_000_000_000;
/// Longest window of time.
const MAX_WINDOW: Duration = Duration::from_secs(7 * DAY);
const MAX_AGE: Duration = Duration::from_secs(10 * 365 * DAY);

/// In the order of [`Setting`].
const TABLE: &[Row] = &[
    Row {
        setting: Setting::Description,
        name: "description",
        applies_to: AppliesTo::Both,
        kind: Kind::Text,
        example: "Orders from the shop",
        help: "what it is for, for people",
    },
    Row {
        setting: Setting::Owner,
        name: "owner",
        applies_to: AppliesTo::Both,
        kind: Kind::Text,
        example: "team-shop",
        help: "who is responsible, for people",
    },
    Row {
        setting: Setting::Runbook,
        name: "runbook",
        applies_to: AppliesTo::Both,
        kind: Kind::Text,
        example: "https://wiki.example/orders",
        help: "where to read what to do, for people",
    },
    Row {
        setting: Setting::RetainFor,
        name: "retain_for",
        applies_to: AppliesTo::Topics,
        kind: Kind::Duration { least: Duration::from_millis(1), most: MAX_AGE },
        example: "24h",
        help: "how long finished messages are retained",
    },
    Row {
        setting: Setting::RetainBytes,
        name: "retain_bytes",
        applies_to: AppliesTo::Topics,
        kind: Kind::Bytes { least: 1 },
        example: "10GiB",
        help: "how many bytes of its newest messages the topic retains",
    },
    Row {
        setting: Setting::Retry,
        name: "retry",
        applies_to: AppliesTo::Channels,
        kind: Kind::Retry,
        example: "exponential 1s..15m jitter 20%",
        help: "how long a message waits after it timed out or was requeued without a delay",
    },
    Row {
        setting: Setting::MaxAttempts,
        name: "max_attempts",
        applies_to: AppliesTo::Channels,
        kind: Kind::Count { most: u16::MAX as u64 },
        example: "5",
        help: "after how many failed deliveries a message is dead-lettered",
    },
    Row {
        setting: Setting::DeadLetter,
        name: "dead_letter",
        applies_to: AppliesTo::Channels,
        kind: Kind::TopicTemplate,
        example: "{topic}.dead",
        help: "the topic for dead letters; {topic}.dead if not set",
    },
    Row {
        setting: Setting::DeadLettersOf,
        name: "dead_letters_of",
        applies_to: AppliesTo::Topics,
        kind: Kind::Text,
        example: "orders",
        help: "set by nsqd on a dead-letter topic: where its messages come from; its channels ignore max_attempts of \
               policy files",
    },
    Row {
        setting: Setting::MovingTo,
        name: "moving_to",
        applies_to: AppliesTo::Both,
        kind: Kind::Text,
        example: "4f0a1c8e2b7d43569e0f1a2b3c4d5e6f 10.0.0.2:4151",
        help: "set by nsqd while a drain moves the messages to another node: the transfer and the address",
    },
    Row {
        setting: Setting::Ttl,
        name: "ttl",
        applies_to: AppliesTo::Both,
        kind: Kind::Duration { least: Duration::from_millis(10), most: MAX_AGE },
        example: "24h",
        help: "how long after publishing a message is delivered; the shortest of flag, topic and channel applies",
    },
    Row {
        setting: Setting::Dedupe,
        name: "dedupe",
        applies_to: AppliesTo::Topics,
        kind: Kind::Window,
        example: "5m",
        help: "how long the topic remembers the nsq-id of a message, to store no second one",
    },
    Row {
        setting: Setting::MaxDepth,
        name: "max_depth",
        applies_to: AppliesTo::Both,
        kind: Kind::Count { most: MOST_MESSAGES },
        example: "1000000",
        help: "how many unfinished messages a channel may hold; on a topic, for each channel that does not set it",
    },
    Row {
        setting: Setting::MaxBytes,
        name: "max_bytes",
        applies_to: AppliesTo::Both,
        kind: Kind::Bytes { least: 1 },
        example: "10GiB",
        help: "how many bytes of unfinished messages a channel may hold; on a topic, for each channel that does not set it",
    },
    Row {
        setting: Setting::Overflow,
        name: "overflow",
        applies_to: AppliesTo::Both,
        kind: Kind::Overflow,
        example: "drop_oldest",
        help: "what happens beyond max_depth and max_bytes: publishes are refused (reject, the default), or the oldest \
               waiting messages are dropped (drop_oldest) or become dead letters (dead_letter)",
    },
    Row {
        setting: Setting::IdleExpiry,
        name: "idle_expiry",
        applies_to: AppliesTo::Channels,
        kind: Kind::IdleExpiry,
        example: "7d delete",
        help: "after how long without a consumer the channel is emptied or deleted",
    },
    Row {
        setting: Setting::Filter,
        name: "filter",
        applies_to: AppliesTo::Channels,
        kind: Kind::Filter,
        example: "tenant=acme,region!=test*",
        help: "conditions on the headers of messages; the channel finishes others without delivering them",
    },
    Row {
        setting: Setting::Order,
        name: "order",
        applies_to: AppliesTo::Channels,
        kind: Kind::Order,
        example: "key",
        help: "which messages are delivered one after the other: none, those with the same nsq-key (key), or all",
    },
    Row {
        setting: Setting::OrderOnRequeue,
        name: "order_on_requeue",
        applies_to: AppliesTo::Channels,
        kind: Kind::OnRequeue,
        example: "skip",
        help: "with order: whether a message that was requeued with a delay blocks the others of its key until it is \
               finished (block, the default) or lets them pass (skip)",
    },
    Row {
        setting: Setting::Fair,
        name: "fair",
        applies_to: AppliesTo::Channels,
        kind: Kind::Fair,
        example: "key",
        help: "whether messages of an nsq-key that has more than its share in flight wait behind those of other keys",
    },
    Row {
        setting: Setting::Rate,
        name: "rate",
        applies_to: AppliesTo::Channels,
        kind: Kind::Rate,
        example: "100/s",
        help: "how many messages the channel delivers in a second (s), minute (m) or hour (h)",
    },
    Row {
        setting: Setting::Burst,
        name: "burst",
        applies_to: AppliesTo::Channels,
        kind: Kind::Count { most: MOST_AT_A_TIME },
        example: "50",
        help: "with rate: how many messages may be delivered at once after a pause; 0 for what the rate allows in 100 ms",
    },
    Row {
        setting: Setting::MaxInFlight,
        name: "max_in_flight",
        applies_to: AppliesTo::Channels,
        kind: Kind::Count { most: MOST_AT_A_TIME },
        example: "500",
        help: "how many messages of the channel may be in flight, to all consumers together",
    },
];

/// Why a value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSetting {
    /// There is no setting of this name.
    #[error("unknown setting {name:?}{}; settings are {}", suggestion(.name), names())]
    Unknown { name: String },
    /// The value does not parse or is out of range.
    #[error("{name}={value}: {reason}; expected {expected}, such as {name}={example}")]
    Value { name: &'static str, value: String, reason: String, expected: String, example: &'static str },
}

impl Setting {
    /// All settings, in the order in which they are listed.
    pub fn all() -> impl Iterator<Item = Setting> {
        TABLE.iter().map(|row| row.setting)
    }

    fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }

    /// The key in policy files, in requests and in answers.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    pub fn applies_to(self) -> AppliesTo {
        self.row().applies_to
    }

    /// Whether topics have it.
    pub fn is_of_topics(self) -> bool {
        self.applies_to() != AppliesTo::Channels
    }

    /// Whether channels have it.
    pub fn is_of_channels(self) -> bool {
        self.applies_to() != AppliesTo::Topics
    }

    /// What it does, as a phrase.
    pub fn help(self) -> &'static str {
        self.row().help
    }

    /// A valid value.
    pub fn example(self) -> &'static str {
        self.row().example
    }

    /// The values that it takes, as a phrase.
    pub fn expected(self) -> String {
        match self.row().kind {
            Kind::Text => format!("text of at most {MAX_TEXT_BYTES} bytes"),
            Kind::Duration { least, most } => {
                let days = most.as_secs() / DAY;
                format!("a duration from {} to {days}d, or 0 for no limit", go_duration::format(least))
            }
            Kind::Bytes { .. } => "a number of bytes, or 0 for no limit".to_owned(),
            Kind::Count { most } => format!("a number from 0 (off) to {most}"),
            Kind::TopicTemplate => {
                "the name of a topic, in which {topic} and {channel} are replaced by their names".to_owned()
            }
            Kind::Overflow => Overflow::EXPECTED.to_owned(),
            Kind::IdleExpiry => IdleExpiry::EXPECTED.to_owned(),
            Kind::Order => Order::EXPECTED.to_owned(),
            Kind::OnRequeue => OnRequeue::EXPECTED.to_owned(),
            Kind::Fair => Fair::EXPECTED.to_owned(),
            Kind::Rate => Rate::EXPECTED.to_owned(),
            Kind::Filter => format!(
                "conditions NAME=GLOB or NAME!=GLOB, separated by commas, of at most {MAX_TEXT_BYTES} bytes"
            ),
            Kind::Window => format!("a duration up to {}d, or 0 for none", MAX_WINDOW.as_secs() / DAY),
            Kind::Retry => {
                "exponential FIRST..LONGEST [xFACTOR], linear FIRST..LONGEST or list DELAY,DELAY,..., each \
                            with an optional jitter PERCENT%"
                    .to_owned()
            }
        }
    }

    /// Why a valid value may not have the expected effect.
    pub fn warning(self, value: &Value) -> Option<String> {
        let is_too_late = self == Setting::MaxAttempts && value.count() > CLIENTS_GIVE_UP_AFTER;
        is_too_late.then(|| {
            format!(
                "max_attempts={value}: go-nsq, pynsq and gnsq finish a message after {CLIENTS_GIVE_UP_AFTER} attempts, \
                 so nsqd never dead-letters it; raise max_attempts (max_tries) of these clients, or set \
                 max_attempts={CLIENTS_GIVE_UP_AFTER} here"
            )
        })
    }

    /// Finds the setting of this name.
    pub fn find(name: &str) -> Result<Setting, InvalidSetting> {
        let row = TABLE.iter().find(|row| row.name == name);
        row.map(|row| row.setting).ok_or_else(|| InvalidSetting::Unknown { name: name.to_owned() })
    }

    /// Parses a value.
    pub fn parse(self, text: &str) -> Result<Value, InvalidSetting> {
        let row = self.row();
        let refused = |reason: String| InvalidSetting::Value {
            name: row.name,
            value: text.to_owned(),
            reason,
            expected: self.expected(),
            example: row.example,
        };
        match row.kind {
            Kind::Text | Kind::Filter if text.len() > MAX_TEXT_BYTES => {
                Err(refused(format!("{} bytes are too many", text.len())))
            }
            Kind::Text | Kind::Filter if text.contains(char::is_control) => {
                Err(refused("it contains a control character".into()))
            }
            Kind::Text => Ok(Value::Text(text.to_owned())),
            Kind::Duration { least, most } => {
                let duration =
                    go_duration::parse_with_days(text).map_err(|error| refused(error.to_string()))?;
                if duration != Duration::ZERO && !(least..=most).contains(&duration) {
                    return Err(refused("out of range".into()));
                }
                Ok(Value::Duration(duration))
            }
            Kind::Window => {
                match go_duration::parse_with_days(text).map_err(|error| refused(error.to_string()))? {
                    duration if duration <= MAX_WINDOW => Ok(Value::Duration(duration)),
                    _ => Err(refused("out of range".into())),
                }
            }
            Kind::Bytes { least } => match parse_bytes(text) {
                Some(bytes) if bytes == 0 || bytes >= least => Ok(Value::Bytes(bytes)),
                Some(_) => Err(refused("out of range".into())),
                None => Err(refused("not a number of bytes".into())),
            },
            Kind::Count { most } => match text.parse() {
                Ok(count) if count <= most => Ok(Value::Count(count)),
                Ok(_) => Err(refused("out of range".into())),
                Err(_) => Err(refused("not a number".into())),
            },
            Kind::TopicTemplate => match super::dead_letter::check_template(text) {
                Ok(()) => Ok(Value::Text(text.to_owned())),
                Err(reason) => Err(refused(reason.to_string())),
            },
            Kind::Overflow => text
                .parse()
                .map(Value::Overflow)
                .map_err(|error: super::bounds::InvalidOverflow| refused(error.to_string())),
            Kind::IdleExpiry => text
                .parse()
                .map(Value::IdleExpiry)
                .map_err(|error: super::bounds::InvalidIdleExpiry| refused(error.to_string())),
            Kind::Filter => text
                .parse()
                .map(|filter| Value::Filter(Arc::new(filter)))
                .map_err(|error: super::header_filter::InvalidFilter| refused(error.to_string())),
            Kind::Retry => text
                .parse()
                .map(Value::Retry)
                .map_err(|error: super::retry::InvalidRetry| refused(error.to_string())),
            Kind::Order => {
                text.parse().map(Value::Order).map_err(|error: UnknownWord| refused(error.to_string()))
            }
            Kind::OnRequeue => {
                text.parse().map(Value::OnRequeue).map_err(|error: UnknownWord| refused(error.to_string()))
            }
            Kind::Fair => {
                text.parse().map(Value::Fair).map_err(|error: UnknownWord| refused(error.to_string()))
            }
            Kind::Rate if text == "0" => Ok(Value::Rate(None)),
            Kind::Rate => text
                .parse()
                .map(|rate| Value::Rate(Some(rate)))
                .map_err(|error: super::rate::InvalidRate| refused(error.to_string())),
        }
    }
}

impl Value {
    /// The duration; zero for another kind of value.
    pub fn duration(&self) -> Duration {
        if let Value::Duration(duration) = self { *duration } else { Duration::ZERO }
    }

    /// The number; 0 for another kind of value.
    pub fn count(&self) -> u64 {
        if let Value::Count(count) = self { *count } else { 0 }
    }

    /// The text; empty for another kind of value.
    pub fn text(&self) -> &str {
        if let Value::Text(text) = self { text } else { "" }
    }

    /// What happens beyond a bound; [`Overflow::Reject`] for another kind of value.
    pub fn overflow(&self) -> Overflow {
        if let Value::Overflow(overflow) = self { *overflow } else { Overflow::default() }
    }

    /// The value of `order`; none for another kind of value.
    pub fn order(&self) -> Order {
        if let Value::Order(order) = self { *order } else { Order::None }
    }

    /// The value of `fair`; none for another kind of value.
    pub fn fair(&self) -> Fair {
        if let Value::Fair(fair) = self { *fair } else { Fair::None }
    }

    /// The number of bytes; 0 for another kind of value.
    pub fn bytes(&self) -> u64 {
        if let Value::Bytes(bytes) = self { *bytes } else { 0 }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text that parses to the same value.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => f.write_str(text),
            Value::Duration(duration) if duration.is_zero() => f.write_str("0"),
            Value::Duration(duration) => f.write_str(&go_duration::format(*duration)),
            Value::Bytes(bytes) => f.write_str(&format_bytes(*bytes)),
            Value::Retry(retry) => retry.fmt(f),
            Value::Count(count) => count.fmt(f),
            Value::Overflow(overflow) => overflow.fmt(f),
            Value::IdleExpiry(idle) => idle.fmt(f),
            Value::Filter(filter) => filter.fmt(f),
            Value::Order(order) => order.fmt(f),
            Value::OnRequeue(on_requeue) => on_requeue.fmt(f),
            Value::Fair(fair) => fair.fmt(f),
            Value::Rate(Some(rate)) => rate.fmt(f),
            Value::Rate(None) => f.write_str("0"),
        }
    }
}

/// Larger units first.
const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

/// Parses a number of bytes: `1048576`, `1MiB`.
fn parse_bytes(text: &str) -> Option<u64> {
    for (unit, shift) in UNITS {
        if let Some(number) = text.strip_suffix(unit) {
            return number.trim_end().parse::<u64>().ok()?.checked_mul(1 << shift);
        }
    }
    text.parse().ok()
}

fn format_bytes(bytes: u64) -> String {
    let unit = UNITS.iter().find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or_else(|| bytes.to_string(), |(unit, shift)| format!("{}{unit}", bytes >> shift))
}

fn names() -> String {
    TABLE.iter().map(|row| row.name).collect::<Vec<_>>().join(", ")
}

/// ` (did you mean ...?)` if a setting has a similar name.
fn suggestion(name: &str) -> String {
    let similar = TABLE.iter().map(|row| (strsim::damerau_levenshtein(row.name, name), row.name)).min();
    match similar {
        Some((distance, similar)) if distance <= 3 => format!(" (did you mean {similar}?)"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_settings() {
        for (index, row) in TABLE.iter().enumerate() {
            assert_eq!(row.setting as usize, index, "{}", row.name);
        }
    }

    #[test]
    fn examples_are_valid_and_values_convert_to_text_and_back() {
        for setting in Setting::all() {
            let value = setting.parse(setting.example()).unwrap();
            assert_eq!(setting.parse(&value.to_string()).as_ref(), Ok(&value), "{setting}");
            assert_eq!(Setting::find(setting.name()), Ok(setting));
        }
    }

    #[test]
    fn durations_and_bytes_have_units() {
        let duration = |text| Setting::RetainFor.parse(text);
        assert_eq!(duration("14d"), Ok(Value::Duration(Duration::from_secs(14 * DAY))));
        assert_eq!(duration("1h30m"), Ok(Value::Duration(Duration::from_secs(5400))));
        assert_eq!(duration("0").unwrap().to_string(), "0");
        let bytes = |text| Setting::RetainBytes.parse(text);
        assert_eq!(bytes("10GiB"), Ok(Value::Bytes(10 << 30)));
        assert_eq!(bytes("1000"), Ok(Value::Bytes(1000)));
        assert_eq!(bytes("1536KiB").unwrap().to_string(), "1536KiB");
        assert_eq!(bytes("2048KiB").unwrap().to_string(), "2MiB");
        assert_eq!(bytes("0").unwrap().to_string(), "0");
        assert!(bytes("99999999TiB").is_err());
    }

    #[test]
    fn limits_that_clients_do_not_reach_get_a_warning() {
        let warning = |text| Setting::MaxAttempts.warning(&Setting::MaxAttempts.parse(text).unwrap());
        assert_eq!((warning("0"), warning("5")), (None, None));
        assert!(warning("6").unwrap().starts_with("max_attempts=6: go-nsq, pynsq and gnsq finish"));
    }

    #[test]
    fn refusals_name_key_value_range_and_example() {
        let refused = |setting: Setting, text: &str| setting.parse(text).unwrap_err().to_string();
        assert_eq!(
            refused(Setting::RetainFor, "5"),
            "retain_for=5: missing unit in duration \"5\" (ns, us, ms, s, m, h); expected a duration from 1ms to 3650d, \
             or 0 for no limit, such as retain_for=24h"
        );
        assert_eq!(
            refused(Setting::RetainFor, "1ns"),
            "retain_for=1ns: out of range; expected a duration from 1ms to 3650d, or 0 for no limit, such as \
             retain_for=24h"
        );
        assert!(
            refused(Setting::RetainBytes, "much").starts_with("retain_bytes=much: not a number of bytes;")
        );
        assert!(refused(Setting::Owner, "a\nb").starts_with("owner=a\nb: it contains a control character;"));
        assert!(refused(Setting::Owner, &"x".repeat(1025)).contains("1025 bytes are too many"));
        assert_eq!(
            refused(Setting::Dedupe, "8d"),
            "dedupe=8d: out of range; expected a duration up to 7d, or 0 for none, such as dedupe=5m"
        );
        assert!(
            refused(Setting::Retry, "often")
                .contains(r#""often" is not exponential, linear or list; expected"#)
        );
        assert_eq!(
            Setting::find("retian_for").unwrap_err().to_string(),
            "unknown setting \"retian_for\" (did you mean retain_for?); settings are description, owner, runbook, \
             retain_for, retain_bytes, retry, max_attempts, dead_letter, dead_letters_of, moving_to, ttl, dedupe, \
             max_depth, max_bytes, overflow, idle_expiry, filter, order, order_on_requeue, fair, rate, burst, \
             max_in_flight"
        );
        assert_eq!(
            refused(Setting::Filter, "tenant"),
            "filter=tenant: \"tenant\" is not NAME=GLOB or NAME!=GLOB; expected conditions NAME=GLOB or NAME!=GLOB, \
             separated by commas, of at most 1024 bytes, such as filter=tenant=acme,region!=test*"
        );
        assert_eq!(
            refused(Setting::Order, "keys"),
            "order=keys: it is none of them; expected none, key or all, such as order=key"
        );
        assert_eq!(
            refused(Setting::Rate, "100/d"),
            "rate=100/d: \"d\" is not s, m or h; expected NUMBER/s, NUMBER/m or NUMBER/h, with total for all nodes of \
             the topic together, or 0 for no limit, such as rate=100/s"
        );
        assert!(!Setting::find("something").unwrap_err().to_string().contains("did you mean"));
    }
}
