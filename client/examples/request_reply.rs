//! Asks a question on one topic and receives the answer on another. `cargo run --example request_reply -- NSQD`

use std::time::Duration;

use nsq::{Consumer, Producer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let nsqd = std::env::args().nth(1).ok_or("usage: request_reply NSQD")?;
    let producer = Producer::new(&nsqd)?;
    let server = Consumer::builder("questions", "server")
        .nsqd(&nsqd)
        .handler_with(producer.topic("answers")?, |answers, question| async move {
            // If publishing the answer fails, the question is asked again.
            answers.publish(question.body().to_ascii_uppercase()).await.map(drop)
        })
        .start()?;
    // nsqd deletes an ephemeral channel when its last consumer disconnects.
    let mut answers = Consumer::builder("answers", "client#ephemeral").nsqd(&nsqd).stream()?;
    answers.consumer().wait_ready(Duration::from_secs(5)).await?;
    producer.publish("questions", "what is it?").await?;
    if let Some(answer) = answers.next().await {
        println!("{}", String::from_utf8_lossy(answer.body()));
        answer.finish()?;
    }
    server.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
