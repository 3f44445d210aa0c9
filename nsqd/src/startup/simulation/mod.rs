//! Tests the whole engine on a simulated disk against a simple model.
//!
//! A *workload* is a list of random steps generated from a seed. It runs once. The simulation records every change of
//! the disk, and the state of the model after every step. Then it replays the disk. At every change, and within every
//! write, the process dies or the power fails. The engine recovers from what is left, and everything that consumers get
//! is compared with the model's state at that point. A workload has several *lives*. Each starts with the recovery of
//! what the previous one left behind, so recoveries are interrupted, too.
//!
//! In reading order:
//!
//! - [`steps`]: the steps, and their generation from a seed
//! - [`model`]: the expected state
//! - [`medium`]: a simulated disk, or real files
//! - [`world`]: runs the steps; [`retention`]: retention, and channels that start in the past
//! - [`meanwhile`]: steps during a checkpoint
//! - [`settings`]: steps that change settings
//! - [`bounds`]: bounded channels
//! - [`dead_letters`]: dead letters and redrives
//! - [`deduplicating`]: messages with ids
//! - [`ordering`]: channels with an order and with limits
//! - [`short_lived`]: messages with a time to live of their own
//! - [`undoing`]: undoing an empty or a move forward
//! - [`observe`]: recovers a disk and reads everything in it
//! - [`compare`]: compares the result with the model
//! - [`explore`]: crashes everywhere; threads, seeds, shrinking
//! - [`crashes`]: the tests for crashes
//! - [`real_files`]: the workloads on real files
//! - [`scenarios`]: short workloads that were chosen by hand
//! - [`faults`]: a disk that fails for a while, and then works again
//! - [`vanishing`]: files and directories that someone removes or moves
//! - [`damage`]: files whose content changes
//!
//! `docs/TESTING.md` says how to run it longer and how to repeat a failure.

mod bounds;
mod compare;
mod crashes;
mod damage;
mod dead_letters;
mod deduplicating;
mod explore;
mod faults;
mod intervening;
mod retention;
mod meanwhile;
mod medium;
mod real_files;
mod scenarios;
mod settings;
mod short_lived;
mod model;
mod ordering;
pub(crate) mod observe;
mod steps;
mod undoing;
mod vanishing;
mod world;

pub use self::observe::LIMITS;
