//! Someone removes or replaces files and directories while the engine runs. After the engine has checked its files, a
//! crash loses nothing. A stop stores everything again, even if the whole data directory was removed.

use std::path::{Path, PathBuf};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::explore::{each_seed, runtime};
use super::faults::{KILL, check_crash, is_acknowledged};
use super::observe::DIR;
use super::steps::{Step, steps};
use super::world::{Contract, Crash, World};
use crate::storage::faulty::FaultyStorage;
use crate::storage::{Durability, Storage};
use crate::upkeep::presence::Presence;
use crate::upkeep::{journal_files, stop};

/// Picks a file of the data directory, or one of its directories.
fn victim(storage: &FaultyStorage, random: &mut SmallRng) -> Option<PathBuf> {
    let mut paths = storage.paths();
    let dirs: Vec<_> = paths.iter().filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
    paths.extend(dirs.into_iter().filter(|dir| dir != Path::new(DIR)));
    (!paths.is_empty()).then(|| paths.swap_remove(random.random_range(0..paths.len())))
}

/// Removes a file or directory, and sometimes puts something else in its place.
fn remove(storage: &FaultyStorage, path: &Path, random: &mut SmallRng) {
    let is_file = storage.open(path).is_ok();
    storage.vanish(path);
    if is_file && random.random_bool(0.2) {
        storage.create(path, 10).expect("the directory is there");
    }
}

/// The check that the daemon makes every second.
fn check_presence(world: &World<'_>, presence: &mut Presence) -> Result<(), String> {
    let registry = world.registry()?;
    for _ in 0..2 {
        presence.check(registry);
    }
    registry.engine().health().map_err(|cause| format!("unhealthy after a check: {cause}"))
}

fn run(contract: Contract, seed: u64) -> Result<(), String> {
    let runtime = runtime();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::new(contract, seed, &runtime)?;
    world.does_meanwhile = is_acknowledged;
    let mut presence = Presence::default();
    for (index, &step) in steps(seed).iter().enumerate().filter(|(_, step)| is_acknowledged(step)) {
        let fail = |error: String| format!("step {index}, {step:?}: {error}");
        if index > 1 && random.random_bool(0.1) {
            check_presence(&world, &mut presence).map_err(fail)?;
            let Some(path) = victim(world.storage(), &mut random) else { continue };
            let fail = |error| format!("step {index}, without {}: {error}", path.display());
            remove(world.storage(), &path, &mut random);
            check_presence(&world, &mut presence).map_err(fail)?;
            check_crash(&world, contract, random.random_range(0..1000)).map_err(fail)?;
        }
        // The simulation never shrinks the journal by itself.
        if random.random_bool(0.05) {
            journal_files::shrink_journal(world.registry()?).map_err(|error| fail(error.to_string()))?;
        }
        world.apply(step, index).map_err(fail)?;
    }
    world.apply(Step::Flush, usize::MAX)?;
    let (dir, elsewhere) = (Path::new(DIR), Path::new("/elsewhere"));
    let is_removed = random.random();
    if is_removed {
        world.storage().vanish(dir);
    } else {
        world.storage().move_away(dir, elsewhere);
    }
    presence.check(world.registry()?);
    if !world.publishes()? {
        return Err("accepts publishes without a data directory".into());
    }
    let stopped = stop::at_end(world.registry()?).map_err(|error| error.to_string());
    if is_removed {
        stopped?;
    } else {
        let error = stopped.err().ok_or("a stop does not report that the data directory was moved")?;
        if !error.contains("was moved to /elsewhere") {
            return Err(error);
        }
        world.storage().move_away(elsewhere, dir);
    }
    check_crash(&world, contract, seed)
}

#[test]
fn removed_files_are_stored_again() {
    each_seed(200, |seed| run(KILL, seed));
}

#[test]
fn removed_files_are_stored_again_with_sync() {
    let contract = Contract { durability: Durability::Sync, crash: Crash::PowerLoss, ..KILL };
    each_seed(100, |seed| run(contract, seed));
}
