//! Pure: counters whose rise is a problem, such as that of dead letters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::snapshot::Snapshot;

/// A counter whose rise is a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Counter {
    DeadLettered,
    Expired,
    Overflow,
}

/// A counter of a channel; with an empty channel, of the topic itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CounterKey {
    topic: Arc<str>,
    channel: Arc<str>,
    counter: Counter,
}

/// The value of a counter on each node, by HTTP address.
type Counts = HashMap<String, u64>;

/// A rise within the last minutes.
#[derive(Debug, Clone, Copy)]
struct Rise {
    by: u64,
    /// The last time.
    at: SystemTime,
}

/// The counters that rose within the last minutes. Only counters above zero are kept.
#[derive(Debug, Default)]
pub(super) struct Rises {
    known: HashMap<CounterKey, Counts>,
    rises: HashMap<CounterKey, Rise>,
    /// The nodes of the snapshot before. What happened before that is not known.
    nodes: HashSet<String>,
}

impl Rises {
    /// Adds a snapshot. Rises that are older than `recent` are forgotten.
    pub(super) fn observe(&mut self, snapshot: &Snapshot, recent: Duration) {
        let now = snapshot.taken_at;
        let seen = counts_of(snapshot);
        for (key, counts) in &seen {
            let by = rise(self.known.get(key), counts, &self.nodes);
            if by > 0 {
                let rise = self.rises.entry(key.clone()).or_insert(Rise { by: 0, at: now });
                *rise = Rise { by: rise.by + by, at: now };
            }
        }
        self.rises.retain(|_, rise| now.duration_since(rise.at).unwrap_or_default() < recent);
        self.known = seen;
        let nodes = snapshot.nodes.iter().filter(|node| node.age.is_some());
        self.nodes = nodes.map(|node| node.address.clone()).collect();
    }

    /// By how much a counter rose; `None` if it did not.
    pub(super) fn of(&self, topic: &Arc<str>, channel: &str, counter: Counter) -> Option<u64> {
        if self.rises.is_empty() {
            return None;
        }
        let key = CounterKey { topic: topic.clone(), channel: channel.into(), counter };
        self.rises.get(&key).map(|rise| rise.by)
    }
}

fn counts_of(snapshot: &Snapshot) -> HashMap<CounterKey, Counts> {
    let no_channel: Arc<str> = "".into();
    let mut seen: HashMap<CounterKey, Counts> = HashMap::new();
    let mut see = |topic: &Arc<str>, channel: &Arc<str>, counter, node: usize, count: u64| {
        if count > 0 {
            let key = CounterKey { topic: topic.clone(), channel: channel.clone(), counter };
            seen.entry(key).or_default().insert(snapshot.nodes[node].address.clone(), count);
        }
    };
    for topic in &snapshot.topics {
        for part in &topic.parts {
            see(&topic.name, &no_channel, Counter::Overflow, part.node, part.figures.overflow_count);
        }
        for channel in &topic.channels {
            for part in &channel.parts {
                let Some(extra) = &part.figures.extra else { continue };
                let mut see = |counter, count| see(&topic.name, &channel.name, counter, part.node, count);
                see(Counter::DeadLettered, extra.dead_lettered_count);
                see(Counter::Expired, extra.expired_count);
                see(Counter::Overflow, extra.overflow_count);
            }
        }
    }
    seen
}

/// By how much a counter rose on all nodes. A node that was not there before says nothing about when.
fn rise(known: Option<&Counts>, counts: &Counts, nodes: &HashSet<String>) -> u64 {
    let of_node = |(node, count): (&String, &u64)| {
        let before = known.and_then(|known| known.get(node)).copied();
        let before = before.unwrap_or(if nodes.contains(node) { 0 } else { *count });
        count.saturating_sub(before)
    };
    counts.iter().map(of_node).sum()
}
