//! Events as records of the `tracing` crate.

use super::Event;

/// Reports an event: what needs attention as a warning, changes of connections as information.
pub(super) fn log(event: &Event) {
    match event {
        Event::Connected { node } => tracing::info!(%node, "connected to nsqd"),
        Event::Disconnected { node, reason } => tracing::warn!(%node, %reason, "disconnected from nsqd"),
        Event::LookupFailed(error) => tracing::warn!(%error, "lookup failed"),
        Event::AnswerFailed { node, code, description } => {
            tracing::warn!(%node, code, description, "nsqd refused an answer");
        }
        Event::GaveUp { id, attempts, reason } => {
            tracing::warn!(%id, attempts, reason, "message given up");
        }
        Event::GiveUpFailed { id, node, attempts, error } => {
            tracing::error!(%id, %node, attempts, %error, "message could not be given up, requeued");
        }
        Event::HandlerFailed { id, node, attempts, error } => {
            tracing::warn!(%id, %node, attempts, %error, "handler failed");
        }
        Event::Late { id, node, attempts, late_by } => {
            tracing::warn!(%id, %node, attempts, ?late_by, "message answered after its deadline");
        }
        Event::HandlerPanicked { id } => tracing::error!(%id, "handler panicked"),
        Event::BackingOff { level, pause } => tracing::warn!(level, ?pause, "backing off"),
        Event::Recovered => tracing::info!("backoff ended"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Level, Metadata, Subscriber};

    use super::*;

    /// Keeps the level and the fields of each record.
    #[derive(Clone, Default)]
    struct Records(Arc<Mutex<Vec<(Level, String)>>>);

    struct Fields(String);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            self.0.push_str(&format!("{field}={value:?} "));
        }
    }

    impl Subscriber for Records {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = Fields(String::new());
            event.record(&mut fields);
            self.0.lock().push((*event.metadata().level(), fields.0));
        }
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn a_failed_handler_is_a_warning_with_id_node_attempts_and_error() {
        let records = Records::default();
        let id = nsq_protocol::MessageId(*b"0123456789abcdef");
        let failed = Event::HandlerFailed { id, node: "a:1".into(), attempts: 3, error: "disk full".into() };
        tracing::subscriber::with_default(records.clone(), || log(&failed));
        let (level, text) = records.0.lock().remove(0);
        assert_eq!(level, Level::WARN);
        for part in ["handler failed", "id=0123456789abcdef", "node=a:1", "attempts=3", "error=disk full"] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
