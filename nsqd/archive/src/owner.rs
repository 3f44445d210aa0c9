//! The owner of a log: claims it, appends chunks, writes snapshots, deletes what nothing needs.
//!
//! One process uses an [`Owner`], one call after the other. A call that fails because of the store may be repeated later.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nsq_storage::journal::Lsn;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::chain::Listing;
use crate::claim::About;
use crate::envelope::{self, Header, Kind, Nonce};
use crate::garbage::{self, Dated};
use crate::names::{Epoch, LogId, MAX_NUMBER, Name, Place, log_root};
use crate::objects::{Created, Objects, Remedy, StoreError};
use crate::ownership::{Answer, Appending, Lost, Opener, Opening, Owned, Request};
use crate::snapshot::{self, Snapshot};

/// How long to try.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Limit for one request.
    pub request_timeout: Duration,
    /// Attempts of each request before a call fails; at least 1.
    pub attempts: u32,
    /// Pause after the first failed attempt; doubled after each further one.
    pub pause: Duration,
}

impl Patience {
    pub const DEFAULT: Patience =
        Patience { request_timeout: Duration::from_secs(30), attempts: 3, pause: Duration::from_millis(200) };
}

/// Why a call of an owner failed.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The store failed. The call may be repeated.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chunk before is not appended yet. This one was not accepted.
    #[error("the chunk before is not appended yet; finish it first")]
    Unfinished,
    /// The log belongs to somebody else. No later call succeeds.
    #[error("the archive's log is lost to this node: {0}")]
    Lost(#[from] Lost),
}

/// Records for a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewChunk {
    /// Made by [`crate::chunk::Builder`].
    pub content: Vec<u8>,
    /// The end of the chunk before, if the records continue it; otherwise where they begin.
    pub from: Lsn,
    pub to: Lsn,
}

/// See the module.
#[derive(Debug)]
pub struct Owner {
    objects: Arc<dyn Objects>,
    log: LogId,
    epoch: Epoch,
    nonce: Nonce,
    patience: Patience,
    next_chunk: u64,
    next_part: u64,
    /// Parts from this one on belong to a snapshot that is not written yet.
    unfinished_part: u64,
    /// The chunk that is being created, with the state of its creation.
    appending: Option<Appending>,
    /// The newest snapshot that is confirmed: see [`garbage`].
    confirmed: Option<Place>,
    /// The newest snapshot of this epoch.
    written: Option<Place>,
}

impl Owner {
    /// Claims the next epoch of the log, and seals the epochs before it.
    pub async fn open(
        objects: Arc<dyn Objects>,
        opener: Opener,
        patience: Patience,
    ) -> Result<Self, OwnerError> {
        let (log, nonce) = (opener.log, opener.nonce);
        let mut opening = Opening::new(opener);
        while let Some(request) = opening.request() {
            let answer = ask(&*objects, &request, patience).await?;
            opening.answer(answer);
        }
        // There is an outcome when there is no request.
        let Owned { epoch } = opening.outcome().unwrap_or(Err(Lost::Contended))?;
        Ok(Owner {
            objects,
            log,
            epoch,
            nonce,
            patience,
            next_chunk: 0,
            next_part: 0,
            unfinished_part: 0,
            appending: None,
            confirmed: None,
            written: None,
        })
    }

    pub fn log(&self) -> LogId {
        self.log
    }

    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The place of the next chunk.
    pub fn next_chunk(&self) -> Place {
        Place::new(self.epoch, self.next_chunk)
    }

    /// Appends a chunk and returns its place. `made_at` is Unix nanoseconds.
    ///
    /// After a failure of the store, the chunk may exist. Then call [`Owner::finish_append`] until it succeeds; until then, no
    /// other chunk is accepted. Dropping the future has the same effect as a failure.
    pub async fn append(&mut self, chunk: &NewChunk, made_at: i64) -> Result<Place, OwnerError> {
        if let Some(appending) = &self.appending {
            return Err(match appending.outcome() {
                Some(Err(lost)) => OwnerError::Lost(lost),
                _ => OwnerError::Unfinished,
            });
        }
        let place = self.next_chunk();
        if place.number >= MAX_NUMBER {
            return Err(Lost::UsedUp.into());
        }
        let nonce = new_nonce();
        let header = Header {
            kind: Kind::Chunk,
            log: self.log,
            place,
            from: chunk.from,
            to: chunk.to,
            nonce,
            made_at,
        };
        let object = envelope::encode(&header, &chunk.content);
        self.appending = Some(Appending::new(self.log, place, nonce, object));
        self.finish_append().await?;
        Ok(place)
    }

    /// Whether an append is not finished.
    pub fn is_appending(&self) -> bool {
        self.appending.is_some()
    }

    /// Finishes an append that failed because of the store. Returns the place of its chunk, `None` if there is none.
    pub async fn finish_append(&mut self) -> Result<Option<Place>, OwnerError> {
        let Some(appending) = &mut self.appending else { return Ok(None) };
        while let Some(request) = appending.request() {
            let answer = ask(&*self.objects, &request, self.patience).await?;
            appending.answer(answer);
        }
        // There is an outcome when there is no request. A log that is lost stays lost: the chunk stays in place.
        appending.outcome().unwrap_or(Ok(()))?;
        let place = self.next_chunk();
        self.appending = None;
        self.next_chunk += 1;
        self.confirmed = self.written;
        Ok(Some(place))
    }

    /// Writes bytes of files for the next snapshot.
    pub async fn write_part(&mut self, content: &[u8], made_at: i64) -> Result<Place, OwnerError> {
        let place = Place::new(self.epoch, self.next_part);
        if place.number >= MAX_NUMBER {
            return Err(Lost::UsedUp.into());
        }
        // A number is never used again: what a failed attempt left may have another content.
        self.next_part += 1;
        let nonce = new_nonce();
        let object = snapshot::part_object(self.log, place, nonce, made_at, content);
        self.create_own(Name::Part(place), place, nonce, object).await?;
        Ok(place)
    }

    /// Writes a snapshot, which is complete with the last chunk that was appended. There must be one.
    ///
    /// If an earlier call wrote a snapshot after the same chunk, also if it failed afterwards, that snapshot stays and this one
    /// is dropped. Its parts stay until another snapshot is written.
    pub async fn write_snapshot(&mut self, snapshot: &Snapshot, made_at: i64) -> Result<Place, OwnerError> {
        let place = Place::new(self.epoch, self.next_chunk.saturating_sub(1));
        let object = snapshot.object(self.log, place, self.nonce, made_at);
        let created = self.create_own(Name::Snapshot(place), place, self.nonce, object).await?;
        self.written = Some(place);
        if created == Created::New {
            self.unfinished_part = self.next_part;
        }
        Ok(place)
    }

    /// Replaces what the log says about its owner.
    pub async fn describe(&self, about: &About) -> Result<(), OwnerError> {
        let key = Name::About.key(self.log);
        let object = Bytes::from(about.encode());
        let attempt = || self.objects.replace(&key, object.clone());
        Ok(retry(self.patience, "write", &key, attempt).await?)
    }

    /// Whether [`Owner::collect_garbage`] may delete anything because of the newest snapshot.
    pub fn has_confirmed_snapshot(&self) -> bool {
        self.written.is_some() && self.confirmed == self.written
    }

    /// Deletes what no snapshot of the last `retain` needs. Returns the number of deleted objects. Deletes nothing until a
    /// chunk was appended after the first snapshot of this epoch.
    pub async fn collect_garbage(&self, now: i64, retain: Duration) -> Result<u64, OwnerError> {
        let Some(confirmed) = self.confirmed else { return Ok(0) };
        let prefix = log_root(self.log);
        let listed = retry(self.patience, "list", &prefix, || self.objects.list(&prefix)).await?;
        let listing = Listing::of(listed.iter().map(|listed| listed.key.as_str()), self.log);
        let mut snapshots = Vec::new();
        for &place in &listing.snapshots {
            let key = Name::Snapshot(place).key(self.log);
            let object = retry(self.patience, "read", &key, || self.objects.get(&key)).await?;
            // A snapshot that cannot be read restores nothing, so it need not keep anything.
            if let Some(Ok((header, snapshot))) =
                object.map(|object| Snapshot::decode(&object, self.log, place))
            {
                snapshots.push((Dated { place, made_at: header.made_at }, snapshot));
            }
        }
        let count = snapshots.partition_point(|(dated, _)| dated.place <= confirmed);
        let dated: Vec<Dated> = snapshots[..count].iter().map(|(dated, _)| *dated).collect();
        let retain_ns = i64::try_from(retain.as_nanos()).unwrap_or(i64::MAX);
        let Some(kept) = garbage::retained(&dated, now, retain_ns) else { return Ok(0) };
        let kept_from = count - kept.len();
        let kept: Vec<(Place, Snapshot)> =
            snapshots.into_iter().skip(kept_from).map(|(dated, snapshot)| (dated.place, snapshot)).collect();
        let unfinished = Place::new(self.epoch, self.unfinished_part);
        let names = garbage::unneeded(&listing, &kept, unfinished);
        for name in &names {
            let key = name.key(self.log);
            retry(self.patience, "delete", &key, || self.objects.delete(&key)).await?;
        }
        Ok(names.len() as u64)
    }

    /// Creates an object that only the owner of the epoch creates. If it exists with this nonce, an earlier attempt made it.
    async fn create_own(
        &self,
        name: Name,
        place: Place,
        nonce: Nonce,
        object: Vec<u8>,
    ) -> Result<Created, OwnerError> {
        let key = name.key(self.log);
        let object = Bytes::from(object);
        for _ in 0..self.patience.attempts.max(1) {
            let created =
                retry(self.patience, "create", &key, || self.objects.create(&key, object.clone())).await?;
            if created == Created::New {
                return Ok(created);
            }
            match retry(self.patience, "read", &key, || self.objects.get(&key)).await? {
                Some(found) if envelope::decode_header(&found).is_ok_and(|header| header.nonce == nonce) => {
                    return Ok(Created::Exists);
                }
                Some(_) => return Err(Lost::Overtaken { place }.into()),
                None => {}
            }
        }
        let cause = "it exists, but cannot be read".to_owned();
        Err(StoreError { operation: "create", key, cause, remedy: Remedy::Wait }.into())
    }
}

/// A random nonce.
pub fn new_nonce() -> Nonce {
    SmallRng::from_os_rng().random()
}

/// A random log id.
pub fn new_log_id() -> LogId {
    LogId(SmallRng::from_os_rng().random())
}

/// Asks the store, several times if it fails.
async fn ask(objects: &dyn Objects, request: &Request, patience: Patience) -> Result<Answer, StoreError> {
    match request {
        Request::List { prefix } => {
            let listed = retry(patience, "list", prefix, || objects.list(prefix)).await?;
            Ok(Answer::Listed(listed.into_iter().map(|listed| listed.key).collect()))
        }
        Request::Get { key } => {
            let found = retry(patience, "read", key, || objects.get(key)).await?;
            Ok(Answer::Got(found.map(|object| object.to_vec())))
        }
        Request::Create { key, object } => {
            let object = Bytes::copy_from_slice(object);
            let created = retry(patience, "create", key, || objects.create(key, object.clone())).await?;
            Ok(if created == Created::New { Answer::Created } else { Answer::Exists })
        }
    }
}

/// Runs a request with a time limit, and again after a pause while it fails for a reason that may pass.
pub(crate) async fn retry<T, F>(
    patience: Patience,
    operation: &'static str,
    key: &str,
    attempt: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = patience.pause;
    let mut left = patience.attempts.max(1);
    loop {
        left -= 1;
        let timed_out = |_| {
            let cause = format!("no answer within {:?}", patience.request_timeout);
            Err(StoreError { operation, key: key.to_owned(), cause, remedy: Remedy::Wait })
        };
        match tokio::time::timeout(patience.request_timeout, attempt()).await.unwrap_or_else(timed_out) {
            Err(error) if left > 0 && error.remedy == Remedy::Wait => {}
            outcome => return outcome,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}
