//! The same workloads on real files. A life ends with a clean stop, or without one; the next one starts in the same
//! directory.

use super::explore::{each_seed, runtime};
use super::medium::Medium;
use super::steps::{Step, steps};
use super::world::{Contract, Crash, Lost, World};
use crate::storage::Durability;

fn run(durability: Durability, seed: u64) -> Result<(), String> {
    let contract = Contract { durability, crash: Crash::Kill, lost: Lost::Nothing };
    let runtime = runtime();
    let mut world = World::on(Medium::real()?, contract, seed, &runtime)?;
    // Each end of a life compares everything in the directory with the model.
    let ends = [Step::Crash { back: 0, torn: 0 }, Step::Stop];
    for (index, step) in steps(seed).into_iter().chain(ends).enumerate() {
        let fail = |error| format!("step {index}, {step:?}: {error}");
        world.apply(step, index).map_err(fail)?;
    }
    Ok(())
}

#[test]
fn acknowledged_messages_survive_stops_and_kills() {
    each_seed(150, |seed| run(Durability::Write, seed));
}

#[test]
fn synced_messages_survive_stops_and_kills() {
    each_seed(15, |seed| run(Durability::Sync, seed));
}

#[test]
fn messages_survive_a_clean_stop_without_a_journal() {
    each_seed(75, |seed| run(Durability::Overflow, seed));
}
