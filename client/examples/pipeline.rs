//! Charges orders: repeats what fails, and keeps what cannot succeed as dead letters. `cargo run --example pipeline -- NSQD`

use nsq::{Consumer, DeadLetter, Delivery, HandlerError, Producer, Topic};

async fn charge(charged: Topic, order: Delivery) -> Result<(), HandlerError> {
    let text = std::str::from_utf8(order.body()).map_err(HandlerError::permanent)?;
    if text.ends_with("declined") {
        return Err("the card was declined".into());
    }
    charged.publish(format!("charged {text}")).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::args().nth(1).ok_or("usage: pipeline NSQD")?;
    let producer = Producer::new(&nsqd)?;
    let builder = Consumer::builder("orders", "billing").nsqd(nsqd).concurrency(10).max_attempts(3);
    let consumer = builder
        .set("default_requeue_delay", "100ms")?
        .dead_letter(DeadLetter::Topic(producer.topic("orders.dead")?))
        .handler_with(producer.topic("orders.charged")?, charge)
        .start()?;
    consumer.run_until(nsq::shutdown_signal(), std::time::Duration::from_secs(20)).await;
    producer.flush().await;
    Ok(())
}
