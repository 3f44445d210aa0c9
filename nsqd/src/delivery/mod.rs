//! From a channel to a consumer's output.
//!
//! A consumer that was woken, or whose FIN made room, takes its share in batches straight into its output, as long
//! as there is something to take and room to put it. What is on disk is loaded in between, a block at a time.

pub mod output;

use std::sync::Arc;

pub use self::output::{OUTPUT_BYTES, Output};
use crate::channel::{Channel, ConsumerKey, TakeEnd};
use crate::clock;
use crate::log::chunk;
use crate::metrics::Metrics;

/// Takes what the consumer may have now. Returns whether there may be more once output has drained; if not, the
/// consumer will be woken.
pub fn deliver(channel: &Arc<Channel>, key: ConsumerKey, output: &mut Output, metrics: &Metrics) -> bool {
    loop {
        // A slow reader makes room in small steps: worth a take only when some has come together. Without room it is
        // told to the channel all the same, which may have woken us and would wait for us before it wakes another.
        let room = if output.room() < OUTPUT_BYTES / 2 { 0 } else { output.room() };
        let before = output.frames().len();
        let taken = channel.take(key, output.frames(), room);
        if taken.count > 0 {
            metrics.delivered_messages.add(taken.count);
            if let Some(published_at) = chunk::first_delivery(&output.frames()[before..]) {
                let latency = clock::wall_at(taken.at).saturating_sub(published_at);
                metrics.deliveries.record_ns(u64::try_from(latency).unwrap_or(0));
            }
        }
        match taken.end {
            TakeEnd::Parked | TakeEnd::Satisfied => return false,
            TakeEnd::Full => return true,
            TakeEnd::OnDisk => {
                if let Some(request) = taken.request {
                    // Most blocks come from the page cache in microseconds; a hop to another thread costs more.
                    let loaded = request.load();
                    channel.loaded(&request, loaded);
                }
            }
        }
    }
}
