//! Connections that have published something, for `/stats`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::client_info::ClientInfo;

/// See the module.
#[derive(Debug, Default)]
pub struct Producers(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// In the order of their first publish.
    all: BTreeMap<u64, Arc<ClientInfo>>,
    next_number: u64,
}

/// Registers a connection as a producer until dropped.
#[derive(Debug)]
pub struct Producer {
    producers: Arc<Producers>,
    number: u64,
}

impl Producers {
    /// Registers a connection at its first publish.
    pub fn add(self: &Arc<Self>, info: &Arc<ClientInfo>) -> Producer {
        let mut known = self.0.lock();
        let number = known.next_number;
        known.next_number += 1;
        known.all.insert(number, info.clone());
        Producer { producers: self.clone(), number }
    }

    pub fn count(&self) -> usize {
        self.0.lock().all.len()
    }

    pub fn all(&self) -> Vec<Arc<ClientInfo>> {
        self.0.lock().all.values().cloned().collect()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.producers.0.lock().all.remove(&self.number);
    }
}
