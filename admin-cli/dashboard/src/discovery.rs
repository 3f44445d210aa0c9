//! What nsqlookupds disagree about. Pure.

use std::collections::BTreeSet;

use nsq_cluster::{Reach, Snapshot};
use serde::Serialize;

/// Something that an answering nsqlookupd does not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// Address of the nsqlookupd.
    pub lookupd: String,
    pub node: String,
    /// `None` if it does not list the node at all.
    pub topic: Option<String>,
}

/// The nodes and topics that some nsqlookupd lists, or a node has, and another answering nsqlookupd does not list.
pub fn differences(snapshot: &Snapshot) -> Vec<Difference> {
    let mut found = BTreeSet::new();
    let answering = || snapshot.lookupds.iter().filter(|lookupd| lookupd.reach == Reach::Up);
    for (index, node) in snapshot.nodes.iter().enumerate() {
        let listed: Vec<_> =
            answering().filter(|l| l.nodes.iter().any(|listing| listing.node == index)).collect();
        if listed.is_empty() {
            continue;
        }
        let topics: BTreeSet<&str> = listed
            .iter()
            .flat_map(|lookupd| lookupd.nodes.iter().filter(|listing| listing.node == index))
            .flat_map(|listing| listing.topics.iter().map(|name| &**name))
            .collect();
        for lookupd in answering() {
            let name = |topic: Option<&str>| Difference {
                lookupd: lookupd.address.clone(),
                node: node.key.clone(),
                topic: topic.map(str::to_owned),
            };
            match lookupd.nodes.iter().find(|listing| listing.node == index) {
                None => drop(found.insert(name(None))),
                Some(listing) => {
                    let known: BTreeSet<&str> = listing.topics.iter().map(|name| &**name).collect();
                    found.extend(topics.difference(&known).map(|topic| name(Some(topic))));
                }
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_cluster::snapshot::{Listing, LookupdView};

    use super::*;

    #[test]
    fn what_one_lookupd_lacks_is_a_difference() {
        let lookupd = |address: &str, nodes| LookupdView {
            address: address.to_owned(),
            reach: Reach::Up,
            age: None,
            error: None,
            is_skipped: false,
            nodes,
        };
        let listing = |topics: &[&str]| Listing {
            node: 0,
            remote_address: String::new(),
            topics: topics.iter().map(|name| (*name).into()).collect(),
            tombstones: Vec::new(),
        };
        let mut snapshot = Snapshot::empty(Duration::from_secs(5));
        assert!(differences(&snapshot).is_empty());
        snapshot.nodes.push(crate::test_util::node("n:1"));
        snapshot.lookupds = vec![
            lookupd("a", vec![listing(&["t", "u"])]),
            lookupd("b", vec![listing(&["t"])]),
            lookupd("c", vec![]),
        ];
        let found: Vec<_> = differences(&snapshot).into_iter().map(|d| (d.lookupd, d.topic)).collect();
        assert_eq!(found, [("b".to_owned(), Some("u".to_owned())), ("c".to_owned(), None)]);
    }
}
