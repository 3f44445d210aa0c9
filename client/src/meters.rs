//! Metrics through the facade `metrics`, which an exporter of the application records. The application installs it before it
//! creates producers and consumers. Without the feature `metrics`, they are nothing.

#[cfg(feature = "metrics")]
mod on {
    use std::collections::HashMap;
    use std::sync::Arc;
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
    use parking_lot::RwLock;

    /// The metrics of a consumer.
    pub(crate) struct ConsumerMeter {
        pub(crate) finished: Count,
        pub(crate) requeued: Count,
        pub(crate) rejected: Count,
        pub(crate) expired: Count,
        pub(crate) lost: Count,
        pub(crate) gave_up: Count,
        pub(crate) failed: Count,
        pub(crate) panicked: Count,
        in_flight: Gauge,
        backoff_level: Gauge,
        handle_seconds: Histogram,
        lag_seconds: Histogram,
        wait_seconds: Histogram,
    }

    pub(crate) struct Count(Counter);

    impl Count {
        pub(crate) fn one(&self) {
            self.0.increment(1);
        }
    }

    impl ConsumerMeter {
        pub(crate) fn new(topic: &str, channel: &str) -> Self {
            let labels = [("topic", topic.to_owned()), ("channel", channel.to_owned())];
            let count = |outcome: &'static str| {
                let [topic, channel] = labels.clone();
                let labels = [topic, channel, ("outcome", outcome.to_owned())];
                Count(counter!("nsq_consumer_messages_total", &labels))
            };
            ConsumerMeter {
                finished: count("finished"),
                requeued: count("requeued"),
                rejected: count("rejected"),
                expired: count("expired"),
                lost: count("lost"),
                gave_up: Count(counter!("nsq_consumer_gave_up_total", &labels)),
                failed: Count(counter!("nsq_consumer_failures_total", &labels)),
                panicked: Count(counter!("nsq_consumer_panics_total", &labels)),
                in_flight: gauge!("nsq_consumer_in_flight", &labels),
                backoff_level: gauge!("nsq_consumer_backoff_level", &labels),
                handle_seconds: histogram!("nsq_consumer_handle_seconds", &labels),
                lag_seconds: histogram!("nsq_consumer_lag_seconds", &labels),
                wait_seconds: histogram!("nsq_consumer_wait_seconds", &labels),
            }
        }

        pub(crate) fn received(&self, count: u64) {
            self.in_flight.increment(count as f64);
        }

        pub(crate) fn answered(&self) {
            self.in_flight.decrement(1);
        }

        pub(crate) fn backoff(&self, level: u32) {
            self.backoff_level.set(level);
        }

        /// `lag` is the time since the publish, by the clocks of two machines; `wait` the time since the message arrived.
        pub(crate) fn begins(&self, lag: Duration, wait: Duration) {
            self.lag_seconds.record(lag);
            self.wait_seconds.record(wait);
        }

        pub(crate) fn handled(&self, took: Duration) {
            self.handle_seconds.record(took);
        }
    }

    /// The metrics of a producer, by topic.
    #[derive(Default)]
    pub(crate) struct ProducerMeter {
        topics: RwLock<HashMap<String, Arc<TopicMeter>>>,
    }

    struct TopicMeter {
        published: Counter,
        refused: Counter,
        bytes: Counter,
        seconds: Histogram,
        batch_size: Histogram,
    }

    impl ProducerMeter {
        fn of(&self, topic: &str) -> Arc<TopicMeter> {
            if let Some(known) = self.topics.read().get(topic) {
                return Arc::clone(known);
            }
            let labels = [("topic", topic.to_owned())];
            let count = |result: &'static str| {
                let [topic] = labels.clone();
                counter!("nsq_producer_messages_total", &[topic, ("result", result.to_owned())])
            };
            let meter = Arc::new(TopicMeter {
                published: count("published"),
                refused: count("failed"),
                bytes: counter!("nsq_producer_bytes_total", &labels),
                seconds: histogram!("nsq_producer_publish_seconds", &labels),
                batch_size: histogram!("nsq_producer_batch_size", &labels),
            });
            Arc::clone(self.topics.write().entry(topic.to_owned()).or_insert(meter))
        }

        /// A publish has its result, after `took`.
        pub(crate) fn finished(
            &self,
            topic: &str,
            messages: usize,
            bytes: usize,
            took: Duration,
            is_published: bool,
        ) {
            let meter = self.of(topic);
            if is_published {
                meter.published.increment(messages as u64);
                meter.bytes.increment(bytes as u64);
            } else {
                meter.refused.increment(messages as u64);
            }
            meter.seconds.record(took);
        }

        /// A command with so many messages is written.
        pub(crate) fn written(&self, topic: &str, messages: usize) {
            self.of(topic).batch_size.record(messages as f64);
        }
    }

    /// Counts an open connection while it exists.
    pub(crate) struct OpenConnection(Gauge);

    impl OpenConnection {
        pub(crate) fn new(node: &str, role: &'static str) -> Self {
            let labels = [("role", role.to_owned()), ("node", node.to_owned())];
            counter!("nsq_connects_total", &labels).increment(1);
            let open = gauge!("nsq_connections", &labels);
            open.increment(1);
            OpenConnection(open)
        }
    }

    impl Drop for OpenConnection {
        fn drop(&mut self) {
            self.0.decrement(1);
        }
    }

    pub(crate) fn looked_up(lookupd: &str, is_answered: bool) {
        let result = if is_answered { "answered" } else { "failed" };
        counter!("nsq_lookup_total", "lookupd" => lookupd.to_owned(), "result" => result).increment(1);
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use std::time::Duration;

    pub(crate) struct Count;

    impl Count {
        pub(crate) fn one(&self) {}
    }

    pub(crate) struct ConsumerMeter {
        pub(crate) finished: Count,
        pub(crate) requeued: Count,
        pub(crate) rejected: Count,
        pub(crate) expired: Count,
        pub(crate) lost: Count,
        pub(crate) gave_up: Count,
        pub(crate) failed: Count,
        pub(crate) panicked: Count,
    }

    impl ConsumerMeter {
        pub(crate) fn new(_: &str, _: &str) -> Self {
            ConsumerMeter {
                finished: Count,
                requeued: Count,
                rejected: Count,
                expired: Count,
                lost: Count,
                gave_up: Count,
                failed: Count,
                panicked: Count,
            }
        }

        pub(crate) fn received(&self, _: u64) {}

        pub(crate) fn answered(&self) {}

        pub(crate) fn backoff(&self, _: u32) {}

        pub(crate) fn begins(&self, _: Duration, _: Duration) {}

        pub(crate) fn handled(&self, _: Duration) {}
    }

    #[derive(Default)]
    pub(crate) struct ProducerMeter {}

    impl ProducerMeter {
        pub(crate) fn finished(&self, _: &str, _: usize, _: usize, _: Duration, _: bool) {}

        pub(crate) fn written(&self, _: &str, _: usize) {}
    }

    pub(crate) struct OpenConnection;

    impl OpenConnection {
        pub(crate) fn new(_: &str, _: &'static str) -> Self {
            OpenConnection
        }
    }

    pub(crate) fn looked_up(_: &str, _: bool) {}
}

#[cfg(not(feature = "metrics"))]
pub(crate) use off::{ConsumerMeter, OpenConnection, ProducerMeter, looked_up};
#[cfg(feature = "metrics")]
pub(crate) use on::{ConsumerMeter, OpenConnection, ProducerMeter, looked_up};

/// Whether there are metrics. Times are taken only for them.
pub(crate) const ON: bool = cfg!(feature = "metrics");
