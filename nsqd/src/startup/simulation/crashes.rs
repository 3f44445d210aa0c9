//! Crashes at every change of the disk, and within writes, for each durability.

use super::explore::explore;
use super::world::{Contract, Crash, Lost};
use crate::storage::Durability;

const WRITE: Contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

#[test]
fn write_loses_nothing_when_the_process_dies_anywhere() {
    explore(WRITE, 55_000);
}

#[test]
fn sync_loses_nothing_when_the_power_fails_anywhere() {
    explore(Contract { durability: Durability::Sync, crash: Crash::PowerLoss, ..WRITE }, 40_000);
}

#[test]
fn write_starts_and_invents_nothing_after_power_loss() {
    explore(Contract { crash: Crash::PowerLoss, ..WRITE }, 5_000);
}

#[test]
fn overflow_loses_nothing_by_a_clean_stop_and_invents_nothing_after_a_crash() {
    explore(Contract { durability: Durability::Overflow, ..WRITE }, 5_000);
}

#[test]
fn a_lost_checkpoint_costs_nothing() {
    explore(Contract { lost: Lost::Checkpoint, ..WRITE }, 10_000);
}

#[test]
fn without_any_checkpoint_nothing_is_lost_though_it_may_come_again() {
    explore(Contract { lost: Lost::AllCheckpoints, ..WRITE }, 10_000);
}
