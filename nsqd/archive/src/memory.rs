//! A store in memory, for tests.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::objects::{Created, Listed, Objects, StoreError};

/// See the module.
#[derive(Debug, Default)]
pub struct MemoryObjects {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryObjects {
    /// All objects by name.
    pub fn all(&self) -> BTreeMap<String, Bytes> {
        self.objects.lock().clone()
    }
}

#[async_trait]
impl Objects for MemoryObjects {
    async fn create(&self, key: &str, object: Bytes) -> Result<Created, StoreError> {
        let mut objects = self.objects.lock();
        if objects.contains_key(key) {
            return Ok(Created::Exists);
        }
        objects.insert(key.to_owned(), object);
        Ok(Created::New)
    }

    async fn replace(&self, key: &str, object: Bytes) -> Result<(), StoreError> {
        self.objects.lock().insert(key.to_owned(), object);
        Ok(())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.objects.lock().get(key).cloned())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let objects = self.objects.lock();
        let matching = objects.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(matching.map(|(key, object)| Listed { key: key.clone(), bytes: object.len() as u64 }).collect())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.objects.lock().remove(key);
        Ok(())
    }
}
