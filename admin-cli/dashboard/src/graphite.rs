//! The keys under which nsqd reports to statsd, as targets of Graphite. Pure.

/// Formats of the keys, from the flags.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    pub(crate) prefix: String,
    pub(crate) counter_format: String,
    pub(crate) gauge_format: String,
}

/// What a key is about.
#[derive(Debug, Clone, Copy)]
pub enum Scope<'a> {
    /// A topic on all nodes, or on one (`broadcast_address:http_port`).
    Topic(&'a str),
    /// A channel of a topic.
    Channel(&'a str, &'a str),
    /// The memory of a node.
    Memory,
}

/// How statsd treats a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Keys {
    /// The target of a metric; `node` is `None` for the sum over all nodes.
    pub fn target(&self, scope: Scope<'_>, node: Option<&str>, metric: &str) -> String {
        let host = node.map_or_else(|| "*".to_owned(), |node| node.replace(['.', ':'], "_"));
        let scope = match scope {
            Scope::Topic(topic) => format!("topic.{}.", clean(topic)),
            Scope::Channel(topic, channel) => format!("topic.{}.channel.{}.", clean(topic), clean(channel)),
            Scope::Memory => "mem.".to_owned(),
        };
        let key = format!("{}.{scope}{}", self.prefix.replace("%s", &host), metric);
        let format = match kind(metric) {
            Kind::Counter => &self.counter_format,
            Kind::Gauge => &self.gauge_format,
        };
        let key = if format.is_empty() { key } else { format.replace("%s", &key) };
        format!("sumSeries({key})")
    }
}

/// Whether nsqd reports a metric as counter or as gauge.
fn kind(metric: &str) -> Kind {
    match metric {
        "message_count" | "requeue_count" | "timeout_count" | "gc_runs" => Kind::Counter,
        _ => Kind::Gauge,
    }
}

/// A name as statsd writes it: spaces become `_`, slashes `-`, other special characters are dropped.
fn clean(name: &str) -> String {
    let mapped = name.chars().map(|c| match c {
        ' ' => '_',
        '/' => '-',
        c => c,
    });
    mapped.filter(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(c)).collect()
}

/// The graph of a target.
pub fn graph(
    target: &str,
    seconds: u64,
    interval: &str,
    width: u32,
    height: u32,
) -> Vec<(&'static str, String)> {
    vec![
        ("target", format!(r#"summarize({target},"{seconds}sec","avg")"#)),
        ("from", format!("-{interval}")),
        ("until", "-1min".to_owned()),
        ("width", width.to_string()),
        ("height", height.to_string()),
        ("hideLegend", "true".to_owned()),
        ("bgcolor", "ffffff00".to_owned()),
        ("fgcolor", "888888".to_owned()),
        ("yMin", "0".to_owned()),
        ("lineMode", "connected".to_owned()),
    ]
}

/// The rate of a counter: the first value, divided by the interval. `None` without a value.
pub fn rate(reply: &serde_json::Value, seconds: u64) -> Option<f64> {
    let value = reply.get(0)?.get("datapoints")?.get(0)?.get(0)?.as_f64()?;
    (value >= 0.0).then_some(value / seconds.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys() -> Keys {
        Keys {
            prefix: "nsq.%s".to_owned(),
            counter_format: "stats.counters.%s.count".to_owned(),
            gauge_format: "stats.gauges.%s".to_owned(),
        }
    }

    #[test]
    fn targets_are_those_of_nsqadmin() {
        assert_eq!(
            keys().target(Scope::Topic("x#ephemeral"), None, "message_count"),
            "sumSeries(stats.counters.nsq.*.topic.xephemeral.message_count.count)"
        );
        assert_eq!(
            keys().target(Scope::Channel("t", "c d/e"), Some("10.0.0.1:4151"), "depth"),
            "sumSeries(stats.gauges.nsq.10_0_0_1_4151.topic.t.channel.c_d-e.depth)"
        );
        assert_eq!(
            keys().target(Scope::Memory, Some("h:1"), "gc_runs"),
            "sumSeries(stats.counters.nsq.h_1.mem.gc_runs.count)"
        );
        let plain = Keys { prefix: "p".to_owned(), ..Keys::default() };
        assert_eq!(plain.target(Scope::Topic("t"), None, "depth"), "sumSeries(p.topic.t.depth)");
    }

    #[test]
    fn rate_needs_a_value() {
        assert_eq!(rate(&json!([{"datapoints": [[600.0, 1]]}]), 60), Some(10.0));
        for none in [json!([]), json!([{"datapoints": []}]), json!([{"datapoints": [[null, 1]]}]), json!({})]
        {
            assert_eq!(rate(&none, 60), None);
        }
        assert_eq!(rate(&json!([{"datapoints": [[-1.0, 1]]}]), 60), None);
    }
}
