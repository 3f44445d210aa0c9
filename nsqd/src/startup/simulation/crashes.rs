//! Crashes at every change of the disk, and within writes, for each durability.

use super::explore::explore;
use super::world::{Contract, Crash};
use crate::storage::Durability;

#[test]
fn write_loses_nothing_when_the_process_dies_anywhere() {
    explore(Contract { durability: Durability::Write, crash: Crash::Kill }, 60_000);
}

#[test]
fn sync_loses_nothing_when_the_power_fails_anywhere() {
    explore(Contract { durability: Durability::Sync, crash: Crash::PowerLoss }, 40_000);
}

#[test]
fn write_starts_and_invents_nothing_after_power_loss() {
    explore(Contract { durability: Durability::Write, crash: Crash::PowerLoss }, 5_000);
}

#[test]
fn overflow_loses_nothing_by_a_clean_stop_and_invents_nothing_after_a_crash() {
    explore(Contract { durability: Durability::Overflow, crash: Crash::Kill }, 5_000);
}
