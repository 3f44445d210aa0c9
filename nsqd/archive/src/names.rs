//! Names of the objects of an archive. Pure.
//!
//! ```text
//! probe/<random>                      checks the store
//! logs/<log id>/about                 who writes it; overwritten
//! logs/<log id>/<epoch>/claim         who owns the epoch; create only, never deleted
//! logs/<log id>/<epoch>/c/<number>    a chunk or, at the end, a seal; create only, seals are never deleted
//! logs/<log id>/<epoch>/s/<number>    a snapshot that is complete once chunk `number` exists
//! logs/<log id>/<epoch>/b/<number>    parts of the files of snapshots
//! ```
//!
//! An epoch has 8 digits and a number 12, so names sort as their numbers do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Numbers of chunks, snapshots and parts are below this.
pub const MAX_NUMBER: u64 = 999_999_999_999;
/// Epochs are below this.
pub const MAX_EPOCH: u32 = 99_999_999;

/// Identifies a log: random, made with the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(pub [u8; 16]);

/// The text is not a log id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log id: expected 32 hexadecimal digits")]
pub struct NotALogId;

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl FromStr for LogId {
    type Err = NotALogId;

    fn from_str(text: &str) -> Result<Self, NotALogId> {
        let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 32 || !is_hex {
            return Err(NotALogId);
        }
        u128::from_str_radix(text, 16).map(|id| LogId(id.to_be_bytes())).map_err(|_| NotALogId)
    }
}

/// Counts the owners of a log; the first is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u32);

impl Epoch {
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A chunk, snapshot or part, by its epoch and number. Their order is the order in which they were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Place {
    pub epoch: Epoch,
    pub number: u64,
}

impl Place {
    pub fn new(epoch: Epoch, number: u64) -> Self {
        Place { epoch, number }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch, self.number)
    }
}

/// The objects of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    About,
    Claim(Epoch),
    /// A chunk or a seal.
    Chunk(Place),
    Snapshot(Place),
    Part(Place),
}

impl Name {
    /// The name of the object in the store.
    pub fn key(self, log: LogId) -> String {
        let root = log_root(log);
        match self {
            Name::About => format!("{root}about"),
            Name::Claim(epoch) => format!("{root}{:08}/claim", epoch.0),
            Name::Chunk(place) => numbered(&root, 'c', place),
            Name::Snapshot(place) => numbered(&root, 's', place),
            Name::Part(place) => numbered(&root, 'b', place),
        }
    }

    /// Splits the name of an object. `None` if it is not the name of an object of a log.
    pub fn parse(key: &str) -> Option<(LogId, Name)> {
        let (log, rest) = key.strip_prefix(LOGS)?.split_once('/')?;
        let log = log.parse().ok()?;
        if rest == "about" {
            return Some((log, Name::About));
        }
        let (epoch, rest) = rest.split_once('/')?;
        let epoch = Epoch(u32::try_from(digits(epoch, 8)?).ok()?);
        if rest == "claim" {
            return Some((log, Name::Claim(epoch)));
        }
        let (kind, number) = rest.split_once('/')?;
        let place = Place::new(epoch, digits(number, 12)?);
        let name = match kind {
            "c" => Name::Chunk(place),
            "s" => Name::Snapshot(place),
            "b" => Name::Part(place),
            _ => return None,
        };
        Some((log, name))
    }
}

/// What the names of all objects of logs begin with.
pub const LOGS: &str = "logs/";
/// What the names of objects that check the store begin with.
pub const PROBES: &str = "probe/";

/// What the names of all objects of a log begin with.
pub fn log_root(log: LogId) -> String {
    format!("{LOGS}{log}/")
}

/// What the names of the chunks of an epoch begin with.
pub fn chunks_root(log: LogId, epoch: Epoch) -> String {
    format!("{}{:08}/c/", log_root(log), epoch.0)
}

fn numbered(root: &str, kind: char, place: Place) -> String {
    format!("{root}{:08}/{kind}/{:012}", place.epoch.0, place.number)
}

fn digits(text: &str, count: usize) -> Option<u64> {
    (text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LOG: LogId = LogId([0xab; 16]);

    fn any_name() -> impl Strategy<Value = Name> {
        let place =
            || (0..=MAX_EPOCH, 0..=MAX_NUMBER).prop_map(|(epoch, number)| Place::new(Epoch(epoch), number));
        prop_oneof![
            Just(Name::About),
            (0..=MAX_EPOCH).prop_map(|epoch| Name::Claim(Epoch(epoch))),
            place().prop_map(Name::Chunk),
            place().prop_map(Name::Snapshot),
            place().prop_map(Name::Part),
        ]
    }

    proptest! {
        #[test]
        fn every_name_is_parsed_from_its_key(id: [u8; 16], name in any_name()) {
            prop_assert_eq!(Name::parse(&name.key(LogId(id))), Some((LogId(id), name)));
        }

        #[test]
        fn keys_of_chunks_sort_by_epoch_and_number(a in (0..=MAX_EPOCH, 0..=MAX_NUMBER), b in (0..=MAX_EPOCH, 0..=MAX_NUMBER)) {
            let key = |(epoch, number)| Name::Chunk(Place::new(Epoch(epoch), number)).key(LOG);
            prop_assert_eq!(key(a).cmp(&key(b)), a.cmp(&b));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            if let Some((log, name)) = Name::parse(&text) {
                prop_assert_eq!(name.key(log), text);
            }
        }
    }

    #[test]
    fn other_keys_are_refused() {
        let good = Name::Chunk(Place::new(Epoch(1), 2)).key(LOG);
        assert_eq!(good, format!("logs/{LOG}/00000001/c/000000000002"));
        for key in [
            "",
            "logs/",
            "probe/1",
            &good[..good.len() - 1],
            &good[1..],
            &format!("{good}0"),
            &format!("x/{good}"),
            &good.replace("/c/", "/x/"),
            &good.replace("ab", "AB"),
            &good.replace("00000001", "+0000001"),
        ] {
            assert_eq!(Name::parse(key), None, "{key}");
        }
    }
}
