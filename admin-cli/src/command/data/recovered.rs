//! Topics and channels as a start would find them: the daemon's own recovery, over a view that cannot change the
//! directory.

use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::{Level, Logger};
use nsqd::config::Config;
use nsqd::engine::EngineLimits;
use nsqd::startup::{self, StartOptions};
use nsqd::storage::Durability;
use nsqd::topic::registry::Registry;
use parking_lot::Mutex;

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
    /// Warnings that a start would log.
    pub warnings: Vec<String>,
}

/// Recovers all topics and channels.
pub fn recover(directory: &Directory) -> Result<Recovered, Failure> {
    let View { storage, data_dir } = directory.view()?;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let logger = Logger::to_function("", Level::Warn, move |line| {
        // The text follows the time and the level.
        let text = line.split_once(": ").map_or(line, |(_, text)| text);
        sink.lock().push(text.to_owned());
    });
    let options = StartOptions {
        storage,
        data_dir,
        durability: Durability::Write,
        limits: limits(),
        logger,
        oracle: None,
    };
    let registry = startup::recover(options).map_err(|error| {
        Failure::failed(format_args!("{}: a start of nsqd would fail: {error}", directory.path().display()))
            .hint("run `nsq data verify` to find the damage")
    })?;
    let warnings = std::mem::take(&mut *lines.lock());
    Ok(Recovered { registry, warnings })
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
