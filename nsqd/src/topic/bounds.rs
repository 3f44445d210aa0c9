//! Pure: whether a topic has room for a publish: the gauges of its channels that refuse publishes, and how much it may hold
//! back itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nsq_protocol::TOPIC_FULL;
use parking_lot::{Mutex, RwLock};

use crate::channel::gauge::Gauge;
use crate::log::sizes::Amount;
use crate::policy::bounds::Bound;

/// See the module.
#[derive(Debug, Default)]
pub struct Bounds {
    /// Whether there are gauges. Read without the lock, so that other topics pay nothing.
    has_gauges: AtomicBool,
    gauges: RwLock<Vec<Arc<Gauge>>>,
    /// For messages that no channel has received.
    of_topic: Mutex<OfTopic>,
}

#[derive(Debug, Default)]
struct OfTopic {
    bound: Bound,
    /// The smallest `max_bytes` of the topic and its channels; 0 if there is none.
    smallest: u64,
    gauge: Option<Arc<Gauge>>,
}

/// A publish would exceed the bound of a channel, or of a topic without channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFull {
    /// The channel; `None` if the topic itself holds the messages back.
    pub channel: Option<String>,
    pub bound: Bound,
    /// Set if the publish exceeds the bound even of an empty channel.
    pub is_too_large: bool,
}

impl Bounds {
    /// Whether [`Bounds::admit`] may refuse anything.
    #[inline]
    pub fn are_on(&self) -> bool {
        self.has_gauges.load(Ordering::Relaxed)
    }

    /// Replaces everything.
    pub fn replace(
        &self,
        of_topic: Bound,
        gauge: Option<Arc<Gauge>>,
        smallest: u64,
        of_channels: Vec<Arc<Gauge>>,
    ) {
        *self.of_topic.lock() = OfTopic { bound: of_topic, smallest, gauge: gauge.clone() };
        let mut gauges = self.gauges.write();
        *gauges = of_channels.into_iter().chain(gauge).collect();
        self.has_gauges.store(!gauges.is_empty(), Ordering::Relaxed);
    }

    /// Adds the gauge of a channel.
    pub fn add(&self, gauge: Arc<Gauge>) {
        // Before that of the topic, so that errors name a channel if there is one.
        self.gauges.write().insert(0, gauge);
        self.has_gauges.store(true, Ordering::Relaxed);
    }

    /// Removes the gauge of a channel, if it has one.
    pub fn remove(&self, channel: &str) {
        let mut gauges = self.gauges.write();
        gauges.retain(|gauge| gauge.channel().is_none_or(|name| name.as_str() != channel));
        self.has_gauges.store(!gauges.is_empty(), Ordering::Relaxed);
    }

    /// Takes note of a `max_bytes`. Returns the smallest; 0 if there is none.
    pub fn note_bytes(&self, max_bytes: u64) -> u64 {
        let mut of_topic = self.of_topic.lock();
        of_topic.smallest = smallest(of_topic.smallest, max_bytes);
        of_topic.smallest
    }

    /// The bound for messages that no channel has received.
    pub fn of_topic(&self) -> Bound {
        self.of_topic.lock().bound
    }

    /// The gauge for messages that no channel has received.
    pub fn topic_gauge(&self) -> Option<Arc<Gauge>> {
        self.of_topic.lock().gauge.clone()
    }

    /// Refuses a publish of `more` to a log that ends at `end`, if it is too much for any channel. Call it under the log's
    /// lock, so that two publishes do not both take the last room.
    pub fn admit(&self, end: Amount, more: Amount) -> Result<(), TopicFull> {
        let gauges = self.gauges.read();
        match gauges.iter().find(|gauge| !gauge.admits(end, more)) {
            None => Ok(()),
            Some(full) => Err(TopicFull {
                channel: full.channel().map(ToString::to_string),
                bound: full.bound(),
                is_too_large: full.never_admits(more),
            }),
        }
    }

    /// Whether publishes to a log that ends there are refused because of this channel.
    pub fn is_full(&self, channel: &str, end: Amount) -> bool {
        let is_of = |gauge: &Gauge| gauge.channel().is_some_and(|name| name.as_str() == channel);
        self.gauges.read().iter().any(|gauge| is_of(gauge) && gauge.is_full(end))
    }
}

/// The smaller of two limits; 0 is none.
pub fn smallest(a: u64, b: u64) -> u64 {
    match (a, b) {
        (0, other) | (other, 0) => other,
        (a, b) => a.min(b),
    }
}

impl fmt::Display for TopicFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.channel {
            Some(channel) => write!(f, "{TOPIC_FULL} (channel {channel})")?,
            None => write!(f, "{TOPIC_FULL} (messages held back)")?,
        }
        if self.is_too_large {
            write!(f, ": the batch alone exceeds {}", self.bound)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nsq_protocol::ChannelName;

    use super::*;
    use crate::policy::bounds::Overflow;

    fn gauge(name: &str, max_depth: u64) -> Arc<Gauge> {
        let bound = Bound { max_depth, max_bytes: 0, overflow: Overflow::Reject };
        Arc::new(Gauge::new(Some(ChannelName::new(name).unwrap()), bound))
    }

    fn amount(messages: u64) -> Amount {
        Amount { messages, bytes: 0 }
    }

    #[test]
    fn the_fullest_channel_decides() {
        let bounds = Bounds::default();
        assert!(!bounds.are_on() && bounds.admit(amount(1000), amount(1000)).is_ok());
        bounds.replace(Bound::default(), None, 0, vec![gauge("a", 10)]);
        bounds.add(gauge("b", 5));
        assert!(bounds.are_on() && bounds.admit(amount(0), amount(5)).is_ok());
        let full = bounds.admit(amount(5), amount(1)).unwrap_err();
        assert_eq!((full.to_string().as_str(), full.is_too_large), ("topic full (channel b)", false));
        assert!(bounds.is_full("b", amount(5)) && !bounds.is_full("a", amount(5)));
        let full = bounds.admit(amount(0), amount(11)).unwrap_err();
        assert_eq!(full.to_string(), "topic full (channel b): the batch alone exceeds max_depth=5");
        bounds.remove("b");
        assert!(bounds.admit(amount(5), amount(1)).is_ok());
        bounds.remove("a");
        assert!(!bounds.are_on());
    }

    #[test]
    fn smallest_limit_counts() {
        let bounds = Bounds::default();
        assert_eq!((bounds.note_bytes(0), bounds.note_bytes(7), bounds.note_bytes(9)), (0, 7, 7));
        assert_eq!((smallest(0, 0), smallest(3, 0), smallest(3, 2)), (0, 3, 2));
    }
}
