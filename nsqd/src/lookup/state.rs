//! Registered versus should be: what to tell one nsqlookupd. Pure.
//!
//! ```text
//!   Topology (what this node has)  ──┐
//!                                    ├─ plan ─▶ steps ─ sending ─▶ OK: confirmed    error: refused
//!   Registrations (what it knows)  ──┘              lost connection: disconnected, then plan anew
//! ```
//!
//! Topics and channels are compared by name *and* number: one that was deleted and made anew between two looks is
//! unregistered and registered again, because whoever deleted it may have deleted it at the nsqlookupd too.

use std::collections::{BTreeMap, BTreeSet};

use nsq_protocol::{ChannelName, LookupCommand, TopicName};

use crate::storage::{ChannelNumber, TopicNumber};

/// The topics and channels of this node, ephemeral ones included.
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

/// One command, with what is to be remembered when it is answered by OK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A channel brings its topic with it.
    Register {
        topic: (TopicName, TopicNumber),
        channel: Option<(ChannelName, ChannelNumber)>,
    },
    Unregister(Registration),
}

impl Step {
    /// How to say it.
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

/// A name that was refused so often is not offered again: every error costs the connection, and with it the
/// registration of everything else.
const MAX_REFUSALS: u32 = 2;

/// What one nsqlookupd has been told.
#[derive(Debug, Default)]
pub(super) struct Registrations {
    /// Confirmed on the present connection.
    confirmed: Topology,
    /// Ephemeral names that it may remember, from this connection or an earlier one. It never forgets them by itself
    /// when a connection breaks, so those deleted meanwhile are unregistered on the next one.
    ephemeral: BTreeSet<Registration>,
    /// How often it has refused to register a name.
    refusals: BTreeMap<Registration, u32>,
}

impl Registrations {
    /// What to send now, in this order; to be asked again when all of it is answered. Nothing if it knows `topology`.
    ///
    /// What is to be unregistered comes first, and alone: so no name is unregistered and registered in one go, where
    /// the first answer would say that it is forgotten and a lost second one that it may not be.
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

    /// What was deleted. Channels go before their topic: UNREGISTER of a topic leaves the names of its ephemeral
    /// channels behind.
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

    /// What was deleted while there was no connection.
    fn plan_forgotten(&self, topology: &Topology, steps: &mut Vec<Step>) {
        let is_forgotten = |name: &&Registration| !topology.has(name) && !self.confirmed.has(name);
        steps.extend(self.ephemeral.iter().filter(is_forgotten).cloned().map(Step::Unregister));
    }

    /// What was created.
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

    /// These steps are about to be sent: they may have their effect even if no answer comes.
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

    /// A step was answered by OK.
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

    /// A step was answered by an error; after that nsqlookupd closes the connection.
    pub fn refused(&mut self, step: &Step, error: &[u8]) {
        if matches!(step, Step::Register { .. }) {
            let (topic, channel) = step.registration();
            // If it is the topic that it does not like, the topic's other channels need not be tried.
            let channel = channel.filter(|_| !error.starts_with(b"E_BAD_TOPIC"));
            *self.refusals.entry((topic, channel)).or_default() += 1;
        }
    }

    /// The connection is gone, and with it all that was registered. What was refused may be accepted next time,
    /// unless it was the refusal that ended the connection: who answers then may be another, or a newer one.
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
