//! The result of a run: the figures of `--json`, from which the table is made.

use std::time::Duration;

use serde::Serialize;

use super::counters::Flow;
use super::latencies::{Latencies, Quantiles};
use super::node::Node;
use super::phase::Outcome;
use super::plan::{Consume, Mode, Plan, Publish};

/// Lateness of the generator, in milliseconds, above which it may distort the server's latency.
const LATE_MS: f64 = 0.5;

/// The figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub mode: Mode,
    pub nsqd: NodeReport,
    pub topic: String,
    pub channels: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish: Option<Publish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consume: Option<Consume>,
    /// Publishing the backlog, which is not part of the other figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preload: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<Rate>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<LatencyReport>,
    /// Time from the start to the last message.
    pub seconds: f64,
    /// The number of messages in `cpu_us_per_message`: deliveries if the run consumes, otherwise published messages.
    pub messages: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerReport>,
    pub generator: GeneratorReport,
    /// Remarks for the reader of the figures.
    pub remarks: Vec<String>,
}

/// The measured nsqd.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct NodeReport {
    pub tcp: String,
    pub version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
}

/// Messages per time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    pub messages: u64,
    pub seconds: f64,
    pub messages_per_second: f64,
    /// Millions of body bytes per second; `None` if the size of bodies is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub megabytes_per_second: Option<f64>,
    /// Those of the messages that had been handed out before.
    #[serde(skip_serializing_if = "is_zero")]
    pub redelivered: u64,
    /// The server's CPU time per message; only for the backlog, which has its own phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_per_message: Option<f64>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Times from the moment a message was due, in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LatencyReport {
    pub delivered: Quantiles,
    pub acknowledged: Quantiles,
    pub sent: Quantiles,
}

/// The server's use of CPU and memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerReport {
    pub cpu_seconds: f64,
    /// Average number of busy cores.
    pub cores_busy: f64,
    pub cpu_us_per_message: f64,
    pub resident_bytes_before: u64,
    pub resident_bytes_peak: u64,
    pub resident_bytes_after: u64,
}

/// The generator's use of CPU.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GeneratorReport {
    pub cpu_seconds: f64,
    pub cores_busy: f64,
    pub cpu_us_per_message: f64,
    /// Fraction of the time that the busiest thread had the CPU.
    pub busiest_thread: f64,
    /// Whether the figures depend more on the generator than on the server.
    pub is_bottleneck: bool,
}

impl Report {
    /// Computes the figures of a run.
    pub fn new(plan: &Plan, node: &Node, outcome: &Outcome, preload: Option<&Outcome>) -> Self {
        let size = plan.publish.as_ref().map(|publish| publish.size);
        let publishes = plan.publish.is_some() && plan.mode != Mode::Sub;
        let messages =
            if plan.consume.is_some() { outcome.delivered.messages } else { outcome.published.messages };
        let generator = GeneratorReport::new(outcome, messages);
        let server = ServerReport::new(outcome, messages);
        let mut report = Report {
            mode: plan.mode,
            nsqd: NodeReport {
                tcp: plan.tcp.to_string(),
                version: node.version.clone(),
                pid: node.server.as_ref().map(|server| server.pid),
                program: node.server.as_ref().map(|server| server.name.clone()),
            },
            topic: plan.topic.to_string(),
            channels: plan.channels.len(),
            publish: plan.publish.clone(),
            consume: plan.consume.clone(),
            preload: preload.map(|preload| {
                let cpu = ServerReport::new(preload, preload.published.messages);
                Rate {
                    cpu_us_per_message: cpu.map(|cpu| cpu.cpu_us_per_message),
                    ..Rate::new(&preload.published, size)
                }
            }),
            published: publishes.then(|| Rate::new(&outcome.published, size)),
            delivered: plan.consume.is_some().then(|| Rate::new(&outcome.delivered, size)),
            latency_ms: None,
            seconds: outcome.seconds,
            messages,
            server,
            generator,
            remarks: vec![],
        };
        report.judge(plan, outcome);
        report
    }

    /// Adds the histograms of a latency run.
    pub fn with_latencies(mut self, latencies: &Latencies) -> Self {
        let [delivered, acknowledged, sent] =
            [&latencies.delivered, &latencies.acknowledged, &latencies.sent].map(Quantiles::of);
        if sent.p99 > LATE_MS && sent.p99 > delivered.p99 / 2.0 {
            self.generator.is_bottleneck = true;
            let remark = "the generator sent late (see sent): other programs keep the CPU busy";
            self.remarks.push(remark.into());
        }
        self.latency_ms = Some(LatencyReport { delivered, acknowledged, sent });
        self
    }

    fn judge(&mut self, plan: &Plan, outcome: &Outcome) {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let own = Share { busy: self.generator.cores_busy, busiest_thread: self.generator.busiest_thread };
        if let Some(bottleneck) =
            bottleneck(cores as f64, own, self.server.as_ref().map(|server| server.cores_busy))
        {
            self.generator.is_bottleneck = true;
            self.remarks.push(bottleneck.into());
        }
        if let Some(rate) = plan.publish.as_ref().and_then(|publish| publish.rate) {
            let reached = outcome.published.messages as f64 / outcome.published.seconds.max(1e-9);
            // The last message is due one interval before the end.
            if plan.mode != Mode::Latency && outcome.published.seconds > 1.0 && reached < 0.95 * rate {
                self.remarks.push(format!("reached {reached:.0} of the requested {rate} messages/s"));
            }
        }
        let missing = (outcome.published.messages * plan.channels.len() as u64)
            .saturating_sub(outcome.delivered.messages - outcome.delivered.redelivered);
        if plan.mode != Mode::Pub && plan.mode != Mode::Sub && missing > 0 {
            self.remarks.push(format!("{missing} messages did not arrive"));
        }
        let redelivered = outcome.delivered.redelivered;
        if redelivered > 0 {
            self.remarks.push(format!("{redelivered} messages were delivered again"));
        }
        if self.server.is_none() {
            self.remarks
                .push("nsqd's CPU and memory are not known: it is remote, or belongs to another user".into());
        }
    }
}

/// A process's share of the CPU.
#[derive(Clone, Copy, Debug)]
struct Share {
    /// Average number of busy cores.
    busy: f64,
    /// Fraction of the time that its busiest thread had a core.
    busiest_thread: f64,
}

/// Why the generator, not the server, limited the rate; `None` if it did not.
fn bottleneck(cores: f64, own: Share, server: Option<f64>) -> Option<&'static str> {
    let Some(server) = server else {
        let why = "one of the generator's threads was busy all the time: the generator may be the bottleneck";
        return (own.busiest_thread > 0.9).then_some(why);
    };
    let is_full = own.busy + server > 0.9 * cores;
    if is_full && own.busy > server {
        return Some(
            "the CPU was full, and the generator took most of it: rely on CPU per message, not on messages/s",
        );
    }
    // A server that used fewer cores than it could was waiting.
    if !is_full && own.busiest_thread > 0.9 && server < 0.9 {
        return Some(
            "the generator was the bottleneck: one of its threads was busy all the time; use more connections",
        );
    }
    None
}

impl Rate {
    fn new(flow: &Flow, size: Option<usize>) -> Self {
        let messages_per_second = flow.messages as f64 / flow.seconds.max(1e-9);
        Rate {
            messages: flow.messages,
            seconds: flow.seconds,
            messages_per_second,
            megabytes_per_second: size.map(|size| messages_per_second * size as f64 / 1e6),
            redelivered: flow.redelivered,
            cpu_us_per_message: None,
        }
    }
}

impl ServerReport {
    fn new(outcome: &Outcome, messages: u64) -> Option<Self> {
        let (before, after) = outcome.server.as_ref()?;
        let cpu = after.cpu_since(before);
        Some(ServerReport {
            cpu_seconds: cpu.as_secs_f64(),
            cores_busy: cpu.as_secs_f64() / outcome.seconds,
            cpu_us_per_message: per_message(cpu, messages),
            resident_bytes_before: before.resident_bytes,
            resident_bytes_peak: after.peak_bytes.max(before.resident_bytes),
            resident_bytes_after: after.resident_bytes,
        })
    }
}

impl GeneratorReport {
    fn new(outcome: &Outcome, messages: u64) -> Self {
        GeneratorReport {
            cpu_seconds: outcome.own_cpu.as_secs_f64(),
            cores_busy: outcome.own_cpu.as_secs_f64() / outcome.seconds,
            cpu_us_per_message: per_message(outcome.own_cpu, messages),
            busiest_thread: outcome.busiest_cpu.as_secs_f64() / outcome.seconds,
            is_bottleneck: false,
        }
    }
}

fn per_message(cpu: Duration, messages: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / messages.max(1) as f64
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::plan::tests::plan;

    /// A report of one second, with 2 million messages published and delivered to one channel.
    pub fn report(line: &str) -> Report {
        let flow = |messages, seconds| Flow { messages, redelivered: 0, seconds };
        let outcome = Outcome {
            published: flow(2_000_000, 0.5),
            delivered: flow(2_000_000, 1.0),
            seconds: 1.0,
            own_cpu: Duration::from_millis(100),
            busiest_cpu: Duration::from_millis(80),
            server: None,
        };
        Report::new(&plan(line).unwrap(), &Node { version: "1.3.0".into(), server: None }, &outcome, None)
    }

    #[test]
    fn rates_are_per_flow_and_costs_per_delivery() {
        let report = report("pubsub --topic t --batch 200");
        let rate = report.published.unwrap();
        assert_eq!((rate.messages_per_second, rate.megabytes_per_second), (4e6, Some(800.0)));
        assert_eq!(report.delivered.unwrap().messages_per_second, 2e6);
        assert!((report.generator.cpu_us_per_message - 0.05).abs() < 1e-9);
        assert!(report.remarks[0].contains("not known"), "{:?}", report.remarks);
    }

    #[test]
    fn missing_messages_are_reported() {
        let report = report("fanout --topic t --channels 3");
        assert!(report.remarks.contains(&"4000000 messages did not arrive".into()), "{:?}", report.remarks);
    }

    #[test]
    fn json_names_every_figure_with_its_unit() {
        let json = serde_json::to_value(report("pubsub")).unwrap();
        assert_eq!(json["mode"], "pubsub");
        assert_eq!(json["published"]["messages"], 2_000_000);
        assert_eq!(json["publish"]["in_flight"], 100);
        assert_eq!(json["generator"]["cpu_seconds"], 0.1);
        assert!(json.get("server").is_none() && json.get("latency_ms").is_none());
    }

    #[test]
    fn generator_as_bottleneck_is_detected() {
        let own = |busy, busiest_thread| Share { busy, busiest_thread };
        // The machine has idle cores, but a thread of the generator is fully busy.
        assert!(bottleneck(4.0, own(1.0, 0.99), Some(0.5)).is_some());
        // The server's thread is just as busy.
        assert!(bottleneck(4.0, own(1.0, 0.99), Some(1.0)).is_none());
        // The machine is full.
        assert!(bottleneck(2.0, own(1.2, 0.6), Some(0.8)).is_some());
        assert!(bottleneck(2.0, own(0.4, 0.4), Some(1.6)).is_none());
        assert!(bottleneck(2.0, own(0.1, 0.1), Some(0.9)).is_none());
        // A remote server.
        assert!(bottleneck(2.0, own(1.0, 0.95), None).is_some());
        assert!(bottleneck(2.0, own(0.5, 0.5), None).is_none());
    }
}
