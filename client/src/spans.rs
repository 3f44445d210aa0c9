//! Spans of `tracing`: one for each connection attempt, round of lookups, publish, and call of a handler. Their fields are
//! named as OpenTelemetry's conventions for messaging say. Without the feature `tracing`, they are nothing.

use std::future::Future;

use crate::consumer::Delivery;

#[cfg(feature = "tracing")]
mod system {
    pub(crate) type Inner = tracing::Span;
    pub(crate) type Wrapped<F> = tracing::instrument::Instrumented<F>;
}

/// A span, or nothing.
#[derive(Debug)]
pub(crate) struct Span {
    #[cfg(feature = "tracing")]
    inner: system::Inner,
}

#[cfg(feature = "tracing")]
macro_rules! span {
    ($($span:tt)*) => {
        Span { inner: tracing::info_span!($($span)*) }
    };
}

#[cfg(not(feature = "tracing"))]
macro_rules! span {
    ($name:literal, $($field:tt)*) => {
        Span {}
    };
}

#[cfg_attr(not(feature = "tracing"), expect(unused_variables))]
impl Span {
    pub(crate) fn connect(node: &str, role: &'static str) -> Self {
        span!(
            "nsq.connect",
            messaging.system = "nsq",
            server.address = node,
            nsq.role = role,
            error = tracing::field::Empty
        )
    }

    pub(crate) fn lookup(topic: &str) -> Self {
        span!(
            "nsq.lookup",
            messaging.system = "nsq",
            messaging.destination.name = topic,
            nsq.nodes = tracing::field::Empty
        )
    }

    pub(crate) fn publish(topic: &str, messages: usize, bytes: usize) -> Self {
        span!(
            "nsq.publish",
            otel.kind = "producer",
            messaging.system = "nsq",
            messaging.operation.name = "publish",
            messaging.destination.name = topic,
            messaging.batch.message_count = messages,
            messaging.message.body.size = bytes,
            messaging.message.id = tracing::field::Empty,
            server.address = tracing::field::Empty,
            nsq.attempts = tracing::field::Empty,
            error = tracing::field::Empty,
        )
    }

    pub(crate) fn process(message: &Delivery) -> Self {
        span!(
            "nsq.process",
            otel.kind = "consumer",
            messaging.system = "nsq",
            messaging.operation.name = "process",
            messaging.destination.name = message.topic(),
            messaging.consumer.group.name = message.channel(),
            messaging.message.id = %message.id(),
            messaging.message.body.size = message.body().len(),
            server.address = message.node(),
            nsq.attempts = message.attempts(),
            nsq.outcome = tracing::field::Empty,
            error = tracing::field::Empty,
        )
    }

    /// Sets a field that is known late.
    pub(crate) fn record(&self, field: &'static str, value: impl std::fmt::Display) {
        #[cfg(feature = "tracing")]
        self.inner.record(field, tracing::field::display(value));
    }

    /// Runs a future within the span.
    #[cfg(feature = "tracing")]
    pub(crate) fn around<F: Future>(&self, future: F) -> system::Wrapped<F> {
        tracing::Instrument::instrument(future, self.inner.clone())
    }

    #[cfg(not(feature = "tracing"))]
    pub(crate) fn around<F: Future>(&self, future: F) -> F {
        future
    }
}
