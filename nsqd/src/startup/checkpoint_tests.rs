//! A checkpoint is taken while publishes continue. What it says of a topic is one moment of it. A start restores all of
//! that.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use super::simulation::LIMITS;
use super::{StartOptions, recover};
use crate::channel::saved::Clocks;
use crate::storage::checkpoint::{self, ChannelCheckpoint, Checkpoint, TopicCheckpoint};
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::FaultyStorage;
use crate::storage::journal::{Journal, JournalOptions};
use crate::storage::record::Record;
use crate::storage::{ChannelNumber, Durability, SequenceRange, Storage, TopicNumber};

const MESSAGES: u64 = 3000;

#[test]
fn checkpoint_knows_every_deferred_message_before_the_end_that_it_names() {
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage::default());
    let dir = Path::new("/data");
    storage.create_dir_all(dir).unwrap();
    let registry = recover(StartOptions {
        data_dir: DataDir::open(&storage, dir).unwrap(),
        storage,
        durability: Durability::Write,
        limits: LIMITS,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    })
    .unwrap();
    // Without a channel, the topic releases nothing.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let topic = runtime.block_on(registry.get_or_create(&TopicName::new("t").unwrap())).unwrap();
    let first = topic.log().end();
    thread::scope(|scope| {
        let publisher = scope.spawn(|| {
            for _ in 0..MESSAGES {
                let body: &[u8] = b"x";
                let publication = topic.append([body].into_iter(), 1, Some(Duration::from_secs(600)));
                drop(publication.unwrap_or_else(|error| panic!("{error}")));
            }
        });
        loop {
            let is_last = publisher.is_finished();
            let saved = topic.save_while(Clocks { monotonic: 0, wall_ns: 0 }, usize::MAX, &mut || {});
            let published = saved.next_sequence - first;
            assert_eq!(saved.released, first);
            assert_eq!(saved.unreleased_deferred.len() as u64, published);
            assert_eq!((saved.message_count, saved.message_bytes), (published, published));
            if is_last {
                assert_eq!(published, MESSAGES);
                break;
            }
        }
    });
}

#[test]
fn message_held_back_before_a_refused_batch_stays_deferred() {
    let storage: Arc<dyn Storage> = Arc::new(FaultyStorage::default());
    let dir = Path::new("/data");
    storage.create_dir_all(dir).unwrap();
    let data_dir = DataDir::open(&storage, dir).unwrap();
    data_dir.prepare(&*storage).unwrap();
    let channel = ChannelCheckpoint {
        number: ChannelNumber(1),
        name: "c".to_owned(),
        cursor: 10,
        ..ChannelCheckpoint::default()
    };
    let topic = TopicCheckpoint {
        number: TopicNumber(1),
        name: "t".to_owned(),
        paused: true,
        next_sequence: 13,
        released: 10,
        unreleased_deferred: vec![(10, i64::MAX)],
        skipped: vec![SequenceRange::one(12)],
        channels: vec![channel],
        ..TopicCheckpoint::default()
    };
    let saved = Checkpoint {
        topics: vec![topic],
        next_topic_number: TopicNumber(2),
        next_channel_number: ChannelNumber(2),
        ..Checkpoint::default()
    };
    checkpoint::write(&*storage, &data_dir.checkpoint_path(), &saved).unwrap();
    let options = JournalOptions::new(data_dir.journal_dir(), Durability::Write);
    let (journal, _) = Journal::open(storage.clone(), options, &mut |_, _| {}).unwrap();
    journal.append_lazy(&Record::TopicState {
        topic: TopicNumber(1),
        paused: false,
        released: 10,
        releasing: true,
    });
    journal.close().unwrap();
    let registry = recover(StartOptions {
        data_dir,
        storage,
        durability: Durability::Write,
        limits: LIMITS,
        logger: Logger::silent(),
        oracle: None,
        policies: Arc::default(),
    })
    .unwrap();
    let channel = registry.get("t").unwrap().channel("c").unwrap();
    let counts = channel.inspect(|state, _| (state.deferred_count(), state.depth()));
    assert_eq!(counts, (1, 1), "10 is deferred, 11 can be handed out, 12 was refused");
}
