//! Blocking work for a task that must continue even if the work panics.

use std::time::Duration;

use tokio::task::{JoinError, spawn_blocking};

/// Time after which another thread is requested.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs `work` on a thread that may block. Returns an error if `work` panics.
///
/// When the system cannot create a thread (process limit, no memory), the runtime queues the work and requests a thread
/// only when more work arrives. This function therefore keeps requesting one until the work is done.
///
/// Dropping the future does not stop the work.
pub async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    let mut working = spawn_blocking(work);
    loop {
        match tokio::time::timeout(PATIENCE, &mut working).await {
            Ok(done) => return done,
            Err(_) => drop(spawn_blocking(|| ())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn panic_in_work_is_an_error() {
        assert_eq!(run(|| 1).await.unwrap(), 1);
        assert!(run(|| panic!("on purpose")).await.is_err());
    }

    #[test]
    fn work_runs_once_a_thread_is_free() {
        let one_thread =
            tokio::runtime::Builder::new_current_thread().enable_time().max_blocking_threads(1).build();
        one_thread.unwrap().block_on(async {
            let (open, gate) = std::sync::mpsc::channel::<()>();
            let blocking = spawn_blocking(move || gate.recv().is_err());
            let mut work = std::pin::pin!(run(|| 2));
            let patience = tokio::time::timeout(2 * PATIENCE, &mut work).await;
            assert!(patience.is_err(), "there is no thread");
            drop(open);
            assert_eq!((work.await.unwrap(), blocking.await.unwrap()), (2, true));
        });
    }
}
