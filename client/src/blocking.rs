//! Publishing and consuming from threads without a tokio runtime. Each type runs a runtime of its own on one thread.
//!
//! ```no_run
//! # fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let producer = nsq::blocking::Producer::new("127.0.0.1:4150")?;
//! producer.publish("orders", "1 apple")?;
//! for message in nsq::blocking::Messages::of(nsq::Consumer::builder("orders", "billing").nsqd("127.0.0.1:4150"))? {
//!     println!("{:?}", message.body());
//!     message.finish()?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Their methods must not be called within an asynchronous task: they panic there, because they would block its thread.

use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::addresses::Addresses;
use crate::consumer::{ConsumerBuilder, Drain, DrainReport, Message, MessageStream};
use crate::error::{BatchError, ConfigError, PublishError, StartError};
use crate::producer::{NewMessage, ProducerBuilder, PublishFuture, Receipt};

fn runtime() -> Result<Runtime, ConfigError> {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("nsq")
        .enable_all()
        .build()
        .map_err(|error| ConfigError::Runtime { reason: error.to_string() })
}

/// A [producer](crate::Producer) whose methods wait for their results.
#[derive(Debug)]
pub struct Producer {
    inner: crate::Producer,
    runtime: Runtime,
}

impl Producer {
    /// As [`Producer::new`](crate::Producer::new).
    pub fn new(nsqd: impl Addresses) -> Result<Self, ConfigError> {
        Self::build(crate::Producer::builder().nsqd(nsqd))
    }

    /// Builds a producer with other settings.
    pub fn build(builder: ProducerBuilder) -> Result<Self, ConfigError> {
        let runtime = runtime()?;
        let inner = {
            let _guard = runtime.enter();
            builder.build()?
        };
        Ok(Producer { inner, runtime })
    }

    /// As [`Producer::publish`](crate::Producer::publish).
    pub fn publish(
        &self,
        topic: impl AsRef<str>,
        message: impl Into<NewMessage>,
    ) -> Result<Receipt, PublishError> {
        self.runtime.block_on(self.inner.publish(topic, message))
    }

    /// As [`Producer::publish_many`](crate::Producer::publish_many).
    pub fn publish_many<B: Into<Bytes>>(
        &self,
        topic: impl AsRef<str>,
        bodies: impl IntoIterator<Item = B>,
    ) -> Result<(), BatchError> {
        self.runtime.block_on(self.inner.publish_many(topic, bodies))
    }

    /// As [`Producer::enqueue`](crate::Producer::enqueue): waits for room only. [`wait`](Producer::wait) returns the result.
    pub fn enqueue(
        &self,
        topic: impl AsRef<str>,
        message: impl Into<NewMessage>,
    ) -> Result<PublishFuture, PublishError> {
        self.runtime.block_on(self.inner.enqueue(topic, message))
    }

    /// Waits for the result of a queued publish.
    pub fn wait(&self, publish: PublishFuture) -> Result<Receipt, PublishError> {
        self.runtime.block_on(publish)
    }

    /// As [`Producer::flush`](crate::Producer::flush).
    pub fn flush(&self) {
        self.runtime.block_on(self.inner.flush());
    }

    /// As [`Producer::close`](crate::Producer::close).
    pub fn close(self, deadline: Duration) -> bool {
        self.runtime.block_on(self.inner.close(deadline))
    }
}

/// The messages of a consumer, as an iterator that waits. Ends when the consumer stops. Dropping it requeues what it holds and
/// stops the consumer, as dropping a [`MessageStream`] does.
pub struct Messages {
    stream: MessageStream,
    runtime: Runtime,
}

impl Messages {
    /// Starts a consumer.
    pub fn of(builder: ConsumerBuilder) -> Result<Self, StartError> {
        let runtime = runtime()?;
        let stream = {
            let _guard = runtime.enter();
            builder.stream()?
        };
        Ok(Messages { stream, runtime })
    }

    /// Waits for the next message, at most `timeout`.
    pub fn next_within(&mut self, timeout: Duration) -> Option<Message> {
        let next = self.stream.next();
        self.runtime.block_on(async { tokio::time::timeout(timeout, next).await.ok().flatten() })
    }

    /// The consumer, to observe, pause or stop it from another thread.
    pub fn consumer(&self) -> &crate::Consumer {
        self.stream.consumer()
    }

    /// As [`Consumer::shutdown`](crate::Consumer::shutdown).
    pub fn shutdown(self, drain: impl Into<Drain>) -> DrainReport {
        self.runtime.block_on(self.stream.consumer().shutdown(drain))
    }
}

impl Iterator for Messages {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.runtime.block_on(self.stream.next())
    }
}
