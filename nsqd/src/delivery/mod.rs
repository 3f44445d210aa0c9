//! From a channel to a consumer's output.
//!
//! A consumer that was woken, or whose FIN made room, takes its share in batches straight into its output, as long
//! as there is something to take and room to put it. What is on disk is read elsewhere: the consumer is woken when it is
//! there.

pub mod output;

use std::sync::Arc;

pub use self::output::{OUTPUT_BYTES, Output};
use crate::channel::{Channel, ConsumerKey, TakeEnd};
use crate::clock;
use crate::engine::Engine;
use crate::log::chunk;

/// Takes what the consumer may have now. Returns whether there may be more once output has drained; if not, the
/// consumer will be woken.
pub fn deliver(channel: &Arc<Channel>, key: ConsumerKey, output: &mut Output, engine: &Engine) -> bool {
    // A slow reader makes room in small steps: worth a take only when some has come together. Without room it is told to
    // the channel all the same, which may have woken us and would wait for us before it wakes another.
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
    }
    if let Some(request) = taken.request {
        engine.log_context.disk_work.read(move || request.execute());
    }
    match taken.end {
        TakeEnd::Parked | TakeEnd::Satisfied | TakeEnd::OnDisk => false,
        TakeEnd::Full => true,
    }
}
