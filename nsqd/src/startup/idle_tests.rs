//! Channels that are emptied because they have no consumer.

use std::path::Path;

use nsq_protocol::ChannelName;

use super::simulation::observe::{self, messages, subscribe, take_into};
use crate::clock;
use crate::policy::bounds::IdleAction;
use crate::policy::settings::{Change, Level};
use crate::storage::faulty::FaultyStorage;
use crate::storage::{Durability, Storage};

#[test]
fn a_consumer_that_subscribes_when_a_channel_is_emptied_loses_nothing() {
    let storage = FaultyStorage::default();
    storage.create_dir_all(Path::new(observe::DIR)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let registry = observe::start(&storage, Durability::Write).unwrap();
    let topic = runtime.block_on(registry.get_or_create(&"t".parse().unwrap())).unwrap();
    let name: ChannelName = "c".parse().unwrap();
    let channel = runtime.block_on(topic.get_or_create_channel(&name)).unwrap();
    let change = Change::parse(Level::Channel, [("idle_expiry", "1s")].into_iter()).unwrap();
    topic.change_channel_settings(&channel, &change).unwrap();
    let publish = |number: u64| {
        let body = observe::body(number, 10);
        let publication = topic.append([&body[..]].into_iter(), body.len(), None).unwrap();
        runtime.block_on(publication.committed()).unwrap();
    };
    publish(1);
    let later = clock::monotonic() + 5_000_000_000;
    assert!(matches!(channel.idle_action(later), Some((IdleAction::Empty, _))));
    // A consumer that comes after the decision finds it carried out.
    assert_eq!(channel.inspect(|state, _| state.depth()), 0);
    publish(2);
    let key = subscribe(&channel).unwrap();
    assert!(channel.idle_action(later * 2).is_none(), "it has a consumer");
    let mut out = Vec::new();
    take_into(&channel, key, &mut out, 1 << 20);
    assert_eq!(messages(&out).unwrap().iter().map(|message| message.body).collect::<Vec<_>>(), [2]);
}
