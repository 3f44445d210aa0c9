use proptest::prelude::*;

use super::*;

const INACTIVE: Duration = Duration::from_secs(300);
const TOMBSTONE: Duration = Duration::from_secs(45);

fn at(seconds: u64) -> Moment {
    Moment { elapsed: Duration::from_secs(seconds), unix_ns: seconds as i64 * 1_000_000_000 }
}

fn registry() -> Registry {
    Registry::new(INACTIVE, TOMBSTONE)
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

/// Identifies a node whose addresses and TCP port derive from `number`.
fn identify(registry: &Registry, number: u16, now: Moment) -> Arc<Node> {
    let info = PeerInfo {
        broadcast_address: format!("b{number}"),
        hostname: format!("h{number}"),
        http_port: 4151,
        tcp_port: 4000 + number,
        version: "1.3.0".into(),
        ..PeerInfo::default()
    };
    registry.identify(NodeId(number.into()), format!("127.0.0.1:{number}"), info, now)
}

/// The broadcast addresses that a lookup returns; `None` if the topic is unknown.
fn found(registry: &Registry, topic: &str, now: Moment) -> Option<Vec<String>> {
    let response = registry.lookup(topic, now)?;
    Some(response.producers.into_iter().map(|producer| producer.broadcast_address).collect())
}

#[test]
fn registered_topic_is_found_with_its_node_and_channels() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    assert_eq!(registry.lookup("t", at(0)), None);
    assert!(registry.register(&node, &topic("t"), Some(&channel("c"))));
    assert!(!registry.register(&node, &topic("t"), Some(&channel("c"))), "the channel is already registered");
    let response = registry.lookup("t", at(0)).unwrap();
    assert_eq!(response.channels, ["c"]);
    let expected = Producer {
        remote_address: "127.0.0.1:1".into(),
        hostname: "h1".into(),
        broadcast_address: "b1".into(),
        tcp_port: 4001,
        http_port: 4151,
        version: "1.3.0".into(),
        topology_zone: String::new(),
        topology_region: String::new(),
        draining: false,
    };
    assert_eq!(response.producers, [expected]);
    assert_eq!(registry.topics(), ["t"]);
}

#[test]
fn a_nodes_registrations_are_counted() {
    let registry = registry();
    let (node, other) = (identify(&registry, 1, at(0)), identify(&registry, 2, at(0)));
    registry.register(&node, &topic("t"), Some(&channel("c")));
    registry.register(&node, &topic("t"), Some(&channel("d")));
    registry.register(&node, &topic("u"), None);
    registry.register(&other, &topic("t"), Some(&channel("c")));
    assert_eq!((registry.registrations(&node), registry.registrations(&other)), (4, 2));
    registry.unregister(&node, &topic("t"), None);
    assert_eq!((registry.registrations(&node), registry.registrations(&other)), (1, 2));
    registry.delete_topic("t");
    assert_eq!(registry.registrations(&other), 0);
}

#[test]
fn topics_and_channels_stay_known_when_their_node_disconnects() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    registry.register(&node, &topic("t#ephemeral"), Some(&channel("c#ephemeral")));
    registry.remove(&node);
    assert_eq!(found(&registry, "t#ephemeral", at(0)), Some(vec![]));
    assert_eq!(registry.channels("t#ephemeral"), ["c#ephemeral"]);
    assert!(registry.nodes(at(0)).producers.is_empty());
    assert!(registry.debug().is_empty());
}

#[test]
fn unregistering_a_channel_leaves_its_topic() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    for name in ["c", "c#ephemeral"] {
        registry.register(&node, &topic("t"), Some(&channel(name)));
        assert!(registry.unregister(&node, &topic("t"), Some(&channel(name))));
        assert!(
            !registry.unregister(&node, &topic("t"), Some(&channel(name))),
            "the channel is already unregistered"
        );
    }
    assert_eq!(registry.channels("t"), ["c"], "an ephemeral channel is deleted with its last node");
    assert_eq!(found(&registry, "t", at(0)), Some(vec!["b1".into()]));
}

#[test]
fn unregistering_a_topic_removes_the_node_from_its_channels() {
    let registry = registry();
    let (one, two) = (identify(&registry, 1, at(0)), identify(&registry, 2, at(0)));
    for node in [&one, &two] {
        registry.register(node, &topic("t#ephemeral"), Some(&channel("c#ephemeral")));
    }
    assert!(registry.unregister(&one, &topic("t#ephemeral"), None));
    assert_eq!(found(&registry, "t#ephemeral", at(0)), Some(vec!["b2".into()]));
    assert_eq!(registry.debug()["channel:t#ephemeral:c#ephemeral"].len(), 1);
    assert!(registry.unregister(&two, &topic("t#ephemeral"), None));
    assert_eq!(found(&registry, "t#ephemeral", at(0)), None);
    assert_eq!(registry.channels("t#ephemeral"), ["c#ephemeral"], "channels stay, even ephemeral ones");
    assert!(registry.topics().is_empty());
}

#[test]
fn silent_nodes_are_hidden_until_they_are_seen_again() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    registry.register(&node, &topic("t"), None);
    let seen = |now| (found(&registry, "t", now).unwrap().len(), registry.nodes(now).producers.len());
    assert_eq!(seen(at(300)), (1, 1));
    assert_eq!(seen(at(301)), (0, 0));
    registry.register(&node, &topic("u"), None);
    assert_eq!(seen(at(301)), (0, 0), "REGISTER is not a sign of life");
    node.seen(at(301));
    assert_eq!(seen(at(301)), (1, 1));
}

#[test]
fn tombstone_hides_a_node_for_one_topic_and_expires() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    registry.register(&node, &topic("t"), None);
    registry.register(&node, &topic("u"), None);
    registry.tombstone("t", "b1:4151", at(10));
    registry.tombstone("t", "b2:4151", at(10));
    registry.tombstone("nope", "b1:4151", at(10));
    assert_eq!(found(&registry, "t", at(54)), Some(vec![]));
    assert_eq!(found(&registry, "u", at(54)), Some(vec!["b1".into()]));
    let nodes = registry.nodes(at(54)).producers;
    assert_eq!(
        (&nodes[0].topics[..], &nodes[0].tombstones[..]),
        (&["t".into(), "u".into()][..], &[true, false][..])
    );
    assert_eq!(found(&registry, "t", at(55)), Some(vec!["b1".into()]));
    assert_eq!(registry.nodes(at(55)).producers[0].tombstones, [false, false]);
    let record = &registry.debug()["topic:t:"][0].record();
    assert_eq!((record.tombstoned, record.tombstoned_at), (true, 10_000_000_000));
}

#[test]
fn registering_again_keeps_a_tombstone_and_unregistering_first_clears_it() {
    let registry = registry();
    let node = identify(&registry, 1, at(0));
    registry.register(&node, &topic("t"), None);
    registry.tombstone("t", "b1:4151", at(0));
    registry.register(&node, &topic("t"), None);
    assert_eq!(found(&registry, "t", at(1)), Some(vec![]));
    registry.unregister(&node, &topic("t"), None);
    registry.register(&node, &topic("t"), None);
    assert_eq!(found(&registry, "t", at(1)), Some(vec!["b1".into()]));
}

#[test]
fn operators_create_and_delete() {
    let registry = registry();
    registry.create_channel(&topic("t"), &channel("c"));
    registry.create_topic(&topic("u"));
    assert_eq!(registry.topics(), ["t", "u"]);
    assert_eq!(found(&registry, "t", at(0)), Some(vec![]));
    assert!(registry.delete_channel(&topic("t"), &channel("c")));
    assert!(!registry.delete_channel(&topic("t"), &channel("c")));
    assert!(!registry.delete_channel(&topic("nope"), &channel("c")));
    assert!(registry.delete_topic("t") && !registry.delete_topic("t") && !registry.delete_topic("*"));
    assert_eq!(registry.topics(), ["u"]);
}

#[test]
fn star_means_all_topics() {
    let registry = registry();
    assert_eq!(registry.lookup("*", at(0)), None);
    let (one, two) = (identify(&registry, 1, at(0)), identify(&registry, 2, at(0)));
    registry.register(&one, &topic("t"), Some(&channel("c")));
    registry.register(&one, &topic("u"), Some(&channel("c")));
    registry.register(&two, &topic("u"), Some(&channel("d")));
    assert_eq!(registry.channels("*"), ["c", "d"]);
    assert_eq!(found(&registry, "*", at(0)), Some(vec!["b1".into(), "b2".into()]));
}

#[test]
fn reconnected_node_is_a_new_node() {
    let registry = registry();
    let old = identify(&registry, 1, at(0));
    registry.register(&old, &topic("t"), None);
    let info = old.info().clone();
    let new = registry.identify(NodeId(9), "127.0.0.1:1".into(), info, at(1));
    registry.register(&new, &topic("t"), None);
    registry.remove(&old);
    assert_eq!(found(&registry, "t", at(1)), Some(vec!["b1".into()]));
    assert_eq!(registry.nodes(at(1)).producers.len(), 1);
}

/// A naive model of the database: one table of registrations with their records.
#[derive(Default)]
struct Model {
    /// (topic, channel or "" for the topic itself) -> node -> when it was tombstoned.
    table: BTreeMap<(String, String), BTreeMap<u16, Option<u64>>>,
    last_seen: BTreeMap<u16, u64>,
}

const TOPICS: [&str; 3] = ["t", "u", "t#ephemeral"];
const CHANNELS: [&str; 3] = ["c", "d", "c#ephemeral"];
const NODES: u16 = 3;

#[derive(Debug, Clone)]
enum Act {
    Identify(u16),
    Ping(u16),
    Register(u16, &'static str, Option<&'static str>),
    Unregister(u16, &'static str, Option<&'static str>),
    Leave(u16),
    Create(&'static str, Option<&'static str>),
    Delete(&'static str, Option<&'static str>),
    Tombstone(&'static str, u16),
    Pass(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let node = 0..NODES;
    let name = prop::sample::select(&TOPICS[..]);
    let sub = prop::option::of(prop::sample::select(&CHANNELS[..]));
    prop_oneof![
        2 => node.clone().prop_map(Act::Identify),
        1 => node.clone().prop_map(Act::Ping),
        4 => (node.clone(), name.clone(), sub.clone()).prop_map(|(n, t, c)| Act::Register(n, t, c)),
        3 => (node.clone(), name.clone(), sub.clone()).prop_map(|(n, t, c)| Act::Unregister(n, t, c)),
        1 => node.clone().prop_map(Act::Leave),
        1 => (name.clone(), sub.clone()).prop_map(|(t, c)| Act::Create(t, c)),
        1 => (name.clone(), sub).prop_map(|(t, c)| Act::Delete(t, c)),
        1 => (name, node).prop_map(|(t, n)| Act::Tombstone(t, n)),
        1 => prop::sample::select(vec![1, 30, 45, 200, 301]).prop_map(Act::Pass),
    ]
}

impl Model {
    fn apply(&mut self, act: &Act, now: u64) {
        let key = |topic: &str, channel: &str| (topic.to_owned(), channel.to_owned());
        match *act {
            Act::Identify(node) | Act::Ping(node) => drop(self.last_seen.insert(node, now)),
            Act::Register(node, topic, channel) => {
                for channel in ["", channel.unwrap_or_default()] {
                    self.table.entry(key(topic, channel)).or_default().entry(node).or_default();
                }
            }
            Act::Unregister(node, topic, channel) => {
                if channel.is_none() {
                    let channels = self.table.iter_mut().filter(|((t, c), _)| t == topic && !c.is_empty());
                    channels.for_each(|(_, records)| _ = records.remove(&node));
                }
                let key = key(topic, channel.unwrap_or_default());
                let Some(records) = self.table.get_mut(&key) else { return };
                records.remove(&node);
                if records.is_empty() && channel.unwrap_or(topic).ends_with("#ephemeral") {
                    self.table.remove(&key);
                }
            }
            Act::Leave(node) => {
                self.last_seen.remove(&node);
                self.table.values_mut().for_each(|records| _ = records.remove(&node));
            }
            Act::Create(topic, channel) => {
                for channel in ["", channel.unwrap_or_default()] {
                    self.table.entry(key(topic, channel)).or_default();
                }
            }
            Act::Delete(topic, None) => self.table.retain(|(t, _), _| t != topic),
            Act::Delete(topic, Some(channel)) => drop(self.table.remove(&key(topic, channel))),
            Act::Tombstone(topic, node) => {
                let records = self.table.get_mut(&key(topic, ""));
                if let Some(mark) = records.and_then(|records| records.get_mut(&node)) {
                    *mark = Some(now);
                }
            }
            Act::Pass(_) => {}
        }
    }

    fn topics(&self) -> Vec<String> {
        self.table.keys().filter(|(_, channel)| channel.is_empty()).map(|(topic, _)| topic.clone()).collect()
    }

    fn channels(&self, topic: &str) -> Vec<String> {
        let of_topic = self.table.keys().filter(|(t, channel)| t == topic && !channel.is_empty());
        of_topic.map(|(_, channel)| channel.clone()).collect()
    }

    fn is_active(&self, node: u16, now: u64) -> bool {
        now - self.last_seen[&node] <= INACTIVE.as_secs()
    }

    fn found(&self, topic: &str, now: u64) -> Option<Vec<String>> {
        let records = self.table.get(&(topic.to_owned(), String::new()))?;
        let visible = records.iter().filter(|(node, mark)| {
            self.is_active(**node, now) && !mark.is_some_and(|at| now - at < TOMBSTONE.as_secs())
        });
        Some(visible.map(|(node, _)| format!("b{node}")).collect())
    }

    fn nodes(&self, now: u64) -> Vec<(String, Vec<String>, Vec<bool>)> {
        let active = self.last_seen.keys().filter(|node| self.is_active(**node, now));
        active
            .map(|node| {
                let records = self.table.iter().filter(|((_, channel), _)| channel.is_empty());
                let mine =
                    records.filter_map(|((topic, _), records)| Some((topic.clone(), records.get(node)?)));
                let hidden = |mark: &Option<u64>| mark.is_some_and(|at| now - at < TOMBSTONE.as_secs());
                let (topics, tombstones) = mine.map(|(topic, mark)| (topic, hidden(mark))).unzip();
                (format!("b{node}"), topics, tombstones)
            })
            .collect()
    }
}

proptest! {
    #[test]
    fn registry_behaves_like_the_model(acts in prop::collection::vec(act(), 1..80)) {
        let registry = registry();
        let mut model = Model::default();
        let mut nodes: BTreeMap<u16, Arc<Node>> = BTreeMap::new();
        let mut now = 0;
        for act in acts {
            // A connection sends IDENTIFY once, before all other commands.
            let possible = match &act {
                Act::Identify(node) => !nodes.contains_key(node),
                Act::Ping(node) | Act::Register(node, ..) | Act::Unregister(node, ..) | Act::Leave(node) => {
                    nodes.contains_key(node)
                }
                _ => true,
            };
            if !possible {
                continue;
            }
            model.apply(&act, now);
            match act {
                Act::Identify(node) => drop(nodes.insert(node, identify(&registry, node, at(now)))),
                Act::Ping(node) => nodes[&node].seen(at(now)),
                Act::Register(node, name, sub) => {
                    registry.register(&nodes[&node], &topic(name), sub.map(channel).as_ref());
                }
                Act::Unregister(node, name, sub) => {
                    registry.unregister(&nodes[&node], &topic(name), sub.map(channel).as_ref());
                }
                Act::Leave(node) => {
                    if let Some(node) = nodes.remove(&node) {
                        registry.remove(&node);
                    }
                }
                Act::Create(name, None) => registry.create_topic(&topic(name)),
                Act::Create(name, Some(sub)) => registry.create_channel(&topic(name), &channel(sub)),
                Act::Delete(name, None) => drop(registry.delete_topic(name)),
                Act::Delete(name, Some(sub)) => drop(registry.delete_channel(&topic(name), &channel(sub))),
                Act::Tombstone(name, node) => registry.tombstone(name, &format!("b{node}:4151"), at(now)),
                Act::Pass(seconds) => now += seconds,
            }
            prop_assert_eq!(registry.topics(), model.topics());
            for name in TOPICS {
                prop_assert_eq!(registry.channels(name), model.channels(name));
                prop_assert_eq!(found(&registry, name, at(now)), model.found(name, now));
            }
            let listed = registry.nodes(at(now)).producers;
            let listed = listed.into_iter().map(|node| (node.broadcast_address, node.topics, node.tombstones));
            prop_assert_eq!(listed.collect::<Vec<_>>(), model.nodes(now));
            let records = model.table.iter().filter(|(_, records)| !records.is_empty()).count();
            let clients = usize::from(!model.last_seen.is_empty());
            prop_assert_eq!(registry.debug().len(), records + clients);
        }
    }
}

#[test]
fn nodes_and_clients_can_use_the_registry_concurrently() {
    let registry = registry();
    std::thread::scope(|scope| {
        for number in 0..4 {
            let registry = &registry;
            scope.spawn(move || {
                for round in 0..200 {
                    let node = identify(registry, number, at(round));
                    for name in ["t", "u#ephemeral"] {
                        registry.register(&node, &topic(name), Some(&channel("c#ephemeral")));
                        registry.unregister(&node, &topic(name), Some(&channel("c#ephemeral")));
                    }
                    registry.unregister(&node, &topic("u#ephemeral"), None);
                    registry.lookup("*", at(round));
                    let nodes = registry.nodes(at(round)).producers;
                    assert!(nodes.iter().all(|node| node.topics.len() == node.tombstones.len()));
                    registry.debug();
                    registry.remove(&node);
                }
            });
        }
    });
    assert_eq!(registry.topics(), ["t"]);
    assert!(registry.debug().is_empty());
}

#[test]
fn counts_cover_topics_channels_nodes_and_tombstones() {
    let registry = registry();
    assert_eq!(registry.counts(at(0)), RegistryCounts::default());
    let (silent, active) = (identify(&registry, 1, at(0)), identify(&registry, 2, at(200)));
    registry.register(&silent, &topic("a"), Some(&channel("c")));
    registry.register(&active, &topic("a"), None);
    registry.register(&active, &topic("b"), Some(&channel("c")));
    registry.create_channel(&topic("b"), &channel("d"));
    registry.tombstone("a", "b2:4151", at(300));
    let counts = RegistryCounts {
        topics: 2,
        channels: 3,
        active_nodes: 1,
        inactive_nodes: 1,
        producers: 3,
        tombstones: 1,
    };
    assert_eq!(registry.counts(at(301)), counts);
    assert_eq!(registry.counts(at(300 + TOMBSTONE.as_secs())), RegistryCounts { tombstones: 0, ..counts });
}
