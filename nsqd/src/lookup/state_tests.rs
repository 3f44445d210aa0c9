use super::*;
use proptest::prelude::*;

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn channel(name: &str) -> ChannelName {
    ChannelName::new(name).unwrap()
}

type Channels<'a> = &'a [(&'a str, u32)];

/// Builds a topology, for example from `[("t", 1, [("c", 1)])]`.
fn topology(topics: &[(&str, u32, Channels<'_>)]) -> Topology {
    let entry = |number, channels: Channels<'_>| TopicEntry {
        number: TopicNumber(number),
        channels: channels.iter().map(|&(name, number)| (channel(name), ChannelNumber(number))).collect(),
    };
    Topology(topics.iter().map(|&(name, number, channels)| (topic(name), entry(number, channels))).collect())
}

fn lines(steps: &[Step]) -> String {
    let mut out = Vec::new();
    steps.iter().for_each(|step| step.command().encode(&mut out));
    String::from_utf8(out).unwrap()
}

/// Plans, confirms every step, and returns the sent commands.
fn send_all(registrations: &mut Registrations, topology: &Topology) -> String {
    let mut sent = String::new();
    for _ in 0..2 {
        let steps = registrations.plan(topology);
        registrations.sending(&steps);
        steps.iter().for_each(|step| registrations.confirmed(step));
        sent += &lines(&steps);
    }
    assert_eq!(registrations.plan(topology), [], "no commands are left");
    sent
}

#[test]
fn new_connection_registers_everything() {
    let mut registrations = Registrations::default();
    let all = topology(&[("a", 1, &[]), ("b", 2, &[("x", 1), ("y#ephemeral", 2)])]);
    let expected = "REGISTER a\nREGISTER b x\nREGISTER b y#ephemeral\n";
    assert_eq!(send_all(&mut registrations, &all), expected);
    registrations.disconnected(false);
    assert_eq!(send_all(&mut registrations, &all), expected);
}

#[test]
fn later_only_changes_are_sent() {
    let mut registrations = Registrations::default();
    send_all(&mut registrations, &topology(&[("a", 1, &[("x", 1)]), ("b", 2, &[])]));
    let sent = send_all(
        &mut registrations,
        &topology(&[("a", 1, &[("x", 1), ("y", 2)]), ("b", 2, &[]), ("c", 3, &[])]),
    );
    assert_eq!(sent, "REGISTER a y\nREGISTER c\n");
    let sent = send_all(&mut registrations, &topology(&[("a", 1, &[("y", 2)]), ("c", 3, &[])]));
    assert_eq!(sent, "UNREGISTER a x\nUNREGISTER b\n");
    assert_eq!(send_all(&mut registrations, &topology(&[])), "UNREGISTER a y\nUNREGISTER a\nUNREGISTER c\n");
}

#[test]
fn recreated_name_is_unregistered_and_registered_again() {
    let mut registrations = Registrations::default();
    send_all(&mut registrations, &topology(&[("a", 1, &[("x", 1)]), ("b", 2, &[("x", 2), ("y", 3)])]));
    let sent =
        send_all(&mut registrations, &topology(&[("a", 9, &[("x", 8)]), ("b", 2, &[("x", 7), ("y", 3)])]));
    assert_eq!(sent, "UNREGISTER a x\nUNREGISTER a\nUNREGISTER b x\nREGISTER a x\nREGISTER b x\n");
}

#[test]
fn ephemeral_names_deleted_while_disconnected_are_unregistered() {
    let mut registrations = Registrations::default();
    send_all(
        &mut registrations,
        &topology(&[("a", 1, &[("x", 1), ("e#ephemeral", 2)]), ("t#ephemeral", 2, &[])]),
    );
    registrations.disconnected(false);
    let sent = send_all(&mut registrations, &topology(&[("b", 3, &[])]));
    assert_eq!(sent, "UNREGISTER a e#ephemeral\nUNREGISTER t#ephemeral\nREGISTER b\n");
    registrations.disconnected(false);
    assert_eq!(send_all(&mut registrations, &topology(&[])), "");
}

#[test]
fn ephemeral_name_replaced_while_the_connection_breaks_is_unregistered() {
    let mut registrations = Registrations::default();
    send_all(&mut registrations, &topology(&[("t#ephemeral", 1, &[])]));
    let replaced = topology(&[("t#ephemeral", 2, &[])]);
    let steps = registrations.plan(&replaced);
    assert_eq!(lines(&steps), "UNREGISTER t#ephemeral\n");
    registrations.confirmed(&steps[0]);
    let steps = registrations.plan(&replaced);
    registrations.sending(&steps);
    registrations.disconnected(false);
    assert_eq!(send_all(&mut registrations, &topology(&[])), "UNREGISTER t#ephemeral\n");
}

#[test]
fn name_refused_twice_does_not_block_other_names() {
    let mut registrations = Registrations::default();
    let all = topology(&[("a", 1, &[("x", 1)]), ("b", 2, &[])]);
    for _ in 0..MAX_REFUSALS {
        let steps = registrations.plan(&all);
        assert_eq!(lines(&steps), "REGISTER a x\nREGISTER b\n");
        registrations.refused(&steps[0], b"E_BAD_CHANNEL REGISTER channel name 'x' is not valid");
        registrations.disconnected(true);
    }
    assert_eq!(send_all(&mut registrations, &all), "REGISTER a\nREGISTER b\n");
    // A new connection may reach a newer nsqlookupd.
    registrations.disconnected(false);
    assert_eq!(send_all(&mut registrations, &all), "REGISTER a x\nREGISTER b\n");
}

#[test]
fn refused_topic_is_not_tried_with_its_channels() {
    let mut registrations = Registrations::default();
    let all = topology(&[("a", 1, &[("x", 1), ("y", 2)])]);
    for _ in 0..MAX_REFUSALS {
        let steps = registrations.plan(&all);
        registrations.refused(&steps[0], b"E_BAD_TOPIC REGISTER topic name 'a' is not valid");
        registrations.disconnected(true);
    }
    assert_eq!(registrations.plan(&all), []);
    registrations.plan(&topology(&[]));
    assert_eq!(
        lines(&registrations.plan(&topology(&[("a", 2, &[])]))),
        "REGISTER a\n",
        "deleting the topic clears its refusals"
    );
}

/// nsqlookupd's registration database: the known names, and whether this node is listed for each.
#[derive(Default)]
struct Model(BTreeMap<Registration, bool>);

impl Model {
    fn apply(&mut self, command: LookupCommand) {
        match command {
            LookupCommand::Register { topic, channel } => {
                if channel.is_some() {
                    self.0.insert((topic.clone(), channel), true);
                }
                self.0.insert((topic, None), true);
            }
            LookupCommand::Unregister { topic, channel: Some(channel) } => {
                let is_ephemeral = channel.is_ephemeral();
                self.remove((topic, Some(channel)), is_ephemeral);
            }
            LookupCommand::Unregister { topic, channel: None } => {
                self.0.iter_mut().filter(|((of, _), _)| *of == topic).for_each(|(_, listed)| *listed = false);
                let is_ephemeral = topic.is_ephemeral();
                self.remove((topic, None), is_ephemeral);
            }
            other => panic!("{other:?}"),
        }
    }

    fn remove(&mut self, registration: Registration, is_ephemeral: bool) {
        if is_ephemeral {
            self.0.remove(&registration);
        } else if let Some(listed) = self.0.get_mut(&registration) {
            *listed = false;
        }
    }

    fn disconnect(&mut self) {
        self.0.values_mut().for_each(|listed| *listed = false);
    }

    fn listed(&self) -> BTreeSet<Registration> {
        self.0.iter().filter(|(_, listed)| **listed).map(|(name, _)| name.clone()).collect()
    }
}

fn names(topology: &Topology) -> BTreeSet<Registration> {
    let of_topic = |(topic, entry): (&TopicName, &TopicEntry)| {
        let channels = entry.channels.keys().cloned().map(Some);
        std::iter::once(None).chain(channels).map(|channel| (topic.clone(), channel)).collect::<Vec<_>>()
    };
    topology.0.iter().flat_map(of_topic).collect()
}

#[derive(Debug, Clone)]
enum Event {
    CreateTopic(usize),
    CreateChannel(usize, usize),
    DeleteTopic(usize),
    DeleteChannel(usize, usize),
    /// An operator deletes a topic at the nsqlookupd and on the node, and a publisher recreates it.
    Replace(usize),
    /// The first steps of the plan take effect, some of them are answered, then the connection breaks.
    Break {
        effective: usize,
        answered: usize,
    },
    /// All steps of the plan are answered.
    SendAll,
}

fn event() -> impl Strategy<Value = Event> {
    let (topic, channel) = (0..TOPICS.len(), 0..CHANNELS.len());
    prop_oneof![
        topic.clone().prop_map(Event::CreateTopic),
        (topic.clone(), channel.clone()).prop_map(|(t, c)| Event::CreateChannel(t, c)),
        topic.clone().prop_map(Event::DeleteTopic),
        (topic.clone(), channel).prop_map(|(t, c)| Event::DeleteChannel(t, c)),
        topic.prop_map(Event::Replace),
        (0..6usize, 0..6usize).prop_map(|(effective, answered)| Event::Break { effective, answered }),
        Just(Event::SendAll),
    ]
}

const TOPICS: [&str; 3] = ["a", "b", "c#ephemeral"];
const CHANNELS: [&str; 3] = ["x", "y#ephemeral", "z"];

proptest! {
    #[test]
    fn nsqlookupd_lists_exactly_the_existing_names(events in proptest::collection::vec(event(), 0..40)) {
        let mut node = Topology::default();
        let mut next_number = 0;
        let mut number = || { next_number += 1; next_number };
        let mut registrations = Registrations::default();
        let mut model = Model::default();
        for event in events.into_iter().chain([Event::SendAll]) {
            match event {
                Event::CreateTopic(t) => {
                    node.0.entry(topic(TOPICS[t])).or_insert_with(|| TopicEntry { number: TopicNumber(number()), ..Default::default() });
                }
                Event::CreateChannel(t, c) => if let Some(entry) = node.0.get_mut(TOPICS[t]) {
                    entry.channels.entry(channel(CHANNELS[c])).or_insert_with(|| ChannelNumber(number()));
                },
                Event::DeleteTopic(t) => drop(node.0.remove(TOPICS[t])),
                Event::DeleteChannel(t, c) => if let Some(entry) = node.0.get_mut(TOPICS[t]) {
                    entry.channels.remove(CHANNELS[c]);
                },
                Event::Replace(t) => if let Some(entry) = node.0.get_mut(TOPICS[t]) {
                    model.0.retain(|(of, _), _| of.as_str() != TOPICS[t]);
                    *entry = TopicEntry { number: TopicNumber(number()), ..Default::default() };
                },
                Event::Break { mut effective, mut answered } => {
                    loop {
                        let steps = registrations.plan(&node);
                        registrations.sending(&steps);
                        for step in steps.iter().take(effective) {
                            model.apply(step.command());
                        }
                        for step in steps.iter().take(answered.min(effective)) {
                            registrations.confirmed(step);
                        }
                        if steps.is_empty() || steps.len() > effective.min(answered) {
                            break;
                        }
                        (effective, answered) = (effective - steps.len(), answered - steps.len());
                    }
                    model.disconnect();
                    registrations.disconnected(false);
                }
                Event::SendAll => {
                    for _ in 0..2 {
                        let steps = registrations.plan(&node);
                        registrations.sending(&steps);
                        for step in &steps {
                            model.apply(step.command());
                            registrations.confirmed(step);
                        }
                    }
                    prop_assert_eq!(registrations.plan(&node), []);
                    prop_assert_eq!(model.listed(), names(&node));
                    let leaked = |(topic, channel): &&Registration| match channel {
                        Some(channel) => channel.is_ephemeral(),
                        None => topic.is_ephemeral(),
                    };
                    for name in model.0.keys().filter(leaked) {
                        prop_assert!(node.has(name), "{:?} is still registered", name);
                    }
                }
            }
        }
    }
}
