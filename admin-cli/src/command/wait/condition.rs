//! What `nsq wait` waits for. Pure.

use std::fmt;

use crate::report::TopicReport;

/// The figures of a topic with all its channels, or of one channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that can be delivered.
    pub depth: i64,
    pub in_flight: i64,
    pub deferred: i64,
    /// Connections of consumers.
    pub consumers: i64,
}

impl Figures {
    /// The figures of `channel`, or of the topic with all its channels. `None` if there is no such channel. Messages that
    /// the topic has not released to the channel yet count as its own.
    pub fn of(topic: &TopicReport, channel: Option<&str>) -> Option<Self> {
        let mut figures = Figures { depth: topic.depth, ..Figures::default() };
        let mut is_known = channel.is_none();
        for one in topic.channels.iter().filter(|one| channel.is_none_or(|name| name == one.channel_name)) {
            is_known = true;
            figures.depth += one.depth;
            figures.in_flight += one.in_flight_count;
            figures.deferred += one.deferred_count;
            figures.consumers += one.client_count;
        }
        is_known.then_some(figures)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { depth, in_flight, deferred, consumers } = self;
        write!(f, "depth {depth}, in flight {in_flight}, deferred {deferred}, consumers {consumers}")
    }
}

/// Conditions that must all hold at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Condition {
    /// Nothing is waiting, in flight or deferred.
    pub empty: bool,
    /// Fewer messages than this can be delivered.
    pub depth_under: Option<i64>,
    /// At least this number of connections of consumers.
    pub consumers: Option<i64>,
    /// No connection of a consumer.
    pub no_consumers: bool,
}

impl Condition {
    /// Whether anything is asked for.
    pub fn is_none(&self) -> bool {
        *self == Condition::default()
    }

    /// Whether the topic or channel may be missing as long as the condition does not hold.
    pub fn waits_for_creation(&self) -> bool {
        self.consumers.is_some()
    }

    /// Whether all conditions hold.
    pub fn holds(&self, figures: &Figures) -> bool {
        let Figures { depth, in_flight, deferred, consumers } = *figures;
        (!self.empty || depth + in_flight + deferred == 0)
            && self.depth_under.is_none_or(|limit| depth < limit)
            && self.consumers.is_none_or(|count| consumers >= count)
            && (!self.no_consumers || consumers == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::ChannelReport;

    #[test]
    fn conditions_hold_together() {
        let figures = Figures { depth: 0, in_flight: 1, deferred: 0, consumers: 2 };
        let none = Condition::default();
        assert!(none.is_none() && none.holds(&figures));
        assert!(!Condition { empty: true, ..none }.holds(&figures));
        assert!(Condition { depth_under: Some(1), consumers: Some(2), ..none }.holds(&figures));
        assert!(!Condition { depth_under: Some(0), ..none }.holds(&figures));
        assert!(!Condition { consumers: Some(3), ..none }.holds(&figures));
        assert!(!Condition { no_consumers: true, ..none }.holds(&figures));
        assert!(Condition { empty: true, ..none }.holds(&Figures::default()));
    }

    #[test]
    fn messages_before_their_release_count() {
        let channel = |name: &str, depth| ChannelReport {
            channel_name: name.to_owned(),
            depth,
            ..ChannelReport::default()
        };
        let topic = TopicReport {
            depth: 5,
            channels: vec![channel("a", 1), channel("b", 2)],
            ..TopicReport::default()
        };
        assert_eq!(Figures::of(&topic, None).unwrap().depth, 8);
        assert_eq!(Figures::of(&topic, Some("b")).unwrap().depth, 7);
        assert_eq!(Figures::of(&topic, Some("c")), None);
    }
}
