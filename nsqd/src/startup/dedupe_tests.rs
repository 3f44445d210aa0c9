//! Messages with ids, on the engine: duplicates of messages that are not committed, and restarts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::poll;
use nsq_protocol::headers::{Form, HeadersBuf, ID, put_published};
use tokio::runtime::Runtime;

use super::simulation::LIMITS;
use super::{StartOptions, recover_and_report};
use crate::engine::EngineLimits;
use crate::policy::settings::{Change, Level};
use crate::storage::data_dir::DataDir;
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{Durability, Storage};
use crate::topic::registry::Registry;
use crate::topic::{Publication, Topic};
use crate::upkeep::{checkpoint, stop};

fn storage() -> FaultyStorage {
    let storage = FaultyStorage::default();
    storage.create_dir_all(Path::new("/d")).unwrap();
    storage
}

fn start(storage: &FaultyStorage) -> Arc<Registry> {
    let storage: Arc<dyn Storage> = Arc::new(storage.clone());
    let data_dir = DataDir::open(&storage, Path::new("/d")).unwrap();
    let limits = EngineLimits { dedupe_max_ids: 100, ..LIMITS };
    let durability = Durability::Write;
    let logger = nsq_daemon::log::Logger::silent();
    let options = StartOptions {
        storage,
        data_dir,
        durability,
        limits,
        logger,
        oracle: None,
        policies: Arc::default(),
    };
    recover_and_report(options).unwrap().registry
}

fn set(topic: &Topic, dedupe: &str) {
    let change = Change::parse(Level::Topic, [("dedupe", dedupe)].into_iter()).unwrap();
    topic.change_settings(&change).unwrap();
}

async fn topic(registry: &Arc<Registry>) -> Arc<Topic> {
    let topic = registry.get_or_create(&"t".parse().unwrap()).await.unwrap();
    set(&topic, "1h");
    topic
}

fn append(topic: &Topic, ids: &[&str]) -> Publication {
    let message = |id: &&str| {
        let mut message = Vec::new();
        put_published(&mut message, HeadersBuf::of_producer([(ID, *id)]).unwrap().as_headers(), b"body");
        message
    };
    let messages: Vec<Vec<u8>> = ids.iter().map(message).collect();
    let bytes = messages.iter().map(Vec::len).sum();
    topic.append_as(Form::WithHeaders, messages.iter().map(Vec::as_slice), bytes, None).unwrap()
}

/// Publishes messages with these ids. Returns which are duplicates.
async fn publish(topic: &Topic, ids: &[&str]) -> Vec<bool> {
    let publication = append(topic, ids);
    let duplicates = (0..ids.len()).map(|index| publication.message(index).unwrap().is_duplicate).collect();
    publication.committed().await.unwrap();
    duplicates
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

#[test]
fn a_duplicate_is_acknowledged_only_with_the_first() {
    runtime().block_on(async {
        let registry = start(&storage());
        let topic = topic(&registry).await;
        let first = append(&topic, &["a"]);
        let duplicate = append(&topic, &["b", "a"]);
        let ids: Vec<_> = [&first, &duplicate].map(|of| of.message(0).unwrap().id).into();
        assert_eq!(
            duplicate.message(1).map(|message| (message.id, message.is_duplicate)),
            Some((ids[0], true))
        );
        assert!(duplicate.depends_on_others() && !first.depends_on_others());
        let mut waiting = std::pin::pin!(duplicate.committed());
        assert!(poll!(&mut waiting).is_pending());
        first.committed().await.unwrap();
        waiting.await.unwrap();
        assert_eq!((topic.counters().message_count, topic.depth().depth), (2, 2));
    });
}

#[test]
fn a_duplicate_of_a_refused_message_is_refused_and_the_next_is_stored() {
    runtime().block_on(async {
        let storage = storage();
        let registry = start(&storage);
        let topic = topic(&registry).await;
        assert_eq!(publish(&topic, &["kept"]).await, [false]);
        let first = append(&topic, &["a"]);
        let duplicate = append(&topic, &["a", "kept"]);
        storage.plan(Fault::next(Op::Write, usize::MAX, io::ErrorKind::StorageFull));
        let mut waiting = std::pin::pin!(duplicate.committed());
        assert!(poll!(&mut waiting).is_pending());
        let refused = first.committed().await.unwrap_err();
        assert_eq!(waiting.await.unwrap_err().to_string(), refused.to_string());
        storage.heal();
        assert_eq!(publish(&topic, &["a", "kept"]).await, [false, true]);
        assert_eq!(topic.id_counts().map(|counts| counts.id_count), Some(2));
    });
}

#[test]
fn a_duplicate_waits_even_if_the_owner_of_the_first_is_gone() {
    runtime().block_on(async {
        let registry = start(&storage());
        let topic = topic(&registry).await;
        let first = append(&topic, &["a"]);
        let duplicate = append(&topic, &["a"]);
        drop(first);
        duplicate.committed().await.unwrap();
        assert_eq!(topic.depth().depth, 1);
    });
}

#[test]
fn publications_that_have_each_others_messages_do_not_deadlock() {
    runtime().block_on(async {
        let registry = start(&storage());
        let topic = topic(&registry).await;
        // Each owner has a duplicate of the other's new message before its own.
        let (a, b) = (append(&topic, &["a"]), append(&topic, &["b"]));
        let (of_b, of_a) = (append(&topic, &["b"]), append(&topic, &["a"]));
        let owner = async |mut publications: [Publication; 2]| {
            for publication in &mut publications {
                publication.settle().await;
            }
            for publication in publications {
                publication.committed().await.unwrap();
            }
        };
        tokio::join!(owner([of_b, a]), owner([of_a, b]));
    });
}

#[test]
fn ids_survive_kills_checkpoints_and_stops_until_they_are_forgotten() {
    runtime().block_on(async {
        let mut storage = storage();
        let mut registry = start(&storage);
        let topic = topic(&registry).await;
        assert_eq!(publish(&topic, &["a", "b", "a"]).await, [false, false, true]);
        for round in 0..4 {
            match round {
                0 => {}
                1 => checkpoint::write_checkpoint(&registry, false).unwrap(),
                2 => stop::store_cleanly(&registry).unwrap(),
                _ => registry.get("t").unwrap().empty(),
            }
            if let Some(journal) = &registry.engine().store.journal {
                journal.flush().unwrap();
            }
            storage = storage.disk().after_kill().into();
            registry = start(&storage);
            let topic = registry.get("t").unwrap();
            let expected = round < 3;
            assert_eq!(["a", "b"].map(|id| topic.remembers(id)), [expected; 2], "{round}");
        }
    });
}

#[test]
fn ids_from_before_the_setting_are_not_remembered_after_a_restart() {
    runtime().block_on(async {
        let storage = storage();
        let registry = start(&storage);
        let topic = topic(&registry).await;
        assert_eq!(publish(&topic, &["a"]).await, [false]);
        set(&topic, "0");
        assert_eq!(publish(&topic, &["a", "b", "b"]).await, [false; 3]);
        assert_eq!(topic.id_counts(), None);
        set(&topic, "1h");
        assert_eq!(publish(&topic, &["c"]).await, [false]);
        let restarted = start(&storage.disk().after_kill().into());
        let topic = restarted.get("t").unwrap();
        assert_eq!(["a", "b", "c"].map(|id| topic.remembers(id)), [false, false, true]);
    });
}
