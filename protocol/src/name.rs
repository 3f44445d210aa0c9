//! Topic and channel names. A value of these types is always valid.
//!
//! Both follow one rule: 1 to 64 bytes of `A-Z a-z 0-9 . _ -`, then optionally the suffix `#ephemeral`, which counts
//! toward the 64. A name may be `.` or `..`, so never use it unchanged as a path component.

use std::borrow::Borrow;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum length of a name in bytes, suffix included.
pub const MAX_NAME_BYTES: usize = 64;

/// The suffix that makes a topic or channel ephemeral.
pub const EPHEMERAL_SUFFIX: &str = "#ephemeral";

/// Whether `name` is a valid topic or channel name.
pub fn is_valid_name(name: &[u8]) -> bool {
    if name.len() > MAX_NAME_BYTES {
        return false;
    }
    let stem = name.strip_suffix(EPHEMERAL_SUFFIX.as_bytes()).unwrap_or(name);
    !stem.is_empty() && stem.iter().all(|&byte| IS_NAME_BYTE[byte as usize])
}

/// The name breaks the rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid name: use 1 to 64 of A-Z a-z 0-9 . _ - with the optional suffix #ephemeral")]
pub struct InvalidName;

/// `name` as text, if it is valid. Valid names are ASCII, so nothing is copied.
pub(crate) fn valid_name(name: &[u8]) -> Result<&str, InvalidName> {
    if !is_valid_name(name) {
        return Err(InvalidName);
    }
    std::str::from_utf8(name).map_err(|_| InvalidName)
}

const IS_NAME_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        byte += 1;
    }
    table
};

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// Validates and copies `name`.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidName> {
                Self::from_bytes(name.as_ref().as_bytes())
            }

            /// Like [`new`](Self::new), for bytes that need not be text.
            pub fn from_bytes(name: &[u8]) -> Result<Self, InvalidName> {
                valid_name(name).map(|name| Self(name.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the name ends in `#ephemeral`: never on disk, deleted with its last user.
            pub fn is_ephemeral(&self) -> bool {
                self.0.ends_with(EPHEMERAL_SUFFIX)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(name: &str) -> Result<Self, InvalidName> {
                Self::new(name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::new(name).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type! {
    /// The name of a topic.
    TopicName
}

name_type! {
    /// The name of a channel.
    ChannelName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_counts_toward_the_length() {
        assert!(is_valid_name("a".repeat(64).as_bytes()));
        assert!(!is_valid_name("a".repeat(65).as_bytes()));
        assert!(is_valid_name(format!("{}#ephemeral", "a".repeat(54)).as_bytes()));
        assert!(!is_valid_name(format!("{}#ephemeral", "a".repeat(55)).as_bytes()));
    }

    #[test]
    fn only_characters_of_the_rule_are_valid() {
        for name in ["a", ".", "..", "-", "_", "A.b_c-9", "x#ephemeral"] {
            assert!(is_valid_name(name.as_bytes()), "{name}");
        }
        for name in
            ["", "#ephemeral", "a#b", "a:b", "a#ephemeral#ephemeral", "a#Ephemeral", "a b", "é", "a/b", "a\n"]
        {
            assert!(!is_valid_name(name.as_bytes()), "{name}");
        }
        assert!(!is_valid_name(b"a\xff"));
        assert!(!is_valid_name(b"a\0"));
    }

    #[test]
    fn suffix_makes_a_name_ephemeral() {
        assert!(TopicName::new("t#ephemeral").unwrap().is_ephemeral());
        assert!(!ChannelName::new("ephemeral").unwrap().is_ephemeral());
    }

    #[test]
    fn deserialized_names_are_validated() {
        assert_eq!(serde_json::from_str::<TopicName>("\"t\"").unwrap().as_str(), "t");
        assert!(serde_json::from_str::<ChannelName>("\"a b\"").is_err());
        assert_eq!(serde_json::to_string(&TopicName::new("t").unwrap()).unwrap(), "\"t\"");
    }

    #[test]
    fn map_with_names_is_searched_by_text() {
        let map = std::collections::HashMap::from([(TopicName::new("t").unwrap(), 1)]);
        assert_eq!(map.get("t"), Some(&1));
    }
}
