//! All topics by name: gets, creates and deletes them. Deletes ephemeral channels and topics that are no longer used.

use std::io;
use std::sync::Arc;

use dashmap::DashMap;
use nsq_protocol::{ChannelName, StartAt, TopicName};
use parking_lot::Mutex;

use super::adoptions::Adoptions;
use super::dedupe::LearnedIds;
use super::redrive::Redrive;
use super::release::ReleasePoint;
use super::{PublishError, Topic, TopicCounters, TopicParts};
use crate::channel::Channel;
use crate::clock;
use crate::engine::{Engine, LatencyOptions, StorageError};
use crate::log::TopicLog;
use crate::log::index::LogIndex;
use crate::policy::file::PolicyFile;
use crate::policy::settings::Settings;
use crate::storage::journal::{JournalError, Ticket};
use crate::storage::record::Record;

/// Knows which channels a new topic needs before it releases messages. Implemented with nsqlookupd.
pub trait ChannelOracle: Send + Sync {
    /// The channels known elsewhere for this topic. Returns in bounded time; empty if they are unknown.
    fn channels_of<'a>(
        &'a self,
        topic: &'a TopicName,
    ) -> std::pin::Pin<Box<dyn Future<Output = Vec<ChannelName>> + Send + 'a>>;
}

/// Possible effect of a refused creation whose outcome is in doubt.
const MAY_APPEAR: &str = "the topic may appear";

/// Why the files of a deleted topic are still there.
#[derive(Debug, thiserror::Error)]
enum DeleteFilesError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All topics; see the module.
pub struct Registry {
    engine: Arc<Engine>,
    topics: DashMap<TopicName, Arc<Topic>>,
    /// Held while a topic is created or deleted, so that both happen once.
    changing: Mutex<()>,
    oracle: Option<Arc<dyn ChannelOracle>>,
    /// Deleted topics whose files could not be deleted.
    undeleted: Mutex<Vec<Arc<Topic>>>,
    /// The redrive of each dead-letter topic that was started last.
    pub(super) redrives: DashMap<TopicName, Arc<Redrive>>,
}

impl Registry {
    /// Creates an empty registry, which asks `oracle` for the channels of each new topic.
    pub fn new(engine: Arc<Engine>, oracle: Option<Arc<dyn ChannelOracle>>) -> Arc<Self> {
        Arc::new(Registry {
            engine,
            topics: DashMap::new(),
            changing: Mutex::new(()),
            oracle,
            undeleted: Mutex::default(),
            redrives: DashMap::new(),
        })
    }

    /// Shared by all topics.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.get(name).map(|topic| topic.clone())
    }

    pub fn count(&self) -> usize {
        self.topics.len()
    }

    /// All topics, sorted by name.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        let mut topics = self.all_unsorted();
        topics.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        topics
    }

    /// All topics, in any order. With many topics, sorting by name costs more than visiting each.
    pub fn all_unsorted(&self) -> Vec<Arc<Topic>> {
        self.topics.iter().map(|topic| topic.clone()).collect()
    }

    /// Returns the topic of this name, and creates it if it is missing. A new topic gets its channels from the oracle
    /// before it releases messages, so that these reach all of them. Publishers can already append meanwhile.
    pub async fn get_or_create(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        if let Some(topic) = self.get(name.as_str()) {
            return Ok(topic);
        }
        if self.engine.status.is_draining() {
            return Err(PublishError::Draining);
        }
        self.make(name).await
    }

    /// Like [`Registry::get_or_create`], but also while the node drains: its own moves of messages need topics.
    pub(super) async fn make(self: &Arc<Self>, name: &TopicName) -> Result<Arc<Topic>, PublishError> {
        if let Some(topic) = self.get(name.as_str()) {
            return Ok(topic);
        }
        let Some(Created { topic, ticket }) = self.create(name)? else {
            return self.get(name.as_str()).ok_or(PublishError::Exiting);
        };
        let setup = TopicSetup { topic: topic.clone() };
        // In a separate task: the requesting client may disconnect meanwhile, and the topic already exists.
        let (registry, made) = (self.clone(), topic.clone());
        let committed = tokio::spawn(async move { registry.commit_topic(&made, ticket).await }).await;
        committed.map_err(|panic| StorageError::in_doubt(panic, MAY_APPEAR))??;
        if let Some(oracle) = &self.oracle {
            for channel in oracle.channels_of(name).await {
                if !channel.is_ephemeral() {
                    topic.make_channel(&channel, StartAt::Latest).await?;
                }
            }
        }
        drop(setup);
        Ok(topic)
    }

    /// Waits until a new topic is as durable as configured. Removes it again on failure.
    async fn commit_topic(&self, topic: &Topic, ticket: Option<Ticket>) -> Result<(), StorageError> {
        let committed = match self.engine.store.journal.as_ref().zip(ticket) {
            Some((journal, ticket)) => journal.commit(ticket).await,
            None => Ok(()),
        };
        match &committed {
            Ok(()) => crate::log_info!(self.engine, "TOPIC({}): created", topic.name()),
            Err(_) => {
                topic.discard();
                self.engine.numbers.use_sequences(topic.log().end());
                self.topics.remove_if(topic.name(), |_, current| current.number() == topic.number());
            }
        }
        self.engine.topology_changed();
        committed.map_err(|error| StorageError::of_commit(&error, MAY_APPEAR))
    }

    /// Returns `None` if the topic already exists.
    fn create(&self, name: &TopicName) -> Result<Option<Created>, PublishError> {
        let _changing = self.changing.lock();
        if self.topics.contains_key(name) {
            return Ok(None);
        }
        if self.engine.status.is_stopping() {
            return Err(PublishError::Exiting);
        }
        let number = self.engine.numbers.next_topic();
        let first_sequence = self.engine.numbers.first_sequence(clock::wall_ns());
        let segments = self.engine.new_segments(number);
        let ticket = match self.engine.journal_for(name.is_ephemeral()) {
            Some(journal) => Some(
                journal
                    .append(&Record::TopicCreated { topic: number, name: name.as_str(), first_sequence })
                    .map_err(StorageError::from)?,
            ),
            None => None,
        };
        let limits = &self.engine.limits;
        let index = LogIndex::new(first_sequence, limits.node_id, limits.memory_bound());
        let log = TopicLog::new(index, segments, name.as_str(), self.engine.log_context.clone());
        let log = Arc::new(if name.is_ephemeral() { log.in_memory_only() } else { log });
        if !name.is_ephemeral() {
            let policy = self.engine.policy_sources().of_topic(name.as_str(), &Settings::default());
            log.set_retention(policy.retention, first_sequence);
        }
        let parts = TopicParts {
            name: name.clone(),
            number,
            log,
            point: ReleasePoint::new(first_sequence, first_sequence, false, true),
            counters: TopicCounters::default(),
            own: Settings::default(),
            ids: LearnedIds::new(limits.dedupe_max_ids),
            adoptions: Adoptions::default(),
        };
        let topic = Topic::new(self.engine.clone(), parts);
        self.adopt(topic.clone());
        Ok(Some(Created { topic, ticket }))
    }

    /// Adds a new or recovered topic.
    pub fn adopt(&self, topic: Arc<Topic>) {
        if topic.log().is_retaining() {
            self.engine.upkeep_hints.set_retains();
        }
        topic.note_ids();
        topic.note_bounds();
        self.topics.insert(topic.name().clone(), topic);
    }

    /// Replaces the policies of the policy file, for existing and future topics and channels.
    pub fn set_policy_file(&self, file: PolicyFile) {
        // A topic created meanwhile is in the list below, or reads the new file.
        {
            let _changing = self.changing.lock();
            self.engine.set_policy_file(file);
        }
        for topic in self.all() {
            topic.apply_policies();
        }
    }

    /// Removes expired messages from all channels. May read from disk.
    pub fn expire(&self) {
        if self.engine.upkeep_hints.expires() {
            let (now, wall_ns) = (clock::monotonic(), clock::wall_ns());
            self.all_unsorted().iter().for_each(|topic| topic.expire(now, wall_ns));
        }
    }

    /// Starts measuring the time from publishing to FIN, in all existing and future channels.
    pub fn measure_latencies(&self, options: LatencyOptions) {
        let window = clock::nanos(options.window);
        self.engine.set_latency(options);
        for channel in self.all().iter().flat_map(|topic| topic.channels()) {
            channel.measure_latencies(window);
        }
    }

    /// Deletes a topic with its channels, messages and files. Returns false if there is none.
    pub async fn delete(self: &Arc<Self>, name: &str) -> bool {
        self.delete_if(name, |_| true).await
    }

    async fn delete_if(self: &Arc<Self>, name: &str, is_meant: impl FnOnce(&Arc<Topic>) -> bool) -> bool {
        let topic = {
            let _changing = self.changing.lock();
            let Some((_, topic)) = self.topics.remove_if(name, |_, topic| is_meant(topic)) else {
                return false;
            };
            topic.close();
            self.engine.numbers.use_sequences(topic.log().end());
            if let Some(journal) = self.engine.journal_for(topic.name().is_ephemeral()) {
                journal.append_lazy(&Record::TopicDeleted { topic: topic.number() });
            }
            topic
        };
        topic.discard();
        if let Some((_, redrive)) = self.redrives.remove(name) {
            redrive.stop();
        }
        crate::log_info!(self.engine, "TOPIC({name}): deleted");
        self.engine.topology_changed();
        let registry = self.clone();
        let deleted = tokio::task::spawn_blocking(move || {
            if let Err(error) = registry.delete_files(&topic) {
                let name = topic.name();
                crate::log_error!(
                    registry.engine,
                    "TOPIC({name}): cannot delete the topic's files: {error}; nsqd will retry"
                );
                registry.undeleted.lock().push(topic);
            }
        });
        // The task panicked. The panic hook has reported it.
        let _ = deleted.await;
        true
    }

    fn delete_files(&self, topic: &Topic) -> Result<(), DeleteFilesError> {
        if topic.name().is_ephemeral() {
            return Ok(());
        }
        // The record must be in the journal before the files are deleted. In the other order, recovery would miss
        // messages.
        if let Some(journal) = &self.engine.store.journal {
            journal.flush()?;
        }
        Ok(topic.log().delete_files()?)
    }

    /// Retries deleting the files of deleted topics, if that failed.
    pub fn retry_deletes(&self) {
        let undeleted = std::mem::take(&mut *self.undeleted.lock());
        let failed = undeleted.into_iter().filter(|topic| self.delete_files(topic).is_err());
        let failed: Vec<_> = failed.collect();
        self.undeleted.lock().extend(failed);
    }

    /// Whether files of deleted topics are still there.
    pub fn has_undeleted(&self) -> bool {
        !self.undeleted.lock().is_empty()
    }

    /// Call after a consumer has left this channel. Deletes an ephemeral channel with its last consumer, and an
    /// ephemeral topic with its last channel.
    pub async fn consumer_left(self: &Arc<Self>, topic: &Arc<Topic>, channel: &Arc<Channel>) {
        if !channel.is_ephemeral() {
            return;
        }
        if topic.delete_channel_if_unused(channel) == Some(true) {
            self.topic_lost_last_channel(topic).await;
        }
    }

    /// Deletes an ephemeral topic after its last channel was deleted.
    pub async fn topic_lost_last_channel(self: &Arc<Self>, topic: &Arc<Topic>) {
        if topic.name().is_ephemeral() {
            // Another topic may have this name by now.
            let is_meant = |current: &Arc<Topic>| Arc::ptr_eq(current, topic) && topic.channels().is_empty();
            self.delete_if(topic.name().as_str(), is_meant).await;
        }
    }
}

/// A new topic that may not be durable yet.
struct Created {
    topic: Arc<Topic>,
    ticket: Option<Ticket>,
}

/// Starts a new topic when it is dropped, so that an abandoned request does not hold the topic back forever.
struct TopicSetup {
    topic: Arc<Topic>,
}

impl Drop for TopicSetup {
    fn drop(&mut self) {
        self.topic.start();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nsq_daemon::log::Logger;

    use super::*;
    use crate::config::Config;
    use crate::startup::{StartOptions, recover};
    use crate::storage::data_dir::DataDir;
    use crate::storage::file::FileStorage;
    use crate::storage::{Durability, Storage};

    fn start(dir: &std::path::Path, durability: Durability) -> Arc<Registry> {
        let storage: Arc<dyn Storage> = Arc::new(FileStorage);
        let data_dir = DataDir::open(&storage, dir).unwrap();
        recover(StartOptions {
            storage,
            data_dir,
            durability,
            limits: Config::default().engine_limits(),
            logger: Logger::silent(),
            oracle: None,
            policies: Arc::default(),
        })
        .unwrap()
    }

    async fn publish(topic: &Topic, count: usize) {
        let bodies = vec![&[b'x'; 1000][..]; count];
        topic.append(bodies.into_iter(), 1000 * count, None).unwrap().committed().await.unwrap();
    }

    /// Like an idle publisher's connection, or a consumer's connection that ends slowly.
    #[tokio::test]
    async fn deleted_topic_frees_its_memory_while_others_hold_it() {
        let dir = tempfile::tempdir().unwrap();
        let registry = start(dir.path(), Durability::Write);
        for name in ["t", "t#ephemeral"] {
            let topic = registry.get_or_create(&TopicName::new(name).unwrap()).await.unwrap();
            let channel = topic.get_or_create_channel(&ChannelName::new("c").unwrap()).await.unwrap();
            // More than the memory bound.
            for _ in 0..12 {
                publish(&topic, 1000).await;
            }
            assert!(topic.log().memory_bytes_since(0) > 1_000_000);
            assert_eq!(topic.log().segment_bytes() > 0, name == "t");
            assert!(registry.delete(name).await);
            assert_eq!((topic.log().memory_bytes_since(0), topic.log().segment_bytes()), (0, 0));
            assert_eq!(channel.inspect(|state, _| state.depth()), 0);
            assert!(topic.channels().is_empty());
            assert!(!dir.path().join(format!("topics/{}", topic.number())).exists());
            assert!(!registry.has_undeleted());
        }
    }

    #[tokio::test]
    async fn deleted_ephemeral_topic_does_not_delete_a_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let registry = start(dir.path(), Durability::Write);
        let name = TopicName::new("t#ephemeral").unwrap();
        let before = registry.get_or_create(&name).await.unwrap();
        assert!(registry.delete(name.as_str()).await);
        let recreated = registry.get_or_create(&name).await.unwrap();
        registry.topic_lost_last_channel(&before).await;
        assert!(registry.get(name.as_str()).is_some_and(|topic| Arc::ptr_eq(&topic, &recreated)));
    }

    #[tokio::test]
    async fn new_topic_does_not_reuse_sequence_numbers() {
        let dir = tempfile::tempdir().unwrap();
        // As if the topic had used sequence numbers faster than time passes, or the clock had been set back.
        let later = crate::engine::numbers::Numbers::sequence_of_time(clock::wall_ns()) + 1_000_000_000_000;
        let name = TopicName::new("t").unwrap();
        for round in 0..3 {
            let registry = start(dir.path(), Durability::Write);
            let topic = registry.get_or_create(&name).await.unwrap();
            if round == 0 {
                topic.log().skip_to(later);
            } else {
                assert!(topic.log().end() > later, "after {round} restarts");
            }
            publish(&topic, 1).await;
            registry.delete(name.as_str()).await;
            let end = topic.log().end();
            let recreated = registry.get_or_create(&name).await.unwrap();
            assert!(recreated.log().end() >= end);
            assert!(registry.delete(name.as_str()).await);
            // The journal is flushed by deleting; the process ends without a checkpoint.
        }
    }

    /// Like an HTTP client that disconnects: the topic and channel that its requests began to create must still work.
    #[tokio::test]
    async fn creation_completes_when_the_client_disconnects() {
        let dir = tempfile::tempdir().unwrap();
        let registry = start(dir.path(), Durability::Sync);
        let name = TopicName::new("t").unwrap();
        let mut creating = Box::pin(registry.get_or_create(&name));
        let _ = futures_util::poll!(&mut creating);
        drop(creating);
        let topic = registry.get_or_create(&name).await.unwrap();
        topic.append([&b"held back"[..]].into_iter(), 9, None).unwrap().committed().await.unwrap();

        let name = ChannelName::new("c").unwrap();
        let mut creating = Box::pin(topic.get_or_create_channel(&name));
        let _ = futures_util::poll!(&mut creating);
        drop(creating);
        let channel = topic.get_or_create_channel(&name).await.unwrap();
        let released = async {
            while channel.inspect(|state, _| state.depth()) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), released).await.expect("the channel gets the message");
    }
}
