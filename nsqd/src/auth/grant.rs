//! Pure: what a secret allows, and for how long.

use std::sync::Arc;

use nsq_protocol::AuthorizationEntry;

use super::pattern::{InvalidPattern, Pattern, Patterns};
use crate::clock::Nanos;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Permission {
    /// Publish to a topic.
    Publish = 1,
    /// Consume from a channel.
    Subscribe = 2,
    /// Over HTTP: read statistics. NSQ does not have it.
    Monitor = 4,
    /// Over HTTP: create, empty, pause, delete, configure and read statistics. NSQ does not have it.
    Admin = 8,
    /// Over HTTP: look at messages with their bodies. NSQ does not have it: an auth server that does not name it does not
    /// grant it, as `subscribe` of other tools may be given to programs that must not see old messages.
    Read = 16,
    /// Over HTTP: store messages that a drain of another node moves here. NSQ does not have it.
    Adopt = 32,
}

impl Permission {
    pub const ALL: [Self; 6] =
        [Self::Publish, Self::Subscribe, Self::Monitor, Self::Admin, Self::Read, Self::Adopt];

    /// The word in answers of auth servers and in token files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Subscribe => "subscribe",
            Self::Monitor => "monitor",
            Self::Admin => "admin",
            Self::Read => "read",
            Self::Adopt => "adopt",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.word() == word)
    }
}

/// Why an authorization cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthorization {
    /// An unknown permission.
    #[error("unknown permission {0:?}")]
    Permission(String),
    /// An invalid pattern.
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
}

/// One authorization: it allows an action only if topic, channel and permission all match.
#[derive(Debug, Clone)]
pub struct Authorization {
    topic: Pattern,
    channels: Vec<Pattern>,
    /// Bits of [`Permission`].
    permissions: u8,
}

impl Authorization {
    /// Checks the entry and compiles its patterns.
    pub fn compile(entry: &AuthorizationEntry, patterns: &Patterns) -> Result<Self, InvalidAuthorization> {
        let mut permissions = 0;
        for word in &entry.permissions {
            let known =
                Permission::from_word(word).ok_or_else(|| InvalidAuthorization::Permission(word.clone()))?;
            permissions |= known as u8;
        }
        if permissions & Permission::Admin as u8 != 0 {
            permissions |= Permission::Monitor as u8;
        }
        let channels = entry.channels.iter().map(|channel| patterns.get(channel));
        Ok(Self {
            topic: patterns.get(&entry.topic)?,
            channels: channels.collect::<Result<_, _>>()?,
            permissions,
        })
    }

    /// Checks and compiles several entries.
    pub fn compile_all(
        entries: &[AuthorizationEntry],
        patterns: &Patterns,
    ) -> Result<Arc<[Self]>, InvalidAuthorization> {
        entries.iter().map(|entry| Self::compile(entry, patterns)).collect()
    }

    pub(super) fn allows(&self, permission: Permission, topic: &str, channel: &str) -> bool {
        self.permissions & permission as u8 != 0
            && self.topic.matches(topic)
            && self.channels.iter().any(|pattern| pattern.matches(channel))
    }
}

impl Authorization {
    /// Allows these actions for one topic and one channel; publishing needs no channel.
    pub fn for_names(
        permissions: &[Permission],
        topic: &str,
        channel: &str,
    ) -> Result<Self, InvalidAuthorization> {
        let exactly = |name: &str| format!("^{}$", regex::escape(name));
        let entry = AuthorizationEntry {
            topic: exactly(topic),
            channels: vec![exactly(channel), exactly("")],
            permissions: permissions.iter().map(|permission| permission.word().to_owned()).collect(),
        };
        Self::compile(&entry, &Patterns::default())
    }
}

/// What a secret allows.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The owner of the secret.
    pub identity: String,
    /// A page about the owner.
    pub identity_url: String,
    pub authorizations: Arc<[Authorization]>,
    /// The grant expires at this time.
    pub valid_until: Nanos,
    /// For a grant from the token file: the number of the reading.
    pub reading: Option<u64>,
}

impl Grant {
    /// Whether one of the authorizations allows this. For an action without a topic or channel, pass the empty string.
    pub fn allows(&self, permission: Permission, topic: &str, channel: &str) -> bool {
        self.authorizations.iter().any(|authorization| authorization.allows(permission, topic, channel))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(topic: &str, channels: &[&str], permissions: &[&str]) -> AuthorizationEntry {
        let texts = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        AuthorizationEntry { topic: topic.into(), channels: texts(channels), permissions: texts(permissions) }
    }

    fn grant(entries: &[AuthorizationEntry]) -> Grant {
        Grant {
            identity: String::new(),
            identity_url: String::new(),
            authorizations: Authorization::compile_all(entries, &Patterns::default()).unwrap(),
            valid_until: Nanos::MAX,
            reading: None,
        }
    }

    #[test]
    fn one_authorization_must_match_topic_channel_and_permission() {
        let all = grant(&[entry("", &[".*"], &["publish", "subscribe", "monitor", "admin"])]);
        assert!(!all.allows(Permission::Read, "a", "c"), "bodies need their own permission");
        let reader = grant(&[entry("^a$", &["^c$"], &["read"])]);
        assert!(reader.allows(Permission::Read, "a", "c") && !reader.allows(Permission::Subscribe, "a", "c"));
        let split = grant(&[entry("^a$", &["^c$"], &["subscribe"]), entry("^b$", &[".*"], &["publish"])]);
        assert!(split.allows(Permission::Subscribe, "a", "c"));
        assert!(split.allows(Permission::Publish, "b", ""));
        assert!(!split.allows(Permission::Subscribe, "a", "d"));
        assert!(!split.allows(Permission::Subscribe, "b", "c"));
        assert!(!split.allows(Permission::Publish, "a", ""));
        assert!(!grant(&[]).allows(Permission::Publish, "a", ""));
    }

    #[test]
    fn publish_needs_a_channel_pattern_that_matches_the_empty_string() {
        let publish = |channels: &[&str]| {
            grant(&[entry("", channels, &["publish"])]).allows(Permission::Publish, "t", "")
        };
        assert!(publish(&[".*"]) && publish(&["^foo$", ""]));
        assert!(!publish(&["^foo$"]) && !publish(&[]));
    }

    #[test]
    fn authorization_for_names_allows_nothing_else() {
        let permissions = [Permission::Subscribe, Permission::Publish];
        let one = Authorization::for_names(&permissions, "a.b", "c").unwrap();
        assert!(one.allows(Permission::Subscribe, "a.b", "c") && one.allows(Permission::Publish, "a.b", ""));
        assert!(
            !one.allows(Permission::Subscribe, "aXb", "c") && !one.allows(Permission::Subscribe, "a.b", "cc")
        );
        assert!(!one.allows(Permission::Admin, "a.b", "c"));
    }

    #[test]
    fn admin_permission_includes_monitor() {
        let admin = grant(&[entry("^a$", &[".*"], &["admin"])]);
        assert!(admin.allows(Permission::Monitor, "a", "c") && admin.allows(Permission::Admin, "a", ""));
        assert!(!admin.allows(Permission::Publish, "a", "") && !admin.allows(Permission::Admin, "", ""));
    }

    #[test]
    fn invalid_entries_are_refused() {
        let compile = |entry| Authorization::compile(&entry, &Patterns::default()).unwrap_err().to_string();
        assert_eq!(compile(entry("", &[], &["Publish"])), r#"unknown permission "Publish""#);
        assert!(compile(entry("(", &[], &[])).contains("regular expression"));
        assert!(compile(entry("", &["("], &[])).contains("regular expression"));
    }
}
