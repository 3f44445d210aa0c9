//! Waiting for a stop signal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal as listen_for};

/// The signals for an orderly stop: SIGINT and SIGTERM.
///
/// Create it early, so that a signal during the daemon's start is not lost. From then on these signals no longer kill
/// the process; repeated ones are ignored while it stops.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Starts to catch the signals. Requires a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: listen_for(SignalKind::interrupt())?,
            terminate: listen_for(SignalKind::terminate())?,
        })
    }

    /// Waits for one of the signals. Dropping the future loses no signal.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for SIGINT or SIGTERM. Misses signals that arrive before the call: prefer [`StopSignals`], created before the
/// daemon starts.
pub async fn signal() -> io::Result<()> {
    StopSignals::catch()?.wait().await;
    Ok(())
}
