//! `nsq bench`: runs a load test against nsqd and reports its cost in time, CPU and memory.
//!
//! The benchmark measures the server, so the generator uses as little CPU as possible. One thread serves many
//! publishers, and each consumer has its own. Commands are encoded before the clock starts, whole buffers of frames are
//! counted at once, and their FINs are written at once. The generator does not use the client library, and its threads
//! share only counters. If its own cost nevertheless determines a figure, the report says so.
//!
//! Modules in reading order:
//! - `flags`, `plan`: the flags, and the validated plan
//! - `throughput`, `latency`: the modes
//! - `phase`, `counters`: threads that start together, are watched, and stop
//! - `publisher_group` and its `publisher`s, `open_loop`, `consumer`: the work of the threads
//! - `pace`: when a message is due
//! - `address`, `connection`, `link`, `load`, `frames`, `http`: bytes on sockets
//! - `node`, `server`: the measured nsqd, and its process as the kernel reports it
//! - `latencies`, `progress`, `report`, `report_table`: the figures and their output

mod flags;
mod plan;

mod latency;
mod throughput;

mod counters;
mod phase;

mod consumer;
mod publisher_group;
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
    // The runtime handles only the signal: the benchmark has its own threads.
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
    // A run that could not connect has left nothing behind.
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

/// Deletes what was created for the run. A failure is only a warning, because the figures are valid nevertheless.
async fn clean_up(context: &Context, plan: &Plan) {
    if let Err(failure) = delete(plan).await {
        context.output.warning(&format!("cannot clean up topic {}: {}", plan.topic, failure.message));
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
