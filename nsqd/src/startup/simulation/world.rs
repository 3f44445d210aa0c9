//! Runs the steps of a workload on the engine and on the model, and records the changes of the disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nsq_protocol::{ChannelName, MESSAGE_FRAME_OVERHEAD, TopicName};
use tokio::runtime::Runtime;

use super::compare;
use super::dead_letters::{HEADERS_BYTES, is_dead_topic};
use super::medium::{Cut, Medium};
use super::model::{Body, ChannelModel, Due, MessageModel, Model, NEXT_BODY, TopicModel};
use super::observe::{self, Came, DIR, Observed};
use super::ordering::FAIR;
use super::settings;
use super::steps::Step;
use crate::channel::{Channel, ConsumerKey};
use crate::clock;
use crate::storage::block::BLOCK_HEADER_BYTES;
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::{Change, Disk};
use crate::storage::{Durability, TopicNumber};
use crate::timers::Expire;
use crate::topic::Topic;
use crate::topic::registry::Registry;
use crate::upkeep::{checkpoint, journal_files, segments, stop};

const TOPICS: [&str; 4] = ["t", "..", "orders.x", "e#ephemeral"];
const CHANNELS: [&str; 4] = ["a", "b", "c.d", "x#ephemeral"];
/// Channels that outlive the process.
pub const DURABLE_CHANNELS: [&str; 3] = ["a", "b", "c.d"];

/// The time from one start to the next.
#[derive(Default)]
pub struct Life {
    /// The disk at the start.
    pub base: Disk,
    /// Changes of the disk, including those of the recovery.
    pub changes: Vec<Change>,
    /// States of the model, one after each step.
    pub states: Vec<State>,
    pub ephemeral: BTreeSet<TopicNumber>,
}

/// A state of the model.
pub struct State {
    pub model: Arc<Model>,
    /// Number of disk changes when the step began.
    pub begun: usize,
    /// After this many disk changes, a start must find this state or a later one.
    pub durable: usize,
}

impl Life {
    /// Checks that nothing ephemeral is on disk.
    pub fn check_ephemeral(&self, disk: &Disk) -> Result<(), String> {
        let topics = Path::new(DIR).join("topics");
        let dirs: Vec<_> = self.ephemeral.iter().map(|number| topics.join(number.to_string())).collect();
        match disk.paths().iter().find(|path| dirs.iter().any(|dir| path.starts_with(dir))) {
            Some(path) => Err(format!("{} is of an ephemeral topic", path.display())),
            None => Ok(()),
        }
    }

    /// States that a start may find after this many changes. With `torn`, part of the next change was made as well.
    pub fn candidates(&self, changes: usize, torn: bool) -> Vec<&Model> {
        let durable = self.states.iter().rposition(|state| state.durable <= changes).unwrap_or(0);
        let begun = |state: &State| state.begun < changes || (torn && state.begun == changes);
        let last = self.states.iter().rposition(begun).unwrap_or(0).max(durable);
        let mut models: Vec<&Model> = Vec::new();
        for state in &self.states[durable..=last] {
            if !models.last().is_some_and(|last| std::ptr::eq(*last, &*state.model)) {
                models.push(&state.model);
            }
        }
        models
    }
}

/// How a life may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    Kill,
    PowerLoss,
}

/// The kind of crash, and what must survive it.
#[derive(Clone, Copy, Debug)]
pub struct Contract {
    pub durability: Durability,
    pub crash: Crash,
    /// Files that are also damaged at the final crash.
    pub lost: Lost,
}

/// Files that are damaged or missing after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    Checkpoint,
    AllCheckpoints,
}

impl Contract {
    /// Whether acknowledged messages must survive.
    pub fn keeps_all(self) -> bool {
        match self.crash {
            Crash::Kill => self.durability != Durability::Overflow,
            Crash::PowerLoss => self.durability == Durability::Sync,
        }
    }
}

/// See the module.
pub struct World<'r> {
    pub(super) contract: Contract,
    pub(super) runtime: &'r Runtime,
    medium: Medium,
    registry: Option<Arc<Registry>>,
    consumers: BTreeMap<(String, String), (Arc<Channel>, ConsumerKey)>,
    pub(super) model: Model,
    /// The model in the newest state.
    recorded: Arc<Model>,
    next_body: Body,
    /// Topic of each published message.
    pub published: BTreeMap<Body, String>,
    /// Size of each message on disk.
    sizes: BTreeMap<Body, u64>,
    current: Life,
    /// Number of disk changes when the step began.
    begun: usize,
    pub lives: Vec<Life>,
    /// Messages that became dead letters, and dead letters that were redriven.
    pub moved: (u64, u64),
    /// Messages that expired and were dropped.
    pub expired_count: u64,
    /// Messages beyond a bound that were dropped or set aside.
    pub overflow_count: u64,
    /// Messages that consumers rejected.
    pub rejected_count: u64,
    /// Messages that matched no filter.
    pub filtered_count: u64,
    pub cancelled_count: u64,
    pub rescheduled_count: u64,
    /// Messages published with a short time to live of their own.
    pub short_lived_count: u64,
    /// Messages published with keys.
    pub keyed_count: u64,
    /// Messages that an undo brought back.
    pub undone_count: u64,
    /// Bodies of messages with headers.
    pub(super) with_headers: BTreeSet<Body>,
    seed: u64,
    /// Whether the disk may fail, so that operations may be refused.
    pub tolerates_faults: bool,
    /// Which steps may run during a checkpoint.
    pub does_meanwhile: fn(&Step) -> bool,
}

impl<'r> World<'r> {
    /// Starts on an empty simulated disk.
    pub fn new(contract: Contract, seed: u64, runtime: &'r Runtime) -> Result<Self, String> {
        Self::on(Medium::simulated()?, contract, seed, runtime)
    }

    /// Starts on this empty medium.
    pub fn on(medium: Medium, contract: Contract, seed: u64, runtime: &'r Runtime) -> Result<Self, String> {
        let model = Arc::new(Model::default());
        let mut world = World {
            contract,
            runtime,
            medium,
            registry: None,
            consumers: BTreeMap::new(),
            model: Model::default(),
            recorded: model,
            next_body: NEXT_BODY,
            published: BTreeMap::new(),
            sizes: BTreeMap::new(),
            current: Life::default(),
            begun: 0,
            lives: Vec::new(),
            moved: (0, 0),
            expired_count: 0,
            overflow_count: 0,
            rejected_count: 0,
            filtered_count: 0,
            cancelled_count: 0,
            rescheduled_count: 0,
            short_lived_count: 0,
            keyed_count: 0,
            undone_count: 0,
            with_headers: BTreeSet::new(),
            seed,
            tolerates_faults: false,
            does_meanwhile: match contract.lost {
                Lost::AllCheckpoints => can_follow_without_checkpoints,
                Lost::Nothing | Lost::Checkpoint => |_| true,
            },
        };
        world.begin(Model::default())?;
        Ok(world)
    }

    /// Starts on the medium, whose content must match `model`.
    fn begin(&mut self, model: Model) -> Result<(), String> {
        let base = self.medium.begin();
        self.model = model;
        self.recorded = Arc::new(self.model.durable());
        let first = State { model: self.recorded.clone(), begun: 0, durable: 0 };
        self.current = Life { base, states: vec![first], ..Life::default() };
        let (storage, dir) = (self.medium.storage(), self.medium.dir());
        let registry = observe::start_in(storage, dir, self.contract.durability).map_err(text)?;
        for topic in registry.all() {
            for channel in topic.channels() {
                self.subscribe(&topic, channel)?;
            }
        }
        self.registry = Some(registry);
        self.observe_overflow().map(drop)
    }

    /// The simulated disk. Panics if the files are real.
    pub fn storage(&self) -> &FaultyStorage {
        match &self.medium {
            Medium::Simulated(storage) => storage,
            Medium::Real(_) => panic!("there is no simulated disk"),
        }
    }

    /// See [`Medium::change_count`].
    pub(super) fn change_count(&self) -> usize {
        self.medium.change_count()
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What a start must find now.
    pub fn durable_model(&self) -> Model {
        self.model.durable()
    }

    /// The engine's health. Includes failing reads.
    pub fn health(&self) -> Result<Result<(), String>, String> {
        Ok(self.registry()?.engine().health().map_err(|failure| failure.to_string()))
    }

    /// Runs the daemon's background work once more, on a disk that works again.
    pub fn resume(&mut self) -> Result<(), String> {
        segments::retry_spills(self.registry()?);
        for step in [Step::Flush, Step::Retire, Step::Clean, Step::Checkpoint] {
            self.apply(step, usize::MAX).map_err(|error| format!("healed, {step:?}: {error}"))?;
        }
        Ok(())
    }

    /// Publishes a message to each topic. Returns whether any was refused.
    pub fn publishes(&mut self) -> Result<bool, String> {
        let before = self.model.topics.values().map(|topic| topic.message_count).sum::<u64>();
        let names: Vec<_> = self.model.topics.keys().cloned().collect();
        let tolerated = std::mem::replace(&mut self.tolerates_faults, true);
        for name in &names {
            self.publish(std::slice::from_ref(name), 1, 10, None)?;
        }
        self.tolerates_faults = tolerated;
        self.observe_overflow()?;
        let after = self.model.topics.values().map(|topic| topic.message_count).sum::<u64>();
        Ok(after - before < names.len() as u64)
    }

    /// Takes all messages, as if all time had passed. They must match the model.
    pub fn drain(&mut self) -> Result<(), String> {
        for (index, name) in self.consumers.keys().cloned().collect::<Vec<_>>().into_iter().enumerate() {
            let pick = u8::try_from(index).map_err(text)?;
            // The first advance retries suspended messages, and makes deferred ones due.
            self.set_limits(pick, 0)?;
            for _ in 0..2 {
                self.advance(pick)?;
                self.take(pick, 1 << 20)?;
            }
            while self.model.channel(&name).is_some_and(|channel| channel.order > 0) {
                // The next one of a key follows when the one before is finished.
                let before = self.model.channel(&name).map_or(0, |channel| channel.messages.len());
                self.finish(pick, usize::MAX, false)?;
                if self.model.channel(&name).is_none_or(|channel| channel.messages.len() == before) {
                    break;
                }
                self.advance(pick)?;
                self.take(pick, 1 << 20)?;
            }
            let channel = self.model.channel(&name).ok_or("no channel")?;
            let is_missing = |message: &MessageModel| message.in_flight.is_none() && !message.may_be_gone;
            if let Some((body, _)) = channel.messages.iter().find(|(_, message)| is_missing(message)) {
                return Err(format!("{name:?} did not get message {body}"));
            }
            self.finish(pick, usize::MAX, false)?;
        }
        Ok(())
    }

    /// Ends the process.
    fn end(&mut self) {
        self.consumers.clear();
        self.registry = None;
        let changes = self.medium.end();
        self.lives.push(Life { changes, ..std::mem::take(&mut self.current) });
    }

    /// Runs all steps. Returns early if the model cannot continue after a power failure.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        for (index, &step) in steps.iter().enumerate() {
            let goes_on =
                self.apply(step, index).map_err(|error| format!("step {index}, {step:?}: {error}"))?;
            if !goes_on {
                return Ok(());
            }
        }
        self.end();
        Ok(())
    }

    pub(super) fn registry(&self) -> Result<&Arc<Registry>, String> {
        self.registry.as_ref().ok_or_else(|| "not running".to_owned())
    }

    /// Runs a step. Returns `false` if the run cannot continue after it.
    pub fn apply(&mut self, step: Step, index: usize) -> Result<bool, String> {
        let begun = self.change_count();
        self.begun = begun;
        let (durable, changed) = match step {
            Step::Stop => return self.stop(begun),
            Step::Crash { .. } if !self.contract.keeps_all() => return self.stop(begun),
            Step::Crash { back, torn } => return self.crash(back as usize, torn as usize, index),
            Step::Flush => (self.if_possible(self.flush())?.unwrap_or(false), false),
            Step::Checkpoint => {
                let written = checkpoint::write_checkpoint(self.registry()?, false);
                (self.if_possible(written)?.is_some(), false)
            }
            Step::CheckpointWhile { seed } => {
                self.checkpoint_while(seed)?;
                self.begun = self.change_count();
                (false, false)
            }
            Step::Retire => {
                let retired = journal_files::retire_journal_files(self.registry()?);
                (self.if_possible(retired)?.is_some_and(|count| count > 0), false)
            }
            Step::Clean => {
                self.clean()?;
                (false, false)
            }
            Step::Touch { channel } => (self.touch(channel)?, false),
            step => {
                let durable = self.work(step)?;
                // That messages exceeded a bound is recorded after they were published.
                let before = self.model.clone();
                let has_dropped = self.observe_overflow()?;
                if has_dropped {
                    let durable = if durable { self.change_count() } else { usize::MAX };
                    let after = std::mem::replace(&mut self.model, before);
                    self.remember(durable);
                    self.model = after;
                }
                self.dead_letter()?;
                (durable && !has_dropped, true)
            }
        };
        let durable = if durable { self.change_count() } else { usize::MAX };
        if changed {
            self.remember(durable);
        } else {
            self.current.states.push(State { model: self.recorded.clone(), begun: self.begun, durable });
        }
        Ok(true)
    }

    /// Records the state of the model, in the middle or at the end of a step.
    pub(super) fn remember(&mut self, durable: usize) {
        self.recorded = Arc::new(self.model.durable());
        self.current.states.push(State { model: self.recorded.clone(), begun: self.begun, durable });
    }

    /// Returns `None` if a disk that may fail refused the operation.
    pub(super) fn if_possible<T>(&self, result: Result<T, impl ToString>) -> Result<Option<T>, String> {
        match result {
            Err(_) if self.tolerates_faults => Ok(None),
            result => result.map(Some).map_err(|error| error.to_string()),
        }
    }

    /// Runs a step that changes the model. Returns whether the change is durable.
    fn work(&mut self, step: Step) -> Result<bool, String> {
        match step {
            Step::CreateTopic { name } => self.create_topic(name),
            Step::DeleteTopic { topic } => self.delete_topic(topic),
            Step::CreateChannel { topic, name } => self.create_channel(topic, name),
            Step::DeleteChannel { channel } => self.delete_channel(channel),
            Step::Publish { topic, count, size } => match self.pick_topic(topic) {
                Some(name) => self.publish(&[name], count, size, None),
                None => Ok(false),
            },
            Step::PublishTogether { count, size } => {
                let names: Vec<_> = self.model.topics.keys().cloned().collect();
                self.publish(&names, count, size, None)
            }
            Step::PublishDeferred { topic, count, delay_s } => match self.pick_topic(topic) {
                Some(name) => self.publish(&[name], count, 20, Some(Duration::from_secs(delay_s.into()))),
                None => Ok(false),
            },
            Step::Take { channel, room } => self.take(channel, room.into()),
            Step::Finish { channel, count, newest } => self.finish(channel, count.into(), newest),
            Step::Requeue { channel, delay_s } => self.requeue(channel, delay_s),
            Step::Reject { channel } => self.reject(channel),
            Step::Cancel { channel, which } => self.cancel(channel, which),
            Step::Reschedule { channel, which, delay_s } => self.reschedule(channel, which, delay_s),
            Step::SetFilter { channel, filter } => self.set_filter(channel, filter),
            Step::PublishKeyed { topic, count } => self.publish_keyed(topic, count),
            Step::SetOrder { channel, order } => self.set_order(channel, order),
            Step::SetLimits { channel, limits } => self.set_limits(channel, limits),
            Step::PublishShortLived { topic, count } => self.publish_short_lived(topic, count),
            Step::Reconnect { channel } => self.reconnect(channel),
            Step::Advance { channel } => self.advance(channel),
            Step::PauseTopic { topic, paused } => {
                let Some(name) = self.pick_topic(topic) else { return Ok(false) };
                self.topic(&name)?.set_paused(paused);
                let model = self.model_of(&name)?;
                model.paused = paused;
                model.release();
                Ok(false)
            }
            Step::PauseChannel { channel, paused } => {
                let Some((name, channel, _)) = self.pick_channel(channel) else { return Ok(false) };
                channel.set_paused(paused);
                self.model.channel(&name).ok_or("no channel")?.paused = paused;
                Ok(false)
            }
            Step::SetOwner { topic, owner } => self.set_owner(topic, owner),
            Step::SetRetry { channel, on } => self.set_retry(channel, on),
            Step::SetMaxAttempts { channel, max_attempts } => self.set_max_attempts(channel, max_attempts),
            Step::SetTtl { channel, on } => self.set_ttl(channel, on),
            Step::SetBound { channel, bound } => self.set_bound(channel, bound),
            Step::ExpireOld { topic } => self.expire_old(topic),
            Step::Redrive { topic } => self.redrive(topic),
            Step::SetDedupe { topic, on } => self.set_dedupe(topic, on),
            Step::PublishOnce { topic, ids } => self.publish_once(topic, ids),
            Step::EmptyTopic { topic } => {
                let Some(name) = self.pick_topic(topic) else { return Ok(false) };
                self.topic(&name)?.empty();
                self.model_of(&name)?.empty();
                Ok(false)
            }
            Step::EmptyChannel { channel } => self.empty_channel(channel),
            Step::Undo { channel } => self.undo(channel),
            Step::SetRetention { topic, limits, acknowledged } => {
                self.set_retention(topic, limits, acknowledged)
            }
            Step::Retain => self.retain(),
            Step::MoveChannel { channel, share, acknowledged } => {
                self.move_channel(channel, share, acknowledged)
            }
            Step::CreateChannelAt { topic, name, share } => self.create_channel_at(topic, name, share),
            other => Err(format!("{other:?} does not change the model")),
        }
    }

    pub(super) fn pick_topic(&self, pick: u8) -> Option<String> {
        let index = usize::from(pick) % self.model.topics.len().max(1);
        self.model.topics.keys().nth(index).cloned()
    }

    pub(super) fn pick_channel(&self, pick: u8) -> Option<((String, String), Arc<Channel>, ConsumerKey)> {
        let index = usize::from(pick) % self.consumers.len().max(1);
        let (name, (channel, key)) = self.consumers.iter().nth(index)?;
        Some((name.clone(), channel.clone(), *key))
    }

    pub(super) fn topic(&self, name: &str) -> Result<Arc<Topic>, String> {
        self.registry()?.get(name).ok_or_else(|| format!("topic {name} is missing"))
    }

    pub(super) fn model_of(&mut self, topic: &str) -> Result<&mut TopicModel, String> {
        self.model.topics.get_mut(topic).ok_or_else(|| format!("no topic {topic}"))
    }

    pub(super) fn subscribe(&mut self, topic: &Topic, channel: Arc<Channel>) -> Result<(), String> {
        let key = observe::subscribe(&channel)?;
        self.consumers.insert((topic.name().to_string(), channel.name().to_string()), (channel, key));
        Ok(())
    }

    fn create_topic(&mut self, name: u8) -> Result<bool, String> {
        let name = TopicName::new(TOPICS[usize::from(name) % TOPICS.len()]).map_err(text)?;
        if self.model.topics.contains_key(name.as_str()) {
            return Ok(false);
        }
        let created = self.runtime.block_on(self.registry()?.get_or_create(&name)).map_err(text);
        if self.if_possible(created)?.is_none() {
            return Ok(false);
        }
        let model = TopicModel { is_ephemeral: name.is_ephemeral(), ..TopicModel::default() };
        self.model.topics.entry(name.to_string()).or_insert(model);
        if name.is_ephemeral() {
            self.current.ephemeral.insert(self.topic(name.as_str())?.number());
        }
        Ok(self.contract.durability != Durability::Overflow && !name.is_ephemeral())
    }

    /// Cleans segments, as the daemon does regularly. Then checks that the disk holds little besides unfinished
    /// messages.
    fn clean(&mut self) -> Result<(), String> {
        // Allowed bytes of spilled messages that are not needed: a few small files, and waste not worth copying.
        const SLACK_BYTES: u64 = 4096;
        let mut rounds = 0;
        while self.if_possible(segments::clean_segments(self.registry()?))?.is_some_and(|c| c.freed_bytes > 0)
        {
            rounds += 1;
            if rounds > 20 {
                return Err("cleaning does not end".to_owned());
            }
        }
        let journal = self.registry()?.engine().store.journal.clone();
        if self.tolerates_faults || journal.is_some_and(|journal| journal.failure().is_some()) {
            return Ok(());
        }
        for (name, model) in &self.model.topics {
            let topic = self.topic(name)?;
            let needed: u64 = model.unfinished().iter().filter_map(|body| self.sizes.get(body)).sum();
            let bytes = topic.log().segment_bytes();
            let letters = if is_dead_topic(name) { model.unfinished().len() as u64 } else { 0 };
            let needed = needed + letters * HEADERS_BYTES;
            if model.retention.is_off() && bytes > 2 * needed + SLACK_BYTES {
                return Err(format!("topic {name} has {bytes} bytes on disk, but needs {needed}"));
            }
        }
        Ok(())
    }

    fn delete_topic(&mut self, topic: u8) -> Result<bool, String> {
        let Some(name) = self.pick_topic(topic) else { return Ok(false) };
        self.consumers.retain(|(topic, _), _| *topic != name);
        self.runtime.block_on(self.registry()?.delete(&name));
        let is_ephemeral = self.model.topics.remove(&name).is_some_and(|topic| topic.is_ephemeral);
        Ok(self.contract.durability != Durability::Overflow && !is_ephemeral)
    }

    fn create_channel(&mut self, topic: u8, name: u8) -> Result<bool, String> {
        let Some(topic_name) = self.pick_topic(topic) else { return Ok(false) };
        let name = ChannelName::new(CHANNELS[usize::from(name) % CHANNELS.len()]).map_err(text)?;
        let model = self.model_of(&topic_name)?;
        if model.channels.contains_key(name.as_str()) || is_dead_topic(&topic_name) {
            return Ok(false);
        }
        // After a restart, messages released only to ephemeral channels may or may not be held for the next channel.
        if name.is_ephemeral() && !model.is_ephemeral && model.channels.is_empty() {
            return Ok(false);
        }
        let topic = self.topic(&topic_name)?;
        let created = self.runtime.block_on(topic.get_or_create_channel(&name)).map_err(text);
        let Some(channel) = self.if_possible(created)? else { return Ok(false) };
        self.subscribe(&topic, channel)?;
        let model = self.model_of(&topic_name)?;
        let channel = ChannelModel::new(model, name.as_str());
        let is_durable = !channel.may_drop;
        model.channels.entry(name.to_string()).or_insert(channel);
        model.release();
        Ok(self.contract.durability != Durability::Overflow && is_durable)
    }

    fn delete_channel(&mut self, channel: u8) -> Result<bool, String> {
        let Some((mut name, ..)) = self.pick_channel(channel) else { return Ok(false) };
        let channels = &self.model_of(&name.0)?.channels;
        // Deletes the ephemeral channel first, so that it is never the only one. See create_channel.
        if channels.len() == 2
            && let Some((ephemeral, _)) = channels.iter().find(|(_, channel)| channel.is_ephemeral)
        {
            name.1 = ephemeral.clone();
        }
        self.consumers.remove(&name);
        self.topic(&name.0)?.delete_channel(&name.1);
        self.model_of(&name.0)?.channels.remove(&name.1);
        Ok(false)
    }

    /// The number of the next message.
    pub(super) fn next_body(&mut self) -> Body {
        self.next_body += NEXT_BODY;
        self.next_body - NEXT_BODY
    }

    /// Notes a message that is published to this topic and takes these bytes on disk.
    pub(super) fn add_published(&mut self, body: Body, topic: &str, bytes: u64) {
        self.published.insert(body, topic.to_owned());
        self.sizes.insert(body, bytes);
    }

    fn publish(
        &mut self,
        topics: &[String],
        count: u8,
        size: u16,
        delay: Option<Duration>,
    ) -> Result<bool, String> {
        let mut waiting = Vec::new();
        for name in topics {
            let numbers: Vec<Body> = (0..count).map(|_| self.next_body()).collect();
            self.published.extend(numbers.iter().map(|&number| (number, name.clone())));
            let bodies: Vec<_> = numbers.iter().map(|&number| observe::body(number, size.into())).collect();
            let bytes = bodies.iter().map(Vec::len).sum();
            let on_disk = |body: &Vec<u8>| (body.len() + MESSAGE_FRAME_OVERHEAD + BLOCK_HEADER_BYTES) as u64;
            self.sizes.extend(numbers.iter().copied().zip(bodies.iter().map(on_disk)));
            let from_ns = clock::wall_ns();
            let bodies = bodies.iter().map(Vec::as_slice);
            let topic = self.topic(name)?;
            let appended = topic.append(bodies, bytes, delay).map_err(text);
            let Some(publication) = self.if_possible(appended)? else { continue };
            let due = delay.map(|delay| Due::between(from_ns, delay));
            // Not meaningful for an ephemeral topic, which may have dropped messages.
            let first = topic.log().end() - u64::from(count);
            waiting.push((name, numbers, first, due, publication));
        }
        for (name, numbers, first, due, publication) in waiting {
            let committed = self.runtime.block_on(publication.committed()).map_err(text);
            if self.if_possible(committed)?.is_none() {
                continue;
            }
            self.model_of(name)?.publish(&numbers, first, due);
            // A torn write may contain only the first of several batches.
            self.remember(usize::MAX);
        }
        let is_journaled = topics.iter().any(|name| !name.ends_with("#ephemeral"));
        Ok(self.contract.durability != Durability::Overflow && is_journaled)
    }

    fn take(&mut self, pick: u8, room: usize) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        let mut out = Vec::new();
        observe::take_into(&channel, key, &mut out, room);
        let model = self.model.channel(&name).ok_or("no channel")?;
        let came = observe::messages(&out)?;
        let came_count = came.len();
        for Came { sequence, body, attempts } in came {
            let fail = |what: &str| Err(format!("{name:?} got message {body} {what}"));
            let Some(message) = model.messages.get_mut(&body) else {
                return fail("which is unexpected");
            };
            if message.in_flight.is_some() {
                return fail("which is in flight");
            }
            if message.is_deferred() {
                return fail("which is deferred");
            }
            if !message.next_attempts().contains(&attempts) {
                return fail(&format!("with attempts {attempts}: {message:?}"));
            }
            model.check_turn(body).map_err(|what| format!("{name:?} got message {body} {what}"))?;
            let message = model.messages.get_mut(&body).ok_or("no message")?;
            if message.is_first() {
                if body <= model.last_first {
                    return fail(&format!("after {}", model.last_first));
                }
                model.last_first = body;
            }
            message.attempts_seen = attempts;
            message.may_be_deferred = false;
            message.in_flight = Some(sequence);
            if model.order == FAIR {
                // Messages that it read past before may come in the same take.
                model.note_held();
            }
        }
        model.note_held();
        model.check_in_flight(came_count)?;
        let (depth, deferred_count, is_paused) =
            channel.inspect(|state, _| (state.depth(), state.deferred_count(), state.is_paused()));
        // By the model, a message that a retry schedule holds back may be due earlier.
        if depth == 0 && deferred_count == 0 {
            model.drop_short_lived();
        }
        if model.filter == Some(false) && !is_paused {
            // A take ends at each read from disk, so a torn write may contain only some of the records.
            model.finish_filtered(false);
            self.remember(usize::MAX);
            let model = self.model.channel(&name).ok_or("no channel")?;
            self.filtered_count += model.finish_filtered(depth == 0);
        }
        Ok(false)
    }

    pub(super) fn in_flight(&mut self, name: &(String, String)) -> Result<Vec<(Body, u64)>, String> {
        let model = self.model.channel(name).ok_or("no channel")?;
        let in_flight = |(&body, message): (&Body, &MessageModel)| Some((body, message.in_flight?));
        let mut all: Vec<_> = model.messages.iter().filter_map(in_flight).collect();
        all.extend(model.dropped.iter().map(|(&body, &sequence)| (body, sequence)));
        all.sort_unstable();
        Ok(all)
    }

    fn finish(&mut self, pick: u8, count: usize, newest: bool) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        let mut in_flight = self.in_flight(&name)?;
        if newest {
            in_flight.reverse();
        }
        let model = self.model.channel(&name).ok_or("no channel")?;
        let mut run = channel.acknowledge(key);
        for (body, sequence) in in_flight.into_iter().take(count) {
            run.finish(sequence).map_err(|error| format!("cannot finish {body}: {error:?}"))?;
            model.dropped.remove(&body);
            match model.messages.get_mut(&body) {
                Some(recalled) if recalled.is_recalled => recalled.come_back(),
                _ => _ = model.messages.remove(&body),
            }
        }
        Ok(false)
    }

    fn requeue(&mut self, pick: u8, delay_s: u16) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        let Some((body, sequence)) = self.in_flight(&name)?.into_iter().next() else { return Ok(false) };
        let from_ns = clock::wall_ns();
        let delay = Duration::from_secs(delay_s.into());
        channel
            .acknowledge(key)
            .requeue(sequence, clock::nanos(delay))
            .map_err(|error| format!("cannot requeue {body}: {error:?}"))?;
        let model = self.model.channel(&name).ok_or("no channel")?;
        if model.dropped.remove(&body).is_some() {
            return Ok(false);
        }
        let retry = model.retry;
        let message = model.messages.get_mut(&body).ok_or("no message")?;
        // A recalled message that is due at once is delivered as if it had never been handed out.
        if !message.is_recalled || delay_s > 0 {
            message.attempts_kept = message.attempts_seen;
            let is_exhausted = model.fail(body);
            let message = model.messages.get_mut(&body).ok_or("no message")?;
            let delay = if delay_s == 0 && retry { settings::RETRY_DELAY } else { delay };
            message.due = (!delay.is_zero() && !is_exhausted).then(|| Due::between(from_ns, delay));
        }
        model.messages.get_mut(&body).ok_or("no message")?.come_back();
        Ok(false)
    }

    fn touch(&mut self, pick: u8) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        if let Some((body, sequence)) = self.in_flight(&name)?.into_iter().next() {
            let touched = channel.acknowledge(key).touch(sequence);
            touched.map_err(|error| format!("cannot touch {body}: {error:?}"))?;
        }
        Ok(false)
    }

    fn reconnect(&mut self, pick: u8) -> Result<bool, String> {
        let Some((name, channel, key)) = self.pick_channel(pick) else { return Ok(false) };
        channel.unsubscribe(key);
        self.model.channel(&name).ok_or("no channel")?.come_back();
        let key = observe::subscribe(&channel)?;
        self.consumers.insert(name, (channel, key));
        Ok(false)
    }

    fn advance(&mut self, pick: u8) -> Result<bool, String> {
        let Some((name, channel, _)) = self.pick_channel(pick) else { return Ok(false) };
        Expire::expire(&*channel, clock::monotonic() + clock::nanos(settings::ADVANCE));
        let model = self.model.channel(&name).ok_or("no channel")?;
        for message in model.messages.values_mut() {
            message.may_be_deferred = false;
            if let Some(due) = &mut message.due {
                due.passed = true;
            }
        }
        model.time_out();
        Ok(false)
    }

    pub(super) fn flush(&self) -> Result<bool, String> {
        match &self.registry()?.engine().store.journal {
            Some(journal) => journal.flush().map(|()| true).map_err(text),
            None => Ok(false),
        }
    }

    /// Stops cleanly and starts again.
    fn stop(&mut self, begun: usize) -> Result<bool, String> {
        for (channel, key) in std::mem::take(&mut self.consumers).into_values() {
            channel.unsubscribe(key);
        }
        stop::store_cleanly(self.registry()?).map_err(|error| error.to_string())?;
        let durable = self.change_count();
        self.current.states.push(State { model: self.recorded.clone(), begun, durable });
        let cut = Cut { changes: durable, torn: None, power_fails: self.power_fails() };
        self.restart(cut)
    }

    /// The process dies, or the power fails, `back` changes ago.
    fn crash(&mut self, back: usize, torn: usize, index: usize) -> Result<bool, String> {
        self.seed = self.seed.wrapping_mul(31).wrapping_add(index as u64);
        let cut = self.medium.cut(back, torn, self.power_fails());
        self.restart(cut)
    }

    fn power_fails(&self) -> Option<u64> {
        (self.contract.crash == Crash::PowerLoss && self.contract.keeps_all()).then_some(self.seed)
    }

    /// Starts on what is left of this life.
    fn restart(&mut self, cut: Cut) -> Result<bool, String> {
        self.end();
        let Some(life) = self.lives.last() else { return Ok(false) };
        let left = self.medium.left(life, cut)?;
        let observed = observe::observe_in(left.view(), left.dir(), self.contract.durability, self.runtime)?;
        let candidates = life.candidates(cut.changes, cut.torn.is_some());
        let (first, last) = (candidates[0], candidates[candidates.len() - 1]);
        let matches = |model: &&&Model| compare::matches(model, last, &observed).is_ok();
        let Some(model) = candidates.iter().find(matches) else {
            if cut.power_fails.is_some() && compare::is_between(&candidates, &observed).is_ok() {
                // Correct, but not a state that the model was ever in.
                return Ok(false);
            }
            return Err(format!("after the crash: {}", both(first, last, &observed)));
        };
        let mut model = model.restarted();
        model.forget_what_is_gone(&observed);
        self.medium = left;
        self.begin(model)?;
        Ok(true)
    }
}

/// Whether the model can follow this step if all checkpoints are lost. A start may then find a message again that became a
/// dead letter, beside the one that was redriven.
pub fn can_follow_without_checkpoints(step: &Step) -> bool {
    !matches!(step, Step::Redrive { .. })
}

/// Describes the differences from the oldest and the newest possible state.
pub fn both(oldest: &Model, newest: &Model, observed: &Observed) -> String {
    let [oldest, newest] =
        [oldest, newest].map(|model| compare::matches(model, newest, observed).err().unwrap_or_default());
    if oldest == newest { oldest } else { format!("{oldest}\n or, had the last step been done: {newest}") }
}

impl Due {
    pub(super) fn between(from_ns: i64, delay: Duration) -> Due {
        let delay = i64::try_from(clock::nanos(delay)).unwrap_or(i64::MAX);
        Due { from_ns: from_ns + delay, to_ns: clock::wall_ns() + delay, passed: false }
    }
}

pub fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
