//! Does long jobs and ends properly: SIGTERM lets running jobs finish within 20 seconds and requeues the others.
//! `cargo run --example worker -- NSQD`

use std::time::Duration;

use nsq::{Consumer, Delivery, HandlerError};

async fn run(job: Delivery) -> Result<(), HandlerError> {
    let seconds: f64 = std::str::from_utf8(job.body())?.parse().map_err(HandlerError::permanent)?;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => Ok(()),
        () = job.stopping() => Err("interrupted by the shutdown".into()),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::args().nth(1).ok_or("usage: worker NSQD")?;
    // A job may take longer than the message timeout.
    let builder = Consumer::builder("jobs", "workers").nsqd(nsqd).concurrency(4).keep_alive(true);
    let consumer = builder.handler_timeout(Duration::from_secs(600)).handler_fn(run).start()?;
    let report = consumer.run_until(nsq::shutdown_signal(), Duration::from_secs(20)).await;
    let left = report.requeued + report.abandoned;
    println!("{} jobs done, {left} left to others", consumer.stats().finished);
    Ok(())
}
