//! `/stats` of topics and channels, for assertions and for waiting.

use std::fmt::Debug;

use serde::Deserialize;

use crate::daemon::Daemon;
use crate::wait;

/// A topic in `/stats`.
#[derive(Debug, Clone, Deserialize)]
pub struct Topic {
    pub topic_name: String,
    pub channels: Vec<Channel>,
    pub depth: u64,
    pub backend_depth: u64,
    pub message_count: u64,
    pub message_bytes: u64,
    pub paused: bool,
}

/// A channel in `/stats`.
#[derive(Debug, Clone, Deserialize)]
pub struct Channel {
    pub channel_name: String,
    pub depth: u64,
    pub backend_depth: u64,
    pub in_flight_count: u64,
    pub deferred_count: u64,
    pub message_count: u64,
    pub requeue_count: u64,
    pub timeout_count: u64,
    pub client_count: u64,
    pub clients: Vec<Client>,
    pub paused: bool,
}

/// A connection in `/stats`.
#[derive(Debug, Clone, Deserialize)]
pub struct Client {
    pub client_id: String,
    pub hostname: String,
    pub remote_address: String,
    pub state: u64,
    pub ready_count: u64,
    pub in_flight_count: u64,
    pub message_count: u64,
    pub finish_count: u64,
    pub requeue_count: u64,
    pub connect_ts: u64,
    pub user_agent: String,
    pub tls: bool,
    pub tls_version: String,
    pub tls_cipher_suite: String,
    pub tls_negotiated_protocol_is_mutual: bool,
    pub snappy: bool,
    pub deflate: bool,
    #[serde(default)]
    pub authed: bool,
    #[serde(default)]
    pub auth_identity: String,
}

impl Channel {
    /// Messages that are not finished yet, in whichever state.
    pub fn unfinished(&self) -> u64 {
        self.depth + self.in_flight_count + self.deferred_count
    }
}

impl Daemon {
    /// All topics of this nsqd.
    pub async fn topics(&self) -> Vec<Topic> {
        let stats = self.get_json("/stats?format=json").await;
        serde_json::from_value(stats["topics"].clone()).expect("topics in NSQ's form")
    }

    /// A topic; `None` if it does not exist.
    pub async fn topic(&self, name: &str) -> Option<Topic> {
        self.topics().await.into_iter().find(|topic| topic.topic_name == name)
    }

    /// A channel; `None` if it does not exist.
    pub async fn channel(&self, topic: &str, name: &str) -> Option<Channel> {
        let topic = self.topic(topic).await?;
        topic.channels.into_iter().find(|channel| channel.channel_name == name)
    }

    /// Waits until a topic exists and `holds` returns true for it. `what` describes the condition.
    pub async fn topic_until(&self, name: &str, what: &str, holds: impl Fn(&Topic) -> bool) -> Topic {
        let check = async || match self.topic(name).await {
            Some(topic) if holds(&topic) => Ok(topic),
            other => Err(other),
        };
        wait::until(&format!("topic {name}: {what}"), check).await
    }

    /// Waits until a channel exists and `holds` returns true for it. `what` describes the condition.
    pub async fn channel_until(
        &self,
        topic: &str,
        name: &str,
        what: &str,
        holds: impl Fn(&Channel) -> bool,
    ) -> Channel {
        let check = async || match self.channel(topic, name).await {
            Some(channel) if holds(&channel) => Ok(channel),
            other => Err(other),
        };
        wait::until(&format!("channel {topic}/{name}: {what}"), check).await
    }

    /// Waits until all messages of a channel are finished.
    pub async fn channel_until_finished(&self, topic: &str, name: &str) -> Channel {
        self.channel_until(topic, name, "all finished", |channel| channel.unfinished() == 0).await
    }
}

/// Waits until `check` returns `wanted`; for other parts of `/stats`.
pub async fn until_equal<T: Debug + PartialEq>(what: &str, wanted: T, mut check: impl AsyncFnMut() -> T) {
    wait::until(what, async || wait::when(check().await, |seen| *seen == wanted)).await;
}
