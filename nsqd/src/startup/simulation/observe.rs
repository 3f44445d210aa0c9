//! Recovers a disk and reads everything in it by taking it, as consumers would.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_daemon::log::{Level, Logger};
use nsq_protocol::headers::{self, remove_headers};
use nsq_protocol::{ChannelName, MessageView, StartAt};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

use super::deduplicating::ID_COUNT;
use super::model::Body;
use super::ordering::FAIR;
use crate::channel::saved::Clocks;
use crate::channel::{Channel, ConsumerKey, TakeEnd};
use crate::client_info::ClientInfo;
use crate::clock;
use crate::damage::{Finding, Severity};
use crate::engine::EngineLimits;
use crate::log::index::sequence_of;
use crate::log::retention::Retention;
use crate::policy::bounds::Overflow;
use crate::policy::setting::Setting;
use crate::policy::settings::{self, Change, DEFAULT};
use crate::startup::{Recovered, RecoveryError, StartOptions, recover_and_report};
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::Disk;
use crate::storage::journal::JournalTiming;
use crate::storage::{Durability, Storage};
use crate::timers::Expire;
use crate::topic::registry::Registry;
use crate::topic::{Topic, TopicDepth};

pub const DIR: &str = "/data";

/// All limits are small, so that memory spills, files fill up and space is reclaimed all the time.
pub const LIMITS: EngineLimits = EngineLimits {
    mem_queue_size: 30,
    mem_queue_bytes: 4096,
    dedupe_max_ids: 4,
    node_id: 7,
    max_bytes_per_file: 4096,
    chunk_bytes: 700,
    journal_file_bytes: 4096,
    // Background writes happen when a step runs them, and never in the journal's thread. A seed's run is therefore
    // always the same.
    journal_timing: JournalTiming {
        flush_interval: Duration::from_secs(24 * 3600),
        retry_interval: Duration::ZERO,
    },
    ..EngineLimits::DEFAULT
};

/// Starts the engine on a disk.
pub fn start(storage: &FaultyStorage, durability: Durability) -> Result<Arc<Registry>, RecoveryError> {
    start_and_report(storage, durability).map(|recovered| recovered.registry)
}

/// Starts the engine in this directory.
pub fn start_in(
    storage: Arc<dyn Storage>,
    dir: &Path,
    durability: Durability,
) -> Result<Arc<Registry>, RecoveryError> {
    start_with(storage, dir, durability, Logger::silent()).map(|recovered| recovered.registry)
}

/// As [`start`], and returns the findings.
pub fn start_and_report(storage: &FaultyStorage, durability: Durability) -> Result<Recovered, RecoveryError> {
    start_with(Arc::new(storage.clone()), DIR.as_ref(), durability, Logger::silent())
}

fn start_with(
    storage: Arc<dyn Storage>,
    dir: &Path,
    durability: Durability,
    logger: Logger,
) -> Result<Recovered, RecoveryError> {
    let data_dir = DataDir::open(&storage, dir)?;
    recover_and_report(StartOptions {
        data_dir,
        storage,
        durability,
        limits: LIMITS,
        logger,
        oracle: None,
        policies: Arc::default(),
    })
}

/// What a start on this disk logs, for error messages.
pub fn logged(disk: &Disk, durability: Durability) -> String {
    let (logger, lines) = recording_logger();
    let started =
        start_with(Arc::new(FaultyStorage::from(disk.after_kill())), DIR.as_ref(), durability, logger);
    let lines = std::mem::take(&mut *lines.lock());
    started.err().map_or(lines.clone(), |error| format!("{lines}{error}"))
}

/// Returns a logger and the text that it has logged.
fn recording_logger() -> (Logger, Arc<Mutex<String>>) {
    let lines = Arc::new(Mutex::new(String::new()));
    let logger = Logger::to_function("", Level::Info, {
        let lines = lines.clone();
        move |line| {
            let mut lines = lines.lock();
            lines.push_str(line);
            lines.push('\n');
        }
    });
    (logger, lines)
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Observed {
    pub topics: BTreeMap<String, ObservedTopic>,
    pub findings: Vec<Finding>,
}

impl Observed {
    /// The findings of severity damage.
    pub fn damage(&self) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Damage).collect()
    }
}

#[derive(Debug, Default)]
pub struct ObservedTopic {
    pub paused: bool,
    pub owner: Option<u8>,
    pub message_count: u64,
    pub depth: u64,
    pub held: Vec<Delivery>,
    /// Not all channels got the same held messages.
    pub held_differs: bool,
    pub channels: BTreeMap<String, ObservedChannel>,
    /// Its retention limits.
    pub retention: Retention,
    /// What a new channel that starts at the oldest message gets; empty without retention.
    pub retained: Vec<Delivery>,
    /// Whether it remembers ids.
    pub dedupe: bool,
    /// The ids that it remembers.
    pub ids: BTreeSet<u8>,
}

#[derive(Debug, Default)]
pub struct ObservedChannel {
    pub paused: bool,
    pub retry: bool,
    pub max_attempts: u16,
    pub ttl: bool,
    pub order: u8,
    pub limits: u8,
    pub keeps_expired: bool,
    pub max_depth: u64,
    pub keeps_overflow: bool,
    pub filter: Option<bool>,
    pub message_count: u64,
    pub lost_count: u64,
    pub depth: u64,
    /// In the order of delivery; deferred messages last.
    pub deliveries: Vec<Delivery>,
    pub deferred_count: u64,
}

/// A delivered message.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    pub body: Body,
    pub attempts: u16,
    pub failures: u16,
    /// Its due time by the wall clock; 0 if it was not deferred.
    pub due_ns: i64,
}

/// Recovers a disk and takes everything.
pub fn observe(disk: Disk, durability: Durability, runtime: &Runtime) -> Result<Observed, String> {
    observe_in(Arc::new(FaultyStorage::from(disk)), DIR.as_ref(), durability, runtime)
}

/// As [`observe`], in this directory.
pub fn observe_in(
    storage: Arc<dyn Storage>,
    dir: &Path,
    durability: Durability,
    runtime: &Runtime,
) -> Result<Observed, String> {
    let started = start_with(storage, dir, durability, Logger::silent());
    observe_all(started, runtime)
}

/// As [`observe`], and returns what was logged.
pub fn observe_logged(
    disk: Disk,
    durability: Durability,
    runtime: &Runtime,
) -> Result<(Observed, String), String> {
    let (logger, lines) = recording_logger();
    let started = start_with(Arc::new(FaultyStorage::from(disk)), DIR.as_ref(), durability, logger);
    let observed = observe_all(started, runtime)?;
    let lines = std::mem::take(&mut *lines.lock());
    Ok((observed, lines))
}

fn observe_all(started: Result<Recovered, RecoveryError>, runtime: &Runtime) -> Result<Observed, String> {
    let Recovered { registry, report } = started.map_err(|error| format!("cannot start: {error}"))?;
    let mut observed = Observed { findings: report.found.findings, ..Observed::default() };
    for topic in registry.all() {
        observed.topics.insert(topic.name().to_string(), observe_topic(&topic, runtime)?);
    }
    Ok(observed)
}

fn observe_topic(topic: &Arc<Topic>, runtime: &Runtime) -> Result<ObservedTopic, String> {
    let TopicDepth { depth, paused, .. } = topic.depth();
    let owner = topic.own_settings().get(Setting::Owner).and_then(|value| value.to_string().parse().ok());
    let mut observed = ObservedTopic {
        paused,
        owner,
        depth,
        message_count: topic.counters().message_count,
        retention: topic.log().retention(),
        dedupe: topic.own_settings().get(Setting::Dedupe).is_some(),
        ids: (0..ID_COUNT).filter(|id| topic.remembers(&id.to_string())).collect(),
        ..ObservedTopic::default()
    };
    for channel in topic.channels() {
        observed.channels.insert(channel.name().to_string(), observe_channel(topic, &channel)?);
    }
    topic.set_paused(false);
    if observed.channels.is_empty() && topic.depth().depth > 0 {
        let name = ChannelName::new("probe").map_err(|error| error.to_string())?;
        runtime.block_on(topic.get_or_create_channel(&name)).map_err(|error| error.to_string())?;
    }
    let mut held: Option<Vec<Delivery>> = None;
    for channel in topic.channels() {
        let came = observe_channel(topic, &channel)?.deliveries;
        let bodies = |of: &[Delivery]| of.iter().map(|delivery| delivery.body).collect::<BTreeSet<_>>();
        observed.held_differs |= held.as_ref().is_some_and(|held| bodies(held) != bodies(&came));
        held = held.filter(|held| held.len() >= came.len()).or(Some(came));
    }
    observed.held = held.unwrap_or_default();
    if topic.log().is_retaining() {
        let name = ChannelName::new("retained#ephemeral").map_err(|error| error.to_string())?;
        let made = runtime.block_on(topic.get_or_create_channel_at(&name, StartAt::Earliest));
        observed.retained = observe_channel(topic, &made.map_err(|error| error.to_string())?)?.deliveries;
    }
    Ok(observed)
}

/// Takes everything from a channel.
pub fn observe_channel(topic: &Topic, channel: &Arc<Channel>) -> Result<ObservedChannel, String> {
    let clocks = Clocks { monotonic: clock::monotonic(), wall_ns: clock::wall_ns() };
    let mut observed = channel.inspect(|state, _| ObservedChannel {
        paused: state.is_paused(),
        retry: state.own_settings().get(Setting::Retry).is_some(),
        max_attempts: state.own_settings().get(Setting::MaxAttempts).map_or(0, |max| max.count() as u16),
        ttl: state.own_settings().get(Setting::Ttl).is_some(),
        order: match state.own_settings().get(Setting::Fair) {
            Some(_) => FAIR,
            None => state.own_settings().get(Setting::Order).map_or(0, |order| order.order() as u8),
        },
        limits: state.own_settings().get(Setting::MaxInFlight).map_or(0, |most| most.count() as u8),
        keeps_expired: state.own_settings().get(Setting::DeadLetter).is_some(),
        max_depth: state.own_settings().get(Setting::MaxDepth).map_or(0, |most| most.count()),
        keeps_overflow: state
            .own_settings()
            .get(Setting::Overflow)
            .is_some_and(|value| value.overflow() == Overflow::DeadLetter),
        filter: state.own_settings().get(Setting::Filter).map(|filter| filter.to_string().contains('!')),
        message_count: state.counters().message_count,
        depth: state.depth() + state.exhausted_count() as u64,
        deferred_count: state.deferred_count() as u64,
        ..ObservedChannel::default()
    });
    let saved = channel.inspect(|state, _| state.save(clocks));
    let due: BTreeMap<u64, i64> =
        saved.outstanding.iter().map(|entry| (entry.sequence, entry.due_ns)).collect();
    let failures: BTreeMap<u64, u16> = saved.failures.iter().copied().collect();
    channel.set_paused(false);
    // Otherwise the messages that come back now could exceed the bound, not match the filter or come too slowly. The order
    // stays: each message is finished before the next one of its key comes.
    let all = [("max_depth", DEFAULT), ("filter", DEFAULT), ("rate", DEFAULT), ("max_in_flight", DEFAULT)];
    let unbounded = Change::parse(settings::Level::Channel, all.into_iter());
    let unbounded = unbounded.map_err(|error| error.to_string())?;
    topic.change_channel_settings(channel, &unbounded).map_err(|error| error.to_string())?;
    channel.unset_aside();
    let key = subscribe(channel)?;
    for pass in 0..2 {
        loop {
            let mut out = Vec::new();
            take_into(channel, key, &mut out, 1 << 20);
            if out.is_empty() {
                break;
            }
            let mut run = channel.acknowledge(key);
            for message in messages(&out)? {
                run.finish(message.sequence).map_err(|error| format!("cannot finish: {error:?}"))?;
                let due_ns = due.get(&message.sequence).copied().unwrap_or(0);
                let failures = failures.get(&message.sequence).copied().unwrap_or(0);
                let (body, attempts) = (message.body, message.attempts);
                observed.deliveries.push(Delivery { body, attempts, failures, due_ns });
            }
        }
        if pass == 0 {
            Expire::expire(&**channel, u64::MAX / 2);
        }
    }
    channel.unsubscribe(key);
    observed.lost_count = channel.inspect(|state, _| state.counters().lost_count);
    Ok(observed)
}

/// Subscribes a consumer with a very high RDY count.
pub fn subscribe(channel: &Channel) -> Result<ConsumerKey, String> {
    let info = Arc::new(ClientInfo::new("@".to_owned(), 0));
    let subscribed = channel.subscribe(info, 60_000_000_000, 0, 0);
    let (key, _) = subscribed.ok().flatten().ok_or("cannot subscribe")?;
    channel.set_ready_count(key, 1 << 20);
    Ok(key)
}

/// Takes until the consumer has everything available, or `room` bytes.
pub fn take_into(channel: &Channel, key: ConsumerKey, out: &mut Vec<u8>, room: usize) {
    loop {
        let taken = channel.take(key, out, room.saturating_sub(out.len()));
        match (taken.end, taken.request) {
            (TakeEnd::OnDisk, Some(request)) => request.execute(),
            _ => return,
        }
    }
}

/// A message as delivered.
#[derive(Clone, Copy, Debug)]
pub struct Came {
    pub sequence: u64,
    pub body: Body,
    pub attempts: u16,
}

/// Parses the frames. Checks every byte of the bodies.
pub fn messages(frames: &[u8]) -> Result<Vec<Came>, String> {
    let mut plain = frames.to_vec();
    remove_headers(&mut plain, 0);
    let mut frames = &plain[..];
    let mut found = Vec::new();
    while let Some((size, rest)) = frames.split_first_chunk::<4>() {
        let (whole, _) = frames.split_at(size.len() + u32::from_be_bytes(*size) as usize);
        let (frame, rest) = rest.split_at(u32::from_be_bytes(*size) as usize);
        let message = MessageView::parse(&frame[4..]).ok_or("invalid message frame")?;
        let (_, found_body) = headers::split_stored(whole).ok_or("invalid headers")?;
        let number =
            found_body.first_chunk().map(|number| u64::from_be_bytes(*number)).ok_or("short body")?;
        if found_body != body(number, found_body.len() - 8) {
            return Err(format!("wrong body of message {number}: {found_body:?}"));
        }
        let id = message.id.to_u64().ok_or("invalid message id")?;
        found.push(Came { sequence: sequence_of(id), body: number, attempts: message.attempts });
        frames = rest;
    }
    Ok(found)
}

/// A body contains its number and a filler that reveals wrong bytes.
pub fn body(number: Body, size: usize) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.extend((0..size).map(|index| (number as usize * 31 + index) as u8));
    body
}
