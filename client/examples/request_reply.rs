//! A question on one topic, its answer on another: a producer and a consumer in one program.
//!
//! ```text
//! cargo run -p nsq-rs --example request_reply -- 127.0.0.1:4150
//! ```

use std::time::Duration;

use nsq::{Consumer, Delivery, Producer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::args().nth(1).ok_or("usage: request_reply NSQD")?;
    let producer = Producer::new(&nsqd)?;

    let answering = producer.clone();
    let server = Consumer::builder("questions", "server")
        .nsqd(&nsqd)
        .handler(move |question: Delivery| {
            let producer = answering.clone();
            async move {
                // If the answer cannot be published the question is requeued: `?` is all it takes.
                let answer = question.body().to_ascii_uppercase();
                producer.publish("answers", answer).await?;
                Ok::<(), nsq::PublishError>(())
            }
        })
        .start()?;
    // Ephemeral: the channel goes away with this program.
    let mut answers = Consumer::builder("answers", "client#ephemeral").nsqd(&nsqd).stream()?;
    server.wait_ready(Duration::from_secs(5)).await?;
    answers.consumer().wait_ready(Duration::from_secs(5)).await?;

    producer.publish("questions", "what is it?").await?;
    if let Some(answer) = answers.next().await {
        println!("{}", String::from_utf8_lossy(answer.body()));
        answer.finish()?;
    }
    // Consumers first, then what their handlers need.
    answers.consumer().shutdown(Duration::from_secs(5)).await;
    server.shutdown(Duration::from_secs(5)).await;
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
