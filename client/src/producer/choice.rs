//! Which of several nodes gets a publish. Pure.

use super::builder::Strategy;

/// A node, as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) is_connected: bool,
    /// It has not failed, and does not refuse publishes because it drains.
    pub(super) is_usable: bool,
    /// Publishes without an answer.
    pub(super) pending: usize,
    /// Hash of the node's address.
    pub(super) address_hash: u64,
}

/// What the choice is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    /// Hash of the message's key.
    pub(super) key: Option<u64>,
    /// A number that grows by one with each choice.
    pub(super) turn: usize,
    /// The position of the node that has just failed.
    pub(super) failed: Option<usize>,
    /// Use the first choice even if it has failed.
    pub(super) keep: bool,
}

/// Returns the position of the chosen node; `None` if there are no nodes.
///
/// A node that is not usable is chosen only if none is.
pub(super) fn choose<N>(
    strategy: Strategy,
    nodes: &[N],
    view: impl Fn(&N) -> Candidate,
    request: Request,
) -> Option<usize> {
    let count = nodes.len();
    if count == 0 {
        return None;
    }
    let usable = |at: &usize| request.failed != Some(*at) && view(&nodes[*at]).is_usable;
    if let (Strategy::PartitionByKey, Some(key)) = (strategy, request.key) {
        let weight = |at: &usize| mix(key ^ view(&nodes[*at]).address_hash);
        let best = (0..count).max_by_key(weight);
        if request.keep || best.as_ref().is_some_and(usable) {
            return best;
        }
        return (0..count).filter(usable).max_by_key(weight).or(best);
    }
    let first = match (strategy, request.failed) {
        (Strategy::Failover, None) => 0,
        (Strategy::Failover, Some(failed)) => failed + 1,
        _ => request.turn,
    };
    let in_order = || (0..count).map(move |offset| (first + offset) % count);
    let chosen = match strategy {
        Strategy::Failover => in_order().find(|at| usable(at) && view(&nodes[*at]).is_connected),
        // The first of equals, so that the turn decides between them.
        Strategy::LeastPending => in_order().filter(usable).min_by_key(|at| view(&nodes[*at]).pending),
        // Nodes that are not connected also get their turn, which connects them.
        Strategy::RoundRobin | Strategy::PartitionByKey => None,
    };
    chosen.or_else(|| in_order().find(usable)).or(Some(first % count))
}

/// A hash that is the same in every process and version, so that all producers send a key to the same node.
pub(crate) fn stable_hash(bytes: &[u8]) -> u64 {
    // FNV-1a; `mix` spreads its result.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The finalizer of SplitMix64.
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(count: usize) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                is_connected: true,
                is_usable: true,
                pending: 0,
                address_hash: stable_hash(format!("10.0.0.{n}:4150").as_bytes()),
            })
            .collect()
    }

    fn pick(strategy: Strategy, nodes: &[Candidate], request: Request) -> Option<usize> {
        choose(strategy, nodes, |node| *node, request)
    }

    const ANY: Request = Request { key: None, turn: 0, failed: None, keep: false };

    #[test]
    fn failover_uses_the_first_connected_node() {
        let mut nodes = nodes(3);
        assert_eq!(pick(Strategy::Failover, &nodes, ANY), Some(0));
        nodes[0].is_usable = false;
        nodes[1].is_connected = false;
        assert_eq!(pick(Strategy::Failover, &nodes, ANY), Some(2));
        let failed = Request { failed: Some(2), ..ANY };
        assert_eq!(pick(Strategy::Failover, &nodes, failed), Some(1), "the only one that may work");
        assert_eq!(pick(Strategy::Failover, &[], ANY), None);
    }

    #[test]
    fn least_pending_prefers_the_node_with_the_shortest_queue() {
        let mut nodes = nodes(3);
        nodes[0].pending = 5;
        nodes[1].pending = 2;
        nodes[2].pending = 7;
        assert_eq!(pick(Strategy::LeastPending, &nodes, ANY), Some(1));
        nodes[1].is_usable = false;
        assert_eq!(pick(Strategy::LeastPending, &nodes, ANY), Some(0));
        for node in &mut nodes {
            node.pending = 0;
            node.is_usable = true;
        }
        let turns: Vec<_> =
            (0..3).map(|turn| pick(Strategy::LeastPending, &nodes, Request { turn, ..ANY })).collect();
        assert_eq!(turns, [Some(0), Some(1), Some(2)], "equals take turns");
    }

    #[test]
    fn a_key_keeps_its_node_and_moves_only_if_that_node_fails_or_leaves() {
        let four = nodes(4);
        let place = |nodes: &[Candidate], key: u64| {
            let key = Some(stable_hash(&key.to_be_bytes()));
            pick(Strategy::PartitionByKey, nodes, Request { key, ..ANY }).unwrap()
        };
        let before: Vec<usize> = (0..4000).map(|key| place(&four, key)).collect();
        for node in 0..4 {
            let share = before.iter().filter(|at| **at == node).count();
            assert!((800..1200).contains(&share), "node {node} has {share} of 4000 keys");
        }
        let three = &four[..3];
        for (key, at) in before.iter().enumerate() {
            if *at < 3 {
                assert_eq!(place(three, key as u64), *at, "only the keys of the lost node move");
            }
        }
        let mut failing = four.clone();
        failing[before[0]].is_usable = false;
        assert_ne!(place(&failing, 0), before[0]);
        let key = Some(stable_hash(&0u64.to_be_bytes()));
        let kept = pick(Strategy::PartitionByKey, &failing, Request { key, keep: true, ..ANY });
        assert_eq!(kept, Some(before[0]), "an ordered key waits for its node");
    }

    #[test]
    fn hash_is_stable() {
        assert_eq!(stable_hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(stable_hash(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
