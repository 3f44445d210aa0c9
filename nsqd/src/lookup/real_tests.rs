//! Tests with this project's nsqlookupd and real topics.

use std::net::SocketAddr;

use nsqlookupd::{Config as LookupdConfig, Lookupd};

use super::fake::{DEADLINE, calm, node_info};
use super::*;
use crate::config::Config;
use crate::engine::EngineLimits;
use crate::startup::{StartOptions, recover};
use crate::storage::data_dir::DataDir;
use crate::storage::file::FileStorage;
use crate::storage::{Durability, Storage};

async fn lookupd() -> Lookupd {
    let free: nsqlookupd::config::TcpAddress = "127.0.0.1:0".parse().unwrap();
    let config = LookupdConfig {
        tcp_address: free.clone(),
        http_address: free,
        broadcast_address: "127.0.0.1".into(),
        ..LookupdConfig::default()
    };
    Lookupd::start(config, Logger::silent()).await.unwrap()
}

struct RealNode {
    registry: Arc<Registry>,
    peers: Arc<LookupPeers>,
    _dir: tempfile::TempDir,
}

impl RealNode {
    fn start(lookupd: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers = LookupPeers::start_with(
            LookupOptions {
                addresses: vec![lookupd.to_string()],
                peer: node_info(),
                http_connect_timeout: DEADLINE,
                http_request_timeout: DEADLINE,
                max_body_size: 1 << 20,
                logger: Logger::silent(),
                stop: CancellationToken::new(),
            },
            calm(),
        );
        let storage: Arc<dyn Storage> = Arc::new(FileStorage);
        let data_dir = DataDir::open(&storage, dir.path()).unwrap();
        let limits = EngineLimits { journal_file_bytes: 64 << 10, ..Config::default().engine_limits() };
        let options = StartOptions {
            storage,
            data_dir,
            durability: Durability::Overflow,
            limits,
            logger: Logger::silent(),
            oracle: Some(peers.clone()),
            policies: Arc::default(),
        };
        let registry = recover(options).unwrap();
        peers.attach(&registry);
        RealNode { registry, peers, _dir: dir }
    }

    async fn create(&self, topic: &str, channel: Option<&str>) {
        let topic = self.registry.get_or_create(&TopicName::new(topic).unwrap()).await.unwrap();
        if let Some(channel) = channel {
            topic.get_or_create_channel(&ChannelName::new(channel).unwrap()).await.unwrap();
        }
    }

    fn channels(&self, topic: &str) -> Vec<String> {
        let channels = self.registry.get(topic).unwrap().channels();
        channels.iter().map(|channel| channel.name().to_string()).collect()
    }
}

/// Waits until nsqlookupd knows exactly these channels.
async fn until_channels(lookupd: &Lookupd, topic: &str, wanted: &[&str]) {
    let topic = TopicName::new(topic).unwrap();
    let limits =
        QueryLimits { connect_timeout: DEADLINE, request_timeout: DEADLINE, max_body_bytes: 1 << 20 };
    let waited = timeout(DEADLINE, async {
        loop {
            let mut channels =
                query::channels_of(&lookupd.http_addr().to_string(), &topic, limits).await.unwrap();
            channels.sort_unstable();
            if channels == wanted {
                return;
            }
            sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(waited.await.is_ok(), "{topic} does not have the channels {wanted:?}");
}

#[tokio::test]
async fn new_topic_gets_the_channels_of_other_nodes() {
    let lookupd = lookupd().await;
    let first = RealNode::start(lookupd.tcp_addr());
    first.create("t", Some("c")).await;
    first.create("t", Some("e#ephemeral")).await;
    first.create("other", Some("d")).await;
    until_channels(&lookupd, "t", &["c", "e#ephemeral"]).await;
    until_channels(&lookupd, "other", &["d"]).await;
    let second = RealNode::start(lookupd.tcp_addr());
    second.create("t", None).await;
    assert_eq!(second.channels("t"), ["c"]);
    first.registry.get("t").unwrap().delete_channel("e#ephemeral");
    until_channels(&lookupd, "t", &["c"]).await;
    assert!(first.peers.status()[0].connected);
    assert!(first.peers.status()[0].last_error.is_none());
    lookupd.shutdown().await;
}
