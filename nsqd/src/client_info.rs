//! Who is connected: what `/stats` tells of one TCP connection. Written by the connection, read by anybody.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering};

use nsq_daemon::tls::Session;
use parking_lot::Mutex;

use crate::locality::Locality;

/// What IDENTIFY told, or what stands in for it.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    /// `client_id`.
    pub client_id: String,
    /// `hostname`.
    pub hostname: String,
    /// `user_agent`.
    pub user_agent: String,
    /// `sample_rate`, percent.
    pub sample_rate: u8,
    /// `topology_zone`.
    pub topology_zone: String,
    /// `topology_region`.
    pub topology_region: String,
    /// How near it is; none if nobody minds.
    pub locality: Option<Locality>,
}

/// How its byte stream was upgraded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrades {
    /// TLS, and what its handshake agreed on.
    pub tls: Option<Session>,
    /// Compressed with snappy.
    pub snappy: bool,
    /// Compressed with deflate.
    pub deflate: bool,
}

/// Who AUTH found it to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthIdentity {
    /// Name.
    pub identity: String,
    /// A page about them.
    pub identity_url: String,
}

/// See the module.
#[derive(Debug)]
pub struct ClientInfo {
    /// `ip:port`, or `@` on a unix socket.
    pub remote_address: String,
    /// When it connected, unix seconds.
    pub connected_at: i64,
    identity: Mutex<Identity>,
    upgrades: Mutex<Upgrades>,
    auth: Mutex<Option<AuthIdentity>>,
    state: AtomicU8,
    published: Mutex<Vec<(String, u64)>>,
}

impl ClientInfo {
    /// A connection that has not identified itself: its address stands in for names.
    pub fn new(remote_address: String, connected_at: i64) -> Self {
        let host = match remote_address.rsplit_once(':') {
            Some((host, _)) => host.trim_matches(['[', ']']).to_owned(),
            None => String::new(),
        };
        let identity = Identity { client_id: host.clone(), hostname: host, ..Identity::default() };
        ClientInfo {
            remote_address,
            connected_at,
            identity: Mutex::new(identity),
            upgrades: Mutex::default(),
            auth: Mutex::default(),
            state: AtomicU8::new(0),
            published: Mutex::default(),
        }
    }

    /// IDENTIFY came.
    pub fn identify(&self, identity: Identity) {
        *self.identity.lock() = identity;
    }

    /// A copy of what it told of itself.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// How long its texts are together.
    pub fn text_bytes(&self) -> usize {
        let identity = self.identity.lock();
        identity.client_id.len() + identity.hostname.len() + identity.user_agent.len()
    }

    /// How near it is; none if nobody minds, or if it has not told.
    pub fn locality(&self) -> Option<Locality> {
        self.identity.lock().locality
    }

    /// The byte stream is upgraded.
    pub fn upgrade(&self, change: impl FnOnce(&mut Upgrades)) {
        change(&mut self.upgrades.lock());
    }

    /// How its byte stream was upgraded until now.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.lock().clone()
    }

    /// Its address without the port; none on a unix socket.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.remote_address.parse::<SocketAddr>().ok().map(|address| address.ip())
    }

    /// AUTH succeeded, or was renewed.
    pub fn authenticate(&self, auth: AuthIdentity) {
        *self.auth.lock() = Some(auth);
    }

    /// Who it is, if AUTH succeeded.
    pub fn auth(&self) -> Option<AuthIdentity> {
        self.auth.lock().clone()
    }

    /// The protocol state, as a number of NSQ's: 0 init, 3 subscribed, 4 closing.
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    /// Tells the protocol state.
    pub fn set_state(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    /// Counts messages published to a topic.
    pub fn count_published(&self, topic: &str, count: u64) {
        let mut published = self.published.lock();
        match published.iter_mut().find(|(name, _)| name == topic) {
            Some((_, total)) => *total += count,
            None => published.push((topic.to_owned(), count)),
        }
    }

    /// Whether it has published to a topic.
    pub fn has_published_to(&self, topic: &str) -> bool {
        self.published.lock().iter().any(|(name, _)| name == topic)
    }

    /// Messages published so far, by topic.
    pub fn published(&self) -> Vec<(String, u64)> {
        self.published.lock().clone()
    }
}
