//! The signals that end a program.

/// Waits for SIGINT (Ctrl-C) or SIGTERM, for [`Consumer::run_until`](crate::Consumer::run_until). The first call replaces the
/// default action of both signals, which is to end the program at once.
///
/// If the signals cannot be received, waits forever: the program then ends at once as without this function.
pub async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signals) => drop(signals.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = terminated => {}
        () = interrupted => {}
    }
}
