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

/// A signal that requests a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGINT, such as Ctrl-C.
    Interrupt,
    /// SIGTERM.
    Terminate,
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
        self.next().await;
    }

    /// Like [`StopSignals::wait`], and returns which one it was.
    pub async fn next(&mut self) -> StopSignal {
        tokio::select! {
            _ = self.interrupt.recv() => StopSignal::Interrupt,
            _ = self.terminate.recv() => StopSignal::Terminate,
        }
    }
}

/// Waits for SIGINT or SIGTERM. Misses signals that arrive before the call: prefer [`StopSignals`], created before the
/// daemon starts.
pub async fn signal() -> io::Result<()> {
    StopSignals::catch()?.wait().await;
    Ok(())
}
