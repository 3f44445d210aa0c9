//! Consumes a channel as a stream, in batches, and finishes each message after its batch is written.
//!
//! ```text
//! cargo run -p nsq-rs --example stream -- 127.0.0.1:4150 orders archive COUNT > orders.txt
//! ```

use std::io::Write;
use std::time::Duration;

use nsq::Consumer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [nsqd, topic, channel, count] = &arguments[..] else {
        return Err("usage: stream NSQD TOPIC CHANNEL COUNT".into());
    };
    let count: usize = count.parse()?;

    let mut messages = Consumer::builder(topic, channel).nsqd(nsqd).max_in_flight(500).stream()?;
    messages.consumer().wait_ready(Duration::from_secs(5)).await?;

    let mut batch = Vec::new();
    let mut written = 0;
    while written < count {
        if messages.next_many(&mut batch, (count - written).min(100)).await == 0 {
            break;
        }
        let mut out = std::io::stdout().lock();
        for message in &batch {
            out.write_all(message.body())?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        written += batch.len();
        for message in batch.drain(..) {
            // A late answer is not fatal: nsqd delivers the message again, and it is written again.
            let _ = message.finish();
        }
    }
    messages.consumer().shutdown(Duration::from_secs(5)).await;
    Ok(())
}
