//! Crashes everywhere: replays lives and checks what is left at each point. Threads, seeds, shrinking.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;

use super::compare;
use super::observe;
use super::steps::{Step, steps};
use super::world::{Contract, Crash, Life, Lost, World, both, can_follow_without_checkpoints};
use crate::storage::faulty::disk::{Change, Disk, SECTOR_BYTES};

/// Maximum time for shrinking a failure.
const SHRINK_TIME: Duration = Duration::from_secs(60);

/// Runs workloads, from `NSQ_SIMULATION_SEED` on, until `points` crash points are explored. `NSQ_SIMULATION_PERCENT`
/// scales that number.
pub fn explore(contract: Contract, points: u64) {
    let percent = number("NSQ_SIMULATION_PERCENT").unwrap_or(100);
    let seed = number("NSQ_SIMULATION_SEED");
    // A requested seed runs alone.
    let points = if seed.is_some() { 1 } else { points * percent / 100 };
    let next_seed = AtomicU64::new(seed.unwrap_or(1));
    let seen = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let failure = Mutex::new(None);
    let threads = if seed.is_some() { 1 } else { thread::available_parallelism().map_or(2, usize::from) };
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let runtime = runtime();
                while seen.load(Ordering::Relaxed) < points && !failed.load(Ordering::Relaxed) {
                    let seed = next_seed.fetch_add(1, Ordering::Relaxed);
                    match attempt(contract, seed, &workload(contract, seed), &runtime) {
                        Ok(points) => _ = seen.fetch_add(points, Ordering::Relaxed),
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            *failure.lock() = Some((seed, error));
                        }
                    }
                }
            });
        }
    });
    let (seen, seeds) = (seen.into_inner(), next_seed.into_inner());
    if let Some((seed, error)) = failure.into_inner() {
        let (steps, error) = shrink(contract, seed, workload(contract, seed), error);
        panic!(
            "{contract:?}: {error}\nrepeat it with NSQ_SIMULATION_SEED={seed}; these steps suffice:\n{}",
            steps.iter().map(|step| format!("    {step:?}\n")).collect::<String>()
        );
    }
    println!("{contract:?}: {seen} crash points, seeds below {seeds}");
}

/// The steps of a seed that the model can follow under this contract.
fn workload(contract: Contract, seed: u64) -> Vec<Step> {
    let mut steps = steps(seed);
    if contract.lost == Lost::AllCheckpoints {
        steps.retain(can_follow_without_checkpoints);
    }
    steps
}

/// Runs a test for `count` seeds, or only for the requested one.
pub fn each_seed(count: u64, run: impl Fn(u64) -> Result<(), String> + Sync) {
    let seed = number("NSQ_SIMULATION_SEED");
    let count =
        if seed.is_some() { 1 } else { count * number("NSQ_SIMULATION_PERCENT").unwrap_or(100) / 100 };
    let first = seed.unwrap_or(1);
    let next = AtomicU64::new(first);
    let threads = thread::available_parallelism().map_or(2, usize::from).min(count.max(1) as usize);
    let failure = Mutex::new(None);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while failure.lock().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let result = catch_unwind(AssertUnwindSafe(|| run(seed)));
                    if let Err(error) = result.unwrap_or_else(|_| Err("panicked".to_owned())) {
                        *failure.lock() = Some((seed, error));
                    }
                }
            });
        }
    });
    if let Some((seed, error)) = failure.into_inner() {
        panic!("{error}\nrepeat it with NSQ_SIMULATION_SEED={seed}");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is not a number")))
}

/// A runtime for asynchronous calls. None of them waits for time to pass.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be made")
}

/// Runs one workload and crashes it everywhere. Returns the number of crash points.
fn attempt(contract: Contract, seed: u64, steps: &[Step], runtime: &Runtime) -> Result<u64, String> {
    let attempt = AssertUnwindSafe(|| {
        let mut world = World::new(contract, seed, runtime)?;
        world.run(steps)?;
        let mut explorer =
            Explorer { contract, world: &world, runtime, random: SmallRng::seed_from_u64(seed), points: 0 };
        for (index, life) in world.lives.iter().enumerate() {
            explorer.explore(life).map_err(|error| format!("life {index}, {error}"))?;
        }
        Ok(explorer.points)
    });
    catch_unwind(attempt).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    })
}

/// Removes steps that are not needed for the failure.
fn shrink(contract: Contract, seed: u64, mut steps: Vec<Step>, mut error: String) -> (Vec<Step>, String) {
    let runtime = runtime();
    let until = Instant::now() + SHRINK_TIME;
    let mut size = steps.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < steps.len() && Instant::now() < until {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match attempt(contract, seed, &fewer, &runtime) {
                Ok(_) => at += size,
                Err(found) => (steps, error) = (fewer, found),
            }
        }
        size /= 2;
    }
    (steps, error)
}

struct Explorer<'w> {
    contract: Contract,
    world: &'w World<'w>,
    runtime: &'w Runtime,
    random: SmallRng,
    points: u64,
}

impl Explorer<'_> {
    fn explore(&mut self, life: &Life) -> Result<(), String> {
        let mut disk = life.base.clone();
        for (index, change) in life.changes.iter().enumerate() {
            let at = |error| {
                format!("before change {index} of {}, {}: {error}", life.changes.len(), describe(change))
            };
            let within = |error| {
                format!("within change {index} of {}, {}: {error}", life.changes.len(), describe(change))
            };
            // A sync changes nothing that matters after a kill.
            let repeats = self.contract.crash == Crash::Kill
                && index > 0
                && matches!(life.changes[index - 1], Change::Sync { .. } | Change::SyncDir { .. });
            if !repeats {
                self.crash(life, &disk, index, false).map_err(at)?;
            }
            for len in self.tears(change) {
                let mut torn = disk.clone();
                torn.apply(&change.torn(len)).map_err(|error| error.to_string())?;
                self.crash(life, &torn, index, true).map_err(within)?;
            }
            disk.apply(change).map_err(|error| error.to_string())?;
        }
        self.crash(life, &disk, life.changes.len(), false).map_err(|error| format!("at the end: {error}"))
    }

    /// Where to tear a write: at any byte, and at a sector.
    fn tears(&mut self, change: &Change) -> Vec<usize> {
        let len = change.written_bytes();
        let mut tears = Vec::new();
        if len > 1 {
            tears.push(self.random.random_range(1..len));
        }
        if len > SECTOR_BYTES {
            tears.push(self.random.random_range(1..=(len - 1) / SECTOR_BYTES) * SECTOR_BYTES);
        }
        tears
    }

    fn crash(&mut self, life: &Life, disk: &Disk, changes: usize, torn: bool) -> Result<(), String> {
        self.points += 1;
        life.check_ephemeral(disk)?;
        let image = match self.contract.crash {
            Crash::Kill => disk.after_kill(),
            Crash::PowerLoss => disk.after_power_loss(self.random.random_range(0..1000)),
        };
        let image = self.damage(image)?;
        let durability = self.contract.durability;
        self.check_image(life, image.clone(), changes, torn)
            .map_err(|error| format!("{error}\nThe start logged:\n{}", observe::logged(&image, durability)))
    }

    /// Damages, shortens or removes the checkpoints that are lost under the contract.
    fn damage(&mut self, mut image: Disk) -> Result<Disk, String> {
        let names: &[&str] = match self.contract.lost {
            Lost::Nothing => &[],
            Lost::Checkpoint => &["checkpoint"],
            Lost::AllCheckpoints => &["checkpoint", "checkpoint.previous"],
        };
        for path in names.iter().map(|name| Path::new(observe::DIR).join(name)) {
            let Ok(file) = image.open(&path) else { continue };
            let len = image.bytes(file).len();
            let at = self.random.random_range(0..len.max(1));
            match self.random.random_range(0..3) {
                0 => image.tamper(file, |bytes| bytes[at] ^= 1 << (at % 8)),
                1 => image.tamper(file, |bytes| bytes.truncate(at)),
                _ => _ = image.apply(&Change::Remove { path }).map_err(|error| error.to_string())?,
            }
        }
        Ok(image)
    }

    fn check_image(&self, life: &Life, image: Disk, changes: usize, torn: bool) -> Result<(), String> {
        let observed = observe::observe(image, self.contract.durability, self.runtime)?;
        // A kill leaves no damage.
        if self.contract.crash == Crash::Kill
            && self.contract.lost == Lost::Nothing
            && !observed.damage().is_empty()
        {
            return Err(format!("the start reports damage: {:?}", observed.damage()));
        }
        if !self.contract.keeps_all() {
            return compare::is_ours(&self.world.published, &observed);
        }
        let candidates = life.candidates(changes, torn);
        let (oldest, newest) = (candidates[0], candidates[candidates.len() - 1]);
        if self.contract.lost == Lost::AllCheckpoints {
            compare::is_ours(&self.world.published, &observed)?;
            return compare::is_at_least(&candidates, &observed);
        }
        if candidates.iter().rev().any(|model| compare::matches(model, newest, &observed).is_ok()) {
            return Ok(());
        }
        if self.contract.crash == Crash::PowerLoss {
            return compare::is_between(&candidates, &observed);
        }
        Err(both(oldest, newest, &observed))
    }
}

fn describe(change: &Change) -> String {
    match change {
        Change::Write { file, offset, bytes } => format!("write {} at {offset} of file {file}", bytes.len()),
        other => format!("{other:?}"),
    }
}
