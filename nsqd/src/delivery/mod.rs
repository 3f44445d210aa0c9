//! Delivers messages from a channel to a consumer's output.
//!
//! A consumer that was woken, or whose FIN made room, takes its share in batches directly into its output, while there
//! are messages to take and room for them. Another thread reads messages from disk; the consumer is woken when they are
//! read.

pub mod output;

use std::sync::Arc;

use nsq_protocol::headers;

pub use self::output::{OUTPUT_BYTES, Output};
use crate::channel::{Channel, ConsumerKey, TakeEnd};
use crate::clock;
use crate::engine::Engine;
use crate::log::chunk;

/// Takes the messages that the consumer may have now, with their headers if it was granted these. Returns whether there
/// may be more once output has drained. If not, the consumer will be woken.
pub fn deliver(
    channel: &Arc<Channel>,
    key: ConsumerKey,
    with_headers: bool,
    output: &mut Output,
    engine: &Engine,
) -> bool {
    // A slow reader makes room in small steps: a take is worthwhile only when half is free. Call the channel even
    // without room: it may have woken us, and wakes no other consumer before we take.
    let room = if output.room() < OUTPUT_BYTES / 2 { 0 } else { output.room() };
    let before = output.frames().len();
    let taken = channel.take(key, output.frames(), room);
    if taken.count > 0 {
        let metrics = engine.metrics();
        metrics.delivered_messages.add(taken.count);
        if let Some(published_at) = chunk::first_delivery(&output.frames()[before..]) {
            let latency = clock::wall_at(taken.at).saturating_sub(published_at);
            metrics.deliveries.record_ns(u64::try_from(latency).unwrap_or(0));
        }
        if with_headers {
            headers::add_versions(output.frames(), before);
        } else if channel.log().has_headers() {
            headers::remove_headers(output.frames(), before);
        }
    }
    if let Some(request) = taken.request {
        engine.log_context.disk_work.read(move || request.execute());
    }
    match taken.end {
        TakeEnd::Parked | TakeEnd::Satisfied | TakeEnd::OnDisk => false,
        TakeEnd::Full => true,
    }
}
