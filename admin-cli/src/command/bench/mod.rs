//! `nsq bench`: puts load on an nsqd and says what it cost, in time, CPU and memory.
//!
//! What is measured is the server, so the generator spends as little as it can: blocking sockets and one thread per
//! connection, commands encoded before the clock starts, whole buffers of frames counted in one go, their FINs written
//! at once. It does not use the client library, and it shares nothing between threads but counters. Where its own cost
//! decides the figure all the same, the report says so.
//!
//! Modules in reading order:
//! - `flags`, `plan`: what can be typed; what it means, validated
//! - `throughput`, `latency`: the modes
//! - `phase`: threads that start together, are watched, and stop
//! - `publisher`, `open_loop`, `consumer`: what the threads do; `pace`: when a message is due
//! - `connection`, `load`, `frames`, `http`: bytes on sockets
//! - `node`, `server`: the nsqd that is measured, and its process as the kernel sees it
//! - `latencies`, `progress`, `report`, `report_table`: what is said meanwhile and at the end

mod flags;
mod plan;

mod latency;
mod throughput;

mod phase;

mod consumer;
mod open_loop;
mod pace;
mod publisher;

mod connection;
mod frames;
mod http;
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

use crate::exit_status::{ExitStatus, Failure};
use crate::output::Output;

pub use flags::BenchFlags;
use plan::{Mode, Plan};

/// Runs one benchmark and prints its report.
pub fn run(flags: BenchFlags, output: &mut Output) -> Result<ExitCode, Failure> {
    let plan = Plan::new(flags)?;
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
    // Also after a failure: a topic full of messages is not to stay behind.
    if plan.delete_topic
        && let Err(failure) = http::delete_topic(plan.http, &plan.topic)
    {
        output.warning(&format!("topic {} stays behind: {}", plan.topic, failure.message));
    }
    let report = result?;
    if output.is_json() {
        output.data(report.json()?)?;
    } else {
        output.data(report_table::render(&report))?;
    }
    let interrupted = interrupted.load(Ordering::Relaxed);
    Ok(if interrupted { ExitStatus::Interrupted } else { ExitStatus::Done }.into())
}
