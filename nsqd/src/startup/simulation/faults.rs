//! A disk that fails for a while. A refused operation has no effect at all, and consumers continue. When the disk works
//! again, everything works again. Acknowledged messages survive all of it, including a crash in between.

use std::io;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::compare;
use super::explore::{each_seed, runtime};
use super::model::Model;
use super::observe;
use super::steps::{Step, steps};
use super::world::{Contract, Crash, Lost, World};
use crate::storage::faulty::disk::Disk;
use crate::storage::faulty::{Fault, FaultyStorage, Op};
use crate::storage::{Durability, Storage};
use crate::upkeep::stop;

/// All operations except syncs: after a failed sync, the journal accepts no writes until a restart.
const PASSING: [Op; 7] = [Op::Create, Op::Open, Op::Write, Op::Read, Op::Remove, Op::Rename, Op::Truncate];

fn fault(random: &mut SmallRng, ops: &[Op]) -> Fault {
    Fault {
        op: ops[random.random_range(0..ops.len())],
        after: random.random_range(0..4),
        times: if random.random() { random.random_range(1..4) } else { usize::MAX },
        error: if random.random() { io::ErrorKind::StorageFull } else { io::ErrorKind::Other },
        written: if random.random() { random.random_range(0..2000) } else { 0 },
    }
}

/// This test does not wait for the acknowledgement of operator changes, so a crash may lose them.
pub(super) fn is_acknowledged(step: &Step) -> bool {
    !matches!(
        step,
        Step::Stop
            | Step::Crash { .. }
            | Step::PauseTopic { .. }
            | Step::PauseChannel { .. }
            | Step::DeleteTopic { .. }
            | Step::DeleteChannel { .. }
            | Step::EmptyTopic { .. }
            | Step::EmptyChannel { .. }
            | Step::SetRetention { .. }
            | Step::SetOwner { .. }
            | Step::SetRetry { .. }
            | Step::SetMaxAttempts { .. }
            | Step::SetTtl { .. }
            | Step::SetBound { .. }
            | Step::SetDedupe { on: false, .. }
            | Step::MoveChannel { .. }
    )
}

/// Checks that a crash now would leave everything that the model contains.
pub(super) fn check_crash(world: &World<'_>, contract: Contract, seed: u64) -> Result<(), String> {
    let disk = world.storage().disk();
    let image = match contract.crash {
        Crash::Kill => disk.after_kill(),
        Crash::PowerLoss => disk.after_power_loss(seed),
    };
    let observed = observe::observe(image.clone(), contract.durability, &runtime())?;
    let check = |model: &Model| {
        compare::is_ours(&world.published, &observed)?;
        compare::is_at_least(&[model], &observed)
    };
    check(&world.durable_model()).map_err(|error| {
        format!("{error}\nThe start logged:\n{}", observe::logged(&image, contract.durability))
    })
}

fn run(contract: Contract, seed: u64, ops: &[Op]) -> Result<(), String> {
    let runtime = runtime();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::new(contract, seed, &runtime)?;
    world.does_meanwhile = is_acknowledged;
    for (index, &step) in steps(seed).iter().enumerate().filter(|(_, step)| is_acknowledged(step)) {
        // The first steps create a topic and a channel, so that there is something to lose.
        world.tolerates_faults = index > 1;
        match random.random_range(0..20) {
            0..=2 if index > 1 => world.storage().plan(fault(&mut random, ops)),
            3..=4 => world.storage().heal(),
            5 => check_crash(&world, contract, random.random_range(0..1000))?,
            _ => {}
        }
        let fail = |error| format!("step {index}, {step:?}: {error}");
        world.apply(step, index).map_err(fail)?;
    }
    world.storage().heal();
    let broken = world.health()?.is_err_and(is_failed_sync);
    let mut stays_failed = broken;
    if !broken {
        world.tolerates_faults = false;
        // A failed sync of another file or of a directory stays failed, too.
        match world.resume() {
            Err(error) if ops.contains(&Op::Sync) && is_failed_sync(error.clone()) => stays_failed = true,
            resumed => resumed?,
        }
    }
    world.drain().map_err(|error| format!("at the end: {error}"))?;
    if broken {
        let refused = world.publishes()?;
        return if refused {
            check_crash(&world, contract, seed)
        } else {
            Err("accepts publishes after a failed sync".into())
        };
    }
    let refused = world.publishes()?;
    if !stays_failed {
        if refused {
            return Err("still refuses to publish".into());
        }
        world.health()?.map_err(|cause| format!("still unhealthy: {cause}"))?;
    }
    world.drain().map_err(|error| format!("after the end: {error}"))?;
    check_crash(&world, contract, seed)
}

/// Whether this is about a sync that failed. It stays failed until the next start.
fn is_failed_sync(cause: String) -> bool {
    cause.contains("sync failed")
}

pub(super) const KILL: Contract =
    Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

/// Syncs fail from now on, and the refused batch cannot be removed from the journal.
#[test]
fn uncertain_refusal_is_reported_and_a_clean_stop_resolves_it() {
    let runtime = runtime();
    let storage = FaultyStorage::default();
    storage.create_dir_all(Path::new(observe::DIR)).unwrap();
    let registry = observe::start(&storage, Durability::Sync).unwrap();
    runtime.block_on(async {
        let topic = registry.get_or_create(&"t".parse().unwrap()).await.unwrap();
        topic.get_or_create_channel(&"c".parse().unwrap()).await.unwrap();
        storage.plan(Fault::next(Op::Sync, usize::MAX, io::ErrorKind::Other));
        storage.plan(Fault { after: 1, ..Fault::next(Op::Write, usize::MAX, io::ErrorKind::Other) });
        let body = observe::body(1, 10);
        let publication = topic.append([&body[..]].into_iter(), body.len(), None).unwrap();
        let refused = publication.committed().await.unwrap_err().to_string();
        assert!(refused.contains("the message may be delivered later"), "{refused}");
        let refused = topic.append([&body[..]].into_iter(), body.len(), None).err().unwrap().to_string();
        assert!(!refused.contains("may be"), "nothing of the message was written: {refused}");
        let refused = registry.get_or_create(&"other".parse().unwrap()).await.err().unwrap().to_string();
        assert!(!refused.contains("may appear"), "nothing of the topic was written: {refused}");
    });
    let health = registry.engine().health().unwrap_err().to_string();
    assert!(health.contains("sync failed") && health.contains("restart nsqd"), "{health}");
    let depth = |disk: Disk| {
        let observed = observe::observe(disk, Durability::Sync, &runtime).unwrap();
        observed.topics["t"].channels["c"].depth
    };
    assert_eq!(depth(storage.disk().after_kill()), 1, "the refused message must be in the journal");
    storage.heal();
    stop::store_cleanly(&registry).unwrap_err();
    drop(registry);
    assert_eq!(depth(storage.disk().after_kill()), 0);
}

#[test]
fn temporary_disk_failure_loses_nothing() {
    each_seed(600, |seed| run(KILL, seed, &PASSING));
}

#[test]
fn failed_sync_refuses_publishes_and_loses_nothing() {
    let contract = Contract { durability: Durability::Sync, crash: Crash::PowerLoss, ..KILL };
    each_seed(300, |seed| run(contract, seed, &[Op::Sync, Op::SyncDir, Op::Write, Op::Create]));
}
