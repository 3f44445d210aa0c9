//! What upkeep does with channels once a second, if any has a setting for it: it empties or deletes channels without
//! consumers (`idle_expiry`), and reports what they dropped (`overflow`).

use std::sync::Arc;

use super::Topic;
use super::registry::Registry;
use crate::clock::{self, Nanos};
use crate::policy::bounds::IdleAction;

impl Registry {
    /// See the module.
    pub async fn watch_channels(self: &Arc<Self>) {
        let now = clock::monotonic();
        for topic in self.all_unsorted() {
            if topic.watch_channels(now) {
                self.topic_lost_last_channel(&topic).await;
            }
        }
    }
}

impl Topic {
    /// Returns whether the topic has lost its last channel.
    fn watch_channels(&self, now: Nanos) -> bool {
        let mut has_lost_last = false;
        for channel in self.channels() {
            let name = channel.name();
            if let Some((dropped, bound)) = channel.overflow_report(now) {
                crate::log_warn!(
                    self.engine,
                    "CHANNEL({}/{name}): dropped its {dropped} oldest messages beyond {bound}",
                    self.name
                );
            }
            let Some((action, idle)) = channel.idle_action(now) else { continue };
            let after = nsq_daemon::go_duration::format(idle.after);
            match action {
                IdleAction::Empty => {
                    crate::log_warn!(
                        self.engine,
                        "CHANNEL({}/{name}): emptied, no consumer for {after}",
                        self.name
                    );
                }
                IdleAction::Delete => {
                    crate::log_warn!(
                        self.engine,
                        "CHANNEL({}/{name}): deleted, no consumer for {after}",
                        self.name
                    );
                    has_lost_last |= self.delete_channel_if_unused(&channel) == Some(true);
                }
            }
        }
        has_lost_last
    }
}
