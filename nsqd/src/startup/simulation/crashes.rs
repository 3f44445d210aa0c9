//! Crashes at every change of the disk, and within writes, for each durability level.

use super::explore::explore;
use super::world::{Contract, Crash, Lost};
use crate::storage::Durability;

const WRITE: Contract = Contract { durability: Durability::Write, crash: Crash::Kill, lost: Lost::Nothing };

#[test]
fn write_loses_nothing_in_a_kill_at_any_point() {
    explore(WRITE, 55_000);
}

#[test]
fn sync_loses_nothing_in_a_power_failure_at_any_point() {
    explore(Contract { durability: Durability::Sync, crash: Crash::PowerLoss, ..WRITE }, 40_000);
}

#[test]
fn write_starts_without_foreign_messages_after_power_loss() {
    explore(Contract { crash: Crash::PowerLoss, ..WRITE }, 5_000);
}

#[test]
fn overflow_loses_nothing_in_a_clean_stop_and_starts_after_a_crash() {
    explore(Contract { durability: Durability::Overflow, ..WRITE }, 5_000);
}

#[test]
fn lost_checkpoint_loses_no_messages() {
    explore(Contract { lost: Lost::Checkpoint, ..WRITE }, 10_000);
}

#[test]
fn start_without_checkpoints_loses_nothing_but_may_redeliver() {
    explore(Contract { lost: Lost::AllCheckpoints, ..WRITE }, 10_000);
}
