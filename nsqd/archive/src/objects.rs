//! A store of objects: the few operations that an archive needs, which all clouds and a folder have.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

/// See the module. A future that is dropped may have had its effect, or may have it later.
#[async_trait]
pub trait Objects: fmt::Debug + Send + Sync + 'static {
    /// Creates the object unless there is one with this name. Of several concurrent calls, at most one returns `New`.
    async fn create(&self, key: &str, object: Bytes) -> Result<Created, StoreError>;
    /// Creates or replaces the object.
    async fn replace(&self, key: &str, object: Bytes) -> Result<(), StoreError>;
    /// `None` if there is no such object.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, StoreError>;
    /// All objects whose names begin with `prefix`, which ends with a slash or is empty, in any order.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;
    /// Succeeds also if there is no such object.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    Exists,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    /// Its length.
    pub bytes: u64,
}

/// What the operator can do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// The store is not reachable or overloaded: retrying may help.
    Wait,
    /// The store refuses these credentials.
    Credentials,
    /// The store has no such bucket, or the operation is not supported.
    Location,
}

/// An operation failed. Except for `Credentials` and `Location`, it is unknown whether it had its effect.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot {operation} {key}: {cause}; {}", remedy.text())]
pub struct StoreError {
    pub operation: &'static str,
    pub key: String,
    pub cause: String,
    pub remedy: Remedy,
}

impl Remedy {
    fn text(self) -> &'static str {
        match self {
            Remedy::Wait => "check that the archive's store is reachable and has room",
            Remedy::Credentials => "check the credentials and permissions for the archive's store",
            Remedy::Location => "check the archive's URL",
        }
    }
}
