//! Publishes a question to one topic and receives its answer from another: a producer and two consumers.
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
                // If publishing the answer fails, `?` requeues the question.
                let answer = question.body().to_ascii_uppercase();
                producer.publish("answers", answer).await?;
                Ok::<(), nsq::PublishError>(())
            }
        })
        .start()?;
    // nsqd deletes an ephemeral channel when its last consumer disconnects.
    let mut answers = Consumer::builder("answers", "client#ephemeral").nsqd(&nsqd).stream()?;
    server.wait_ready(Duration::from_secs(5)).await?;
    answers.consumer().wait_ready(Duration::from_secs(5)).await?;

    producer.publish("questions", "what is it?").await?;
    if let Some(answer) = answers.next().await {
        println!("{}", String::from_utf8_lossy(answer.body()));
        answer.finish()?;
    }
    // Shut down the consumers first: a handler uses the producer.
    answers.consumer().shutdown(Duration::from_secs(5)).await;
    server.shutdown(Duration::from_secs(5)).await;
    producer.close(Duration::from_secs(5)).await;
    Ok(())
}
