//! A checkpoint is taken while publishes continue. What it says of a topic is one moment of it.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nsq_daemon::log::Logger;
use nsq_protocol::TopicName;

use super::simulation::LIMITS;
use super::{StartOptions, recover};
use crate::channel::saved::Clocks;
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::FaultyStorage;
use crate::storage::{Durability, Storage};

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
