//! Files that rot: every file of a data directory, damaged in every way at many places. A start finds out, says so, and
//! serves everything else; it never makes up a message, and the next start goes as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::compare;
use super::explore::{each_seed, runtime};
use super::model::Body;
use super::observe::{self, Observed};
use super::steps::{Step, steps};
use super::world::{Contract, Crash, Lost, World};
use crate::storage::Durability;
use crate::storage::faulty::FaultyStorage;
use crate::storage::faulty::disk::{Change, Disk};

const CONTRACT: Contract =
    Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

/// Places in each file where a bit is turned.
const FLIPS: usize = 30;
/// What one bit may cost: the messages of a block of a segment (700 bytes, and a batch that began before them).
const MOST_IN_A_BLOCK: usize = 60;

/// Something that happens to a file.
#[derive(Debug, Clone, Copy)]
enum Rot {
    Flip { at: usize, bit: u8 },
    Zeros { at: usize, len: usize },
    Cut { len: usize },
    Gone,
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
            Rot::Gone => {
                disk.apply(&Change::Remove { path: path.to_path_buf() })
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }
}

/// What may happen to a file of so many bytes.
fn rots(random: &mut SmallRng, len: usize) -> Vec<Rot> {
    let mut rots = vec![Rot::Gone];
    if len > 0 {
        rots.extend(
            (0..FLIPS).map(|_| Rot::Flip { at: random.random_range(0..len), bit: random.random_range(0..8) }),
        );
        let at = random.random_range(0..len);
        rots.extend([512, 4096].map(|len| Rot::Zeros { at: at / len * len, len }));
        rots.push(Rot::Cut { len: random.random_range(0..len) });
    }
    rots
}

/// All messages, wherever they are.
fn bodies(observed: &Observed) -> BTreeSet<Body> {
    let topics = observed.topics.values();
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
    for (index, &step) in
        steps(seed).iter().enumerate().filter(|(_, step)| !matches!(step, Step::Crash { .. }))
    {
        world.apply(step, index).map_err(|error| format!("step {index}, {step:?}: {error}"))?;
    }
    let sound = world.storage().disk().after_kill();
    let expected = observe::observe(sound.clone(), CONTRACT.durability, &runtime)?;
    let mut random = SmallRng::seed_from_u64(seed);
    let paths = sound.paths();
    for path in &paths {
        let len = sound.open(path).map(|file| sound.bytes(file).len()).map_err(|error| error.to_string())?;
        for rot in rots(&mut random, len) {
            let mut disk = sound.clone();
            rot.apply(&mut disk, path)?;
            look(&world, (&expected, &paths), disk, path, rot, &runtime)
                .map_err(|error| format!("{}, {rot:?}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn look(
    world: &World<'_>,
    (expected, expected_paths): (&Observed, &[PathBuf]),
    disk: Disk,
    path: &Path,
    rot: Rot,
    runtime: &tokio::runtime::Runtime,
) -> Result<(), String> {
    let storage = FaultyStorage::from(disk.clone());
    match observe::start(&storage, CONTRACT.durability) {
        Ok(registry) => drop(registry),
        // It says which layout all the rest has.
        Err(error) if path.ends_with("format") && error.to_string().contains("format version") => {
            return Ok(());
        }
        Err(error) => return Err(format!("cannot start: {error}")),
    }
    let (observed, logged) = observe::observe_logged(disk, CONTRACT.durability, runtime)?;
    compare::is_ours(&world.published, &observed)?;
    let again = observe::observe(storage.disk().after_kill(), CONTRACT.durability, runtime)
        .map_err(|error| format!("at the second start: {error}"))?;
    compare::is_ours(&world.published, &again).map_err(|error| format!("at the second start: {error}"))?;
    let expected_bodies = bodies(expected);
    let found = bodies(&observed);
    let missing: Vec<_> = expected_bodies.difference(&found).collect();
    // The end of the newest file is where it says so: what is gone from there was never there, for all one can see.
    let is_told = ["ERROR", "cut", "stand nowhere"].iter().any(|word| logged.contains(word))
        || is_newest_of_journal(expected_paths, path);
    if !missing.is_empty() && !is_told {
        return Err(format!("{missing:?} are missing, and nobody says so:\n{logged}"));
    }
    // What tells of a topic or a channel may cost that.
    let is_same = names(expected) == names(&observed);
    if matches!(rot, Rot::Flip { .. }) && is_same && missing.len() > MOST_IN_A_BLOCK {
        return Err(format!("one bit costs {} messages: {missing:?}\n{logged}", missing.len()));
    }
    Ok(())
}

fn is_newest_of_journal(paths: &[PathBuf], path: &Path) -> bool {
    let is_journal = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "journal");
    paths.iter().rfind(is_journal).is_some_and(|newest| newest == path)
}

#[test]
fn whatever_rots_is_found_out_and_costs_itself_alone() {
    each_seed(40, run);
}
