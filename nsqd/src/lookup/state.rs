//! Compares the node's topics with the registrations at one nsqlookupd, and plans the commands. Pure.
//!
//! ```text
//!   Topology (what this node has)  ──┐
//!                                    ├─ plan ─▶ steps ─ sending ─▶ OK: confirmed    error: refused
//!   Registrations (what it knows)  ──┘              lost connection: disconnected, then plan again
//! ```
//!
//! Topics and channels are compared by name *and* number. A topic that was deleted and recreated in between is
//! unregistered and registered again, because the operator may have deleted it at the nsqlookupd too.

use std::collections::{BTreeMap, BTreeSet};

use nsq_protocol::{ChannelName, LookupCommand, TopicName};

use crate::storage::{ChannelNumber, TopicNumber};

/// The topics and channels of this node, including ephemeral ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Topology(pub BTreeMap<TopicName, TopicEntry>);

/// A topic with its channels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TopicEntry {
    pub number: TopicNumber,
    pub channels: BTreeMap<ChannelName, ChannelNumber>,
}

impl Topology {
    fn has(&self, (topic, channel): &Registration) -> bool {
        let Some(entry) = self.0.get(topic) else { return false };
        channel.as_ref().is_none_or(|channel| entry.channels.contains_key(channel))
    }
}

/// A topic, or a channel of it.
pub(super) type Registration = (TopicName, Option<ChannelName>);

/// One command, with the registration to remember after OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Registering a channel also registers its topic.
    Register {
        topic: (TopicName, TopicNumber),
        channel: Option<(ChannelName, ChannelNumber)>,
    },
    Unregister(Registration),
}

impl Step {
    pub fn command(&self) -> LookupCommand {
        let (topic, channel) = self.registration();
        match self {
            Step::Register { .. } => LookupCommand::Register { topic, channel },
            Step::Unregister(_) => LookupCommand::Unregister { topic, channel },
        }
    }

    fn registration(&self) -> Registration {
        match self {
            Step::Register { topic, channel } => {
                (topic.0.clone(), channel.as_ref().map(|(name, _)| name.clone()))
            }
            Step::Unregister(registration) => registration.clone(),
        }
    }
}

/// After this number of refusals a name is not registered again: every error closes the connection and drops all other
/// registrations.
const MAX_REFUSALS: u32 = 2;

/// The registrations at one nsqlookupd.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    /// Answered by OK on the current connection.
    confirmed: Topology,
    /// Ephemeral names that nsqlookupd may remember, from this connection or an earlier one. It keeps them when a
    /// connection breaks, so names deleted in the meantime are unregistered on the next connection.
    ephemeral: BTreeSet<Registration>,
    /// Number of refusals of each name.
    refusals: BTreeMap<Registration, u32>,
}

impl Registrations {
    /// Returns the steps to send now, in this order; empty if nsqlookupd knows `topology`. Call it again once all steps
    /// are answered.
    ///
    /// Unregister steps come first and alone, so that no batch unregisters and registers the same name. In such a batch
    /// the first answer would mark an ephemeral name as forgotten, while a lost second answer may leave it registered.
    pub fn plan(&mut self, topology: &Topology) -> Vec<Step> {
        self.refusals.retain(|registration, _| topology.has(registration));
        let mut steps = Vec::new();
        self.plan_gone(topology, &mut steps);
        self.plan_forgotten(topology, &mut steps);
        if steps.is_empty() {
            self.plan_new(topology, &mut steps);
        }
        steps
    }

    /// Unregisters deleted names. Channels come before their topic: UNREGISTER of a topic keeps the names of its
    /// ephemeral channels.
    fn plan_gone(&self, topology: &Topology, steps: &mut Vec<Step>) {
        for (topic, known) in &self.confirmed.0 {
            let present = topology.0.get(topic).filter(|entry| entry.number == known.number);
            for (channel, number) in &known.channels {
                if present.and_then(|entry| entry.channels.get(channel)) != Some(number) {
                    steps.push(Step::Unregister((topic.clone(), Some(channel.clone()))));
                }
            }
            if present.is_none() {
                steps.push(Step::Unregister((topic.clone(), None)));
            }
        }
    }

    /// Unregisters ephemeral names that were deleted without a connection.
    fn plan_forgotten(&self, topology: &Topology, steps: &mut Vec<Step>) {
        let is_forgotten = |name: &&Registration| !topology.has(name) && !self.confirmed.has(name);
        steps.extend(self.ephemeral.iter().filter(is_forgotten).cloned().map(Step::Unregister));
    }

    /// Registers new names.
    fn plan_new(&self, topology: &Topology, steps: &mut Vec<Step>) {
        for (topic, entry) in &topology.0 {
            if self.is_refused(topic, None) {
                continue;
            }
            let known = self.confirmed.0.get(topic).filter(|known| known.number == entry.number);
            let mut is_known = known.is_some();
            for (channel, number) in &entry.channels {
                if known.and_then(|known| known.channels.get(channel)) != Some(number)
                    && !self.is_refused(topic, Some(channel))
                {
                    let channel = Some((channel.clone(), *number));
                    steps.push(Step::Register { topic: (topic.clone(), entry.number), channel });
                    is_known = true;
                }
            }
            if !is_known {
                steps.push(Step::Register { topic: (topic.clone(), entry.number), channel: None });
            }
        }
    }

    fn is_refused(&self, topic: &TopicName, channel: Option<&ChannelName>) -> bool {
        !self.refusals.is_empty()
            && self
                .refusals
                .get(&(topic.clone(), channel.cloned()))
                .is_some_and(|&count| count >= MAX_REFUSALS)
    }

    /// Records steps before they are sent: they may take effect even without an answer.
    pub fn sending(&mut self, steps: &[Step]) {
        for step in steps {
            let Step::Register { topic: (topic, _), channel } = step else { continue };
            if topic.is_ephemeral() {
                self.ephemeral.insert((topic.clone(), None));
            }
            if let Some((channel, _)) = channel.as_ref().filter(|(name, _)| name.is_ephemeral()) {
                self.ephemeral.insert((topic.clone(), Some(channel.clone())));
            }
        }
    }

    /// Records a step that was answered by OK.
    pub fn confirmed(&mut self, step: &Step) {
        match step {
            Step::Register { topic: (topic, number), channel } => {
                let entry = self.confirmed.0.entry(topic.clone()).or_default();
                entry.number = *number;
                entry.channels.extend(channel.clone());
            }
            Step::Unregister(registration) => {
                self.ephemeral.remove(registration);
                match registration {
                    (topic, None) => drop(self.confirmed.0.remove(topic)),
                    (topic, Some(channel)) => {
                        if let Some(entry) = self.confirmed.0.get_mut(topic) {
                            entry.channels.remove(channel);
                        }
                    }
                }
            }
        }
    }

    /// Records a step that was answered by an error; nsqlookupd then closes the connection.
    pub fn refused(&mut self, step: &Step, error: &[u8]) {
        if matches!(step, Step::Register { .. }) {
            let (topic, channel) = step.registration();
            // If nsqlookupd refuses the topic, it would refuse the topic's other channels too.
            let channel = channel.filter(|_| !error.starts_with(b"E_BAD_TOPIC"));
            *self.refusals.entry((topic, channel)).or_default() += 1;
        }
    }

    /// Records a closed connection, which drops all registrations. Unless a refusal closed it, forgets refusals: the
    /// next connection may reach another or a newer nsqlookupd.
    pub fn disconnected(&mut self, by_refusal: bool) {
        self.confirmed = Topology::default();
        if !by_refusal {
            self.refusals.clear();
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
