//! Answers about settings of topics and channels. Not in NSQ.

use serde::{Deserialize, Serialize};

/// `/policy/explain`: every setting of a topic or channel, and where its value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyExplainResponse {
    /// The topic.
    pub topic_name: String,
    /// The channel; `None` if the settings are those of the topic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_name: Option<String>,
    /// Whether this node has the topic or channel now. If not, the settings are those that it would get.
    pub exists: bool,
    /// Path of the policy file; `None` without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_file: Option<String>,
    /// All settings, in a fixed order.
    pub settings: Vec<ExplainedSetting>,
}

/// One setting in [`PolicyExplainResponse`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainedSetting {
    /// The key, such as `retain_for`.
    pub name: String,
    /// The value in force; `None` if nothing sets it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// `api`, `file`, `topic` (the channel's topic has it), `flag` or `default`.
    pub origin: String,
    /// With `file`: the line on which the policy begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// With `flag`: its name without dashes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// What the setting does, as a phrase.
    pub help: String,
}
