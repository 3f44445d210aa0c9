//! Bounds of topics and channels: applying the settings, refusing publishes, and dropping what a topic holds back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bounds::{TopicFull, smallest};
use super::{State, Topic};
use crate::channel::Channel;
use crate::channel::gauge::Gauge;
use crate::log::sizes::Amount;
use crate::policy::bounds::{Bound, Overflow};
use crate::storage::record::Record;

impl Topic {
    /// Applies the bounds that are in force now to the topic and all its channels.
    pub(super) fn update_bounds(&self, state: &State) {
        let sources = self.engine.policy_sources();
        let of_topic = sources.of_topic(self.name.as_str(), state.topic.own()).bound;
        let channels: Vec<(&Arc<Channel>, Bound)> =
            state.topic.channels().values().map(|channel| (channel, channel.bound())).collect();
        let bytes = channels.iter().map(|(_, bound)| bound.max_bytes);
        let smallest = bytes.fold(of_topic.max_bytes, smallest);
        self.log.set_smallest_size(smallest);
        let gauges: Vec<Option<Arc<Gauge>>> =
            channels.iter().map(|(channel, bound)| gauge_of(channel, *bound)).collect();
        // Without channels, no dead-letter topic is known.
        let has_gauge = !of_topic.is_off() && of_topic.overflow != Overflow::DropOldest;
        let of_held = has_gauge.then(|| Arc::new(Gauge::new(None, of_topic)));
        // Until `update_gauge` below, it knows nothing.
        if let Some(gauge) = &of_held {
            gauge.set_on(false);
        }
        // Before publishes are checked against them.
        for ((channel, _), gauge) in channels.iter().zip(&gauges) {
            channel.apply_bound(gauge.clone());
        }
        self.bounds.replace(of_topic, of_held, smallest, gauges.into_iter().flatten().collect());
        self.update_gauge(state);
        if channels.iter().any(|(channel, bound)| bound.sheds() || channel.expires_when_idle()) {
            self.engine.upkeep_hints.set_watches_channels();
        }
    }

    /// Applies the bound of a new channel.
    pub(super) fn bound_channel(&self, channel: &Arc<Channel>) {
        let bound = channel.bound();
        if bound.sheds() || channel.expires_when_idle() {
            self.engine.upkeep_hints.set_watches_channels();
        }
        if bound.is_off() {
            return;
        }
        self.log.set_smallest_size(self.bounds.note_bytes(bound.max_bytes));
        let gauge = gauge_of(channel, bound);
        channel.apply_bound(gauge.clone());
        gauge.into_iter().for_each(|gauge| self.bounds.add(gauge));
    }

    /// Applies the bounds of a new or recovered topic.
    pub(super) fn note_bounds(&self) {
        self.update_bounds(&self.state.lock());
    }

    /// Refuses a publish for which a channel has no room. Call it under the log's lock, with the sequence number that the
    /// first message gets.
    #[inline]
    pub(super) fn admit(
        &self,
        first_sequence: u64,
        count: usize,
        body_bytes: usize,
    ) -> Result<(), Box<TopicFull>> {
        if !self.bounds.are_on() {
            return Ok(());
        }
        let more = Amount { messages: count as u64, bytes: body_bytes as u64 };
        self.bounds.admit(self.amount_before(first_sequence), more).map_err(Box::new)
    }

    /// Messages and bytes before the end of the log.
    fn amount_before(&self, end: u64) -> Amount {
        Amount { messages: end, bytes: self.log.with_sizes(|sizes| sizes.total()) }
    }

    /// What the topic holds back has changed, or whether it holds messages back.
    #[inline]
    pub(super) fn update_gauge(&self, state: &State) {
        if self.bounds.are_on() {
            self.set_gauge(state);
        }
    }

    fn set_gauge(&self, state: &State) {
        if let Some(gauge) = self.bounds.topic_gauge() {
            let released = state.topic.point().released();
            let bytes = self.log.with_sizes(|sizes| sizes.before(released));
            gauge.set(Amount::default(), Amount { messages: released, bytes });
            // While it releases messages, those beyond the release point only wait for their commit.
            gauge.set_on(!state.topic.point().is_releasing());
        }
    }

    /// Drops the oldest messages that the topic holds back beyond its bound. Call it when some were committed.
    pub(super) fn shed_held(&self, state: &mut State) {
        let point = state.topic.point();
        if point.is_releasing() {
            return;
        }
        let bound = self.bounds.of_topic();
        let (from, committed) = (point.released(), point.committed());
        if bound.is_off() || bound.overflow != Overflow::DropOldest {
            return;
        }
        let by_count = match bound.max_depth {
            0 => from,
            most => committed.saturating_sub(most).max(from),
        };
        let by_bytes = match bound.max_bytes {
            0 => from,
            most => self.log.with_sizes(|sizes| {
                let excess = sizes.between(from, committed).saturating_sub(most);
                if excess == 0 { from } else { sizes.sequence_at(sizes.before(from) + excess) }
            }),
        };
        let to = by_count.max(by_bytes).min(committed);
        if from >= to {
            return;
        }
        state.topic.skip(from, to);
        self.floor.store(to, Ordering::Release);
        self.overflow_count.fetch_add(to - from, Ordering::Relaxed);
        if let Some(journal) = self.engine.journal_for(self.name.is_ephemeral()) {
            journal.append_lazy(&Record::TopicSkipped { topic: self.number, from, to });
        }
        self.log.trim();
    }

    /// Messages that the topic dropped since the start, because it held back too many.
    pub fn overflow_count(&self) -> u64 {
        self.overflow_count.load(Ordering::Relaxed)
    }

    /// Whether publishes are refused because of this channel.
    pub fn is_full(&self, channel: &str) -> bool {
        self.bounds.are_on() && self.bounds.is_full(channel, self.amount_before(self.log.end()))
    }
}

/// How much a channel may hold beyond its bound until its messages have become dead letters.
const SLACK: Amount = Amount { messages: 10_000, bytes: 64 << 20 };

fn gauge_of(channel: &Channel, bound: Bound) -> Option<Arc<Gauge>> {
    let name = channel.name().clone();
    match bound.overflow {
        _ if bound.is_off() => None,
        Overflow::Reject => Some(Arc::new(Gauge::new(Some(name), bound))),
        Overflow::DeadLetter => Some(Arc::new(Gauge::with_slack(name, bound, SLACK))),
        Overflow::DropOldest => None,
    }
}
