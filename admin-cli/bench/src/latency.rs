//! Latency at a fixed rate: `latency`.
//!
//! Messages are sent on schedule, whether earlier ones are answered or not, and the time of each starts when it was
//! *due*. So a stall of one second counts for every message that was due in that second, not only for the one that
//! met the stall. This avoids coordinated omission.

use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nsq::handshake::Purpose;

use super::connection::{Connection, Heartbeats};
use super::consumer::Consumer;
use super::counters::Clock;
use super::failure::Failure;
use super::latencies::{Latencies, Recorder, read_stamp};
use super::node::Node;
use super::open_loop::Stream;
use super::pace::Pace;
use super::phase::{Phase, Target, Work};
use super::plan::{Consume, Plan, Publish};
use super::progress::Progress;
use super::report::Report;

/// Time without progress, after the last publish, after which missing messages are given up.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the benchmark.
pub fn run(plan: &Plan, interrupted: &AtomicBool) -> Result<Report, Failure> {
    let (Some(publish), Some(consume)) = (&plan.publish, &plan.consume) else {
        return Err(Failure::usage("latency needs publishers and consumers"));
    };
    let mut progress = Progress::new();
    let node = Node::find(plan)?;
    node.create_channels(plan)?;
    let latencies = Latencies::default();
    let (mark, start) = (fastrand::u64(..), OnceLock::new());
    let consumers = consumers(plan, consume, mark, &latencies)?;
    let streams: Vec<Stream> = (0..publish.connections).map(|_| Stream::default()).collect();
    let publishers = publishers(plan, publish, mark, &start, &streams, &latencies)?;

    progress.begin(plan.mode.name());
    let target = Target::Published { channels: plan.channels.len() as u64, grace: Some(GRACE) };
    let clock = Clock::start();
    let phase = Phase { clock, publishers, consumers, target, server: node.server.as_ref(), interrupted };
    let outcome = phase.run(&mut progress)?;
    progress.end();
    Ok(Report::new(plan, &node, &outcome, None).with_latencies(&latencies))
}

fn consumers<'a>(
    plan: &Plan,
    consume: &Consume,
    mark: u64,
    latencies: &'a Latencies,
) -> Result<Vec<Work<'a>>, Failure> {
    let mut consumers = Vec::new();
    for channel in plan.channels.iter().flat_map(|channel| std::iter::repeat_n(channel, consume.consumers)) {
        let consumer = Consumer::connect(plan, channel, consume)?;
        let work: Work<'a> = Box::new(move |run| {
            let mut recorder = Recorder::new(&latencies.delivered);
            consumer.run(run, |now_ns, body| {
                if let Some(due_ns) = read_stamp(mark, body) {
                    recorder.record(due_ns, now_ns);
                }
            })
        });
        consumers.push(work);
    }
    Ok(consumers)
}

/// Two threads per connection, one to write and one to read, because a due message must not wait for an answer.
fn publishers<'a>(
    plan: &Plan,
    publish: &Publish,
    mark: u64,
    start: &'a OnceLock<u64>,
    streams: &'a [Stream],
    latencies: &'a Latencies,
) -> Result<Vec<Work<'a>>, Failure> {
    let rate = publish.rate.unwrap_or(1.0);
    let duration = plan.duration.unwrap_or_default();
    let connections = streams.len() as f64;
    let mut works: Vec<Work<'a>> = Vec::new();
    for (index, stream) in streams.iter().enumerate() {
        let (reader, writer) =
            Connection::identified(&plan.tcp, Purpose::Publish, Heartbeats::Off, &plan.security)?
                .0
                .split()?;
        // Together, the connections form one even stream.
        let offset_ns = (index as f64 * 1e9 / rate) as u64;
        let pace = move |now_ns| Pace::new(start.get_or_init(|| now_ns) + offset_ns, rate / connections);
        let count = (duration.as_secs_f64() * rate / connections).ceil() as u64;
        let mut commands = Stream::commands(plan.topic.as_str(), publish.size, mark);
        works.push(Box::new(move |run| {
            let mut recorder = Recorder::new(&latencies.sent);
            stream.write(writer, &mut commands, pace(run.clock.now_ns()), count, run, &mut recorder)
        }));
        works.push(Box::new(move |run| {
            let mut recorder = Recorder::new(&latencies.acknowledged);
            stream.read(reader, pace(run.clock.now_ns()), run, &mut recorder)
        }));
    }
    Ok(works)
}
