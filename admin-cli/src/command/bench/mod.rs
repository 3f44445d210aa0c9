//! `nsq bench`: puts load on an nsqd and says what it cost, in time, CPU and memory.
//!
//! What is measured is the server, so the generator spends as little as it can: one thread for many publishers and one
//! per consumer, commands encoded before the clock starts, whole buffers of frames counted in one go, their FINs written
//! at once. It does not use the client library, and it shares nothing between threads but counters. Where its own cost
//! decides the figure all the same, the report says so.
//!
//! Modules in reading order:
//! - `flags`, `plan`: what can be typed; what it means, validated
//! - `throughput`, `latency`: the modes
//! - `phase`, `counters`: threads that start together, are watched, and stop
//! - `crew` and its `publisher`s, `open_loop`, `consumer`: what the threads do; `pace`: when a message is due
//! - `address`, `connection`, `link`, `load`, `frames`, `http`: bytes on sockets
//! - `node`, `server`: the nsqd that is measured, and its process as the kernel sees it
//! - `latencies`, `progress`, `report`, `report_table`: what is said meanwhile and at the end

mod flags;
mod plan;

mod latency;
mod throughput;

mod counters;
mod phase;

mod consumer;
mod crew;
mod open_loop;
mod pace;
mod publisher;

mod address;
mod connection;
mod frames;
mod http;
mod link;
mod load;

mod node;
mod server;

mod latencies;
mod progress;
mod report;
mod report_table;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nsq::admin::{AdminError, NsqdClient};

use super::Context;
use crate::exit_status::{ExitStatus, Failure};

pub use flags::BenchFlags;
use plan::{Cleanup, Mode, Plan};

/// Runs one benchmark and prints its report.
pub fn run(context: &Context, flags: BenchFlags) -> Result<ExitCode, Failure> {
    let plan = Plan::new(&context.targets, flags)?;
    // For the signal only: the benchmark's threads are its own.
    let runtime = super::runtime()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });

    let result = match plan.mode {
        Mode::Latency => latency::run(&plan, &interrupted),
        Mode::Pub | Mode::Sub | Mode::Pubsub | Mode::Fanout => throughput::run(&plan, &interrupted),
    };
    // A run that could not begin has left nothing behind.
    if !matches!(&result, Err(failure) if failure.status == ExitStatus::Unreachable) {
        runtime.block_on(clean_up(context, &plan));
    }
    let report = result?;
    if context.output.is_json() {
        context.output.json(&report)?;
    } else {
        context.output.text(report_table::render(&report))?;
    }
    let interrupted = interrupted.load(Ordering::Relaxed);
    Ok(if interrupted { ExitStatus::Interrupted } else { ExitStatus::Done }.into())
}

/// Deletes what was made for the run. The figures are worth having all the same if that fails.
async fn clean_up(context: &Context, plan: &Plan) {
    if let Err(failure) = delete(plan).await {
        context.output.warning(&format!("topic {} is not cleaned up: {}", plan.topic, failure.message));
    }
}

async fn delete(plan: &Plan) -> Result<(), Failure> {
    let nsqd = NsqdClient::new(plan.http.to_string())?
        .tls(plan.security.tls.clone())
        .token(plan.security.token.clone());
    let gone_already =
        |error: AdminError| if error.is_not_found() { Ok(()) } else { Err(Failure::failed(error)) };
    match plan.cleanup {
        Cleanup::Nothing => {}
        Cleanup::Topic => nsqd.delete_topic(plan.topic.as_str()).await.or_else(gone_already)?,
        Cleanup::Channels => {
            for channel in &plan.channels {
                nsqd.delete_channel(plan.topic.as_str(), channel.as_str()).await.or_else(gone_already)?;
            }
        }
    }
    Ok(())
}
