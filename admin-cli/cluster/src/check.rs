//! Pure: figures that a monitoring system checks against its own limits, besides the problem rules.

use std::fmt;

use serde::Serialize;

use crate::problems::{Place, Severity};
use crate::snapshot::{Reach, Snapshot};

/// A figure to check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Messages that can be handed out, per channel.
    Depth,
    /// Seconds since the oldest unfinished message was published, per channel.
    Age,
    /// Messages published per second, per topic.
    Rate,
    /// Consumers per channel.
    Clients,
    /// Milliseconds for a small request, per node.
    Rtt,
    /// Free disk space in percent, per node.
    Disk,
}

/// The limits of a check.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// The limit of a warning.
    pub warn: Option<f64>,
    /// The limit of a critical state.
    pub crit: Option<f64>,
}

/// A figure with its verdict.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// What was measured.
    pub measure: Measure,
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// The figure.
    pub value: f64,
    /// `None` if it is within the limits.
    pub severity: Option<Severity>,
}

/// Which topics and channels to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only this topic.
    pub topic: Option<String>,
    /// Only channels of this name.
    pub channel: Option<String>,
}

impl Selection {
    /// Whether everything is selected.
    pub fn is_all(&self) -> bool {
        self.topic.is_none() && self.channel.is_none()
    }

    /// Whether a place is selected. Nodes and nsqlookupds belong to no topic.
    pub fn covers(&self, place: &Place) -> bool {
        let fits =
            |wanted: &Option<String>, name: Option<&str>| wanted.as_deref().is_none_or(|w| name == Some(w));
        fits(&self.topic, place.topic.as_deref()) && fits(&self.channel, place.channel.as_deref())
    }
}

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 6] =
        [Measure::Depth, Measure::Age, Measure::Rate, Measure::Clients, Measure::Rtt, Measure::Disk];

    /// Its name in `nsq check`.
    pub fn as_str(self) -> &'static str {
        match self {
            Measure::Depth => "depth",
            Measure::Age => "age",
            Measure::Rate => "rate",
            Measure::Clients => "clients",
            Measure::Rtt => "rtt",
            Measure::Disk => "disk",
        }
    }

    /// The measure of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.as_str() == name)
    }

    /// The unit, as monitoring systems write it.
    pub fn unit(self) -> &'static str {
        match self {
            Measure::Age => "s",
            Measure::Rtt => "ms",
            Measure::Disk => "%",
            Measure::Depth | Measure::Rate | Measure::Clients => "",
        }
    }

    /// Whether small figures are bad, so that a limit is the least value that is good.
    pub fn is_low_bad(self) -> bool {
        matches!(self, Measure::Rate | Measure::Clients | Measure::Disk)
    }

    /// How bad a figure is. A limit itself is still good.
    pub fn judge(self, value: f64, limits: Limits) -> Option<Severity> {
        let exceeds = |limit: Option<f64>| {
            limit.is_some_and(|limit| if self.is_low_bad() { value < limit } else { value > limit })
        };
        match () {
            () if exceeds(limits.crit) => Some(Severity::Critical),
            () if exceeds(limits.warn) => Some(Severity::Warning),
            () => None,
        }
    }

    /// The figures of a snapshot. A figure that no daemon reports is missing.
    pub fn measure(self, snapshot: &Snapshot, selection: &Selection, limits: Limits) -> Vec<Measured> {
        let figures: Vec<(Place, f64)> = match self {
            Measure::Rtt | Measure::Disk => snapshot
                .nodes
                .iter()
                .filter(|node| node.reach != Reach::Down)
                .filter_map(|node| {
                    let value = match self {
                        Measure::Rtt => node.round_trip?.as_secs_f64() * 1000.0,
                        _ => {
                            let storage = node.storage.filter(|storage| storage.size_bytes > 0)?;
                            100.0 * storage.free_bytes as f64 / storage.size_bytes as f64
                        }
                    };
                    Some((Place { nodes: vec![node.address.clone()], ..Place::default() }, value))
                })
                .collect(),
            Measure::Rate => snapshot
                .topics
                .iter()
                .filter_map(|topic| {
                    let place = Place { topic: Some(topic.name.clone()), ..Place::default() };
                    Some((place, topic.sum.rates?.ingress.into()))
                })
                .collect(),
            Measure::Depth | Measure::Age | Measure::Clients => snapshot
                .topics
                .iter()
                .flat_map(|topic| topic.channels.iter().map(move |channel| (topic, channel)))
                .filter_map(|(topic, channel)| {
                    let value = match self {
                        Measure::Depth => channel.sum.depth as f64,
                        Measure::Clients => channel.sum.client_count as f64,
                        _ => channel.sum.oldest_age?.as_secs_f64(),
                    };
                    let (topic, channel) = (Some(topic.name.clone()), Some(channel.name.clone()));
                    Some((Place { topic, channel, ..Place::default() }, value))
                })
                .collect(),
        };
        let is_of_nodes = matches!(self, Measure::Rtt | Measure::Disk);
        // A topic has its rate whatever channel is meant.
        let selection = match self {
            Measure::Rate => &Selection { channel: None, ..selection.clone() },
            _ => selection,
        };
        figures
            .into_iter()
            .filter(|(place, _)| is_of_nodes || selection.covers(place))
            .map(|(place, value)| {
                let severity = self.judge(value, limits);
                Measured { measure: self, place, value, severity }
            })
            .collect()
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.value.fract() == 0.0 {
            format!("{:.0}", self.value)
        } else {
            format!("{:.1}", self.value)
        };
        write!(f, "{} of {} is {value}{}", self.measure, self.place, self.measure.unit())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::snapshot::{ChannelFigures, ChannelView, Rates, TopicFigures, TopicView};

    fn snapshot() -> Snapshot {
        let channel = |name: &str, depth, client_count| ChannelView {
            name: name.into(),
            sum: ChannelFigures { depth, client_count, ..ChannelFigures::default() },
            parts: Vec::new(),
        };
        let topic = |name: &str, ingress, channels| TopicView {
            name: name.into(),
            sum: TopicFigures {
                rates: Some(Rates { ingress, ..Rates::default() }),
                ..TopicFigures::default()
            },
            parts: Vec::new(),
            channels,
        };
        let topics = vec![
            topic("a", 5.0, vec![channel("c", 100, 1), channel("d", 101, 0)]),
            topic("b", 0.5, vec![channel("c", 7, 2)]),
        ];
        Snapshot { topics, ..Snapshot::empty(Duration::from_secs(1)) }
    }

    fn verdicts(measure: Measure, selection: &Selection, warn: f64, crit: f64) -> Vec<String> {
        let limits = Limits { warn: Some(warn), crit: Some(crit) };
        let measured = measure.measure(&snapshot(), selection, limits);
        let bad = measured.iter().filter_map(|measured| {
            measured.severity.map(|severity| format!("{severity} {}", measured.place))
        });
        bad.collect()
    }

    #[test]
    fn limits_are_upper_or_lower_ones_by_measure() {
        let all = Selection::default();
        assert_eq!(verdicts(Measure::Depth, &all, 50.0, 100.0), ["warn a/c", "crit a/d"]);
        assert_eq!(verdicts(Measure::Clients, &all, 2.0, 1.0), ["warn a/c", "crit a/d"]);
        assert_eq!(verdicts(Measure::Rate, &all, 5.0, 0.5), ["warn b"]);
        assert_eq!(verdicts(Measure::Rtt, &all, 1.0, 1.0), Vec::<String>::new());
    }

    #[test]
    fn selection_limits_topics_and_channels() {
        let only = |topic: Option<&str>, channel: Option<&str>| Selection {
            topic: topic.map(str::to_owned),
            channel: channel.map(str::to_owned),
        };
        assert_eq!(verdicts(Measure::Depth, &only(Some("a"), None), 0.0, 500.0), ["warn a/c", "warn a/d"]);
        assert_eq!(verdicts(Measure::Depth, &only(None, Some("c")), 0.0, 500.0), ["warn a/c", "warn b/c"]);
        assert_eq!(verdicts(Measure::Rate, &only(Some("b"), Some("c")), 5.0, 0.0), ["warn b"]);
    }

    #[test]
    fn measures_have_names() {
        for measure in Measure::ALL {
            assert_eq!(Measure::parse(measure.as_str()), Some(measure));
        }
        let place = Place { topic: Some("t".into()), ..Place::default() };
        let measured = Measured { measure: Measure::Age, place, value: 1.5, severity: None };
        assert_eq!(measured.to_string(), "age of t is 1.5s");
    }
}
