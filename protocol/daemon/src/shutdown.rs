//! Waiting to be told to stop.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal as listen_for};

/// The signals that ask a daemon to stop in good order: SIGINT and SIGTERM.
///
/// Made early, so that a signal that arrives while the daemon is still starting is not lost. Once it
/// exists these signals no longer kill the process: repeated ones are ignored while it stops.
#[derive(Debug)]
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// Starts to catch the signals. Needs a tokio runtime.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            interrupt: listen_for(SignalKind::interrupt())?,
            terminate: listen_for(SignalKind::terminate())?,
        })
    }

    /// Waits for one of them. Dropping the future loses nothing.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Waits for SIGINT or SIGTERM. Signals that came before the call are not seen: prefer
/// [`StopSignals`], made before the daemon starts.
pub async fn signal() -> io::Result<()> {
    StopSignals::catch()?.wait().await;
    Ok(())
}
