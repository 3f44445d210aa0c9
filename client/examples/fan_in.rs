//! Consumes 100 topics with one handler and one shutdown, and counts the messages of each.
//! `cargo run --example fan_in -- LOOKUPD`

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nsq::Consumer;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let lookupd = std::env::args().nth(1).ok_or("usage: fan_in LOOKUPD")?;
    let counts = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let group = Consumer::group("counter")
        .lookupd(lookupd)
        .concurrency(8)
        .topics((0..100).map(|sensor| format!("sensor_{sensor}")))
        .handler_with(Arc::clone(&counts), |counts, message| async move {
            let mut counts = counts.lock().unwrap();
            *counts.entry(message.topic().to_owned()).or_default() += 1;
        })
        .start()?;
    group.run_until(nsq::shutdown_signal(), Duration::from_secs(10)).await;
    for (topic, count) in &*counts.lock().unwrap() {
        println!("{topic} {count}");
    }
    Ok(())
}
