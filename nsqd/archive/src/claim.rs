//! Claims: who owns an epoch of a log. And what a log's owner says about itself. Pure.
//!
//! Both are JSON, so that an operator can read them in the store.

use serde::{Deserialize, Serialize};

use crate::envelope::Nonce;
use crate::names::{Epoch, LogId};

/// Why an epoch was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The node that writes the log started.
    Start,
    /// Another node adopts the messages of the log.
    Takeover,
}

/// The owner of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub format: u32,
    pub epoch: Epoch,
    /// The name of the node.
    pub owner: String,
    /// Where it can be reached: its TCP address.
    pub address: String,
    #[serde(with = "hex")]
    pub nonce: Nonce,
    pub why: Why,
    /// All epochs before this one were sealed when the claim was made.
    pub sealed_before: Epoch,
    /// By the clock of the node: Unix nanoseconds.
    pub made_at: i64,
}

/// The newest format of claims.
pub const FORMAT: u32 = 1;

/// Why a claim cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadClaim {
    #[error("it is not a claim: {0}")]
    Malformed(String),
    #[error("it has format version {0}, newer than this program supports; use the version that wrote it")]
    NewerVersion(u32),
}

impl Claim {
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, BadClaim> {
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let malformed = |error: serde_json::Error| BadClaim::Malformed(error.to_string());
        let Versioned { format } = serde_json::from_slice(bytes).map_err(malformed)?;
        match format > FORMAT {
            true => Err(BadClaim::NewerVersion(format)),
            false => serde_json::from_slice(bytes).map_err(malformed),
        }
    }
}

/// What a log's owner says about itself. Informative: nothing depends on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub log: String,
    pub owner: String,
    pub address: String,
    /// The version of nsqd.
    pub version: String,
    /// Directory of the journal on that node.
    pub data_path: String,
    /// By the clock of the node: Unix nanoseconds.
    pub made_at: i64,
}

impl About {
    pub fn encode(&self) -> Vec<u8> {
        to_json(self)
    }

    /// `None` if it cannot be read.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether it is about this log.
    pub fn is_of(&self, log: LogId) -> bool {
        self.log == log.to_string()
    }
}

/// Plain structs of strings and numbers always have a JSON form.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

mod hex {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Nonce;

    pub(super) fn serialize<S: Serializer>(nonce: &Nonce, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:032x}", u128::from_be_bytes(*nonce)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Nonce, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(u128::to_be_bytes).map_err(|_| D::Error::custom("not a nonce"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Claim {
        Claim {
            format: FORMAT,
            epoch: Epoch(4),
            owner: "a.example".to_owned(),
            address: "a.example:4150".to_owned(),
            nonce: [0xfe; 16],
            why: Why::Takeover,
            sealed_before: Epoch(3),
            made_at: 17,
        }
    }

    #[test]
    fn a_claim_is_read_back_and_readable() {
        let bytes = claim().encode();
        assert_eq!(Claim::decode(&bytes), Ok(claim()));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("\"why\": \"takeover\"") && text.contains("\"fefefefe"), "{text}");
    }

    #[test]
    fn a_newer_or_malformed_claim_is_refused() {
        assert!(matches!(Claim::decode(b"{}"), Err(BadClaim::Malformed(_))));
        assert!(matches!(Claim::decode(b"{\"format\": 1}"), Err(BadClaim::Malformed(_))));
        assert_eq!(Claim::decode(b"{\"format\": 2, \"other\": []}"), Err(BadClaim::NewerVersion(2)));
    }
}
