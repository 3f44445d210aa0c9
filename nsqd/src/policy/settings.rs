//! Pure: the settings that one topic or channel has of its own, and their text in the journal.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::setting::{InvalidSetting, Setting, Value};
use crate::clock;
use crate::log::retention::Retention;

/// The word that removes a setting.
pub const DEFAULT: &str = "default";

/// Values by setting; see the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<Setting, Value>);

/// A change of settings: a new value for each, or `None` to remove it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change(BTreeMap<Setting, Option<Value>>);

/// What a request changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Topic,
    Channel,
}

/// Why a change is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChange {
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// The setting belongs to the other level.
    #[error("{0} is a setting of {other}", other = .1.other())]
    WrongLevel(Setting, Level),
    /// A setting is given twice.
    #[error("{0} is given twice")]
    Twice(Setting),
    /// Nothing is given.
    #[error("no setting is given; give one or more, such as {}={}", .0.name(), .0.example())]
    Empty(Setting),
}

impl Level {
    /// What has the settings that this level has not.
    fn other(self) -> &'static str {
        match self {
            Level::Topic => "channels; use /channel/set",
            Level::Channel => "topics; use /topic/set",
        }
    }

    fn has(self, setting: Setting) -> bool {
        match self {
            Level::Topic => setting.is_of_topics(),
            Level::Channel => setting.is_of_channels(),
        }
    }
}

impl Change {
    /// Parses `KEY=VALUE` pairs; the value `default` removes the setting.
    pub fn parse<'a>(
        level: Level,
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, InvalidChange> {
        let mut change = BTreeMap::new();
        for (name, text) in pairs {
            let setting = Setting::find(name)?;
            if !level.has(setting) {
                return Err(InvalidChange::WrongLevel(setting, level));
            }
            let value = if text == DEFAULT { None } else { Some(setting.parse(text)?) };
            if change.insert(setting, value).is_some() {
                return Err(InvalidChange::Twice(setting));
            }
        }
        if change.is_empty() {
            let of_level = Setting::all().find(|setting| level.has(*setting));
            return Err(InvalidChange::Empty(of_level.unwrap_or(Setting::Description)));
        }
        Ok(Change(change))
    }

    /// A change to these values.
    pub fn of<const N: usize>(values: [(Setting, Value); N]) -> Self {
        Change(values.into_iter().map(|(setting, value)| (setting, Some(value))).collect())
    }

    /// A change to these values.
    pub fn to<'a>(values: impl Iterator<Item = (Setting, &'a Value)>) -> Self {
        Change(values.map(|(setting, value)| (setting, Some(value.clone()))).collect())
    }

    /// A change that removes this setting.
    pub fn removing(setting: Setting) -> Self {
        Change(BTreeMap::from([(setting, None)]))
    }

    /// The changed settings.
    pub fn iter(&self) -> impl Iterator<Item = (Setting, Option<&Value>)> {
        self.0.iter().map(|(setting, value)| (*setting, value.as_ref()))
    }
}

impl Settings {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get(&self, setting: Setting) -> Option<&Value> {
        self.0.get(&setting)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Setting, &Value)> {
        self.0.iter().map(|(setting, value)| (*setting, value))
    }

    /// Whether the topic is a dead-letter topic.
    pub fn is_of_dead_letters(&self) -> bool {
        self.0.contains_key(&Setting::DeadLettersOf)
    }

    /// Applies a change.
    pub fn apply(&mut self, change: &Change) {
        for (setting, value) in change.iter() {
            match value {
                Some(value) => self.0.insert(setting, value.clone()),
                None => self.0.remove(&setting),
            };
        }
    }

    /// Sets one value.
    pub fn set(&mut self, setting: Setting, value: Value) {
        self.0.insert(setting, value);
    }

    /// The limits of retention, if either is set; the other is then no limit.
    pub fn retention(&self) -> Option<Retention> {
        let (age, bytes) = (self.get(Setting::RetainFor), self.get(Setting::RetainBytes));
        (age.is_some() || bytes.is_some()).then(|| Retention {
            age: age.map_or(0, |value| clock::nanos(value.duration())),
            bytes: bytes.map_or(0, Value::bytes),
        })
    }

    /// Sets both limits of retention, or removes them.
    pub fn set_retention(&mut self, retention: Option<Retention>) {
        self.0.retain(|setting, _| !matches!(setting, Setting::RetainFor | Setting::RetainBytes));
        if let Some(Retention { age, bytes }) = retention {
            self.set(Setting::RetainFor, Value::Duration(Duration::from_nanos(age)));
            self.set(Setting::RetainBytes, Value::Bytes(bytes));
        }
    }

    /// Parses the text of [`Settings`]' `Display`. Settings that this version does not know, or whose value it refuses,
    /// are left out and returned as problems.
    pub fn parse(text: &str) -> (Self, Vec<InvalidSetting>) {
        let (mut settings, mut problems) = (BTreeMap::new(), Vec::new());
        for line in text.lines() {
            let (name, value) = line.split_once('=').unwrap_or((line, ""));
            match Setting::find(name).and_then(|setting| Ok((setting, setting.parse(value)?))) {
                Ok((setting, value)) => drop(settings.insert(setting, value)),
                Err(problem) => problems.push(problem),
            }
        }
        (Settings(settings), problems)
    }
}

/// One `name=value` per line, as in the journal and in checkpoints.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(setting, value)| writeln!(f, "{setting}={value}"))
    }
}

impl FromIterator<(Setting, Value)> for Settings {
    fn from_iter<T: IntoIterator<Item = (Setting, Value)>>(values: T) -> Self {
        Settings(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(level: Level, pairs: &[(&str, &str)]) -> Result<Change, InvalidChange> {
        Change::parse(level, pairs.iter().copied())
    }

    #[test]
    fn changes_set_and_remove_values() {
        let mut settings = Settings::default();
        let set = change(Level::Topic, &[("retain_for", "24h"), ("owner", "shop")]).unwrap();
        settings.apply(&set);
        assert_eq!(settings.to_string(), "owner=shop\nretain_for=24h0m0s\n");
        settings.apply(&change(Level::Topic, &[("retain_for", "default")]).unwrap());
        assert_eq!(settings.to_string(), "owner=shop\n");
    }

    #[test]
    fn text_and_settings_convert_into_each_other() {
        let all: Settings =
            Setting::all().map(|setting| (setting, setting.parse(setting.example()).unwrap())).collect();
        assert_eq!(Settings::parse(&all.to_string()), (all, vec![]));
        let (known, problems) = Settings::parse("owner=a=b\nnext_years_setting=1\nretain_for=soon\n");
        assert_eq!(known.to_string(), "owner=a=b\n");
        assert_eq!(problems.len(), 2);
    }

    #[test]
    fn invalid_changes_change_nothing() {
        let refused = |level, pairs: &[(&str, &str)]| change(level, pairs).unwrap_err().to_string();
        assert_eq!(
            refused(Level::Topic, &[("retry", "list 1s")]),
            "retry is a setting of channels; use /channel/set"
        );
        assert_eq!(
            refused(Level::Channel, &[("retain_for", "1h")]),
            "retain_for is a setting of topics; use /topic/set"
        );
        assert_eq!(refused(Level::Topic, &[("owner", "a"), ("owner", "b")]), "owner is given twice");
        assert_eq!(
            refused(Level::Channel, &[]),
            "no setting is given; give one or more, such as description=Orders from the shop"
        );
        assert!(refused(Level::Topic, &[("owner", "a"), ("retain_for", "x")]).starts_with("retain_for=x:"));
    }
}
