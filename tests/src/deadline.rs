//! Runs one test in its own runtime, with an overall deadline.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

/// Default time limit of a test: generous, because a busy machine is not a defect.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs `body` on a multi-thread runtime; panics when it takes longer than a minute.
pub fn test(body: impl Future<Output = ()>) {
    test_within(DEADLINE, body);
}

/// Runs `body` on a multi-thread runtime; panics when it takes longer than `deadline`.
pub fn test_within(deadline: Duration, body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a tokio runtime starts");
    runtime.block_on(async {
        // Pinned outside the timeout, so that a panic drops the daemons in it: then they print their logs.
        let mut body = pin!(body);
        if tokio::time::timeout(deadline, &mut body).await.is_err() {
            panic!("the test took longer than {deadline:?}");
        }
    });
    runtime.shutdown_background();
}
