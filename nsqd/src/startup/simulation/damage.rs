//! Damages every file of a data directory in many ways and places. A start must find and report the damage, and serve
//! everything else. It must never deliver a message that was not published, and the next start must work as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::compare;
use super::dead_letters::is_dead_topic;
use super::explore::{each_seed, runtime};
use super::model::Body;
use super::observe::{self, Observed};
use super::steps::{Step, steps};
use super::world::{Contract, Crash, Lost, World};
use crate::damage::{Finding, Severity};
use crate::startup::verify::{self, Verified, VerifyError};
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::{Change, Disk};
use crate::storage::{Durability, Storage};
use crate::topic::dead_lettering;

const CONTRACT: Contract =
    Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

/// Number of places in each file where one bit is changed.
const FLIPS: usize = 30;
/// Maximum number of messages that one bit may lose: those of a segment block (700 bytes, and a batch that began before
/// them).
const MOST_IN_A_BLOCK: usize = 60;

/// A damage to a file.
#[derive(Debug, Clone, Copy)]
enum Rot {
    Flip {
        at: usize,
        bit: u8,
    },
    Zeros {
        at: usize,
        len: usize,
    },
    Cut {
        len: usize,
    },
    Longer {
        len: usize,
    },
    Gone,
    /// Renamed to a greater number.
    Renamed,
    /// Copied to a greater number.
    Copied,
}

impl Rot {
    fn apply(self, disk: &mut Disk, path: &Path) -> Result<(), String> {
        let file = disk.open(path).map_err(|error| error.to_string())?;
        match self {
            Rot::Flip { at, bit } => disk.tamper(file, |bytes| bytes[at] ^= 1 << bit),
            Rot::Zeros { at, len } => disk.tamper(file, |bytes| {
                let end = bytes.len().min(at + len);
                bytes[at..end].fill(0);
            }),
            Rot::Cut { len } => disk.tamper(file, |bytes| bytes.truncate(len)),
            Rot::Longer { len } => disk.tamper(file, |bytes| bytes.resize(bytes.len() + len, 0)),
            Rot::Gone => {
                disk.apply(&Change::Remove { path: path.to_path_buf() })
                    .map_err(|error| error.to_string())?;
            }
            Rot::Renamed => {
                let Some(to) = other_number(path) else { return Ok(()) };
                disk.apply(&Change::Rename { from: path.to_path_buf(), to })
                    .map_err(|error| error.to_string())?;
            }
            Rot::Copied => {
                let Some(to) = other_number(path) else { return Ok(()) };
                let bytes = disk.bytes(file).to_vec();
                let copy = Change::Create { path: to, len: bytes.len() };
                let copy = disk.apply(&copy).map_err(|error| error.to_string())?;
                disk.tamper(copy, |content| content.copy_from_slice(&bytes));
            }
        }
        Ok(())
    }

    /// Whether the damage may look like the result of a crash, because the file itself marks where the newest file
    /// ends.
    fn may_hide_the_end(self) -> bool {
        matches!(self, Rot::Gone | Rot::Zeros { at: 1.., .. } | Rot::Renamed)
    }
}

/// The name of a numbered file with an unused number.
fn other_number(path: &Path) -> Option<PathBuf> {
    let number: u64 = path.file_stem()?.to_str()?.parse().ok()?;
    let extension = path.extension()?.to_str()?;
    (extension != "spare").then(|| path.with_file_name(format!("{:020}.{extension}", number + 1000)))
}

/// Damages to try on a file of `len` bytes.
fn rots(random: &mut SmallRng, len: usize) -> Vec<Rot> {
    let mut rots = vec![Rot::Gone, Rot::Renamed, Rot::Copied, Rot::Longer { len: 100 }];
    if len > 0 {
        // The whole file, and what a bad sector at the start destroys.
        rots.extend([len, 512, 64].map(|len| Rot::Zeros { at: 0, len }));
        rots.extend(
            (0..FLIPS).map(|_| Rot::Flip { at: random.random_range(0..len), bit: random.random_range(0..8) }),
        );
        let at = random.random_range(0..len);
        rots.extend([512, 4096].map(|len| Rot::Zeros { at: at / len * len, len }));
        rots.push(Rot::Cut { len: random.random_range(0..len) });
    }
    rots
}

/// All messages of all topics and channels.
fn bodies(observed: &Observed) -> BTreeSet<Body> {
    bodies_of(observed, |_| true)
}

/// The bodies in the topics with these names.
fn bodies_of(observed: &Observed, is_one: impl Fn(&str) -> bool) -> BTreeSet<Body> {
    let topics = observed.topics.iter().filter(|(name, _)| is_one(name)).map(|(_, topic)| topic);
    let came = topics
        .flat_map(|topic| topic.channels.values().map(|channel| &channel.deliveries).chain([&topic.held]));
    came.flatten().map(|delivery| delivery.body).collect()
}

fn names(observed: &Observed) -> BTreeSet<(&String, Vec<&String>)> {
    observed.topics.iter().map(|(name, topic)| (name, topic.channels.keys().collect())).collect()
}

fn run(seed: u64) -> Result<(), String> {
    let runtime = runtime();
    let mut world = World::new(CONTRACT, seed, &runtime)?;
    // What expires between two starts is no damage.
    let is_used = |step: &Step| !matches!(step, Step::Crash { .. } | Step::PublishShortLived { .. });
    for (index, &step) in steps(seed).iter().enumerate().filter(|(_, step)| is_used(step)) {
        world.apply(step, index).map_err(|error| format!("step {index}, {step:?}: {error}"))?;
    }
    let intact = world.storage().disk().after_kill();
    let expected = observe::observe(intact.clone(), CONTRACT.durability, &runtime)?;
    let verified = verify(&intact).map_err(|error| error.to_string())?;
    same_damage(&[], &damage(&verified.findings))?;
    if !damage(&verified.findings).is_empty() || !expected.damage().is_empty() {
        return Err(format!("damage reported in an intact directory: {verified:?}, {:?}", expected.findings));
    }
    let mut random = SmallRng::seed_from_u64(seed);
    let paths = intact.paths();
    for path in &paths {
        let len =
            intact.open(path).map(|file| intact.bytes(file).len()).map_err(|error| error.to_string())?;
        for rot in rots(&mut random, len) {
            let mut disk = intact.clone();
            rot.apply(&mut disk, path)?;
            check_damaged(&world, (&expected, &paths), disk, path, rot, &runtime)
                .map_err(|error| format!("{}, {rot:?}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn check_damaged(
    world: &World<'_>,
    (expected, expected_paths): (&Observed, &[PathBuf]),
    disk: Disk,
    path: &Path,
    rot: Rot,
    runtime: &tokio::runtime::Runtime,
) -> Result<(), String> {
    let storage = FaultyStorage::from(disk.clone());
    let verified = verify(&disk);
    match observe::start(&storage, CONTRACT.durability) {
        Ok(registry) => drop(registry),
        // This file says which layout all others have.
        Err(error) if path.ends_with("format") && error.to_string().contains("format version") => {
            return match verified {
                Ok(verified) if damage(&verified.findings).is_empty() => {
                    Err("verify does not find why a start fails".into())
                }
                _ => Ok(()),
            };
        }
        Err(error) => return Err(format!("cannot start: {error}")),
    }
    let (observed, logged) = observe::observe_logged(disk, CONTRACT.durability, runtime)?;
    let verified = verified.map_err(|error| format!("cannot verify: {error}"))?;
    same_damage(&observed.damage(), &damage(&verified.findings))?;
    compare::is_ours(&world.published, &observed)?;
    let again = observe::observe(storage.disk().after_kill(), CONTRACT.durability, runtime)
        .map_err(|error| format!("at the second start: {error}"))?;
    compare::is_ours(&world.published, &again).map_err(|error| format!("at the second start: {error}"))?;
    let expected_bodies = bodies(expected);
    let found = bodies(&observed);
    let missing: Vec<_> = expected_bodies.difference(&found).collect();
    let is_reported = !observed.findings.is_empty()
        || logged.contains("ERROR")
        || (rot.may_hide_the_end() && is_newest_of_journal(expected_paths, path));
    if !missing.is_empty() && !is_reported {
        return Err(format!("{missing:?} are missing, and nothing was reported:\n{logged}"));
    }
    // A single block in a segment without a header is not trusted.
    let must_lose_nothing = match rot {
        Rot::Zeros { at: 0, len: 64 } => path.extension().is_some_and(|extension| extension == "journal"),
        Rot::Longer { .. } | Rot::Copied => true,
        _ => false,
    };
    if must_lose_nothing && !missing.is_empty() {
        return Err(format!("{missing:?} are missing, although they are on disk:\n{logged}"));
    }
    // Damage to the record of a topic or channel may lose that topic or channel.
    let is_same = names(expected) == names(&observed);
    // Dead letters are moved in batches.
    let dead_letters = bodies_of(expected, is_dead_topic);
    let has_dead_letters = missing.iter().any(|body| dead_letters.contains(body));
    let most = if has_dead_letters { MOST_IN_A_BLOCK + dead_lettering::BATCH } else { MOST_IN_A_BLOCK };
    if matches!(rot, Rot::Flip { .. }) && is_same && missing.len() > most {
        return Err(format!("one bit loses {} messages: {missing:?}\n{logged}", missing.len()));
    }
    Ok(())
}

fn verify(disk: &Disk) -> Result<Verified, VerifyError> {
    let view = || -> Arc<dyn Storage> { Arc::new(FaultyStorage::from(disk.clone())) };
    verify::verify(Path::new(observe::DIR), &view, observe::LIMITS, &mut |_, _| {})
}

fn damage(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.severity == Severity::Damage).collect()
}

/// Verify finds everything that a start finds, and also damaged messages that a start does not read.
fn same_damage(of_start: &[&Finding], of_verify: &[&Finding]) -> Result<(), String> {
    let only = |some: &[&Finding], others: &[&Finding]| -> Vec<Finding> {
        some.iter().filter(|found| !others.contains(found)).map(|found| (*found).clone()).collect()
    };
    let unverified = only(of_start, of_verify);
    if !unverified.is_empty() {
        return Err(format!("a start reports what verify does not find: {unverified:?}"));
    }
    let more = only(of_verify, of_start);
    match more.iter().find(|found| found.what != "the messages of a block are damaged") {
        Some(more) => Err(format!("verify finds what a start does not report: {more:?}")),
        None => Ok(()),
    }
}

fn is_newest_of_journal(paths: &[PathBuf], path: &Path) -> bool {
    let is_journal = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    paths.iter().rfind(is_journal).is_some_and(|newest| newest == path)
}

#[test]
fn damage_is_reported_and_loses_only_what_it_hits() {
    each_seed(40, run);
}
