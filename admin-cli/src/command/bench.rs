//! `nsq bench`: runs a load test against nsqd and prints its report. The crate `nsq_bench` has the test itself.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use nsq_bench::BenchFlags;
use nsq_bench::{Cause, Plan, Security, Targets};

use super::Context;
use crate::cluster::{Cluster, Lookupd};
use crate::exit_status::{ExitStatus, Failure};

/// Runs one benchmark and prints its report.
pub fn run(context: &Context, flags: BenchFlags) -> Result<ExitCode, Failure> {
    let plan = Plan::new(&targets(context), flags)?;
    // The runtime handles only the signal: the benchmark has its own threads.
    let runtime = super::runtime()?;
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            flag.store(true, Ordering::Relaxed);
        }
    });

    let result = nsq_bench::run(&plan, &interrupted);
    // A run that could not connect has left nothing behind.
    if !matches!(&result, Err(failure) if failure.cause == Cause::Unreachable)
        // The figures are valid nevertheless.
        && let Err(failure) = runtime.block_on(nsq_bench::clean_up(&plan))
    {
        context.output.warning(&format!("cannot clean up topic {}: {}", plan.topic, failure.message));
    }
    if plan.deletes_topic() {
        runtime.block_on(forget(context, plan.topic.as_str()));
    }
    let report = result?;
    if context.output.is_json() {
        context.output.json(&report)?;
    } else {
        context.output.text(nsq_bench::render(&report))?;
    }
    let interrupted = interrupted.load(Ordering::Relaxed);
    Ok(if interrupted { ExitStatus::Interrupted } else { ExitStatus::Done }.into())
}

/// Deletes the registrations of a topic that was deleted at its nsqd: nsqlookupd keeps them otherwise.
async fn forget(context: &Context, topic: &str) {
    let Ok(cluster) = Cluster::find(&context.targets).await else { return };
    let answers = cluster
        .on_lookupds("delete", async |lookupd: &Lookupd| lookupd.client.delete_topic(topic).await)
        .await;
    for error in &answers.errors {
        context.output.warning(&format!("! {error}"));
    }
}

fn targets(context: &Context) -> Targets {
    let targets = &context.targets;
    let security = &targets.security;
    Targets {
        lookupds: targets.lookupds.clone(),
        nsqds: targets.nsqds.clone(),
        nsqd_tcps: targets.nsqd_tcps.clone(),
        security: Security {
            config: security.config.clone(),
            tls: security.tls.clone(),
            token: security.token.clone(),
        },
    }
}

impl From<nsq_bench::Failure> for Failure {
    fn from(failure: nsq_bench::Failure) -> Self {
        let status = match failure.cause {
            Cause::Usage => ExitStatus::Usage,
            Cause::Unreachable => ExitStatus::Unreachable,
            Cause::Interrupted => ExitStatus::Interrupted,
            Cause::Failed => ExitStatus::Failed,
        };
        Failure { status, message: failure.message, hint: failure.hint, target: None }
    }
}
