//! Maximum throughput: `pub`, `sub`, `pubsub`, `fanout`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::consumer::Consumer;
use super::counters::Clock;
use super::failure::{Cause, Failure};
use super::node::Node;
use super::phase::{Phase, Target, Work};
use super::plan::{Mode, Plan, Publish};
use super::progress::Progress;
use super::publisher::Publisher;
use super::publisher_group::PublisherGroup;
use super::report::Report;

/// Runs the benchmark.
pub fn run(plan: &Plan, interrupted: &AtomicBool) -> Result<Report, Failure> {
    let mut progress = Progress::new();
    let node = Node::find(plan)?;
    node.create_channels(plan)?;
    let phase = |publishers, consumers| {
        let target = target(plan);
        Phase {
            clock: Clock::start(),
            publishers,
            consumers,
            target,
            server: node.server.as_ref(),
            interrupted,
        }
    };

    let mut preload = None;
    if let (Mode::Sub, Some(publish)) = (plan.mode, &plan.publish) {
        progress.begin("preload");
        preload =
            Some(phase(publishers(plan, publish, Some(plan.preload), None)?, vec![]).run(&mut progress)?);
        if interrupted.load(Ordering::Relaxed) {
            return Err(Failure::new(Cause::Interrupted, "interrupted while publishing the backlog"));
        }
    }
    progress.begin(plan.mode.name());
    let publishers = match &plan.publish {
        Some(publish) if plan.mode != Mode::Sub => publishers(plan, publish, plan.messages, plan.duration)?,
        _ => vec![],
    };
    let outcome = phase(publishers, consumers(plan)?).run(&mut progress)?;
    progress.end();
    Ok(Report::new(plan, &node, &outcome, preload.as_ref()))
}

fn target(plan: &Plan) -> Target {
    let channels = plan.channels.len() as u64;
    match plan.mode {
        Mode::Sub => {
            // Each channel has its own copy of a backlog. Without one, `messages` counts the deliveries of all
            // channels.
            let copies = if plan.preload > 0 { channels } else { 1 };
            Target::Extent {
                messages: plan.messages.map(|messages| messages * copies),
                duration: plan.duration,
            }
        }
        _ => Target::Published { channels, grace: None },
    }
}

/// Publishers share threads: one thread for two cores, so that nsqd has the other core.
fn publishers<'a>(
    plan: &Plan,
    publish: &Publish,
    messages: Option<u64>,
    duration: Option<Duration>,
) -> Result<Vec<Work<'a>>, Failure> {
    let connections = publish.connections as u64;
    let share =
        |index| messages.map(|messages| messages / connections + u64::from(index < messages % connections));
    let connect = |index| Publisher::connect(plan, publish, share(index));
    let mut publishers = (0..connections).map(connect).collect::<Result<Vec<_>, Failure>>()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (cores / 2).clamp(1, publish.connections);
    let mut works: Vec<Work<'a>> = Vec::new();
    for index in (0..threads).rev() {
        let group =
            PublisherGroup::new(publishers.split_off(publish.connections * index / threads), duration);
        works.push(Box::new(move |run| group.run(run)));
    }
    Ok(works)
}

fn consumers<'a>(plan: &Plan) -> Result<Vec<Work<'a>>, Failure> {
    let Some(consume) = &plan.consume else { return Ok(vec![]) };
    let mut consumers = Vec::new();
    for channel in &plan.channels {
        for _ in 0..consume.consumers {
            let consumer = Consumer::connect(plan, channel, consume)?;
            let work: Work<'a> = Box::new(move |run| consumer.run(run, |_, _| {}));
            consumers.push(work);
        }
    }
    Ok(consumers)
}
