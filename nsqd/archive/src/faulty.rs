//! A store in memory that refuses, hangs, loses answers and repeats requests, for tests.

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::memory::MemoryObjects;
use crate::objects::{Created, Listed, Objects, Remedy, StoreError};

/// How often each fault happens, in percent. The rest works.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// The request has no effect and fails.
    pub refused: u8,
    /// The request has its effect, and the answer is lost: it fails.
    pub lost: u8,
    /// The request has its effect and is repeated some requests later, as by a proxy.
    pub repeated: u8,
    /// The request has its effect, and the answer never comes.
    pub hung: u8,
}

impl Faults {
    pub const NONE: Faults = Faults { refused: 0, lost: 0, repeated: 0, hung: 0 };
}

/// See the module.
#[derive(Debug)]
pub struct FaultyObjects {
    objects: MemoryObjects,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: SmallRng,
    faults: Faults,
    /// Creates that are repeated later.
    late: Vec<(String, Bytes)>,
    request_count: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Refused,
    Lost,
    Repeated,
    Hung,
    Works,
}

impl FaultyObjects {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        let state = State { random, faults, late: Vec::new(), request_count: 0 };
        FaultyObjects { objects: MemoryObjects::default(), state: Mutex::new(state) }
    }

    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// What is stored, without faults.
    pub fn stored(&self) -> &MemoryObjects {
        &self.objects
    }

    pub fn request_count(&self) -> u64 {
        self.state.lock().request_count
    }

    /// Decides what happens to a request. Delivers an earlier request again, now and then.
    async fn fate(&self) -> Fate {
        let (fate, late) = {
            let mut state = self.state.lock();
            state.request_count += 1;
            let Faults { refused, lost, repeated, hung } = state.faults;
            let mut dice = state.random.random_range(0..100_u8);
            let mut falls = |share: u8| {
                let is_hit = dice < share;
                dice = if is_hit { u8::MAX } else { dice - share };
                is_hit
            };
            let fate = match () {
                () if falls(refused) => Fate::Refused,
                () if falls(lost) => Fate::Lost,
                () if falls(repeated) => Fate::Repeated,
                () if falls(hung) => Fate::Hung,
                () => Fate::Works,
            };
            let is_late = !state.late.is_empty() && state.random.random_bool(0.3);
            (fate, is_late.then(|| state.late.remove(0)))
        };
        if let Some((key, object)) = late {
            // The answer to a repeated request goes nowhere.
            let _ = self.objects.create(&key, object).await;
        }
        fate
    }

    /// Passes the answer on, or does not.
    async fn reply<T>(
        &self,
        fate: Fate,
        operation: &'static str,
        key: &str,
        answer: T,
    ) -> Result<T, StoreError> {
        match fate {
            Fate::Works | Fate::Repeated => Ok(answer),
            Fate::Refused => Err(fault(operation, key, "the store refused the request")),
            Fate::Lost => Err(fault(operation, key, "the answer was lost")),
            Fate::Hung => std::future::pending().await,
        }
    }
}

fn fault(operation: &'static str, key: &str, cause: &str) -> StoreError {
    StoreError { operation, key: key.to_owned(), cause: cause.to_owned(), remedy: Remedy::Wait }
}

#[async_trait]
impl Objects for FaultyObjects {
    async fn create(&self, key: &str, object: Bytes) -> Result<Created, StoreError> {
        let fate = self.fate().await;
        let mut created = Created::Exists;
        if fate != Fate::Refused {
            created = self.objects.create(key, object.clone()).await?;
        }
        if fate == Fate::Repeated {
            self.state.lock().late.push((key.to_owned(), object));
        }
        self.reply(fate, "create", key, created).await
    }

    async fn replace(&self, key: &str, object: Bytes) -> Result<(), StoreError> {
        let fate = self.fate().await;
        if fate != Fate::Refused {
            self.objects.replace(key, object).await?;
        }
        self.reply(fate, "replace", key, ()).await
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let fate = self.fate().await;
        let found = self.objects.get(key).await?;
        self.reply(fate, "get", key, found).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let fate = self.fate().await;
        let mut listed = self.objects.list(prefix).await?;
        listed.reverse();
        self.reply(fate, "list", prefix, listed).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let fate = self.fate().await;
        if fate != Fate::Refused {
            self.objects.delete(key).await?;
        }
        self.reply(fate, "delete", key, ()).await
    }
}
