//! The topics and channels of a cluster with their settings, and the steps that lead from one state to another. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Settings by key, such as `retain_for`.
pub type Settings = BTreeMap<String, String>;

/// What `nsq cluster export` writes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterState {
    pub topics: BTreeMap<String, TopicState>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TopicState {
    pub paused: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: Settings,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, ChannelState>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelState {
    pub paused: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: Settings,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    pub topic_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_name: Option<String>,
    #[serde(flatten)]
    pub change: Change,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    Create,
    Pause,
    Unpause,
    Set {
        setting: String,
        before: Option<String>,
        /// `None` removes the setting.
        after: Option<String>,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = match &self.channel_name {
            Some(channel) => format!("{}/{channel}", self.topic_name),
            None => self.topic_name.clone(),
        };
        match &self.change {
            Change::Create => write!(f, "+ {object}"),
            Change::Pause => write!(f, "~ {object} pause"),
            Change::Unpause => write!(f, "~ {object} unpause"),
            Change::Set { setting, before, after } => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "default".to_owned());
                write!(f, "~ {object} {setting}: {} -> {}", shown(before), shown(after))
            }
        }
    }
}

/// The steps from `now` to `wanted`, each after those that it needs. What only `now` has is kept.
pub fn steps(now: &ClusterState, wanted: &ClusterState) -> Vec<Step> {
    let mut steps = Vec::new();
    for (topic, wanted) in &wanted.topics {
        let known = now.topics.get(topic);
        let nothing = TopicState::default();
        let (paused, settings) = (wanted.paused, &wanted.settings);
        let before = known.unwrap_or(&nothing);
        of_one(
            &mut steps,
            topic,
            None,
            known.is_some(),
            (before.paused, &before.settings),
            (paused, settings),
        );
        for (channel, wanted) in &wanted.channels {
            let known = before.channels.get(channel);
            let nothing = ChannelState::default();
            let before = known.unwrap_or(&nothing);
            let after = (wanted.paused, &wanted.settings);
            of_one(
                &mut steps,
                topic,
                Some(channel),
                known.is_some(),
                (before.paused, &before.settings),
                after,
            );
        }
    }
    steps
}

fn of_one(
    steps: &mut Vec<Step>,
    topic: &str,
    channel: Option<&String>,
    exists: bool,
    (was_paused, before): (bool, &Settings),
    (is_paused, after): (bool, &Settings),
) {
    let mut add = |change| {
        steps.push(Step { topic_name: topic.to_owned(), channel_name: channel.cloned(), change });
    };
    if !exists {
        add(Change::Create);
    }
    let keys = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
    for key in keys.into_iter().filter(|key| before.get(*key) != after.get(*key)) {
        add(Change::Set {
            setting: key.clone(),
            before: before.get(key).cloned(),
            after: after.get(key).cloned(),
        });
    }
    match (was_paused, is_paused) {
        (false, true) => add(Change::Pause),
        (true, false) => add(Change::Unpause),
        _ => {}
    }
}

/// The topics and channels that only `now` has.
pub fn extra(now: &ClusterState, wanted: &ClusterState) -> Vec<String> {
    let mut names = Vec::new();
    for (topic, state) in &now.topics {
        let Some(wanted) = wanted.topics.get(topic) else {
            names.push(topic.clone());
            continue;
        };
        let channels = state.channels.keys().filter(|channel| !wanted.channels.contains_key(*channel));
        names.extend(channels.map(|channel| format!("{topic}/{channel}")));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ClusterState {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn steps_lead_from_one_state_to_another() {
        let now = parse(
            "[topics.a]\npaused = true\n[topics.a.settings]\nretain_for = \"1h\"\n[topics.a.channels.x]\n[topics.old]\n",
        );
        let wanted = parse(
            "[topics.a]\n[topics.a.settings]\nowner = \"me\"\n[topics.a.channels.y]\npaused = true\n[topics.b.channels.z]\n",
        );
        let lines: Vec<String> = steps(&now, &wanted).iter().map(Step::to_string).collect();
        let expected = [
            "~ a owner: default -> me",
            "~ a retain_for: 1h -> default",
            "~ a unpause",
            "+ a/y",
            "~ a/y pause",
            "+ b",
            "+ b/z",
        ];
        assert_eq!(lines, expected);
        assert_eq!(extra(&now, &wanted), ["a/x", "old"]);
        assert!(steps(&wanted, &wanted).is_empty());
    }

    #[test]
    fn state_is_written_and_read_again() {
        let state = parse("[topics.a]\npaused = true\n[topics.a.channels.\"c#ephemeral\"]\n");
        assert_eq!(parse(&toml::to_string(&state).unwrap()), state);
        let yaml = serde_norway::to_string(&state).unwrap();
        assert_eq!(serde_norway::from_str::<ClusterState>(&yaml).unwrap(), state);
        assert!(toml::from_str::<ClusterState>("[topic.a]").is_err());
    }
}
