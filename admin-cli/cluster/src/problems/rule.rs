//! Pure: the table of rules. `docs/CHECK.md` has the same texts.

use std::fmt;

use serde::{Serialize, Serializer};

use super::Severity;

/// A rule. Ordered as in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // See the table.
pub enum RuleId {
    NodeDown,
    NodeUnhealthy,
    LookupdDown,
    NoConsumers,
    ConsumerGap,
    Stuck,
    DiskFullSoon,
    ChannelFull,
    FallingBehind,
    BackingOff,
    OldMessage,
    RequeueStorm,
    Timeouts,
    DeadLettersStuck,
    DeadLetters,
    Dropping,
    NoChannel,
    LookupdDisagree,
    ClockSkew,
    Paused,
    Expired,
    Throttled,
    OrderBlocked,
    Draining,
    Spilling,
    Tombstoned,
    VersionSkew,
    Restarted,
}

/// What a rule finds, and what to do about it.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// The rule.
    pub id: RuleId,
    /// Its name in URLs, JSON and `nsq check`.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// When it becomes worse, in words; empty for never.
    pub worse: &'static str,
    /// When it applies.
    pub condition: &'static str,
    /// What that means.
    pub meaning: &'static str,
    /// What to do.
    pub action: &'static str,
    /// Whether only nodes of this project report what it needs.
    pub only_ours: bool,
}

impl RuleId {
    /// The rule of the table.
    pub fn rule(self) -> &'static Rule {
        &RULES[self as usize]
    }

    /// The rule's name.
    pub fn as_str(self) -> &'static str {
        self.rule().name
    }

    /// The rule of this name.
    pub fn parse(name: &str) -> Option<Self> {
        RULES.iter().find(|rule| rule.name == name).map(|rule| rule.id)
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for RuleId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Rule {
    /// All rules, worst first.
    pub fn all() -> &'static [Rule] {
        &RULES
    }
}

macro_rules! rules {
    ($($id:ident $name:literal $severity:ident, $worse:literal, $ours:literal:
       $condition:literal; $meaning:literal; $action:literal)*) => {
        static RULES: [Rule; [$($name),*].len()] = [$(Rule {
            id: RuleId::$id,
            name: $name,
            severity: Severity::$severity,
            worse: $worse,
            condition: $condition,
            meaning: $meaning,
            action: $action,
            only_ours: $ours,
        }),*];
    };
}

rules! {
    NodeDown "node-down" Critical, "", false:
        "An nsqd that is registered, configured, or was registered a short time ago does not answer over HTTP.";
        "Its messages are not delivered, or the node cannot be seen. Publishers and consumers that use it fail over or wait.";
        "Look at the process and its log on that host. If it was removed on purpose, the entry disappears after 30 minutes."
    NodeUnhealthy "node-unhealthy" Critical, "", false:
        "The health of an nsqd is not `OK`.";
        "nsqd cannot store messages, so it refuses publishes. The health text says why, usually a disk error.";
        "Check the disk of that host; nsqd becomes healthy again by itself once it can write."
    LookupdDown "lookupd-down" Warning, "crit if all nsqlookupds are down", false:
        "An nsqlookupd does not answer over HTTP.";
        "Consumers that know other nsqlookupds go on. If all are down, connected consumers go on, but none finds a new node.";
        "Look at the process and its log on that host."
    NoConsumers "no-consumers" Critical, "", false:
        "A channel has depth, and no consumer on any node, for longer than `no_consumers_for`. Not for paused or ephemeral channels.";
        "Nobody processes these messages. They wait, and take memory or disk.";
        "Start its consumers. If nobody needs the channel any more, delete it."
    ConsumerGap "consumer-gap" Critical, "", false:
        "A channel has consumers on some nodes, but none on another node where it has depth, for longer than `consumer_gap_for`. Not for paused or ephemeral channels.";
        "The consumers missed a node: the messages there wait, while everything else looks normal.";
        "Check that the consumers use nsqlookupd, that the node is registered at every nsqlookupd, and that they can reach its broadcast address. Restart the consumers if in doubt."
    Stuck "stuck" Critical, "", false:
        "Messages are in flight, and none was finished or requeued for longer than `stuck_for`.";
        "Consumers took messages and do not answer: they hang, or their work takes very long.";
        "Look at the consumers: the clients of the channel show who holds the messages."
    DiskFullSoon "disk-full-soon" Critical, "", true:
        "At the rate of the last minutes, the volume of the data directory is full within `disk_full_within`, or less than `disk_free_percent` is free.";
        "When the volume is full, nsqd refuses publishes.";
        "Find the channels with the largest depth; make consumers faster, shorten retention, or give the volume more space."
    ChannelFull "channel-full" Critical, "", true:
        "Publishes are refused because a channel has reached its bound.";
        "Publishers get errors until consumers have worked off a part of the channel.";
        "Make consumers faster, raise `max_depth` or `max_bytes`, or change `overflow`."
    FallingBehind "falling-behind" Warning, "crit after `falling_behind_crit`", false:
        "The depth of a channel rises, and more messages enter than leave, by more than `falling_behind_percent`, for longer than `falling_behind_for`. Not for paused channels.";
        "Consumers are slower than publishers. The backlog grows until this changes.";
        "Add consumers or raise their max in flight; look for slow handlers, requeues and timeouts."
    BackingOff "backing-off" Warning, "", false:
        "A channel has consumers and depth, and nothing is in flight and nothing leaves, for longer than `backing_off_for`. Not for paused channels.";
        "All consumers have RDY 0: they back off after failures, or their client library keeps them idle.";
        "Look at the logs of the consumers: what they depend on is probably down."
    OldMessage "old-message" Warning, "", true:
        "The oldest message of a channel that is not finished is older than `old_message`. Not for paused channels or dead letters.";
        "Some message waits much longer than usual: a backlog, a message that fails again and again, or one that is deferred.";
        "Look at the head of the channel, and at why it does not move."
    RequeueStorm "requeue-storm" Warning, "", false:
        "More than `requeue_percent` of the deliveries are requeued, for longer than `requeue_for`, at more than `least_rate` deliveries per second.";
        "Handlers fail for many messages, which come again and take the place of others.";
        "Look at the logs of the consumers for the error; use a retry schedule and dead letters."
    Timeouts "timeouts" Warning, "", false:
        "More than `timeout_percent` of the deliveries time out, for longer than `timeout_for`, at more than `least_rate` deliveries per second.";
        "Handlers take longer than the message timeout, or consumers hang. Messages are processed twice.";
        "Let handlers TOUCH long work, lower their max in flight, or raise the message timeout."
    DeadLettersStuck "dead-letters-stuck" Critical, "", true:
        "Messages wait to be moved to the dead-letter topic, for longer than `dead_letters_stuck_for`.";
        "nsqd cannot move them: its log says why, for example because the dead-letter topic is at its bound.";
        "Look at the log of the node and at the dead-letter topic."
    DeadLetters "dead-letters" Warning, "", true:
        "Messages of a channel became dead letters within `recent`.";
        "Their attempts are used up, or a consumer rejected them. Nobody processes them again by itself.";
        "Look at the dead letters by cause, mend the cause, and move them back."
    Dropping "dropping" Warning, "", true:
        "A channel or topic dropped messages within `recent` because it has reached its bound.";
        "With `overflow=drop-oldest` (and for ephemeral names), messages beyond the bound are lost.";
        "Make consumers faster, or raise the bound."
    NoChannel "no-channel" Warning, "", false:
        "A topic has depth and no channel, for longer than `no_channel_for`. Not for paused or ephemeral topics.";
        "Messages are published, and nobody has subscribed yet. They are kept for the first channel.";
        "Create the channel, start its consumers, or empty or delete the topic."
    LookupdDisagree "lookupd-disagree" Warning, "", false:
        "A node or one of its topics is missing on an nsqlookupd that answers and is listed on another one, for longer than `lookupd_disagree_for`.";
        "Consumers that ask that nsqlookupd only do not find the node.";
        "Check that the node has the TCP address of every nsqlookupd, and that it can reach them."
    ClockSkew "clock-skew" Warning, "", false:
        "The clock of a node differs from ours by more than `clock_skew`.";
        "Timestamps of messages, ages and logs cannot be compared.";
        "Start a time service such as chrony on that host (or on this one)."
    Paused "paused" Info, "warn after `paused_warn`", false:
        "A topic or channel is paused.";
        "Nothing is delivered from it, and its depth grows, until somebody unpauses it.";
        "Unpause it when the reason is gone."
    Expired "expired" Info, "", true:
        "Messages of a channel expired within `recent`.";
        "They were older than their time to live and were dropped without being delivered.";
        "If that is not intended, make consumers faster or raise `ttl`."
    Throttled "throttled" Info, "", true:
        "Messages of a channel wait because its rate or its limit of messages in flight is used up, for longer than `throttled_for`.";
        "The limit works as configured, but consumers could do more.";
        "Raise `rate` or `max_in_flight` if the backlog grows."
    OrderBlocked "order-blocked" Warning, "", true:
        "An ordered channel reads no further because too many messages wait for others of their key.";
        "One key blocks the channel: its message in flight is slow, or fails again and again.";
        "Ask why; the answer names the key, the message and the consumer."
    Draining "draining" Info, "", true:
        "A node drains: it refuses publishes, and consumers go on.";
        "Somebody takes it out of service.";
        "Wait until it is drained, then stop it; or end the drain."
    Spilling "spilling" Info, "", false:
        "The part of a channel's depth that is on disk grows, for longer than `spilling_for`.";
        "The backlog does not fit in memory. Delivery goes on, with more disk reads.";
        "Nothing, if the backlog is temporary; see falling-behind."
    Tombstoned "tombstoned" Info, "", false:
        "A node is tombstoned for a topic: lookups of the topic do not list it.";
        "Consumers do not connect to it for this topic. A tombstone ends by itself.";
        "Delete the topic on that node, or wait."
    VersionSkew "version-skew" Info, "", false:
        "Nodes run different versions.";
        "An upgrade is under way, or a node was forgotten.";
        "Upgrade the others."
    Restarted "restarted" Info, "", false:
        "A node restarted within `restarted_within`.";
        "Its counters started again. If nobody restarted it, it may have crashed.";
        "Look at its log for the reason."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_ids_have_the_same_order() {
        for (index, rule) in RULES.iter().enumerate() {
            assert_eq!(rule.id as usize, index, "{}", rule.name);
            assert_eq!(RuleId::parse(rule.name), Some(rule.id));
        }
        assert_eq!(RuleId::parse("nope"), None);
        assert_eq!(serde_json::to_string(&RuleId::ConsumerGap).unwrap(), "\"consumer-gap\"");
    }
}
