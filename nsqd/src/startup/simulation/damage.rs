//! Files that rot: every file of a data directory, damaged in every way at many places. A start finds out, says so, and
//! serves everything else; it never makes up a message, and the next start goes as well.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::compare;
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

const CONTRACT: Contract =
    Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

/// Places in each file where a bit is turned.
const FLIPS: usize = 30;
/// What one bit may cost: the messages of a block of a segment (700 bytes, and a batch that began before them).
const MOST_IN_A_BLOCK: usize = 60;

/// Something that happens to a file.
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
    /// It has the name of a file with a greater number.
    Renamed,
    /// It is there a second time under such a name.
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

    /// Whether it may pass for what a crash leaves: the end of the newest file is where the file says so.
    fn may_hide_the_end(self) -> bool {
        matches!(self, Rot::Gone | Rot::Zeros { at: 1.., .. } | Rot::Renamed)
    }
}

/// The name of a numbered file, with a number that nothing has.
fn other_number(path: &Path) -> Option<PathBuf> {
    let number: u64 = path.file_stem()?.to_str()?.parse().ok()?;
    let extension = path.extension()?.to_str()?;
    (extension != "spare").then(|| path.with_file_name(format!("{:020}.{extension}", number + 1000)))
}

/// What may happen to a file of so many bytes.
fn rots(random: &mut SmallRng, len: usize) -> Vec<Rot> {
    let mut rots = vec![Rot::Gone, Rot::Renamed, Rot::Copied, Rot::Longer { len: 100 }];
    if len > 0 {
        // All of it, and what a bad sector at the start takes.
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
    let verified = verify(&sound).map_err(|error| error.to_string())?;
    same_damage(&[], &damage(&verified.findings))?;
    if !damage(&verified.findings).is_empty() || !expected.damage().is_empty() {
        return Err(format!("damage without damage: {verified:?}, {:?}", expected.findings));
    }
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
    let verified = verify(&disk);
    match observe::start(&storage, CONTRACT.durability) {
        Ok(registry) => drop(registry),
        // It says which layout all the rest has.
        Err(error) if path.ends_with("format") && error.to_string().contains("format version") => {
            return match verified {
                Ok(verified) if damage(&verified.findings).is_empty() => {
                    Err("verify does not find what keeps a start from starting".into())
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
    let is_told = !observed.findings.is_empty()
        || logged.contains("ERROR")
        || (rot.may_hide_the_end() && is_newest_of_journal(expected_paths, path));
    if !missing.is_empty() && !is_told {
        return Err(format!("{missing:?} are missing, and nobody says so:\n{logged}"));
    }
    // A block alone in a segment without a header is not believed.
    let is_spared = match rot {
        Rot::Zeros { at: 0, len: 64 } => path.extension().is_some_and(|extension| extension == "journal"),
        Rot::Longer { .. } | Rot::Copied => true,
        _ => false,
    };
    if is_spared && !missing.is_empty() {
        return Err(format!("{missing:?} are missing, although they are there:\n{logged}"));
    }
    // What tells of a topic or a channel may cost that.
    let is_same = names(expected) == names(&observed);
    if matches!(rot, Rot::Flip { .. }) && is_same && missing.len() > MOST_IN_A_BLOCK {
        return Err(format!("one bit costs {} messages: {missing:?}\n{logged}", missing.len()));
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

/// Verifying finds what a start finds, and besides messages that a start does not read before they are needed.
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
fn whatever_rots_is_found_out_and_costs_itself_alone() {
    each_seed(40, run);
}
