//! Pure: whether a channel delivers messages in order, and whether it shares its consumers fairly between keys.

use std::fmt;
use std::str::FromStr;

/// The setting `order`: which messages are delivered one after the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    None,
    /// Messages with the same `nsq-key`.
    Key,
    /// All messages of the channel.
    All,
}

/// The setting `order_on_requeue`: what a message that was requeued with a delay does to the others of its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnRequeue {
    /// They wait for it.
    #[default]
    Block,
    /// They pass it.
    Skip,
}

/// The setting `fair`: between what a channel shares its consumers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fair {
    #[default]
    None,
    /// Values of `nsq-key`.
    Key,
}

/// What a channel does by these settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordering {
    pub rule: Rule,
    /// Messages pass those of their key that were requeued with a delay.
    pub skips_requeued: bool,
}

/// See [`Ordering`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// At most one message of each key is in flight.
    Key,
    /// At most one message is in flight.
    All,
    /// A key that has more than its share in flight waits behind others.
    Fair,
}

/// A channel is both ordered and fair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "order={0} and fair=key exclude each other: with order=key, no key has more than one message in flight anyway, and \
     with order=all, none passes another; set fair=none or order=none"
)]
pub struct OrderedAndFair(pub Order);

/// Why a text is none of the words of a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it is none of them")]
pub struct UnknownWord;

impl Ordering {
    /// What the settings together mean; `None` if nothing waits for anything. An ordered channel is not fair as well.
    pub fn of(order: Order, on_requeue: OnRequeue, fair: Fair) -> Option<Ordering> {
        let rule = match (order, fair) {
            (Order::Key, _) => Rule::Key,
            (Order::All, _) => Rule::All,
            (Order::None, Fair::Key) => Rule::Fair,
            (Order::None, Fair::None) => return None,
        };
        Some(Ordering { rule, skips_requeued: on_requeue == OnRequeue::Skip })
    }

    /// Whether the settings can be in force together.
    pub fn check(order: Order, fair: Fair) -> Result<(), OrderedAndFair> {
        if order != Order::None && fair == Fair::Key { Err(OrderedAndFair(order)) } else { Ok(()) }
    }
}

/// Implements a setting that takes one of several words.
macro_rules! words {
    ($type:ty, $expected:literal, $($variant:path => $word:literal),+) => {
        impl $type {
            /// What the setting takes, as a phrase.
            pub const EXPECTED: &str = $expected;
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $($variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = UnknownWord;

            fn from_str(text: &str) -> Result<Self, UnknownWord> {
                match text { $($word => Ok($variant),)+ _ => Err(UnknownWord) }
            }
        }
    };
}

words!(Order, "none, key or all", Order::None => "none", Order::Key => "key", Order::All => "all");
words!(OnRequeue, "block or skip", OnRequeue::Block => "block", OnRequeue::Skip => "skip");
words!(Fair, "none or key", Fair::None => "none", Fair::Key => "key");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_convert_to_values_and_back() {
        assert_eq!("all".parse(), Ok(Order::All));
        assert_eq!("Key".parse::<Order>(), Err(UnknownWord));
        assert_eq!(OnRequeue::Skip.to_string().parse(), Ok(OnRequeue::Skip));
        assert_eq!("none".parse(), Ok(Fair::None));
    }

    #[test]
    fn an_ordered_channel_is_not_fair_as_well() {
        assert_eq!(Ordering::of(Order::None, OnRequeue::Skip, Fair::None), None);
        let rule = |order, fair| Ordering::of(order, OnRequeue::Block, fair).map(|ordering| ordering.rule);
        assert_eq!(rule(Order::None, Fair::Key), Some(Rule::Fair));
        assert_eq!(rule(Order::Key, Fair::Key), Some(Rule::Key));
        assert!(
            Ordering::check(Order::Key, Fair::None).is_ok()
                && Ordering::check(Order::None, Fair::Key).is_ok()
        );
        let refused = Ordering::check(Order::All, Fair::Key).unwrap_err().to_string();
        assert!(refused.starts_with("order=all and fair=key exclude each other"), "{refused}");
    }
}
