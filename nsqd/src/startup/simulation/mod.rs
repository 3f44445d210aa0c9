//! The whole engine on a simulated disk, against a naive model.
//!
//! A *workload* is a list of random steps made from a seed. It runs once; every change of the disk is recorded, and
//! after every step what the model says. Then the disk is played back, and at every change, and within every write, the
//! process dies or the power fails: the engine recovers from what is left, and all that consumers get is compared
//! with what the model said then. A workload has several *lives*, each of which begins with the recovery of what the
//! one before left behind, so recoveries are interrupted, too.
//!
//! In reading order:
//!
//! - [`steps`]: what is done, and making it from a seed
//! - [`model`]: what must come of it
//! - [`world`]: doing it; [`history`]: keeping what is finished, and going back to it; [`meanwhile`]: while a checkpoint is
//!   taken
//! - [`observe`]: recovering a disk and looking at everything in it
//! - [`compare`]: whether that is what the model said
//! - [`explore`]: crashing everywhere; threads, seeds, shrinking
//! - [`crashes`]: the tests of that
//! - [`faults`]: a disk that fails for a while, and then works again
//! - [`vanishing`]: files and directories that others remove or move
//! - [`damage`]: files that are not as they were written
//!
//! `docs/TESTING.md` says how to run it for longer and how to repeat a failure.

mod compare;
mod crashes;
mod damage;
mod explore;
mod faults;
mod history;
mod meanwhile;
mod model;
mod observe;
mod steps;
mod vanishing;
mod world;

pub use self::observe::LIMITS;
