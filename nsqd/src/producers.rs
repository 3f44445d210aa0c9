//! The connections that have published something, for `/stats`.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::client_info::ClientInfo;

/// See the module.
#[derive(Debug, Default)]
pub struct Producers(Mutex<Vec<Arc<ClientInfo>>>);

impl Producers {
    /// A connection has published for the first time.
    pub fn add(&self, info: &Arc<ClientInfo>) {
        self.0.lock().push(info.clone());
    }

    /// A connection has ended.
    pub fn remove(&self, info: &Arc<ClientInfo>) {
        self.0.lock().retain(|other| !Arc::ptr_eq(other, info));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<ClientInfo>> {
        self.0.lock().clone()
    }
}
