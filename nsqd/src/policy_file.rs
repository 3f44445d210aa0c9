//! Reads the policy file at start and whenever it changes, and applies it to all topics and channels.

use std::path::PathBuf;

use nsq_daemon::log::Logger;
use nsq_daemon::watched_file::{FileError, WatchedFile};
use tokio_util::sync::CancellationToken;

use crate::policy::file::{InvalidPolicies, PolicyFile};
use crate::topic::registry::Registry;

/// The policy file in use; see the module.
pub struct PolicyFileWatch {
    file: WatchedFile,
    logger: Logger,
}

impl PolicyFileWatch {
    /// Reads the file for the first time.
    pub async fn open(
        path: PathBuf,
        logger: Logger,
    ) -> Result<(Self, PolicyFile), FileError<InvalidPolicies>> {
        let (file, policies) = WatchedFile::open(path, PolicyFile::parse).await?;
        nsq_daemon::info!(logger, "POLICY: {} policies from {}", policies.len(), file.path().display());
        let watch = PolicyFileWatch { file, logger };
        watch.warn(&policies);
        Ok((watch, policies))
    }

    /// Reads the file now. If it cannot be used, logs the reason and keeps the current policies.
    pub async fn reload(&self, registry: &Registry) {
        match self.file.read(PolicyFile::parse).await {
            None => {}
            Some(Ok(policies)) => {
                let count = policies.len();
                self.warn(&policies);
                registry.set_policy_file(policies);
                for topic in registry.all_unsorted() {
                    topic.expire_now().await;
                }
                // Logged once the policies are in force: tests and operators may wait for this line.
                nsq_daemon::info!(
                    self.logger,
                    "POLICY: {count} policies from {}",
                    self.file.path().display()
                );
            }
            Some(Err(error)) => {
                nsq_daemon::error!(self.logger, "POLICY: keeping the current policies - {error}");
            }
        }
    }

    fn warn(&self, policies: &PolicyFile) {
        for (line, warning) in policies.warnings() {
            nsq_daemon::warn!(self.logger, "POLICY: {}, line {line}: {warning}", self.file.path().display());
        }
    }

    /// Reads the file whenever it changes, until `stop` is cancelled.
    pub async fn watch(&self, registry: &Registry, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = self.file.changed() => self.reload(registry).await,
                () = stop.cancelled() => return,
            }
        }
    }
}
