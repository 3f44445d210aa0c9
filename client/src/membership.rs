//! Which nsqds a consumer connects to, and when. Pure: `now`, randomness and the answers of lookupds are arguments.
//!
//! A node is *fixed* (set by the application) or *discovered*. Fixed nodes are retried forever. Discovered nodes are
//! kept while their connection is open, whatever lookupds report. After that, the lookups decide:
//!
//! | lookupds report | action |
//! |---|---|
//! | the node has the topic | reconnect |
//! | the node is unknown | retry for `forget_after`: the node is down and may return |
//! | the node is alive without the topic | forget it: tombstoned, or topic deleted; connecting would create the topic |
//!
//! So a discovered node is not reconnected at once. The consumer waits for a lookup, which the engine starts
//! immediately, or for [`CONFIRM_WAIT`] if the lookup takes longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long reconnecting to a discovered node waits for a lookup to confirm it.
const CONFIRM_WAIT: Duration = Duration::from_secs(1);
/// A connection that lasted this long was stable: the next attempt follows at once.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Minimum pause after a refusal for lack of permission.
const REFUSED_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub(crate) struct MembershipOptions {
    pub(crate) reconnect_initial: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) forget_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting { until: Instant, confirm: bool },
    Connecting,
    Connected { since: Instant },
}

#[derive(Debug)]
struct Member {
    fixed: bool,
    state: State,
    /// Failed or short-lived connections in a row.
    failures: u32,
    /// When the node, without a connection, was first missing from lookups.
    missing_since: Option<Instant>,
}

/// The nodes and their states.
#[derive(Debug)]
pub(crate) struct Membership {
    options: MembershipOptions,
    members: BTreeMap<Arc<str>, Member>,
}

impl Membership {
    pub(crate) fn new(options: MembershipOptions) -> Self {
        Membership { options, members: BTreeMap::new() }
    }

    pub(crate) fn add_fixed(&mut self, node: Arc<str>, now: Instant) {
        self.add(node, true, now);
    }

    fn add(&mut self, node: Arc<str>, fixed: bool, now: Instant) {
        let state = State::Waiting { until: now, confirm: false };
        let member =
            self.members.entry(node).or_insert(Member { fixed, state, failures: 0, missing_since: None });
        member.fixed |= fixed;
    }

    /// Returns the nodes to connect to now, and marks them as connecting.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        for (node, member) in &mut self.members {
            if matches!(member.state, State::Waiting { until, .. } if until <= now) {
                member.state = State::Connecting;
                due.push(Arc::clone(node));
            }
        }
        due
    }

    /// Returns when [`due`](Membership::due) may return nodes again.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let waits = self.members.values().filter_map(|member| match member.state {
            State::Waiting { until, .. } => Some(until),
            _ => None,
        });
        waits.min()
    }

    pub(crate) fn connected(&mut self, node: &str, now: Instant) {
        if let Some(member) = self.members.get_mut(node) {
            member.state = State::Connected { since: now };
            member.missing_since = None;
        }
    }

    /// Records that a connection ended or could not be opened. `random` is uniform in [0, 1). Returns whether a lookup
    /// now would help.
    pub(crate) fn disconnected(&mut self, node: &str, refused: bool, now: Instant, random: f64) -> bool {
        let Some(member) = self.members.get_mut(node) else { return false };
        let was_stable = matches!(member.state, State::Connected { since } if now >= since + STABLE_AFTER);
        member.failures = if was_stable { 0 } else { member.failures + 1 };
        let mut pause = match member.failures {
            0 => Duration::ZERO,
            failures => {
                let factor = 1u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
                let full =
                    self.options.reconnect_initial.saturating_mul(factor).min(self.options.reconnect_max);
                // At least a tenth, or a node that fails at once would be retried in a tight loop.
                full.mul_f64(0.1 + 0.9 * random.clamp(0.0, 1.0))
            }
        };
        if refused {
            pause = pause.max(REFUSED_WAIT);
        }
        let confirm = !member.fixed;
        if confirm {
            pause = pause.max(CONFIRM_WAIT);
        }
        member.state = State::Waiting { until: now + pause, confirm };
        confirm
    }

    /// Applies one answer of a round of lookups, before the others arrive: connects to the nodes that it lists.
    pub(crate) fn found(&mut self, listed: &BTreeSet<Arc<str>>, now: Instant) {
        for node in listed {
            self.add(Arc::clone(node), false, now);
            if let Some(member) = self.members.get_mut(node) {
                member.confirm(now);
            }
        }
    }

    /// Whether lookupds have listed a node that is still known.
    pub(crate) fn has_discovered(&self) -> bool {
        self.members.values().any(|member| !member.fixed)
    }

    /// The addresses of all nodes.
    pub(crate) fn nodes(&self) -> Vec<String> {
        self.members.keys().map(|node| node.to_string()).collect()
    }

    /// Applies the answers of a round of lookups. `listed` nodes have the topic; `elsewhere` are alive without it. If
    /// `any_answer` is false, no lookupd answered, and nothing changes.
    pub(crate) fn looked_up(
        &mut self,
        listed: &BTreeSet<Arc<str>>,
        elsewhere: &BTreeSet<Arc<str>>,
        any_answer: bool,
        now: Instant,
    ) {
        if !any_answer {
            return;
        }
        for node in listed {
            self.add(Arc::clone(node), false, now);
        }
        let forget_after = self.options.forget_after;
        self.members.retain(|node, member| {
            if !matches!(member.state, State::Waiting { .. }) {
                return true;
            }
            if listed.contains(node) {
                member.confirm(now);
                return true;
            }
            let missing_since = *member.missing_since.get_or_insert(now);
            member.fixed || (!elsewhere.contains(node) && now < missing_since + forget_after)
        });
    }

    /// Returns discovered nodes without a connection. If a lookup does not list them, the reason matters.
    pub(crate) fn suspects(&self) -> BTreeSet<Arc<str>> {
        let lost = self.members.iter().filter(|(_, member)| {
            !member.fixed && matches!(member.state, State::Waiting { .. }) && member.failures_known()
        });
        lost.map(|(node, _)| Arc::clone(node)).collect()
    }

    /// Whether some node has not been tried yet, or is being tried for the first time.
    pub(crate) fn has_untried(&self) -> bool {
        self.members
            .values()
            .any(|member| member.failures == 0 && !matches!(member.state, State::Connected { .. }))
    }
}

impl Member {
    /// A lookupd lists the node: a first attempt to reconnect need not wait any longer.
    fn confirm(&mut self, now: Instant) {
        let State::Waiting { until, confirm } = self.state else { return };
        self.missing_since = None;
        let until = if confirm && self.failures <= 1 { now } else { until };
        self.state = State::Waiting { until, confirm: false };
    }

    /// Whether the node was tried before. A newly discovered node is not a suspect.
    fn failures_known(&self) -> bool {
        self.failures > 0 || matches!(self.state, State::Waiting { confirm: true, .. })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn membership() -> Membership {
        Membership::new(MembershipOptions {
            reconnect_initial: SECOND / 10,
            reconnect_max: 30 * SECOND,
            forget_after: 600 * SECOND,
        })
    }

    fn set(nodes: &[&str]) -> BTreeSet<Arc<str>> {
        nodes.iter().map(|node| Arc::from(*node)).collect()
    }

    fn names(due: Vec<Arc<str>>) -> Vec<String> {
        due.iter().map(|node| node.to_string()).collect()
    }

    impl Membership {
        fn is_empty(&self) -> bool {
            self.members.is_empty()
        }
    }

    #[test]
    fn fixed_nodes_are_retried_with_growing_pauses() {
        let mut membership = membership();
        let mut now = Instant::now();
        membership.add_fixed(Arc::from("a:1"), now);
        assert_eq!(names(membership.due(now)), ["a:1"]);
        assert!(membership.due(now).is_empty(), "the node is already connecting");
        let mut pauses = Vec::new();
        for _ in 0..11 {
            assert!(!membership.disconnected("a:1", false, now, 1.0));
            let at = membership.next_due().unwrap();
            pauses.push((at - now).as_millis());
            now = at;
            assert_eq!(membership.due(now).len(), 1);
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
    }

    #[test]
    fn stable_connection_is_reopened_at_once() {
        let mut membership = membership();
        let now = Instant::now();
        membership.add_fixed(Arc::from("a:1"), now);
        membership.due(now);
        membership.connected("a:1", now);
        membership.disconnected("a:1", false, now + STABLE_AFTER, 0.5);
        assert_eq!(membership.next_due(), Some(now + STABLE_AFTER));
    }

    #[test]
    fn refused_node_waits_longer() {
        let mut membership = membership();
        let now = Instant::now();
        membership.add_fixed(Arc::from("a:1"), now);
        membership.due(now);
        membership.disconnected("a:1", true, now, 0.0);
        assert_eq!(membership.next_due(), Some(now + REFUSED_WAIT));
    }

    #[test]
    fn unlisted_node_is_kept_while_connected_then_retried_then_forgotten() {
        let mut membership = membership();
        let mut now = Instant::now();
        membership.looked_up(&set(&["a:1"]), &set(&[]), true, now);
        assert_eq!(names(membership.due(now)), ["a:1"]);
        membership.connected("a:1", now);
        now += 100 * SECOND;
        membership.looked_up(&set(&[]), &set(&["a:1"]), true, now);
        assert!(!membership.is_empty(), "its connection is open");
        assert!(membership.disconnected("a:1", false, now, 0.5), "a lookup helps");
        assert_eq!(membership.suspects(), set(&["a:1"]));
        membership.looked_up(&set(&[]), &set(&[]), true, now);
        assert!(!membership.is_empty(), "the node may return");
        membership.looked_up(&set(&[]), &set(&[]), true, now + 599 * SECOND);
        assert!(!membership.is_empty());
        membership.looked_up(&set(&[]), &set(&[]), true, now + 600 * SECOND);
        assert!(membership.is_empty());
    }

    #[test]
    fn node_without_the_topic_is_forgotten() {
        let mut membership = membership();
        let now = Instant::now();
        membership.looked_up(&set(&["a:1"]), &set(&[]), true, now);
        membership.due(now);
        membership.connected("a:1", now);
        membership.disconnected("a:1", false, now, 0.5);
        assert!(membership.due(now).is_empty(), "the node waits for a lookup");
        membership.looked_up(&set(&[]), &set(&["a:1"]), true, now);
        assert!(membership.is_empty());
    }

    #[test]
    fn confirmed_node_is_reconnected_at_once() {
        let mut membership = membership();
        let now = Instant::now();
        membership.looked_up(&set(&["a:1"]), &set(&[]), true, now);
        membership.due(now);
        membership.connected("a:1", now);
        membership.disconnected("a:1", false, now, 0.5);
        membership.looked_up(&set(&["a:1"]), &set(&[]), true, now);
        assert_eq!(names(membership.due(now)), ["a:1"]);
    }

    #[test]
    fn first_answer_of_a_round_is_used_at_once() {
        let mut membership = membership();
        let now = Instant::now();
        membership.found(&set(&["a:1"]), now);
        assert_eq!(names(membership.due(now)), ["a:1"]);
        membership.found(&set(&["a:1"]), now);
        assert!(membership.due(now).is_empty(), "it is connecting already");
        membership.connected("a:1", now);
        membership.disconnected("a:1", false, now, 0.5);
        assert!(membership.due(now).is_empty(), "the node waits for a lookup");
        membership.found(&set(&["a:1"]), now);
        assert_eq!(names(membership.due(now)), ["a:1"]);
    }

    #[test]
    fn failed_lookups_change_nothing() {
        let mut membership = membership();
        let now = Instant::now();
        membership.looked_up(&set(&["a:1"]), &set(&[]), true, now);
        membership.due(now);
        membership.disconnected("a:1", false, now, 0.5);
        membership.looked_up(&set(&[]), &set(&[]), false, now + 10_000 * SECOND);
        assert!(!membership.is_empty());
        assert_eq!(names(membership.due(now + CONFIRM_WAIT)), ["a:1"], "tried without confirmation");
    }

    proptest! {
        /// Fixed nodes are never forgotten, no node is connected twice, and every waiting node is due in time.
        #[test]
        fn every_node_is_tried_in_time_and_only_once(
            steps in prop::collection::vec((0u8..6, 0usize..4, 0.0f64..1.0, 0u64..5_000), 1..200),
        ) {
            let mut membership = membership();
            let mut now = Instant::now();
            let all = ["a:1", "b:1", "c:1", "d:1"];
            membership.add_fixed(Arc::from("a:1"), now);
            let mut open: BTreeSet<Arc<str>> = BTreeSet::new();
            for (step, which, random, ms) in steps {
                now += Duration::from_millis(ms);
                for node in membership.due(now) {
                    prop_assert!(open.insert(node), "connected twice");
                }
                match step {
                    0 => if open.contains(all[which]) { membership.connected(all[which], now) },
                    1 | 2 => if open.remove(all[which]) {
                        membership.disconnected(all[which], step == 2, now, random);
                    },
                    3 => membership.looked_up(&set(&all[which..]), &set(&[]), true, now),
                    4 => membership.looked_up(&set(&all[..which]), &set(&all[which..]), true, now),
                    _ => membership.looked_up(&set(&[]), &set(&[]), which > 0, now),
                }
                prop_assert!(membership.members.contains_key("a:1"));
                let longest = now + REFUSED_WAIT.max(membership.options.reconnect_max);
                prop_assert!(membership.next_due().is_none_or(|at| at <= longest));
            }
        }
    }
}
