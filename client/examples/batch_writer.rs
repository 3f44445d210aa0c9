//! Writes messages to stdout in batches. A slow disk slows nsqd down: at most 200 messages are unanswered.
//! `cargo run --example batch_writer -- NSQD`

use std::io::Write;
use std::time::Duration;

use nsq::{Batch, Consumer};

fn write(batch: &Batch) -> std::io::Result<()> {
    let lines: Vec<u8> = batch.iter().flat_map(|message| [message.body(), &b"\n"[..]].concat()).collect();
    std::io::stdout().write_all(&lines)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::args().nth(1).ok_or("usage: batch_writer NSQD")?;
    let builder = Consumer::builder("orders", "archive").nsqd(nsqd).max_in_flight(200);
    let mut batches = builder.batches(100, Duration::from_millis(200))?;
    let consumer = batches.consumer().clone();
    tokio::spawn(async move { consumer.run_until(nsq::shutdown_signal(), Duration::from_secs(10)).await });
    while let Some(batch) = batches.next().await {
        let _ = match write(&batch) {
            Ok(()) => batch.finish(),
            Err(_) => batch.requeue(Duration::from_secs(5)),
        };
    }
    batches.consumer().stopped().await;
    Ok(())
}
