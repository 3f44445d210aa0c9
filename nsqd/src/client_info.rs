//! What `/stats` reports about one TCP connection. The connection writes it; any thread may read it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use nsq_daemon::tls::TlsSession;
use parking_lot::Mutex;

use crate::clock::Nanos;
use crate::locality::Locality;

/// The value of `blocked_since` while the peer reads.
const NOT_BLOCKED: Nanos = Nanos::MAX;

/// What the client sent in IDENTIFY, or the defaults for it.
#[derive(Debug, Clone, Default)]
pub struct Identity {
    pub client_id: String,
    pub hostname: String,
    pub user_agent: String,
    /// In percent.
    pub sample_rate: u8,
    pub topology_zone: String,
    pub topology_region: String,
    /// Distance to this node; `None` without topology-aware delivery.
    pub locality: Option<Locality>,
}

/// How the byte stream was upgraded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Upgrades {
    /// TLS, and the result of its handshake.
    pub tls: Option<TlsSession>,
    /// Compressed with snappy.
    pub snappy: bool,
    /// Compressed with deflate.
    pub deflate: bool,
}

/// The identity that AUTH returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthIdentity {
    pub identity: String,
    /// URL of a page about this identity.
    pub identity_url: String,
}

/// See the module.
#[derive(Debug)]
pub struct ClientInfo {
    /// `ip:port`, or `@` on a unix socket.
    pub remote_address: String,
    /// Unix time in seconds.
    pub connected_at: i64,
    identity: Mutex<Identity>,
    upgrades: Mutex<Upgrades>,
    auth: Mutex<Option<AuthIdentity>>,
    state: AtomicU8,
    blocked_since: AtomicU64,
    published: Mutex<Vec<(String, u64)>>,
}

impl ClientInfo {
    /// A connection before IDENTIFY: its address replaces the client id and the host name.
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
            blocked_since: AtomicU64::new(NOT_BLOCKED),
            published: Mutex::default(),
        }
    }

    /// For people: client id, host name and address, without repetitions.
    pub fn description(&self) -> String {
        let identity = self.identity.lock();
        let mut text = identity.client_id.clone();
        if identity.hostname != identity.client_id && !identity.hostname.is_empty() {
            text = format!("{text}@{}", identity.hostname);
        }
        format!("{text} ({})", self.remote_address)
    }

    pub fn identify(&self, identity: Identity) {
        *self.identity.lock() = identity;
    }

    /// Returns a copy.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Total length of its texts in bytes.
    pub fn text_bytes(&self) -> usize {
        let identity = self.identity.lock();
        identity.client_id.len() + identity.hostname.len() + identity.user_agent.len()
    }

    /// Distance to this node; `None` without topology-aware delivery or before IDENTIFY.
    pub fn locality(&self) -> Option<Locality> {
        self.identity.lock().locality
    }

    /// Records an upgrade of the byte stream.
    pub fn upgrade(&self, change: impl FnOnce(&mut Upgrades)) {
        change(&mut self.upgrades.lock());
    }

    /// Upgrades so far.
    pub fn upgrades(&self) -> Upgrades {
        self.upgrades.lock().clone()
    }

    /// Its address without the port; `None` on a unix socket.
    pub fn remote_ip(&self) -> Option<IpAddr> {
        self.remote_address.parse::<SocketAddr>().ok().map(|address| address.ip())
    }

    /// Records that AUTH succeeded or was renewed.
    pub fn authenticate(&self, auth: AuthIdentity) {
        *self.auth.lock() = Some(auth);
    }

    /// Its identity; `None` until AUTH has succeeded.
    pub fn auth(&self) -> Option<AuthIdentity> {
        self.auth.lock().clone()
    }

    /// The protocol state, as NSQ numbers it: 0 init, 3 subscribed, 4 closing.
    pub fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }

    pub fn set_state(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }

    /// Since when the peer has not read what is sent, on the monotonic clock.
    pub fn blocked_since(&self) -> Option<Nanos> {
        Some(self.blocked_since.load(Ordering::Relaxed)).filter(|since| *since != NOT_BLOCKED)
    }

    pub fn set_blocked_since(&self, since: Option<Nanos>) {
        self.blocked_since.store(since.unwrap_or(NOT_BLOCKED), Ordering::Relaxed);
    }

    pub fn count_published(&self, topic: &str, count: u64) {
        let mut published = self.published.lock();
        match published.iter_mut().find(|(name, _)| name == topic) {
            Some((_, total)) => *total += count,
            None => published.push((topic.to_owned(), count)),
        }
    }

    pub fn has_published_to(&self, topic: &str) -> bool {
        self.published.lock().iter().any(|(name, _)| name == topic)
    }

    /// Messages published so far, by topic.
    pub fn published(&self) -> Vec<(String, u64)> {
        self.published.lock().clone()
    }
}
