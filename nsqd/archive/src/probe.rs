//! Checks that a store keeps its promises: what was created is there, is listed, and is created once, even by a race.
//!
//! Some stores accept the condition "unless it exists" and ignore it, some of them only under concurrency. Without it, two
//! owners of a log would overwrite each other.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::names::PROBES;
use crate::objects::{Created, Objects, StoreError};

/// Concurrent creates in one race.
const RACERS: usize = 8;
/// Number of races.
const RACES: usize = 2;

/// Why a store cannot hold an archive.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the archive's store replaced an object instead of refusing to create it again; {WAY_OUT}")]
    Replaces,
    #[error(
        "{winners} of {RACERS} concurrent creates of one object succeeded in the archive's store; {WAY_OUT}"
    )]
    Races { winners: usize },
    #[error("the archive's store does not return or list an object that was just created; {WAY_OUT}")]
    Inconsistent,
}

const WAY_OUT: &str =
    "use a store with conditional writes, such as S3, Azure Blob Storage, Google Cloud Storage or a folder";

/// Checks the store with some small objects, and deletes them.
pub async fn probe(objects: &Arc<dyn Objects>) -> Result<(), ProbeError> {
    let name = format!("{PROBES}{:032x}/", SmallRng::from_os_rng().random::<u128>());
    let outcome = check(&**objects, &name).await;
    // What cannot be deleted does no harm.
    for listed in objects.list(&name).await.unwrap_or_default() {
        let _ = objects.delete(&listed.key).await;
    }
    outcome
}

async fn check(objects: &dyn Objects, name: &str) -> Result<(), ProbeError> {
    for race in 0..RACES {
        let key = format!("{name}race-{race}");
        let bodies = (0..RACERS).map(|racer| Bytes::from(format!("racer {racer}")));
        let creates = bodies.map(|body| objects.create(&key, body));
        let mut winners = Vec::new();
        for (racer, created) in join_all(creates).await.into_iter().enumerate() {
            if created? == Created::New {
                winners.push(racer);
            }
        }
        let [winner] = winners[..] else { return Err(ProbeError::Races { winners: winners.len() }) };
        let body = format!("racer {winner}");
        match objects.get(&key).await? {
            Some(found) if found == body => {}
            Some(_) => return Err(ProbeError::Replaces),
            None => return Err(ProbeError::Inconsistent),
        }
        if objects.create(&key, Bytes::from_static(b"again")).await? == Created::New {
            return Err(ProbeError::Replaces);
        }
        if objects.get(&key).await?.is_none_or(|found| found != body) {
            return Err(ProbeError::Replaces);
        }
        if !objects.list(name).await?.iter().any(|listed| listed.key == key) {
            return Err(ProbeError::Inconsistent);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::memory::MemoryObjects;
    use crate::objects::Listed;

    /// A store that ignores the condition: always, or only while creates are concurrent.
    #[derive(Debug, Default)]
    struct Careless {
        objects: MemoryObjects,
        only_in_races: bool,
        creates: AtomicUsize,
    }

    #[async_trait]
    impl Objects for Careless {
        async fn create(&self, key: &str, object: Bytes) -> Result<Created, StoreError> {
            self.creates.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            let others = self.creates.fetch_sub(1, Ordering::Relaxed) - 1;
            if self.only_in_races && others == 0 {
                return self.objects.create(key, object).await;
            }
            self.objects.replace(key, object).await.map(|()| Created::New)
        }

        async fn replace(&self, key: &str, object: Bytes) -> Result<(), StoreError> {
            self.objects.replace(key, object).await
        }

        async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
            self.objects.get(key).await
        }

        async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
            self.objects.list(prefix).await
        }

        async fn delete(&self, key: &str) -> Result<(), StoreError> {
            self.objects.delete(key).await
        }
    }

    #[tokio::test]
    async fn a_good_store_passes_and_is_left_empty() {
        let store = Arc::new(MemoryObjects::default());
        let objects: Arc<dyn Objects> = store.clone();
        probe(&objects).await.unwrap();
        assert!(store.all().is_empty());
    }

    #[tokio::test]
    async fn a_folder_passes() {
        let dir = tempfile::tempdir().unwrap();
        let location: crate::location::Location = dir.path().to_str().unwrap().parse().unwrap();
        probe(&location.open().unwrap()).await.unwrap();
    }

    #[tokio::test]
    async fn stores_that_ignore_the_condition_are_refused() {
        for only_in_races in [false, true] {
            let careless = Careless { only_in_races, ..Careless::default() };
            let error = probe(&(Arc::new(careless) as Arc<dyn Objects>)).await.unwrap_err();
            assert!(matches!(error, ProbeError::Races { .. }), "{error}");
            assert!(error.to_string().contains("conditional writes"), "{error}");
        }
    }
}
