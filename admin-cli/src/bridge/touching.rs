//! Touches one message while it is worked on.

use std::time::Instant;

use nsq::Delivery;
use tokio::time::sleep_until;

use super::held::touch_time;

/// Waits for `work`, and touches the message before its deadline, as often as nsqd allows.
pub async fn while_touching<T>(message: &Delivery, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    let mut touch_at = touch_time(message.received_at(), message.deadline());
    loop {
        let Some(at) = touch_at else { return work.await };
        tokio::select! {
            done = &mut work => return done,
            () = sleep_until(at.into()) => {
                // If it is too late, nsqd delivers the message again.
                let now = Instant::now();
                touch_at = message.touch().ok().and_then(|()| touch_time(now, message.deadline()));
            }
        }
    }
}
