//! Publishes each line of standard input to a topic, without waiting for each answer, and prints how many nsqd
//! acknowledged.
//!
//! ```text
//! seq 100000 | cargo run -p nsq-rs --example publish -- 127.0.0.1:4150 orders
//! ```

use std::io::BufRead;
use std::time::Duration;

use nsq::{Producer, PublishError};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(nsqd), Some(topic)) = (arguments.next(), arguments.next()) else {
        return Err("usage: publish NSQD TOPIC < lines".into());
    };
    let producer = Producer::new(nsqd)?;
    // `ping` fails at once if nsqd cannot be reached; a publish would retry until its timeout.
    producer.ping().await?;

    let mut pending = Vec::new();
    let mut acknowledged = 0;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        // `send` queues the message and returns a future for its result, so that many can be unanswered at a time.
        match producer.send(&topic, line.clone()) {
            Ok(result) => pending.push(result),
            Err(PublishError::Full) => {
                for result in pending.drain(..) {
                    result.await?;
                    acknowledged += 1;
                }
                producer.publish(&topic, line).await?;
                acknowledged += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    for result in pending {
        result.await?;
        acknowledged += 1;
    }
    producer.close(Duration::from_secs(5)).await;
    println!("{acknowledged} messages acknowledged");
    Ok(())
}
