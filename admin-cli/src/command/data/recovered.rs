//! Topics and channels as a start would find them: the daemon's own recovery, over a view that cannot change the
//! directory.

use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsqd::config::Config;
use nsqd::engine::EngineLimits;
use nsqd::startup::{self, StartOptions};
use nsqd::storage::Durability;
use nsqd::topic::registry::Registry;

use super::directory::{Directory, View};
use crate::exit_status::Failure;

/// Beyond this, messages that are only in the journal go to a temporary file, so that a topic needs no more memory
/// here than in a daemon.
const MEMORY_BYTES_PER_TOPIC: usize = 16 << 20;
/// No limit in effect, so that due times are reported as they are saved.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The result of a recovery.
pub struct Recovered {
    pub registry: Arc<Registry>,
    /// The damage that a start would report.
    pub warnings: Vec<String>,
}

/// Recovers all topics and channels.
pub fn recover(directory: &Directory) -> Result<Recovered, Failure> {
    let View { storage, data_dir } = directory.view()?;
    let options = StartOptions {
        storage,
        data_dir,
        durability: Durability::Write,
        limits: limits(),
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    };
    let recovered = startup::recover_and_report(options).map_err(|error| {
        Failure::failed(format_args!("{}: a start of nsqd would fail: {error}", directory.path().display()))
            .hint("run `nsq data verify` to find the damage")
    })?;
    Ok(Recovered { registry: recovered.registry, warnings: recovered.report.warnings() })
}

/// A daemon's limits, except those that would change the result.
pub fn limits() -> EngineLimits {
    EngineLimits {
        mem_queue_size: u64::MAX,
        mem_queue_bytes: MEMORY_BYTES_PER_TOPIC,
        max_req_timeout: NO_LIMIT,
        ..Config::default().engine_limits()
    }
}
