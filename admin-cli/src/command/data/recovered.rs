//! Topics and channels as a start would find them: the daemon's own recovery, over a view that it cannot change.

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

/// Past this, messages that only the journal has go to a temporary file: a topic should not cost more here than in a
/// daemon.
const MEMORY_BYTES_PER_TOPIC: usize = 16 << 20;
/// Due times are told as they are saved, however far away they are.
const NO_LIMIT: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// What a start would find.
pub struct Recovered {
    /// All topics.
    pub registry: Arc<Registry>,
    /// What it would warn of.
    pub warnings: Vec<String>,
}

/// Recovers.
pub fn recover(directory: &Directory) -> Result<Recovered, Failure> {
    let View { storage, data_dir } = directory.view()?;
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = lines.clone();
    let logger = Logger::to_function("", Level::Warn, move |line| {
        // Behind the moment and the level.
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
        Failure::failed(format_args!("{}: a start would fail: {error}", directory.path().display()))
            .hint("`nsq data verify` says what is damaged")
    })?;
    let warnings = std::mem::take(&mut *lines.lock());
    Ok(Recovered { registry, warnings })
}

/// As a daemon's, but for what would change what is told.
pub fn limits() -> EngineLimits {
    EngineLimits {
        mem_queue_size: u64::MAX,
        mem_queue_bytes: MEMORY_BYTES_PER_TOPIC,
        max_req_timeout: NO_LIMIT,
        ..Config::default().engine_limits()
    }
}
