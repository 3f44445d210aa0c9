//! Load tests against nsqd: the library of `nsq bench`. It reports nsqd's cost in time, CPU and memory.
//!
//! The benchmark measures the server, so the generator uses as little CPU as possible. One thread serves many
//! publishers, and each consumer has its own. Commands are encoded before the clock starts, whole buffers of frames are
//! counted at once, and their FINs are written at once. Of the client library, the generator uses only the handshake,
//! and its threads share only counters. If its own cost nevertheless determines a figure, the report says so.
//!
//! Modules in reading order:
//! - `flags`, `targets`, `plan`: the flags, the addresses, and the validated plan
//! - `throughput`, `latency`: the modes
//! - `phase`, `counters`: threads that start together, are watched, and stop
//! - `publisher_group` and its `publisher`s, `open_loop`, `consumer`: the work of the threads
//! - `pace`: when a message is due
//! - `address`, `connection`, `link`, `load`, `frames`, `http`: bytes on sockets
//! - `node`, `server`: the measured nsqd, and its process as the kernel reports it
//! - `latencies`, `progress`, `report`, `report_table`: the figures and their output

mod failure;

mod flags;
mod plan;
mod targets;

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

use std::sync::atomic::AtomicBool;

use nsq::admin::{AdminError, NsqdClient};

pub use failure::{Cause, Failure};
pub use flags::BenchFlags;
pub use plan::Plan;
pub use report::Report;
pub use report_table::render;
pub use targets::{Security, Targets};

use plan::{Cleanup, Mode};

/// Runs the plan on threads of its own until it is done or `interrupted` is set. Blocks.
pub fn run(plan: &Plan, interrupted: &AtomicBool) -> Result<Report, Failure> {
    match plan.mode {
        Mode::Latency => latency::run(plan, interrupted),
        Mode::Pub | Mode::Sub | Mode::Pubsub | Mode::Fanout => throughput::run(plan, interrupted),
    }
}

/// Deletes what was created for the run.
pub async fn clean_up(plan: &Plan) -> Result<(), Failure> {
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
