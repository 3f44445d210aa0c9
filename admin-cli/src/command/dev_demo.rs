//! `nsq dev demo`: producers and consumers for a first look, some of which misbehave in ways that tools should find.
//!
//! | channel | what is wrong |
//! |---|---|
//! | `orders/billing` | nothing |
//! | `orders/shipping` | slower than the producer: the depth grows |
//! | `orders/fraud` | a third of the messages is requeued |
//! | `orders/audit` | no consumer |
//! | `emails/sender` | paused |
//! | `clicks/counter` | messages time out |

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use nsq::admin::NsqdClient;
use nsq::{Config, Consumer, Delivery, Handler, Outcome, Producer, Requeue};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::exit_status::Failure;

/// Topics with the pause between two messages.
const TOPICS: [(&str, Duration); 3] = [
    ("orders", Duration::from_millis(50)),
    ("emails", Duration::from_millis(500)),
    ("clicks", Duration::from_millis(200)),
];
/// Channels without a consumer of the demo.
const CHANNELS: [(&str, &str); 2] = [("orders", "audit"), ("emails", "sender")];
/// Each producer stops after this number of messages, because nobody may take them.
const MAX_MESSAGES: u64 = 50_000;
/// The shortest timeout that makes timeouts visible soon.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum time for the last answers when stopping.
const DRAIN: Duration = Duration::from_millis(500);

/// How a consumer treats messages.
#[derive(Debug, Clone, Copy)]
enum Manner {
    Good,
    Slow,
    /// Requeues every third message.
    Failing,
    /// Takes longer than the message timeout.
    Hanging,
}

#[derive(Debug)]
struct Worker {
    manner: Manner,
    count: Arc<AtomicU64>,
}

impl Handler for Worker {
    type Output = Outcome;

    async fn handle(&self, _: Delivery) -> Outcome {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        match self.manner {
            Manner::Good => Outcome::Finish,
            Manner::Slow => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Outcome::Finish
            }
            Manner::Failing if number.is_multiple_of(3) => {
                Outcome::Requeue { delay: Requeue::After(Duration::from_secs(1)), backoff: false }
            }
            Manner::Failing => Outcome::Finish,
            Manner::Hanging => {
                tokio::time::sleep(MESSAGE_TIMEOUT * 2).await;
                Outcome::Finish
            }
        }
    }
}

/// The running producers and consumers.
pub struct Demo {
    consumers: Vec<Consumer>,
    producers: JoinSet<()>,
    stop: CancellationToken,
}

impl Demo {
    /// Creates the topics and channels, and starts everything.
    pub async fn start(nsqds: &[SocketAddr], http: &[SocketAddr]) -> Result<Self, Failure> {
        for address in http {
            let client = NsqdClient::new(address.to_string())?;
            for (topic, channel) in CHANNELS {
                client.create_topic(topic).await.map_err(Failure::failed)?;
                client.create_channel(topic, channel).await.map_err(Failure::failed)?;
            }
            client.pause_channel("emails", "sender").await.map_err(Failure::failed)?;
        }
        let addresses: Vec<String> = nsqds.iter().map(SocketAddr::to_string).collect();
        let consumers = [
            ("orders", "billing", Manner::Good),
            ("orders", "shipping", Manner::Slow),
            ("orders", "fraud", Manner::Failing),
            ("clicks", "counter", Manner::Hanging),
        ];
        let consumers = consumers.map(|(topic, channel, manner)| {
            let config = Config::new()
                .client_id(format!("demo-{channel}"))
                .user_agent("nsq-demo/1.0")
                .msg_timeout(MESSAGE_TIMEOUT)
                .max_attempts(0u16)
                .max_in_flight(8u32);
            let worker = Worker { manner, count: Arc::default() };
            let consumer =
                Consumer::builder(topic, channel).nsqd(&addresses).config(config).handler(worker).start();
            consumer.map_err(|error| crate::sources::start_failure(&error))
        });
        let consumers = consumers.into_iter().collect::<Result<Vec<_>, _>>()?;
        let stop = CancellationToken::new();
        let mut producers = JoinSet::new();
        for (topic, pause) in TOPICS {
            let config = Config::new().client_id(format!("demo-{topic}")).user_agent("nsq-demo/1.0");
            let producer = Producer::builder().nsqd(&addresses).config(config).build()?;
            producers.spawn(publish(producer, topic, pause, stop.clone()));
        }
        Ok(Demo { consumers, producers, stop })
    }

    /// Stops everything; messages that are not finished stay.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.producers.join_next().await.is_some() {}
        join_all(self.consumers.iter().map(|consumer| consumer.shutdown(DRAIN))).await;
    }
}

async fn publish(producer: Producer, topic: &'static str, pause: Duration, stop: CancellationToken) {
    for number in 1..=MAX_MESSAGES {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.cancelled() => break,
        }
        let body =
            format!("{{\"number\":{number},\"topic\":\"{topic}\",\"amount\":{}}}", fastrand::u32(1..1000));
        // A publish that fails is only missing: this is a demo.
        let _ = producer.publish(topic, body).await;
    }
    producer.close(DRAIN).await;
}
