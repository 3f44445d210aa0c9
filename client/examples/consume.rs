//! Consumes a channel with a handler until Ctrl-C, or until COUNT messages are handled.
//!
//! ```text
//! cargo run -p nsq-rs --example consume -- 127.0.0.1:4161 orders billing [COUNT]
//! ```

use std::sync::Arc;
use std::time::Duration;

use nsq::{Consumer, Delivery, Drain, Handler, HandlerError, Outcome};
use tokio::sync::Semaphore;

struct Billing {
    handled: Arc<Semaphore>,
}

impl Handler for Billing {
    type Output = Outcome;

    async fn handle(&self, message: Delivery) -> Outcome {
        let Ok(order) = std::str::from_utf8(message.body()) else {
            // Redelivery cannot make the body valid.
            return Outcome::give_up("not UTF-8");
        };
        println!("{order}");
        self.handled.add_permits(1);
        Outcome::Finish
    }

    async fn gave_up(&self, message: Delivery) -> Result<(), HandlerError> {
        eprintln!("gave up {} after {} attempts", message.id(), message.attempts());
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lookupd, topic, channel, rest @ ..] = &arguments[..] else {
        return Err("usage: consume LOOKUPD TOPIC CHANNEL [COUNT]".into());
    };
    let count: Option<u32> = rest.first().map(|count| count.parse()).transpose()?;

    let handled = Arc::new(Semaphore::new(0));
    let consumer = Consumer::builder(topic, channel)
        .lookupd(lookupd)
        .concurrency(10)
        .max_attempts(5)
        .set("lookupd_poll_interval", "5s")?
        .handler(Billing { handled: Arc::clone(&handled) })
        .start()?;

    let count_reached = async {
        match count {
            Some(count) => drop(handled.acquire_many(count).await),
            None => std::future::pending().await,
        }
    };
    let signal = async {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            () = count_reached => {}
        }
    };
    let drain = Drain { deadline: Duration::from_secs(10), ..Drain::default() };
    let report = consumer.run_until(signal, drain).await;
    eprintln!("{} finished, {} requeued while stopping", report.finished, report.requeued);
    Ok(())
}
